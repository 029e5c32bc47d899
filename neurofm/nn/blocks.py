"""Post-norm transformer blocks and the scanned stack of them.

Axes: B batch, S tokens, D width, L blocks.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.nn.attention import Attention, SelfAttention
from neurofm.nn.linear import Linear
from neurofm.parallel.sharding import constrain

Remat = Literal["none", "block", "selective"]

# Of a block, `selective` keeps the results of products with weights: they cost most to
# make again per byte. Scores, softmax, GELU and norms are made again.
KEEP_PROJECTIONS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def rematerialised(block: Any, remat: Remat) -> Any:
    """The block class, whose backward pass makes again what `remat` says."""
    if remat == "none":
        return block
    policy = KEEP_PROJECTIONS if remat == "selective" else None
    return nn.remat(block, prevent_cse=False, policy=policy)


def scanned(block: Any, remat: Remat, depth: int, in_axes: Any = nn.broadcast) -> Any:
    """`depth` such blocks as one scan over stacked parameters, to be built and called.

    All blocks are given the same inputs beside the first, unless `in_axes` says which
    of them has an axis of layers.
    """
    return nn.scan(
        rematerialised(block, remat),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=depth,
    )


def remat_savings(remat: Remat) -> tuple[str, ...]:
    """Overrides of `task.remat` for a step that recomputes nothing, mildest first."""
    return () if remat != "none" else ("task.remat=selective", "task.remat=block")


class LayerNorm(nn.Module):
    """LayerNorm in float32 with the two-pass variance, cast back to `x.dtype`."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * scale + bias).astype(x.dtype)


class PostNormBlock(nn.Module):
    """`x = LN(x + attention(x)); x = LN(x + W2 gelu(W1 x))`, exact GELU."""

    heads: int
    mlp_ratio: int = 4
    eps: float = 1e-6
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], visible: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B S D"]]:
        width = x.shape[-1]
        x = constrain(x, "batch", "token", "embed")
        attn = SelfAttention(self.heads, self.attention, dtype=self.dtype, name="attn")
        x = LayerNorm(self.eps, name="norm_attn")(x + attn(x, visible))
        dense = partial(Linear, dtype=self.dtype)
        wide = self.mlp_ratio * width
        hidden = dense((wide,), axes=("embed", "mlp"), name="mlp_in")(x)
        hidden = constrain(hidden, "batch", "token", "mlp")
        hidden = nn.gelu(hidden, approximate=False)
        hidden = dense((width,), axes=("mlp", "embed"), name="mlp_out")(hidden)
        x = LayerNorm(self.eps, name="norm_mlp")(x + hidden)
        return x, x  # carry and output of the scan over blocks


class Transformer(nn.Module):
    """A scanned stack of post-norm blocks and a final LayerNorm (eps 1e-5).

    Returns the normed output and the output of every block `[L, B, S, D]`; a caller
    that does not use the latter pays nothing for it, as XLA drops it.

    Attributes:
      attention: which form of attention, see `nn.attention.choose`.
      remat: what the backward pass makes again for memory: nothing (`none`), all of a
        block but its input (`block`), or all but its projections (`selective`).
    """

    depth: int
    heads: int
    mlp_ratio: int = 4
    remat: Remat = "none"
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], visible: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "L B S D"]]:
        stack = scanned(PostNormBlock, self.remat, self.depth)(
            self.heads,
            self.mlp_ratio,
            attention=self.attention,
            dtype=self.dtype,
            name="blocks",
        )
        x, layers = stack(x.astype(self.dtype), visible)
        return LayerNorm(1e-5, name="norm")(x), layers
