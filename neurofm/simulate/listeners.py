"""Brains that follow stories of generated sounds, with known truth.

A story is clips of `sounds`, one a volume, whose class often stays for the next. A
region follows the class of the sound, its pitch, or nothing; blood delays and smooths
that, and noise is added until the share of variance that follows the story is the
region's ceiling.

Axis letters: n clips and volumes of a story, N samples of it, P regions, K classes.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.signal import fftconvolve

from neurofm.simulate import film, film_brains, sounds

TR_S = sounds.N_SAMPLES / sounds.SFREQ
STAYS = 0.5  # chance that the next clip is of the same class
SHARES = {"class": 0.6, "pitch": 0.2, "null": 0.2}
_STEPS = round(TR_S * film.SFREQ)  # of the response, in a volume
_STORY, _REGIONS, _NOISE = 5, 6, 7  # purposes of random numbers


@dataclass(frozen=True)
class Listener:
    """What is true of a person's regions.

    Attributes:
      kind: what a region follows.
      weights: of the classes; their mean is 0.
      peak_s: when the response to a moment is highest.
      ceiling: variance that follows the story; 0 of nulls.
    """

    kind: Shaped[np.ndarray, " P"]
    weights: Float[np.ndarray, "P K"]
    peak_s: Float[np.ndarray, " P"]
    ceiling: Float[np.ndarray, " P"]


def listener(seed: int, subject: int, n_regions: int = 40) -> Listener:
    """Draw a person; kinds of regions have their shares exactly, up to rounding."""
    rng = np.random.default_rng([seed, _REGIONS, subject])
    counts = np.diff(np.round(np.cumsum([0.0, *SHARES.values()]) * n_regions))
    kind = rng.permutation(np.repeat(list(SHARES), counts.astype(int)))
    weights = rng.standard_normal((n_regions, len(sounds.CLASSES)))
    ceiling = np.where(kind == "null", 0, rng.uniform(0.4, 0.8, n_regions))
    peak_s = rng.uniform(*film_brains.PEAK_S, n_regions)
    weights -= weights.mean(1, keepdims=True)
    return Listener(kind, weights, peak_s, ceiling)


@dataclass(frozen=True)
class Story:
    """A sound of n volumes, and the class and octaves of pitch of each."""

    wave: Float[np.ndarray, " N"]
    label: Int[np.ndarray, " n"]
    octaves: Float[np.ndarray, " n"]


def story(seed: int, number: int, n: int) -> Story:
    """Story `number` of a seed; its clips are in no part of `sounds` that is asked for.

    They are clips of the stream, from a million on.
    """
    rng = np.random.default_rng([seed, _STORY, number])
    drawn = sounds.draw(n, seed, "stream", 1_000_000 + 10_000 * number)
    label = rng.integers(0, len(sounds.CLASSES), n)
    for i in np.flatnonzero(rng.random(n - 1) < STAYS):
        label[i + 1] = label[i]
    drawn = dataclasses.replace(drawn, label=label)
    parts = [
        sounds.render(drawn.take(np.arange(i, min(i + 20, n))), seed, "stream")
        for i in range(0, n, 20)
    ]
    return Story(np.concatenate(parts).ravel(), label, np.log2(drawn.f0 / 200))


def response(who: Listener, heard: Story) -> Float[np.ndarray, "P n"]:
    """What blood makes of a story at the middles of volumes: variance 1, no noise."""
    follows = {
        "class": who.weights[:, heard.label],
        "pitch": np.broadcast_to(heard.octaves, (len(who.kind), len(heard.octaves))),
    }
    drive = np.zeros((len(who.kind), len(heard.label)))
    for kind, of in follows.items():
        drive[who.kind == kind] = of[who.kind == kind]
    steps = np.repeat(drive, _STEPS, axis=1)
    kernels = film_brains.haemodynamic(who.peak_s)
    flow = fftconvolve(steps, kernels, axes=1)[:, : steps.shape[1]]
    made = flow[:, _STEPS // 2 :: _STEPS]
    made = made - made.mean(1, keepdims=True)
    size = made.std(1, keepdims=True)
    return np.divide(made, size, out=np.zeros_like(made), where=size > 1e-9)


def recorded(
    who: Listener, heard: Story, seed: int, run: int
) -> Float[np.ndarray, "P n"]:
    """A run of a person who listens, of variance 1; `run` draws the noise."""
    rng = np.random.default_rng([seed, _NOISE, run])
    signal = response(who, heard)
    share = who.ceiling[:, None]
    other = film_brains.noise(rng, *signal.shape)
    return np.sqrt(share) * signal + np.sqrt(1 - share) * other
