"""Log power of every channel by band, token by token.

Axes: B items, C channels, T samples, P tokens, F bands.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from neurofm.signals import stft

FRAME_S = 0.25  # of a Hann window
FLOOR = 1e-6  # of power, where a channel of unit deviation has some 1e-3 in a band

Bands = tuple[tuple[float, float], ...]


def log_power(
    x: Float[Array, "B C T"], sfreq: float, hop: int, bands_hz: Bands
) -> Float[Array, "B C P F"]:
    """`ln(power + 1e-6)` of frames of 250 ms, one centred on each token of `hop`."""
    b, c, t = x.shape
    width, tokens = round(FRAME_S * sfreq), t // hop
    hz = np.arange(width // 2 + 1) * sfreq / width
    inside = [(hz >= low) & (hz < high) for low, high in bands_hz]
    # The first frame of a trace is centred on its first sample.
    flat = jnp.pad(x.reshape(b * c, t), ((0, 0), (0, width)))[:, hop // 2 :]
    power = jnp.square(stft.magnitude(flat, width, hop, len(hz))[:, :tokens])
    each = [power[..., np.flatnonzero(band)].sum(-1) for band in inside]
    return jnp.log(jnp.stack(each, -1) + FLOOR).reshape(b, c, tokens, -1)


def counted_tokens(
    recorded: Bool[Array, "B P"], sfreq: float, hop: int
) -> Bool[Array, "B P"]:
    """Tokens whose frames lie wholly inside what is recorded, from the first on."""
    reach = (round(FRAME_S * sfreq) + 1) // 2
    centre = np.arange(recorded.shape[1]) * hop + hop // 2
    samples = recorded.sum(1, keepdims=True) * hop
    return jnp.asarray(centre >= reach) & (centre + reach <= samples)
