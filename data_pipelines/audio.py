"""Folders of sound into record stores: `neurofm prepare audio`."""

import hashlib
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import in_store, shards, soundfiles
from data_pipelines import labels as labelling
from data_pipelines.beam import Runner
from data_pipelines.shards import Progress
from data_pipelines.soundfiles import Channels, Unreadable, read
from data_pipelines.sources import Source, settings_of, source
from data_pipelines.summary import Summary
from neurofm import stores
from neurofm.data.records import DatasetInfo, Recording
from neurofm.data.segments import Payload
from neurofm.errors import NeuroFMError

__all__ = ["Channels", "Summary", "Unreadable", "prepare", "read"]

_PER_CPU_S = 600  # seconds of sound decoded, resampled and written


@dataclass(frozen=True)
class ReadSound:
    """Makes an item of a sound file; see `shard_job.Reader`."""

    info: DatasetInfo
    channels: Channels

    def __call__(self, root: Path, file: str, notes: list[str]) -> Recording:
        path = root / file
        blocks = soundfiles.blocks(path, self.info.sfreq, self.channels, notes)
        first = next(blocks)
        if len(first) != self.info.n_chans:
            names = ", ".join(self.info.ch_names)
            reason = f"{len(first)} channels, the dataset has {names}"
            raise Unreadable(path, reason)
        with open(path, "rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        return Recording(
            item=file,
            samples=itertools.chain([first], blocks),
            meta={"file": file, "sha256": sha256},
        )


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    sfreq: float = 16000,
    channels: Channels = "first",
    payload: Payload = "int16",
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    licence: str = "",
    workers: int | None = None,
    runner: Runner | None = None,
    beam_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn all sound files below a folder into a dataset, one item a file.

    Args:
      src: a folder, or one sound file, or the address of either in a store.
      out: the dataset to make, or its address.
      sfreq: rate in Hz that everything is resampled to.
      channels: `first` channel alone, `mean` of all, or `all` (files with another
        number than the first one are skipped).
      payload: 16-bit integers, exact for 16-bit files at their own rate, or `float32`.
      labels: tab-separated table; see `labels.from_table`.
      pattern: regular expression; see `labels.from_pattern`.
      subdirs: column names; see `labels.from_subdirs`.
      licence: terms of the recordings, kept with the dataset.
      workers: processes; None takes as many as are worth their start. Scripts that
        allow more than one need the usual `if __name__ == "__main__":`.
      runner: work on Apache Beam instead of a pool of processes, with the same result:
        `direct` here, `dataflow` on the workers of `beam_options`.
      beam_options: see `beam.run_on_beam`.
      progress: called with files done, files in all and seconds of sound done.

    Raises:
      NeuroFMError: nothing usable is found, labels contradict themselves, the disk is
        too small, or `out` holds something else.
    """
    src, out = stores.address(src), stores.address(out)
    if not 0.001 <= sfreq < math.inf:
        raise NeuroFMError(f"sfreq is {sfreq}; expected a rate in Hz, such as 16000")
    found = _find(src)
    known = labelling.gather(found.root, found.files, labels, pattern, subdirs)
    settings = {
        "reader": "audio",
        "sfreq": float(sfreq),
        "channels": channels,
        "payload": payload,
    }
    info = DatasetInfo(
        kind="audio",
        sfreq=float(sfreq),
        unit="full_scale",
        ch_names=_ch_names(found.root, found.files, channels),
        payload=payload,
        licence=licence,
        prepared=settings_of(found, settings, labels, pattern, subdirs, licence),
    )
    frame_bytes = info.n_chans * np.dtype(payload).itemsize

    def measure(path: Path) -> shards.Expected:
        about = soundfiles.header(path)
        seconds = about.n_samples / about.sfreq
        n_bytes = seconds * sfreq * frame_bytes
        return shards.Expected(seconds, n_bytes, seconds / _PER_CPU_S)

    return shards.prepare(
        out,
        found,
        info,
        ReadSound(info, channels),
        measure=measure,
        known=known,
        workers=workers,
        runner=runner,
        beam_options=beam_options,
        progress=progress,
    )


def _find(src: Path | str) -> Source:
    if isinstance(src, str):
        if one := stores.about(src):
            root, _, name = src.rpartition("/")
            return source(root, [name], objects={name: one})
        objects = stores.tree(src)
        files = _sounds(src, soundfiles.sort_out(objects))
        return source(src, files, objects=objects)
    if src.is_file():
        return Source(root=src.parent, files=(src.name,))
    if not src.is_dir():
        raise NeuroFMError(f"{src} does not exist; give a folder of sound files")
    return source(src, _sounds(src, soundfiles.find(src)))


def _sounds(src: Path | str, found: tuple[list[str], dict[str, int]]) -> list[str]:
    files, others = found
    if not files:
        kinds = (f"{n} {kind or 'unnamed'}" for kind, n in sorted(others.items()))
        raise NeuroFMError(
            f"there is no sound file in {src} (it holds {', '.join(kinds) or 'nothing'}"
            f"); expected one of {' '.join(sorted(soundfiles.SUFFIXES))}"
        )
    return files


def _ch_names(
    root: Path | str, files: Sequence[str], channels: Channels
) -> tuple[str, ...]:
    if channels in ("first", "mean"):
        return (channels,)
    for file in files:
        try:
            with in_store.fetched(root, file) as folder:
                n_chans = soundfiles.header(folder / file).n_chans
        except Unreadable:
            continue
        if n_chans == 2:
            return ("left", "right")
        return tuple(f"ch{i + 1}" for i in range(n_chans))
    return ("ch1",)
