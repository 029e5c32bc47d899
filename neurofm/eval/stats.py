"""Intervals of scores by resampling groups of items.

A score is `sum(points) / sum(weights)` over test items (see `probe.Outcome`). Items of
one group (speaker, source recording, day) are not independent, so whole groups are
drawn with replacement (percentile cluster bootstrap; Efron & Tibshirani, "An
Introduction to the Bootstrap", 1993, sections 13.3 and 8.3). With few groups such
intervals are too narrow: over five groups, 95% covers about 82%.

Axis letters: N test items, M some of them, S seeds, R resamples, G groups.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.errors import NeuroFMError
from neurofm.eval import resampling


@dataclass(frozen=True)
class Interval:
    """A score or a difference of scores, with its interval over `n_groups` groups."""

    value: float
    low: float
    high: float
    n_groups: int


def interval(
    points: Float[np.ndarray, "*S N"],
    weights: Float[np.ndarray, " N"],
    groups: Shaped[np.ndarray, " N"],
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of one score; seeds are averaged item by item.

    Raises:
      NeuroFMError: fewer than two groups.
    """
    points = points.reshape(-1, len(weights)).mean(0)
    names, member = np.unique(groups, return_inverse=True)
    _refuse_one(len(names))
    top = np.bincount(member, points)  # [G]
    bottom = np.bincount(member, weights)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(
        len(names), np.full(len(names), 1 / len(names)), n_resamples
    )
    scores = (drawn @ top) / (drawn @ bottom)  # [R]
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    value = top.sum() / bottom.sum()
    return Interval(float(value), float(low), float(high), len(names))


def paired(
    points: Float[np.ndarray, "*S N"],
    other: Float[np.ndarray, "*S2 N"],
    weights: Float[np.ndarray, " N"],
    groups: Shaped[np.ndarray, " N"],
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the difference of two scores of the same items and weights.

    Both scores see the same resamples, so what the items share cancels.
    """
    first = points.reshape(-1, len(weights)).mean(0)
    second = other.reshape(-1, len(weights)).mean(0)
    return interval(first - second, weights, groups, level, n_resamples, seed)


def sign_flip_p(
    difference: Float[np.ndarray, " N"],
    groups: Shaped[np.ndarray, " N"],
    n_draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p of no difference: the models of a whole group may be exchanged.

    All exchanges of up to 13 groups, else so many drawn. With G groups it is never
    below 2 / 2^G.

    Args:
      difference: of the points of two models, item by item.
    """
    _, member = np.unique(groups, return_inverse=True)
    sums = np.bincount(member, difference)
    if len(sums) <= 13:
        bits = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        null = (1 - 2 * bits) @ sums
        return float(np.mean(np.abs(null) >= np.abs(sums.sum()) - 1e-12))
    rng = np.random.default_rng(seed)
    null = rng.choice([-1, 1], (n_draws, len(sums))) @ sums
    return resampling.p_value(float(sums.sum()), null, two_sided=True)


def resampled(
    score: Callable[[Int[np.ndarray, " M"]], float],
    groups: Shaped[np.ndarray, " N"],
    level: float = 0.95,
    n_resamples: int = 500,
    seed: int = 0,
) -> Interval:
    """Interval of a score that is no ratio of sums, as a precision over ranks.

    Args:
      score: of the items with these numbers; NaN where a resample has none.

    Raises:
      NeuroFMError: fewer than two groups.
    """
    n_groups = len(np.unique(groups))
    _refuse_one(n_groups)
    drawn = resampling.drawn_groups(groups, n_resamples, seed)
    scores = resampling.bootstrap(score, groups, drawn)
    low, high = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2])
    whole = score(np.arange(len(groups)))
    return Interval(float(whole), float(low), float(high), n_groups)


def _refuse_one(n_groups: int) -> None:
    if n_groups < 2:
        raise NeuroFMError(
            f"an interval over {n_groups} group says nothing; group the test items "
            "by something that has at least two values"
        )
