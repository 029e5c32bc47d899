"""EEG and MEG before they meet a model: reference, scale, positions, windows.

Axes: B recordings, C sensors, T samples, N windows, L samples of a window, K types.

Source: BrainOmni (arXiv 2505.18185) and its released code, data preparation.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

EEG, MAG, GRAD = 0, 1, 2  # ids of the released embedding table
KINDS = ("eeg", "mag", "grad")  # their names, by id
SCALE_EPS = (1e-5, 1e-13, 1e-13)  # of each type, in V, T and T/m

Remainder = Literal["padded", "dropped"]


def reference_and_scale(
    x: Float[Array, "B C T"],
    sensor_type: Int[Array, "B C"],
    counted: Bool[Array, "B C"],
    recorded: Bool[Array, "B T"],
) -> Float[Array, "B C T"]:
    """Common average and one scale for each sensor type of each recording.

    At each sample the mean over the counted sensors of the type is taken off; the
    result is divided by the population deviation of those sensors over the recorded
    samples, plus 1e-5 V, 1e-13 T or 1e-13 T/m. As 10 µV is what EEG measures, the
    deviation of the result is 0.5 to 0.85 there. Zeros outside what is recorded.

    Args:
      x: signals in V, T and T/m.
      counted: sensors that give the mean and the deviation; all are returned.
    """
    exact = jax.lax.Precision.HIGHEST
    of_type = jax.nn.one_hot(sensor_type, len(SCALE_EPS), dtype=x.dtype)
    weight = of_type * counted[..., None]
    sensors = jnp.maximum(weight.sum(1), 1)  # [B, K]
    mean = jnp.einsum("bct,bck->bkt", x, weight, precision=exact)
    mean = mean / sensors[..., None]
    centred = x - jnp.einsum("bkt,bck->bct", mean, of_type, precision=exact)
    centred = centred * recorded[:, None]
    power = jnp.square(centred).sum(-1)  # [B, C]
    samples = jnp.maximum(recorded.sum(-1), 1)[:, None]
    variance = jnp.einsum("bc,bck->bk", power, weight, precision=exact)
    scale = jnp.sqrt(variance / (sensors * samples)) + jnp.asarray(SCALE_EPS, x.dtype)
    return (
        centred / jnp.einsum("bk,bck->bc", scale, of_type, precision=exact)[..., None]
    )


def normalise_positions(
    pos: Float[Array, "B C 6"],
    sensor_type: Int[Array, "B C"],
    counted: Bool[Array, "B C"],
) -> Float[Array, "B C 6"]:
    """Positions around zero, 1/3 their mean squared length; EEG and MEG each alone.

    The three numbers of the orientation stay as they are.
    """
    xyz = pos[..., :3]
    is_eeg = sensor_type == EEG
    out = jnp.zeros_like(xyz)
    for member in (is_eeg, ~is_eeg):
        weight = (member & counted)[..., None].astype(xyz.dtype)
        n = jnp.maximum(weight.sum(1, keepdims=True), 1)
        centred = xyz - (xyz * weight).sum(1, keepdims=True) / n
        square = (jnp.square(centred) * weight).sum((1, 2), keepdims=True) / n
        scale = jnp.sqrt(3 * square)
        scaled = centred / jnp.where(scale > 0, scale, 1)  # a lone sensor is at zero
        out = jnp.where(member[..., None], scaled, out)
    return jnp.concatenate([out, pos[..., 3:]], axis=-1)


def window_step(length: int, overlap: float) -> int:
    """Samples from one window to the next."""
    return int(length * (1 - overlap))


def n_windows(n_samples, length: int, overlap: float, remainder: Remainder):
    """Windows that cover `n_samples` (an int or an array); the last may be padded.

    Without overlap a remainder shorter than a window is `padded`, or `dropped` as in
    the released code. At least one.
    """
    step = window_step(length, overlap)
    xp = jnp if isinstance(n_samples, jax.Array) else np
    rest = xp.maximum(n_samples - length, 0)
    if overlap == 0 and remainder == "dropped":
        return 1 + rest // step
    return 1 - (-rest // step)


def windows(
    x: Float[Array, "B C T"], length: int, overlap: float, remainder: Remainder
) -> Float[Array, "B C N L"]:
    """Cut into windows, zeros on the right where the last one is not full."""
    step = window_step(length, overlap)
    n = int(n_windows(x.shape[-1], length, overlap, remainder))
    needed = (n - 1) * step + length
    x = jnp.pad(x, ((0, 0), (0, 0), (0, max(0, needed - x.shape[-1]))))[..., :needed]
    if overlap == 0:
        return x.reshape(*x.shape[:2], n, length)
    return x[..., np.arange(n)[:, None] * step + np.arange(length)]
