"""fMRI into record stores: `neurofm prepare fmri`."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import labels as labelling
from data_pipelines import shards
from data_pipelines.fmri import algonauts, arrays, images
from data_pipelines.fmri.arrays import Run
from data_pipelines.fmri.placed import by_file, with_events
from data_pipelines.fmri.runs import (
    PART,
    SAME_TR,
    atlas_name,
    find,
    read,
    split_name,
    tr_of,
)
from data_pipelines.fmri.settings import Settings
from data_pipelines.meeg import sidecars
from data_pipelines.shards import Progress
from data_pipelines.sources import Source, settings_of
from data_pipelines.summary import Summary
from data_pipelines.unreadable import Unreadable
from neurofm.data.records import DatasetInfo, Recording
from neurofm.errors import NeuroFMError
from neurofm.signals import bold

_PER_CPU_S = 2e7  # values read, scaled and written


@dataclass(frozen=True)
class ReadRun:
    """Makes an item of a run; see `shard_job.Reader`.

    Attributes:
      settings: how.
      tr_s: repetition time of the dataset.
      names: its regions.
      onsets: where runs begin on their timelines' clocks, in seconds, if not at 0.
    """

    settings: Settings
    tr_s: float
    names: tuple[str, ...]
    onsets: dict[str, float]

    def __call__(self, root: Path, file: str, notes: list[str]) -> Recording:
        settings = self.settings
        path, _ = split_name(root, file)
        run = read(root, file, settings)
        tr_s = tr_of(root, file, run, settings, notes)
        if settings.tr is None and abs(tr_s / self.tr_s - 1) > SAME_TR:
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
        tail = x.shape[1] - bold.recorded(x)
        if tail:
            notes.append(f"{tail} volumes without any value at its end were cut off")
        x = x[:, : x.shape[1] - tail]
        _tell_missing(x, self.names, notes)
        if settings.filter is not None:
            x = filtered(x, tr_s, settings.filter, path)
        x = bold.prepared(x, settings.detrend, settings.scale, settings.ddof)
        if np.isnan(x).all():
            raise Unreadable(path, "no region has a signal", "fMRI")
        if settings.tr is not None:
            whole = np.pad(x, ((0, 0), (0, tail)), constant_values=np.nan)
            x = bold.at_tr(whole, tr_s, self.tr_s, settings.grid)
            x = x[:, : bold.recorded(x)]
        meta = columns(file, run, settings)
        meta["onset"] = self.onsets.get(file, 0.0) + run.skipped * tr_s
        return Recording(item=file, samples=x.astype(np.float32), meta=meta)


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    settings: Settings | None = None,
    only: str | None = None,
    events: str | os.PathLike | None = None,
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
      events: table of `features.events`, whose rows of type `fmri` tell the timeline,
        onset, subject, session and run of a `file`.
      labels, pattern, subdirs, licence, workers, progress: as in `audio.prepare`.

    Raises:
      NeuroFMError: nothing usable is found, something that files do not tell must be
        said, labels contradict themselves, or `out` holds something else.
    """
    settings = settings or Settings()
    found = find(Path(src), settings, only)
    known = labelling.gather(found.root, found.files, labels, pattern, subdirs)
    onsets: dict[str, float] = {}
    words = settings.to_json() | {"only": only, "events": None}
    if events is not None:
        placed = by_file(Path(events), found)
        onsets = {file: event.onset for file, event in placed.items()}
        known = with_events(known, placed)
        words["events"] = hashlib.sha256(Path(events).read_bytes()).hexdigest()
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
            **({"filter_hz": list(settings.filter)} if settings.filter else {}),
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
        ReadRun(settings, tr_s, names, onsets),
        measure=measure,
        known=known,
        workers=workers,
        progress=progress,
    )


def _first(found: Source, settings: Settings) -> tuple[float, tuple[str, ...]]:
    """Repetition time and regions of a dataset, from the first run that is readable."""
    root = Path(found.root)
    for file in found.files:
        try:
            run = read(root, file, settings)
            tr_s = tr_of(root, file, run, settings, [])
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


def filtered(
    x: np.ndarray, tr_s: float, band: tuple[float, float], path: Path
) -> np.ndarray:
    """Band-passed; a run that is too short or too slow for that is left out."""
    low, high = band
    if high >= 0.5 / tr_s:
        raise Unreadable(
            path,
            f"--filter ends at {high:g} Hz, and a repetition time of {tr_s:g} s shows "
            f"less than {0.5 / tr_s:g} Hz",
            "fMRI",
        )
    if x.shape[1] <= 33:  # what filtfilt pads an order of 5 with at both ends
        raise Unreadable(path, f"{x.shape[1]} volumes are too few to filter", "fMRI")
    return bold.bandpassed(x, tr_s, low, high)


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
