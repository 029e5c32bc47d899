"""Pre-norm transformer blocks as x_transformers builds them for TRIBE.

ScaleNorm before attention and feed-forward, rotary queries and keys, and a learned
scale of every feature on the skip path: `x = attention(norm(x)) + skip * x`.

Axes: B batch, S tokens, D width, L blocks.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.nn.attention import Attention, SelfAttention
from neurofm.nn.blocks import Remat, scanned
from neurofm.nn.linear import Linear, torch_uniform
from neurofm.nn.norms import ScaleNorm
from neurofm.nn.positions import Rotary, rotate
from neurofm.parallel.sharding import constrain


class PreNormBlock(nn.Module):
    """Attention without biases, then a feed-forward with exact GELU.

    Attributes:
      rotary, rotary_width: how pairs are formed, and how many of a head's features are
        turned; see `positions.rotate`.
    """

    heads: int
    rotary: Rotary
    rotary_width: int
    mlp_ratio: int = 4
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], visible: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "2 B S D"]]:
        width = x.shape[-1]
        x = constrain(x, "batch", "token", "embed")

        def skipped(name: str, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
            return x * self.param(name, nn.initializers.ones, (width,)).astype(x.dtype)

        attn = SelfAttention(
            self.heads,
            self.attention,
            kernel_init=torch_uniform(width),
            use_bias=False,
            turn=partial(rotate, width=self.rotary_width, style=self.rotary),
            dtype=self.dtype,
            name="attn",
        )
        normed = ScaleNorm(name="norm_attn")(x)
        attended = x = attn(normed, visible) + skipped("skip_attn", x)
        dense, wide = partial(Linear, dtype=self.dtype), self.mlp_ratio * width
        into = dense(
            (wide,),
            kernel_init=torch_uniform(width),
            axes=("embed", "mlp"),
            name="mlp_in",
        )
        back = dense(
            (width,),
            kernel_init=torch_uniform(wide),
            axes=("mlp", "embed"),
            name="mlp_out",
        )
        hidden = into(ScaleNorm(name="norm_mlp")(x))
        hidden = constrain(hidden, "batch", "token", "mlp")
        hidden = back(nn.gelu(hidden, approximate=False))
        x = hidden + skipped("skip_mlp", x)
        return x, jnp.stack([attended, x])


class PreNormTransformer(nn.Module):
    """A scanned stack of `PreNormBlock` and a final ScaleNorm.

    Returns the normed output, and the sum after the attention and after the
    feed-forward of every block `[L, 2, B, S, D]`; a caller that does not use these pays
    nothing for them.

    Attributes:
      attention, remat: as in `nn.blocks.Transformer`.
    """

    depth: int
    heads: int
    rotary: Rotary
    rotary_width: int
    mlp_ratio: int = 4
    remat: Remat = "none"
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], visible: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "L 2 B S D"]]:
        stack = scanned(PreNormBlock, self.remat, self.depth)(
            self.heads,
            self.rotary,
            self.rotary_width,
            self.mlp_ratio,
            attention=self.attention,
            dtype=self.dtype,
            name="blocks",
        )
        x, sums = stack(x.astype(self.dtype), visible)
        return ScaleNorm(name="norm")(x), sums
