"""Losses and correlations of predicted responses, over masked times and outputs.

Axes: B examples, T times, P outputs, G groups of examples (subjects).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Loss = Literal["mse", "smoothl1", "huber", "pearson"]


def loss(
    predicted: Float[Array, "B T P"],
    target: Float[Array, "B T P"],
    mask: Bool[Array, "B T P"],
    kind: Loss,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """A sum and its weight; targets under a False mask count nowhere.

    `mse`, `smoothl1` and `huber` (both with threshold 1, so the same) are means over
    elements; `pearson` is the mean over outputs of 1 - r over all examples and times,
    with 1e-8 added to the denominator.
    """
    weight = mask.astype(jnp.float32)
    if kind == "pearson":
        r = _correlation(predicted, target, weight)
        there = (weight.sum((0, 1)) > 0).astype(jnp.float32)
        return ((1 - r) * there).sum(), there.sum()
    error = jnp.where(mask, predicted - target, 0)
    size = jnp.abs(error)
    square = jnp.square(error)
    each = square if kind == "mse" else jnp.where(size < 1, square / 2, size - 0.5)
    return each.sum(), weight.sum()


def _correlation(
    x: Float[Array, "B T P"], y: Float[Array, "B T P"], weight: Float[Array, "B T P"]
) -> Float[Array, " P"]:
    """Centred first, so that no digits are lost. A constant has slope 0, not NaN."""
    n = jnp.maximum(weight.sum((0, 1)), 1)
    x = (x - (x * weight).sum((0, 1)) / n) * weight
    y = (y - (y * weight).sum((0, 1)) / n) * weight
    xx, yy = jnp.square(x).sum((0, 1)), jnp.square(y).sum((0, 1))
    product = xx * yy
    flat = product <= 0
    norm = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, product)))
    return (x * y).sum((0, 1)) / (norm + 1e-8)


def correlation_sums(
    predicted: Float[Array, "B T P"],
    target: Float[Array, "B T P"],
    mask: Bool[Array, "B T P"],
    group: Float[Array, "B G"],
) -> dict[str, Float[Array, "G P"]]:
    """What adds up to the correlation of every output within every group.

    Args:
      group: weight of each example in each group, such as one-hot subjects.
    """
    weight = mask.astype(jnp.float32)
    x, y = predicted * weight, jnp.where(mask, target, 0)
    moments = {
        "n": weight,
        "x": x,
        "y": y,
        "xx": x * x,
        "yy": y * y,
        "xy": x * y,
    }
    exact = jax.lax.Precision.HIGHEST
    return {
        name: jnp.einsum("bg,bp->gp", group, m.sum(1), precision=exact)
        for name, m in moments.items()
    }


def correlations(sums: dict[str, Float[Array, "G P"]]) -> Float[Array, "G P"]:
    """Pearson correlation from `correlation_sums`; NaN where a side is constant."""
    n = jnp.maximum(sums["n"], 1)
    mean_x, mean_y = sums["x"] / n, sums["y"] / n
    var_x = sums["xx"] / n - mean_x**2
    var_y = sums["yy"] / n - mean_y**2
    cov = sums["xy"] / n - mean_x * mean_y
    there = (var_x > 0) & (var_y > 0)
    product = jnp.where(there, var_x * var_y, 1)
    return jnp.where(there, cov / jnp.sqrt(product), jnp.nan)
