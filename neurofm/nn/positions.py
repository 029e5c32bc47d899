"""Fixed sine-cosine position tables, computed in float64 and kept in float32."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Rotary = Literal["half", "interleaved"]


def sincos(n_tokens: int, width: int) -> Float[np.ndarray, "S D"]:
    """All sines, then all cosines, of `p / 10000^(2i/width)`."""
    omega = 10_000.0 ** (-np.arange(width // 2) / (width / 2))
    angles = np.arange(n_tokens)[:, None] * omega
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


def sincos_interleaved(n_tokens: int, width: int) -> Float[np.ndarray, "S D"]:
    """The same, sines in even features and cosines in odd ones."""
    table = sincos(n_tokens, width).reshape(n_tokens, 2, width // 2)
    return table.swapaxes(1, 2).reshape(n_tokens, width)


def sincos_channels(
    n_tokens: int, width: int, n_chans: int
) -> Float[np.ndarray, "CS D"]:
    """Channel-major table: half the width for time, half for the channel.

    The code of channel 0 is all zeros, that of channel 1 the table's row 0
    (WavJEPA-Nat, which has two channels). One channel gives `sincos`.
    """
    if n_chans == 1:
        return sincos(n_tokens, width)
    if n_chans > 2:
        raise ValueError(f"no code is defined for {n_chans} channels: 1 or 2")
    time = sincos(n_tokens, width // 2)
    codes = [np.zeros((1, width // 2), np.float32), sincos(1, width // 2)]
    return np.concatenate(
        [np.concatenate([time, np.repeat(c, n_tokens, 0)], 1) for c in codes]
    )


def rotary_angles(n_tokens: int, width: int) -> Float[np.ndarray, "S F"]:
    """`t * 10000^(-2j/width)` for token t and pair j, F = width / 2 pairs."""
    rates = 10_000.0 ** (-2 * np.arange(width // 2) / width)
    return (np.arange(n_tokens)[:, None] * rates).astype(np.float32)


def rotate(
    x: Float[Array, "B S H K"], width: int, style: Rotary
) -> Float[Array, "B S H K"]:
    """Turn the first `width` features of every head by the token's angles.

    A pair is feature j with feature j + width/2 (`half`), or neighbours 2j and 2j + 1
    (`interleaved`); the features after `width` stay as they are.
    """
    angles = rotary_angles(x.shape[1], width)[:, None]  # [S, 1, F]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first = x[..., :width].astype(jnp.float32)
    if style == "half":
        a, b = jnp.split(first, 2, axis=-1)
    else:
        a, b = first[..., 0::2], first[..., 1::2]
    pair = (a * cos - b * sin, a * sin + b * cos)
    if style == "half":
        turned = jnp.concatenate(pair, axis=-1)
    else:
        turned = jnp.stack(pair, axis=-1).reshape(first.shape)
    return jnp.concatenate([turned.astype(x.dtype), x[..., width:]], axis=-1)
