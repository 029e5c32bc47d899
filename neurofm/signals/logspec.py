"""Log-spectrograms at the sensors, token by token: where the rhythms are and go.

Axes: B recordings, C sensors, N windows, L samples of a window, T tokens of a window,
F frequencies.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

FRAME_S = 0.25  # of a Hann window
LOWEST_HZ, HIGHEST_HZ = 4.0, 36.0
REACH = 0.25  # of normalised positions: about 35 mm of a head
FLOOR = 1e-6  # of power, where a scaled signal has about 1


def frequencies(sfreq: float) -> Float[np.ndarray, " F"]:
    """Bins from 4 to 36 Hz in Hz, a frame's resolution apart, up to Nyquist."""
    width = round(FRAME_S * sfreq)
    low, high = round(LOWEST_HZ * width / sfreq), round(HIGHEST_HZ * width / sfreq)
    return np.arange(low, min(high, width // 2) + 1) * sfreq / width


def frame_starts(sfreq: float, length: int, hop: int) -> Int[np.ndarray, " T"]:
    """First samples of the frames, one centred on each token.

    At the ends of a window they are moved inside, as it is all that its tokens know.
    """
    width = round(FRAME_S * sfreq)
    centred = np.arange(length // hop) * hop + (hop - width) // 2
    return np.clip(centred, 0, length - width)


@functools.cache
def _table(sfreq: float, length: int, hop: int) -> Float[np.ndarray, "L P T F"]:
    """Window to spectra as one map: minus each frame's mean, Hann, cosines and sines.

    White noise of unit variance has unit power in all bins but the lowest, where the
    frame's mean would leak to: 5/6.
    """
    width = round(FRAME_S * sfreq)
    at = np.arange(width)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * at / width)
    angle = 2 * np.pi * np.outer(at, frequencies(sfreq)) / sfreq
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1) * hann[:, None, None]
    waves = (waves - waves.mean(0)) / np.sqrt(np.square(hann).sum())
    starts = frame_starts(sfreq, length, hop)
    table = np.zeros((length, 2, len(starts), waves.shape[-1]), np.float32)
    for i, start in enumerate(starts):
        table[start : start + width, :, i] = waves
    return table


def neighbours(
    pos: Float[Array, "B C 6"],
    sensor_type: Int[Array, "B C"],
    there: Bool[Array, "B C"],
) -> Float[Array, "B C C"]:
    """Weights of every sensor's surroundings, which sum to one.

    Sensors of the same type count by a Gaussian of their distance, 0.25 in normalised
    positions (`meeg.normalise_positions`), the sensor itself most.
    """
    apart = pos[:, :, None, :3] - pos[:, None, :, :3]
    weight = jnp.exp(-0.5 * jnp.square(apart / REACH).sum(-1))
    alike = sensor_type[:, :, None] == sensor_type[:, None, :]
    weight = jnp.where(alike & there[:, None], weight, 0)
    return weight / jnp.maximum(weight.sum(-1, keepdims=True), 1e-30)


def counted_tokens(
    n_samples: Int[Array, " B"], n: int, sfreq: float, length: int, hop: int
) -> Bool[Array, "B N T"]:
    """Tokens whose frames are recorded whole, of `n` windows laid end to end."""
    stops = frame_starts(sfreq, length, hop) + round(FRAME_S * sfreq)
    stops = np.arange(n)[:, None] * length + stops
    return jnp.asarray(stops) <= n_samples[:, None, None]


def log_spectra(
    windows: Float[Array, "B C N L"],
    near: Float[Array, "B C C"],
    counted: Bool[Array, "B N T"],
    sfreq: float,
) -> Float[Array, "B C N T F"]:
    """`ln(power + 1e-6)` around every sensor minus its mean over the window.

    Power of 250 ms under a Hann window from 4 to 36 Hz, one frame centred on each
    token, averaged over `near` sensors. The mean is over counted tokens.

    Args:
      windows: signals of about unit deviation, comparable within a type of sensor.
    """
    exact = jax.lax.Precision.HIGHEST
    length, tokens = windows.shape[-1], counted.shape[-1]
    table = jnp.asarray(_table(sfreq, length, length // tokens))
    waves = jnp.einsum("bcnl,lptf->bcnptf", windows, table, precision=exact)
    power = jnp.square(waves).sum(3)
    power = jnp.einsum("bcd,bdntf->bcntf", near, power, precision=exact)
    spectra = jnp.log(power + FLOOR)
    weight = counted[:, None, :, :, None]
    mean = (spectra * weight).sum(3, keepdims=True)
    return spectra - mean / jnp.maximum(weight.sum(3, keepdims=True), 1)
