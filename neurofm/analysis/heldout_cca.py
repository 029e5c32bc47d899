"""PWCCA scored on rows that its directions were not fitted on.

The layer-wise protocol of Pasad et al. (arXiv 2107.04734): directions from eight of ten
parts, the regularisation from one, the score from the last.

Axes: N rows, P and Q units.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.analysis.cca import Directions, centred, directions, projection_weights
from neurofm.errors import NeuroFMError

Side = Literal["smaller", "both", "released"]
N_PARTS, TRIALS = 10, 3
FINE, COARSE = (1e-11, 1e-10, 1e-9), (1e-8, 1e-7, 1e-6, 1e-5)
EPS = (*itertools.product(FINE, FINE), *itertools.product(COARSE, COARSE))
SUCCESSFUL = 6  # pairs of EPS that are tried, those that fail not counted


class Trial(NamedTuple):
    """What one split gave: score by part of each eps, and the test score chosen."""

    scores: Float[np.ndarray, "E 3"]
    selected: int
    score: float


def score(
    found: Directions,
    x: Float[np.ndarray, "N P"],
    y: Float[np.ndarray, "N Q"],
    side: Side = "smaller",
) -> float:
    """PWCCA of rows projected on directions of others, about their own means.

    Args:
      side: the view that gives the weights: `smaller` is that of fewer kept units (the
        first of equals), `both` the mean of the two; `released` leaves means in, and
        takes the second of equals.

    Raises:
      NeuroFMError: not more rows than directions.
    """
    x, y = (np.asarray(a, np.float64)[:, found.kept[i]] for i, a in enumerate((x, y)))
    if len(x) <= len(found.rho):
        raise NeuroFMError(
            f"{len(found.rho)} canonical directions cannot be scored on {len(x)} rows: "
            "give more rows, or fewer units (leading principal components)"
        )
    views = (x, y)
    into = [
        centred(view) @ found_of
        for view, found_of in zip(views, (found.first, found.second), strict=True)
    ]
    rho = _pearson(*into)
    if side == "both":
        weights = [_weights(i, centred(v)) for i, v in zip(into, views, strict=True)]
        return float(np.mean(weights, 0) @ rho)
    first = x.shape[1] < y.shape[1] or (x.shape[1] == y.shape[1] and side == "smaller")
    view, variates = (x, into[0]) if first else (y, into[1])
    if side == "released":
        return float(_weights(variates + view.mean(0)[: len(rho)], view) @ rho)
    return float(_weights(variates, centred(view)) @ rho)


def fit_and_score(
    x: Float[np.ndarray, "N P"],
    y: Float[np.ndarray, "N Q"],
    parts: Sequence[Int[np.ndarray, " _"]],
    eps: Sequence[tuple[float, float]] = EPS,
    side: Side = "smaller",
) -> Trial:
    """Directions of the first part, chosen on the second, scored on the third.

    Args:
      parts: rows of training, of choosing and of testing.
      eps: regularisation pairs, of which the first six that can be solved are tried.

    Raises:
      NeuroFMError: none can be solved.
    """
    train = parts[0]
    scores: list[list[float]] = []
    for pair in eps:
        try:
            found = directions(x[train], y[train], pair)
            scores.append([score(found, x[p], y[p], side) for p in parts])
        except np.linalg.LinAlgError:
            continue
        if len(scores) == SUCCESSFUL:
            break
    if not scores:
        raise NeuroFMError(
            f"no regularisation of {len(eps)} lets the covariances be inverted: give "
            "more rows, or leave constant units out"
        )
    table = np.array(scores)
    best = int(np.nanargmax(table[:, 1]))
    return Trial(table, best, float(table[best, 2]))


def cross_validated(
    x: Float[np.ndarray, "N P"],
    y: Float[np.ndarray, "N Q"],
    labels: Shaped[np.ndarray, " N"] | None = None,
    seed: int = 0,
) -> float:
    """Mean test score of three trials, each with other parts to choose and test on.

    Args:
      labels: classes of rows, of which every part gets its share.

    Raises:
      NeuroFMError: fewer rows than parts, or see `fit_and_score`.
    """
    if len(x) < 2 * N_PARTS:
        raise NeuroFMError(
            f"{len(x)} rows cannot be cut in {N_PARTS} parts of two or more: give "
            f"{2 * N_PARTS} rows"
        )
    rng = np.random.default_rng(seed)
    part = _parts(len(x), labels, rng)
    drawn = rng.permutation(N_PARTS)[: 2 * TRIALS].reshape(TRIALS, 2)
    scores = []
    for dev, test in drawn:
        held = [np.flatnonzero(part == n) for n in (dev, test)]
        train = np.flatnonzero((part != dev) & (part != test))
        scores.append(fit_and_score(x, y, (train, *held)).score)
    return float(np.mean(scores))


def _parts(n, labels, rng):
    """Part of every row: in random order, dealt out class by class."""
    order = rng.permutation(n)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    part = np.empty(n, int)
    part[order] = np.arange(n) % N_PARTS
    return part


def _weights(variates, view):
    q, _ = np.linalg.qr(variates)
    return projection_weights(q, view)


def _pearson(a, b):
    a, b = centred(a), centred(b)
    return np.sum(a * b, 0) / np.sqrt(np.sum(a**2, 0) * np.sum(b**2, 0))
