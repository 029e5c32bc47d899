"""Simulated people: a head, what it wears, and what its sensors always measure.

Axis letters: C sensors, P dipoles, F frequencies.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from neurofm.signals.meeg import EEG, GRAD, MAG
from neurofm.simulate import eeg_sphere, layouts, meg_sphere

Part = Literal["stream", "train", "valid", "test"]
PARTS: tuple[Part, ...] = ("stream", "train", "valid", "test")

HEAD_RADIUS = (0.085, 0.095)  # m
JITTER = 0.005  # m, root mean square
DEPTH = (
    0.5,
    0.8,
)  # distance of dipoles from the centre, as a share of the head's radius
N_BACKGROUND = 300
BACKGROUND = (10e-6, 20e-6)  # V of EEG, root mean square over sensors and time
ALPHA_HZ = (8.5, 11.5)
AMPLIFIER = 0.5e-6  # V of noise of each electrode
DENSITY = {MAG: 3e-15, GRAD: 3e-13}  # noise of coils: 3 fT/sqrt(Hz), or as much per cm
HEART = {EEG: 4e-6, MAG: 5e-13, GRAD: 2e-12}  # at the peak of a beat
LINE = {EEG: 2e-6, MAG: 2e-13, GRAD: 1e-12}
BLINK = (60e-6, 150e-6)  # V at the electrode that sees most of it

_EYES = np.array([[-0.35, 0.88, -0.3], [0.35, 0.88, -0.3]])  # directions
_EYE_AXIS = np.array([0.0, 0.6, 0.8])


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What stays the same in all recordings of a person.

    Attributes:
      name: part and number.
      radius: of the head in m.
      layout: the sensors before anyone wears them.
      place: the sensors in m, the head's centre at zero: every electrode shifted on the
        scalp, a helmet as a whole.
      gain: of the background dipoles, in V, T or T/m per standard deviation of a moment
        without alpha.
      alpha: of each background dipole, power of its alpha beside its other activity.
      alpha_hz, heart_hz, line_hz: frequencies.
      noise: of each sensor, standard deviation up to 1 Hz in V, T or T/m.
      blink, heart, line: what the sensors see at the peak of each, in V, T or T/m.
    """

    name: str
    radius: float
    layout: layouts.Layout
    place: Float[np.ndarray, "C 3"]
    gain: Float[np.ndarray, "C P"]
    alpha: Float[np.ndarray, " P"]
    alpha_hz: float
    heart_hz: float
    line_hz: float
    blink: Float[np.ndarray, " C"]
    heart: Float[np.ndarray, " C"]
    line: Float[np.ndarray, " C"]

    @property
    def pos(self) -> Float[np.ndarray, "C 6"]:
        """Positions in m; normals of magnetometers, x axes of gradiometers, zeros."""
        kind = self.layout.kind[:, None]
        frames = self.layout.frames
        axis = np.where(kind == MAG, frames[:, 2], frames[:, 0])
        return np.concatenate([self.place, axis], 1).astype(np.float32)

    def noise(self, sfreq: float) -> Float[np.ndarray, " C"]:
        """Standard deviation of each sensor's own noise below `sfreq` / 2."""
        scale = {kind: x * np.sqrt(sfreq / 2) for kind, x in DENSITY.items()}
        return _by_kind(self.layout.kind, {EEG: AMPLIFIER, **scale})

    def measured(
        self, dipoles: Float[np.ndarray, "P 3"], axes: Float[np.ndarray, "P 3"]
    ) -> Float[np.ndarray, "C P"]:
        """What each sensor sees of dipoles along unit axes, per A m."""
        return _measured(self.layout, self.place, self.radius, dipoles, axes)


def dipoles(
    rng: np.random.Generator, n: int, radius: float
) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, "P 3"]]:
    """Positions in the upper head (m) and unit axes of any direction."""
    out, axes = _unit(rng.standard_normal((2, n, 3)))
    out[:, 2] = np.where(out[:, 2] < -0.3, -out[:, 2], out[:, 2])
    return out * radius * rng.uniform(*DEPTH, (n, 1)), axes


@functools.lru_cache(maxsize=256)
def subject(seed: int, part: Part, number: int, name: layouts.Name) -> Subject:
    """One person of a part of the data, wearing a layout."""
    rng = np.random.default_rng([seed, PARTS.index(part), number, 1])
    radius = rng.uniform(*HEAD_RADIUS)
    places, axes = dipoles(rng, N_BACKGROUND, radius)
    rear = places[:, 1] < -0.2 * radius
    alpha = np.where(rear, rng.exponential(2.0, N_BACKGROUND), 0)
    worn = layouts.layout(name)
    place = _worn(rng, worn, radius)
    # Moments are such as a dense cap would see them, whatever is worn.
    cap = layouts.layout("eeg64")
    dense = radius * cap.place
    seen = _measured(cap, dense, radius, places, axes)
    power = (seen**2 @ (1 + alpha)).mean()
    moment = rng.uniform(*BACKGROUND) / np.sqrt(power)
    eyes, gaze = 0.8 * radius * _unit(_EYES), np.tile(_EYE_AXIS, (2, 1))
    at_eyes = np.abs(_measured(cap, dense, radius, eyes, gaze).sum(1)).max()
    blink = rng.uniform(*BLINK) / at_eyes
    axis = _unit(rng.standard_normal(3))
    kind = worn.kind
    facing = np.where((kind == EEG)[:, None], _unit(place), worn.frames[:, 2]) @ axis
    rough = 1 + 0.3 * rng.standard_normal(len(kind))
    return Subject(
        name=f"{part}_{number:02d}",
        radius=radius,
        layout=worn,
        place=place,
        gain=moment * _measured(worn, place, radius, places, axes),
        alpha=alpha,
        alpha_hz=rng.uniform(*ALPHA_HZ),
        heart_hz=rng.uniform(50, 85) / 60,
        line_hz=float(rng.choice([50, 60])),
        blink=blink * _measured(worn, place, radius, eyes, gaze).sum(1),
        heart=_referenced(_by_kind(kind, HEART) * facing, kind),
        line=_referenced(_by_kind(kind, LINE) * rough * facing, kind),
    )


def _worn(
    rng: np.random.Generator, worn: layouts.Layout, radius: float
) -> Float[np.ndarray, "C 3"]:
    if worn.kind[0] != EEG:
        return worn.place + rng.standard_normal(3) * JITTER / np.sqrt(3)
    shift = rng.standard_normal(worn.place.shape) * JITTER / np.sqrt(2)
    shift -= (shift * worn.place).sum(1, keepdims=True) * worn.place
    return radius * _unit(radius * worn.place + shift)


def _measured(
    worn: layouts.Layout,
    place: Float[np.ndarray, "C 3"],
    radius: float,
    dipoles: Float[np.ndarray, "P 3"],
    axes: Float[np.ndarray, "P 3"],
) -> Float[np.ndarray, "C P"]:
    gain = np.empty((len(place), len(dipoles)))
    for kind in np.unique(worn.kind):
        of = worn.kind == kind
        if kind == EEG:
            field = eeg_sphere.potential(place[of], dipoles, radius)
        else:
            coil: meg_sphere.Coil = "mag" if kind == MAG else "grad"
            field = meg_sphere.measured(place[of], worn.frames[of], dipoles, coil)
        gain[of] = np.einsum("cpq,pq->cp", field, axes)
    return _referenced(gain, worn.kind)


def _referenced(x: Float[np.ndarray, "C ..."], kind: Int[np.ndarray, " C"]):
    """Electrodes against their mean, coils as they are."""
    eeg = (kind == EEG).reshape(-1, *[1] * (x.ndim - 1))
    return np.where(eeg, x - x.mean(0, where=eeg, keepdims=True), x) if eeg.any() else x


def _by_kind(kind: Int[np.ndarray, " C"], values: dict[int, float]):
    return np.select([kind == k for k in values], list(values.values()))


def _unit(x: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
