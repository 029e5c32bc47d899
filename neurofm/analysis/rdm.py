"""Representational dissimilarity matrices, as the vector of their upper triangle.

Definitions as rsatoolbox (Nili et al. 2014; Walther et al. 2016): squared distances are
divided by the number of channels.

Axes: N conditions, P channels, S samples of noise, M partitions, D = N (N - 1) / 2
pairs, row by row.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.errors import NeuroFMError

Shrinkage = Literal["diag", "eye"]


def correlation(x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, " D"]:
    """1 - Pearson of rows.

    Raises:
      NeuroFMError: a row is constant.
    """
    x = np.asarray(x, np.float64)
    x = x - x.mean(1, keepdims=True)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    if not norm.all():
        raise NeuroFMError(
            f"{int((norm == 0).sum())} of {len(x)} rows are constant and correlate "
            "with nothing: leave them out, or use Euclidean distances"
        )
    x = x / norm
    return upper(1 - x @ x.T)


def euclidean(x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, " D"]:
    """Squared Euclidean distance over P."""
    return mahalanobis(x, np.eye(x.shape[1]))


def mahalanobis(
    x: Float[np.ndarray, "N P"], precision: Float[np.ndarray, "P P"]
) -> Float[np.ndarray, " D"]:
    """Squared distance in the metric of an inverse noise covariance, over P."""
    return crossnobis(np.stack([x, x]), precision)


def crossnobis(
    x: Float[np.ndarray, "M N P"], precision: Float[np.ndarray, "P P"]
) -> Float[np.ndarray, " D"]:
    """Squared distance without bias from noise, over P; may be negative.

    The mean over partitions of each one's differences times those of the mean of the
    others.

    Raises:
      NeuroFMError: one partition.
    """
    if len(x) < 2:
        raise NeuroFMError("a cross-validated distance needs two partitions or more")
    x = np.asarray(x, np.float64)
    i, j = pairs(x.shape[1])
    apart = x[:, i] - x[:, j]
    others = (apart.sum(0) - apart) / (len(x) - 1)
    return (apart @ precision * others).sum((0, 2)) / (len(x) * x.shape[2])


def noise_covariance(
    residuals: Float[np.ndarray, "S P"], shrinkage: Shrinkage | None = "diag"
) -> Float[np.ndarray, "P P"]:
    """Covariance of noise, shrunk to its diagonal or to a multiple of the identity.

    Schäfer and Strimmer (2005) for `diag`, Ledoit and Wolf (2004) for `eye`; None
    leaves it as it is.
    """
    n, p = residuals.shape
    x = np.asarray(residuals, np.float64)
    x = x - x.mean(0)
    covariance = x.T @ x / (n - 1)
    if shrinkage is None:
        return covariance
    if shrinkage == "eye":
        biased = x.T @ x / n
        target = np.trace(biased) / p * np.eye(p)
        far = np.sum((biased - target) ** 2)
        noise = (np.sum(np.sum(x**2, 1) ** 2) / n - np.sum(biased**2)) / n
        share = min(noise / far, 1) if far else 1.0
        return share * target * n / (n - 1) + (1 - share) * covariance
    y = x / x.std(0, ddof=1)
    r = y.T @ y / (n - 1)
    variance = n / (n - 1) ** 2 * ((y**2).T @ y**2 / (n - 1) - r**2)
    off = ~np.eye(p, dtype=bool)
    share = np.clip(variance[off].sum() / np.sum(r[off] ** 2), 0, 1)
    return np.where(off, (1 - share) * covariance, covariance)


def pairs(n: int) -> tuple[Int[np.ndarray, " D"], Int[np.ndarray, " D"]]:
    """Both conditions of every pair."""
    return np.triu_indices(n, 1)


def upper(d: Shaped[np.ndarray, "*B N N"]) -> Shaped[np.ndarray, "*B D"]:
    """The upper triangle, row by row."""
    i, j = pairs(d.shape[-1])
    return d[..., i, j]


def square(d: Float[np.ndarray, "*B D"]) -> Float[np.ndarray, "*B N N"]:
    """The symmetric matrix of an upper triangle, 0 on its diagonal."""
    n = n_conditions(d.shape[-1])
    i, j = pairs(n)
    out = np.zeros((*d.shape[:-1], n, n))
    out[..., i, j] = out[..., j, i] = d
    return out


def n_conditions(n_pairs: int) -> int:
    """How many conditions make so many pairs.

    Raises:
      NeuroFMError: no number does.
    """
    n = round((1 + np.sqrt(1 + 8 * n_pairs)) / 2)
    if n * (n - 1) // 2 != n_pairs:
        raise NeuroFMError(
            f"{n_pairs} numbers are no upper triangle: give n (n - 1) / 2 of them"
        )
    return n
