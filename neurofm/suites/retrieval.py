"""The suite `retrieval`: which of many segments an embedding belongs to.

Queries and candidates are two folders of embeddings of one space, such as features
predicted from the brain and those of the sound that was heard. Ties are failures.

Axes: Q queries, N candidates, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from pydantic import PositiveInt

from neurofm import stores
from neurofm.analysis import retrieval
from neurofm.errors import NeuroFMError
from neurofm.suites.activations import (
    Saved,
    only_layer,
    open_saved,
    require_same_rows,
)
from neurofm.suites.topk import top_k


@dataclass(frozen=True)
class Settings:
    """What a segment is.

    Attributes:
      target: column that names the segment of a row; default the name of the row.
      groups: column of queries that intervals are drawn over; default their item.
      layer, gallery_layer: of queries and of candidates.
      segment_s: cut every row into segments of so many seconds by the times of its
        tokens, each its own; default whole rows.
      ks: of top-k.
    """

    target: str | None = None
    groups: str | None = None
    layer: str = "last"
    gallery_layer: str = "last"
    segment_s: float | None = None
    ks: tuple[PositiveInt, ...] = (1, 5, 10)


class Segments(NamedTuple):
    """Vectors, the segment of each, and what it was cut from."""

    x: Float[np.ndarray, "N D"]
    ids: Shaped[np.ndarray, " N"]
    row: Shaped[np.ndarray, " N"]


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place | None,
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Top-k identification of the segments of queries; see `neurofm.evaluate`.

    Args:
      given: folders of query embeddings; several are seeds of one system.
      data: the folder of candidates.

    Returns:
      `scores`: `top1`, ... -> `model` and `chance`; `ranks`: of each seed median, mean
      and relative rank and mean reciprocal rank, and what chance gives.

    Raises:
      NeuroFMError: embeddings of unlike widths or different segments.
    """
    if data is None:
        raise NeuroFMError(
            "the suite retrieval needs candidates: name their embeddings as --data"
        )
    gallery = open_saved(data)
    candidates = segments(gallery, settings.gallery_layer, settings)
    first = retrieval.merged(candidates.ids)
    ids = candidates.ids[first]
    found, groups = [], []
    for path in given:
        saved = open_saved(path)
        queries = segments(saved, settings.layer, settings)
        target = retrieval.targets(queries.ids, ids)
        similarity = retrieval.cosine(queries.x, candidates.x[first])
        found.append(retrieval.ranks(similarity, target))
        groups.append(saved.column(settings.groups or "item")[queries.row])
    require_same_rows(given, groups)
    rank = np.stack(found)
    return {
        "metric": "accuracy",
        "over": settings.groups or "item",
        "n_candidates": len(ids),
        "n_merged": len(candidates.ids) - len(ids),
        "ranks": [retrieval.scores(of_seed, len(ids), settings.ks) for of_seed in rank],
        "scores": top_k(rank, len(ids), groups[0], settings.ks),
    }


def segments(saved: Saved, layer: str, settings: Settings) -> Segments:
    """The vectors of a folder: one a row, or one a stretch of time of a row.

    Raises:
      NeuroFMError: a stretch to cut that is not longer than nothing, or pooled rows.
    """
    layer = only_layer(saved, layer)
    names = np.array(saved.names)
    if settings.target is not None:
        names = saved.column(settings.target)
    if settings.segment_s is None:
        return Segments(saved.matrix(layer), names, np.arange(len(names)))
    if settings.segment_s <= 0:
        raise NeuroFMError(
            f"segment_s is {settings.segment_s:g}: give seconds, or leave it out"
        )
    if saved.stored.info["request"].get("pool", "none") != "none":
        raise NeuroFMError(
            f"{saved.path} holds one vector a recording, so nothing can be cut: embed "
            "again with --pool none"
        )
    vectors, ids, rows = [], [], []
    for row, name in enumerate(names):
        number = np.floor(saved.stored.times(row) / settings.segment_s).astype(int)
        values = saved.stored.read(row, layer).astype(np.float64)
        for n in np.unique(number):
            vectors.append(values[number == n].mean(0))
            ids.append(f"{name}@{n}")
            rows.append(row)
    return Segments(np.stack(vectors), np.array(ids), np.array(rows))
