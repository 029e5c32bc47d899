"""Targets made of a teacher's blocks, and the error against them.

Axes: B examples, S tokens, D width, K blocks.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

TargetNorm = Literal["joint", "data2vec"]


def block_targets(
    blocks: Float[Array, "K B S D"], valid: Bool[Array, "B S"], norm: TargetNorm
) -> Float[Array, "B S D"]:
    """Mean of the teacher's block outputs, each normalised over its valid tokens.

    `joint` (WavJEPA as released) takes one mean and variance over time and features
    together; `data2vec` (data2vec 2.0) one per feature over time. Variances are biased,
    eps 1e-5. A single block is returned as it is (the released rule for K = 1).
    """
    blocks = blocks.astype(jnp.float32)
    if blocks.shape[0] == 1:
        return blocks[0]
    axes = (2, 3) if norm == "joint" else (2,)
    weight = valid[None, :, :, None].astype(jnp.float32)
    count = jnp.maximum(valid.sum(-1), 1)[None, :, None, None]
    if norm == "joint":
        count = count * blocks.shape[-1]
    centred = blocks - (blocks * weight).sum(axes, keepdims=True) / count
    variance = (jnp.square(centred) * weight).sum(axes, keepdims=True) / count
    return (centred * jax.lax.rsqrt(variance + 1e-5)).mean(0)


def token_errors(
    predicted: Float[Array, "... D"], target: Float[Array, "... D"]
) -> Float[Array, "..."]:
    """Squared error averaged over features, in float32."""
    error = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.square(error).mean(-1)
