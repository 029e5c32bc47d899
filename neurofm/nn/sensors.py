"""Any set of sensors to a fixed set of latent sources, and back.

Axes: B recordings, C sensors, S sources, W tokens in time, D width, H heads.

Source: BrainOmni (arXiv 2505.18185), section 3 and its released code.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neurofm.nn.attention import HIDDEN
from neurofm.nn.linear import Initializer, Linear
from neurofm.nn.norms import RMSNorm

N_TYPES = 3
dense_init = nn.initializers.truncated_normal(0.02)
# `released`: deviations of 0.02, at which sensors, and sources, are all but alike and
# attention is a mean, of which an average reference leaves nothing. `spread`: of
# 1 / sqrt(inputs), of keys three times that.
Start = Literal["released", "spread"]


def starting(start: Start, n_in: int, times: float = 1.0) -> Initializer:
    """Kernels of a map of `n_in` inputs."""
    std = 0.02 if start == "released" else times * n_in**-0.5
    return nn.initializers.truncated_normal(std)


class SensorEmbedding(nn.Module):
    """Where a sensor is, which way it points and what it measures, as a vector.

    A two-layer map of the six numbers, plus the vector of the type, plus a residual
    feed-forward, normed.
    """

    width: int
    start: Start = "released"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, pos: Float[Array, "B C 6"], sensor_type: Int[Array, "B C"]
    ) -> Float[Array, "B C D"]:
        def dense(x, width, name):
            init = starting(self.start, x.shape[-1])
            return Linear((width,), kernel_init=init, dtype=self.dtype, name=name)(x)

        x = dense(pos, self.width // 2, "pos_in")
        x = dense(nn.selu(x), self.width, "pos_out")
        types = self.param("type_embedding", dense_init, (N_TYPES, self.width))
        kind = jax.nn.one_hot(sensor_type, N_TYPES, dtype=jnp.float32)
        exact = jax.lax.Precision.HIGHEST
        x = x + jnp.matmul(kind, types, precision=exact).astype(x.dtype)
        hidden = nn.selu(dense(x, 4 * self.width, "mlp_in"))
        x = x + dense(hidden, self.width, "mlp_out")
        return RMSNorm(name="norm")(x)


class ToSources(nn.Module):
    """Attention of learned sources over the sensors, at every token alone.

    Queries are the sources themselves, keys see token and sensor, values the token.
    The weights, which come with the sources, are the mean over heads.
    """

    n_sources: int
    heads: int
    start: Start = "released"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B C W D"],
        sensors: Float[Array, "B C D"],
        shown: Bool[Array, "B C"],
    ) -> tuple[Float[Array, "B S W D"], Float[Array, "B S W C"]]:
        width = x.shape[-1]
        heads = (self.heads, width // self.heads)
        init = nn.initializers.normal(1.0)
        query = self.param("sources", init, (self.n_sources, width))
        query = query.reshape(self.n_sources, *heads).astype(self.dtype)
        key, value = _key_and_value(heads, self.start, self.dtype)
        seen = x + sensors[:, :, None].astype(x.dtype)
        scores = jnp.einsum("shk,bcwhk->bwhsc", query * heads[1] ** -0.5, key(seen))
        scores = scores.astype(jnp.float32)
        scores = jnp.where(shown[:, None, None, None, :], scores, HIDDEN)
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = jnp.einsum("bwhsc,bcwhk->bswhk", weights.astype(self.dtype), value(x))
        init = starting(self.start, width)
        out = Linear(
            (width,), n_in_axes=2, kernel_init=init, dtype=self.dtype, name="out"
        )
        return out(mixed), weights.mean(2).swapaxes(1, 2)


class FromSources(nn.Module):
    """Attention of sensors over the sources, at every token alone.

    Queries are the sensor embeddings themselves; a sensor need not have been seen. Keys
    see the vectors of the sources, and where given `tags`, which source each is of;
    without them the order of the sources makes no difference, as released.
    """

    heads: int
    start: Start = "released"
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        sources: Float[Array, "B S W D"],
        sensors: Float[Array, "B C D"],
        tags: Float[Array, "S D"] | None = None,
    ) -> Float[Array, "B C W D"]:
        width = sources.shape[-1]
        heads = (self.heads, width // self.heads)
        query = sensors.reshape(*sensors.shape[:2], *heads).astype(self.dtype)
        key, value = _key_and_value(heads, self.start, self.dtype)
        seen = (
            sources if tags is None else sources + tags[:, None].astype(sources.dtype)
        )
        scores = jnp.einsum("bchk,bswhk->bwhcs", query * heads[1] ** -0.5, key(seen))
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
        mixed = jnp.einsum(
            "bwhcs,bswhk->bcwhk", weights.astype(self.dtype), value(sources)
        )
        init = starting(self.start, width)
        out = Linear(
            (width,), n_in_axes=2, kernel_init=init, dtype=self.dtype, name="out"
        )
        return out(mixed)


def _key_and_value(
    heads: tuple[int, int], start: Start, dtype: jnp.dtype
) -> tuple[Linear, Linear]:
    key, value = (starting(start, heads[0] * heads[1], times) for times in (3, 1))
    return (
        Linear(heads, kernel_init=key, dtype=dtype, name="key"),
        Linear(heads, kernel_init=value, dtype=dtype, name="value"),
    )
