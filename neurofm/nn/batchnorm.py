"""Batch norm whose running statistics are moved by sums that only add.

Axes: N sequences, S steps, C features.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Tree = dict[str, Any]
EPS = 1e-5
MOMENTUM = 0.1  # of what a batch adds to the running statistics


def start(features: int) -> tuple[Tree, Tree]:
    """Gain and offset that are trained, running mean and variance that are not."""
    params = {"scale": jnp.ones(features), "bias": jnp.zeros(features)}
    return params, {"mean": jnp.zeros(features), "var": jnp.ones(features)}


def batch_norm(
    x: Float[Array, "N S C"],
    params: Tree,
    running: Tree,
    counted: Bool[Array, " N"] | None,
) -> tuple[Float[Array, "N S C"], Tree]:
    """Each feature by mean and variance, in float32, and what `moved` needs.

    Args:
      counted: sequences whose steps give the statistics, in training; None takes the
        running ones.
    """
    y = x.astype(jnp.float32)
    mean, variance, sums = running["mean"], running["var"], {}
    if counted is not None:
        weight = counted[:, None, None].astype(jnp.float32)
        n = weight.sum() * x.shape[1]
        most = jnp.maximum(n, 1)
        # About the running mean, so that sums of squares keep their digits.
        away = jax.lax.stop_gradient(y - running["mean"]) * weight
        sums = {"n": n, "first": away.sum((0, 1)), "second": (away**2).sum((0, 1))}
        mean = (y * weight).sum((0, 1)) / most
        variance = (jnp.square(y - mean) * weight).sum((0, 1)) / most
    y = (y - mean) * jax.lax.rsqrt(variance + EPS)
    return (y * params["scale"] + params["bias"]).astype(x.dtype), sums


def moved(running: Tree, sums: Tree) -> Tree:
    """Running statistics after a step; the variance that goes in is the unbiased one.

    As torch has it. A step without anything counted moves nothing.
    """
    n = jnp.maximum(sums["n"], 2)
    shift = sums["first"] / n
    variance = (sums["second"] / n - shift**2) * n / (n - 1)
    share = jnp.where(sums["n"] > 1, MOMENTUM, 0.0)
    return {
        "mean": running["mean"] + share * shift,
        "var": (1 - share) * running["var"] + share * variance,
    }
