"""One shard of recordings: what a worker of `prepare` does."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import threadpoolctl

from data_pipelines.label_columns import Note
from data_pipelines.unreadable import Unreadable
from neurofm.data import writer
from neurofm.data.records import DatasetInfo, Recording
from neurofm.files import write_json


class Reader(Protocol):
    """Makes an item of a file; it is sent to workers by pickle.

    What is found wrong on the way is appended to `notes`, at the latest when the last
    of the recording's samples was taken; `Unreadable` before the first leaves the file
    out.
    """

    def __call__(self, root: Any, file: str, notes: list[str]) -> Recording: ...


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write.

    Attributes:
      number: of the shard, from 0.
      src: the folder that `files` are relative to, or its address.
      files: in the order they are written.
      data: folder of the shards.
      state: folder of what is known about finished shards.
      info: contract of the dataset.
      read: makes an item of a file.
    """

    number: int
    src: Path | str
    files: tuple[str, ...]
    data: Path
    state: Path
    info: DatasetInfo
    read: Reader

    @property
    def rows(self) -> Path:
        """The shard's manifest rows."""
        return self.state / f"{self.number:05d}.parquet"

    @property
    def layouts(self) -> Path:
        """The layouts of sensors in it, where recordings have their own."""
        return self.state / f"{self.number:05d}.sensors.parquet"

    @property
    def told(self) -> Path:
        """What was skipped and noted; it is written last, so it marks the end."""
        return self.state / f"{self.number:05d}.json"


def write_shard(job: ShardJob) -> float:
    """Write a shard and then the word that it is finished; gives its seconds."""
    skipped: list[Note] = []
    notes: list[Note] = []
    events: dict[str, list[dict[str, Any]]] = {}
    recordings = _recordings(job, skipped, notes, events)
    # One thread: matrix products may round differently when they are shared out.
    with threadpoolctl.threadpool_limits(1):
        shard = writer.write_shard(job.data, job.number, job.info, recordings)
    if job.info.unit == "full_scale":
        notes += _silent(shard.rows)
    pq.write_table(shard.rows, job.rows)
    pq.write_table(shard.sensors, job.layouts)
    write_json(job.told, {"skipped": skipped, "notes": notes, "events": events})
    return float(np.sum(shard.rows["duration"].to_numpy()))


def _recordings(
    job: ShardJob,
    skipped: list[Note],
    notes: list[Note],
    events: dict[str, list[dict[str, Any]]],
) -> Iterator[Recording]:
    for file in job.files:
        found: list[str] = []
        try:
            recording = job.read(job.src, file, found)
        except Unreadable as error:
            skipped.append((file, error.reason))
            continue
        yield recording
        notes += [(file, note) for note in found]
        if recording.events:
            events[file] = [dict(event) for event in recording.events]


def _silent(rows: pa.Table) -> tuple[Note, ...]:
    active: dict[str, bool] = {}
    for row in rows.select(["item", "active"]).to_pylist():
        active[row["item"]] = active.get(row["item"], False) or any(row["active"])
    sentence = "silence: nothing above -80 dB re full scale; kept, but not trained on"
    return tuple((item, sentence) for item, loud in active.items() if not loud)
