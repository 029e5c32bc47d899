"""Intervals and tests for any score of rows, by whole groups or within them.

For scores that are a ratio of sums see `stats`, which is faster.

Axes: N rows, G groups, R resamples.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Shaped

Score = Callable[[Int[np.ndarray, " _"]], Float[np.ndarray, " *_"] | float]


def drawn_groups(
    group: Shaped[np.ndarray, " N"], n: int = 2000, seed: int = 0
) -> Shaped[np.ndarray, "R G"]:
    """Names of as many groups as there are, drawn with replacement."""
    names = np.unique(group)
    rng = np.random.default_rng(seed)
    return rng.choice(names, (n, len(names)))


def counts(
    group: Shaped[np.ndarray, " N"], n: int = 500, seed: int = 0
) -> Float[np.ndarray, "R N"]:
    """How often each row is in each of the draws of `drawn_groups`."""
    names, member = np.unique(group, return_inverse=True)
    drawn = np.searchsorted(names, drawn_groups(group, n, seed))
    held = np.stack([np.bincount(draw, minlength=len(names)) for draw in drawn])
    return held[:, member].astype(float)


def bootstrap(
    score: Score, group: Shaped[np.ndarray, " N"], drawn: Shaped[np.ndarray, "R G"]
) -> Float[np.ndarray, "R *_"]:
    """The score of the rows of each draw, as often as their groups were drawn.

    For two models, let `score` be of both: they see the same draws.
    """
    rows = {name: np.flatnonzero(group == name) for name in np.unique(drawn)}
    return np.array(
        [score(np.concatenate([rows[name] for name in draw])) for draw in drawn]
    )


def percentiles(
    scores: Float[np.ndarray, "R *_"], level: float = 0.95
) -> Float[np.ndarray, "2 *_"]:
    """Both ends of the middle share of resampled scores."""
    return np.quantile(scores, [(1 - level) / 2, (1 + level) / 2], axis=0)


def group_means(
    difference: Float[np.ndarray, " N"], group: Shaped[np.ndarray, " N"]
) -> Float[np.ndarray, " G"]:
    """Mean difference of two models in each group, in the order of the names."""
    _, member = np.unique(group, return_inverse=True)
    return np.bincount(member, difference) / np.bincount(member)


def sign_flips(
    means: Float[np.ndarray, " G"], signs: Int[np.ndarray, "R G"]
) -> Float[np.ndarray, " R"]:
    """What the mean of group differences would be if the models were the same."""
    return signs @ means / len(means)


def p_value(
    observed: float, null: Float[np.ndarray, " R"], two_sided: bool = False
) -> float:
    """(1 + how many are as far) / (1 + how many); ties count."""
    if two_sided:
        observed, null = abs(observed), np.abs(null)
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + len(null)))


def shuffled_within(
    group: Shaped[np.ndarray, " N"], rng: np.random.Generator
) -> Int[np.ndarray, " N"]:
    """An order of rows that keeps every label in its group.

    Where groups differ in their shares of labels, moving labels between them would test
    something else.
    """
    order = np.arange(len(group))
    for name in np.unique(group):
        rows = np.flatnonzero(group == name)
        order[rows] = rng.permutation(rows)
    return order
