"""One shard of sound: what a worker of `prepare audio` does."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import threadpoolctl

from data_pipelines import soundfiles
from data_pipelines.label_columns import Note
from data_pipelines.soundfiles import Channels, Unreadable
from neurofm.data import writer
from neurofm.data.records import DatasetInfo, Recording
from neurofm.files import write_json


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write.

    Attributes:
      number: of the shard, from 0.
      src: the folder that `files` are relative to.
      files: in the order they are written.
      data: folder of the shards.
      state: folder of what is known about finished shards.
      info: contract of the dataset.
      channels: which channels of a file are kept.
    """

    number: int
    src: Path
    files: tuple[str, ...]
    data: Path
    state: Path
    info: DatasetInfo
    channels: Channels

    @property
    def rows(self) -> Path:
        """The shard's manifest rows."""
        return self.state / f"{self.number:05d}.parquet"

    @property
    def told(self) -> Path:
        """What was skipped and noted; it is written last, so it marks the end."""
        return self.state / f"{self.number:05d}.json"


def write_shard(job: ShardJob) -> float:
    """Write a shard and then the word that it is finished; gives its seconds."""
    skipped: list[Note] = []
    notes: list[Note] = []
    recordings = _recordings(job, skipped, notes)
    # One thread: matrix products may round differently when they are shared out.
    with threadpoolctl.threadpool_limits(1):
        rows, _ = writer.write_shard(job.data, job.number, job.info, recordings)
    notes += _silent(rows)
    pq.write_table(rows, job.rows)
    write_json(job.told, {"skipped": skipped, "notes": notes})
    return float(np.sum(rows["duration"].to_numpy()))


def _recordings(
    job: ShardJob, skipped: list[Note], notes: list[Note]
) -> Iterator[Recording]:
    for file in job.files:
        path = job.src / file
        found: list[str] = []
        try:
            blocks = soundfiles.blocks(path, job.info.sfreq, job.channels, found)
            first = next(blocks)
            if len(first) != job.info.n_chans:
                names = ", ".join(job.info.ch_names)
                reason = f"{len(first)} channels, the dataset has {names}"
                raise Unreadable(path, reason)
        except Unreadable as error:
            skipped.append((file, error.reason))
            continue
        with open(path, "rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        yield Recording(
            item=file,
            samples=itertools.chain([first], blocks),
            meta={"file": file, "sha256": sha256},
        )
        notes += [(file, note) for note in found]


def _silent(rows: pa.Table) -> tuple[Note, ...]:
    active: dict[str, bool] = {}
    for row in rows.select(["item", "active"]).to_pylist():
        active[row["item"]] = active.get(row["item"], False) or any(row["active"])
    sentence = "silence: nothing above -80 dB re full scale; kept, but not trained on"
    return tuple((item, sentence) for item, loud in active.items() if not loud)
