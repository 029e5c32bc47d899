"""Who is trained on, chosen on and tested on, where `data.split` says so.

Axis letters: N examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from neurofm.data.candidates import Candidate
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.eval import leaks
from neurofm.eval.parting import part
from neurofm.eval.places import places, usable_events
from neurofm.eval.split_file import SIDES, How
from neurofm.eval.splits import Fold, inner_folds

if TYPE_CHECKING:
    from neurofm.config import Data


class Sides(NamedTuple):
    """The side of every example, `""` of none, and what the file of the split holds."""

    word: Shaped[np.ndarray, " N"]
    content: dict[str, Any]


def sides(dataset: Dataset, data: Data, every: Sequence[Candidate]) -> Sides:
    """Part all candidates of a dataset as `neurofm.evaluate` does, and take one fold.

    A fold without validation examples gives a fifth of its training groups (else
    recordings) for them, those that share a stimulus together. Who has no label is on
    no side.

    Raises:
      NeuroFMError: a split that cannot be made or leaks, or a fold that is not there.
    """
    row = np.array([one.item for one in every], int)
    span = np.array([one.span for one in every], float).reshape(-1, 2)
    name = np.array([one.name for one in every], str)
    told = np.array([any(v is not None for v in one.label) for one in every], bool)
    items = dataset.items
    columns = {c: items[c].take(row).to_pylist() for c in items.column_names}
    if data.target.split(",")[0].strip() not in columns:  # it is of events
        events = usable_events(dataset)
        columns |= {c: events[c].to_pylist() for c in events.column_names}
    columns = {
        c: [v for v, keep in zip(values, told, strict=True) if keep]
        for c, values in columns.items()
    }
    where = places(dataset, row[told], span[told], name[told])
    how = How(
        split=data.split,
        groups=data.groups or None,
        gap_s=data.gap,
        stimulus=data.stimulus or None,
    )
    parted = part(columns, where, how, dataset.hash)
    fold = _one(parted.folds, data)
    if not len(fold.valid):
        clusters = where.timeline if parted.groups is None else parted.groups
        if parted.stimulus is not None:
            clusters = _linked(clusters, parted.stimulus)
        first = inner_folds(fold.train, clusters)[0]
        fold = dataclasses.replace(fold, train=first.train, valid=first.test)
        gap = parted.content["gap_s"]
        if gap is not None:
            fold, _ = leaks.guarded(fold, where, gap)
        leaks.refuse([fold], where, gap, parted.stimulus)
    word = np.full(len(row), "", dtype="<U5")
    numbers = np.flatnonzero(told)
    for side in SIDES:
        word[numbers[getattr(fold, side)]] = side
    return Sides(word, parted.content)


def _linked(
    a: Shaped[np.ndarray, " N"], b: Shaped[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """Numbers of the parts that share neither a value of `a` nor one of `b`."""
    one, other = (np.unique(x, return_inverse=True)[1] for x in (a, b))
    other = other + one.max() + 1
    n = int(other.max()) + 1
    links = csr_array((np.ones(len(one)), (one, other)), (n, n))
    return connected_components(links, directed=False)[1][one]


def _one(folds: list[Fold], data: Data) -> Fold:
    names = [fold.name for fold in folds]
    if data.fold in names or (not data.fold and len(folds) == 1):
        return folds[names.index(data.fold) if data.fold else 0]
    told = f"{', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
    raise NeuroFMError(
        f"data.split={data.split} has {len(names)} folds ({told}) and data.fold is "
        f"{data.fold!r}: name one of them"
    )
