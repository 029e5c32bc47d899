"""Intracranial recordings into record stores: `neurofm prepare ieeg`."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines import labels as labelling
from data_pipelines import shards
from data_pipelines.ieeg.files import BIDS, HDF5, opened
from data_pipelines.ieeg.recording import contacts, from_opened
from data_pipelines.ieeg.settings import Settings
from data_pipelines.meeg import files, sidecars
from data_pipelines.meeg.bids import is_recording
from data_pipelines.meeg.prepare import kinds
from data_pipelines.shards import Progress
from data_pipelines.sources import Source, settings_of, source
from data_pipelines.summary import Summary
from neurofm.data.records import DatasetInfo, Recording
from neurofm.errors import NeuroFMError

_PER_CPU_S = 2000  # seconds of one channel, at 2 kHz


@dataclass(frozen=True)
class ReadIeeg:
    """Makes an item of a recording; see `shard_job.Reader`."""

    settings: Settings

    def __call__(self, root: Path, file: str, notes: list[str]) -> Recording:
        with opened(root, file, self.settings, notes) as one:
            return from_opened(file, root / file, one, self.settings, notes)


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    settings: Settings | None = None,
    words: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    licence: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn all intracranial recordings below a folder into a dataset, an item a file.

    Args:
      src: a folder, or one recording: EDF, BDF, BrainVision or any other that MNE
        reads, HDF5 or NWB.
      out: the dataset to make.
      settings: what recordings are, and what is done to them.
      words: table of words, `labels.from_words`; they become events.
      labels, pattern, subdirs, licence, workers, progress: as in `audio.prepare`.

    Raises:
      NeuroFMError: nothing usable is found, tables contradict themselves, the disk is
        too small, or `out` holds something else.
    """
    settings = settings or Settings()
    found = find(Path(src))
    known = labelling.gather(found.root, found.files, labels, pattern, subdirs, words)
    known = sidecars.with_participants(known, Path(found.root), found.files)
    made_by = settings.to_json() | {"words": None}
    if words is not None:
        made_by["words"] = hashlib.sha256(Path(words).read_bytes()).hexdigest()
    info = DatasetInfo(
        kind="ieeg",
        sfreq=settings.sfreq,
        unit="V",
        ch_names=(),
        licence=licence,
        processing=settings.processing,
        prepared=settings_of(found, made_by, labels, pattern, subdirs, licence),
    )
    return shards.prepare(
        Path(out),
        found,
        info,
        ReadIeeg(settings),
        measure=lambda path: _measure(Path(found.root), path, settings),
        known=known,
        workers=workers,
        progress=progress,
    )


def find(src: Path) -> Source:
    """The recordings of a folder, or the one that is named; of a BIDS tree its iEEG."""
    files.require_mne()
    if src.is_file():
        return source(src.parent, [src.name], files.beside(src.parent, [src.name]))
    if not src.is_dir():
        raise NeuroFMError(f"{src} does not exist; give a folder of recordings")
    names, others = files.find(src)
    every = (p for p in src.rglob("*") if p.suffix.lower() in HDF5 and p.is_file())
    names = sorted([*names, *(p.relative_to(src).as_posix() for p in every)])
    if not names:
        raise NeuroFMError(
            f"there is no intracranial EEG in {src} (it holds {kinds(others)}); "
            f"expected one of {' '.join([*files.FORMATS, *HDF5])}"
        )
    beside = set(files.beside(src, names))
    if tree := [name for name in names if is_recording(name, BIDS)]:
        names = tree
        tables = (p for end in ("tsv", "json") for p in src.rglob(f"*.{end}"))
        beside |= {p.relative_to(src).as_posix() for p in tables}
    return source(src, names, sorted(beside))


def _measure(root: Path, path: Path, settings: Settings) -> shards.Expected:
    """What a recording will be in the store, by its header."""
    with opened(root, path.relative_to(root).as_posix(), settings, []) as one:
        seconds = one.n_samples / one.sfreq
        n_chans = len(contacts(path, one, []))
    n_bytes = seconds * settings.sfreq * n_chans * np.dtype("int16").itemsize
    return shards.Expected(seconds, n_bytes, seconds * n_chans / _PER_CPU_S)
