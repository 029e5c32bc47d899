"""What fMRI stores hold, together and with the features of their stimuli.

An fMRI store is a dataset of kind `fmri`: an item a run, whose `onset` is where it
begins on the clock of its `timeline`, before any delay. Channels are regions in the
order of the atlas; one that a run lacks is NaN in all of it. `info.processing` tells
`tr_s`, `atlas`, `study` and what was done to the signals.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from neurofm.data import stimuli
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What a task must know of fMRI stores and the features of their stimuli.

    Attributes:
      modalities: layer groups and width of each, in the order of the stores.
      subjects: everyone in the fMRI, by name; see `subject_names`.
      regions: names of the outputs, in order.
      tr_s: repetition time.
      sfreq: rate of the features in Hz.
    """

    modalities: dict[str, tuple[int, int]]
    subjects: tuple[str, ...]
    regions: tuple[str, ...]
    tr_s: float
    sfreq: float


def facts(datasets: Sequence[Dataset]) -> Facts:
    """See `Facts`.

    Args:
      datasets: fMRI and feature stores.

    Raises:
      NeuroFMError: one kind is missing, or they do not fit each other.
    """
    brains, features = by_kind(datasets)
    rates = {d.info.sfreq for d in features.values()}
    if len(rates) > 1:
        told = ", ".join(f"{d.path} {d.info.sfreq:g}" for d in features.values())
        raise NeuroFMError(
            f"the features are at different rates in Hz ({told}): prepare them again "
            "with one --sfreq"
        )
    stores = list(brains.values())
    tr_s = common_tr(stores)
    people = {name for d in brains.values() for name in subject_names(d)}
    return Facts(
        stimuli.sizes(list(features.values())),
        tuple(sorted(people)),
        regions(stores),
        tr_s,
        rates.pop(),
    )


def atlas(datasets: Sequence[Dataset]) -> tuple[tuple[str, ...], float]:
    """Regions and repetition time of fMRI stores that are used by themselves.

    Raises:
      NeuroFMError: a store of another kind, or stores that do not fit each other.
    """
    for dataset in datasets:
        if dataset.info.kind != "fmri":
            raise NeuroFMError(
                f"{dataset.path} holds {dataset.info.kind}: this task takes fMRI, "
                "which `neurofm prepare fmri SRC --out DIR` makes"
            )
    return regions(datasets), common_tr(datasets)


def common_tr(brains: Sequence[Dataset]) -> float:
    """The repetition time of fMRI stores in seconds.

    Raises:
      NeuroFMError: they have several.
    """
    first, *others = brains
    for other in others:
        if abs(tr_of(other) - tr_of(first)) > 1e-6:
            raise NeuroFMError(
                f"{first.path} has a repetition time of {tr_of(first):g} s and "
                f"{other.path} one of {tr_of(other):g} s: prepare one again with "
                f"--tr {tr_of(first):g}"
            )
    return tr_of(first)


def by_kind(
    datasets: Sequence[Dataset],
) -> tuple[dict[int, Dataset], dict[int, Dataset]]:
    """fMRI stores and feature stores by their number; neither may be missing."""
    brains = {i: d for i, d in enumerate(datasets) if d.info.kind == "fmri"}
    features = {i: d for i, d in enumerate(datasets) if d.info.kind == "features"}
    for i, dataset in enumerate(datasets):
        if i not in brains and i not in features:
            raise NeuroFMError(
                f"{dataset.path} holds {dataset.info.kind}: this task takes fMRI as "
                "data.path and features as data.features"
            )
    for found, name, command in (
        (brains, "data.path", "neurofm prepare fmri SRC --out DIR"),
        (features, "data.features", "neurofm prepare features EVENTS --out DIR"),
    ):
        if not found:
            raise NeuroFMError(
                f"{name} names no such dataset: make one (`{command}`) and give it as "
                f"{name}=DIR"
            )
    return brains, features


def tr_of(dataset: Dataset) -> float:
    """Repetition time of an fMRI store in seconds."""
    return float(dataset.info.processing.get("tr_s") or 1 / dataset.info.sfreq)


def subject_names(dataset: Dataset) -> list[str]:
    """Who each run is of: `study/subject` where the store names its study.

    So two studies may both have a `01`; without study names one name is one person.
    """
    study = dataset.info.processing.get("study")
    names = dataset.items["subject"].to_pylist()
    return [f"{study}/{name}" for name in names] if study else names


def regions(brains: Sequence[Dataset]) -> tuple[str, ...]:
    """The regions of fMRI stores of one atlas, those of the fullest store.

    Raises:
      NeuroFMError: another atlas, or regions that the fullest store lacks.
    """
    atlases = {d.info.processing.get("atlas", ""): d for d in brains}
    if len(atlases) > 1:
        told = ", ".join(f"{d.path} {name!r}" for name, d in atlases.items())
        raise NeuroFMError(
            f"the fMRI is of different atlases ({told}): prepare it again in the "
            "regions of one"
        )
    fullest = max(brains, key=lambda d: d.info.n_chans)
    for dataset in brains:
        if other := [
            n for n in dataset.info.ch_names if n not in fullest.info.ch_names
        ]:
            raise NeuroFMError(
                f"{dataset.path} has {len(other)} regions that {fullest.path} lacks "
                f"(the first is {other[0]!r}): prepare both with the same names"
            )
    return fullest.info.ch_names


def placed(
    dataset: Dataset, names: Sequence[str], n_regions: int
) -> Int[np.ndarray, " P"]:
    """Where a model of `n_regions`, `names` in order, has each region of a store.

    Without names the order is taken to be the same, which the log says. A store may
    lack regions that the model has.

    Raises:
      NeuroFMError: other regions.
    """
    own = dataset.info.ch_names
    if not names:
        if len(own) != n_regions:
            raise NeuroFMError(
                f"{dataset.path} has {len(own)} regions where the model takes "
                f"{n_regions}, whose names it does not know: prepare it in the model's "
                "atlas"
            )
        _tell_order(str(dataset.path))
        return np.arange(n_regions)
    row = {name: i for i, name in enumerate(names)}
    if other := [name for name in own if name not in row]:
        atlas = dataset.info.processing.get("atlas", "")
        raise NeuroFMError(
            f"{dataset.path} (atlas {atlas!r}) has {len(other)} of {len(own)} regions "
            f"that the model does not know (the first is {other[0]!r}; the model has "
            f"{names[0]!r} and others): prepare it in the model's atlas, with its names"
        )
    return np.array([row[name] for name in own])


@functools.cache
def _tell_order(path: str) -> None:
    log.warning(
        "%s: the model does not know the names of its regions; they are taken to be in "
        "the order of this dataset",
        path,
    )
