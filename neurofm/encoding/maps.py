"""Scores of regions as maps: arrays, and images where the atlas is at hand.

    maps/SUBJECT_SCORE.npy         a number a region, in the order of the store
    maps/SUBJECT_SCORE.nii.gz      the same in the voxels of a NIfTI atlas (or mask)
    maps/SUBJECT.pscalar.nii       all scores in the parcels of a `.dlabel.nii` atlas;
    maps/SUBJECT.dscalar.nii       of a store of its grayordinates, in those

Axes: V regions, S scores.
"""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from neurofm.data.layout import DatasetInfo
from neurofm.errors import NeuroFMError

_KINDS = ("*.npy", "*.nii.gz", "*.pscalar.nii", "*.dscalar.nii")
VOXEL = re.compile(r"voxel-(\d+)-(\d+)-(\d+)")  # as `prepare fmri --mask` names them


def has_nilearn() -> bool:
    """Whether the brain extra is installed, with nibabel."""
    return importlib.util.find_spec("nilearn") is not None


class Volume(NamedTuple):
    """Where regions lie in a volume.

    Attributes:
      region: of each voxel, -1 where none is.
      affine: from voxels to mm.
      in_mni: it says that these are those of the MNI's template.
    """

    region: Int[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    in_mni: bool

    def image(self, values: Float[np.ndarray, " V"]) -> Any:
        """A NIfTI image of the values, 0 where no region is."""
        import nibabel

        x = np.append(values, 0).astype(np.float32)[self.region]
        found = nibabel.Nifti1Image(x, self.affine)
        if self.in_mni:
            found.header.set_sform(self.affine, code="mni")
        return found


class Grayordinates(NamedTuple):
    """The axis of CIFTI on which regions lie, parcels or grayordinates."""

    axis: Any
    parcels: bool

    def image(self, scores: Mapping[str, Float[np.ndarray, " V"]]) -> Any:
        """A CIFTI image with a map a score."""
        from nibabel.cifti2.cifti2 import Cifti2Image
        from nibabel.cifti2.cifti2_axes import ScalarAxis

        maps = ScalarAxis(list(scores))
        x = np.stack(list(scores.values())).astype(np.float32)
        found = Cifti2Image(x, header=(maps, self.axis))
        header: Any = found.nifti_header
        header.set_intent(3008 if self.parcels else 3006)
        return found


def open_atlas(path: Path, info: DatasetInfo) -> Volume | Grayordinates:
    """The atlas whose regions are those of an fMRI store.

    Labels of the image, ascending, are the regions in their order, as `prepare fmri`
    takes them; voxels of a mask are known by their names.

    Raises:
      NeuroFMError: it is no image, another one than the store was prepared with, or of
        another number of regions.
    """
    if not has_nilearn():
        raise NeuroFMError(
            "maps on an atlas are made with nilearn, which is not installed: pip "
            "install 'neurofm[brain]'"
        )
    import nibabel

    try:
        content = path.read_bytes()
        image: Any = nibabel.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:  # nibabel raises errors of many kinds
        raise NeuroFMError(
            f"the atlas {path} cannot be read ({error}): give the image of its labels"
        ) from error
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    told = [info.prepared.get(name) or "" for name in ("atlas", "mask")]
    if (known := [t for t in told if t.startswith("sha256:")]) and digest not in known:
        raise NeuroFMError(
            f"{path} is another image than the one the fMRI was prepared with: give "
            "that one as --atlas"
        )
    if path.name.endswith(".dlabel.nii"):
        return _grayordinates(path, image, np.rint(values[0]).astype(int), info)
    labels = np.rint(values[..., 0] if values.ndim == 4 else values).astype(int)
    if labels.ndim != 3:
        raise NeuroFMError(
            f"the atlas {path} has the shape {values.shape}: give a volume of labels, "
            "or a .dlabel.nii"
        )
    code = max(int(image.header["sform_code"]), int(image.header["qform_code"]))
    in_mni = code == 4 or "MNI" in path.name
    return Volume(_regions(path, labels, info), image.affine, in_mni)


def _regions(path: Path, labels: np.ndarray, info: DatasetInfo) -> np.ndarray:
    out = np.full(labels.shape, -1)
    voxels = [VOXEL.fullmatch(name) for name in info.ch_names]
    if all(voxels):
        at = np.array([[int(i) for i in found.groups()] for found in voxels if found])
        if (at >= labels.shape).any() or (labels[tuple(at.T)] == 0).any():
            raise NeuroFMError(
                f"voxels of the fMRI are not in {path}: give the mask on the grid of "
                "the runs"
            )
        out[tuple(at.T)] = np.arange(len(at))
        return out
    return np.where(labels != 0, _numbered(path, labels, info), out)


def _numbered(path: Path, labels: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """The place of each label among those that are not 0."""
    index = np.unique(labels[labels != 0])
    if len(index) != info.n_chans:
        raise NeuroFMError(
            f"the atlas {path} has {len(index)} regions and the fMRI {info.n_chans}: "
            "give the one that it was prepared with"
        )
    return np.searchsorted(index, labels)


def _grayordinates(
    path: Path, image: Any, labels: np.ndarray, info: DatasetInfo
) -> Grayordinates:
    from nibabel.cifti2.cifti2_axes import ParcelsAxis

    models = image.header.get_axis(1)
    if info.n_chans == len(labels):
        return Grayordinates(models, parcels=False)
    of = np.where(labels != 0, _numbered(path, labels, info), -1)
    parts = [(name, models[of == i]) for i, name in enumerate(info.ch_names)]
    return Grayordinates(ParcelsAxis.from_brain_models(parts), parcels=True)


def write(
    out: Path,
    columns: Mapping[str, Mapping[str, Float[np.ndarray, " V"]]],
    atlas: Volume | Grayordinates | None,
) -> None:
    """Write all scores of all subjects, in place of earlier maps; see the module.

    Args:
      out: folder of the maps.
      columns: of each subject, the scores by name.
    """
    out.mkdir(parents=True, exist_ok=True)
    for kind in _KINDS:
        for path in out.glob(kind):
            path.unlink()
    for who, scores in columns.items():
        for score, values in scores.items():
            name = file_name(f"{who}_{score}")
            _write_whole(out / f"{name}.npy", lambda draft, x=values: np.save(draft, x))
            if isinstance(atlas, Volume):
                image = atlas.image(values)
                _write_whole(out / f"{name}.nii.gz", image.to_filename)
        if isinstance(atlas, Grayordinates):
            kind = "pscalar" if atlas.parcels else "dscalar"
            image = atlas.image(scores)
            _write_whole(out / f"{file_name(who)}.{kind}.nii", image.to_filename)


def file_name(words: str) -> str:
    """What names a file everywhere: letters, digits, dots, plus, minus, underscores."""
    return re.sub(r"[^\w.+-]", "-", words)


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    draft = path.with_name(f"draft-{path.name}")  # numpy and nibabel heed the suffix
    write(draft)
    draft.replace(path)
