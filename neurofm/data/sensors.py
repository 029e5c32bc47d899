"""Where the sensors of a recording are, and the table that keeps each layout once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from neurofm.errors import NeuroFMError
from neurofm.signals.meeg import KINDS

_COORDS = ("x", "y", "z", "ox", "oy", "oz")
TABLE = pa.schema(
    [("layout", pa.string()), ("name", pa.string()), ("kind", pa.string())]
    + [(coord, pa.float32()) for coord in _COORDS]
    + [("coil", pa.string()), ("frame", pa.string())]
)


@dataclass(frozen=True, eq=False)
class Sensors:
    """The channels of one recording, in its order.

    Attributes:
      names: of the channels, each once.
      kind: ids of `signals.meeg`: EEG, MAG, GRAD.
      pos: x, y, z in metres, then three numbers of orientation: zeros for EEG, the
        normal of a magnetometer's or axial gradiometer's coil, the first in-plane axis
        of a planar gradiometer's.
      coil: names of coil types; empty for EEG.
      frame: of the coordinates, `head`; or `released`, EEG in head and MEG in device
        coordinates.
    """

    names: tuple[str, ...]
    kind: Int[np.ndarray, " C"]
    pos: Float32[np.ndarray, "C 6"]
    coil: tuple[str, ...]
    frame: str = "head"

    def __post_init__(self):
        if len(set(self.names)) < len(self.names):
            twice = next(n for n in self.names if self.names.count(n) > 1)
            raise NeuroFMError(
                f"two channels are named {twice!r}: give each a name of its own"
            )
        if not np.isfinite(self.pos).all():
            lost = self.names[int(np.flatnonzero(~np.isfinite(self.pos).all(1))[0])]
            raise NeuroFMError(
                f"the position of channel {lost} is not known: give a montage that "
                "has it, or leave the channel out"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def layout(self) -> str:
        """A name that layouts share where all of the above is equal."""
        digest = hashlib.sha256()
        words = (*self.names, *self.coil, self.frame)
        digest.update("\0".join(words).encode())
        digest.update(self.kind.astype("<i4").tobytes())
        digest.update(self.pos.astype("<f4").tobytes())
        return digest.hexdigest()[:16]

    def take(self, rows: Iterable[int]) -> "Sensors":
        """Some of the channels, in the order given."""
        rows = list(rows)
        return Sensors(
            tuple(self.names[i] for i in rows),
            self.kind[rows],
            self.pos[rows],
            tuple(self.coil[i] for i in rows),
            self.frame,
        )


def to_table(layouts: Iterable[Sensors]) -> pa.Table:
    """Layouts as rows of `TABLE`, each once, in the order met."""
    columns: dict[str, list] = {name: [] for name in TABLE.names}
    for layout, sensors in {s.layout: s for s in layouts}.items():
        columns["layout"] += [layout] * len(sensors)
        columns["name"] += sensors.names
        columns["kind"] += [KINDS[k] for k in sensors.kind]
        for coord, values in zip(_COORDS, sensors.pos.T, strict=True):
            columns[coord] += values.tolist()
        columns["coil"] += sensors.coil
        columns["frame"] += [sensors.frame] * len(sensors)
    return pa.table(columns, TABLE)


def from_table(table: pa.Table) -> dict[str, Sensors]:
    """The layouts of a table by name.

    Raises:
      KeyError, ValueError: the table was not written by `to_table`, or changed since.
    """
    names = np.array(table["layout"].to_pylist(), object)
    out = {}
    for layout in dict.fromkeys(names):
        rows = table.filter(pa.array(names == layout))
        columns = {name: rows[name].to_pylist() for name in TABLE.names}
        sensors = Sensors(
            names=tuple(columns["name"]),
            kind=np.array([KINDS.index(k) for k in columns["kind"]], np.int32),
            pos=np.array([columns[c] for c in _COORDS], np.float32).T,
            coil=tuple(columns["coil"]),
            frame=columns["frame"][0],
        )
        if sensors.layout != layout:
            raise ValueError(f"the sensors of layout {layout} are not those written")
        out[layout] = sensors
    return out
