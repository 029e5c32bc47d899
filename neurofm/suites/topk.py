"""Top-k accuracy of several seeds, with intervals and what chance gives.

Axes: S seeds, Q queries.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.eval.stats import interval


def top_k(
    rank: Int[np.ndarray, "S Q"],
    n_candidates: int,
    groups: Shaped[np.ndarray, " Q"],
    ks: Sequence[int],
) -> dict[str, Any]:
    """`top1`, ... -> `model` and `chance`; intervals over groups, else over queries."""
    return {
        f"top{k}": {
            "model": _cell((rank <= k).astype(float), groups),
            "chance": {"mean": min(k / n_candidates, 1.0)},
        }
        for k in ks
    }


def _cell(
    hits: Float[np.ndarray, "S Q"], groups: Shaped[np.ndarray, " Q"]
) -> dict[str, Any]:
    n = hits.shape[1]
    cell: dict[str, Any] = {"mean": float(hits.mean()), "n": n}
    if len(np.unique(groups)) < 2:
        groups = np.arange(n)
    if n > 1:
        bounds = interval(hits, np.ones(n), groups)
        cell |= {"low": bounds.low, "high": bounds.high}
    if len(hits) > 1:
        cell["std"] = float(hits.mean(1).std())
    return cell
