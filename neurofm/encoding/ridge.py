"""Ridge regression with a penalty of its own for each of many targets.

W = argmin ‖Y - XW‖² + α‖W‖², from one singular value decomposition of X a split for all
penalties and targets. Penalties are α of that formula, as in scikit-learn and himalaya;
code that writes singular values as S/(S² + a²) has α = a². Choosing and scoring follow
Antonello et al., "Scaling laws for language encoding models in fMRI" (2023), and Dupré
la Tour et al., "Feature-space selection with banded ridge regression" (2022).

Axis letters: T rows (time), F features, V targets, A penalties, H held-out rows, K
singular values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from neurofm.encoding.folds import Splits
from neurofm.encoding.scores import OF_SPLIT, Score
from neurofm.encoding.targets import Devices
from neurofm.errors import NeuroFMError

matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@dataclass(frozen=True)
class Ridge:
    """Fitted weights, and how their penalties were chosen.

    A target with a number that is not finite has NaN in all three.
    """

    weights: Float[np.ndarray, "F V"]
    penalties: Float[np.ndarray, " V"]
    scores: Float[np.ndarray, "A V"]  # of each penalty, mean over splits


class Decomposed(NamedTuple):
    """X = left · diag(values) · right, without the rows that are held out."""

    left: Float[Array, "T K"]
    values: Float[Array, " K"]
    right: Float[Array, "K F"]


def fit(
    X: Float[np.ndarray, "T F"],
    Y: Float[np.ndarray, "T V"],
    penalties: Float[np.ndarray, " A"],
    splits: Splits | Literal["leave_one_out"],
    score: Score = "neg_mse",
    shared: bool = False,
    relative: bool = False,
    place: Devices | None = None,
) -> Ridge:
    """Choose penalties by held-out rows, then fit on all rows.

    Args:
      splits: the rows held out in turn (`neurofm.encoding.folds`); leave-one-out has a
        closed form and goes by `neg_mse`.
      shared: one penalty for all targets, by the mean score over them.
      relative: penalties are in units of the squared largest singular value of the
        rows that are fitted (`normalpha` of the released code).
      place: devices over which targets are laid, and how many at once.

    Raises:
      NeuroFMError: see `cross_validate`; leave-one-out by another score.
    """
    if isinstance(splits, str):
        if score != "neg_mse":
            raise NeuroFMError(
                f"leave-one-out has no score {score!r}: one row has no variance; use "
                "neg_mse, or held-out stretches of rows"
            )
        scores = leave_one_out(X, Y, penalties, relative, place)
    else:
        scores = cross_validate(X, Y, penalties, splits, score, relative, place)
    chosen = choose(scores, penalties, shared)
    return Ridge(solve(X, Y, chosen, relative, place), chosen, scores)


def choose(
    scores: Float[np.ndarray, "A V"],
    penalties: Float[np.ndarray, " A"],
    shared: bool = False,
) -> Float[np.ndarray, " V"]:
    """The penalty of the best score (the first of equals); NaN for a NaN target."""
    known = np.isfinite(scores).all(0)
    if shared and known.any():
        best = np.full(scores.shape[1], scores[:, known].mean(1).argmax())
    else:
        best = scores.argmax(0)
    return np.where(known, penalties[best], np.nan).astype(penalties.dtype)


def cross_validate(
    X: Float[np.ndarray, "T F"],
    Y: Float[np.ndarray, "T V"],
    penalties: Float[np.ndarray, " A"],
    splits: Splits,
    score: Score = "neg_mse",
    relative: bool = False,
    place: Devices | None = None,
) -> Float[np.ndarray, "A V"]:
    """Score of each penalty on held-out rows; every split weighs the same.

    A split in which the score of a target is undefined (`r2` of a target that is
    constant there) is left out of that target's mean.

    Raises:
      NeuroFMError: rows that do not match, features that are not finite, penalties that
        are not positive, a split that holds out nothing or everything.
    """
    _check(X, Y, penalties, splits)
    place = place or Devices()
    total = np.zeros((len(penalties), Y.shape[1]), _dtype(X))
    n_scored = np.zeros(total.shape, int)
    for decomposed, seen, rows, weight in _splits(X, splits, place):
        grid = _scaled(penalties, decomposed, relative)
        for part, (y,) in place.batches(Y):
            n = part.stop - part.start
            got = np.asarray(
                _split_scores(decomposed, seen, y, rows, weight, grid, score)
            )[:, :n]
            total[:, part] += np.nan_to_num(got, nan=0.0)
            n_scored[:, part] += ~np.isnan(got)
    return np.where(n_scored > 0, total / np.maximum(n_scored, 1), np.nan)


def leave_one_out(
    X: Float[np.ndarray, "T F"],
    Y: Float[np.ndarray, "T V"],
    penalties: Float[np.ndarray, " A"],
    relative: bool = False,
    place: Devices | None = None,
) -> Float[np.ndarray, "A V"]:
    """Minus the mean squared error of each row by the fit without that row.

    In closed form: the error of the whole fit over one minus the row's leverage (Hastie
    et al., "The Elements of Statistical Learning", 2009, section 7.10). Errors as
    `cross_validate`.
    """
    _check(X, Y, penalties, ())
    place = place or Devices()
    decomposed = _decompose_on(place, X, np.ones(len(X)))
    grid = _scaled(penalties, decomposed, relative)
    scores = np.empty((len(penalties), Y.shape[1]), _dtype(X))
    for part, (y,) in place.batches(Y):
        got = np.asarray(_loo_scores(decomposed, y, grid))
        scores[:, part] = got[:, : part.stop - part.start]
    return scores


def solve(
    X: Float[np.ndarray, "T F"],
    Y: Float[np.ndarray, "T V"],
    penalties: Float[np.ndarray, " V"],
    relative: bool = False,
    place: Devices | None = None,
) -> Float[np.ndarray, "F V"]:
    """Weights with the given penalty for each target; NaN where the penalty is NaN.

    Errors as `cross_validate`.
    """
    _check(X, Y, penalties[~np.isnan(penalties)], ())
    place = place or Devices()
    decomposed = _decompose_on(place, X, np.ones(len(X)))
    return _weights(decomposed, Y, penalties, relative, place)


def out_of_fold(
    X: Float[np.ndarray, "T F"],
    Y: Float[np.ndarray, "T V"],
    penalties: Float[np.ndarray, " V"],
    splits: Splits,
    relative: bool = False,
    place: Devices | None = None,
) -> Float[np.ndarray, "T V"]:
    """The prediction of each row by the fit without it; NaN for a row never held out.

    Errors as `cross_validate`.
    """
    _check(X, Y, penalties[~np.isnan(penalties)], splits)
    place = place or Devices()
    predicted = np.full(Y.shape, np.nan, _dtype(X))
    for (decomposed, *_), held in zip(_splits(X, splits, place), splits, strict=True):
        weights = _weights(decomposed, Y, penalties, relative, place)
        predicted[held] = predict(X[held], weights)
    return predicted


def predict(
    X: Float[np.ndarray, "T F"], weights: Float[np.ndarray, "F V"]
) -> Float[np.ndarray, "T V"]:
    """X · weights, on the host in the precision of its inputs."""
    return X @ weights


# ---- on the devices ----


@jax.jit
def _decompose(X: Float[Array, "T F"], kept: Float[Array, " T"]) -> Decomposed:
    left, values, right = jnp.linalg.svd(X * kept[:, None], full_matrices=False)
    # Vectors of zero singular values may reach into rows held out: cut, so that
    # rounding cannot let their responses into the fit.
    return Decomposed(left * kept[:, None], values, right)


@partial(jax.jit, static_argnames="score")
def _split_scores(
    decomposed: Decomposed,
    seen: Float[Array, "H K"],
    Y: Float[Array, "T V"],
    rows,
    weight: Float[Array, " H"],
    penalties: Float[Array, " A"],
    score: Score,
) -> Float[Array, "A V"]:
    projected, truth = matmul(decomposed.left.T, Y), Y[rows]

    def of_one(penalty):
        guess = matmul(seen * _shrink(decomposed.values, penalty), projected)
        return OF_SPLIT[score](truth, guess, weight)

    return jax.lax.map(of_one, penalties)


@jax.jit
def _loo_scores(
    decomposed: Decomposed, Y: Float[Array, "T V"], penalties: Float[Array, " A"]
) -> Float[Array, "A V"]:
    left, values, _ = decomposed
    projected = matmul(left.T, Y)

    def of_one(penalty):
        through = left * (values * _shrink(values, penalty))
        leverage = (through * left).sum(1, keepdims=True)
        errors = (Y - matmul(through, projected)) / (1 - leverage)
        return -(errors**2).mean(0)

    return jax.lax.map(of_one, penalties)


@jax.jit
def _solve(
    decomposed: Decomposed, Y: Float[Array, "T V"], penalties: Float[Array, "1 V"]
) -> Float[Array, "F V"]:
    left, values, right = decomposed
    return matmul(right.T, _shrink(values[:, None], penalties) * matmul(left.T, Y))


def _shrink(values, penalty):
    return values / (values**2 + penalty)


# ---- between host and devices ----


def _decompose_on(place: Devices, X: np.ndarray, kept: np.ndarray) -> Decomposed:
    """Decomposed on one device, then copied to all."""
    x, kept = jax.device_put((X, kept.astype(X.dtype)), place.first)
    return jax.device_put(_decompose(x, kept), place.everywhere)


def _splits(X: np.ndarray, splits: Splits, place: Devices) -> Iterator[tuple]:
    """Of each split: the rest decomposed, its rows in that basis, its rows, weights.

    All splits have the shapes of the largest, so one program serves them all.
    """
    longest = max(len(held) for held in splits)
    for held in splits:
        kept = np.ones(len(X))
        kept[held] = 0
        decomposed = _decompose_on(place, X, kept)
        rows = np.zeros(longest, np.int32)
        rows[: len(held)] = held
        weight = (np.arange(longest) < len(held)).astype(X.dtype)
        x, rows, weight = jax.device_put((X[rows], rows, weight), place.everywhere)
        yield decomposed, matmul(x, decomposed.right.T), rows, weight


def _weights(
    decomposed: Decomposed, Y, penalties, relative: bool, place: Devices
) -> np.ndarray:
    penalties = np.asarray(_scaled(penalties, decomposed, relative))[None]
    dtype = decomposed.right.dtype
    weights = np.empty((decomposed.right.shape[1], Y.shape[1]), dtype)
    for part, (y, penalty) in place.batches(Y, penalties):
        got = np.asarray(_solve(decomposed, y, penalty))
        weights[:, part] = got[:, : part.stop - part.start]
    return weights


def _scaled(penalties, decomposed: Decomposed, relative: bool) -> Array:
    penalties = jnp.asarray(penalties, decomposed.values.dtype)
    return penalties * decomposed.values[0] ** 2 if relative else penalties


def _dtype(X: np.ndarray):
    return jax.dtypes.canonicalize_dtype(X.dtype)


def _check(X: np.ndarray, Y: np.ndarray, penalties: np.ndarray, splits: Splits) -> None:
    if len(X) != len(Y):
        raise NeuroFMError(
            f"features have {len(X)} rows but responses {len(Y)}; cut both to the same "
            "times"
        )
    if not np.isfinite(X).all():
        bad = np.flatnonzero(~np.isfinite(X).all(0))
        raise NeuroFMError(
            f"{len(bad)} features hold numbers that are not finite (first: column "
            f"{bad[0]}); a z-score of a constant feature does: set it to 0"
        )
    if not (penalties > 0).all():
        raise NeuroFMError(
            f"penalties must be above 0, not {penalties.min()}; leave it out"
        )
    for n, held in enumerate(splits):
        if not 0 < len(np.unique(held)) < len(X):
            raise NeuroFMError(
                f"split {n} holds out {len(held)} of {len(X)} rows; hold out some and "
                "keep some"
            )
