"""What the plan of a run is made of, whatever the kind of its recordings.

Everything is a pure function of (dataset hash, seed, row number), found in O(log clips)
from the manifest alone, so a run goes on anywhere and any process can ask for any row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int, Shaped

from neurofm.contract import BatchSpec
from neurofm.data.crops import Crop
from neurofm.data.records import Dataset
from neurofm.data.scenes import Scenery
from neurofm.errors import NeuroFMError

# The crops of rows of one batch, and what the task asks for -> arrays.
Fill = Callable[[Sequence[Crop], BatchSpec], dict[str, Shaped[np.ndarray, "b ..."]]]


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of a run.

    Attributes:
      datasets: what they are read from.
      items: for each dataset, the rows of its `items` that can appear, ascending.
      counts: for each dataset, recordings used and left out, by reason.
      n_crops: how many rows there are; None for training, which never ends.
      crop: row number -> Crop. With `n_crops`, rows from there on are fillers.
      fields: names of the arrays that `fill` makes.
      fill: the crops of rows of one batch, and what the task asks for -> arrays.
      scenery: noises and rooms, where scenes are simulated.
    """

    datasets: tuple[Dataset, ...]
    items: tuple[Int[np.ndarray, " _"], ...]
    counts: tuple[dict[str, int], ...]
    n_crops: int | None
    crop: Callable[[int], Crop]
    fields: frozenset[str]
    fill: Fill
    scenery: Scenery | None = None

    @property
    def stores(self) -> list[tuple[Dataset, Int[np.ndarray, " _"], dict[str, int]]]:
        """All record stores, noises and rooms too: items training shows, counts."""
        stores = [*zip(self.datasets, self.items, self.counts, strict=True)]
        if self.scenery:
            items, counts = self.scenery.items["train"], self.scenery.counts
            stores += zip(self.scenery.datasets, items, counts, strict=True)
        return stores


def seen_sha256(plan: Plan) -> list[str]:
    """sha256 of the source file of every item that a plan of training can show.

    Sorted; those of noises and rooms are among them.
    """
    return sorted(
        {
            digest
            for dataset, items, _ in plan.stores
            for digest in dataset.items["sha256"].take(items).to_pylist()
        }
    )


def read_crops(datasets: Sequence[Dataset], crops: Sequence[Crop]) -> list[np.ndarray]:
    """The samples of crops in their order, those of a dataset read together."""
    found: dict[int, np.ndarray] = {}
    for number, dataset in enumerate(datasets):
        mine = [i for i, crop in enumerate(crops) if crop.dataset == number]
        spans = [(crops[i].item, crops[i].start, crops[i].stop) for i in mine]
        found |= zip(mine, dataset.read_many(spans), strict=True)
    return [found[i] for i in range(len(crops))]


def shares(weights: Sequence[float], n_datasets: int) -> list[Fraction]:
    """`data.weights` as exact numbers, one a dataset; equal where there are none."""
    if not weights:
        return [Fraction(1)] * n_datasets
    if len(weights) != n_datasets or not all(0 < w < math.inf for w in weights):
        raise NeuroFMError(
            f"data.weights {tuple(weights)} do not fit {n_datasets} dataset(s): give "
            "one positive number for each path in data.path"
        )
    return [Fraction(w).limit_denominator(10**6) for w in weights]


def mixture(shares: Sequence[Fraction]) -> Callable[[int], tuple[int, int]]:
    """Number -> (which of the shares it belongs to, how many that one had before it).

    The last share against all before it: of the first n numbers these have had
    floor(n r), r being their part; among them the rule goes on. Exact, in integers.
    """
    ratios = [
        Fraction(sum(shares[:k])) / sum(shares[: k + 1]) for k in range(len(shares))
    ]

    def choose(row: int) -> tuple[int, int]:
        for number in range(len(ratios) - 1, 0, -1):
            part, whole = ratios[number].as_integer_ratio()
            before = row * part // whole
            if (row + 1) * part // whole == before:
                return number, row - before
            row = before
        return 0, row

    return choose
