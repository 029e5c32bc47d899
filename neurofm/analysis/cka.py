"""Centred kernel alignment (Kornblith et al., arXiv 1905.00414) and its unbiased form.

Axes: N rows (the same stimuli in the same order), P and Q units.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from neurofm.errors import NeuroFMError

LEAST = 4  # rows: the unbiased estimate is over quadruples


def linear(x: Float[np.ndarray, "N P"], y: Float[np.ndarray, "N Q"]) -> float:
    """‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centred columns; NaN where a side is constant."""
    x, y = _centred(x), _centred(y)
    if max(x.shape[1], y.shape[1]) >= len(x):
        return _cosine(x @ x.T, y @ y.T)
    together = np.sum((y.T @ x) ** 2)
    return _over(together, np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def linear_kernel(x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N N"]:
    """Inner products of centred rows."""
    x = _centred(x)
    return x @ x.T


def rbf_kernel(x: Float[np.ndarray, "N P"], t: float = 1.0) -> Float[np.ndarray, "N N"]:
    """exp(-d² / (2 t² m)), m the median of all squared distances, zeros included."""
    squared = squared_distances(x)
    return np.exp(-squared / (2 * t**2 * np.median(squared)))


def squared_distances(x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N N"]:
    """Squared Euclidean distances of rows."""
    from scipy.spatial.distance import cdist

    x = np.asarray(x, np.float64)
    return cdist(x, x, "sqeuclidean")


def biased(k: Float[np.ndarray, "N N"], other: Float[np.ndarray, "N N"]) -> float:
    """CKA of two kernels, centred here: far from 0 for noise of many units."""
    return _cosine(_doubly_centred(k), _doubly_centred(other))


def hsic1(k: Float[np.ndarray, "N N"], other: Float[np.ndarray, "N N"]) -> float:
    """Unbiased Hilbert-Schmidt independence criterion (Song et al., 2012, eq. 5).

    Raises:
      NeuroFMError: fewer than four rows.
    """
    n = len(k)
    if n < LEAST:
        raise NeuroFMError(
            f"unbiased similarity needs {LEAST} rows or more, and {n} were given"
        )
    k, other = (a * (1 - np.eye(n)) for a in (k, other))
    crossed = k.sum(0) @ other.sum(0)
    total = np.sum(k * other) + k.sum() * other.sum() / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * crossed) / (n * (n - 3)))


def unbiased(k: Float[np.ndarray, "N N"], other: Float[np.ndarray, "N N"]) -> float:
    """CKA by `hsic1`: around 0 for noise of any width, and may be negative."""
    return _aligned(hsic1(k, other), hsic1(k, k), hsic1(other, other))


def minibatch(
    pairs: Iterable[tuple[Float[np.ndarray, "_ P"], Float[np.ndarray, "_ Q"]]],
) -> float:
    """Unbiased linear CKA of rows that come in batches (Nguyen et al., 2010.15327).

    The three terms are added over batches and divided once. Batches of fewer than four
    rows are left out.
    """
    sums = np.zeros(3)
    for x, y in pairs:
        if len(x) >= LEAST:
            k, other = linear_kernel(x), linear_kernel(y)
            sums += hsic1(k, other), hsic1(k, k), hsic1(other, other)
    return _aligned(*sums)


def _centred(x):
    x = np.asarray(x, np.float64)
    return x - x.mean(0)


def _doubly_centred(k):
    return k - k.mean(0) - k.mean(1, keepdims=True) + k.mean()


def _cosine(k, other) -> float:
    return _over(np.sum(k * other), np.linalg.norm(k) * np.linalg.norm(other))


def _aligned(together: float, own: float, other: float) -> float:
    return _over(together, np.sqrt(own * other) if own > 0 and other > 0 else 0.0)


def _over(top, bottom) -> float:
    return float(top / bottom) if bottom > 0 else np.nan
