"""Multi-head self-attention with a key mask.

Axes: B batch, S tokens, D width, H heads, K head width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.nn.linear import Linear
from neurofm.parallel.sharding import constrain

HIDDEN = -1e30  # finite, so that a row without any visible key stays finite


def attend(
    query: Float[Array, "B S H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    visible: Bool[Array, "B S"] | None,
) -> Float[Array, "B S H K"]:
    """Softmax attention over visible keys, written out, softmax in float32.

    At 64 to 200 tokens the score matrix is small and this form is the fastest on CPU.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bqhk,bshk->bhqs", query * scale, key)
    scores = scores.astype(jnp.float32)
    if visible is not None:
        scores = jnp.where(visible[:, None, None, :], scores, HIDDEN)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", weights, value)


class SelfAttention(nn.Module):
    """Queries, keys and values by heads, attention, and the projection back to D.

    The qkv kernels start Xavier-uniform over the fused `(3D, D)` matrix, as
    torch's `MultiheadAttention` leaves them.
    """

    heads: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], visible: Bool[Array, "B S"] | None
    ) -> Float[Array, "B S D"]:
        width = x.shape[-1]
        bound = (6 / (4 * width)) ** 0.5

        def qkv_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        shape = (self.heads, width // self.heads)
        query, key, value = (
            constrain(
                Linear(shape, kernel_init=qkv_init, dtype=self.dtype, name=name)(x),
                *("batch", "token", "heads", "kv"),
            )
            for name in ("query", "key", "value")
        )
        mixed = attend(query, key, value, visible)
        return Linear((width,), n_in_axes=2, dtype=self.dtype, name="out")(mixed)
