"""Scores of HEAR's scene tasks.

Means over classes (macro). As in the official kit a class without positives counts as
an average precision of 0 and makes AUC and d' undefined; `undefined` counts them.

Axes: N items, K classes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

SCENE = ("top1_acc", "pitch_acc", "chroma_acc", "mAP", "d_prime", "aucroc")


def score(
    name: str, target: Shaped[np.ndarray, "N K"], prediction: Float[np.ndarray, "N K"]
) -> float:
    """A score by its name in `SCENE`."""
    if name in ("top1_acc", "pitch_acc", "chroma_acc"):
        return accuracy(target, prediction, 12 if name == "chroma_acc" else None)
    of_class = {"mAP": average_precision, "aucroc": auc, "d_prime": d_prime}[name]
    return float(of_class(target, prediction).mean())


def accuracy(
    target: Shaped[np.ndarray, "N K"],
    prediction: Float[np.ndarray, "N K"],
    modulo: int | None = None,
) -> float:
    """Share of items whose likeliest class (the first of equals) is right.

    Args:
      modulo: compare class numbers modulo this: 12 for chroma, where the vocabulary of
        pitches has no gaps.
    """
    right, found = target.argmax(1), prediction.argmax(1)
    if modulo:
        right, found = right % modulo, found % modulo
    return float(np.mean(right == found))


def average_precision(
    target: Shaped[np.ndarray, "N K"], prediction: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, " K"]:
    """Average precision of each class, a threshold a distinct value.

    0 for a class without positives.
    """
    return np.array(
        [_average_precision(*pair) for pair in zip(target.T, prediction.T, strict=True)]
    )


def _average_precision(target, prediction) -> float:
    order = np.argsort(-prediction, kind="stable")
    last = np.append(np.diff(prediction[order]) != 0, True)  # of equal values
    hits = np.cumsum(target[order] > 0)[last]
    if not hits[-1]:
        return 0.0
    precision = hits / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def auc(
    target: Shaped[np.ndarray, "N K"], prediction: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, " K"]:
    """Area under the curve of each class; NaN without positives or negatives."""
    from scipy.stats import rankdata

    rank, positive = rankdata(prediction, axis=0), target > 0
    n = positive.sum(0)
    above = np.where(positive, rank, 0).sum(0) - n * (n + 1) / 2
    n_pairs = n * (len(target) - n)
    return np.divide(above, n_pairs, out=np.full(len(n), np.nan), where=n_pairs > 0)


def d_prime(
    target: Shaped[np.ndarray, "N K"], prediction: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, " K"]:
    """√2 Φ⁻¹(AUC) of each class; infinite where it is told apart without error."""
    from scipy.stats import norm

    return np.sqrt(2) * norm.ppf(auc(target, prediction))


def undefined(
    target: Shaped[np.ndarray, "N K"], prediction: Float[np.ndarray, "N K"]
) -> dict[str, int]:
    """How many classes have no positives, no AUC, or an infinite d'."""
    d = d_prime(target, prediction)
    return {
        "without_positives": int(np.sum(~(target > 0).any(0))),
        "without_auc": int(np.isnan(d).sum()),
        "infinite_d_prime": int(np.isinf(d).sum()),
    }


def aggregated(folds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean and standard deviation (n - 1) of every score over folds.

    An infinite score makes the mean infinite and the deviation NaN.
    """
    out = {}
    for name in folds[0]:
        values = np.array([fold[name] for fold in folds])
        out[f"{name}_mean"] = float(values.mean())
        with np.errstate(invalid="ignore"):
            out[f"{name}_std"] = float(values.std(ddof=1))
    return out
