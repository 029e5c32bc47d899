"""Several feature spaces in one model: banded ridge, and stacked models.

Banded ridge (Dupré la Tour et al., "Feature-space selection with banded ridge
regression", 2022) scales each space by the root of a share γ before a common penalty α,
which is a penalty of α/γ for that space. Shares are found by random search.

Axis letters: T rows (time), F features, V targets, B feature spaces (bands), C
candidates, A penalties.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from neurofm.encoding import ridge
from neurofm.encoding.folds import Splits
from neurofm.encoding.scores import Score
from neurofm.encoding.targets import Devices
from neurofm.errors import NeuroFMError


@dataclass(frozen=True)
class Banded:
    """Fitted weights in the units of the given features, and how they were chosen."""

    weights: Float[np.ndarray, "F V"]
    shares: Float[np.ndarray, "B V"]  # γ, sum to one
    penalties: Float[np.ndarray, " V"]  # α
    scores: Float[np.ndarray, " V"]  # of the best, mean over splits


def candidates(n_bands: int, n: int, seed: int = 0) -> Float[np.ndarray, "C B"]:
    """Shares to try: equal ones, then Dirichlet draws, half of them sparse."""
    rng = np.random.default_rng(seed)
    draws = [
        rng.dirichlet(np.full(n_bands, (0.1, 1.0)[i % 2])) for i in range(max(n - 1, 0))
    ]
    return np.stack([np.full(n_bands, 1 / n_bands), *draws])


def fit(
    X: Float[np.ndarray, "T F"],
    bands: Int[np.ndarray, " F"],
    Y: Float[np.ndarray, "T V"],
    penalties: Float[np.ndarray, " A"],
    splits: Splits,
    shares: Float[np.ndarray, "C B"] | int = 100,
    score: Score = "neg_mse",
    seed: int = 0,
    place: Devices | None = None,
) -> Banded:
    """Choose shares and penalty of each target by held-out rows, then fit on all rows.

    Args:
      bands: the space of each feature, counted from 0.
      shares: what to try, or how many of `candidates` with this seed.

    Raises:
      NeuroFMError: see `ridge.cross_validate`.
    """
    if isinstance(shares, int):
        shares = candidates(int(bands.max()) + 1, shares, seed)
    best = np.full(Y.shape[1], -np.inf)
    which, chosen = np.zeros(len(best), int), np.full(len(best), np.nan, X.dtype)
    for n, candidate in enumerate(shares):
        scaled = X * _roots(candidate, bands, X)
        scores = ridge.cross_validate(scaled, Y, penalties, splits, score, place=place)
        higher = scores.max(0) > best  # never of a NaN
        best = np.where(higher, scores.max(0), best)
        which = np.where(higher, n, which)
        chosen = np.where(higher, ridge.choose(scores, penalties), chosen)
    best = np.where(np.isfinite(best), best, np.nan)
    weights = solve(X, bands, Y, shares[which].T, chosen, place)
    return Banded(weights, shares[which].T, chosen, best)


def solve(
    X: Float[np.ndarray, "T F"],
    bands: Int[np.ndarray, " F"],
    Y: Float[np.ndarray, "T V"],
    shares: Float[np.ndarray, "B V"],
    penalties: Float[np.ndarray, " V"],
    place: Devices | None = None,
) -> Float[np.ndarray, "F V"]:
    """Weights with the given shares and penalty of each target.

    Targets of equal shares are solved together. A space without a share has weight 0.
    """
    kinds, of_target = np.unique(shares.T, axis=0, return_inverse=True)
    weights = np.empty((X.shape[1], Y.shape[1]), X.dtype)
    for n, kind in enumerate(kinds):
        same, roots = of_target.ravel() == n, _roots(kind, bands, X)
        solved = ridge.solve(X * roots, Y[:, same], penalties[same], False, place)
        weights[:, same] = roots[:, None] * solved
    return weights


def predict_bands(
    X: Float[np.ndarray, "T F"],
    bands: Int[np.ndarray, " F"],
    weights: Float[np.ndarray, "F V"],
) -> Float[np.ndarray, "B T V"]:
    """What each space adds to the prediction."""
    each = range(int(bands.max()) + 1)
    return np.stack([X[:, bands == b] @ weights[bands == b] for b in each])


def _roots(shares: np.ndarray, bands: np.ndarray, X: np.ndarray) -> np.ndarray:
    return np.sqrt(shares[bands]).astype(X.dtype)


MOST_STACKED = 10


def stack(
    truth: Float[np.ndarray, "T V"], guesses: Float[np.ndarray, "M T V"]
) -> Float[np.ndarray, "M V"]:
    """Convex weights of several models' predictions, for each target.

    Least squares with weights of at least 0 that sum to 1, exact: each set of models
    with weights above 0 is tried (Breiman, "Stacked regressions", 1996; Lin et al.,
    "Stacked regressions and structured variance partitioning", 2024).

    Args:
      guesses: of models fitted apart, on rows that they did not see
        (`ridge.out_of_fold`).

    Raises:
      NeuroFMError: more than ten models.
    """
    n_models, _, n_targets = guesses.shape
    if n_models > MOST_STACKED:
        raise NeuroFMError(
            f"{n_models} models to stack; give at most {MOST_STACKED}, such as every "
            "third layer"
        )
    errors = truth - guesses
    products = np.einsum("mtv,ntv->vmn", errors, errors)
    weights = np.full((n_targets, n_models), np.nan, truth.dtype)
    lowest = np.full(n_targets, np.inf)
    known = np.isfinite(products).all((1, 2))
    for size in range(1, n_models + 1):
        for some in map(list, combinations(range(n_models), size)):
            part = np.zeros((n_targets, n_models))
            inner = np.where(known[:, None, None], products[:, some][:, :, some], 0)
            part[:, some] = _least(inner) if size > 1 else 1
            loss = np.einsum("vm,vmn,vn->v", part, products, part)
            better = (part >= 0).all(1) & (loss < lowest)
            weights[better], lowest[better] = part[better], loss[better]
    return weights.T


def _least(products: Float[np.ndarray, "V M M"]) -> Float[np.ndarray, "V M"]:
    """Weights of sum 1 and least loss, of any sign; NaN where no one answer is."""
    raw = np.linalg.pinv(products, hermitian=True).sum(2)
    total = raw.sum(1, keepdims=True)
    return np.divide(raw, total, out=np.full_like(raw, np.nan), where=total > 0)
