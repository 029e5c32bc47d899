"""Films whose text, sound and pictures follow the same scenes, and features of them.

What happens in a film is a few latent processes that change in 1 to 20 s: shared ones,
which all modalities tell, and private ones of each modality. Features are mixtures of
those that a modality tells, in two groups of layers. Brains (`film_brains`) follow two
read-outs of each modality, which a linear map finds in its features; modalities are
correlated through what they share.

Axis letters: M modalities, K latents of one modality (shared, then private), D features
of one (layer after layer), R read-outs of one, T steps.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter

MODALITIES = ("text", "audio", "video")
SFREQ = 2.0  # Hz, of the features
LAYERS, WIDTH = 2, 8
SHARED, PRIVATE, READ_OUTS = 6, 3, 2
CHANGE_S = (1.0, 20.0)  # time constants
SHARED_POWER = 0.5  # of a read-out's variance
FEATURE_NOISE = 0.1  # deviation, of features of about 1

_WORLD, _FILM = 0, 1  # purposes of random numbers


@dataclass(frozen=True)
class World:
    """How latents become features and read-outs: the same in all films."""

    mixing: Float[np.ndarray, "M D K"]
    read_outs: Float[np.ndarray, "M R K"]


@dataclass(frozen=True)
class Film:
    """Features of a film, and what brains follow in it: variance 1 each."""

    features: Float[np.ndarray, "M D T"]
    read_outs: Float[np.ndarray, "M R T"]


def world(seed: int) -> World:
    """Draw what all films of a seed have in common.

    The two read-outs of a modality are uncorrelated, and half of their variance is in
    the latents that other modalities tell too.
    """
    rng = np.random.default_rng([seed, _WORLD])
    n_modalities, n_latents = len(MODALITIES), SHARED + PRIVATE
    mixing = rng.standard_normal((n_modalities, LAYERS * WIDTH, n_latents))
    shares = ((SHARED, SHARED_POWER), (PRIVATE, 1 - SHARED_POWER))
    read_outs = [
        np.hstack(
            [np.sqrt(power) * orthonormal(rng, n, READ_OUTS) for n, power in shares]
        )
        for _ in range(n_modalities)
    ]
    return World(mixing / np.sqrt(n_latents), np.stack(read_outs))


def orthonormal(rng: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """Rows of a random rotation of `n` dimensions, [rows, n]."""
    return np.linalg.qr(rng.standard_normal((n, rows)))[0].T


def film(world: World, seed: int, number: int, duration_s: float) -> Film:
    """Film `number` of a seed, whatever other films there are."""
    rng = np.random.default_rng([seed, _FILM, number])
    n_steps = round(duration_s * SFREQ)
    shared = latents(rng, SHARED, n_steps)
    told = np.stack(
        [np.concatenate([shared, latents(rng, PRIVATE, n_steps)]) for _ in MODALITIES]
    )
    features = world.mixing @ told
    features += FEATURE_NOISE * rng.standard_normal(features.shape)
    return Film(features.astype(np.float32), world.read_outs @ told)


def latents(rng: np.random.Generator, n: int, n_steps: int) -> Float[np.ndarray, "n T"]:
    """Gaussian processes of variance 1 whose autocorrelation is exp(-t / constant).

    Their time constants go through `CHANGE_S` in equal ratios.
    """
    keep = np.exp(-1 / (SFREQ * np.geomspace(*CHANGE_S, n)))
    drawn = rng.standard_normal((n, n_steps))
    steps = drawn * np.sqrt(1 - keep**2)[:, None]
    steps[:, 0] = drawn[:, 0]  # stationary from the start
    rows = [lfilter([1.0], [1.0, -k], x) for k, x in zip(keep, steps, strict=True)]
    return np.stack(rows)
