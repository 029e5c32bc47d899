"""Closed-form probes of frozen features: ridge and nearest neighbours.

What is chosen (layer and pooling, kind of probe, penalty or number of neighbours) is
chosen on validation rows or inner folds, in the same way for every network and
baseline; the test rows are only predicted.

Axis letters: N items, M some of them, F features, K outputs, S settings, T tokens.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import linalg
from threadpoolctl import threadpool_limits

from neurofm.errors import NeuroFMError
from neurofm.eval.splits import Fold, inner_folds
from neurofm.signals.mel import mean_std, time_bins

Pooling = Literal["mean", "mean_std", "bins4"]
POOLINGS: tuple[Pooling, ...] = ("mean", "mean_std", "bins4")

# Stronger smoothing first. Penalties are per training row, of features of unit
# variance.
SETTINGS = {
    "ridge": tuple(10.0**power for power in range(4, -5, -1)),
    "knn": (50, 20, 10, 5, 3, 1),
}

Predict = Callable[[Float[np.ndarray, "M F"]], Float[np.ndarray, "S M K"]]


@dataclass(frozen=True)
class Choice:
    """What validation chose, and how it scored there."""

    candidate: str
    kind: str
    setting: float
    score: float


@dataclass(frozen=True)
class Outcome:
    """Predictions for the test rows of one fold.

    Kept by item so that intervals can be clustered: accuracy has points of 0 or 1 and
    weights of 1; in R2 the weights are squared distances from the mean of the test
    rows and the points are the weights less the squared errors, both divided so that
    every output counts alike. `output` is what the prediction is made of: a number for
    every class, in their order.
    """

    prediction: Shaped[np.ndarray, "M *K"]
    output: Float[np.ndarray, "M K"]
    points: Float[np.ndarray, " M"]
    weights: Float[np.ndarray, " M"]
    choice: Choice

    @property
    def score(self) -> float:
        """Accuracy or R2 over the test rows."""
        return float(self.points.sum() / self.weights.sum())


def pool(
    values: Float[np.ndarray, "T D"], mask: Bool[np.ndarray, " T"], how: Pooling
) -> Float[np.ndarray, " F"]:
    """Pool the tokens where `mask` is true: F is D, 2 D or 4 D."""
    if not mask.any():
        raise NeuroFMError(
            f"none of {len(mask)} tokens describes the recording, so there is nothing "
            "to pool; give sound that is at least one token long"
        )
    kept = values[mask]
    if how == "mean":
        return kept.mean(0)
    return mean_std(kept) if how == "mean_std" else time_bins(kept, 4)


def fit(
    candidates: Mapping[str, Float[np.ndarray, "N _"]],
    target: Shaped[np.ndarray, "N *K"],
    fold: Fold,
    groups: Shaped[np.ndarray, " N"] | None = None,
    kinds: Sequence[str] | None = None,
) -> Outcome:
    """Choose candidate and probe without the test rows, refit, predict the test rows.

    Choosing uses `fold.valid`, or five inner folds of the training rows (by `groups`,
    where given) if that is empty. Ties go to what comes first: candidates in their
    order, ridge before neighbours, stronger smoothing before weaker. The chosen probe
    is refitted on training and validation rows together. `kinds` of probes are those
    named, or all.

    Raises:
      NeuroFMError: a class of the test rows is missing in training, the training rows
        hold one class only, or numbers to regress are not finite or all the same.
    """
    if not candidates:
        raise NeuroFMError("the probe was given no features; name at least one layer")
    goal = Goal.of(target, fold)
    if len(fold.valid):
        inner = [Fold(train=fold.train, test=fold.valid)]
    else:
        inner = inner_folds(fold.train, groups)

    def chosen(name: str) -> Choice:
        return _choose(name, candidates[name], goal, inner, kinds or tuple(SETTINGS))

    # One thread a candidate: on small matrices the threads of BLAS wait for each other.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        best = max(threads.map(chosen, candidates), key=lambda choice: choice.score)
        features, known = candidates[best.candidate], _known(fold)
        outputs = _fitted(best.kind, features, goal, known)(features[fold.test])
    output = outputs[SETTINGS[best.kind].index(best.setting)]
    return Outcome(goal.decide(output), output, *goal.mark(fold.test, output), best)


def chance(target: Shaped[np.ndarray, "N *K"], fold: Fold) -> Outcome:
    """Always the commonest class (in regression the mean) of the rows not tested."""
    goal = Goal.of(target, fold)
    output = np.tile(goal.outputs[_known(fold)].mean(0), (len(fold.test), 1))
    choice = Choice("none", "constant", 0.0, 0.0)
    return Outcome(goal.decide(output), output, *goal.mark(fold.test, output), choice)


@dataclass(frozen=True)
class Goal:
    """The target as outputs to fit: -1 or 1 for every class, or the numbers."""

    target: Shaped[np.ndarray, "N *K"]
    classes: Shaped[np.ndarray, " K"] | None  # None: regression
    outputs: Float[np.ndarray, "N K"]

    @classmethod
    def of(cls, target: Shaped[np.ndarray, "N *K"], fold: Fold) -> "Goal":
        """Real numbers are regressed; whole numbers and words are classes."""
        if np.issubdtype(target.dtype, np.floating):
            if not np.isfinite(target).all():
                raise NeuroFMError(
                    "the target holds numbers that are not finite; remove those rows"
                )
            if not np.ptp(target[fold.test], axis=0).any():
                raise NeuroFMError(
                    "all test rows of a fold have the same target, so that R2 is not "
                    "defined; choose a split whose test rows differ"
                )
            return cls(target, None, target.reshape(len(target), -1).astype(float))
        _check_classes(target, fold)
        classes = np.unique(target[_known(fold)])
        return cls(target, classes, np.where(target[:, None] == classes, 1.0, -1.0))

    def decide(self, output: Float[np.ndarray, "M K"]) -> Shaped[np.ndarray, "M *K"]:
        """Turn outputs into classes or numbers."""
        if self.classes is None:
            return output.reshape(len(output), *self.target.shape[1:])
        return self.classes[output.argmax(1)]

    def mark(
        self, rows: Int[np.ndarray, " M"], output: Float[np.ndarray, "M K"]
    ) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
        """Points and weights of every row, see `Outcome`."""
        if self.classes is not None:
            right = self.decide(output) == self.target[rows]
            return right.astype(float), np.ones(len(rows))
        truth = self.outputs[rows]
        spread = (truth - truth.mean(0)) ** 2
        share = spread.sum(0) * len(spread.T)
        share = np.where(share > 0, share, np.inf)  # a constant output says nothing
        points = (spread - (truth - output) ** 2) / share
        return points.sum(1), (spread / share).sum(1)


def _choose(
    name: str,
    features: Float[np.ndarray, "N F"],
    goal: Goal,
    inner: list[Fold],
    kinds: Sequence[str],
) -> Choice:
    """The best probe of one candidate over inner folds."""
    held_out = np.concatenate([f.test for f in inner])
    choices = []
    for kind in kinds:
        settings = SETTINGS[kind]
        parts = [
            _fitted(kind, features, goal, f.train)(features[f.test]) for f in inner
        ]
        outputs = np.concatenate(parts, axis=1)  # [S, M, K]
        for setting, output in zip(settings, outputs, strict=True):
            points, weights = goal.mark(held_out, output)
            score = float(points.sum() / weights.sum())
            choices.append(Choice(name, kind, setting, score))
    return max(choices, key=lambda choice: choice.score)


def _known(fold: Fold) -> Int[np.ndarray, " M"]:
    return np.concatenate([fold.train, fold.valid])


def _check_classes(target: Shaped[np.ndarray, " N"], fold: Fold) -> None:
    known = set(target[fold.train].tolist())
    if len(known) < 2:
        raise NeuroFMError(
            f"the training rows of a fold hold one class only ({_words(known)}); "
            "choose a split whose training rows hold at least two"
        )
    if missing := set(target[fold.test].tolist()) - known:
        raise NeuroFMError(
            "the test rows of a fold hold classes that its training rows lack "
            f"({_words(missing)}); choose another split or remove those rows"
        )


def _words(names: set) -> str:
    return ", ".join(sorted(map(str, names)))


def _fitted(
    kind: str,
    features: Float[np.ndarray, "N F"],
    goal: Goal,
    rows: Int[np.ndarray, " M"],
) -> Predict:
    """Standardise by the given rows and fit them; constant features become 0."""
    x = features[rows].astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-9 * (1 + np.abs(mean)), scale, np.inf)
    make = _ridge if kind == "ridge" else _neighbours
    predict = make((x - mean) / scale, goal.outputs[rows], SETTINGS[kind])
    return lambda new: predict((new - mean) / scale)


def _ridge(
    x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "N K"], penalties: tuple
) -> Predict:
    """Ridge with a free intercept for all penalties from one eigendecomposition.

    With features z of zero mean, W = V (E + n p)^-1 V' z' y from z'z = V E V' where
    F <= N, else z' U (E + n p)^-1 U' y from z z' = U E U'.
    """
    offset = y.mean(0)
    dual = x.shape[1] > len(x)
    eigenvalues, vectors = linalg.eigh(x @ x.T if dual else x.T @ x)
    basis = x.T @ vectors if dual else vectors  # [F, R]
    coefficients = vectors.T @ ((y - offset) if dual else x.T @ (y - offset))
    penalty = len(x) * np.array(penalties)[:, None, None]
    scaled = coefficients / (np.maximum(eigenvalues, 0)[:, None] + penalty)  # [S, R, K]
    return lambda new: (new @ basis) @ scaled + offset


def _neighbours(
    x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "N K"], counts: tuple
) -> Predict:
    """Mean outputs of the k rows of largest cosine, each weighing 1 + cosine."""
    unit = _unit(x)

    def predict(new: Float[np.ndarray, "M F"]) -> Float[np.ndarray, "S M K"]:
        outputs = np.empty((len(counts), len(new), y.shape[1]))
        for first in range(0, len(new), 1024):  # bounds the memory of the cosines
            rows = slice(first, first + 1024)
            cosine = _unit(new[rows]) @ unit.T
            nearest = _largest(cosine, max(counts))
            weight = 1 + np.take_along_axis(cosine, nearest, 1)[:, :, None] + 1e-12
            total, mass = np.cumsum(weight * y[nearest], 1), np.cumsum(weight, 1)
            for s, count in enumerate(counts):
                last = min(count, len(x)) - 1
                outputs[s, rows] = total[:, last] / mass[:, last]
        return outputs

    return predict


def _largest(x: Float[np.ndarray, "M N"], k: int) -> Int[np.ndarray, "M k"]:
    """Columns of the k largest numbers of each row, largest first."""
    if k < x.shape[1]:
        some = np.sort(np.argpartition(-x, k, axis=1)[:, :k], axis=1)
    else:
        some = np.broadcast_to(np.arange(x.shape[1]), x.shape)
    order = np.argsort(-np.take_along_axis(x, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def _unit(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
