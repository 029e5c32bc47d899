"""The error of hidden entries of a spectrogram.

Axes: B examples, T frames, F frequencies.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def content_aware(
    predicted: Float[Array, "B T F"],
    target: Float[Array, "B T F"],
    asked: Bool[Array, "B T F"],
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """Sums and weights of absolute errors: of all asked entries, and of the loud ones.

    Loud is a target further than one deviation from its mean (BrainBERT, section 3). A
    batch without a loud entry has no such term, where the released code gives NaN.
    """
    error = jnp.abs(predicted.astype(jnp.float32) - target)
    loud = asked & (jnp.abs(target) > 1)
    return {
        name: (jnp.where(mask, error, 0).sum(), mask.sum().astype(jnp.float32))
        for name, mask in (("l1", asked), ("content", loud))
    }
