"""EEG and MEG into record stores: `neurofm prepare meeg`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from data_pipelines import labels as labelling
from data_pipelines import shards
from data_pipelines.meeg import files
from data_pipelines.meeg.events import Event
from data_pipelines.meeg.recording import from_raw
from data_pipelines.meeg.sensors import Given, choose, given_by
from data_pipelines.meeg.settings import Settings
from data_pipelines.shards import Progress
from data_pipelines.sources import Source, settings_of, source
from data_pipelines.summary import Summary
from neurofm.data.records import DatasetInfo, Recording
from neurofm.errors import NeuroFMError

_PER_CPU_S = 7000  # seconds of one channel, read at 1 kHz, filtered and written


class Opened(NamedTuple):
    """A recording whose samples are not read yet, with what lies beside it.

    Attributes:
      raw: the recording.
      settings: what is to be done to it.
      given: electrodes that go before those in the file.
      events: in place of those in the file, or None.
      meta: columns of the manifest.
    """

    raw: files.Raw
    settings: Settings
    given: Given | None
    events: list[Event] | None = None
    meta: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ReadMeeg:
    """Makes an item of a recording; see `shard_job.Reader`."""

    settings: Settings
    given: Given | None = None

    def open(self, root: Path, file: str, notes: list[str]) -> Opened:
        return Opened(files.open_raw(root / file, notes), self.settings, self.given)

    def __call__(self, root: Path, file: str, notes: list[str]) -> Recording:
        raw, settings, given, events, meta = self.open(root, file, notes)
        item = from_raw(raw, settings, given, events)
        notes += item.notes
        return Recording(
            item=file,
            samples=item.samples,
            sensors=item.sensors,
            meta={"file": file, **item.meta, **meta},
            events=item.events,
        )


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    settings: Settings | None = None,
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    licence: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn all EEG and MEG recordings below a folder into a dataset, an item a file.

    Args:
      src: a folder, or one recording.
      out: the dataset to make.
      settings: what recordings are in, and what is done to them.
      labels, pattern, subdirs, licence, workers, progress: as in `audio.prepare`.

    Raises:
      NeuroFMError: nothing usable is found, labels contradict themselves, the disk is
        too small, or `out` holds something else.
    """
    settings = settings or Settings()
    found = find(Path(src))
    known = labelling.gather(found.root, found.files, labels, pattern, subdirs)
    prepared = settings_of(found, settings.to_json(), labels, pattern, subdirs, licence)
    return shards.prepare(
        Path(out),
        found,
        contract(settings, licence, prepared),
        ReadMeeg(settings, given_by(settings)),
        measure=lambda path: measure(path, settings),
        known=known,
        workers=workers,
        progress=progress,
    )


def contract(settings: Settings, licence: str, prepared: dict) -> DatasetInfo:
    """What a dataset of EEG and MEG promises; its recordings have their own sensors."""
    return DatasetInfo(
        kind="meeg",
        sfreq=settings.sfreq,
        unit="si",
        ch_names=(),
        licence=licence,
        processing=settings.processing,
        prepared=prepared,
    )


def find(src: Path) -> Source:
    """The recordings of a folder, or the one that is named."""
    files.require_mne()
    if src.is_file() or files.suffix(src.name) in files.FOLDERS:
        if not src.exists():
            raise NeuroFMError(f"{src} does not exist; check the spelling")
        return source(src.parent, [src.name], files.beside(src.parent, [src.name]))
    if not src.is_dir():
        raise NeuroFMError(f"{src} does not exist; give a folder of recordings")
    names, others = files.find(src)
    if not names:
        raise NeuroFMError(
            f"there is no EEG or MEG in {src} (it holds {kinds(others)}); expected one "
            f"of {' '.join([*files.FORMATS, *files.FOLDERS])}; a file of any other "
            "format that MNE reads can be named itself"
        )
    return source(src, names, files.beside(src, names))


def kinds(others: dict[str, int]) -> str:
    """Suffixes and their counts in words."""
    words = [f"{n} {kind or 'unnamed'}" for kind, n in sorted(others.items())]
    return ", ".join(words) or "nothing"


def measure(path: Path, settings: Settings) -> shards.Expected:
    """What a recording will be in the store, by its header."""
    raw = files.open_raw(path, [])
    seconds = raw.n_times / raw.info["sfreq"]
    n_chans = len(choose(raw, settings.picks, []))
    values = seconds * settings.sfreq * n_chans
    return shards.Expected(
        seconds, values * np.dtype("int16").itemsize, seconds * n_chans / _PER_CPU_S
    )
