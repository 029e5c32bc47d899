"""What a preparation did, and the tables of it that stay in the dataset."""

import dataclasses
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.label_columns import Note
from neurofm import stores
from neurofm.data.records import open_dataset


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `prepare` did.

    Attributes:
      out: the dataset.
      kind: of the dataset, such as `audio`.
      status: `prepared`, `resumed` (some shards were there) or `already prepared`.
      n_files: recordings found.
      n_items: recordings in the dataset.
      n_events: intervals in the dataset.
      hours: of signal in the dataset.
      sfreq: sampling rate in Hz.
      ch_names: channels; empty where each recording has its own sensors.
      n_bytes: size of the shards.
      hash: of the dataset.
      seconds: taken by this call.
      skipped: (file, reason) of what is not in the dataset.
      notes: (file or table, sentence) of what is in it with a reservation.
    """

    out: str
    kind: str
    status: str
    n_files: int
    n_items: int
    n_events: int
    hours: float
    sfreq: float
    ch_names: tuple[str, ...]
    n_bytes: int
    hash: str
    seconds: float
    skipped: tuple[Note, ...]
    notes: tuple[Note, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def write_notes(
    folder: Path, skipped: Sequence[Sequence[str]], notes: Sequence[Sequence[str]]
) -> None:
    """Write `skipped.tsv` (file, reason) and `notes.tsv` (where, note)."""
    for name, header, rows in (
        ("skipped.tsv", ("file", "reason"), skipped),
        ("notes.tsv", ("where", "note"), notes),
    ):
        cells = ([re.sub(r"[\t\r\n]+", " ", cell) for cell in row] for row in rows)
        lines = ["\t".join(row) for row in (header, *cells)]
        (folder / name).write_text("\n".join([*lines, ""]), encoding="utf-8")


def read_notes(folder: Path | str, name: str) -> tuple[Note, ...]:
    """Rows of a table of `write_notes`; none where it is absent."""
    if name not in stores.sizes(folder):
        return ()
    text = stores.read_bytes(stores.within(folder, name)).decode()
    lines = text.split("\n")[1:-1]
    return tuple((a, b) for a, _, b in (line.partition("\t") for line in lines))


def summarise(out: Path | str, n_files: int, status: str, started: float) -> Summary:
    """Look at a finished dataset; `started` is when work on it began (monotonic)."""
    dataset = open_dataset(out)
    info = dataset.info
    return Summary(
        out=str(out),
        kind=info.kind,
        status=status,
        n_files=n_files,
        n_items=info.n_items,
        n_events=len(dataset.events),
        hours=float(np.sum(dataset.items["duration"].to_numpy())) / 3600,
        sfreq=info.sfreq,
        ch_names=info.ch_names,
        n_bytes=sum(info.shards.values()),
        hash=info.hash,
        seconds=time.monotonic() - started,
        skipped=read_notes(out, "skipped.tsv"),
        notes=read_notes(out, "notes.tsv"),
    )
