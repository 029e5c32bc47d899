"""EEG and MEG: which segment row i of a run is, and what the segments of a batch hold.

Recordings of unlike sensors are trained together: those of like size share a batch, of
a few widths planned from the manifest, and every process knows which step has which.

Axes: b rows, C sensors of the batch, T samples of a segment.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int, Shaped

from neurofm.contract import BatchSpec, InputContract
from neurofm.data.buckets import widths
from neurofm.data.crops import Crop
from neurofm.data.draws import below, draws, permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan, mixture, read_crops, shares
from neurofm.data.select import Use, check_contract, chosen, reasons_against
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.signals.meeg import EEG

if TYPE_CHECKING:
    from neurofm.config import Data

FIELDS = frozenset(
    f"meeg/{name}" for name in ("signal", "pos", "sensor_type", "sensor_mask", "length")
)
BAD = "BAD"  # events whose trial_type begins so are never part of a segment


@dataclass(frozen=True, eq=False)
class Stretches:
    """The usable stretches of one dataset's recordings, numbered from 0.

    Attributes:
      number: position of the dataset in the plan.
      dataset: an open record store.
      window: samples of a segment.
      items: rows of the recordings that are used, ascending.
      counts: recordings used and left out, by reason; `bad_s`, seconds marked bad.
      item: the recording of each stretch.
      start, stop: its samples.
    """

    number: int
    dataset: Dataset
    window: int
    items: Int[np.ndarray, " n"]
    counts: dict[str, int]
    item: Int[np.ndarray, " stretches"]
    start: Int[np.ndarray, " stretches"]
    stop: Int[np.ndarray, " stretches"]

    @functools.cached_property
    def tiles(self) -> Int[np.ndarray, " stretches"]:
        """Segments side by side in each stretch; a short one is one, padded."""
        return np.maximum((self.stop - self.start) // self.window, 1)

    def segment(self, stretch: int, tile: int, offset: int) -> Crop:
        """The `tile`-th segment of a stretch, of which the first begins at `offset`."""
        start = int(self.start[stretch]) + offset + tile * self.window
        stop = min(start + self.window, int(self.stop[stretch]))
        item = int(self.item[stretch])
        return Crop(self.number, item, start, stop, span=(0, stop - start))

    def segments(self) -> list[Crop]:
        """All segments side by side, in order, from each stretch's first sample."""
        return [
            self.segment(stretch, tile, 0)
            for stretch, tiles in enumerate(self.tiles)
            for tile in range(tiles)
        ]

    def room(self, stretch: int) -> int:
        """Samples that are left over by whole segments."""
        length = int(self.stop[stretch] - self.start[stretch])
        return max(length - int(self.tiles[stretch]) * self.window, 0)


def training(
    datasets: Sequence[Dataset],
    contract: InputContract,
    data: Data,
    seed: int,
    batch_size: int,
) -> Plan:
    """The endless plan of a training run.

    Every epoch cuts each usable stretch into segments side by side, from another first
    sample each time, and goes through all in a new order. A stretch ends where
    something is marked bad; one shorter than a segment is one padded row an epoch.
    Steps are dealt to widths, and the rows of a width to datasets, in exact proportion
    to their segments; datasets to each other as `data.weights` says.

    Args:
      datasets: record stores of kind `meeg`.
      contract: `window_samples`, `receptive_samples` and the rest.
      data: the data part of the config.
      seed: the run's seed.
      batch_size: rows of a step, all of one width.

    Raises:
      NeuroFMError: a dataset is not what the model takes, or nothing is left of it.
    """
    stretches = _stretches(datasets, contract, data, "train")
    for each in stretches:
        if not len(each.item):
            why = ", ".join(f"{k} {n}" for k, n in each.counts.items() if n)
            raise NeuroFMError(
                f"no recording of {each.dataset.path} is left to train on ({why}): "
                "check its splits, data.hold_out and the lengths of its recordings"
            )
    sizes = _widths(stretches, data.buckets)
    weights = shares(data.weights, len(stretches))
    cells = [
        [_Cell(each, _of_width(each, sizes, k), seed) for each in stretches]
        for k in range(len(sizes))
    ]
    parts = _parts(stretches, sizes, weights)
    step_width = mixture([Fraction(sum(row)) for row in parts])
    # A dataset without recordings of this width has no part in its rows.
    present = [[d for d, part in enumerate(row) if part] for row in parts]
    row_dataset = [
        mixture([row[d] for d in here])
        for row, here in zip(parts, present, strict=True)
    ]

    def crop(row: int) -> Crop:
        step, place = divmod(row, batch_size)
        k, before = step_width(step)
        which, nth = row_dataset[k](before * batch_size + place)
        return cells[k][present[k][which]].row(nth)

    return _plan(stretches, sizes, None, crop)


def steps_by_width(
    datasets: Sequence[Dataset], contract: InputContract, data: Data
) -> dict[int, float]:
    """Widths of the steps of a training run, in sensors, and the share of each."""
    stretches = _stretches(datasets, contract, data, "train")
    sizes = _widths(stretches, data.buckets)
    weights = shares(data.weights, len(stretches))
    parts = [sum(row) for row in _parts(stretches, sizes, weights)]
    return {
        size: float(part / sum(parts)) for size, part in zip(sizes, parts, strict=True)
    }


def _parts(
    stretches: Sequence[Stretches], sizes: Sequence[int], weights: Sequence[Fraction]
) -> list[list[Fraction]]:
    """The part of each dataset in the rows of each width."""
    return [
        [
            weight * Fraction(int(each.tiles[mine].sum()), int(each.tiles.sum()))
            for each, weight in zip(stretches, weights, strict=True)
            for mine in (_of_width(each, sizes, k),)
        ]
        for k in range(len(sizes))
    ]


def held_out(
    datasets: Sequence[Dataset],
    contract: InputContract,
    data: Data,
    limit: int,
    batch_size: int,
) -> Plan:
    """At most `limit` fixed segments of the `valid` split, the same whatever the seed.

    An even random choice of the segments side by side; those of a width come together,
    filled up to whole batches. Without a `valid` split `n_crops` is 0. Arguments and
    errors are those of `training`.
    """
    stretches = _stretches(datasets, contract, data, "valid")
    segments = [crop for each in stretches for crop in each.segments()]
    key = stream_key(*(each.dataset.hash for each in stretches), "held out")
    taken = [segments[i] for i in permutation(key, 0, len(segments))[:limit]]
    if not taken:
        return _plan(stretches, (), 0, lambda row: segments[row])
    sizes = _widths(stretches, data.buckets)
    n_chans = [stretches[c.dataset].dataset.n_chans[c.item] for c in taken]
    width = np.searchsorted(sizes, n_chans)
    crops: list[Crop] = []
    for k in range(len(sizes)):
        mine = [taken[i] for i in np.flatnonzero(width == k)]
        fillers = -len(mine) % batch_size
        crops += mine + [c._replace(valid=False) for c in mine[-1:] * fillers]
    return _plan(stretches, sizes, len(crops), lambda row: crops[row])


class _Cell:
    """The stretches of one dataset and width: its rows, epoch after epoch."""

    def __init__(
        self, stretches: Stretches, mine: Int[np.ndarray, " n"], seed: int
    ) -> None:
        self.stretches, self.mine = stretches, mine
        self.ends = np.cumsum(stretches.tiles[mine])
        self.n_tiles = int(self.ends[-1]) if len(mine) else 0
        digest = stretches.dataset.hash
        self.order_key = stream_key(digest, seed, "order")
        self.offset_key = stream_key(digest, seed, "offset")
        # Two epochs, as reader threads run ahead over an epoch's end.
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = permutation(self.order_key, epoch, self.n_tiles)
        return order, draws(self.offset_key, epoch, len(self.stretches.item))

    def row(self, nth: int) -> Crop:
        epoch, within = divmod(nth, self.n_tiles)
        order, random = self.epoch(epoch)
        number = int(order[within])
        place = int(np.searchsorted(self.ends, number, side="right"))
        stretch = int(self.mine[place])
        tile = number - int(self.ends[place] - self.stretches.tiles[stretch])
        offset = below(random[stretch], self.stretches.room(stretch) + 1)
        return self.stretches.segment(stretch, tile, offset)


def _widths(stretches: Sequence[Stretches], most: int) -> tuple[int, ...]:
    n_chans = np.concatenate([s.dataset.n_chans[s.item] for s in stretches])
    return widths(n_chans, np.concatenate([s.tiles for s in stretches]), most)


def _of_width(
    stretches: Stretches, sizes: Sequence[int], k: int
) -> Int[np.ndarray, " n"]:
    place = np.searchsorted(sizes, stretches.dataset.n_chans[stretches.item])
    return np.flatnonzero(place == k)


def _stretches(
    datasets: Sequence[Dataset],
    contract: InputContract,
    data: Data,
    use: Use,
) -> list[Stretches]:
    for dataset in datasets:
        _check(dataset, contract)
    reasons = reasons_against(datasets, data, use)
    return [
        of_dataset(number, dataset, contract, against)
        for number, (dataset, against) in enumerate(zip(datasets, reasons, strict=True))
    ]


def every(dataset: Dataset, contract: InputContract) -> Stretches:
    """The usable stretches of a dataset, whatever split they are of."""
    _check(dataset, contract)
    return of_dataset(0, dataset, contract, {})


def _check(dataset: Dataset, contract: InputContract) -> None:
    check_contract(dataset, contract, ("kind", "unit", "sfreq"))
    check_frame(dataset.path, dataset.layouts, contract)


def of_dataset(
    number: int, dataset: Dataset, contract: InputContract, reasons: dict
) -> Stretches:
    """Stretches of recordings that no reason is against and nothing marks bad."""
    n_samples = dataset.items["n_samples"].to_numpy()
    free = free_spans(dataset)
    least, sfreq = contract.receptive_samples, contract.sfreq
    long = [[(a, b) for a, b in spans if b - a >= least] for spans in free]
    reasons["too_short"] = n_samples < least
    reasons["bad"] = np.array([not spans for spans in long], bool)
    left, counts = chosen(reasons)
    items = np.flatnonzero(left)
    found = [(item, a, b) for item in items for a, b in long[item]]
    rows = np.array(found, int).reshape(-1, 3)
    marked = sum(int(n_samples[i]) - sum(b - a for a, b in free[i]) for i in items)
    counts["bad_s"] = round(marked / sfreq)
    return Stretches(
        number, dataset, contract.window_samples, items, counts, *rows.T.copy()
    )


def free_spans(dataset: Dataset) -> list[list[tuple[int, int]]]:
    """Of every recording, the samples between what is marked bad."""
    row = {name: i for i, name in enumerate(dataset.items["item"].to_pylist())}
    marks: dict[int, list[tuple[int, int]]] = {}
    columns = ("item", "onset", "duration", "trial_type")
    events = [dataset.events[name].to_pylist() for name in columns]
    sfreq = dataset.info.sfreq
    for item, onset, duration, kind in zip(*events, strict=True):
        if str(kind or "").upper().startswith(BAD):
            first = int(np.floor(onset * sfreq))
            past = int(np.ceil((onset + (duration or 0)) * sfreq))
            marks.setdefault(row[item], []).append((first, max(past, first + 1)))
    out = []
    for i, n in enumerate(dataset.items["n_samples"].to_pylist()):
        spans, at = [], 0
        for first, past in sorted(marks.get(i, ())):
            if first > at:
                spans.append((at, min(first, n)))
            at = max(at, past)
        out.append([*spans, (at, n)] if at < n else spans)
    return out


def check_frame(
    path: Path | str, layouts: Sequence[Sensors], contract: InputContract
) -> None:
    """Refuse MEG whose positions are in another frame than the model knows.

    Args:
      path: of the dataset that has these layouts.

    Raises:
      NeuroFMError: a layout is.
    """
    for sensors in layouts:
        if (sensors.kind != EEG).any() and sensors.frame != contract.frame:
            raise NeuroFMError(
                f"the dataset {path} has MEG sensors in the frame "
                f"{sensors.frame!r} where the model takes {contract.frame!r}: prepare "
                f"it again with --frame {contract.frame}"
            )


def pad(
    signals: Sequence[Float32[np.ndarray, "_ _"]],
    sensors: Sequence[Sensors],
    width: int,
    n_samples: int,
) -> dict[str, Shaped[np.ndarray, "b ..."]]:
    """The arrays `meeg/...` of recordings of at most `width` sensors; see `filler`."""
    b = len(signals)
    batch = {
        "meeg/signal": np.zeros((b, width, n_samples), np.float32),
        "meeg/pos": np.zeros((b, width, 6), np.float32),
        "meeg/sensor_type": np.zeros((b, width), np.int32),
        "meeg/sensor_mask": np.zeros((b, width), bool),
        "meeg/length": np.array([x.shape[1] for x in signals], np.int32),
    }
    for row, (x, own) in enumerate(zip(signals, sensors, strict=True)):
        n = len(own)
        batch["meeg/signal"][row, :n, : x.shape[1]] = x
        batch["meeg/pos"][row, :n] = own.pos
        batch["meeg/sensor_type"][row, :n] = own.kind
        batch["meeg/sensor_mask"][row, :n] = True
    return batch


def _plan(
    stretches: Sequence[Stretches], sizes: Sequence[int], n_crops: int | None, crop
) -> Plan:
    datasets = tuple(each.dataset for each in stretches)
    return Plan(
        datasets=datasets,
        items=tuple(each.items for each in stretches),
        counts=tuple(each.counts for each in stretches),
        n_crops=n_crops,
        crop=crop,
        fields=FIELDS,
        fill=filler(datasets, sizes),
    )


def filler(
    datasets: Sequence[Dataset], sizes: Sequence[int]
) -> Callable[[Sequence[Crop], BatchSpec], dict[str, np.ndarray]]:
    """What makes the arrays of a batch's rows, C being its width:

    meeg/signal       float32 [b, C, T]  V, T or T/m; zeros where nothing is
    meeg/pos          float32 [b, C, 6]  metres, and orientation
    meeg/sensor_type  int32 [b, C]       ids of `signals.meeg`
    meeg/sensor_mask  bool [b, C]        sensors that are there
    meeg/length       int32 [b]          samples that are recorded
    """

    def fill(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        sensors = [datasets[c.dataset].sensors(c.item) for c in crops]
        width = sizes[int(np.searchsorted(sizes, max(map(len, sensors))))]
        return pad(
            read_crops(datasets, crops), sensors, width, spec.contract.window_samples
        )

    return fill
