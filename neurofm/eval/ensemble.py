"""Predictions of several models as one, weighted by how each did on validation.

Source: TRIBE (arXiv 2507.22229) and its released code.

Axes: M models, P outputs, R rows (times or samples).
"""

from typing import Literal

import numpy as np
import scipy.special
from jaxtyping import Float

Over = Literal["models", "outputs"]


def weights(
    scores: Float[np.ndarray, "M P"], temperature: float = 0.3, over: Over = "models"
) -> Float[np.ndarray, "M P"]:
    """Softmax of validation scores over models, so that each output's weights add to 1.

    Over `outputs` as released, which mixed the axes up: models are then weighed by
    numbers that do not add to 1.
    """
    axis = {"models": 0, "outputs": 1}[over]
    return scipy.special.softmax(scores.astype(np.float64) / temperature, axis=axis)


def combined(
    predictions: Float[np.ndarray, "M R P"],
    weights: Float[np.ndarray, "M P"],
    standardise: bool = False,
) -> Float[np.ndarray, "R P"]:
    """The weighted sum of predictions.

    Args:
      standardise: z-score every model's outputs over rows first, for models whose loss
        leaves the scale of predictions open (Pearson).
    """
    if standardise:
        spread = predictions.std(axis=1, keepdims=True)
        centred = predictions - predictions.mean(axis=1, keepdims=True)
        predictions = centred / np.where(spread > 0, spread, 1)
    return np.einsum("mrp,mp->rp", predictions, weights)
