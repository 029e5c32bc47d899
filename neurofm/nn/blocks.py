"""Post-norm transformer blocks and the scanned stack of them.

Axes: B batch, S tokens, D width, L blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from neurofm.nn.attention import Attention, SelfAttention
from neurofm.nn.dropout import dropout
from neurofm.nn.linear import Initializer, Linear
from neurofm.nn.norms import LayerNorm
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


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares that dropout zeroes in a block.

    Attributes:
      weights: of the attention weights.
      attended: of what attention gives.
      hidden: of the feed-forward, after its activation.
      out: of what the feed-forward gives.
    """

    weights: float = 0.0
    attended: float = 0.0
    hidden: float = 0.0
    out: float = 0.0


SITES = 4  # of a block, where dropout acts

# How a scan gives its inputs to a block that drops: visible keys, the layer, keys.
BY_LAYER = (nn.broadcast, 0, nn.broadcast)


class PostNormBlock(nn.Module):
    """`x = LN(x + attention(x)); x = LN(x + W2 gelu(W1 x))`, exact GELU.

    Attributes:
      mlp_width: of the hidden layer; 0 is `mlp_ratio` times D.
      activation: of the hidden layer, if not GELU.
      qkv_init: initializer of queries, keys and values, if not that of the layer.
      kernel_init: that of the other maps, by the number of their inputs.
      head_width, norm_eps: of attention, see `SelfAttention`.
      rates: of dropout, where keys are given.
    """

    heads: int
    mlp_ratio: int = 4
    eps: float = 1e-6
    attention: Attention = "auto"
    mlp_width: int = 0
    activation: Callable[[Array], Array] = partial(nn.gelu, approximate=False)
    qkv_init: Initializer | None = None
    kernel_init: Callable[[int], Initializer] | None = None
    head_width: int = 0
    norm_eps: float | None = None
    rates: Rates = Rates()
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        visible: Bool[Array, "B S"] | None,
        layer: Int[Array, ""] | None = None,
        keys: UInt32[Array, "B 2"] | None = None,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B S D"]]:
        width = x.shape[-1]
        x = constrain(x, "batch", "token", "embed")

        def drop(x: Float[Array, "B ..."], rate: float, site: int) -> Array:
            if layer is None or keys is None or rate == 0:
                return x
            return dropout(x, keys, rate, SITES * layer + site)

        inner = self.heads * self.head_width or width
        wide = self.mlp_width or self.mlp_ratio * width
        init = self.kernel_init or (lambda _: nn.initializers.normal(0.02))
        attn = SelfAttention(
            self.heads,
            self.attention,
            self.qkv_init,
            out_init=init(inner),
            head_width=self.head_width,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            name="attn",
        )
        holed = keys is not None and self.rates.weights > 0
        some = partial(drop, rate=self.rates.weights, site=0) if holed else None
        attended = drop(attn(x, visible, some), self.rates.attended, 1)
        x = LayerNorm(self.eps, name="norm_attn")(x + attended)
        into = partial(Linear, kernel_init=init(width), dtype=self.dtype)
        back = partial(Linear, kernel_init=init(wide), dtype=self.dtype)
        hidden = into((wide,), axes=("embed", "mlp"), name="mlp_in")(x)
        hidden = constrain(hidden, "batch", "token", "mlp")
        hidden = drop(self.activation(hidden), self.rates.hidden, 2)
        hidden = back((width,), axes=("mlp", "embed"), name="mlp_out")(hidden)
        x = LayerNorm(self.eps, name="norm_mlp")(x + drop(hidden, self.rates.out, 3))
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
