"""How a reconstructed signal differs from its target, window by window.

Each function gives one number a window, the mean over what is inside it.

Axes: L samples of a window.

Source: BrainOmni (arXiv 2505.18185), section 3, and its released code.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from neurofm.parallel.sharding import on_shards


def standardized(x: Float[Array, "... L"]) -> Float[Array, "... L"]:
    """Each window minus its mean, over its unbiased deviation + 1e-6."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    return centred / (jnp.sqrt(variance) + 1e-6)


def time_error(
    x: Float[Array, "... L"], target: Float[Array, "... L"]
) -> Float[Array, "..."]:
    """Mean absolute difference."""
    return jnp.abs(x - target).mean(-1)


def correlation(
    x: Float[Array, "... L"], target: Float[Array, "... L"]
) -> Float[Array, "..."]:
    """Pearson correlation, the product of the deviations + 1e-6 in the denominator."""
    n = x.shape[-1] - 1
    x, target = (a - a.mean(-1, keepdims=True) for a in (x, target))
    covariance = (x * target).sum(-1) / n
    square = (jnp.square(x).sum(-1) / n) * (jnp.square(target).sum(-1) / n)
    flat = square == 0  # the root has no slope there
    deviations = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, square)))
    return covariance / (deviations + 1e-6)


def errors(
    x: Float[Array, "... L"], target: Float[Array, "... L"], wrapped: bool
) -> dict[str, Float[Array, "..."]]:
    """All that BrainTokenizer compares, by name; see `phase_error` for `wrapped`."""
    spectra = spectrum(x), spectrum(target)
    return {
        "time": time_error(x, target),
        "pcc": correlation(x, target),
        "amplitude": amplitude_error(*spectra),
        "phase": phase_error(*spectra, wrapped),
    }


def spectrum(x: Float[Array, "... L"]) -> Complex[Array, "... F"]:
    """Orthonormal FFT of the positive frequencies under a periodic Hamming window.

    The first axis is that of the batch.
    """
    n = x.shape[-1]
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(n) / n)
    rows = ("batch", *[None] * (x.ndim - 1))
    transform = on_shards(partial(jnp.fft.rfft, norm="ortho"), rows)
    return transform(x * window.astype(np.float32))


def amplitude_error(
    x: Complex[Array, "... F"], target: Complex[Array, "... F"]
) -> Float[Array, "..."]:
    """Mean absolute difference of the amplitudes."""
    return jnp.abs(jnp.abs(x) - jnp.abs(target)).mean(-1)


def phase_error(
    x: Complex[Array, "... F"], target: Complex[Array, "... F"], wrapped: bool = False
) -> Float[Array, "..."]:
    """Mean absolute difference of the phases.

    As released, -3.1 and 3.1 are 6.2 apart; `wrapped` takes the short way round.
    """
    difference = jnp.abs(jnp.angle(x) - jnp.angle(target))
    if wrapped:
        difference = jnp.minimum(difference, 2 * jnp.pi - difference)
    return difference.mean(-1)
