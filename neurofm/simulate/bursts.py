"""Intracranial contacts whose label is in the order of two kinds of bursts.

Over a background whose power falls with frequency lie pairs of noise bursts, one of 15
to 32 Hz and one of 70 to 150 Hz; the label is which of both leads, by 0.18 s. Where the
first pair lies is uniform over the recording, which is a circle: neither band alone
tells the label, and no place in time either, so that whatever is linear in the trace or
in its spectrogram is blind. Contacts that are not responsive have background alone.

Axis letters: C contacts, N samples, P pairs.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from neurofm.errors import NeuroFMError

Part = Literal["stream", "train", "valid", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
LABELS = ("low first", "high first")
SFREQ = 512
BANDS_HZ = ((15.0, 32.0), (70.0, 150.0))
LEAD_S = 0.18
WIDTH_S = 0.045  # deviation of a burst's Gaussian envelope
PAIR_S = 1.0  # from a pair to the next, on average
JITTER_S = 0.3  # at most, of a pair from its place
EXPONENT = (0.8, 1.6)  # of the background's amplitude, by subject
AMPLITUDE_V = 5e-5
LOWEST_HZ = 1.0  # below, the background has no power
LOUD_DB = (12.0, 18.0)  # of a burst's middle over the background of its band

_SUBJECT, _RECORDING = 0, 1  # purposes of random numbers


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is recorded.

    Attributes:
      responsive: share of the contacts in which bursts are seen.
      loud_db: range of the middle of bursts over the background of their band, drawn
        for each subject and band.
    """

    responsive: float = 1.0
    loud_db: tuple[float, float] = LOUD_DB

    def __post_init__(self):
        if not 0 < self.responsive <= 1:
            raise NeuroFMError(
                f"the share of responsive contacts is {self.responsive}: give more "
                "than 0 and at most 1"
            )
        if not self.loud_db[0] <= self.loud_db[1]:
            raise NeuroFMError(f"loud_db is {self.loud_db}: give the lower one first")


@dataclass(frozen=True)
class Recorded:
    """One recording, and what is true of it.

    Attributes:
      samples: in V.
      label: number of what leads, see `LABELS`.
      responsive: whether a contact shows the bursts.
      times_s: middles of the pairs.
    """

    samples: Float[np.ndarray, "C N"]
    label: int
    responsive: Int[np.ndarray, " C"]
    times_s: Float[np.ndarray, " P"]


def record(
    seed: int,
    part: Part,
    subject: int,
    number: int,
    n_contacts: int,
    duration_s: float,
    design: Design,
) -> Recorded:
    """Recording `number` of a subject of a part, whatever others there are.

    Labels take turns, so that a subject has as many of each.
    """
    who = [seed, PARTS.index(part), subject]
    own = np.random.default_rng([*who, _SUBJECT])
    exponent = own.uniform(*EXPONENT)
    loud = 10 ** (own.uniform(*design.loud_db, len(BANDS_HZ)) / 20)
    rng = np.random.default_rng([*who, _RECORDING, number])
    n, label = round(duration_s * SFREQ), number % len(LABELS)
    times = pair_times(rng, duration_s)
    x = background(rng, n_contacts, n, exponent)
    heard = rng.random(n_contacts) < design.responsive
    for band, gain, moment in zip(BANDS_HZ, loud, middles(times, label), strict=True):
        level = gain * banded(x, band).std(1, keepdims=True)
        carrier = banded(rng.standard_normal(x.shape), band)
        carrier /= carrier.std(1, keepdims=True)
        x = x + heard[:, None] * level * envelope(moment, n) * carrier
    x *= AMPLITUDE_V / x.std(1, keepdims=True)
    return Recorded(x.astype(np.float32), label, heard.astype(int), times)


def pair_times(rng: np.random.Generator, duration_s: float) -> Float[np.ndarray, " P"]:
    """Middles of pairs, about evenly spaced around the circle from a uniform start."""
    n = max(round(duration_s / PAIR_S), 1)
    start = rng.uniform(0, duration_s)
    jitter = rng.uniform(-JITTER_S, JITTER_S, n)
    return (start + np.arange(n) * duration_s / n + jitter) % duration_s


def middles(
    times_s: Float[np.ndarray, " P"], label: int
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Of the low and of the high burst of each pair."""
    sign = 1 if label == 0 else -1
    return times_s - sign * LEAD_S / 2, times_s + sign * LEAD_S / 2


def envelope(times_s: Float[np.ndarray, " P"], n: int) -> Float[np.ndarray, " N"]:
    """The sum of all bursts, each of height 1, around the circle."""
    duration = n / SFREQ
    away = (np.arange(n) / SFREQ - times_s[:, None] + duration / 2) % duration
    return np.exp(-0.5 * ((away - duration / 2) / WIDTH_S) ** 2).sum(0)


def background(
    rng: np.random.Generator, n_contacts: int, n: int, exponent: float
) -> Float[np.ndarray, "C N"]:
    """Noise whose amplitude falls as 1 / f^exponent, of deviation 1."""
    hz = np.fft.rfftfreq(n, 1 / SFREQ)
    shape = np.where(hz >= LOWEST_HZ, np.maximum(hz, LOWEST_HZ) ** -exponent, 0)
    drawn = rng.standard_normal((n_contacts, n))
    x = np.fft.irfft(np.fft.rfft(drawn) * shape, n)
    return x / x.std(1, keepdims=True)


def banded(
    x: Float[np.ndarray, "C N"], band: tuple[float, float]
) -> Float[np.ndarray, "C N"]:
    """What lies in a band, around the circle."""
    hz = np.fft.rfftfreq(x.shape[1], 1 / SFREQ)
    inside = (hz >= band[0]) & (hz <= band[1])
    return np.fft.irfft(np.fft.rfft(x) * inside, x.shape[1])


def evidence(x: Float[np.ndarray, "C N"]) -> Float[np.ndarray, " C"]:
    """How much more the high band follows the low one by 0.18 s than precedes it.

    What someone reads who knows the bands, the lead and the width of bursts: power in
    each band under the envelope of a burst, squashed by a logarithm, and its products
    at both leads around the circle.
    """
    n = x.shape[1]
    window = np.fft.rfft(envelope(np.zeros(1), n))
    levels = []
    for band in BANDS_HZ:
        power = np.fft.irfft(np.fft.rfft(banded(x, band) ** 2) * window, n)
        level = np.log(np.maximum(power, 1e-30))
        levels.append(level - level.mean(1, keepdims=True))
    low, high = levels
    lead = round(LEAD_S * SFREQ)
    after = (low * np.roll(high, -lead, 1)).mean(1)
    before = (low * np.roll(high, lead, 1)).mean(1)
    return after - before
