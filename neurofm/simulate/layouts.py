"""Where simulated sensors sit: caps of rings about the vertex, and one helmet.

Axis letters: C sensors.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from neurofm.signals.meeg import EEG, GRAD, MAG

Name = Literal["eeg19", "eeg32", "eeg64", "meg306"]
NAMES: tuple[Name, ...] = get_args(Name)

# Electrodes in each ring, and the ring's angle from the vertex in degrees.
_RINGS = {
    "eeg19": ((1, 8, 10), (0, 45, 90)),
    "eeg32": ((1, 6, 11, 14), (0, 31, 62, 93)),
    "eeg64": ((1, 7, 14, 19, 23), (0, 25, 50, 75, 100)),
}
_PLACES, _HELMET_RADIUS, _HELMET_ANGLE = 102, 0.118, 110  # m, degrees from the vertex


@dataclass(frozen=True)
class Layout:
    """A cap or a helmet before anyone wears it.

    Attributes:
      kind: `EEG`, `MAG` or `GRAD` of `neurofm.signals.meeg`.
      coil: MNE's names of the coil types, "EEG" for electrodes.
      place: unit directions of electrodes, positions of coils in m, x to the right, y
        to the front, z up.
      frames: rows are a coil's x axis, y axis and normal; zeros for electrodes.
    """

    names: tuple[str, ...]
    kind: Int[np.ndarray, " C"]
    coil: tuple[str, ...]
    place: Float[np.ndarray, "C 3"]
    frames: Float[np.ndarray, "C 3 3"]


def layout(name: Name) -> Layout:
    """The layout of a name."""
    return _helmet() if name == "meg306" else _cap(*_RINGS[name])


def _cap(counts: tuple[int, ...], angles: tuple[int, ...]) -> Layout:
    """Rings of evenly spaced electrodes, every second one turned by half a step."""
    place = np.concatenate(
        [
            _directions(np.full(n, angle), 360 * (np.arange(n) + i % 2 / 2) / n)
            for i, (n, angle) in enumerate(zip(counts, angles, strict=True))
        ]
    )
    n = len(place)
    names = tuple(f"E{i + 1}" for i in range(n))
    return Layout(names, np.full(n, EEG), ("EEG",) * n, place, np.zeros((n, 3, 3)))


def _helmet() -> Layout:
    """102 places in a spiral, each with a magnetometer and two planar gradiometers."""
    share = (np.arange(_PLACES) + 0.5) / _PLACES
    height = 1 - share * (1 - np.cos(np.deg2rad(_HELMET_ANGLE)))
    golden = 180 * (3 - np.sqrt(5))
    out = _directions(np.rad2deg(np.arccos(height)), golden * np.arange(_PLACES))
    x = np.cross([0.0, 1.0, 0.0], out)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.cross(out, x)
    frames = np.stack([[x, y, out], [x, y, out], [y, -x, out]])  # [3, 3, 102, 3]
    kinds = ((MAG, "VV_MAG_T3"), (GRAD, "VV_PLANAR_T1"), (GRAD, "VV_PLANAR_T1"))
    return Layout(
        tuple(f"MEG{i + 1:03d}{j + 1}" for j in range(3) for i in range(_PLACES)),
        np.repeat([kind for kind, _ in kinds], _PLACES),
        tuple(coil for _, coil in kinds for _ in range(_PLACES)),
        np.tile(_HELMET_RADIUS * out, (3, 1)),
        frames.swapaxes(1, 2).reshape(-1, 3, 3),
    )


def _directions(
    polar: Float[np.ndarray, " C"] | Int[np.ndarray, " C"], turn: np.ndarray
) -> Float[np.ndarray, "C 3"]:
    """Unit vectors at an angle from the vertex and, from the front, to the left."""
    polar, turn = np.deg2rad(polar), np.deg2rad(turn)
    flat = np.sin(polar)
    return np.stack([-flat * np.sin(turn), flat * np.cos(turn), np.cos(polar)], 1)
