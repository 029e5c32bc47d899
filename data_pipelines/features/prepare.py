"""Features of stimuli into record stores: `neurofm prepare features`."""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_pipelines import labels as labelling
from data_pipelines import shards
from data_pipelines.features import events as tables
from data_pipelines.features.choose import Asked, build
from data_pipelines.features.events import Stretch
from data_pipelines.features.extractors import Extractor, file_of
from data_pipelines.shards import Progress
from data_pipelines.sources import Source, settings_of
from data_pipelines.summary import Summary
from neurofm.data.records import DatasetInfo, Recording
from neurofm.data.segments import Payload
from neurofm.errors import NeuroFMError

SFREQ = 2.0  # Hz, the grid of TRIBE (arXiv 2507.22229)
_PER_CPU_S = 100.0  # seconds of a stimulus


@dataclass(frozen=True)
class Stimuli(Source):
    """Stretches of stimuli by name; see `sources.Source`."""

    stretches: tuple[Stretch, ...] = ()

    def stat(self, file: str) -> tuple[int, int | str]:
        stretch = self.stretches[self.files.index(file)]
        said = hashlib.sha256()
        n_bytes = 0
        for event in stretch.events:
            said.update(repr(event[:6]).encode())
            n_bytes += len(event.text) + 16
            path = Path(self.root) / event.file
            if event.file and path.is_file():
                about = path.stat()
                n_bytes += about.st_size
                said.update(f"{about.st_size} {about.st_mtime_ns}".encode())
        return n_bytes, said.hexdigest()


@dataclass(frozen=True)
class ReadStretch:
    """Makes an item of a stretch; see `shard_job.Reader`."""

    extractor: Extractor
    sfreq: float
    stretches: dict[str, Stretch]

    def __call__(self, root: Path, file: str, notes: list[str]) -> Recording:
        stretch = self.stretches[file]
        x = self.extractor(stretch, root, self.sfreq, notes)
        meta = {"file": file, "timeline": stretch.timeline, "onset": stretch.onset}
        return Recording(item=file, samples=x.astype(np.float32), meta=meta)


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    asked: Asked,
    *,
    sfreq: float = SFREQ,
    payload: Payload = "float32",
    licence: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Make the features of an events table's stimuli, an item a file or a text.

    Args:
      src: the table, see `events`.
      out: the dataset to make.
      asked: what makes them.
      sfreq: rate of the grid in Hz.
      payload: how they are stored: `float16` takes half the space, with 11 bits.
      licence, workers, progress: as in `audio.prepare`; a model is run by one worker.

    Raises:
      NeuroFMError: the table or the extractor is wrong, nothing is usable, or `out`
        holds something else.
    """
    table = Path(src)
    if not 0 < sfreq <= 1000:
        raise NeuroFMError(f"--sfreq {sfreq:g}: expected a rate in Hz, such as 2")
    if not table.is_file():
        raise NeuroFMError(f"{table} does not exist; give a table of events (TSV)")
    events = tables.read(table)
    root = table.parent

    def first(kind: str) -> Path:
        stretch = tables.stretches(table, events, kind)[0]
        return file_of(stretch.events[0], root)

    extractor = build(asked, first)
    found = tables.stretches(table, events, extractor.takes)
    stimuli = Stimuli(
        root=root, files=tuple(s.name for s in found), stretches=tuple(found)
    )
    about = extractor.about()
    if asked.modality:
        about = about._replace(modality=asked.modality)
    settings = {"reader": "features", "sfreq": sfreq, **asdict(asked)}
    settings |= {"made_by": about.model}
    settings |= {} if payload == "float32" else {"payload": payload}
    info = DatasetInfo(
        kind="features",
        sfreq=sfreq,
        unit="none",
        ch_names=tuple(
            f"{layer}.{i}" for layer in range(about.layers) for i in range(about.width)
        ),
        payload=payload,
        licence=licence,
        processing={
            "modality": about.modality,
            "model": about.model,
            "layers": about.layers,
            "width": about.width,
            **about.settings,
        },
        prepared=settings_of(stimuli, settings, None, None, None, licence),
    )
    by_name = {stretch.name: stretch for stretch in found}
    by_path = {root / name: stretch for name, stretch in by_name.items()}

    def measure(path: Path) -> shards.Expected:
        seconds = sum(event.duration or 1.0 for event in by_path[path].events)
        size = np.dtype(payload).itemsize
        n_bytes = size * seconds * sfreq * about.layers * about.width
        return shards.Expected(seconds, n_bytes, seconds / _PER_CPU_S)

    return shards.prepare(
        Path(out),
        stimuli,
        info,
        ReadStretch(extractor, sfreq, by_name),
        measure=measure,
        known=labelling.Labels(),
        workers=1 if extractor.one_process else workers,
        progress=progress,
    )
