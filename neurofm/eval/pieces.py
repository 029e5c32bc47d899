"""Pieces of recordings, each read on its own: what happens around an event.

A model of EEG and MEG sees windows of seconds; a piece begins where its event says, so
that its tokens lie alike in all examples.
"""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from neurofm.data.meeg import free_spans
from neurofm.data.records import Dataset
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.eval.examples import Examples
from neurofm.eval.splits import Fold


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces as a dataset, an item each; what `Dataset` says holds here too."""

    whole: Dataset
    row: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]

    @property
    def info(self):
        return self.whole.info

    @property
    def path(self):
        return self.whole.path

    @property
    def hash(self) -> str:
        return self.whole.hash

    @property
    def layouts(self) -> list[Sensors]:
        return self.whole.layouts

    @property
    def n_chans(self) -> Int[np.ndarray, " n"]:
        return self.whole.n_chans[self.row]

    @functools.cached_property
    def items(self) -> pa.Table:
        """The recordings' columns, an item and its samples a piece."""
        items = self.whole.items.take(pa.array(self.row))
        names = [f"{name}#{i}" for i, name in enumerate(items["item"].to_pylist())]
        own = {"item": names, "n_samples": (self.stop - self.start).tolist()}
        for name, values in own.items():
            at = items.schema.get_field_index(name)
            items = items.set_column(at, name, pa.array(values))
        return items

    def read(self, item: int, start: int, stop: int) -> Float32[np.ndarray, "C n"]:
        first = int(self.start[item])
        return self.whole.read(int(self.row[item]), first + start, first + stop)

    def sensors(self, item: int) -> Sensors:
        return self.whole.sensors(int(self.row[item]))


Recordings = Dataset | Pieces


def cut(
    dataset: Dataset, examples: Examples, around: tuple[float, float] | None
) -> tuple[Pieces, Examples]:
    """The examples' spans as pieces, and the examples over these.

    Pieces that leave their recording, or meet what is marked bad, are left out and
    counted.

    Args:
      examples: with a span each.
      around: seconds before and after each onset; None takes the span itself.

    Raises:
      NeuroFMError: none is left, or a side of a fold is empty.
    """
    assert examples.span is not None
    sfreq = dataset.info.sfreq
    onset, offset = examples.span.T
    low, high = around or (0.0, offset - onset)
    start = np.round((onset + low) * sfreq).astype(int)
    stop = start + np.round((high - low) * sfreq).astype(int)
    n = dataset.items["n_samples"].to_numpy()[examples.row]
    inside = (start >= 0) & (stop <= n) & (stop > start)
    free = free_spans(dataset)
    good = np.array(
        [
            any(a <= first and past <= b for a, b in free[row])
            for row, first, past in zip(examples.row, start, stop, strict=True)
        ],
        bool,
    )
    kept = inside & good
    number = np.cumsum(kept) - 1
    folds = [
        Fold(
            **{
                side: number[rows[kept[rows]]]
                for side, rows in (
                    ("train", fold.train),
                    ("valid", fold.valid),
                    ("test", fold.test),
                )
            },
            name=fold.name,
        )
        for fold in examples.folds
    ]
    if not all(len(fold.train) and len(fold.test) for fold in folds):
        raise NeuroFMError(
            f"of {len(kept)} events {int(inside.sum())} lie inside their recordings "
            f"and {int(kept.sum())} where nothing is marked bad, which leaves a fold "
            "without training or test examples: give another --around"
        )
    pieces = Pieces(dataset, examples.row[kept], start[kept], stop[kept])
    groups = examples.groups
    return pieces, dataclasses.replace(
        examples,
        row=np.arange(int(kept.sum())),
        span=None,
        target=examples.target[kept],
        groups=None if groups is None else groups[kept],
        clusters=examples.clusters[kept],
        names=examples.names[kept],
        folds=folds,
        left_out={
            **examples.left_out,
            "outside": int((~inside).sum()),
            "bad": int((inside & ~good).sum()),
        },
    )
