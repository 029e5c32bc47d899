"""Dropout by a key for every example, the same however a batch lies over devices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32


def dropout(
    x: Float[Array, "B ..."], keys: UInt32[Array, "B 2"], rate: float, site: Array
) -> Float[Array, "B ..."]:
    """Zero a share of every example by its own key, the rest scaled up."""

    def one(key, row):
        key = jax.random.fold_in(jax.random.wrap_key_data(key), site)
        kept = jax.random.bernoulli(key, 1 - rate, row.shape)
        return jnp.where(kept, row / (1 - rate), 0)

    return jax.vmap(one)(keys, x)
