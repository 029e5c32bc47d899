"""Brains that follow simulated films, with known truth.

A parcel follows one modality, or two multiplied, by weights on its read-outs that are
nearly the same in all people; blood delays and smooths that, and noise is added until
the share of variance that follows the film is the parcel's ceiling.

Axis letters: S people, P parcels, M modalities, R read-outs of one, T steps of films, N
volumes.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.signal import fftconvolve, lfilter
from scipy.stats import gamma

from neurofm.simulate import film
from neurofm.simulate.film import MODALITIES, READ_OUTS, Film

Kind = Literal["linear", "compressive", "memory", "product", "null"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARES: dict[Kind, float] = {
    "product": 0.2,
    "compressive": 0.1,
    "memory": 0.1,
    "null": 0.15,
    "linear": 0.45,
}
LINEAR_SHARES: dict[Kind, float] = {"null": 0.15, "linear": 0.85}
TR_S = 1.5
CEILING = (0.1, 0.7)  # explained variance
PEAK_S = (4.0, 7.0)
MEMORY_S = (10.0, 20.0)
OWN_WEIGHTS, OWN_PEAK_S = 0.3, 0.2  # deviations of a person from all others
AR = 0.4  # of the noise, from a volume to the next
DRIFT_POWER, GLOBAL_POWER = 0.15, 0.15  # of the noise's variance

_PARCELS, _SCALE, _RUN = 2, 3, 4  # purposes of random numbers; films have 0 and 1
_SCALE_S = 14_400.0
_RESPONSE_S = 32.0


@dataclass(frozen=True)
class Brains:
    """What is true of every parcel and person.

    Attributes:
      kind: what a parcel makes of what it follows.
      modality: number of the one that it follows; -1 of products and nulls.
      weights: of the read-outs of `modality`; of a product, of the first modality.
      others: of a product, of the second one.
      peak_s: when the response to a moment is highest.
      memory_s: of a parcel with memory, the time that it adapts to.
      ceiling: variance that follows the film, of all; 0 of nulls.
      scale: what makes the variance of the response 1.
    """

    kind: Shaped[np.ndarray, " P"]
    modality: Int[np.ndarray, " P"]
    weights: Float[np.ndarray, "S P R"]
    others: Float[np.ndarray, "S P R"]
    peak_s: Float[np.ndarray, "S P"]
    memory_s: Float[np.ndarray, " P"]
    ceiling: Float[np.ndarray, " P"]
    scale: Float[np.ndarray, "S P"]


PRODUCT = (MODALITIES.index("audio"), MODALITIES.index("video"))


def brains(
    world: film.World,
    seed: int,
    n_subjects: int = 6,
    n_parcels: int = 100,
    shares: dict[Kind, float] = SHARES,
) -> Brains:
    """Draw people; kinds of parcels have their shares exactly, up to rounding."""
    rng = np.random.default_rng([seed, _PARCELS])
    counts = np.diff(np.round(np.cumsum([0.0, *shares.values()]) * n_parcels))
    kind = rng.permutation(np.repeat(list(shares), counts.astype(int)))
    follows = np.isin(kind, ("product", "null"), invert=True)
    modality = np.full(n_parcels, -1)
    modality[follows] = np.arange(follows.sum()) % len(MODALITIES)
    shape = (n_subjects, n_parcels)

    def weights() -> np.ndarray:
        own = rng.standard_normal((*shape, READ_OUTS))
        near = unit(rng.standard_normal((n_parcels, READ_OUTS)))
        return unit(near + OWN_WEIGHTS * own)

    peak_s = rng.uniform(*PEAK_S, n_parcels) + OWN_PEAK_S * rng.standard_normal(shape)
    drawn = Brains(
        kind=kind,
        modality=modality,
        weights=weights(),
        others=weights(),
        peak_s=np.clip(peak_s, *PEAK_S),
        memory_s=rng.uniform(*MEMORY_S, n_parcels),
        ceiling=np.where(kind == "null", 0, rng.uniform(*CEILING, n_parcels)),
        scale=np.ones(shape),
    )
    long = film.film(world, seed, _SCALE_NUMBER, _SCALE_S)
    sizes = [response(drawn, long, s).std(1) for s in range(n_subjects)]
    scale = [np.divide(1, x, out=np.zeros_like(x), where=x > 0) for x in sizes]
    return Brains(**{**vars(drawn), "scale": np.stack(scale)})


_SCALE_NUMBER = 2**31  # of the film that scales are told from, shown to nobody


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# ---- what follows a film -------------------------------------------------------------


def drive(who: Brains, seen: Film, subject: int) -> Float[np.ndarray, "P T"]:
    """What a person's parcels make of a film, before blood; 0 of nulls."""
    first = linear_drive(who, seen, subject)
    out = first.copy()
    rows = who.kind == "compressive"
    out[rows] = np.tanh(2 * first[rows])
    for p in np.flatnonzero(who.kind == "memory"):
        out[p] = adapted(first[p], who.memory_s[p])
    rows = who.kind == "product"
    parts = [
        w[subject, rows] @ seen.read_outs[m]
        for w, m in zip((who.weights, who.others), PRODUCT, strict=True)
    ]
    out[rows] = parts[0] * parts[1]
    return out


def linear_drive(who: Brains, seen: Film, subject: int) -> Float[np.ndarray, "P T"]:
    """What each parcel follows, untouched: 0 of products and nulls.

    A product of two Gaussian processes is uncorrelated with both, and with all that is
    linear in them.
    """
    out = np.zeros((len(who.kind), seen.read_outs.shape[-1]))
    for m in range(len(MODALITIES)):
        rows = who.modality == m
        out[rows] = who.weights[subject, rows] @ seen.read_outs[m]
    return out


def adapted(x: Float[np.ndarray, " T"], memory_s: float) -> Float[np.ndarray, " T"]:
    """Over its own mean size in the last `memory_s`, this step left out."""
    n = round(memory_s * film.SFREQ)
    total = np.concatenate([[0.0], np.cumsum(np.abs(x))])
    steps = np.arange(len(x))
    since = np.maximum(steps - n, 0)
    mean = (total[steps] - total[since]) / n  # before the film nothing was to be seen
    return x / (0.1 + mean)


def haemodynamic(peak_s: Float[np.ndarray, " P"]) -> Float[np.ndarray, "P T"]:
    """Response to one step: a gamma density, less a sixth of one that is 10 s later.

    In form that of Glover, "Deconvolution of impulse response in event-related BOLD
    fMRI" (1999).
    """
    times = np.arange(0, _RESPONSE_S, 1 / film.SFREQ)
    early, late = (
        gamma.pdf(times, 1 + peak[:, None], scale=1.0) for peak in (peak_s, peak_s + 10)
    )
    return early - late / 6


def response(
    who: Brains, seen: Film, subject: int, linear: bool = False
) -> Float[np.ndarray, "P N"]:
    """What blood makes of it at the middles of volumes, of variance 1, without noise.

    Args:
      linear: of `linear_drive` instead.
    """
    driven = (linear_drive if linear else drive)(who, seen, subject)
    kernels = haemodynamic(who.peak_s[subject])
    flow = fftconvolve(driven, kernels, axes=1)[:, : driven.shape[1]]
    flow *= who.scale[subject][:, None]
    n_volumes = round(driven.shape[1] / film.SFREQ / TR_S)
    place = (np.arange(n_volumes) + 0.5) * TR_S * film.SFREQ - 0.5
    low = np.minimum(place.astype(int), driven.shape[1] - 2)
    share = place - low
    return flow[:, low] * (1 - share) + flow[:, low + 1] * share


# ---- what does not -------------------------------------------------------------------


def noise(
    rng: np.random.Generator, n_parcels: int, n_volumes: int
) -> Float[np.ndarray, "P N"]:
    """Autoregressive noise, slow drift and a signal of the whole brain; variance 1."""
    drawn = rng.standard_normal((n_parcels, n_volumes + 50))
    own = np.sqrt(1 - AR**2) * np.asarray(lfilter([1.0], [1.0, -AR], drawn))[:, 50:]
    at = (np.arange(n_volumes) + 0.5) / n_volumes
    cosines = np.sqrt(2) * np.cos(np.pi * np.outer([1, 2, 3], at))
    drift = rng.standard_normal((n_parcels, 3)) @ cosines / np.sqrt(3)
    drawn = rng.standard_normal(n_volumes + 50)
    whole = np.sqrt(1 - 0.8**2) * np.asarray(lfilter([1.0], [1.0, -0.8], drawn))[50:]
    loads = rng.choice([0.5, 1.0, np.sqrt(1.75)], (n_parcels, 1))  # mean square 1
    rest = 1 - DRIFT_POWER - GLOBAL_POWER
    return (
        np.sqrt(rest) * own
        + np.sqrt(DRIFT_POWER) * drift
        + np.sqrt(GLOBAL_POWER) * loads * whole
    )


def recorded(
    who: Brains, seen: Film, subject: int, seed: int, run: int
) -> Float[np.ndarray, "P N"]:
    """A run of a person in front of a film, of variance 1; `run` draws the noise."""
    rng = np.random.default_rng([seed, _RUN, subject, run])
    signal = response(who, seen, subject)
    ceiling = who.ceiling[:, None]
    other = noise(rng, *signal.shape)
    return np.sqrt(ceiling) * signal + np.sqrt(1 - ceiling) * other
