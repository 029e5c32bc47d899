"""Intracranial recordings: windows of one electrode, or of all channels of a subject.

A model of one channel takes every channel of a recording as an electrode of its own.

Axes: b rows, C channels of the model, T samples of a window.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, Shaped

from neurofm.contract import BatchSpec, InputContract
from neurofm.data import meeg
from neurofm.data.crops import Crop
from neurofm.data.draws import below, draws, permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan, mixture, read_crops, shares
from neurofm.data.select import Use, check_contract, reasons_against
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one dataset, numbered from 0.

    Attributes:
      stretches: where they may lie.
      alone: whether each channel of a window is a row.
    """

    stretches: meeg.Stretches
    alone: bool

    @functools.cached_property
    def channels(self) -> Int[np.ndarray, " stretches"]:
        """Rows of a window of each stretch."""
        n = self.stretches.dataset.n_chans[self.stretches.item]
        return n if self.alone else np.ones_like(n)

    @functools.cached_property
    def ends(self) -> Int[np.ndarray, " stretches"]:
        """Number of the first row behind each stretch."""
        return np.cumsum(self.stretches.tiles * self.channels)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def row(self, number: int, offset: Int[np.ndarray, " stretches"]) -> Crop:
        """A row, its stretch's first window beginning at `offset`."""
        place = int(np.searchsorted(self.ends, number, side="right"))
        n = int(self.channels[place])
        first = int(self.ends[place]) - int(self.stretches.tiles[place]) * n
        tile, channel = divmod(number - first, n)
        crop = self.stretches.segment(place, tile, int(offset[place]))
        return crop._replace(channel=channel if self.alone else -1)


def training(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, seed: int
) -> Plan:
    """The endless plan of a training run.

    Every epoch cuts each usable stretch into windows side by side, from another first
    sample each time, and goes through all of them and their electrodes in a new order.

    Raises:
      NeuroFMError: a dataset is not what the model takes, or nothing is left of it.
    """
    every = _windows(datasets, spec, data, "train")
    for each in every:
        if not len(each):
            counts = each.stretches.counts
            why = ", ".join(f"{k} {n}" for k, n in counts.items() if n)
            raise NeuroFMError(
                f"no recording of {each.stretches.dataset.path} is left to train on "
                f"({why}): check its splits, data.hold_out and the lengths of its "
                "recordings"
            )
    which = mixture(shares(data.weights, len(every)))
    epochs = [_epochs(each, seed) for each in every]

    def crop(row: int) -> Crop:
        number, nth = which(row)
        epoch, within = divmod(nth, len(every[number]))
        order, offset = epochs[number](epoch)
        return every[number].row(int(order[within]), offset)

    return _plan(every, spec, None, crop)


def _epochs(each: Windows, seed: int):
    """Epoch -> order of the rows, and where the windows of each stretch begin."""
    own, digest = each.stretches, each.stretches.dataset.hash
    order_key = stream_key(digest, seed, "order")
    offset_key = stream_key(digest, seed, "offset")

    @functools.lru_cache(maxsize=2)  # reader threads run ahead over an epoch's end
    def epoch(number: int) -> tuple[np.ndarray, np.ndarray]:
        random = draws(offset_key, number, len(own.item))
        offset = [below(r, own.room(i) + 1) for i, r in enumerate(random)]
        return permutation(order_key, number, len(each)), np.array(offset, int)

    return epoch


def held_out(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, limit: int
) -> Plan:
    """At most `limit` fixed rows of the `valid` split, the same whatever the seed."""
    every = _windows(datasets, spec, data, "valid")
    rows = [(d, n) for d, each in enumerate(every) for n in range(len(each))]
    hashes = [each.stretches.dataset.hash for each in every]
    order = permutation(stream_key(*hashes, "held out"), 0, len(rows))[:limit]
    taken = [rows[i] for i in order]
    start = [np.zeros(len(each.stretches.item), int) for each in every]

    def crop(row: int) -> Crop:
        number, n = taken[min(row, len(taken) - 1)]
        return every[number].row(n, start[number])._replace(valid=row < len(taken))

    return _plan(every, spec, len(taken), crop)


def _windows(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, use: Use
) -> list[Windows]:
    reasons = reasons_against(datasets, data, use)
    found = []
    for number, (dataset, against) in enumerate(zip(datasets, reasons, strict=True)):
        check(dataset, spec.contract)
        stretches = meeg.of_dataset(number, dataset, spec.contract, against)
        refuse_strangers(dataset, stretches.items, spec)
        found.append(Windows(stretches, spec.contract.n_chans == 1))
    return found


def check(dataset: Dataset, contract: InputContract) -> None:
    """Refuse recordings that the model does not take.

    Raises:
      NeuroFMError: of another kind, rate or reference, or of too many channels.
    """
    check_contract(dataset, contract, ("kind", "unit", "sfreq"))
    has = dataset.info.processing.get("reference", contract.reference)
    if has != contract.reference:
        raise NeuroFMError(
            f"the dataset {dataset.path} has the reference {has} where the model takes "
            f"{contract.reference}: prepare it again with --reference "
            f"{contract.reference}"
        )
    most = int(dataset.n_chans.max())
    if 1 < contract.n_chans < most:
        raise NeuroFMError(
            f"the dataset {dataset.path} has recordings of {most} channels where the "
            f"model takes {contract.n_chans} at most: choose channels at `neurofm "
            "prepare`, or set task.trunk.n_chans for a new model"
        )


def check_labelled(dataset: Dataset, contract: InputContract) -> None:
    """Refuse, beside what `check` does, several electrodes for a model of one.

    Raises:
      NeuroFMError: an example would be as many as its recording has electrodes.
    """
    check(dataset, contract)
    most = int(dataset.n_chans.max())
    if contract.n_chans == 1 < most:
        raise NeuroFMError(
            f"the dataset {dataset.path} has recordings of {most} electrodes, and this "
            "model reads one, for which a classifier is trained alone: prepare each "
            "electrode as a dataset of its own"
        )


def _plan(every: Sequence[Windows], spec: BatchSpec, n_crops: int | None, crop) -> Plan:
    own = [each.stretches for each in every]
    return Plan(
        datasets=tuple(each.dataset for each in own),
        items=tuple(each.items for each in own),
        counts=tuple(each.counts for each in own),
        n_crops=n_crops,
        crop=crop,
        fields=frozenset(spec.fields),
        fill=filler([each.dataset for each in own], spec),
    )


def filler(datasets: Sequence[Dataset], spec: BatchSpec):
    """What makes the arrays of a batch's rows:

    ieeg/signal        float32 [b, C, T]  V; zeros where nothing is
    ieeg/length        int32 [b]          samples that are recorded
    ieeg/channel_mask  bool [b, C]        channels that are there, where it is asked for
    subject            int32 [b]          of the names that the model knows, where asked
    """
    names = spec.fields["subject"].words if "subject" in spec.fields else ()
    told = [dataset.items["subject"].to_pylist() for dataset in datasets]
    whose = [_numbers(each, names) for each in told] if names else []

    def fill(
        crops: Sequence[Crop], spec: BatchSpec
    ) -> dict[str, Shaped[np.ndarray, "b ..."]]:
        c, t = spec.contract.n_chans, spec.contract.window_samples
        signal = np.zeros((len(crops), c, t), np.float32)
        there = np.zeros((len(crops), c), bool)
        for row, (x, one) in enumerate(
            zip(read_crops(datasets, crops), crops, strict=True)
        ):
            x = x[[one.channel]] if one.channel >= 0 else x
            signal[row, : len(x), : x.shape[1]] = x
            there[row, : len(x)] = True
        lengths = [one.stop - one.start for one in crops]
        batch = {"ieeg/signal": signal, "ieeg/length": np.array(lengths, np.int32)}
        if names:
            batch["ieeg/channel_mask"] = there
            subject = [whose[one.dataset][one.item] for one in crops]
            batch["subject"] = np.array(subject, np.int32)
        return batch

    return fill


def refuse_strangers(
    dataset: Dataset, items: Int[np.ndarray, " n"], spec: BatchSpec
) -> None:
    """Refuse recordings, of those that are used, of whom the model does not know.

    Raises:
      NeuroFMError: there are some, where the model knows subjects by name.
    """
    if names := spec.fields["subject"].words if "subject" in spec.fields else ():
        told = dataset.items["subject"].to_pylist()
        subjects([told[item] for item in items], names, dataset.path)


def subjects(
    told: Sequence[str | None], names: Sequence[str], path: Any
) -> Int[np.ndarray, " items"]:
    """The number of every recording's subject.

    Args:
      told: the subject of every recording of the dataset at `path`.
      names: of those that the model knows.

    Raises:
      NeuroFMError: the model does not know one.
    """
    numbers = _numbers(told, names)
    if (numbers < 0).any():
        unknown = told[int(np.argmin(numbers))] or "nobody"
        raise NeuroFMError(
            f"the dataset {path} has recordings of {unknown!r} "
            f"where the model knows {', '.join(names)}: leave them out (in "
            "training by data.hold_out), or train a model with them"
        )
    return numbers


def _numbers(
    told: Sequence[str | None], names: Sequence[str]
) -> Int[np.ndarray, " items"]:
    """Of every recording's subject, -1 for those that the model does not know."""
    number = {name: i for i, name in enumerate(names)}
    return np.array([number.get(name or "", -1) for name in told], int)
