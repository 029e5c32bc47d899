"""NWB: the one ElectricalSeries of a file, in `acquisition` or in `processing`.

Source: the schema of Neurodata Without Borders 2, `ElectricalSeries` and
`ElectrodesTable`: volts are data x conversion x channel_conversion + offset.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from data_pipelines.ieeg.opened import Electrodes, Opened, cannot
from data_pipelines.ieeg.settings import Settings

_TABLE = "general/extracellular_ephys/electrodes"
_NAMES = ("label", "channel_name", "electrode_name")  # the schema itself has none


def is_nwb(file: h5py.File) -> bool:
    """Whether a file says that it is NWB 2."""
    return "nwb_version" in file.attrs


def of_nwb(
    path: Path, file: h5py.File, told: Electrodes | None, settings: Settings
) -> Opened:
    """The channels of a file's series; a table of electrodes goes before its names.

    Raises:
      Unreadable: it has no or several series, or does not tell names or rate.
    """
    series = _series(path, file)
    data = series.get("data")
    if not isinstance(data, h5py.Dataset) or data.ndim != 2 or not len(data):
        raise cannot(path, f"{series.name} has no data of (times, channels)")
    n_samples, n_chans = data.shape
    names = _names(path, file, series, told)
    if twice := [name for name in names if names.count(name) > 1]:
        raise cannot(path, f"two of its channels are named {twice[0]}")
    if len(names) != n_chans:
        raise cannot(path, f"{series.name} has {n_chans} channels, {len(names)} named")
    scale = np.full(n_chans, data.attrs.get("conversion", 1.0), float)
    if isinstance(own := series.get("channel_conversion"), h5py.Dataset):
        scale = scale * own[:]
    offset = np.float64(data.attrs.get("offset", 0.0))

    def read(rows: Sequence[int]) -> Float[np.ndarray, "c T"]:
        try:
            first, last = min(rows), max(rows)
            x = np.array(data[:, first : last + 1], float).T[[r - first for r in rows]]
        except OSError as error:
            raise cannot(path, f"its samples cannot be read: {error}") from error
        return x * scale[list(rows), None] + offset

    return Opened(
        names=names,
        bad=told.bad if told else frozenset(),
        others=[],
        n_samples=n_samples,
        sfreq=_rate(path, series, settings),
        line_freq=None,
        read=read,
        events=[],
    )


def _series(path: Path, file: h5py.File) -> h5py.Group:
    found: list[h5py.Group] = []

    def look(_: str, member: Any) -> None:
        kind = member.attrs.get("neurodata_type")
        if isinstance(member, h5py.Group) and kind == "ElectricalSeries":
            found.append(member)

    for place in ("acquisition", "processing"):
        group = file.get(place)
        if isinstance(group, h5py.Group) and not found:
            group.visititems(look)
    if len(found) != 1:
        names = ", ".join(str(series.name) for series in found)
        raise cannot(
            path, f"it holds {len(found)} ElectricalSeries ({names}); expected one"
        )
    return found[0]


def _names(
    path: Path, file: h5py.File, series: h5py.Group, told: Electrodes | None
) -> list[str]:
    """Of the channels, by the rows of the file's table that they point to."""
    pointer: Any = series.get("electrodes")
    if pointer is None:
        raise cannot(path, f"{series.name} does not point to its electrodes")
    rows = [int(row) for row in pointer[:]]
    if told is not None:
        if lost := [row for row in rows if row not in told.by_index]:
            raise cannot(path, f"the electrode table has no row with index {lost[0]}")
        return [told.by_index[row] for row in rows]
    table: Any = file.get(_TABLE, {})
    column = next((name for name in _NAMES if name in table), None)
    if column is None:
        raise cannot(
            path,
            f"its table of electrodes has no column {' or '.join(_NAMES)}: give "
            "--electrodes",
        )
    every = table[column].asstr()[:]
    if lost := [row for row in rows if not 0 <= row < len(every)]:
        raise cannot(path, f"its table of electrodes has no row {lost[0]}")
    return [str(every[row]) for row in rows]


def _rate(path: Path, series: h5py.Group, settings: Settings) -> float:
    start: Any = series.get("starting_time")
    told = start.attrs.get("rate") if start is not None else None
    told = settings.source_sfreq if told is None else told
    if told is None:
        raise cannot(
            path,
            f"{series.name} has times of samples and no rate: give --source-sfreq",
        )
    if not 1 <= float(told) <= 1e6:
        raise cannot(path, f"{series.name} gives {float(told):g} Hz")
    return float(told)
