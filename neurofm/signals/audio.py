"""Sound before it meets a model: sampling rate, loudness, length, crop statistics.

Axis letters: B items, C channels, N samples of a clip, T samples of a crop, K crops.

Source: WavJEPA (arXiv 2509.23238) and its released code, data preparation.
"""

import functools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from neurofm.errors import NeuroFMError

Window = Literal["kaiser", "hann"]

# window -> (zero crossings each side, cut-off as a share of the Nyquist frequency)
_WINDOWS = {"kaiser": (64, 0.9475937167399596), "hann": (6, 0.99)}
_KAISER_BETA = 14.769656459379492

# Input samples of one channel handled at once: 24 s at 44.1 kHz.
_BLOCK_SAMPLES = 2**20
# Bound on one piece of kernel: reach x phases; it holds three times as many taps.
_CHUNK_TAPS = 2**17


def resample(
    x: Float[np.ndarray, "*lead N"],
    sfreq_in: float,
    sfreq_out: float,
    window: Window = "kaiser",
) -> Float[np.ndarray, "*lead M"]:
    """Resample the last axis with a windowed sinc; M = ceil(N sfreq_out / sfreq_in).

    With the rates reduced to o -> n, b = min(o, n) rolloff and u = (j/o - i/n) b,
    output sample i is the sum over j of x[j] sinc(u) w(u) b/o for |u| < width, x being
    zero outside the clip; equal rates give `x` itself. `kaiser` is what WavJEPA trains
    on (width 64, rolloff 0.9476, w = I0(beta sqrt(1 - (u/width)^2)) / I0(beta)); `hann`
    is the common cheap default (width 6, rolloff 0.99, w = cos^2(pi u / (2 width))).

    Args:
      x: float32 or float64; the result has the same dtype.
      sfreq_in: sampling rate of `x` in Hz, read to a thousandth.
      sfreq_out: sampling rate of the result in Hz, read to a thousandth.
      window: `kaiser` or `hann`.

    Raises:
      NeuroFMError: samples that are not floats, or an impossible rate or window.
    """
    pieces = list(resample_blocks([x], sfreq_in, sfreq_out, window))
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces, axis=-1) if pieces else np.asarray(x)[..., :0]


def resample_blocks(
    blocks: Iterable[Float[np.ndarray, "*lead _"]],
    sfreq_in: float,
    sfreq_out: float,
    window: Window = "kaiser",
) -> Iterator[Float[np.ndarray, "*lead _"]]:
    """Resample a long recording that arrives in consecutive blocks of any length.

    The blocks that come out, laid end to end, are bit for bit what `resample` makes of
    the whole recording. About 2^20 samples a channel are held at a time.
    """
    o, n = _reduced_rates(sfreq_in, sfreq_out)
    if window not in _WINDOWS:
        raise NeuroFMError(
            f"resampling window {window!r} is unknown: use one of {list(_WINDOWS)}"
        )
    if o == n:
        yield from (_checked(block) for block in blocks)
        return
    reach = _reach(o, n, window)
    # u depends on j/o and i/n alone, so a multiple of both rates is the same filter;
    # rows of about `reach` samples make the matrix products worth their while.
    multiple = max(1, round(reach / o))
    o, n = o * multiple, n * multiple
    body = max(1, _BLOCK_SAMPLES // o) * o

    held: list[np.ndarray] = []
    n_held = n_in = n_out = 0
    for block in map(_checked, blocks):
        if not held:
            held = [np.zeros((*block.shape[:-1], reach), block.dtype)]
            n_held = reach
        held.append(block)
        n_held += block.shape[-1]
        n_in += block.shape[-1]
        if n_held < body + 2 * reach:
            continue
        joined = np.concatenate(held, axis=-1)
        while joined.shape[-1] >= body + 2 * reach:
            yield _filter(joined[..., : body + 2 * reach], o, n, window, body // o * n)
            n_out += body // o * n
            joined = joined[..., body:]
        held, n_held = [joined], joined.shape[-1]
    if (rest := -(-n_in * n // o) - n_out) > 0:
        tail = -(-rest // n) * o + 2 * reach - n_held
        held.append(np.zeros((*held[0].shape[:-1], tail), held[0].dtype))
        yield _filter(np.concatenate(held, axis=-1), o, n, window, rest)


def _checked(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype not in (np.float32, np.float64):
        raise NeuroFMError(
            f"resampling was given {x.dtype} samples, expected float32 or float64: "
            "convert them to floats in [-1, 1] first"
        )
    return x


def _reduced_rates(sfreq_in: float, sfreq_out: float) -> tuple[int, int]:
    if not all(1e-3 <= f < np.inf for f in (sfreq_in, sfreq_out)):
        raise NeuroFMError(
            f"cannot resample from {sfreq_in} Hz to {sfreq_out} Hz: "
            "both rates must be numbers of at least 0.001 Hz"
        )
    ratio = Fraction(round(1000 * sfreq_out), round(1000 * sfreq_in))
    return ratio.denominator, ratio.numerator


def _reach(o: int, n: int, window: str) -> int:
    """Input samples that the filter reaches to each side of an output sample."""
    width, rolloff = _WINDOWS[window]
    return int(np.ceil(width * o / (min(o, n) * rolloff)))


def _filter(x: np.ndarray, o: int, n: int, window: str, n_out: int) -> np.ndarray:
    """The first `n_out` outputs of `x` [..., reach + frames o + reach]."""
    reach = _reach(o, n, window)
    frames = (x.shape[-1] - 2 * reach) // o
    chunk = max(1, min(reach * n // o, _CHUNK_TAPS // reach))
    rows = x.reshape(-1, x.shape[-1])
    out = np.empty((len(rows), frames, n), x.dtype)
    for first in range(0, min(n, n_out), chunk):
        last = min(first + chunk, n)
        start, kernel = _kernel(o, n, first, last, window, x.dtype.str)
        for row, y in zip(rows, out, strict=True):
            windows = np.lib.stride_tricks.sliding_window_view(row, len(kernel))
            # A copy: overlapping rows would keep the product from BLAS.
            y[:, first:last] = windows[start + reach :: o][:frames].copy() @ kernel
    return out.reshape(*x.shape[:-1], frames * n)[..., :n_out]


# An odd rate needs many pieces: 44101 -> 16000 Hz 239 of 0.15 MB.
@functools.lru_cache(maxsize=256)
def _kernel(
    o: int, n: int, first: int, last: int, window: str, dtype: str
) -> tuple[int, np.ndarray]:
    """Offset of the first tap, and [taps, phases] for output phases first..last-1."""
    width, rolloff = _WINDOWS[window]
    reach = _reach(o, n, window)
    b = min(o, n) * rolloff
    at, rest = np.divmod(np.arange(first, last) * o, n)  # i o/n = at + rest/n
    taps = np.arange(at[0] - reach + 1, at[-1] + reach + 1)
    u = (taps[:, None] - at - rest / n) * (b / o)
    inside = np.clip(1 - (u / width) ** 2, 0, None)
    if window == "kaiser":
        taper = scipy.special.i0(_KAISER_BETA * np.sqrt(inside))
        taper /= scipy.special.i0(_KAISER_BETA)
    else:
        taper = np.cos(np.pi * u / (2 * width)) ** 2
    kernel = np.where(inside > 0, np.sinc(u) * taper * (b / o), 0).astype(dtype)
    kernel.flags.writeable = False
    return int(taps[0]), kernel


def rms_gain(
    rms: Float[np.ndarray, "*lead"] | float, dbfs: float = -14.0
) -> Float[np.ndarray, "*lead"]:
    """Factor that brings a root mean square to `dbfs` dB full scale; 1 for silence."""
    rms = np.asarray(rms, np.float64)
    return np.where(rms > 0, 10 ** (dbfs / 20) / np.where(rms > 0, rms, 1), 1.0)


def rms_normalize(
    x: Float[np.ndarray, "*C N"], dbfs: float = -14.0
) -> Float[np.ndarray, "*C N"]:
    """Scale one clip to `dbfs`, all samples and channels together; silence stays."""
    rms = np.sqrt(np.mean(np.square(x, dtype=np.float64))) if x.size else 0.0
    return x * float(rms_gain(rms, dbfs))


def resample_on_device(
    x: Float[Array, "*lead N"],
    sfreq_in: float,
    sfreq_out: float,
    window: Window = "kaiser",
) -> Float[Array, "*lead M"]:
    """What `resample` does, as one strided convolution for use inside `jit`.

    Meant for rates that share a large divisor, such as 32 to 16 kHz.
    """
    o, n = _reduced_rates(sfreq_in, sfreq_out)
    if o == n:
        return x
    start, kernel = _kernel(o, n, 0, n, window, "<f4")
    n_out = -(-x.shape[-1] * n // o)
    frames = -(-n_out // n)
    rows = x.reshape(-1, 1, x.shape[-1])
    right = (frames - 1) * o + len(kernel) + start - x.shape[-1]
    y = jax.lax.conv_general_dilated(
        rows,
        jnp.asarray(kernel.T[:, None], x.dtype),
        window_strides=(o,),
        padding=[(-start, right)],
        precision=jax.lax.Precision.HIGHEST,
    )  # [rows, n, frames]
    return y.swapaxes(1, 2).reshape(*x.shape[:-1], frames * n)[..., :n_out]


def fit_length(
    x: Float[np.ndarray, "*C N"], n_samples: int
) -> Float[np.ndarray, "*C n_samples"]:
    """Pad with zeros at the end, or cut, to exactly `n_samples`."""
    missing = max(0, n_samples - x.shape[-1])
    return np.pad(x[..., :n_samples], [(0, 0)] * (x.ndim - 1) + [(0, missing)])


def crops(
    x: Float[np.ndarray, "B C N"], starts: Int[np.ndarray, "B K"], length: int
) -> Float[np.ndarray, "B K C T"]:
    """Cut K crops of `length` samples out of every clip, at `starts`."""
    if starts.size and (starts.min() < 0 or starts.max() + length > x.shape[-1]):
        raise NeuroFMError(
            f"crops of {length} samples starting at {starts.min()} to {starts.max()} "
            f"leave the clip of {x.shape[-1]} samples: "
            f"draw starts from 0 to {x.shape[-1] - length}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(x, length, axis=-1)
    items = np.arange(len(x))[:, None]
    return windows[items, :, starts]


def normalize_crop(
    x: Float[Array, "B C T"],
    span: Int[Array, "B 2"],
    statistics: Literal["valid", "unit"] = "valid",
) -> Float[Array, "B C T"]:
    """Normalise every crop to mean 0 and deviation 1, over channel and time together.

    One mean and one deviation (unbiased, 1e-5 added) an item keep the level and time
    differences between the ears. A silent crop becomes zeros.

    Args:
      x: crops, any scale.
      span: first and past-last sample that is recording rather than padding.
      statistics: `valid` measures the span and puts zeros outside it; `unit` measures
        and normalises all T samples, padding included, as the released embedding does.
    """
    if statistics not in ("valid", "unit"):
        raise NeuroFMError(
            f"crop statistics {statistics!r} are unknown: use 'valid' or 'unit'"
        )
    at = jnp.arange(x.shape[-1])
    if statistics == "unit":
        span = jnp.asarray([[0, x.shape[-1]]])
    inside = ((at >= span[:, :1]) & (at < span[:, 1:]))[:, None]  # [B, 1, T]
    count = x.shape[1] * inside.sum(axis=(1, 2), keepdims=True)
    total = jnp.where(inside, x, 0).sum(axis=(1, 2), keepdims=True)
    centred = jnp.where(inside, x - total / jnp.maximum(count, 1), 0)
    squares = jnp.square(centred).sum(axis=(1, 2), keepdims=True)
    return centred / (jnp.sqrt(squares / jnp.maximum(count - 1, 1)) + 1e-5)
