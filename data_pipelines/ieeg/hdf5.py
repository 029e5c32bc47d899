"""HDF5 of one dataset an electrode, as Brain Treebank has it.

`data/electrode_<i>` are the samples of an electrode. A table names the electrodes, see
`opened.electrodes`. The file may have the attributes `sfreq` (Hz) and `unit`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from data_pipelines.ieeg.opened import Electrodes, Opened, cannot
from data_pipelines.ieeg.settings import Settings, factor
from neurofm.errors import NeuroFMError

_ELECTRODE = re.compile(r"electrode_(\d+)")


def of_hdf5(
    path: Path, file: h5py.File, told: Electrodes | None, settings: Settings
) -> Opened:
    """The electrodes of a file, in the order of their numbers.

    Raises:
      Unreadable: it is of another layout, or does not tell what must be known.
    """
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
