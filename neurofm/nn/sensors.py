"""Any set of sensors to a fixed set of latent sources, and back.

Axes: B recordings, C sensors, S sources, W tokens in time, D width, H heads.

Source: BrainOmni (arXiv 2505.18185), section 3 and its released code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neurofm.nn.attention import HIDDEN
from neurofm.nn.linear import Linear
from neurofm.nn.norms import RMSNorm

N_TYPES = 3
dense_init = nn.initializers.truncated_normal(0.02)


class SensorEmbedding(nn.Module):
    """Where a sensor is, which way it points and what it measures, as a vector.

    A two-layer map of the six numbers, plus the vector of the type, plus a residual
    feed-forward, normed.
    """

    width: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, pos: Float[Array, "B C 6"], sensor_type: Int[Array, "B C"]
    ) -> Float[Array, "B C D"]:
        def dense(width, name):
            return Linear((width,), kernel_init=dense_init, dtype=self.dtype, name=name)

        x = dense(self.width // 2, "pos_in")(pos)
        x = dense(self.width, "pos_out")(nn.selu(x))
        types = self.param("type_embedding", dense_init, (N_TYPES, self.width))
        kind = jax.nn.one_hot(sensor_type, N_TYPES, dtype=jnp.float32)
        exact = jax.lax.Precision.HIGHEST
        x = x + jnp.matmul(kind, types, precision=exact).astype(x.dtype)
        hidden = nn.selu(dense(4 * self.width, "mlp_in")(x))
        x = x + dense(self.width, "mlp_out")(hidden)
        return RMSNorm(name="norm")(x)


class ToSources(nn.Module):
    """Attention of learned sources over the sensors, at every token alone.

    Queries are the sources themselves, keys see token and sensor, values the token.
    The weights, which come with the sources, are the mean over heads.
    """

    n_sources: int
    heads: int
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
        key, value = (
            Linear(heads, kernel_init=dense_init, dtype=self.dtype, name=name)
            for name in ("key", "value")
        )
        seen = x + sensors[:, :, None].astype(x.dtype)
        scores = jnp.einsum("shk,bcwhk->bwhsc", query * heads[1] ** -0.5, key(seen))
        scores = scores.astype(jnp.float32)
        scores = jnp.where(shown[:, None, None, None, :], scores, HIDDEN)
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = jnp.einsum("bwhsc,bcwhk->bswhk", weights.astype(self.dtype), value(x))
        out = Linear(
            (width,), n_in_axes=2, kernel_init=dense_init, dtype=self.dtype, name="out"
        )
        return out(mixed), weights.mean(2).swapaxes(1, 2)


class FromSources(nn.Module):
    """Attention of sensors over the sources, at every token alone.

    Queries are the sensor embeddings themselves; a sensor need not have been seen.
    """

    heads: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, sources: Float[Array, "B S W D"], sensors: Float[Array, "B C D"]
    ) -> Float[Array, "B C W D"]:
        width = sources.shape[-1]
        heads = (self.heads, width // self.heads)
        query = sensors.reshape(*sensors.shape[:2], *heads).astype(self.dtype)
        key, value = (
            Linear(heads, kernel_init=dense_init, dtype=self.dtype, name=name)(sources)
            for name in ("key", "value")
        )
        scores = jnp.einsum("bchk,bswhk->bwhcs", query * heads[1] ** -0.5, key)
        weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
        mixed = jnp.einsum("bwhcs,bswhk->bcwhk", weights.astype(self.dtype), value)
        out = Linear(
            (width,), n_in_axes=2, kernel_init=dense_init, dtype=self.dtype, name="out"
        )
        return out(mixed)
