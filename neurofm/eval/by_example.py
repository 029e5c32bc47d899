"""What every test example scored, kept so that two evaluations can be paired.

    fold, example, cluster    which one it is (`neurofm.eval.places`), and what it is
                              drawn with
    weight, score/SYSTEM      a system scores `sum(score) / sum(weight)`
    truth, score/SYSTEM       of tags, which are scored over all examples: 0 or 1, and
                              what was said of each tag

Axis letters: N examples, S seeds, K tags.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from neurofm import files, stores
from neurofm.errors import NeuroFMError
from neurofm.eval import precision, resampling
from neurofm.eval.stats import Interval, paired, sign_flip_p

NAME = "examples.parquet"
KEY = ("fold", "example")


def table(
    fold: Shaped[np.ndarray, " N"],
    example: Shaped[np.ndarray, " N"],
    cluster: Shaped[np.ndarray, " N"],
    scores: Mapping[str, Float[np.ndarray, "N *K"]],
    weight: Float[np.ndarray, " N"] | None = None,
    truth: Int[np.ndarray, "N K"] | None = None,
) -> pa.Table:
    """The table of an evaluation, with `weight` or `truth`."""
    columns: dict[str, Any] = {"fold": fold, "example": example, "cluster": cluster}
    columns = {name: values.astype(str) for name, values in columns.items()}
    if weight is not None:
        columns["weight"] = weight.astype(np.float64)
    if truth is not None:
        columns["truth"] = truth.astype(np.int8).tolist()
    for name, values in scores.items():
        columns[f"score/{name}"] = values.astype(np.float64).tolist()
    return pa.table(columns)


def write(path: stores.Place, made: pa.Table) -> None:
    """Write the table, whole or not at all."""
    page = io.BytesIO()
    pq.write_table(made, page)
    files.write_bytes(path, page.getvalue())


def read(path: stores.Place) -> pa.Table:
    """A table that was written.

    Raises:
      NeuroFMError: it is damaged.
    """
    try:
        made = pq.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        raise NeuroFMError(
            f"{path} cannot be read ({error}): evaluate again, or move it away"
        ) from error
    if missing := {*KEY, "cluster", "score/model"} - set(made.column_names):
        raise NeuroFMError(
            f"{path} lacks the column {min(missing)}: evaluate again, or move it away"
        )
    return made


def difference(one: pa.Table, other: pa.Table) -> tuple[Interval, float] | None:
    """How much better the model of one evaluation is, and the p of no difference.

    Paired by example: the interval is that of both scores over the same draws of
    clusters; the p is two-sided, by exchanging the models cluster by cluster, or of
    tags by how many draws lie on the other side of 0.

    Gives None where they did not score the same examples.
    """
    rows = [
        {key: i for i, key in enumerate(zip(*keys, strict=True))}
        for keys in ([t[name].to_pylist() for name in KEY] for t in (one, other))
    ]
    if rows[0].keys() != rows[1].keys():
        return None
    order = np.array([rows[1][key] for key in rows[0]])
    other = other.take(pa.array(order))
    score = [np.array(t["score/model"].to_pylist(), float) for t in (one, other)]
    group = np.array(one["cluster"].to_pylist())
    if len(np.unique(group)) < 2:
        group = np.arange(len(group))
    if "truth" in one.column_names and "truth" in other.column_names:
        if one["truth"] != other["truth"]:
            return None
        truth = np.array(one["truth"].to_pylist(), int)
        return _of_tags(score, truth, group)
    if not {"weight"} <= set(one.column_names) & set(other.column_names):
        return None
    weight = [t["weight"].to_numpy() for t in (one, other)]
    if not np.allclose(*weight):
        return None
    found = paired(score[0], score[1], weight[0], group)
    return found, sign_flip_p(score[0] - score[1], group)


def _of_tags(
    score: list[Float[np.ndarray, "N K"]],
    truth: Int[np.ndarray, "N K"],
    group: Shaped[np.ndarray, " N"],
) -> tuple[Interval, float] | None:
    if any(x.shape != truth.shape for x in score):
        return None
    counts = resampling.counts(group)
    whole = np.ones((1, len(group)))
    a, b = (precision.mean_over_tags(x, truth, counts) for x in score)
    one, other = (precision.mean_over_tags(x, truth, whole)[0] for x in score)
    low, high = np.nanquantile(a - b, [0.025, 0.975])
    sides = [np.nansum(a <= b), np.nansum(a >= b)]
    p = min(1.0, 2 * (1 + min(sides)) / (1 + len(a)))
    n_groups = len(np.unique(group))
    return Interval(float(one - other), float(low), float(high), n_groups), float(p)
