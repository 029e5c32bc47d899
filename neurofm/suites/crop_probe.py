"""The suite `crop-probe`: labels of fMRI runs from a few crops of each.

The protocol of Brain-Semantoks (arXiv 2512.11582 and its released code): evenly spaced
crops of every run, a head with batch norm on all of them, its rate chosen on
validation, crops averaged, and this for several random splits. Beside the model stand
the same network untrained and a ridge or neighbours on the connectivity of the run.

Axes: R runs, C crops of a run, F features.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num, Shaped
from pydantic import PositiveInt
from sklearn import metrics

from neurofm import stores
from neurofm.data import parcels
from neurofm.data.records import Dataset, open_dataset
from neurofm.embedding import encode
from neurofm.embedding.parcels import of_record
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.eval import crop_probe, leaks, probe
from neurofm.eval.connectomes import connectome_candidates
from neurofm.eval.examples import Examples, from_dataset
from neurofm.eval.places import Places, places
from neurofm.eval.splits import Fold
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load

_log = logging.getLogger(__name__)

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Settings:
    """What is told, and how often.

    Attributes:
      target: column of the label, words or whole numbers, or of a number.
      groups: column of what must not be on both sides of a split, as the subject.
      layer: of the model, whose mean over a crop is its vector.
      crops: of each run.
      repeats: random splits.
      shares: of training, validation and test.
      epochs: of a head.
    """

    target: str | None = None
    groups: str | None = None
    layer: str = "cls_avg"
    crops: PositiveInt = 8
    repeats: PositiveInt = 10
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    epochs: PositiveInt = crop_probe.EPOCHS


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place | None,
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Scores of the probe on crops; see `neurofm.evaluate`.

    Args:
      given: models; several are seeds of one system.
      data: an fMRI dataset.

    Returns:
      `metric`: balanced_accuracy, or mae of numbers; `scores`: `model`, `untrained`,
      `connectivity` and `chance`, and under `single crops` the networks' without the
      average; mean and deviation over splits. `splits`: of the first model all metrics
      of each.

    Raises:
      NeuroFMError: no target, a model or data of another kind, or too few runs.
    """
    if data is None or settings.target is None:
        raise NeuroFMError(
            "the suite crop-probe needs an fMRI dataset as --data and the column of "
            "labels as --target"
        )
    if min(settings.shares) <= 0 or abs(sum(settings.shares) - 1) > 1e-6:
        raise NeuroFMError(
            f"shares are {settings.shares}: give three above 0 whose sum is 1"
        )
    dataset = open_dataset(data)
    examples = labelled(dataset, settings)
    splits = [split(examples, settings.shares, i) for i in range(settings.repeats)]
    leaks.refuse([_fold(rows) for rows, _ in splits], _places(dataset, examples))
    models = [load(path) for path in given]
    found: dict[str, list[dict[str, Any]]] = {"model": [], "untrained": []}
    for model in models:
        for name, each in (("model", model), ("untrained", untrained(model))):
            _log.info("reading %d runs: %s", len(examples.row), name)
            x = crops(each, dataset, examples, settings)
            found[name] += [headed(x, examples.target, *s, settings) for s in splits]
    classes = not np.issubdtype(examples.target.dtype, np.floating)
    metric = "balanced_accuracy" if classes else "mae"
    pairs = connectome_candidates(dataset, examples)["connectivity"]
    beside = [ridged(pairs, examples.target, rows) for rows, _ in splits]
    scores: dict[str, Any] = {
        name: cell([each["ensembled"][metric] for each in many], splits)
        for name, many in found.items()
    }
    scores["connectivity"] = cell(beside, splits)
    scores["chance"] = cell(
        [chance(examples.target, rows) for rows, _ in splits], splits
    )
    scores["single crops"] = {
        name: cell([each["single"][metric] for each in many], splits)
        for name, many in found.items()
    }
    return {
        "metric": metric,
        "data": {"path": str(dataset.path), "hash": dataset.hash},
        "left_out": examples.left_out,
        "scores": scores,
        "splits": found["model"][: settings.repeats],
    }


def labelled(dataset: Dataset, settings: Settings) -> Examples:
    """Runs and their labels; the folds among them are not used.

    Raises:
      NeuroFMError: a column that is not there, or one of events.
    """
    scheme = "kfold:2" if settings.groups is None else "groupkfold:2"
    examples = from_dataset(dataset, settings.target, settings.groups, scheme)
    if examples.span is not None:
        raise NeuroFMError(
            f"{settings.target!r} is a column of events: name one of the runs, or use "
            "the suite probe"
        )
    if examples.groups is None:  # parts of one recording are on one side
        whole = _places(dataset, examples).timeline
        examples = dataclasses.replace(examples, clusters=whole)
    return examples


def _fold(rows: Mapping[str, Int[np.ndarray, " _"]]) -> Fold:
    return Fold(train=rows["train"], valid=rows["valid"], test=rows["test"])


def _places(dataset: Dataset, examples: Examples) -> Places:
    return places(dataset, examples.row, None, None)


Split = tuple[dict[str, Int[np.ndarray, " _"]], int]


def split(examples: Examples, shares: Sequence[float], seed: int) -> Split:
    """Rows of each part, groups (else recordings) kept whole, and the seed.

    Raises:
      NeuroFMError: a part without a row.
    """
    names = np.unique(examples.clusters)
    order = np.random.default_rng(seed).permutation(names)
    edges = np.round(np.cumsum(shares)[:2] * len(order)).astype(int)
    parts = {
        part: np.flatnonzero(np.isin(examples.clusters, own))
        for part, own in zip(PARTS, np.split(order, edges), strict=True)
    }
    if empty := [part for part, rows in parts.items() if not len(rows)]:
        raise NeuroFMError(
            f"{len(names)} runs or groups leave none for {empty[0]}: give more, or "
            "other shares"
        )
    return parts, seed


def crops(
    model: Model, dataset: Dataset, examples: Examples, settings: Settings
) -> Float[np.ndarray, "R C F"]:
    """The vector of each crop of each run.

    Raises:
      NeuroFMError: the model takes no fMRI, other fMRI, or has no such layer.
    """
    contract = model.contract
    if contract.kind != "fmri":
        raise NeuroFMError(
            f"the suite crop-probe reads fMRI, and this model takes {contract.kind}: "
            "use the suite probe"
        )
    parcels.check(dataset, model.task.batch_spec("features"))
    window = contract.window_samples

    def cut() -> Iterator[tuple[int, Recorded]]:
        for row in examples.row.tolist():
            whole = of_record(dataset, row, contract)
            n = whole.samples.shape[1]
            for start in parcels.even_starts(n, window, settings.crops):
                yield row, whole.cut(start, window)

    told: dict[str, Any] = {"layers": (settings.layer,), "pool": "mean"}
    read = [
        reading.values[settings.layer].ravel()
        for _, reading in encode.embed_waves(model, cut(), **told)
    ]
    return np.stack(read).reshape(len(examples.row), settings.crops, -1)


def headed(
    x: Float[np.ndarray, "R C F"],
    target: Shaped[np.ndarray, " R"],
    rows: Mapping[str, Int[np.ndarray, " _"]],
    seed: int,
    settings: Settings,
) -> dict[str, Any]:
    """What `eval.crop_probe.probe` says of one split."""
    kind: crop_probe.Kind = "numbers"
    y: Num[np.ndarray, " R"] = target
    if not np.issubdtype(target.dtype, np.floating):
        kind, y = "classes", np.unique(target, return_inverse=True)[1]
    features = {part: x[own] for part, own in rows.items()}
    answers = {part: y[own] for part, own in rows.items()}
    return crop_probe.probe(features, answers, seed, kind, settings.epochs)


def ridged(
    x: Float[np.ndarray, "R F"],
    target: Shaped[np.ndarray, " R"],
    rows: Mapping[str, Int[np.ndarray, " _"]],
) -> float:
    """The same metric of whole runs, by the probe that all suites share."""
    told = probe.fit({"connectivity": x}, target, _fold(rows)).prediction
    return scored(target[rows["test"]], told)


def chance(
    target: Shaped[np.ndarray, " R"], rows: Mapping[str, Int[np.ndarray, " _"]]
) -> float:
    """One class, or the median of training, for all."""
    truth = target[rows["test"]]
    if np.issubdtype(target.dtype, np.floating):
        return scored(truth, np.full(len(truth), np.median(target[rows["train"]])))
    return 1 / len(np.unique(truth))


def scored(truth: Shaped[np.ndarray, " M"], told: Shaped[np.ndarray, " M"]) -> float:
    """Balanced accuracy of classes, mean absolute error of numbers."""
    if np.issubdtype(truth.dtype, np.floating):
        return float(metrics.mean_absolute_error(truth, told))
    return float(metrics.balanced_accuracy_score(truth, told))


def cell(values: Sequence[float], splits: Sequence[Split]) -> dict[str, float]:
    """Mean and deviation over splits, and how many test runs each has."""
    n = len(splits[0][0]["test"])
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "n": n}
