"""Labelled examples: recordings, or events in them, each a row with its label.

What is an example is told by `data.target`, a column of the recordings or of their
events: of classes; of tags, those of an example separated by commas; of numbers,
where several columns may be named, separated by commas; or of sequences of symbols.
Where `data.responses` are learnt, volumes of fMRI are the examples, see `following`.
Rows are filled as those of their kind are, with the label beside.

Axes: n examples, K tags, numbers or regions, S symbols of a sequence at most.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.contract import BatchSpec
from neurofm.data import audio, following, ieeg, meeg, parcels
from neurofm.data.candidates import Candidate, candidates
from neurofm.data.crops import Crop
from neurofm.data.draws import below, draws_of_rows, permutation, stream_key
from neurofm.data.label_values import answer_of, labels
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan, mixture
from neurofm.data.select import Use, check_contract, chosen, reasons_against
from neurofm.data.sides import sides
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data


@dataclass(frozen=True, eq=False)
class Labelled:
    """The examples of some datasets, numbered from 0.

    Attributes:
      dataset: of each, its position in `data.path`.
      item: its recording.
      start, stop: its samples; a start below 0 is silence.
      name: see `neurofm.eval.places`.
      label: what its columns hold, as written.
      counts: for each dataset, examples used and left out, by reason.
      vectors: responses of each, instead of labels.
    """

    dataset: Int[np.ndarray, " n"]
    item: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]
    name: tuple[str, ...]
    label: tuple[tuple[Any, ...], ...]
    counts: tuple[dict[str, int], ...]
    vectors: Float[np.ndarray, "n K"] | None = None

    def __len__(self) -> int:
        return len(self.item)


def find(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, use: Use
) -> Labelled:
    """The examples of a split, with a label and long enough for one token.

    Args:
      datasets: open record stores.
      spec: what the task takes.
      data: fields `target`, `around`, `hold_out`, `transductive`, and `split` with what
        belongs to it.
      use: `train` takes the splits `train` and none, `valid` and `test` their own;
        with `data.split` each its own.

    Raises:
      NeuroFMError: a dataset is not what the task takes, or has no such column.
    """
    names = ("kind", "unit", "sfreq")
    names += ("n_chans",) if spec.contract.kind == "audio" else ()
    if data.split and len(datasets) > 1:
        raise NeuroFMError(
            f"data.split parts the examples of one dataset, and {len(datasets)} are "
            "given: give one, or leave it out and take their splits"
        )
    if answer_of(spec) == "responses":
        return _following(datasets, spec, data, use, names)
    rows: list[tuple[int, Candidate]] = []
    counts = []
    for number, (dataset, reasons) in enumerate(
        zip(datasets, reasons_against(datasets, data, use), strict=True)
    ):
        check_contract(dataset, spec.contract, names)
        if spec.contract.kind == "meeg":
            meeg.check_frame(dataset.path, dataset.layouts, spec.contract)
        if spec.contract.kind == "fmri":
            parcels.check(dataset, spec)
        if spec.contract.kind == "ieeg":
            ieeg.check_labelled(dataset, spec.contract)
        found, count = _of_dataset(dataset, spec, data, use, reasons)
        rows += [(number, row) for row in found]
        counts.append(count)
    numbers = [(d, one.item, one.start, one.stop) for d, one in rows]
    d, item, start, stop = np.array(numbers, int).reshape(-1, 4).T
    own = tuple(one.name for _, one in rows)
    told = tuple(one.label for _, one in rows)
    return Labelled(d, item, start, stop, own, told, tuple(counts))


def _following(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    data: Data,
    use: Use,
    names: Sequence[str],
) -> Labelled:
    """The volumes of fMRI, which is the last store, that follow recordings of sound."""
    *sounds, brain = datasets
    if brain.info.kind != "fmri" or spec.contract.kind != "audio":
        raise NeuroFMError(
            "responses of brains are learnt from sound: give fMRI, which `neurofm "
            "prepare fmri` makes, as data.responses.path, and a model of sound"
        )
    *reasons, of_runs = reasons_against(datasets, data, use)
    runs, _ = chosen(of_runs)
    found = []
    for sound, against in zip(sounds, reasons, strict=True):
        check_contract(sound, spec.contract, names)
        against.pop("no_split", None)  # the fMRI's own split tells
        items, _ = chosen(against)
        window = spec.contract.window_samples
        usable = items, runs
        found.append(following.find(sound, brain, data.responses, window, usable, use))

    def of_all(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name) for each in found])

    number = np.repeat(np.arange(len(sounds)), [len(each.item) for each in found])
    return Labelled(
        number,
        of_all("item"),
        of_all("start"),
        of_all("stop"),
        tuple(of_all("name").tolist()),
        ((),) * len(number),
        (*(each.counts for each in found), {"used": int(runs.sum())}),
        of_all("vector"),
    )


def _of_dataset(
    dataset: Dataset, spec: BatchSpec, data: Data, use: Use, reasons: dict
) -> tuple[list[Candidate], dict[str, int]]:
    every = candidates(dataset, data)
    if data.split:
        side = sides(dataset, data, every).word
        reasons = {"held_out": reasons["held_out"]}
    else:
        side = np.full(len(every), use)
    against = np.any(list(reasons.values()), axis=0)
    least = spec.contract.receptive_samples
    brain = spec.contract.kind in ("meeg", "ieeg")
    free = meeg.free_spans(dataset) if brain else None
    counts = {"used": 0, "other_split": 0, "no_label": 0, "too_short": 0, "bad": 0}
    counts |= {"no_side": 0} if data.split else {}
    most = float("inf")
    if answer_of(spec) == "sequence":  # one is told as a whole
        counts["too_long"], most = 0, spec.contract.window_samples
    out = []
    for one, word in zip(every, side, strict=True):
        item, start, stop = one[:3]
        if against[item] or word not in ("", use):
            counts["other_split"] += 1
        elif all(value is None for value in one.label):
            counts["no_label"] += 1
        elif not word:
            counts["no_side"] += 1
        elif stop - start < least:
            counts["too_short"] += 1
        elif stop - start > most:
            counts["too_long"] += 1
        elif free and not any(a <= start and stop <= b for a, b in free[item]):
            counts["bad"] += 1
        else:
            counts["used"] += 1
            out.append(one)
    return out, counts


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
    made = labels(examples, spec)
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

    return _plan(datasets, spec, examples, made, sizes, None, crop)


def held_out(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    data: Data,
    limit: int | None,
    batch_size: int,
    use: Use = "valid",
) -> Plan:
    """The examples of a split, once, windows side by side; see `meeg.held_out`.

    With `data.even_windows` each has so many, evenly spaced.

    Args:
      limit: windows at most, an even random choice; None takes all.
    """
    examples = find(datasets, spec, data, use)
    window = spec.contract.window_samples
    made = labels(examples, spec)
    lengths = examples.stop - examples.start
    every = [
        (i, at) for i, n in enumerate(lengths) for at in _tiles(int(n), window, data)
    ]
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
        datasets, spec, examples, made, sizes, len(crops), lambda row: crops[row]
    )


def _tiles(n_samples: int, window: int, data: Data) -> list[int]:
    """First samples of the windows of a held-out example, from its own start."""
    if data.even_windows:
        return parcels.even_starts(n_samples, window, data.even_windows)
    return [k * window for k in range(max(n_samples // window, 1))]


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
    first = int(examples.start[number]) + offset
    start, stop = max(first, 0), min(first + window, int(examples.stop[number]))
    dataset, item = int(examples.dataset[number]), int(examples.item[number])
    span = (start - first, stop - first)
    return Crop(dataset, item, start, stop, span=span, example=number)


def _plan(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    examples: Labelled,
    made: Shaped[np.ndarray, " n *K"],
    sizes: tuple[int, ...],
    n_crops: int | None,
    crop: Callable[[int], Crop],
) -> Plan:
    items = [
        np.unique(examples.item[examples.dataset == d]) for d in range(len(datasets))
    ]
    if spec.contract.kind == "meeg":
        fields, fill = meeg.FIELDS, meeg.filler(datasets, sizes)
    elif spec.contract.kind == "fmri":
        fields, fill = parcels.WINDOWS, parcels.filler(datasets, spec)
    elif spec.contract.kind == "ieeg":
        for dataset, used in zip(datasets, items, strict=True):
            ieeg.refuse_strangers(dataset, used, spec)
        fields = frozenset(spec.fields) - {"label"}
        fill = ieeg.filler(datasets, spec)
    else:
        sounds = [d for d in datasets if d.info.kind == "audio"]
        fields, fill = audio.FIELDS, audio.filler(sounds)

    def with_label(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        return {**fill(crops, spec), "label": made[[c.example for c in crops]]}

    return Plan(
        datasets=tuple(datasets),
        items=tuple(items),
        counts=examples.counts,
        n_crops=n_crops,
        crop=crop,
        fields=fields | {"label"},
        fill=with_label,
    )
