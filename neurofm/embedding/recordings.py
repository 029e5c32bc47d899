"""What INPUT arguments name: recordings, folders of them, prepared datasets."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from neurofm.contract import InputContract
from neurofm.data import ieeg
from neurofm.data.brains import placed
from neurofm.data.meeg import check_frame
from neurofm.data.records import Dataset, open_dataset
from neurofm.embedding import electrodes, inputs, meeg, parcels
from neurofm.embedding.difference import Difference, compare, refuse
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.stores import Place, place

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings

_log = logging.getLogger(__name__)

# Columns that say how a dataset stores an item, not what it is.
_STORAGE = ("item", "n_samples", "rms", "active", "sha256")


@dataclass(frozen=True)
class File:
    """A recording in a file of its own; how EEG and MEG is read say the settings."""

    item: str
    path: Path
    settings: "Settings | None" = None

    @property
    def file(self) -> str:
        return str(self.path)

    @property
    def stamp(self) -> str:
        """Changes when the recording does."""
        stat = self.path.stat()
        known = f"{self.item} {stat.st_size} {stat.st_mtime_ns}"
        return known if self.settings is None else f"{known} {self.settings.to_json()}"

    def take(self, contract: InputContract) -> tuple[Recorded, list[Difference]]:
        """As the model takes it, and what was done to it."""
        if self.settings is not None:
            return meeg.of_file(self.path, self.settings)
        (one,), found = inputs.take(contract, self.path, None)
        return one, found

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
    """A recording in a prepared dataset; `subject` is its number for the model."""

    item: str
    dataset: Dataset
    row: int
    event_rows: Sequence[int]
    subject: int = 0

    @property
    def file(self) -> str:
        return str(self.dataset.items["file"][self.row].as_py())

    @property
    def stamp(self) -> str:
        return f"{self.item} {self.dataset.hash} {self.row}"

    def take(self, contract: InputContract) -> tuple[Recorded, list[Difference]]:
        if contract.kind == "fmri":
            return parcels.of_record(self.dataset, self.row, contract), []
        if contract.kind == "ieeg":
            own = self.dataset, self.row, contract, self.subject
            return electrodes.of_record(*own), []
        n_samples = self.dataset.items["n_samples"][self.row].as_py()
        samples = self.dataset.read(self.row, 0, n_samples)
        if contract.kind == "meeg":
            return Recorded(samples, self.dataset.sensors(self.row)), []
        wave, found = inputs.conform(contract, samples, self.dataset.info.sfreq)
        return Recorded(wave), found

    def columns(self) -> dict[str, Any]:
        (row,) = self.dataset.items.slice(self.row, 1).to_pylist()
        return {k: v for k, v in row.items() if k not in _STORAGE}

    @property
    def n_events(self) -> int:
        return len(self.event_rows)

    def events(self) -> list[dict[str, Any]]:
        rows = self.dataset.events.take(pa.array(self.event_rows, "int64")).to_pylist()
        return [{k: v for k, v in row.items() if k != "item"} for row in rows]


Source = File | Record


def find(
    given: Sequence[str | os.PathLike],
    contract: InputContract,
    settings: "Settings | None" = None,
    subjects: Sequence[str] = (),
) -> list[Source]:
    """Every recording that the arguments name, each with an item name of its own.

    Args:
      given: files of sound, or of EEG and MEG; folders of them; dataset folders.
      contract: what the recordings are for; a dataset of another kind is refused.
      settings: how files of EEG and MEG are read.
      subjects: names of those that the model knows apart.

    Raises:
      NeuroFMError: an argument names nothing, or a dataset the model cannot take.
    """
    if contract.kind == "meeg":
        settings = settings or meeg.settings_for(contract)
    elif settings is not None:
        raise NeuroFMError(
            f"settings of EEG and MEG were given for a model of {contract.kind}: leave "
            "them out"
        )
    found: list[tuple[str, Source]] = []
    for path in map(place, given):
        if (path / "dataset.json").is_file():
            found += [(str(path), r) for r in _records(path, contract, subjects)]
        elif not isinstance(path, Path):
            raise NeuroFMError(
                f"{path} holds no dataset: of stores datasets are read, files from a "
                "local disk"
            )
        elif contract.kind == "ieeg" and path.exists():
            inputs.refuse_file(path, contract)
        elif path.is_file() or (settings and _is_recording(path)):
            found.append((str(path.parent), File(path.name, path, settings)))
        elif path.is_dir():
            found += [(str(path), f) for f in _files(path, settings)]
        else:
            raise NeuroFMError(
                f"{path} is not there: give files, folders or prepared datasets"
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


def _is_recording(folder: Path) -> bool:
    """Whether a folder is one recording of EEG or MEG."""
    from data_pipelines.meeg import files

    return folder.is_dir() and files.suffix(folder.name) in files.FOLDERS


def _files(folder: Path, settings: "Settings | None") -> list[File]:
    from data_pipelines import soundfiles

    find, what, called = soundfiles.find, "sound", "sound files"
    if settings:
        from data_pipelines.meeg import files

        find, what, called = files.find, "EEG or MEG", "files of EEG or MEG"
    names, others = find(folder)
    if not names:
        raise NeuroFMError(
            f"{folder} holds neither {called} nor a prepared dataset: give one "
            "that does, or make a dataset with `neurofm prepare`"
        )
    if others:
        counts = ", ".join(f"{n} {s or 'without suffix'}" for s, n in others.items())
        _log.info("%s: files that are no %s were left alone (%s)", folder, what, counts)
    return [File(name, folder / name, settings) for name in names]


def _records(
    path: Place, contract: InputContract, subjects: Sequence[str]
) -> list[Record]:
    dataset = open_dataset(path)
    given = {"kind": dataset.info.kind, "unit": dataset.info.unit}
    given |= {"sfreq": dataset.info.sfreq}
    if contract.kind not in ("meeg", "fmri"):
        given |= {"n_chans": dataset.info.n_chans}
    if contract.kind == "ieeg":
        refuse(electrodes.differences(dataset, contract))
    else:
        refuse(compare(contract, given))
    if contract.kind == "fmri":
        placed(dataset, contract.channels, contract.n_chans)
    if contract.kind == "meeg":
        check_frame(dataset.path, dataset.layouts, contract)
    events: dict[str, list[int]] = {}
    for i, item in enumerate(dataset.events["item"].to_pylist()):
        events.setdefault(item, []).append(i)
    names = dataset.items["item"].to_pylist()
    told = dataset.items["subject"].to_pylist()
    whose = ieeg.subjects(told, subjects, path) if subjects else [0] * len(names)
    return [
        Record(name, dataset, row, events.get(name, ()), int(subject))
        for row, (name, subject) in enumerate(zip(names, whose, strict=True))
    ]
