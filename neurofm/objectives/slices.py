"""Masks that hide whole slices of a grid of networks and patches.

Source: Brain-Semantoks (arXiv 2512.11582), the masks of its released loader.

Axes: N networks, P patches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def n_hidden_networks(n: int, low: float, high: float) -> tuple[int, int]:
    """The fewest networks hidden, and the number past the most."""
    fewest = max(1, int(n * low))
    return fewest, max(min(n, int(n * high)), fewest + 1)


def slice_mask(
    key: jax.Array, n_networks: int, n_patches: int, low: float, high: float
) -> Bool[Array, "N P"]:
    """Hide some networks in all patches, or a stretch of patches of all networks.

    One or the other at equal chance. Networks: k of them, uniform from int(N low) up
    to, but not including, int(N high). Stretch: one patch less than a share drawn from
    [low, high) rounded up to whole patches, anywhere.

    Args:
      low, high: shares of the grid.
    """
    kind, key_k, key_order, key_share, key_start = jax.random.split(key, 5)
    fewest, past = n_hidden_networks(n_networks, low, high)
    k = jax.random.randint(key_k, (), fewest, past)
    rank = jnp.argsort(jax.random.permutation(key_order, n_networks))
    networks = jnp.broadcast_to((rank < k)[:, None], (n_networks, n_patches))
    share = jax.random.uniform(key_share, minval=low, maxval=high)
    length = jnp.clip(jnp.ceil(share * n_patches), 1, n_patches).astype(int) - 1
    start = jax.random.randint(key_start, (), 0, n_patches - length + 1)
    at = jnp.arange(n_patches)
    stretch = jnp.broadcast_to(
        (at >= start) & (at < start + length), (n_networks, n_patches)
    )
    return jnp.where(jax.random.bernoulli(kind), networks, stretch)
