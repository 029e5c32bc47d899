"""HDF5 of many recordings stacked, as Brain-Semantoks has them.

`timeseries/<atlas>` are (recordings, regions, volumes), NaN after the end of a
recording; `long_subject_id` names subjects, `ts_len` may tell how many volumes there
are. Atlases lie side by side, in the published order where they are known.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

GROUP = "timeseries"
_ORDER = ("schaefer400", "tian3", "buckner7")
PREFIX = "recording-"


def atlases(path: Path) -> list[str]:
    """Names of the atlases; none where the file is of another layout."""
    with h5py.File(path) as file:
        group = file.get(GROUP)
        if not isinstance(group, h5py.Group):
            return []
        held: dict[str, Any] = dict(group.items())
        names = [n for n, x in held.items() if getattr(x, "ndim", 0) == 3]
        shapes = {(held[n].shape[0], held[n].shape[2]) for n in names}
    if len(shapes) != 1:
        return []
    place = {name: i for i, name in enumerate(_ORDER)}
    return sorted(names, key=lambda name: (place.get(name, len(place)), name))


def parts(path: Path, names: list[str]) -> list[str]:
    """A name for every recording."""
    with h5py.File(path) as file:
        stack: Any = file[f"{GROUP}/{names[0]}"]
        n = stack.shape[0]
    return [f"{PREFIX}{i:05d}" for i in range(n)]


def read(
    path: Path, part: str, names: list[str]
) -> tuple[Float[np.ndarray, "P N"], tuple[str, ...], dict[str, str], Any]:
    """Samples of a recording, names of its regions, columns, and what tells its TR."""
    row = int(part.removeprefix(PREFIX))
    with h5py.File(path) as file:
        held: Any = file
        stacks = [np.asarray(held[f"{GROUP}/{name}"][row]) for name in names]
        columns = {}
        if "long_subject_id" in held:
            subject = held["long_subject_id"][row]
            told = subject.decode() if isinstance(subject, bytes) else str(subject)
            columns["subject"] = told
        length = int(held["ts_len"][row]) if "ts_len" in held else None
        tr = held.attrs.get("tr")
    regions = tuple(
        f"{name}-{i + 1:03d}"
        for name, x in zip(names, stacks, strict=True)
        for i in range(len(x))
    )
    return np.concatenate(stacks)[:, :length].astype(np.float32), regions, columns, tr
