"""Mutual nearest neighbours of two spaces (Huh et al., arXiv 2405.07987).

Axes: N rows (the same stimuli in the same order), P and Q units.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from neurofm.errors import NeuroFMError

Clip = Literal["exact", "rows"]
CLIP_SHARE = 0.95


def mutual_knn(
    x: Float[np.ndarray, "N P"],
    y: Float[np.ndarray, "N Q"],
    k: int = 10,
    clip: Clip = "exact",
) -> float:
    """Share of the k nearest neighbours of a row that both spaces agree on.

    Raises:
      NeuroFMError: not more rows than neighbours.
    """
    if k >= len(x):
        raise NeuroFMError(
            f"{k} neighbours of {len(x)} rows were asked for: ask for fewer than there "
            "are rows"
        )
    return agreement(nearest(x, k, clip), nearest(y, k, clip))


def agreement(first: Int[np.ndarray, "N k"], second: Int[np.ndarray, "N k"]) -> float:
    """Share of neighbours that are in both lists of a row."""
    shared = (first[:, :, None] == second[:, None, :]).sum((1, 2))
    return float(shared.mean() / first.shape[1])


def nearest(
    x: Float[np.ndarray, "N P"], k: int, clip: Clip = "exact"
) -> Int[np.ndarray, "N k"]:
    """The k rows of largest cosine after clipping outliers; the lower row of equals."""
    x = np.asarray(x, np.float64)
    q = clip_threshold(x, clip)
    x = np.clip(x, -q, q)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def clip_threshold(x: Float[np.ndarray, "N P"], clip: Clip = "exact") -> float:
    """What entries are clipped at: a quantile of all, or the mean of each row's."""
    size = np.abs(x)
    if clip == "rows":
        return float(np.quantile(size, CLIP_SHARE, axis=1).mean())
    return float(np.sort(size, axis=None)[int(CLIP_SHARE * size.size)])
