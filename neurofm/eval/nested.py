"""Logistic, ridge and neighbour probes with a grid each, chosen by inner folds.

The exact forms in which published layer sweeps are compared: what is fitted is
standardised by the very rows it is fitted on, and a tie goes to the simpler probe.

Axes: N rows, M some of them, F features, K classes or outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.analysis.retrieval import unit
from neurofm.errors import NeuroFMError
from neurofm.eval.probe import Choice, Goal, Outcome
from neurofm.eval.splits import Fold, inner_folds

Kind = Literal["logistic", "ridge", "knn"]
# The simplest first: the strongest penalty, the fewest neighbours.
GRIDS: dict[Kind, tuple[float, ...]] = {
    "logistic": tuple(10.0**p for p in range(-4, 5)),
    "ridge": tuple(10.0**p for p in range(6, -4, -1)),
    "knn": (1, 5, 20, 200),
}
TAU = 0.07


class Linear(NamedTuple):
    """Weights and biases of a linear probe of standardised features."""

    weights: Float[np.ndarray, "F K"]
    bias: Float[np.ndarray, " K"]
    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]

    def outputs(self, x: Float[np.ndarray, "M F"]) -> Float[np.ndarray, "M K"]:
        """Logits or predicted numbers."""
        return (x - self.mean) / self.scale @ self.weights + self.bias


class Nested(NamedTuple):
    """Out-of-fold outputs, and what inner folds said of every setting.

    Attributes:
      outputs: probabilities, votes or predicted numbers; NaN in rows never tested.
      inner: mean score over inner folds of each outer fold and setting.
      chosen: the setting of each outer fold.
    """

    outputs: Float[np.ndarray, "N K"]
    inner: Float[np.ndarray, "O S"]
    chosen: Float[np.ndarray, " O"]


def logistic(
    x: Float[np.ndarray, "M F"], y: Int[np.ndarray, " M"], c: float, n_classes: int
) -> Linear:
    """Multinomial regression: C Σ cross-entropy + ½‖W‖², biases free and centred.

    Two classes have a weight each too. A class without rows is never predicted.

    Raises:
      NeuroFMError: rows of one class only.
    """
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(y)
    if len(classes) < 2:
        raise NeuroFMError(
            f"{len(y)} rows to fit are of one class only: give rows of two or more"
        )
    z, mean, scale = _standardised(x)
    z, back = _thin(z)
    # A weight for either of two classes shares the penalty: half of it for each.
    strength = 2 * c if len(classes) == 2 else c
    model = LogisticRegression(
        C=strength, solver="newton-cholesky", tol=1e-10, max_iter=1000
    ).fit(z, y)
    weights, bias = model.coef_.T, model.intercept_
    if len(classes) == 2:
        weights, bias = np.hstack([-weights, weights]) / 2, np.r_[-bias, bias] / 2
    full = np.zeros((x.shape[1], n_classes))
    offset = np.full(n_classes, -np.inf)
    full[:, classes] = back @ weights
    offset[classes] = bias - bias.mean()
    return Linear(full, offset, mean, scale)


def ridge(
    x: Float[np.ndarray, "M F"], y: Float[np.ndarray, "M K"], penalty: float
) -> Linear:
    """Σ(y - Xw - b)² + λ‖w‖² with b free."""
    z, mean, scale = _standardised(x)
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    offset = y.mean(0)
    weights = vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ (y - offset)))
    return Linear(weights, offset, mean, scale)


def votes(
    x: Float[np.ndarray, "M F"],
    y: Int[np.ndarray, " M"],
    new: Float[np.ndarray, "N F"],
    k: int,
    n_classes: int,
) -> Float[np.ndarray, "N K"]:
    """Sum over the k nearest rows of exp(cosine / τ), by class (Caron et al., 2021).

    Cosines of what is left after the mean of the rows that vote; the lower row of
    equally near ones.
    """
    mean = x.mean(0)
    similarity = unit(new - mean) @ unit(x - mean).T
    near = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(x))]
    weight = np.exp(np.take_along_axis(similarity, near, 1) / TAU)
    return np.einsum("nk,nkc->nc", weight, np.eye(n_classes)[y[near]])


def nested(
    kind: Kind,
    x: Float[np.ndarray, "N F"],
    y: Shaped[np.ndarray, "N *K"],
    folds: Sequence[tuple[Fold, Sequence[Fold]]],
    grid: Sequence[float] | None = None,
) -> Nested:
    """Predict every test fold with the setting that its inner folds chose.

    Args:
      y: whole numbers from 0 for classes, (N, K) floats for `ridge`.
      folds: of each outer fold, the inner folds of its training rows.
      grid: settings, the simplest first; the first of equals is chosen.
    """
    grid = GRIDS[kind] if grid is None else grid
    x = np.asarray(x, np.float64)
    n_outputs = y.shape[1] if kind == "ridge" else int(y.max()) + 1
    outputs = np.full((len(x), n_outputs), np.nan)
    inner, chosen = [], []
    for outer, within in folds:
        table = np.array(
            [
                [_score(y[f.test], guess) for guess in _fitted(kind, x, y, f, grid)]
                for f in within
            ]
        )
        inner.append(table.mean(0))
        best = grid[int(inner[-1].argmax())]
        chosen.append(best)
        (outputs[outer.test],) = _fitted(kind, x, y, outer, [best])
    return Nested(outputs, np.array(inner), np.array(chosen, float))


def fit(
    kind: Kind,
    candidates: Mapping[str, Float[np.ndarray, "N _"]],
    target: Shaped[np.ndarray, " N"],
    fold: Fold,
    groups: Shaped[np.ndarray, " N"] | None = None,
) -> Outcome:
    """As `probe.fit`, by one kind of probe: candidate and setting chosen within.

    Raises:
      NeuroFMError: ridge of classes, or another kind of numbers.
    """
    goal = Goal.of(target, fold)
    if (kind == "ridge") != (goal.classes is None):
        other = "logistic or knn" if kind == "ridge" else "ridge"
        raise NeuroFMError(
            f"the probe {kind} tells {'numbers' if kind == 'ridge' else 'classes'}, "
            f"and the target holds others: take {other}, or best"
        )
    y = goal.outputs
    if goal.classes is not None:
        last = len(goal.classes) - 1
        y = np.minimum(np.searchsorted(goal.classes, target), last)
    if len(fold.valid):
        within = [Fold(train=fold.train, test=fold.valid)]
    else:
        within = inner_folds(fold.train, groups)
    grid, best = GRIDS[kind], Choice("", kind, 0.0, -np.inf)
    for name, features in candidates.items():
        x = np.asarray(features, np.float64)
        table = [
            [_score(y[f.test], guess) for guess in _fitted(kind, x, y, f, grid)]
            for f in within
        ]
        means = np.mean(table, axis=0)
        at = int(means.argmax())
        if means[at] > best.score:
            best = Choice(name, kind, float(grid[at]), float(means[at]))
    known = Fold(train=np.concatenate([fold.train, fold.valid]), test=fold.test)
    x = np.asarray(candidates[best.candidate], np.float64)
    (output,) = _fitted(kind, x, y, known, [best.setting])
    marks = goal.mark(fold.test, output)
    return Outcome(goal.decide(output), output, *marks, best)


def classification(
    y: Int[np.ndarray, " N"], probabilities: Float[np.ndarray, "N K"]
) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro F1, macro AUC of one class against others."""
    from sklearn import metrics

    guess, classes = probabilities.argmax(1), np.arange(probabilities.shape[1])
    auc = [metrics.roc_auc_score(y == c, probabilities[:, c]) for c in classes]
    return {
        "accuracy": float(np.mean(guess == y)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(y, guess)),
        "macro_f1": float(metrics.f1_score(y, guess, average="macro")),
        "macro_auc_ovr": float(np.mean(auc)),
    }


def explained_beyond_training(
    y: Float[np.ndarray, "N K"],
    outputs: Float[np.ndarray, "N K"],
    folds: Sequence[tuple[Fold, Sequence[Fold]]],
) -> Float[np.ndarray, " K"]:
    """R² of out-of-fold predictions with the mean of each fold's training rows as 0."""
    plain = np.full(y.shape, np.nan)
    for outer, _ in folds:
        plain[outer.test] = y[outer.train].mean(0)
    return 1 - np.nansum((y - outputs) ** 2, 0) / np.nansum((y - plain) ** 2, 0)


def _fitted(kind, x, y, fold, grid) -> list[np.ndarray]:
    """Outputs of the test rows of a fold for every setting."""
    train, new = x[fold.train], x[fold.test]
    goal, n = y[fold.train], int(np.max(y)) + 1
    if kind == "ridge":
        return [ridge(train, goal, s).outputs(new) for s in grid]
    if kind == "knn":
        return [votes(train, goal, new, int(s), n) for s in grid]
    return [_softmax(logistic(train, goal, s, n).outputs(new)) for s in grid]


def _score(truth, output) -> float:
    """Accuracy, or minus the squared error of numbers."""
    if truth.ndim == 2:
        return float(-np.mean((truth - output) ** 2))
    return float(np.mean(output.argmax(1) == truth))


def _standardised(x):
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)
    return (x - mean) / scale, mean, scale


def _thin(z):
    """Fewer columns of the same inner products, and the way back to weights."""
    if z.shape[1] <= len(z):
        return z, np.eye(z.shape[1])
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    return u * s, vt.T


def _softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
