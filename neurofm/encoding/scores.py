"""How well predicted time courses agree with responses, target by target.

`weight` [T] is 1 for the rows that count and 0 for padding. A target that has no score
(a constant one has no correlation) is NaN.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

Score = Literal["neg_mse", "r2", "pearson", "signed_root_r2"]


def neg_mse(
    truth: Float[Array, "T V"], guess: Float[Array, "T V"], weight: Float[Array, " T"]
) -> Float[Array, " V"]:
    """Minus the mean squared error."""
    return -_mean((truth - guess) ** 2, weight)


def r2(
    truth: Float[Array, "T V"], guess: Float[Array, "T V"], weight: Float[Array, " T"]
) -> Float[Array, " V"]:
    """1 - SSE/SST with SST about the mean of these rows; NaN for a constant target."""
    variance = _variance(truth, weight)
    error = _mean((truth - guess) ** 2, weight)
    return jnp.where(variance == 0, jnp.nan, 1 - error / variance)


def pearson(
    truth: Float[Array, "T V"], guess: Float[Array, "T V"], weight: Float[Array, " T"]
) -> Float[Array, " V"]:
    """Correlation; 0 where one side is constant, as released."""
    truth, guess = truth - _mean(truth, weight), guess - _mean(guess, weight)
    spread = jnp.sqrt(_mean(truth**2, weight) * _mean(guess**2, weight))
    together = _mean(truth * guess, weight)
    return jnp.where(spread == 0, 0.0, together / jnp.where(spread == 0, 1.0, spread))


def signed_root_r2(
    truth: Float[Array, "T V"], guess: Float[Array, "T V"], weight: Float[Array, " T"]
) -> Float[Array, " V"]:
    """sign(R²)·√|R²|, R² by the mean of the held-out variance and 1.

    The score by which chunk-bootstrap selection is released (`use_corr=False`).
    """
    expected = (1 + _variance(truth, weight)) / 2
    value = 1 - _variance(truth - guess, weight) / expected
    return jnp.sign(value) * jnp.sqrt(jnp.abs(value))


OF_SPLIT = {
    "neg_mse": neg_mse,
    "r2": r2,
    "pearson": pearson,
    "signed_root_r2": signed_root_r2,
}


def _mean(x, weight):
    return jnp.tensordot(weight, x, 1, precision="highest") / weight.sum()


def _variance(x, weight):
    return _mean((x - _mean(x, weight)) ** 2, weight)


def correlation(
    truth: Float[np.ndarray, "T V"], guess: Float[np.ndarray, "T V"]
) -> Float[np.ndarray, " V"]:
    """Correlation of responses with their prediction; NaN where one is constant."""
    truth, guess = truth - truth.mean(0), guess - guess.mean(0)
    spread = np.sqrt((truth**2).sum(0) * (guess**2).sum(0))
    return _divide((truth * guess).sum(0), spread)


def explained(
    truth: Float[np.ndarray, "T V"], guess: Float[np.ndarray, "T V"]
) -> Float[np.ndarray, " V"]:
    """R² of responses, 1 - SSE/SST about their own mean; NaN for a constant one."""
    total = ((truth - truth.mean(0)) ** 2).sum(0)
    return 1 - _divide(((truth - guess) ** 2).sum(0), total)


def explained_signed_root(
    truth: Float[np.ndarray, "T V"], guess: Float[np.ndarray, "T V"]
) -> Float[np.ndarray, " V"]:
    """sign(R²)·√|R²| with R² = 1 - var(error)/var(truth), the released test score."""
    value = 1 - _divide((truth - guess).var(0), truth.var(0))
    return np.sign(value) * np.sqrt(np.abs(value))


def mean_of_known(
    x: Float[np.ndarray, "..."], axis: int | None = None
) -> Float[np.ndarray, "..."]:
    """The mean of what is finite; NaN where nothing is, without a warning."""
    known = np.isfinite(x)
    total, n = np.where(known, x, 0).sum(axis), np.asarray(known.sum(axis))
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _divide(top, bottom):
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
