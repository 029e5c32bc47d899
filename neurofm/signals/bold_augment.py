"""Random changes to crops of parcellated fMRI, drawn on the device.

Source: Brain-Semantoks (arXiv 2512.11582), its released code.

Axes: B rows, V crops of a row, C regions, T samples.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from neurofm.errors import NeuroFMError

# Ranges and deviations by level; level 0 leaves a crop as it is.
SPATIAL = ((0.0, 0.0), (0.0, 0.1), (0.1, 0.3), (0.25, 0.5))
TEMPORAL = ((0.0, 0.0), (0.0, 0.3), (0.2, 0.4), (0.3, 0.6))
SCALE = ((1.0, 1.0), (0.8, 1.2), (0.6, 1.4), (0.4, 1.6))
NOISE = (0.0, 0.1, 0.2, 0.4)


@dataclass(frozen=True, kw_only=True)
class BoldAugment:
    """How strongly crops are changed, in this order; each crop by draws of its own.

    Attributes:
      spatial: level, 0 to 3, of regions that are silenced: a share drawn from
        `SPATIAL`, one region at least.
      temporal: of a stretch of time that is silenced in all regions, see `TEMPORAL`;
        one sample at least.
      scale: of one factor for the whole crop, see `SCALE`.
      noise: of white noise added everywhere, see `NOISE`.
    """

    spatial: int = 1
    temporal: int = 1
    noise: int = 1
    scale: int = 1

    def __post_init__(self):
        for name in ("spatial", "temporal", "noise", "scale"):
            if getattr(self, name) not in range(4):
                raise NeuroFMError(
                    f"task.augment.{name} is {getattr(self, name)}: give 0 to 3"
                )

    def __call__(
        self, keys: UInt32[Array, "B V _"], crops: Float[Array, "B V C T"]
    ) -> Float[Array, "B V C T"]:
        """`crops`, changed; `keys` are the data of a key for each."""
        one = jax.vmap(jax.vmap(self._one))
        return one(jax.random.wrap_key_data(keys), crops)

    def _one(self, key: jax.Array, x: Float[Array, "C T"]) -> Float[Array, "C T"]:
        regions, samples = x.shape
        (k_share, k_order, k_length, k_start, k_scale, k_noise) = jax.random.split(
            key, 6
        )

        def count(key: jax.Array, of: int, low: float, high: float) -> Array:
            share = jax.random.uniform(key, minval=low, maxval=high)
            return jnp.maximum(1, jnp.floor(of * share).astype(int))

        if self.spatial:
            n = count(k_share, regions, *SPATIAL[self.spatial])
            rank = jnp.argsort(jax.random.permutation(k_order, regions))
            x = jnp.where((rank < n)[:, None], 0, x)
        if self.temporal:
            n = count(k_length, samples, *TEMPORAL[self.temporal])
            start = jax.random.randint(k_start, (), 0, samples - n + 1)
            at = jnp.arange(samples)
            x = jnp.where((at >= start) & (at < start + n), 0, x)
        if self.scale:
            low, high = SCALE[self.scale]
            x = x * jax.random.uniform(k_scale, minval=low, maxval=high)
        if self.noise:
            x = x + NOISE[self.noise] * jax.random.normal(k_noise, x.shape)
        return x
