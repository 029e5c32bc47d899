"""Average precision of many resamples at once.

Axis letters: N examples, K tags, R resamples.
"""

import numpy as np
from jaxtyping import Float, Int

_LOT = 64  # resamples at a time, which bounds the memory


def average_precision(
    score: Float[np.ndarray, " N"],
    truth: Int[np.ndarray, " N"],
    counts: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """Mean precision at the places of the true ones, equal scores as one place.

    Args:
      counts: how often each resample holds each example.

    Returns:
      NaN where a resample has no true one.
    """
    order = np.argsort(-score, kind="stable")
    last = np.r_[np.diff(score[order]) != 0, True]  # of equal scores
    out = np.empty(len(counts))
    for first in range(0, len(counts), _LOT):
        held = counts[first : first + _LOT, order]
        hits = np.cumsum(held * truth[order], 1)[:, last]
        every = np.maximum(np.cumsum(held, 1)[:, last], 1)
        new = np.diff(hits, axis=1, prepend=0)
        n_true = hits[:, -1]
        points = (new * hits / every).sum(1)
        mean = np.full(len(held), np.nan)
        np.divide(points, n_true, out=mean, where=n_true > 0)
        out[first : first + _LOT] = mean
    return out


def mean_over_tags(
    score: Float[np.ndarray, "N K"],
    truth: Int[np.ndarray, "N K"],
    counts: Float[np.ndarray, "R N"],
) -> Float[np.ndarray, " R"]:
    """The mean over tags that tell some examples apart and that a resample has."""
    told = np.flatnonzero((truth.min(0) < 1) & (truth.max(0) > 0))
    found = np.zeros(len(counts))
    n = np.zeros(len(counts))
    for k in told:
        each = average_precision(score[:, k], truth[:, k], counts)
        n += np.isfinite(each)
        found += np.nan_to_num(each)
    return np.divide(found, n, out=np.full(len(n), np.nan), where=n > 0)
