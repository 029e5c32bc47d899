"""Similarity unit by unit, and attention head by head.

Sources: Bau et al. (arXiv 1811.01157) and Wu et al. (arXiv 2005.01172).

Axes: N rows (the same stimuli in the same order), P and Q units, H heads, T tokens.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from neurofm.analysis.cca import basis, centred


def correlations(
    x: Float[np.ndarray, "N P"], y: Float[np.ndarray, "N Q"]
) -> Float[np.ndarray, "P Q"]:
    """|Pearson| of every unit with every unit of another layer; 0 for constant ones."""
    x, y = _unit_columns(x), _unit_columns(y)
    return np.abs(x.T @ y)


def max_correlation(
    x: Float[np.ndarray, "N P"], y: Float[np.ndarray, "N Q"]
) -> Float[np.ndarray, " P"]:
    """Correlation of each unit with its best match; the layer's score is the mean."""
    return correlations(x, y).max(1)


def min_correlation(
    x: Float[np.ndarray, "N P"], others: Sequence[Float[np.ndarray, "N _"]]
) -> Float[np.ndarray, " P"]:
    """The lowest of each unit's best matches in several other models."""
    return np.min([max_correlation(x, other) for other in others], 0)


def linear_fit(
    x: Float[np.ndarray, "N P"], y: Float[np.ndarray, "N Q"]
) -> Float[np.ndarray, " P"]:
    """Multiple correlation of each unit with all units of another layer, in sample.

    The other layer is cut at its numerical rank: directions without variance would only
    fit noise.
    """
    return np.linalg.norm(basis(y).T @ _unit_columns(x), axis=0)


def attention_divergence(
    a: Float[np.ndarray, "H T T"], b: Float[np.ndarray, "H2 T T"]
) -> Float[np.ndarray, "H H2"]:
    """Jensen-Shannon divergence in nats of attention rows, mean over tokens."""
    first, second = a[:, None], b[None]
    middle = (first + second) / 2
    both = _relative_entropy(first, middle) + _relative_entropy(second, middle)
    return both.sum(-1).mean(-1) / 2


def attention_similarity(
    a: Float[np.ndarray, "H T T"], b: Float[np.ndarray, "H2 T T"]
) -> Float[np.ndarray, " H"]:
    """1 - divergence / ln 2 of each head and the head of `b` that is most like it."""
    return 1 - attention_divergence(a, b).min(1) / np.log(2)


def _relative_entropy(p, q):
    from scipy.special import rel_entr

    return rel_entr(p, q)


def _unit_columns(x):
    x = centred(x)
    norm = np.linalg.norm(x, axis=0)
    return x / np.where(norm > 0, norm, 1)
