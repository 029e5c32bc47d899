"""Criss-cross blocks: half the features attend over time, half over sources.

Axes: B recordings, S sources, W tokens in time, D width, A parallel sequences of an
example, T tokens of a sequence, E features of a half, H heads, K head width, L blocks.

Source: BrainOmni (arXiv 2505.18185), section 3, and its released code.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from neurofm.nn.attention import Attention, attend
from neurofm.nn.blocks import Remat, scanned
from neurofm.nn.dropout import dropout
from neurofm.nn.linear import Linear
from neurofm.nn.norms import RMSNorm
from neurofm.nn.positions import rotary_angles
from neurofm.nn.sensors import dense_init
from neurofm.parallel.sharding import constrain

Rope = Literal["exact", "cosine_only"]
SITES = 3  # of a block, where dropout acts: time, space, feed-forward


def rotate(x: Float[Array, "B A T H K"], rope: Rope) -> Float[Array, "B A T H K"]:
    """Turn neighbouring features by the token's angle.

    The list of rates runs across heads, so heads see different scales of time.
    `cosine_only` multiplies by the cosine and mixes nothing: what the official code
    computes from the published files, whose rotary table lost its imaginary part.
    """
    tokens, heads, width = x.shape[2:]
    angles = rotary_angles(tokens, heads * width).reshape(tokens, heads, width // 2)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], width // 2, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    if rope == "cosine_only":
        turned = a * cos, b * cos
    else:
        turned = a * cos - b * sin, a * sin + b * cos
    return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)


class SequenceAttention(nn.Module):
    """Attention within each sequence; queries, keys and values from one product."""

    heads: int
    rope: Rope | None
    rate: float
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B A T E"],
        visible: Bool[Array, "B T"] | None,
        keys: UInt32[Array, "B 2"] | None,
        site: Int[Array, ""],
    ) -> Float[Array, "B A T E"]:
        b, parallel, tokens, width = x.shape
        shape = (3, self.heads, width // self.heads)
        dense = partial(Linear, kernel_init=dense_init, dtype=self.dtype)
        qkv = dense(shape, axes=("embed", None, "heads", "kv"), name="qkv")(x)
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        if self.rope is not None:
            query, key = rotate(query, self.rope), rotate(key, self.rope)
        if visible is not None:
            visible = jnp.repeat(visible, parallel, axis=0)

        def drop(weights: Float[Array, "BA H T T"]) -> Float[Array, "BA H T T"]:
            assert keys is not None
            whole = weights.reshape(b, parallel, *weights.shape[1:])
            return dropout(whole, keys, self.rate, site).reshape(weights.shape)

        flat = b * parallel, tokens, *shape[1:]
        mixed = attend(
            query.reshape(flat),
            key.reshape(flat),
            value.reshape(flat),
            visible,
            self.attention,
            drop if keys is not None and self.rate > 0 else None,
        )
        mixed = mixed.reshape(b, parallel, tokens, *shape[1:])
        axes = ("heads", "kv", "embed")
        return dense((width,), n_in_axes=2, axes=axes, name="out")(mixed)


class CrissCrossBlock(nn.Module):
    """`x += attention(RMS(x)); x += W2 selu(W1 RMS(x))`.

    The first half of the features attends over time, the second over sources; the
    results come back in the other order, as released.
    """

    heads: int
    rope: Rope = "exact"
    rate: float = 0.0
    rate_mlp: float = 0.0
    attention: Attention = "auto"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S W D"],
        layer: Int[Array, ""],
        visible: Bool[Array, "B W"] | None,
        keys: UInt32[Array, "B 2"] | None,
    ) -> tuple[Float[Array, "B S W D"], Float[Array, "B S W D"]]:
        width = x.shape[-1]
        x = constrain(x, "batch", None, "token", "embed")
        site = SITES * layer
        half = partial(
            SequenceAttention,
            self.heads // 2,
            rate=self.rate,
            attention=self.attention,
            dtype=self.dtype,
        )
        in_time, in_space = half(self.rope, name="time"), half(None, name="space")
        first, second = jnp.split(RMSNorm(name="norm_attn")(x), 2, axis=-1)
        time = in_time(first, visible, keys, site)
        space = in_space(second.swapaxes(1, 2), None, keys, site + 1).swapaxes(1, 2)
        x = x + jnp.concatenate([space, time], axis=-1)
        dense = partial(Linear, kernel_init=dense_init, dtype=self.dtype)
        hidden = RMSNorm(name="norm_mlp")(x)
        hidden = dense((4 * width,), axes=("embed", "mlp"), name="mlp_in")(hidden)
        hidden = nn.selu(constrain(hidden, "batch", None, "token", "mlp"))
        hidden = dense((width,), axes=("mlp", "embed"), name="mlp_out")(hidden)
        if keys is not None and self.rate_mlp > 0:
            hidden = dropout(hidden, keys, self.rate_mlp, site + 2)
        x = x + hidden
        return x, x


class CrissCross(nn.Module):
    """A scanned stack of blocks; the output of every one of them `[L, B, S, W, D]`.

    Attributes:
      rate, rate_mlp: dropout of attention weights and of feed-forward outputs, where
        keys are given.
      attention, remat: as in `nn.blocks.Transformer`.
    """

    depth: int
    heads: int
    rope: Rope = "exact"
    rate: float = 0.0
    rate_mlp: float = 0.0
    attention: Attention = "auto"
    remat: Remat = "none"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S W D"],
        visible: Bool[Array, "B W"] | None,
        keys: UInt32[Array, "B 2"] | None,
    ) -> Float[Array, "L B S W D"]:
        each = (0, nn.broadcast, nn.broadcast)
        stack = scanned(CrissCrossBlock, self.remat, self.depth, each)(
            self.heads,
            self.rope,
            self.rate,
            self.rate_mlp,
            attention=self.attention,
            dtype=self.dtype,
            name="blocks",
        )
        _, layers = stack(x.astype(self.dtype), jnp.arange(self.depth), visible, keys)
        return layers
