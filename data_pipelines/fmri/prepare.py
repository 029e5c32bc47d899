"""fMRI into record stores: `neurofm prepare fmri`."""

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import labels as labelling
from data_pipelines import shards
from data_pipelines.fmri import algonauts, arrays, images
from data_pipelines.fmri.arrays import Run
from data_pipelines.fmri.settings import Settings, refuse_odd_tr
from data_pipelines.meeg import sidecars
from data_pipelines.shards import Progress
from data_pipelines.sources import Source, settings_of, source
from data_pipelines.summary import Summary
from data_pipelines.unreadable import Unreadable
from neurofm.data.records import DatasetInfo, Recording
from neurofm.errors import NeuroFMError
from neurofm.signals import bold

SUFFIXES = (*arrays.SUFFIXES, *images.SUFFIXES)
PART = "#"  # FILE#NAME is one of the runs of a file
# Files with BIDS names that are not runs.
_RUNS = ("bold", "timeseries")
_SAME_TR = 1e-3  # share by which two repetition times may differ and be one
_PER_CPU_S = 2e7  # values read, scaled and written


@dataclass(frozen=True)
class Runs(Source):
    """Files that may hold several runs each; see `sources.Source`."""

    def stat(self, file: str) -> tuple[int, int | str]:
        root = Path(self.root)
        path, part = split_name(root, file)
        name = path.relative_to(root).as_posix()
        n_bytes, changed = super().stat(name)
        sharing = sum(f.startswith(name + PART) for f in self.files) if part else 1
        return max(1, n_bytes // sharing), changed


@dataclass(frozen=True)
class ReadRun:
    """Makes an item of a run; see `shard_job.Reader`.

    Attributes:
      settings: how.
      tr_s: repetition time of the dataset.
      names: its regions.
    """

    settings: Settings
    tr_s: float
    names: tuple[str, ...]

    def __call__(self, root: Path, file: str, notes: list[str]) -> Recording:
        settings = self.settings
        path, _ = split_name(root, file)
        run = read(root, file, settings)
        tr_s = _tr_of(root, file, run, settings, notes)
        if settings.tr is None and abs(tr_s / self.tr_s - 1) > _SAME_TR:
            raise Unreadable(
                path,
                f"a repetition time of {tr_s:g} s, the dataset has {self.tr_s:g} s: "
                f"give --tr {self.tr_s:g} to interpolate",
                "fMRI",
            )
        x = arrays.in_order(run, self.names, path)
        if x.shape[1] < 2:
            raise Unreadable(path, f"{x.shape[1]} volume(s): no run", "fMRI")
        x = x.astype(np.float64)
        _tell_missing(x, self.names, notes)
        x = bold.prepared(x, settings.detrend, settings.scale, settings.ddof)
        if np.isnan(x).all():
            raise Unreadable(path, "no region has a signal", "fMRI")
        if settings.tr is not None:
            x = bold.at_tr(x, tr_s, self.tr_s)
        meta = columns(file, run, settings)
        meta["onset"] = run.skipped * tr_s
        return Recording(item=file, samples=x.astype(np.float32), meta=meta)


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    settings: Settings | None = None,
    only: str | None = None,
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    licence: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn runs of fMRI below a folder into a dataset, an item a run.

    Args:
      src: a folder, or one file: NPZ, NPY, TSV (a row a volume), HDF5, NIfTI, CIFTI.
      out: the dataset to make.
      settings: what the runs are, and what is done to them.
      only: pattern of the names to take, such as `*desc-preproc_bold.nii.gz`.
      labels, pattern, subdirs, licence, workers, progress: as in `audio.prepare`.

    Raises:
      NeuroFMError: nothing usable is found, something that files do not tell must be
        said, labels contradict themselves, or `out` holds something else.
    """
    settings = settings or Settings()
    found = find(Path(src), settings, only)
    known = labelling.gather(found.root, found.files, labels, pattern, subdirs)
    words = settings.to_json() | {"only": only}
    prepared = settings_of(found, words, labels, pattern, subdirs, licence)
    tr_s, names = _first(found, settings)
    info = DatasetInfo(
        kind="fmri",
        sfreq=1 / tr_s,
        unit="z" if settings.scale == "zscore" else "none",
        ch_names=names,
        payload="float32",
        licence=licence,
        processing={
            "tr_s": tr_s,
            "atlas": atlas_name(found, settings),
            "confounds": list(settings.confounds),
            "detrend": settings.detrend,
            "scale": settings.scale,
            "ddof": settings.ddof,
            "interpolated": settings.tr is not None,
            **({"study": settings.study} if settings.study else {}),
        },
        prepared=prepared,
    )
    root = Path(found.root)

    def measure(path: Path) -> shards.Expected:
        file = path.relative_to(root).as_posix()
        n_regions, n_volumes = read(root, file, settings).bold.shape
        n_bytes = 4 * n_regions * n_volumes
        return shards.Expected(n_volumes * tr_s, n_bytes, n_bytes / 4 / _PER_CPU_S)

    return shards.prepare(
        Path(out),
        found,
        info,
        ReadRun(settings, tr_s, names),
        measure=measure,
        known=known,
        workers=workers,
        progress=progress,
    )


def find(src: Path, settings: Settings, only: str | None = None) -> Source:
    """The runs of a folder, or of the file that is named."""
    if src.is_file():
        root, files = src.parent, [src.name]
    elif src.is_dir():
        root = src
        every = (p.relative_to(src).as_posix() for p in src.rglob("*") if p.is_file())
        files = sorted(f for f in every if f.lower().endswith(SUFFIXES))
    else:
        raise NeuroFMError(f"{src} does not exist; give a folder of fMRI runs")
    if only:
        files = [f for f in files if fnmatch.fnmatch(Path(f).name, only)]
    elif not src.is_file():
        files = [f for f in files if is_run(f)]
    if not files:
        matching = f" that matches {only}" if only else ""
        raise NeuroFMError(
            f"there is no run of fMRI in {src}{matching}; expected files that end in "
            f"{' '.join(SUFFIXES)}"
        )
    if any(f.lower().endswith(images.SUFFIXES) for f in files):
        images.require_nilearn()
    names: list[str] = []
    for file in files:
        try:
            held = _parts(root / file, settings)
        except Unreadable:
            held = [""]  # told when it is read
        names += [f"{file}{PART}{part}" if part else file for part in held]
    told = source(root, names)
    return Runs(root=root, files=told.files, unnamed=told.unnamed)


def is_run(file: str) -> bool:
    """Whether a file that ends as runs do is one by its BIDS name, if it has one."""
    found = sidecars.entities(file)
    if "sub" not in found:
        return True
    runs = found.get("suffix") in _RUNS and found.get("desc") != "confounds"
    return runs or file.lower().endswith((".h5", ".hdf5"))


def _parts(path: Path, settings: Settings) -> list[str]:
    if path.name.lower().endswith(images.SUFFIXES):
        return [""]
    return arrays.parts(path, settings)


def split_name(root: Path, file: str) -> tuple[Path, str]:
    """The file of a run, and its name there; nothing where it is the only one."""
    if PART in file and not (root / file).is_file():
        name, _, part = file.rpartition(PART)
        return root / name, part
    return root / file, ""


def read(root: Path, file: str, settings: Settings) -> Run:
    """A run as it is in its file; see `arrays.read` and `images.read`."""
    path, part = split_name(root, file)
    if path.name.lower().endswith(images.SUFFIXES):
        return images.read(path, settings)
    return arrays.read(path, part, settings)


def _tr_of(
    root: Path, file: str, run: Run, settings: Settings, notes: list[str]
) -> float:
    """A run's own repetition time: of the file, its sidecar, or as the user says."""
    path, part = split_name(root, file)
    name = path.relative_to(root).as_posix()
    suffix = sidecars.entities(name).get("suffix", "bold")
    told = sidecars.merged(root, name, suffix).get("RepetitionTime")
    beside = float(told) if isinstance(told, int | float) else None
    tr_s = run.tr_s if run.tr_s is not None else beside
    if beside and run.tr_s and abs(beside / run.tr_s - 1) > _SAME_TR:
        raise Unreadable(
            path,
            f"it tells a repetition time of {run.tr_s:g} s and its JSON {beside:g} s: "
            "mend one",
            "fMRI",
        )
    if tr_s is not None:
        tr_s = float(f"{tr_s:.6g}")  # as it was typed, before it was a float32
        refuse_odd_tr(tr_s, str(path))
        given = settings.source_tr
        if given is not None and abs(given / tr_s - 1) > _SAME_TR:
            raise Unreadable(
                path,
                f"it tells a repetition time of {tr_s:g} s and --source-tr {given:g} s",
                "fMRI",
            )
        return tr_s
    if settings.source_tr is not None:
        return settings.source_tr
    if algonauts.columns(part.rpartition("/")[2]):
        notes.append(f"its repetition time is taken as {algonauts.TR_S} s, Algonauts'")
        return algonauts.TR_S
    raise NeuroFMError(
        f"{path} does not tell its repetition time: give it in seconds as --source-tr, "
        "or as RepetitionTime in a JSON beside it"
    )


def _first(found: Source, settings: Settings) -> tuple[float, tuple[str, ...]]:
    """Repetition time and regions of a dataset, from the first run that is readable."""
    root = Path(found.root)
    for file in found.files:
        try:
            run = read(root, file, settings)
            tr_s = _tr_of(root, file, run, settings, [])
        except Unreadable as error:
            reason = error
            continue
        names = run.names
        if settings.names and not file.lower().endswith(images.SUFFIXES):
            told = images.region_names(Path(settings.names))
            listed = list(told.values()) if isinstance(told, dict) else told
            if names is None and len(listed) != len(run.bold):
                raise NeuroFMError(
                    f"{settings.names} has {len(listed)} names and {root / file} "
                    f"{len(run.bold)} regions: give a name each"
                )
            names = tuple(listed)
        if names is None:
            names = tuple(f"region-{i + 1:04d}" for i in range(len(run.bold)))
        if len(set(names)) < len(names):
            raise NeuroFMError(
                f"two regions of {root / file} have one name: give others with --names"
            )
        return settings.tr or tr_s, names
    raise NeuroFMError(f"no run can be used: {reason}")


def atlas_name(found: Source, settings: Settings) -> str:
    """The atlas as the user names it, or as the files do in their names.

    Raises:
      NeuroFMError: neither does.
    """
    if settings.mask:
        return f"voxels of {Path(settings.mask).name}"
    if settings.atlas_file:
        return settings.atlas_file.name.split(".")[0]
    if settings.atlas:
        return settings.atlas
    told = set()
    for file in found.files:
        name = sidecars.entities(file.split(PART)[0])
        words = [name[k] for k in ("atlas", "seg", "parcel") if k in name]
        told.add("_".join(words))
        if file.lower().split(PART)[0].endswith((".dtseries.nii", ".ptseries.nii")):
            told = {"grayordinates"} if told == {""} else told
    if len(told) == 1 and told != {""}:
        return told.pop()
    raise NeuroFMError(
        "the regions' atlas is not told by the names of the files"
        f"{' (they name several)' if len(told) > 1 else ''}: give it as --atlas NAME"
    )


def columns(file: str, run: Run, settings: Settings) -> dict[str, Any]:
    """What a run's name, and its file, tell for the manifest."""
    name = sidecars.entities(file.split(PART)[0])
    words = {"subject": "sub", "session": "ses", "task": "task", "run": "run"}
    meta: dict[str, Any] = {k: name[v] for k, v in words.items() if v in name}
    meta |= {k: v for k, v in run.columns.items() if v}
    meta["file"] = file
    if settings.split:
        meta["split"] = algonauts.split(meta.get("task", ""), settings.split)
    entities = settings.timeline
    if not entities and PART in file and algonauts.columns(file.rpartition(PART)[2]):
        entities = ("task",)
    if entities:
        if missing := [e for e in entities if e not in meta]:
            raise NeuroFMError(
                f"the timeline is to be told by {', '.join(entities)}, and the name of "
                f"{file} has no {missing[0]}: leave --timeline out and give a column "
                "`timeline`"
            )
        meta["timeline"] = "_".join(str(meta[e]) for e in entities)
    return meta


def _tell_missing(x: np.ndarray, names: tuple[str, ...], notes: list[str]) -> None:
    """Note the regions that will be masked, and why."""
    finite = np.isfinite(x)
    missing = ~finite.any(axis=1)
    partly = ~finite.all(axis=1) & ~missing
    constant = finite.all(axis=1) & ~bold.usable(x)
    for which, what in (
        (missing, "have no value and are masked"),
        (partly, "lack values in some volumes and are masked in all"),
        (constant, "are constant and are masked"),
    ):
        if n := int(which.sum()):
            first = names[int(np.argmax(which))]
            notes.append(f"{n} of {len(names)} regions {what} (the first is {first})")
