"""Fixed sine-cosine position tables, computed in float64 and kept in float32."""

import numpy as np
from jaxtyping import Float


def sincos(n_tokens: int, width: int) -> Float[np.ndarray, "S D"]:
    """All sines, then all cosines, of `p / 10000^(2i/width)`."""
    omega = 10_000.0 ** (-np.arange(width // 2) / (width / 2))
    angles = np.arange(n_tokens)[:, None] * omega
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


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
