"""Stores whose items are what a model takes, made once: which item row i of a run is.

Nothing is cut from an item: it is a segment's codes, or a window's superlets.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from neurofm.data.crops import Crop
from neurofm.data.draws import permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.rows import Fill, Plan, mixture, shares
from neurofm.data.select import Use, chosen, reasons_against
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data


def training(
    datasets: Sequence[Dataset],
    data: Data,
    seed: int,
    length: int,
    fields: frozenset[str],
    fill: Fill,
) -> Plan:
    """The endless plan of a training run: every epoch all items in a new order.

    Args:
      datasets: record stores that were found to hold what the task takes.
      data: the data part of the config; `weights` are of rows.
      seed: the run's seed.
      length: samples of every item.
      fields, fill: see `rows.Plan`.

    Raises:
      NeuroFMError: nothing is left of a dataset.
    """
    items, counts = _usable(datasets, data, "train")
    for dataset, mine, why in zip(datasets, items, counts, strict=True):
        if not len(mine):
            told = ", ".join(f"{k} {n}" for k, n in why.items() if n)
            raise NeuroFMError(
                f"no segment of {dataset.path} is left to train on ({told}): check its "
                "splits and data.hold_out"
            )
    which = mixture(shares(data.weights, len(datasets)))
    keys = [stream_key(dataset.hash, seed, "order") for dataset in datasets]

    @functools.lru_cache(maxsize=2 * len(datasets))
    def order(d: int, epoch: int) -> Int[np.ndarray, " n"]:
        return items[d][permutation(keys[d], epoch, len(items[d]))]

    def crop(row: int) -> Crop:
        d, nth = which(row)
        epoch, within = divmod(nth, len(items[d]))
        return _whole(d, int(order(d, epoch)[within]), length)

    return Plan(
        datasets=tuple(datasets),
        items=tuple(items),
        counts=tuple(counts),
        n_crops=None,
        crop=crop,
        fields=fields,
        fill=fill,
    )


def held_out(
    datasets: Sequence[Dataset],
    data: Data,
    limit: int,
    length: int,
    fields: frozenset[str],
    fill: Fill,
) -> Plan:
    """At most `limit` items of the `valid` split, the same whatever the seed."""
    items, counts = _usable(datasets, data, "valid")
    every = [(d, int(item)) for d, mine in enumerate(items) for item in mine]
    key = stream_key(*(dataset.hash for dataset in datasets), "held out")
    taken = [every[i] for i in permutation(key, 0, len(every))[:limit]]
    crops = [_whole(d, item, length) for d, item in taken]

    def crop(row: int) -> Crop:
        if row < len(crops):
            return crops[row]
        return crops[-1]._replace(valid=False)

    return Plan(
        datasets=tuple(datasets),
        items=tuple(items),
        counts=tuple(counts),
        n_crops=len(crops),
        crop=crop,
        fields=fields,
        fill=fill,
    )


def _usable(
    datasets: Sequence[Dataset], data: Data, use: Use
) -> tuple[list[Int[np.ndarray, " n"]], list[dict[str, int]]]:
    found = [chosen(why) for why in reasons_against(datasets, data, use)]
    return [np.flatnonzero(left) for left, _ in found], [n for _, n in found]


def _whole(d: int, item: int, length: int) -> Crop:
    return Crop(d, item, 0, length, span=(0, length))
