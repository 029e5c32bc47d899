"""Finding the right one of many segments by similarity, and what is said of it.

Ties count as failures, so that a constant embedding finds nothing (Défossez et al.,
arXiv 2208.12266, for segments of speech in the brain).

Axes: Q queries, N candidates, D width.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

from neurofm.errors import NeuroFMError

TIE = {8: 1e-9, 4: 1e-6}  # by bytes a number: equal but for rounding is equal


def merged(ids: Shaped[np.ndarray, " N"]) -> Int[np.ndarray, " _"]:
    """Rows of the first of each segment, in their order: a segment is a candidate."""
    return np.sort(np.unique(ids, return_index=True)[1])


def targets(
    wanted: Shaped[np.ndarray, " Q"], ids: Shaped[np.ndarray, " N"]
) -> Int[np.ndarray, " Q"]:
    """The candidate that each query asks for.

    Raises:
      NeuroFMError: a query asks for what is no candidate.
    """
    order = np.argsort(ids, kind="stable")
    at = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    lost = ids[at] != wanted
    if lost.any():
        raise NeuroFMError(
            f"{int(lost.sum())} of {len(wanted)} queries ask for a segment that is no "
            f"candidate (first: {wanted[lost][0]}): queries and candidates must be of "
            "the same test pool"
        )
    return at


def cosine(
    query: Float[np.ndarray, "Q D"], gallery: Float[np.ndarray, "N E"]
) -> Float[np.ndarray, "Q N"]:
    """Similarity of every query with every candidate; 0 with a vector of zeros.

    Raises:
      NeuroFMError: the two are of unlike width.
    """
    if query.shape[1] != gallery.shape[1]:
        raise NeuroFMError(
            f"queries are {query.shape[1]} wide and candidates {gallery.shape[1]}: "
            "give two embeddings of one space"
        )
    return unit(query) @ unit(gallery).T


def unit(x: Float[np.ndarray, "*B D"]) -> Float[np.ndarray, "*B D"]:
    """Vectors of length 1."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def ranks(
    similarity: Num[np.ndarray, "Q N"], target: Int[np.ndarray, " Q"]
) -> Int[np.ndarray, " Q"]:
    """Rank of each target, 1 the best: 1 + how many others are as similar or more.

    What is not a number is no success: such a target is last.
    """
    own = np.take_along_axis(similarity, target[:, None], 1)
    return (~(similarity < own - tie(similarity))).sum(1)


def scores(
    rank: Int[np.ndarray, " Q"], n_candidates: int, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Top-k accuracy, median and mean rank, mean reciprocal and relative rank, chance.

    Raises:
      NeuroFMError: fewer than two candidates, or no query.
    """
    if n_candidates < 2 or not len(rank):
        raise NeuroFMError(
            f"{len(rank)} queries among {n_candidates} candidates: give a query and "
            "two candidates or more"
        )
    n = n_candidates
    return {
        **{f"top{k}": float(np.mean(rank <= k)) for k in ks},
        "median_rank": float(np.median(rank)),
        "mean_rank": float(rank.mean()),
        "mrr": float(np.mean(1 / rank)),
        "relative_rank": float(np.mean((rank - 1) / (n - 1))),
        **{f"chance_top{k}": min(k / n, 1.0) for k in ks},
        "chance_mrr": float(np.mean(1 / np.arange(1, n + 1))),
        "chance_median_rank": (n + 1) / 2,
    }


def average_precision(
    similarity: Float[np.ndarray, "Q N"],
    relevant: Bool[np.ndarray, "Q N"],
    k: int | None = None,
) -> Float[np.ndarray, " Q"]:
    """Average precision with several relevant items; NaN for a query without any.

    Args:
      k: of the first k alone, over min(k, relevant).
    """
    hits = _in_order(similarity, relevant)[:, :k]
    precision = np.cumsum(hits, 1) / np.arange(1, hits.shape[1] + 1)
    n = relevant.sum(1)
    return _divided((precision * hits).sum(1), np.minimum(n, k or n.max(initial=0)))


def ndcg(
    similarity: Float[np.ndarray, "Q N"], relevant: Bool[np.ndarray, "Q N"], k: int
) -> Float[np.ndarray, " Q"]:
    """Discounted gain of the first k over the best there is; NaN without any."""
    hits = _in_order(similarity, relevant)[:, :k]
    gain = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    best = np.concatenate([[0], np.cumsum(gain)])
    return _divided(hits @ gain, best[np.minimum(relevant.sum(1), len(gain))])


def two_v_two(
    target: Float[np.ndarray, "Q D"], prediction: Float[np.ndarray, "Q D"]
) -> float:
    """Share of pairs told apart: own similarities add to more than crossed ones."""
    s = cosine(target, prediction)
    i, j = np.triu_indices(len(s), 1)
    return float(np.mean(s[i, i] + s[j, j] > s[i, j] + s[j, i]))


def _in_order(similarity, relevant):
    """Relevance from the most similar on; irrelevant items first among equals.

    Neighbours that differ by rounding only are equal.
    """
    order = np.argsort(-similarity, axis=1, kind="stable")
    sorted_ = np.take_along_axis(similarity, order, 1)
    steps = np.diff(-sorted_, axis=1, prepend=-sorted_[:, :1]) > tie(similarity)
    level = np.cumsum(steps, 1)
    hits = np.take_along_axis(relevant, order, 1)
    return np.take_along_axis(hits, np.lexsort((hits, level), axis=1), 1)


def tie(x: Num[np.ndarray, "Q N"]) -> float:
    """How far apart two similarities may be and still be equal."""
    return TIE[x.dtype.itemsize] if np.issubdtype(x.dtype, np.floating) else 0


def _divided(top, bottom):
    return np.divide(
        top, bottom, out=np.full(top.shape, np.nan), where=np.asarray(bottom) > 0
    )
