"""Scores of answers on held-out examples, each with its interval and chance.

Intervals are over recordings, see `neurofm.eval.stats`.

Axes: n examples, K classes, tags, numbers or regions, S and D symbols at most.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.metrics import confusion_matrix

from neurofm.errors import NeuroFMError
from neurofm.eval import resampling
from neurofm.eval.precision import average_precision, mean_over_tags
from neurofm.eval.stats import interval, resampled
from neurofm.objectives.answers import Answer

TOP = 5


def score(
    answer: Answer,
    made: Shaped[np.ndarray, "n _"],
    truth: Shaped[np.ndarray, "n *K"],
    groups: Int[np.ndarray, " n"],
    names: Sequence[str],
    centre: Sequence[float],
) -> dict[str, Any]:
    """`metric`, `scores` of `model` and `chance`, and what else is known of an answer.

    Classes: balanced accuracy, beside it the plain one and, of more than five classes,
    how often the true one is among the best five; the confusion of true (rows) with
    guessed. Tags: the mean over tags of the average precision, whose chance is how
    often a tag is there; tags that no example or every one has are left out and
    counted. Numbers: the mean of R2 over them; chance is the mean of the training
    examples; numbers that are the same in all examples that have them are left out and
    counted. Sequences: edits over symbols of the truth; chance is that of telling
    nothing, 1. Responses: the mean over regions of the correlation over examples, 0
    where a prediction stands still; chance is 0.

    Args:
      made: what the model reads as `prediction`; its sequences, -1 behind their end.
      truth: what the loader gives as `label`.
      groups: recording of each example.
      names: of the classes, tags or numbers.
      centre: mean of each number over the training examples.

    Raises:
      NeuroFMError: no tag or number tells the examples apart.
    """
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(groups))
    if answer == "classes":
        return _classes(made, truth, groups, names)
    if answer == "tags":
        return _tags(made, truth, groups, names)
    if answer == "sequence":
        return _sequences(made, truth, groups)
    if answer == "responses":
        return _responses(made, truth, groups, names)
    return _numbers(made, truth, groups, names, centre)


def of_each(
    answer: Answer, made: Shaped[np.ndarray, "n _"], truth: Shaped[np.ndarray, "n *_"]
) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None]:
    """Scores, weights and truth of `neurofm.eval.by_example.table`.

    Not of responses, whose correlation is of all examples together.
    """
    if answer == "sequence":
        return {"model": _edits(made, truth)}, (truth >= 0).sum(1).astype(float), None
    if answer == "tags":
        return {"model": made}, None, truth.astype(int)
    if answer == "classes":
        hits, weight = _hits(made, truth)
        return {"model": hits * weight}, weight, None
    known = np.isfinite(truth)
    y = np.where(known, truth, 0)
    n = np.maximum(known.sum(0), 1)
    spread = np.where(known, (y - y.sum(0) / n) ** 2, 0)
    share = spread.sum(0)
    told = share > 0
    spread, share = spread[:, told], share[told] * told.sum()
    error = np.where(known, (y - made) ** 2, 0)[:, told]
    return {"model": ((spread - error) / share).sum(1)}, (spread / share).sum(1), None


def _hits(
    made: Float[np.ndarray, "n K"], truth: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Who is right, and weights by which every class counts alike."""
    present, counts = np.unique(truth, return_counts=True)
    weight = (1 / (len(present) * counts))[np.searchsorted(present, truth)]
    return (made.argmax(1) == truth).astype(float), weight


def _classes(made, truth, groups, names) -> dict[str, Any]:
    guess = made.argmax(1)
    hits, weight = _hits(made, truth)
    present = np.unique(truth)
    found = interval(hits * weight, weight, groups)
    confusion = confusion_matrix(truth, guess, labels=range(len(names)))
    plain = accuracies(made, truth)
    return {
        "metric": "balanced_accuracy",
        "scores": {
            "model": {
                "mean": found.value,
                "low": found.low,
                "high": found.high,
                "std": 0.0,
                "n": len(truth),
                **plain,
            },
            "chance": {"mean": 1 / len(present), "std": 0.0, "n": len(truth)},
        },
        "classes": list(names),
        "confusion": confusion.tolist(),
    }


def accuracies(
    made: Float[np.ndarray, "n K"], truth: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """`accuracy`, and `top5` of more than five classes."""
    order = np.argsort(-made, axis=1, kind="stable")
    right = order == truth[:, None]
    found = {"accuracy": float(right[:, 0].mean())}
    if made.shape[1] <= TOP:
        return found
    return {**found, "top5": float(right[:, :TOP].any(1).mean())}


def _tags(made, truth, groups, names) -> dict[str, Any]:
    told = np.flatnonzero((truth.min(0) < 1) & (truth.max(0) > 0))
    _refuse_none(told, "tag")

    whole, present = np.ones((1, len(truth))), truth.astype(int)
    by_tag = {
        names[k]: float(average_precision(made[:, k], present[:, k], whole)[0])
        for k in told
    }
    drawn = mean_over_tags(made, present, resampling.counts(groups))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    bounds = {"low": float(low), "high": float(high)}
    n = len(truth)
    chance = float(truth[:, told].mean())
    mean = float(np.mean([*by_tag.values()]))
    return {
        "metric": "mean_average_precision",
        "scores": {
            "model": {"mean": mean, **bounds, "std": 0.0, "n": n},
            "chance": {"mean": chance, "std": 0.0, "n": n},
        },
        "by_tag": by_tag,
        "tags_left_out": len(names) - len(told),
    }


def _numbers(made, truth, groups, names, centre) -> dict[str, Any]:
    several = [len(np.unique(y[np.isfinite(y)])) > 1 for y in truth.T]
    told = np.flatnonzero(several)
    _refuse_none(told, "number")
    made, truth = made[:, told], truth[:, told]
    known = np.isfinite(truth)

    def r2(guess: Float[np.ndarray, "n K"]) -> Callable[[Int[np.ndarray, " m"]], float]:
        def mean(rows: Int[np.ndarray, " m"]) -> float:
            """Of the numbers that differ in these examples; a resample may lack one."""
            each = _r2(guess[rows], truth[rows])
            return float(np.nanmean(each)) if np.isfinite(each).any() else np.nan

        return mean

    mean = np.broadcast_to(np.asarray(centre, float)[told], truth.shape)
    chance = r2(mean)(np.arange(len(truth)))
    each = _r2(made, truth)
    return {
        "metric": "r2",
        "scores": {
            "model": {**_resampled(r2(made), groups), "n": int(known.any(1).sum())},
            "chance": {"mean": chance, "std": 0.0, "n": int(known.any(1).sum())},
        },
        "by_number": {names[k]: float(x) for k, x in zip(told, each, strict=True)},
        "numbers_left_out": len(names) - len(told),
    }


def _sequences(made, truth, groups) -> dict[str, Any]:
    edits = _edits(made, truth)
    symbols = (truth >= 0).sum(1).astype(float)
    found = interval(edits, symbols, groups)
    n = len(truth)
    told = {"mean": found.value, "low": found.low, "high": found.high, "std": 0.0}
    return {
        "metric": "error_rate",
        "scores": {
            "model": {**told, "n": n, "all_right": float((edits == 0).mean())},
            "chance": {"mean": 1.0, "std": 0.0, "n": n},
        },
        "symbols": int(symbols.sum()),
    }


def _edits(
    made: Int[np.ndarray, "n D"], truth: Int[np.ndarray, "n S"]
) -> Float[np.ndarray, " n"]:
    each = zip(made, truth, strict=True)
    return np.array([distance(a[a >= 0], b[b >= 0]) for a, b in each], float)


def distance(made: Int[np.ndarray, " D"], truth: Int[np.ndarray, " S"]) -> int:
    """Least insertions, deletions and changes that make one sequence the other."""
    row = list(range(len(truth) + 1))
    for i, symbol in enumerate(made, start=1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(truth, start=1):
            change = before + int(symbol != wanted)
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, change)
    return row[-1]


def _responses(made, truth, groups, names) -> dict[str, Any]:
    def correlations(rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, " K"]:
        x, y = made[rows].astype(float), truth[rows].astype(float)
        return np.array([_correlation(a, b) for a, b in zip(x.T, y.T, strict=True)])

    def mean(rows: Int[np.ndarray, " m"]) -> float:
        each = correlations(rows)
        return float(np.nanmean(each)) if np.isfinite(each).any() else np.nan

    n = len(truth)
    each = correlations(np.arange(n))
    told = np.flatnonzero(np.isfinite(each))
    _refuse_none(told, "region")
    return {
        "metric": "correlation",
        "scores": {
            "model": {**_resampled(mean, groups), "n": n},
            "chance": {"mean": 0.0, "std": 0.0, "n": n},
        },
        "by_region": {names[k]: float(each[k]) for k in told},
        "regions_left_out": len(names) - len(told),
    }


def _correlation(x: Float[np.ndarray, " m"], y: Float[np.ndarray, " m"]) -> float:
    """Over what is known of y; NaN where y never changes, 0 where x alone does not."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 2 or y.std() < 1e-9:
        return np.nan
    if x.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _refuse_none(told: Int[np.ndarray, " k"], what: str) -> None:
    if not len(told):
        raise NeuroFMError(
            f"no {what} differs between the examples to score, so nothing is told: "
            "hold out more of them"
        )


def _r2(
    guess: Float[np.ndarray, "m K"], truth: Float[np.ndarray, "m K"]
) -> Float[np.ndarray, " K"]:
    """R2 of each number over the examples where it is known; NaN where it is one."""
    known = np.isfinite(truth)
    n = np.maximum(known.sum(0), 1)
    y = np.where(known, truth, 0)
    spread = np.where(known, (y - y.sum(0) / n) ** 2, 0).sum(0)
    error = np.where(known, (y - guess) ** 2, 0).sum(0)
    return 1 - np.divide(error, spread, out=np.full(len(n), np.nan), where=spread > 0)


def _resampled(
    score: Callable[[Int[np.ndarray, " m"]], float], groups: Int[np.ndarray, " n"]
) -> dict[str, float]:
    found = resampled(score, groups)
    return {
        "mean": found.value,
        "low": found.low,
        "high": found.high,
        "std": 0.0,
    }
