"""What INPUT arguments name: sound files, folders of them, prepared datasets."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from neurofm.contract import InputContract
from neurofm.data.records import Dataset, open_dataset
from neurofm.embedding import inputs
from neurofm.errors import NeuroFMError
from neurofm.stores import Place, place

_log = logging.getLogger(__name__)

# Columns that say how a dataset stores an item, not what it is.
_STORAGE = ("item", "n_samples", "rms", "active", "sha256")


@dataclass(frozen=True)
class SoundFile:
    """A recording in a file of its own."""

    item: str
    path: Path

    @property
    def file(self) -> str:
        return str(self.path)

    @property
    def stamp(self) -> str:
        """Changes when the recording does."""
        stat = self.path.stat()
        return f"{self.item} {stat.st_size} {stat.st_mtime_ns}"

    def read(self) -> tuple[Float32[np.ndarray, "c n"], float]:
        """Samples and sampling rate in Hz."""
        return inputs.sound(self.path)

    def columns(self) -> dict[str, Any]:
        """What is known of it."""
        return {"file": self.file}

    @property
    def n_events(self) -> int:
        """Interval events inside it."""
        return 0

    def events(self) -> list[dict[str, Any]]:
        """Of each: onset and duration (s), trial_type, others."""
        return []


@dataclass(frozen=True)
class Record:
    """A recording in a prepared dataset."""

    item: str
    dataset: Dataset
    row: int
    event_rows: Sequence[int]

    @property
    def file(self) -> str:
        return str(self.dataset.items["file"][self.row].as_py())

    @property
    def stamp(self) -> str:
        return f"{self.item} {self.dataset.hash} {self.row}"

    def read(self) -> tuple[Float32[np.ndarray, "c n"], float]:
        n_samples = self.dataset.items["n_samples"][self.row].as_py()
        return self.dataset.read(self.row, 0, n_samples), self.dataset.info.sfreq

    def columns(self) -> dict[str, Any]:
        (row,) = self.dataset.items.slice(self.row, 1).to_pylist()
        return {k: v for k, v in row.items() if k not in _STORAGE}

    @property
    def n_events(self) -> int:
        return len(self.event_rows)

    def events(self) -> list[dict[str, Any]]:
        rows = self.dataset.events.take(pa.array(self.event_rows, "int64")).to_pylist()
        return [{k: v for k, v in row.items() if k != "item"} for row in rows]


Source = SoundFile | Record


def find(given: Sequence[str | os.PathLike], contract: InputContract) -> list[Source]:
    """Every recording that the arguments name, each with an item name of its own.

    Args:
      given: sound files, folders of sound files, dataset folders.
      contract: what the recordings are for; a dataset of another kind is refused.

    Raises:
      NeuroFMError: an argument names nothing, or a dataset the model cannot take.
    """
    found: list[tuple[str, Source]] = []
    for path in map(place, given):
        if (path / "dataset.json").is_file():
            found += [(str(path), r) for r in _records(path, contract)]
        elif not isinstance(path, Path):
            raise NeuroFMError(
                f"{path} holds no dataset: of stores datasets are read, sound files "
                "from a local disk"
            )
        elif path.is_dir():
            found += [(str(path), f) for f in _files(path)]
        elif path.is_file():
            found.append((str(path.parent), SoundFile(path.name, path)))
        else:
            raise NeuroFMError(
                f"{path} is not there: give sound files, folders or prepared datasets"
            )
    if len({r.item for _, r in found}) < len(found):  # the same name in two places
        found = [
            (at, dataclasses.replace(r, item=f"{at}/{r.item}".strip("/")))
            for at, r in found
        ]
    named = {r.item: r for _, r in found}
    if len(named) < len(found):
        raise NeuroFMError("an input is given twice: give each once")
    return list(named.values())


def _files(folder: Path) -> list[SoundFile]:
    from data_pipelines import soundfiles

    names, others = soundfiles.find(folder)
    if not names:
        raise NeuroFMError(
            f"{folder} holds neither sound files nor a prepared dataset: give one that "
            "does, or make a dataset with `neurofm prepare`"
        )
    if others:
        counts = ", ".join(f"{n} {s or 'without suffix'}" for s, n in others.items())
        _log.info("%s: files that are no sound were left alone (%s)", folder, counts)
    return [SoundFile(name, folder / name) for name in names]


def _records(path: Place, contract: InputContract) -> list[Record]:
    dataset = open_dataset(path)
    given = {"kind": dataset.info.kind, "unit": dataset.info.unit}
    given |= {"sfreq": dataset.info.sfreq, "n_chans": dataset.info.n_chans}
    inputs.refuse(inputs.compare(contract, given))
    events: dict[str, list[int]] = {}
    for i, item in enumerate(dataset.events["item"].to_pylist()):
        events.setdefault(item, []).append(i)
    names = dataset.items["item"].to_pylist()
    return [Record(n, dataset, row, events.get(n, ())) for row, n in enumerate(names)]
