"""A recording before its samples are read, and the table of its electrodes."""

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_pipelines.meeg.events import Event
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError

cannot = partial(Unreadable, what="intracranial EEG")


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


class Electrodes(NamedTuple):
    """A table of electrodes.

    Attributes:
      by_index: of an HDF5 file's dataset -> name.
      bad: names that are marked so.
    """

    by_index: dict[int, str]
    bad: frozenset[str]


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
