"""Labelled examples: recordings, or events in them, each a row with its class.

What is an example is told by `data.target`, a column of the recordings or of their
events. Rows are filled as those of their kind are, with the number of the class beside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from neurofm.contract import BatchSpec
from neurofm.data import audio, meeg
from neurofm.data.crops import Crop
from neurofm.data.draws import below, draws_of_rows, permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan, mixture
from neurofm.data.select import Use, check_contract, reasons_against
from neurofm.errors import NeuroFMError
from neurofm.registry import suggest

if TYPE_CHECKING:
    from neurofm.config import Data


@dataclass(frozen=True, eq=False)
class Labelled:
    """The examples of some datasets, numbered from 0.

    Attributes:
      dataset: of each, its position in `data.path`.
      item: its recording.
      start, stop: its samples.
      label: its class, as written.
      counts: for each dataset, examples used and left out, by reason.
    """

    dataset: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]
    label: tuple[str, ...]
    counts: tuple[dict[str, int], ...]

    def __len__(self) -> int:
        return len(self.item)


def find(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, use: Use
) -> Labelled:
    """The examples of a split, with a class and long enough for one token.

    Args:
      datasets: open record stores.
      spec: what the task takes.
      data: fields `target`, `around`, `hold_out` and `transductive`.
      use: `train` takes the splits `train` and none, `valid` and `test` their own.

    Raises:
      NeuroFMError: a dataset is not what the task takes, or has no such column.
    """
    names = ("kind", "unit", "sfreq")
    names += ("n_chans",) if spec.contract.kind == "audio" else ()
    rows: list[tuple[int, int, int, int, str]] = []
    counts = []
    for number, (dataset, reasons) in enumerate(
        zip(datasets, reasons_against(datasets, data, use), strict=True)
    ):
        check_contract(dataset, spec.contract, names)
        if spec.contract.kind == "meeg":
            meeg.check_frame(dataset.path, dataset.layouts, spec.contract)
        found, count = _of_dataset(dataset, spec, data, reasons)
        rows += [(number, *row) for row in found]
        counts.append(count)
    d, item, start, stop = np.array([r[:4] for r in rows], int).reshape(-1, 4).T
    return Labelled(d, item, start, stop, tuple(r[4] for r in rows), tuple(counts))


def _of_dataset(
    dataset: Dataset, spec: BatchSpec, data: Data, reasons: dict
) -> tuple[list[tuple[int, int, int, str]], dict[str, int]]:
    against = np.any(list(reasons.values()), axis=0)
    least = spec.contract.receptive_samples
    free = meeg.free_spans(dataset) if spec.contract.kind == "meeg" else None
    counts = {"used": 0, "other_split": 0, "no_label": 0, "too_short": 0, "bad": 0}
    out = []
    for item, start, stop, label in _candidates(dataset, data):
        if against[item]:
            counts["other_split"] += 1
        elif label is None:
            counts["no_label"] += 1
        elif stop - start < least:
            counts["too_short"] += 1
        elif free and not any(a <= start and stop <= b for a, b in free[item]):
            counts["bad"] += 1
        else:
            counts["used"] += 1
            out.append((item, start, stop, str(label)))
    return out, counts


def _candidates(dataset: Dataset, data: Data):
    """(item, start, stop, label) of every recording or event, in order."""
    lengths = dataset.items["n_samples"].to_pylist()
    if data.target in dataset.items.column_names:
        if data.around is not None:
            raise NeuroFMError(
                f"data.around is given, but data.target={data.target} is a column of "
                "whole recordings: leave it out, or name a column of the events"
            )
        labels = dataset.items[data.target].to_pylist()
        for item, (n, label) in enumerate(zip(lengths, labels, strict=True)):
            yield item, 0, n, label
        return
    if data.target not in dataset.events.column_names or not len(dataset.events):
        known = [*dataset.items.column_names]
        known += dataset.events.column_names if len(dataset.events) else []
        raise NeuroFMError(
            f"data.target {data.target!r} is no column of {dataset.path}: "
            f"{suggest(data.target, known)}"
        )
    row = {name: i for i, name in enumerate(dataset.items["item"].to_pylist())}
    columns = [
        dataset.events[name].to_pylist()
        for name in ("item", "onset", "duration", data.target, "trial_type")
    ]
    for name, onset, duration, label, kind in zip(*columns, strict=True):
        if str(kind or "").upper().startswith(meeg.BAD):
            continue
        low, high = data.around or (0.0, duration or 0.0)
        sfreq, n = dataset.info.sfreq, lengths[row[name]]
        start = round((onset + low) * sfreq)
        stop = start + round((high - low) * sfreq)
        # One that begins before its recording or ends after it is too short.
        yield row[name], max(start, 0), stop if start >= 0 and stop <= n else 0, label


def classes(examples: Labelled) -> tuple[str, ...]:
    """Names of the classes, in order.

    Raises:
      NeuroFMError: fewer than two.
    """
    names = tuple(sorted(set(examples.label)))
    if len(names) < 2:
        told = f"only {names[0]!r}" if names else "none at all"
        counts = ", ".join(
            f"{k} {sum(c[k] for c in examples.counts)}" for k in examples.counts[0]
        )
        raise NeuroFMError(
            f"there are not two classes to train on, {told} ({counts}): check "
            "data.target, data.around and the splits"
        )
    return names


def training(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    data: Data,
    seed: int,
    batch_size: int,
) -> Plan:
    """The endless plan of a training run on labels.

    Every epoch goes through all examples in a new order; of one longer than the model's
    window a stretch is drawn. Datasets are not weighed: an example is an example.
    """
    examples = find(datasets, spec, data, "train")
    numbers = _numbers(examples, spec)
    window = spec.contract.window_samples
    sizes, place = _sizes(examples, datasets, spec, data)
    mine = [np.flatnonzero(place == k) for k in range(len(sizes))]
    which = mixture([Fraction(len(rows)) for rows in mine])
    hashes = [dataset.hash for dataset in datasets]
    keys = [stream_key(*hashes, seed, "order", size) for size in sizes]
    random = [draws_of_rows(stream_key(*hashes, seed, "crop", s), 1) for s in sizes]

    @functools.lru_cache(maxsize=2 * len(sizes))
    def order(k: int, epoch: int) -> Int[np.ndarray, " n"]:
        return mine[k][permutation(keys[k], epoch, len(mine[k]))]

    def crop(row: int) -> Crop:
        step, at = divmod(row, batch_size)
        k, before = which(step)
        nth = before * batch_size + at
        epoch, within = divmod(nth, len(mine[k]))
        number = int(order(k, epoch)[within])
        room = max(int(examples.stop[number] - examples.start[number]) - window, 0)
        return _crop(examples, number, below(random[k](nth)[0], room + 1), window)

    return _plan(datasets, spec, examples, numbers, sizes, None, crop)


def held_out(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    data: Data,
    limit: int | None,
    batch_size: int,
    use: Use = "valid",
) -> Plan:
    """The examples of a split, once, windows side by side; see `meeg.held_out`.

    Args:
      limit: windows at most, an even random choice; None takes all.
    """
    examples = find(datasets, spec, data, use)
    window = spec.contract.window_samples
    numbers = _numbers(examples, spec)
    tiles = np.maximum((examples.stop - examples.start) // window, 1)
    every = [(n, k * window) for n, count in enumerate(tiles) for k in range(count)]
    key = stream_key(*(dataset.hash for dataset in datasets), "held out")
    chosen = permutation(key, 0, len(every))[:limit]
    sizes, place = _sizes(examples, datasets, spec, data)
    crops: list[Crop] = []
    for k in range(len(sizes)):
        taken = [every[i] for i in sorted(chosen) if place[every[i][0]] == k]
        mine = [_crop(examples, number, offset, window) for number, offset in taken]
        fillers = -len(mine) % batch_size
        crops += mine + [c._replace(valid=False) for c in mine[-1:] * fillers]
    return _plan(
        datasets, spec, examples, numbers, sizes, len(crops), lambda row: crops[row]
    )


def _numbers(examples: Labelled, spec: BatchSpec) -> Int[np.ndarray, " n"]:
    """The class of each example, by the names that the task has for them."""
    names = spec.fields["label"].words
    if unknown := sorted(set(examples.label) - set(names)):
        raise NeuroFMError(
            f"the class {unknown[0]!r} is none of those trained on "
            f"({', '.join(names)}): mend the labels, or leave its examples out"
        )
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[name] for name in examples.label], np.int32)


def _sizes(
    examples: Labelled, datasets: Sequence[Dataset], spec: BatchSpec, data: Data
) -> tuple[tuple[int, ...], Int[np.ndarray, " n"]]:
    """Widths of the batches, in channels, and which of them each example takes."""
    if spec.contract.kind != "meeg" or not len(examples):
        return (spec.contract.n_chans,), np.zeros(len(examples), int)
    n_chans = np.array(
        [
            datasets[d].n_chans[i]
            for d, i in zip(examples.dataset, examples.item, strict=True)
        ]
    )
    sizes = meeg.widths(n_chans, np.ones_like(n_chans), data.buckets)
    return sizes, np.searchsorted(sizes, n_chans)


def _crop(examples: Labelled, number: int, offset: int, window: int) -> Crop:
    start = int(examples.start[number]) + offset
    stop = min(start + window, int(examples.stop[number]))
    dataset, item = int(examples.dataset[number]), int(examples.item[number])
    return Crop(dataset, item, start, stop, span=(0, stop - start), example=number)


def _plan(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    examples: Labelled,
    numbers: Int[np.ndarray, " n"],
    sizes: tuple[int, ...],
    n_crops: int | None,
    crop: Callable[[int], Crop],
) -> Plan:
    if spec.contract.kind == "meeg":
        fields, fill = meeg.FIELDS, meeg.filler(datasets, sizes)
    else:
        fields, fill = audio.FIELDS, audio.filler(datasets)

    def with_label(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        label = np.array([numbers[c.example] for c in crops], np.int32)
        return {**fill(crops, spec), "label": label}

    items = [
        np.unique(examples.item[examples.dataset == d]) for d in range(len(datasets))
    ]
    return Plan(
        datasets=tuple(datasets),
        items=tuple(items),
        counts=examples.counts,
        n_crops=n_crops,
        crop=crop,
        fields=fields | {"label"},
        fill=with_label,
    )
