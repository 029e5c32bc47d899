"""Words that an electrode group hears as orders of units, for Du-IN.

A unit is a spatial pattern over the channels at the frequencies of one band: a short
burst whose frequency and phase are drawn anew each time. A word is an order of three
units; several words have the same units, so that power over the whole trial tells the
set and not the order. Onsets and gaps vary from trial to trial.

Axis letters: C channels, U units, S units of a word, W words, N samples.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

SFREQ = 400
N_CHANS = 10
BANDS_HZ = ((13.0, 30.0), (30.0, 50.0), (70.0, 110.0))
N_PATTERNS = 4  # each in every band
N_UNITS = N_PATTERNS * len(BANDS_HZ)
UNIT_S = 0.25
WORD_UNITS = 3
N_SETS, N_ORDERS = 6, 4  # sets of units, and words of each
N_WORDS = N_SETS * N_ORDERS
TRIAL_S = 2.0
ONSET_S = (0.2, 0.7)
GAP_S = (0.0, 0.15)  # between units
PAUSE_S = (0.2, 0.6)  # between words that follow each other
SNR_DB = 13.0  # power of a burst over that of the background in its band, at its peak
RMS_V = 2e-5  # of a channel
SHARED = 0.3  # of the background's amplitude, from neighbouring channels
CORNER_HZ = 10.0  # of a background of 1/f; flat below

_WORLD, _TRIAL = 0, 1  # purposes of random numbers


@dataclass(frozen=True)
class World:
    """What all recordings of a seed share.

    Attributes:
      patterns: of every unit, of unit length.
      bands: of every unit, its place in `BANDS_HZ`.
      words: units of every word in their order; words of one set lie side by side.
      mixing: of independent 1/f noises to the background of the channels.
    """

    patterns: Float[np.ndarray, "U C"]
    bands: Int[np.ndarray, " U"]
    words: Int[np.ndarray, "W S"]
    mixing: Float[np.ndarray, "C C"]


@dataclass(frozen=True)
class Spoken:
    """A recording in V, and when which unit begins in it (samples)."""

    samples: Float[np.ndarray, "C N"]
    units: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " n"]


def world(seed: int) -> World:
    """Draw units, words and background.

    Sets of units differ; orders of a set too, and no order is another one's start.
    """
    rng = np.random.default_rng([seed, _WORLD])
    pattern = rng.standard_normal((N_PATTERNS, N_CHANS))
    pattern /= np.linalg.norm(pattern, axis=1, keepdims=True)
    bands = np.repeat(np.arange(len(BANDS_HZ)), N_PATTERNS)
    sets: list[tuple[int, ...]] = []
    while len(sets) < N_SETS:
        drawn = tuple(sorted(rng.choice(N_UNITS, WORD_UNITS, replace=False).tolist()))
        sets += [] if drawn in sets else [drawn]
    words = [
        order
        for units in sets
        for order in rng.permutation(list(permutations(units)))[:N_ORDERS]
    ]
    near = np.eye(N_CHANS, k=1) + np.eye(N_CHANS, k=-1)
    return World(
        patterns=np.tile(pattern, (len(BANDS_HZ), 1)),
        bands=bands,
        words=np.array(words),
        mixing=np.eye(N_CHANS) + SHARED * near,
    )


def set_of(word: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The set of a word's units."""
    return word // N_ORDERS


def trial(world: World, seed: int, number: int, word: int) -> Spoken:
    """Trial `number` of a seed, in which a word is heard once."""
    rng = np.random.default_rng([seed, _TRIAL, number])
    onset = rng.uniform(*ONSET_S)
    starts = _unit_starts(rng, onset)
    return _recorded(world, rng, TRIAL_S, world.words[word], starts)


def stream(world: World, seed: int, number: int, duration_s: float) -> Spoken:
    """Recording `number` without labels: words drawn alike, one after another."""
    rng = np.random.default_rng([seed, _TRIAL, number])
    units: list[int] = []
    starts: list[float] = []
    at = rng.uniform(*PAUSE_S)
    while True:
        drawn = _unit_starts(rng, at)
        if drawn[-1] + UNIT_S > duration_s:
            break
        units += world.words[rng.integers(N_WORDS)].tolist()
        starts += drawn.tolist()
        at = drawn[-1] + UNIT_S + rng.uniform(*PAUSE_S)
    return _recorded(world, rng, duration_s, np.array(units), np.array(starts))


def spectrum(hz: Float[np.ndarray, " F"]) -> Float[np.ndarray, " F"]:
    """Power of the background over frequencies, up to a factor."""
    return 1 / (hz + CORNER_HZ)


def envelope() -> Float[np.ndarray, " N"]:
    """Of a burst: a sine's half wave."""
    n = round(UNIT_S * SFREQ)
    return np.sin(np.pi * (np.arange(n) + 0.5) / n)


def amplitude(world: World) -> Float[np.ndarray, " B"]:
    """Of a burst along its pattern, by band, where the background has deviation 1."""
    hz = np.fft.rfftfreq(round(TRIAL_S * SFREQ), 1 / SFREQ)
    power = spectrum(hz) / spectrum(hz).sum()
    inside = [(hz >= low) & (hz < high) for low, high in BANDS_HZ]
    background = np.array([power[band].sum() for band in inside])
    return np.sqrt(2 * N_CHANS * background * 10 ** (SNR_DB / 10))


def _unit_starts(rng: np.random.Generator, onset: float) -> Float[np.ndarray, " S"]:
    gaps = rng.uniform(*GAP_S, WORD_UNITS - 1)
    return onset + np.concatenate([[0], np.cumsum(UNIT_S + gaps)])


def _recorded(
    world: World,
    rng: np.random.Generator,
    duration_s: float,
    units: Int[np.ndarray, " n"],
    starts_s: Float[np.ndarray, " n"],
) -> Spoken:
    n = round(duration_s * SFREQ)
    starts = np.round(starts_s * SFREQ).astype(int)
    x = background(world, rng, n)
    shape, size = envelope(), amplitude(world)
    t = np.arange(len(shape)) / SFREQ
    for unit, start in zip(units, starts, strict=True):
        band = world.bands[unit]
        hz, phase = rng.uniform(*BANDS_HZ[band]), rng.uniform(0, 2 * np.pi)
        burst = size[band] * shape * np.cos(2 * np.pi * hz * t + phase)
        x[:, start : start + len(burst)] += np.outer(world.patterns[unit], burst)
    return Spoken((RMS_V * x).astype(np.float32), units, starts)


def background(
    world: World, rng: np.random.Generator, n: int
) -> Float[np.ndarray, "C N"]:
    """Gaussian noise with a spectrum of 1/f, of variance 1 on average over channels."""
    hz = np.fft.rfftfreq(n, 1 / SFREQ)
    white = np.fft.rfft(rng.standard_normal((N_CHANS, n)))
    power = spectrum(hz) / spectrum(hz).mean()
    return np.linalg.cholesky(covariance(world)) @ np.fft.irfft(
        white * np.sqrt(power), n
    )


def covariance(world: World) -> Float[np.ndarray, "C C"]:
    """Of the background over channels: variance 1 on average."""
    among = world.mixing @ world.mixing.T
    return among * N_CHANS / np.trace(among)
