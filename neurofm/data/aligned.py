"""fMRI with the features of its stimuli: which window of which run row i is.

A run and the features of its `timeline` are on one clock, the stimulus's. Volume k of a
run that begins at `onset` faces the stimulus from onset + k TR - delay on, the delay
being that of blood (TRIBE, arXiv 2507.22229 and 2605.04326: 4.47 and 5 s).

Axes: b rows, P regions, N volumes of a window, T steps of features.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from neurofm.contract import BatchSpec
from neurofm.data.brains import by_kind, facts, regions, subject_names, tr_of
from neurofm.data.crops import Crop
from neurofm.data.draws import draws, permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan, mixture, read_crops, shares
from neurofm.data.select import Use, chosen, reasons_against
from neurofm.data.stimuli import PREFIX, PRESENT, Stimuli
from neurofm.errors import NeuroFMError
from neurofm.signals.timegrid import Grid, meeting, window_starts

if TYPE_CHECKING:
    from neurofm.config import Data

log = logging.getLogger(__name__)

BOLD, MASK, SUBJECT = "fmri/bold", "fmri/mask", "subject"
_SLACK_S = 10.0  # a run may outlast its stimulus by this without a word


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one fMRI store, side by side along each run.

    Attributes:
      number: position of the dataset in the plan.
      dataset: an open record store.
      items: rows of the runs that are used, ascending.
      counts: runs used and left out, by reason.
      item: the run of each window.
      start_s: where each begins on its stimulus's clock.
      delay_s: of the volumes behind the stimulus.
      tr_s: repetition time.
      n: volumes of a window.
    """

    number: int
    dataset: Dataset
    items: Int[np.ndarray, " n"]
    counts: dict[str, int]
    item: Int[np.ndarray, " windows"]
    start_s: Float[np.ndarray, " windows"]
    delay_s: float
    tr_s: float
    n: int

    def crop(self, window: int, jitter_s: float = 0.0) -> Crop:
        """A window, moved by `jitter_s`; it holds no volume where it left the run."""
        item, start_s = int(self.item[window]), float(self.start_s[window]) + jitter_s
        onset, n_samples = (
            self.dataset.items[name][item].as_py() for name in ("onset", "n_samples")
        )
        run = Grid(onset - self.delay_s, 1 / self.tr_s, n_samples)
        met = meeting(run, Grid(start_s, 1 / self.tr_s, self.n))
        taken, given = met or (slice(0, 0), slice(0, 0))
        return Crop(
            self.number,
            item,
            taken.start,
            taken.stop,
            span=(given.start, given.stop),
            onset_s=start_s,
        )


def training(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, seed: int
) -> Plan:
    """The endless plan of a training run.

    Each fMRI store goes through the windows of all its runs in a new order every epoch,
    all moved by one offset within `data.jitter_s`. Stores are mixed in exact proportion
    to `data.weights`, equally where it is empty.

    Args:
      datasets: fMRI stores and feature stores, see `stimuli`.
      spec: fields `features/<modality>` [L, D, T], `subject` (its words are the rows of
        the model's table) and `fmri/bold` [P, N] with `sfreq` and `delay_s`.
      data: the data part of the config.
      seed: the run's seed.

    Raises:
      NeuroFMError: data that the model cannot take, or nothing left of it.
    """
    windows, held = _windows(datasets, spec, data, "train")
    for each in windows:
        if not len(each.item):
            why = ", ".join(f"{k} {n}" for k, n in each.counts.items() if n)
            raise NeuroFMError(
                f"no run of {each.dataset.path} is left to train on ({why}): check its "
                "splits, data.hold_out and the timelines of data.features"
            )
    choose = mixture(shares(data.weights, len(windows)))
    orders = [stream_key(each.dataset.hash, seed, "order") for each in windows]
    offsets = [stream_key(each.dataset.hash, seed, "jitter") for each in windows]

    # Two epochs of each, as reader threads run ahead over an epoch's end.
    @functools.lru_cache(maxsize=2 * len(windows))
    def epoch_of(which: int, epoch: int) -> tuple[np.ndarray, float]:
        share = int(draws(offsets[which], epoch, 1)[0]) / 2**64
        order = permutation(orders[which], epoch, len(windows[which].item))
        return order, (2 * share - 1) * data.jitter_s

    def crop(row: int) -> Crop:
        which, nth = choose(row)
        epoch, within = divmod(nth, len(windows[which].item))
        order, jitter_s = epoch_of(which, epoch)
        return windows[which].crop(int(order[within]), jitter_s)

    return _plan(datasets, windows, held, spec, None, crop)


def held_out(
    datasets: Sequence[Dataset],
    spec: BatchSpec,
    data: Data,
    limit: int,
    use: Use = "valid",
) -> Plan:
    """At most `limit` windows of a split, unmoved, the same whatever the seed.

    An even random choice, in the order of the runs. Without such a split `n_crops` is
    0. Other arguments and errors are those of `training`.
    """
    windows, held = _windows(datasets, spec, data, use)
    every = [each.crop(i) for each in windows for i in range(len(each.item))]
    key = stream_key(*(each.dataset.hash for each in windows), "held out")
    crops = [every[i] for i in sorted(permutation(key, 0, len(every))[:limit])]

    def crop(row: int) -> Crop:
        return crops[row] if row < len(crops) else crops[-1]._replace(valid=False)

    return _plan(datasets, windows, held, spec, len(crops), crop)


def _windows(
    datasets: Sequence[Dataset], spec: BatchSpec, data: Data, use: Use
) -> tuple[list[Windows], Stimuli]:
    brains, features = by_kind(datasets)
    held = Stimuli(features, spec)
    found = facts(datasets)
    wanted = spec.fields[BOLD]
    if abs(found.tr_s - 1 / wanted.sfreq) > 1e-6:
        raise NeuroFMError(
            f"the fMRI has a repetition time of {found.tr_s:g} s where the model takes "
            f"{1 / wanted.sfreq:g} s: prepare it again with --tr {1 / wanted.sfreq:g}"
        )
    if len(found.regions) != wanted.shape[0]:
        raise NeuroFMError(
            f"the fMRI has {len(found.regions)} regions where the model predicts "
            f"{wanted.shape[0]}: prepare it in the model's atlas"
        )
    reasons = reasons_against(list(brains.values()), data, use)
    return [
        _of_dataset(number, dataset, spec, held, against)
        for (number, dataset), against in zip(brains.items(), reasons, strict=True)
    ], held


def _of_dataset(
    number: int, dataset: Dataset, spec: BatchSpec, held: Stimuli, reasons: dict
) -> Windows:
    wanted = spec.fields[BOLD]
    tr_s, n = tr_of(dataset), wanted.shape[1]
    names = dataset.items["timeline"].to_pylist()
    known = held.timelines()
    reasons["no_features"] = np.array([name not in known for name in names], bool)
    left, counts = chosen(reasons)
    items = np.flatnonzero(left)
    _refuse_unknown(dataset, items, spec)
    _tell_early_ends(dataset, items, held, tr_s, counts)
    item, start_s = [], []
    for i in items:
        onset, n_samples = (
            dataset.items[name][int(i)].as_py() for name in ("onset", "n_samples")
        )
        begin = onset - wanted.delay_s
        starts = window_starts(begin, begin + n_samples * tr_s, n * tr_s)
        item += [i] * len(starts)
        start_s += list(starts)
    return Windows(
        number,
        dataset,
        items,
        counts,
        np.array(item, int),
        np.array(start_s, float),
        wanted.delay_s,
        tr_s,
        n,
    )


def _refuse_unknown(dataset: Dataset, items: np.ndarray, spec: BatchSpec) -> None:
    names, known = subject_names(dataset), spec.fields[SUBJECT].words
    if unknown := sorted({names[i] for i in items} - set(known)):
        raise NeuroFMError(
            f"{dataset.path} has the subject {unknown[0]!r}, whom the model does not "
            f"know (it knows {', '.join(known[:10])}{', ...' * (len(known) > 10)}): "
            "fit the model to new subjects, or hold them out with "
            f"data.hold_out=subject={unknown[0].rpartition('/')[2]}"
        )


def _tell_early_ends(
    dataset: Dataset, items: np.ndarray, held: Stimuli, tr_s: float, counts: dict
) -> None:
    """Warn of runs that go on after their features have ended; count them."""
    early = []
    for i in items:
        timeline, onset, n, name = (
            dataset.items[column][int(i)].as_py()
            for column in ("timeline", "onset", "n_samples", "item")
        )
        stop = onset + n * tr_s
        for modality in held.pieces:
            end = held.end_s(modality, timeline)
            if end is not None and stop - end > _SLACK_S:
                early.append(f"{name}, {stop:.1f} s, {modality} features {end:.1f} s")
    counts["features_end_early"] = len(early)
    if early:
        log.warning(
            "%s: features end before their run %d times (the first is %s): the rest of "
            "a run is trained on zeros; prepare the features of the whole stimulus, or "
            "cut the run",
            dataset.path,
            len(early),
            early[0],
        )


def _plan(
    datasets: Sequence[Dataset],
    windows: Sequence[Windows],
    held: Stimuli,
    spec: BatchSpec,
    n_crops: int | None,
    crop: Callable[[int], Crop],
) -> Plan:
    timelines = {
        name
        for each in windows
        for name in each.dataset.items["timeline"].take(each.items).to_pylist()
    }
    items = {each.number: each.items for each in windows}
    counts = {each.number: each.counts for each in windows}
    for number, dataset in held.datasets.items():
        names = dataset.items["timeline"].to_pylist()
        left, told = chosen(
            {"other_runs": np.array([n not in timelines for n in names], bool)}
        )
        items[number], counts[number] = np.flatnonzero(left), told
    every = range(len(datasets))
    return Plan(
        datasets=tuple(datasets),
        items=tuple(items[i] for i in every),
        counts=tuple(counts[i] for i in every),
        n_crops=n_crops,
        crop=crop,
        fields=frozenset(
            {BOLD, MASK, SUBJECT, PRESENT, *(PREFIX + m for m in held.shapes)}
        ),
        fill=filler(datasets, held, spec),
    )


def filler(
    datasets: Sequence[Dataset], held: Stimuli, spec: BatchSpec
) -> Callable[[Sequence[Crop], BatchSpec], dict[str, np.ndarray]]:
    """What makes the arrays of a batch's rows: those of `Stimuli.batch`, and

    subject    int32 [b]          row of the model's table of subjects
    fmri/bold  float32 [b, P, N]  zeros where the mask is False
    fmri/mask  bool [b, P, N]     False outside the run, and of a region it lacks
    """
    brains, _ = by_kind(datasets)
    outputs = {name: i for i, name in enumerate(regions(list(brains.values())))}
    place = {
        i: np.array([outputs[name] for name in d.info.ch_names])
        for i, d in brains.items()
    }
    timelines = {i: d.items["timeline"].to_pylist() for i, d in brains.items()}
    people = {i: subject_names(d) for i, d in brains.items()}
    row_of = {name: i for i, name in enumerate(spec.fields[SUBJECT].words)}

    def fill(crops: Sequence[Crop], spec: BatchSpec) -> dict[str, np.ndarray]:
        shape = (len(crops), *spec.fields[BOLD].shape)
        bold, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for row, (crop, x) in enumerate(
            zip(crops, read_crops(datasets, crops), strict=True)
        ):
            there = np.isfinite(x)
            given = slice(*crop.span)
            bold[row, place[crop.dataset], given] = np.where(there, x, 0)
            mask[row, place[crop.dataset], given] = there
        windows = [(timelines[c.dataset][c.item], c.onset_s) for c in crops]
        who = [row_of[people[c.dataset][c.item]] for c in crops]
        return {
            **held.batch(windows),
            SUBJECT: np.array(who, np.int32),
            BOLD: bold,
            MASK: mask,
        }

    return fill
