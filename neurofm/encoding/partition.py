"""Which feature spaces explain a target: alone, together, or as parts of one model.

Axis letters: T rows (time), F features, V targets, B feature spaces (bands).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from neurofm.encoding import ridge
from neurofm.encoding.folds import Splits
from neurofm.encoding.scores import Score, explained
from neurofm.encoding.targets import Devices
from neurofm.errors import NeuroFMError

Subset = tuple[str, ...]  # names of spaces in the order in which they were given


@dataclass(frozen=True)
class Partition:
    """Models of all subsets of spaces, and what each part explains.

    Attributes:
      r2: of each subset's model on test rows.
      penalties: that each model chose for each target.
      predictions: of each model on test rows.
      parts: what the spaces named, and no other, explain together; those of one name
        are unique. All parts sum to the R² of the model of all spaces. A part may be
        negative: noise, or spaces that disturb each other.
    """

    r2: Mapping[Subset, Float[np.ndarray, " V"]]
    penalties: Mapping[Subset, Float[np.ndarray, " V"]]
    predictions: Mapping[Subset, Float[np.ndarray, "T V"]]
    parts: Mapping[Subset, Float[np.ndarray, " V"]]


def subsets(names: Sequence[str]) -> list[Subset]:
    """All subsets but the empty one, small ones first."""
    return [s for n in range(len(names)) for s in combinations(names, n + 1)]


def fit(
    train: Mapping[str, Float[np.ndarray, "T _"]],
    Y_train: Float[np.ndarray, "T V"],
    test: Mapping[str, Float[np.ndarray, "H _"]],
    Y_test: Float[np.ndarray, "H V"],
    penalties: Float[np.ndarray, " A"],
    splits: Splits,
    score: Score = "r2",
    place: Devices | None = None,
) -> Partition:
    """Fit each subset of spaces by ridge with its own penalties, and partition R².

    Args:
      train, test: features of each space by its name.

    Raises:
      NeuroFMError: fewer than two spaces; see `ridge.fit`.
    """
    if len(train) < 2:
        raise NeuroFMError(
            f"partitioning needs two feature spaces but there is {len(train)}; fit "
            "it alone with ridge"
        )
    r2, chosen, predictions = {}, {}, {}
    for subset in subsets(list(train)):
        X = np.concatenate([train[name] for name in subset], 1)
        model = ridge.fit(X, Y_train, penalties, splits, score, place=place)
        X = np.concatenate([test[name] for name in subset], 1)
        predictions[subset] = ridge.predict(X, model.weights)
        r2[subset] = explained(Y_test, predictions[subset])
        chosen[subset] = model.penalties
    return Partition(r2, chosen, predictions, parts(r2))


def parts(
    r2: Mapping[Subset, Float[np.ndarray, " V"]],
) -> dict[Subset, Float[np.ndarray, " V"]]:
    """What each set of spaces, and no other, explains, by inclusion and exclusion.

    Args:
      r2: of the model of each subset (Lescroart et al., "Fourier power, subjective
        distance, and object categories", 2015).
    """
    everything = max(r2, key=len)
    found = {}
    for part in subsets(everything):
        rest = [name for name in everything if name not in part]
        total = -r2[tuple(rest)] if rest else np.zeros_like(r2[everything])
        for inner in subsets(part):
            both = tuple(n for n in everything if n in rest or n in inner)
            total = total - (-1) ** len(inner) * r2[both]
        found[part] = total
    return found


def product_measure(
    truth: Float[np.ndarray, "T V"],
    by_band: Float[np.ndarray, "B T V"],
    centre: bool = True,
) -> Float[np.ndarray, "B V"]:
    """Parts of one joint model's R², that of each band's prediction.

    Σ(2 y ŷ_b - ŷ_b ŷ)/Σy² (Dupré la Tour et al., 2022). With centred responses the
    parts sum to the R² of those against the whole prediction.

    Args:
      centre: take the mean off the responses; without, the sum is 1 - SSE/Σy².
    """
    truth = truth - truth.mean(0) if centre else truth
    whole = by_band.sum(0)
    return (by_band * (2 * truth - whole)).sum(1) / _positive((truth**2).sum(0))


def correlation_parts(
    truth: Float[np.ndarray, "T V"], by_band: Float[np.ndarray, "B T V"]
) -> Float[np.ndarray, "B V"]:
    """Parts of one joint model's correlation, which they sum to."""
    truth = truth - truth.mean(0)
    centred = by_band - by_band.mean(1, keepdims=True)
    whole = centred.sum(0)
    spread = np.sqrt((truth**2).sum(0) * (whole**2).sum(0))
    return (centred * truth).sum(1) / _positive(spread)


def relative_weights(
    truth: Float[np.ndarray, "T V"], by_band: Float[np.ndarray, "B T V"]
) -> Float[np.ndarray, "B V"]:
    """Parts of one joint model's R², never of another sign than it.

    By the nearest orthonormal set to the bands' predictions (Johnson, "A heuristic
    method for estimating the relative weight of predictor variables", 2000).
    """
    bands = by_band.transpose(2, 1, 0)  # V T B
    left, values, right = np.linalg.svd(bands, full_matrices=False)
    nearest = left @ right  # V T B
    mixing = np.swapaxes(right, 1, 2) * values[:, None] @ right  # V B B
    norm = np.linalg.norm(mixing, axis=1, keepdims=True)
    least = len(by_band) * np.finfo(norm.dtype).eps * norm.max(2, keepdims=True)
    mixing = np.divide(mixing, norm, out=np.zeros_like(mixing), where=norm > least)
    shared = np.einsum("vtb,vt->vb", nearest, bands.sum(2))
    part = np.einsum("vjk,vk->jv", mixing**2, shared**2)
    return part / _positive(part.sum(0)) * explained(truth, by_band.sum(0))


def _positive(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.nan)
