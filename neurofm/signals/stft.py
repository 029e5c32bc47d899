"""Spectrograms of a trace inside a step, and their scores by frequency.

Frames, window and scale are those of `scipy.signal.stft` with its defaults, which
BrainBERT was trained on.

Axes: B traces, N samples, W samples of a frame, T frames, F frequencies.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def n_frames(n_samples, hop: int):
    """Frames of a trace (an int or an array), the first centred on its first sample."""
    return 1 - (-n_samples // hop)


@functools.cache
def _table(width: int, hop: int, n_bins: int) -> Float[np.ndarray, "R hop 2 F"]:
    """Cosines and sines under a Hann window over its sum, in pieces of a hop.

    Zeros fill the last piece where `hop` does not divide `width`.
    """
    at = np.arange(width)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * at / width)
    # Whole turns are taken out first, as the cosine of a large angle loses digits.
    turns = np.outer(at, np.arange(n_bins)) % width / width
    waves = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
    waves = waves * hann[:, None, None] / hann.sum()
    pieces = -(-width // hop)
    waves = np.pad(waves, ((0, pieces * hop - width), (0, 0), (0, 0)))
    return waves.reshape(pieces, hop, 2, n_bins).astype(np.float32)


def magnitude(
    x: Float[Array, "B N"], width: int, hop: int, n_bins: int
) -> Float[Array, "B T F"]:
    """Amplitudes of the first `n_bins` frequencies, `sfreq / width` apart.

    Zeros stand half a frame before the trace and as far behind it as its last frame
    needs.
    """
    table = jnp.asarray(_table(width, hop, n_bins))
    frames = int(n_frames(x.shape[1], hop))
    pieces = frames + len(table) - 1
    before = width // 2
    padding = max(0, pieces * hop - before - x.shape[1])
    x = jnp.pad(x, ((0, 0), (before, padding)))[:, : pieces * hop]
    x = x.reshape(len(x), pieces, hop)
    exact = jax.lax.Precision.HIGHEST
    parts = [
        jnp.einsum("bth,hpf->btpf", x[:, i : i + frames], piece, precision=exact)
        for i, piece in enumerate(table)
    ]
    waves = sum(parts[1:], parts[0])
    return jnp.sqrt(jnp.square(waves).sum(2))


def scored(
    x: Float[Array, "B T F"], counted: Bool[Array, "B T"]
) -> Float[Array, "B T F"]:
    """Each frequency minus its mean over counted frames, over its deviation.

    A frequency that does not change is 0; frames that do not count are 0. As released,
    a spectrogram of which nothing changes is all ones.
    """
    weight = counted[..., None].astype(x.dtype)
    n = jnp.maximum(weight.sum(1, keepdims=True), 1)
    centred = (x - (x * weight).sum(1, keepdims=True) / n) * weight
    deviation = jnp.sqrt(jnp.square(centred).sum(1, keepdims=True) / n)
    scores = centred / jnp.where(deviation > 0, deviation, 1)
    changes = (deviation > 0).any((1, 2), keepdims=True)
    return jnp.where(changes, scores, 1) * weight
