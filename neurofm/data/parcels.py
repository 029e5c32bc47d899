"""fMRI by itself: which windows of which run row i of a run is.

A row of training is a subject, seen in two crops of one of its runs (Brain-Semantoks,
arXiv 2512.11582, its released loader). Crops of a run that is shorter than a window
begin with it and end in zeros.

Axes: b rows, V = 2 crops of a row, C regions of the model, T samples of a window.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Int

from neurofm.contract import BatchSpec
from neurofm.data.brains import placed, subject_names
from neurofm.data.crops import Crop
from neurofm.data.draws import below, draws_of_rows, permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan, mixture, read_crops, shares
from neurofm.data.select import Use, check_contract, chosen, reasons_against
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data

REGIONS, CROPS, BOLD, SPAN = "fmri/regions", "fmri/crops", "fmri/bold", "fmri/span"
PAIRS = frozenset({REGIONS, CROPS})
WINDOWS = frozenset({REGIONS, BOLD, SPAN})
EVEN = 8  # windows of a run, evenly spaced, of which held-out pairs are made


def even_starts(n_samples: int, window: int, n: int) -> list[int]:
    """Starts of `n` windows from the first to the last, rounded down.

    All are 0 where the run is shorter than a window.
    """
    return [int(x) for x in np.linspace(0, max(n_samples - window, 0), n)]


def training(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, seed: int
) -> Plan:
    """The endless plan of a training run: every epoch all subjects in a new order.

    Of a subject one run is drawn, and two crops of it anywhere, each by itself. Stores
    are mixed in exact proportion to `data.weights`, equally where it is empty.

    Args:
      datasets: record stores of kind `fmri`.
      spec: the task's, for training.
      data: the data part of the config.
      seed: the run's seed.

    Raises:
      NeuroFMError: a store has another atlas, rate or unit, or nothing is left of it.
    """
    items, counts = usable(datasets, spec, data, "train")
    people = [_by_subject(d, mine) for d, mine in zip(datasets, items, strict=True)]
    for dataset, mine, why in zip(datasets, people, counts, strict=True):
        if not mine:
            told = ", ".join(f"{k} {n}" for k, n in why.items() if n)
            raise NeuroFMError(
                f"no run of {dataset.path} is left to train on ({told}): check its "
                "splits and data.hold_out"
            )
    which = mixture(shares(data.weights, len(datasets)))
    keys = [stream_key(dataset.hash, seed, "order") for dataset in datasets]
    words = [
        draws_of_rows(stream_key(dataset.hash, seed, "crops"), 3)
        for dataset in datasets
    ]
    window = spec.contract.window_samples
    lengths = [dataset.items["n_samples"].to_numpy() for dataset in datasets]

    @functools.lru_cache(maxsize=2 * len(datasets))
    def order(d: int, epoch: int) -> Int[np.ndarray, " n"]:
        return permutation(keys[d], epoch, len(people[d]))

    def crop(row: int) -> Crop:
        d, nth = which(row)
        epoch, within = divmod(nth, len(people[d]))
        runs = people[d][int(order(d, epoch)[within])]
        word = words[d](nth)
        item = runs[below(word[0], len(runs))]
        n = int(lengths[d][item])
        room = max(n - window, 0) + 1
        return _pair(d, item, (below(word[1], room), below(word[2], room)), n, window)

    return _plan(datasets, items, counts, spec, None, crop)


def held_out(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, limit: int
) -> Plan:
    """At most `limit` pairs of evenly spaced windows of the `valid` split.

    The same whatever the seed; an even random choice. Without such a split `n_crops`
    is 0.
    """
    items, counts = usable(datasets, spec, data, "valid")
    window = spec.contract.window_samples
    every: list[Crop] = []
    for d, (dataset, mine) in enumerate(zip(datasets, items, strict=True)):
        for item in mine:
            n = dataset.items["n_samples"][int(item)].as_py()
            at = even_starts(n, window, EVEN)
            pairs = dict.fromkeys(zip(at[: EVEN // 2], at[EVEN // 2 :], strict=True))
            every += [_pair(d, int(item), pair, n, window) for pair in pairs]
    key = stream_key(*(dataset.hash for dataset in datasets), "held out")
    crops = [every[i] for i in sorted(permutation(key, 0, len(every))[:limit])]

    def crop(row: int) -> Crop:
        return crops[row] if row < len(crops) else crops[-1]._replace(valid=False)

    return _plan(datasets, items, counts, spec, len(crops), crop)


def usable(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, use: Use
) -> tuple[list[Int[np.ndarray, " n"]], list[dict[str, int]]]:
    """Runs of a split that hold a patch or more, and counts by reason.

    Raises:
      NeuroFMError: a store has another atlas, rate or unit than the model.
    """
    items, counts = [], []
    for dataset, reasons in zip(
        datasets, reasons_against(datasets, data, use), strict=True
    ):
        check(dataset, spec)
        n = dataset.items["n_samples"].to_numpy()
        reasons["too_short"] = n < spec.contract.receptive_samples
        left, told = chosen(reasons)
        items.append(np.flatnonzero(left))
        counts.append(told)
    return items, counts


def check(dataset: Dataset, spec: BatchSpec) -> None:
    """Refuse a store that the model cannot take.

    Raises:
      NeuroFMError: why, and the remedy.
    """
    contract = spec.contract
    check_contract(dataset, contract, ("kind", "unit"))
    if abs(contract.sfreq / dataset.info.sfreq - 1) > 1e-6:
        raise NeuroFMError(
            f"{dataset.path} has a repetition time of {1 / dataset.info.sfreq:g} s "
            f"where the model takes {1 / contract.sfreq:g} s: prepare it again with "
            f"--tr {1 / contract.sfreq:g}"
        )
    placed(dataset, contract.channels, contract.n_chans)


def _by_subject(dataset: Dataset, items: Int[np.ndarray, " n"]) -> list[list[int]]:
    """The runs of each subject; a run without one is a subject by itself."""
    names, known = subject_names(dataset), dataset.items["subject"].to_pylist()
    runs: dict[str | int, list[int]] = {}
    for item in map(int, items):
        runs.setdefault(names[item] if known[item] else item, []).append(item)
    return list(runs.values())


def _pair(
    d: int, item: int, starts: tuple[int, int], n_samples: int, window: int
) -> Crop:
    (start, stop), second = ((s, min(s + window, n_samples)) for s in starts)
    return Crop(d, item, start, stop, span=(0, stop - start), second=second)


def _plan(datasets, items, counts, spec, n_crops, crop) -> Plan:
    return Plan(
        datasets=tuple(datasets),
        items=tuple(items),
        counts=tuple(counts),
        n_crops=n_crops,
        crop=crop,
        fields=PAIRS,
        fill=pair_filler(datasets, spec),
    )


def pair_filler(
    datasets: Sequence[Dataset], spec: BatchSpec
) -> Callable[[Sequence[Crop], BatchSpec], dict[str, np.ndarray]]:
    """What makes the arrays of rows of two crops.

    fmri/crops    float32 [b, V, C, T]  zeros where nothing is recorded
    fmri/regions  bool [b, C]           False for a region that the run lacks
    """
    windows = filler(datasets, spec)

    def fill(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        others = []
        for one in crops:
            assert one.second is not None
            others.append(one._replace(start=one.second[0], stop=one.second[1]))
        first, second = windows(crops, spec), windows(others, spec)
        return {
            CROPS: np.stack([first[BOLD], second[BOLD]], axis=1),
            REGIONS: first[REGIONS],
        }

    return fill


def filler(
    datasets: Sequence[Dataset], spec: BatchSpec
) -> Callable[[Sequence[Crop], BatchSpec], dict[str, np.ndarray]]:
    """What makes the arrays of rows of one window.

    fmri/bold     float32 [b, C, T]  zeros where nothing is recorded
    fmri/regions  bool [b, C]        False for a region that the run lacks
    fmri/span     int32 [b, 2]       what of the window is recording
    """
    contract = spec.contract
    places = [placed(d, contract.channels, contract.n_chans) for d in datasets]

    def fill(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        rows = zip(crops, read_crops(datasets, crops), strict=True)
        made = [
            window_of(x, places[one.dataset], contract.n_chans, contract.window_samples)
            for one, x in rows
        ]
        return {
            BOLD: np.stack([bold for bold, _ in made]),
            REGIONS: np.stack([there for _, there in made]),
            SPAN: np.array([(0, c.stop - c.start) for c in crops], np.int32),
        }

    return fill


def window_of(
    x: Float32[np.ndarray, "P n"],
    place: Int[np.ndarray, " P"],
    n_regions: int,
    n_samples: int,
) -> tuple[Float32[np.ndarray, "C T"], Bool[np.ndarray, " C"]]:
    """Regions of a store where the model has them, and which of these it has.

    Args:
      x: of the store; NaN in all of a region that is not recorded.
      place: where each goes.
    """
    bold = np.zeros((n_regions, n_samples), np.float32)
    there = np.isfinite(x).all(1)
    bold[place[there], : x.shape[1]] = x[there]
    recorded = np.zeros(n_regions, bool)
    recorded[place[there]] = True
    return bold, recorded
