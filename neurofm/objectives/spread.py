"""How spread out latents are: the numbers that tell collapse from learning.

Axes: B items, S tokens, D width.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Sums = dict[str, Array]


def sums(z: Float[Array, "B S D"], valid: Bool[Array, "B S"]) -> Sums:
    """Counts and moments over valid tokens and over item means; they only add."""
    z = jnp.where(valid[..., None], z, 0.0)
    count = valid.sum(-1)
    live = (count > 0).astype(jnp.float32)
    means = z.sum(1) / jnp.maximum(count, 1)[:, None]  # [B, D]
    flat = z.reshape(-1, z.shape[-1])
    return {
        "tokens": count.sum().astype(jnp.float32),
        "z": flat.sum(0),
        "zz": flat.T @ flat,
        "items": live.sum(),
        "means": means.sum(0),
        "means_squared": jnp.square(means).sum(0),
    }


def summary(total: Sums) -> dict[str, Float[Array, ""]]:
    """Variance over tokens and between items, and the effective rank.

    `target_var` and `item_var` are means over features. The effective rank is the
    exponential of the entropy of the covariance's normalised eigenvalues (Roy and
    Vetterli, 2007): 1 for collapse on a line, D for a round cloud.
    """
    tokens = jnp.maximum(total["tokens"], 1)
    items = jnp.maximum(total["items"], 1)
    mean = total["z"] / tokens
    covariance = total["zz"] / tokens - jnp.outer(mean, mean)
    values = jnp.maximum(jnp.linalg.eigvalsh(covariance), 0)
    share = values / jnp.maximum(values.sum(), 1e-30)
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-30))).sum()
    item_mean = total["means"] / items
    between = total["means_squared"] / items - jnp.square(item_mean)
    return {
        "target_var": jnp.diag(covariance).mean(),
        "item_var": jnp.maximum(between, 0).mean(),
        "effective_rank": jnp.exp(entropy),
    }
