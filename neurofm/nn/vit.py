"""Pre-norm transformer blocks with LayerScale, as vision transformers have them.

`x = x + a * attention(norm(x)); x = x + b * mlp(norm(x))`, a and b learned per feature.

Axes: B batch, S tokens, D width, L blocks.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.nn.attention import Attention, SelfAttention
from neurofm.nn.blocks import LayerNorm, Remat, scanned
from neurofm.nn.linear import Linear
from neurofm.parallel.sharding import constrain


class ScaledBlock(nn.Module):
    """Attention whose queries, keys and values have no bias, then an MLP, exact GELU.

    Attributes:
      layer_scale: what a and b start at.
    """

    heads: int
    layer_scale: float
    mlp_ratio: int = 4
    eps: float = 1e-5
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], visible: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B S D"]]:
        width = x.shape[-1]
        x = constrain(x, "batch", "token", "embed")
        init = nn.initializers.truncated_normal(0.02)

        def scaled(name: str, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
            start = nn.initializers.constant(self.layer_scale)
            return x * self.param(name, start, (width,)).astype(x.dtype)

        attn = SelfAttention(
            self.heads,
            self.attention,
            kernel_init=init,
            use_bias=False,
            out_bias=True,
            dtype=self.dtype,
            name="attn",
        )
        normed = LayerNorm(self.eps, name="norm_attn")(x)
        x = x + scaled("scale_attn", attn(normed, visible))
        dense = partial(Linear, kernel_init=init, dtype=self.dtype)
        into = dense((self.mlp_ratio * width,), axes=("embed", "mlp"), name="mlp_in")
        back = dense((width,), axes=("mlp", "embed"), name="mlp_out")
        hidden = into(LayerNorm(self.eps, name="norm_mlp")(x))
        hidden = constrain(hidden, "batch", "token", "mlp")
        x = x + scaled("scale_mlp", back(nn.gelu(hidden, approximate=False)))
        return x, x


class ScaledTransformer(nn.Module):
    """A scanned stack of `ScaledBlock` and a final LayerNorm.

    Returns the normed output and the output of every block `[L, B, S, D]`; a caller
    that does not use the latter pays nothing for it.

    Attributes:
      attention, remat: as in `nn.blocks.Transformer`.
    """

    depth: int
    heads: int
    layer_scale: float
    mlp_ratio: int = 4
    eps: float = 1e-5
    remat: Remat = "none"
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], visible: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], Float[Array, "L B S D"]]:
        stack = scanned(ScaledBlock, self.remat, self.depth)(
            self.heads,
            self.layer_scale,
            self.mlp_ratio,
            self.eps,
            attention=self.attention,
            dtype=self.dtype,
            name="blocks",
        )
        x, layers = stack(x.astype(self.dtype), visible)
        return LayerNorm(self.eps, name="norm")(x), layers
