"""Runs in images: NIfTI and CIFTI, averaged in the regions of an atlas.

Images are read by nibabel, brought together by nilearn (the brain extra). A region is
the mean of its voxels or grayordinates; one of which the run has none is NaN. Axes: P
regions, N volumes, V voxels.
"""

import csv
import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.fmri.arrays import Run
from data_pipelines.fmri.settings import Settings
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError

SUFFIXES = (".nii", ".nii.gz")
_CIFTI = (".dtseries.nii", ".ptseries.nii")
_TO_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def require_nilearn() -> None:
    """Raise NeuroFMError where nilearn is not installed."""
    if importlib.util.find_spec("nilearn") is None:
        raise NeuroFMError(
            "images of fMRI are read with nilearn, which is not installed: pip install "
            "'neurofm[brain]'"
        )


def read(path: Path, settings: Settings) -> Run:
    """A run in the regions of the atlas, or in the voxels of the mask.

    Raises:
      Unreadable: the file is damaged, or no run.
      NeuroFMError: there is neither atlas nor mask.
    """
    require_nilearn()
    import nibabel

    try:
        image: Any = nibabel.load(path)
    except Exception as error:  # nibabel raises errors of many kinds
        raise _bad(path, f"it cannot be read ({error})") from error
    if path.name.lower().endswith(_CIFTI):
        run = _cifti(path, image, settings)
    else:
        run = _nifti(path, image, settings)
    return _without_confounds(path, run, settings) if settings.confounds else run


def _nifti(path: Path, image: Any, settings: Settings) -> Run:
    from nilearn.image import load_img, resample_to_img

    if len(image.shape) != 4 or image.shape[3] < 2:
        raise _bad(path, f"its shape is {image.shape}: no run of volumes")
    chosen = settings.mask or settings.atlas_file
    if chosen is None:
        raise NeuroFMError(
            f"{path} is an image: give the file of an atlas (--atlas FILE) or of a "
            "mask (--mask FILE)"
        )
    # Of the first volume alone, as only the grid is asked for.
    labels: Any = resample_to_img(
        load_img(str(chosen)),
        image.slicer[..., 0],
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    )
    grid = np.rint(np.asarray(labels.dataobj)).astype(int)
    if grid.ndim == 4:
        grid = grid[..., 0]
    voxels = np.asarray(image.dataobj, np.float32)
    tr_s = _header_tr(image)
    if settings.mask:
        where = np.argwhere(grid != 0)
        names = tuple("voxel-" + "-".join(map(str, v)) for v in where)
        return Run(voxels[grid != 0].astype(np.float64), tr_s, names)
    index, names = regions(chosen, settings.names)
    return Run(averages(voxels[grid != 0], grid[grid != 0], index), tr_s, names)


def _cifti(path: Path, image: Any, settings: Settings) -> Run:
    import nibabel
    from nibabel.cifti2.cifti2_axes import ParcelsAxis

    series, brain = (image.header.get_axis(i) for i in range(2))
    x = np.asarray(image.dataobj, np.float32).T
    unit = str(getattr(series, "unit", "")).upper()
    tr_s = float(series.step) if unit == "SECOND" else None
    if isinstance(brain, ParcelsAxis):
        return Run(x.astype(np.float64), tr_s, tuple(map(str, brain.name)))
    if settings.atlas_file is None:
        names = tuple(f"grayordinate-{i:05d}" for i in range(len(x)))
        return Run(x.astype(np.float64), tr_s, names)
    atlas: Any = nibabel.load(settings.atlas_file)
    of = np.rint(np.asarray(atlas.dataobj)[0]).astype(int)
    if len(of) != len(x):
        raise _bad(path, f"{len(x)} grayordinates, the atlas has {len(of)}")
    index, names = regions(settings.atlas_file, settings.names)
    return Run(averages(x, of, index), tr_s, names)


def averages(
    x: Float[np.ndarray, "V N"], label: Int[np.ndarray, " V"], index: tuple[int, ...]
) -> Float[np.ndarray, "P N"]:
    """Mean of the rows of each label; NaN for a label that none has."""
    out = np.full((len(index), x.shape[1]), np.nan)
    order = np.argsort(label, kind="stable")
    sorted_ = label[order]
    for row, value in enumerate(index):
        low, high = np.searchsorted(sorted_, (value, value + 1))
        if high > low:
            out[row] = x[order[low:high]].mean(0, dtype=np.float64)
    return out


@functools.lru_cache(maxsize=4)
def regions(
    atlas: Path | str, names: str | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Labels of an atlas's image, ascending, and the names of their regions.

    Names come from a TSV with columns `index` and `name`, from a list with a name a
    label, from a CIFTI atlas itself, or are the labels.
    """
    import nibabel

    image: Any = nibabel.load(atlas)
    found = np.unique(np.rint(np.asarray(image.dataobj)).astype(int))
    index = tuple(int(i) for i in found if i != 0)
    if names is None and str(atlas).endswith(".dlabel.nii"):
        table = image.header.get_axis(0).label[0]
        return index, tuple(str(table[i][0]) for i in index)
    if names is None:
        return index, tuple(f"label-{i}" for i in index)
    told = region_names(Path(names))
    if isinstance(told, dict):
        return tuple(sorted(told)), tuple(told[i] for i in sorted(told))
    if len(told) != len(index):
        raise NeuroFMError(
            f"{names} has {len(told)} names and {atlas} {len(index)} labels: give a "
            "name each, or a TSV with the columns index and name"
        )
    return index, tuple(told)


def region_names(path: Path) -> list[str] | dict[int, str]:
    """Names of a file: one a line, or the columns `name` and perhaps `index`."""
    text = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [row for row in csv.reader(text, delimiter="\t") if row]
    if not rows:
        raise NeuroFMError(f"{path} is empty; expected the names of regions")
    header = rows[0]
    if "name" not in header:
        return [row[0].strip() for row in rows]
    column = header.index("name")
    names = [row[column].strip() for row in rows[1:]]
    if "index" not in header:
        return names
    try:
        index = [int(row[header.index("index")]) for row in rows[1:]]
    except ValueError as error:
        raise NeuroFMError(f"the column index of {path}: {error}") from error
    return {i: name for i, name in zip(index, names, strict=True) if i != 0}


def _header_tr(image: Any) -> float | None:
    """Repetition time of a NIfTI whose header tells its unit."""
    _, unit = image.header.get_xyzt_units()
    step = float(image.header.get_zooms()[3])
    return step * _TO_SECONDS[unit] if unit in _TO_SECONDS and step > 0 else None


def _without_confounds(path: Path, run: Run, settings: Settings) -> Run:
    """The run less what fMRIPrep's confounds explain.

    Volumes at the start that are not yet steady are cut off.
    """
    from nilearn.interfaces.fmriprep import load_confounds
    from nilearn.signal import clean

    try:
        strategy: Any = settings.confounds
        confounds, kept = load_confounds(str(path), strategy=strategy)
    except (ValueError, OSError) as error:
        raise _bad(path, f"its confounds cannot be read ({error})") from error
    x, n_cut = run.bold, 0
    if kept is not None:
        n_cut = x.shape[1] - len(kept)
        if list(kept) != list(range(n_cut, x.shape[1])):
            raise _bad(path, "its confounds leave out volumes in the middle")
        x = x[:, n_cut:]
    table: Any = confounds
    if table is not None:
        values = table.to_numpy()
        there = np.isfinite(x).all(axis=1)
        x = x.copy()
        x[there] = clean(
            x[there].T,
            confounds=values[-x.shape[1] :],
            detrend=settings.detrend == "linear",
            standardize=None,
            filter=False,
        ).T
    return run._replace(bold=x, skipped=n_cut)


def _bad(path: Path, reason: str) -> Unreadable:
    return Unreadable(path, reason, "fMRI")
