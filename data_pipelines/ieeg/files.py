"""Open intracranial recordings: what MNE reads, and HDF5 of one dataset an electrode.

HDF5 as Brain Treebank has it: `data/electrode_<i>` are the samples of an electrode.
A table names the electrodes, see `electrodes`. The file may have the attributes `sfreq`
(Hz) and `unit`.

Files in a folder `ieeg` with names as BIDS has them are read with their sidecars.
Source: the Brain Imaging Data Structure 1.9, iEEG.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float

from data_pipelines.ieeg.settings import Settings, factor
from data_pipelines.meeg import files, sidecars
from data_pipelines.meeg.bids import ENTITIES, is_recording
from data_pipelines.meeg.events import Event, annotations
from data_pipelines.meeg.signal import read_channels
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError

HDF5 = (".h5", ".hdf5")
BIDS = ("ieeg",)  # its datatypes here
_COLUMNS = ("subject", "session", "run", "task")
_ELECTRODE = re.compile(r"electrode_(\d+)")
_VOLTAGES = ("eeg", "seeg", "ecog", "dbs")  # types that MNE knows, or takes them for

cannot = partial(Unreadable, what="intracranial EEG")


class Electrodes(NamedTuple):
    """A table of electrodes.

    Attributes:
      by_index: of an HDF5 file's dataset -> name.
      bad: names that are marked so.
    """

    by_index: dict[int, str]
    bad: frozenset[str]


class Opened(NamedTuple):
    """A recording whose samples are not read yet.

    Attributes:
      names: of its channels.
      bad: those that are marked so.
      others: channels that record something else, by their type.
      n_samples: of each.
      sfreq: their rate in Hz.
      line_freq: of the mains in Hz, if it is told.
      read: gives the samples of some rows in V.
      events: that the file holds, or its sidecar.
      meta: columns of the manifest.
    """

    names: list[str]
    bad: frozenset[str]
    others: list[str]
    n_samples: int
    sfreq: float
    line_freq: float | None
    read: Callable[[Sequence[int]], Float[np.ndarray, "c T"]]
    events: list[Event]
    meta: Mapping[str, str] = MappingProxyType({})


@contextmanager
def opened(
    root: Path, file: str, settings: Settings, notes: list[str]
) -> Iterator[Opened]:
    """Open a recording, with the electrode table beside it or in the settings.

    The table beside `x.h5` is `x_electrodes.tsv`.

    Raises:
      Unreadable: it cannot be read, or does not tell what must be known.
    """
    path = root / file
    beside = path.with_name(f"{path.name.split('.')[0]}_electrodes.tsv")
    table = Path(settings.electrodes) if settings.electrodes else beside
    try:
        told = electrodes(table) if table.is_file() else None
    except NeuroFMError as error:
        raise cannot(path, str(error)) from error
    if path.suffix.lower() not in HDF5:
        yield _of_mne(root, file, told, notes)
        return
    try:
        held = h5py.File(path)
    except OSError as error:
        raise cannot(path, f"HDF5 cannot open it: {error}") from error
    with held:
        yield _of_hdf5(path, held, told, settings)


def electrodes(table: Path) -> Electrodes:
    """A tab-separated table with a column `name`, a row an electrode.

    A column `index` tells which `electrode_<i>` it is, otherwise they are counted from
    0; those with `bad` in a column `status` are left out.

    Raises:
      NeuroFMError: it cannot be read, or names an electrode or an index twice.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NeuroFMError(
            f"the electrode table {table} cannot be read: {error}"
        ) from error
    if not rows or "name" not in rows[0]:
        raise NeuroFMError(
            f"the electrode table {table} has no row or no column 'name'; expected a "
            "tab-separated table with a row an electrode"
        )
    by_index: dict[int, str] = {}
    for line, row in enumerate(rows):
        told = (row.get("index") or str(line)).strip()
        if not told.isdecimal():
            raise NeuroFMError(
                f"line {line + 2} of the electrode table {table} has the index "
                f"{told!r}; expected the number of electrode_<i>"
            )
        name = row["name"].strip()
        if int(told) in by_index or name in by_index.values():
            raise NeuroFMError(
                f"line {line + 2} of the electrode table {table} repeats the electrode "
                f"{name or told}: keep one row each"
            )
        by_index[int(told)] = name
    marked = [r for r in rows if (r.get("status") or "").strip().lower() == "bad"]
    return Electrodes(by_index, frozenset(r["name"].strip() for r in marked))


def _of_mne(root: Path, file: str, told: Electrodes | None, notes: list[str]) -> Opened:
    raw = files.open_raw(root / file, notes)
    line, events, meta = raw.info["line_freq"], annotations(raw), {}
    if is_recording(file, BIDS):
        line = sidecars.about(root, file).line_freq or line
        sidecars.apply_channels(raw, root, file, notes)
        beside = sidecars.events(root, file, notes)
        events = events if beside is None else beside
        found = sidecars.entities(file)
        meta = {name: found.get(ENTITIES[name], "") for name in _COLUMNS}
    types = raw.get_channel_types()
    channels = [i for i, kind in enumerate(types) if kind in _VOLTAGES]
    return Opened(
        names=[raw.ch_names[i] for i in channels],
        bad=frozenset(raw.info["bads"]) | (told.bad if told else frozenset()),
        others=[n for i, n in enumerate(raw.ch_names) if i not in channels],
        n_samples=raw.n_times,
        sfreq=float(raw.info["sfreq"]),
        line_freq=line,
        read=lambda rows: read_channels(raw, [channels[row] for row in rows]),
        events=events,
        meta=meta,
    )


def _of_hdf5(
    path: Path, file: h5py.File, told: Electrodes | None, settings: Settings
) -> Opened:
    group: Any = file.get("data")
    members = [str(n) for n in group] if isinstance(group, h5py.Group) else []
    found = {int(m[1]): n for n in members if (m := _ELECTRODE.fullmatch(n))}
    if not found:
        raise cannot(path, "it holds no dataset data/electrode_<i>")
    held: dict[int, Any] = {i: group[found[i]] for i in sorted(found)}
    shapes = {getattr(x, "shape", ()) for x in held.values()}
    if len(shapes) > 1 or len(shape := shapes.pop()) != 1 or not shape[0]:
        raise cannot(
            path, "its electrodes are not of one length: expected a row of samples each"
        )
    if wrong := [i for i, x in held.items() if x.dtype.kind not in "iuf"]:
        raise cannot(path, f"electrode_{wrong[0]} holds no numbers")
    if told is None:
        raise cannot(
            path,
            "no table names its electrodes: give --electrodes, or put "
            f"{path.stem}_electrodes.tsv beside it, with a column 'name'",
        )
    if nameless := [i for i in held if i not in told.by_index]:
        raise cannot(
            path,
            f"the electrode table has no row for electrode_{nameless[0]} (it has "
            f"{len(told.by_index)} rows, and the file {len(held)} electrodes)",
        )
    rows = list(held.values())
    to_volts = _factor(path, file, settings)

    def read(wanted: Sequence[int]) -> Float[np.ndarray, "c T"]:
        try:
            x = np.array([rows[row][:] for row in wanted], float)
        except OSError as error:
            raise cannot(path, f"its samples cannot be read: {error}") from error
        return x * to_volts

    return Opened(
        names=[told.by_index[i] for i in held],
        bad=told.bad,
        others=[],
        n_samples=shape[0],
        sfreq=_rate(path, file, settings),
        line_freq=None,
        read=read,
        events=[],
    )


def _rate(path: Path, file: h5py.File, settings: Settings) -> float:
    told: Any = file.attrs.get("sfreq", settings.source_sfreq)
    if told is None:
        raise cannot(path, "it does not tell its sampling rate: give --source-sfreq")
    try:
        sfreq = float(told)
    except (TypeError, ValueError):
        sfreq = 0.0
    if not 1 <= sfreq <= 1e6:
        raise cannot(path, f"its attribute sfreq is {told!r}; expected Hz")
    return sfreq


def _factor(path: Path, file: h5py.File, settings: Settings) -> float:
    told: Any = file.attrs.get("unit", settings.unit)
    if told is None:
        raise cannot(path, "it does not tell its unit: give --unit, such as uV")
    try:
        return factor(told.decode() if isinstance(told, bytes) else str(told))
    except NeuroFMError as error:
        raise cannot(path, str(error)) from error
