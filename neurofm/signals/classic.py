"""Classic features of stimuli on a grid of time, made without a model.

Axis letters: S samples, C channels, T steps, F frames, H, W pixels, D features.
"""

import itertools

import numpy as np
from jaxtyping import Float, Num

from neurofm.errors import NeuroFMError
from neurofm.signals.mel import frame_times, log_mel

N_MELS = 64
# Cycles an image height, and cycles a second, of the filters for motion.
SPATIAL, TEMPORAL, N_DIRECTIONS = (2.0, 4.0, 8.0), (2.0, 4.0), 8
N_MOTION = len(SPATIAL) * len(TEMPORAL) * N_DIRECTIONS
_PIXELS = 64  # of a frame's height, at which motion is looked for
_STRIDE = 8  # between the places at which it is
_BLOCK = 256  # frames filtered at once


def per_step(
    values: Float[np.ndarray, "F D"],
    times_s: Float[np.ndarray, " F"],
    sfreq: float,
    n: int,
) -> Float[np.ndarray, "D {n}"]:
    """Mean of the rows whose time lies in each step; where none does, the nearest.

    Times ascend.
    """
    step = np.clip((times_s * sfreq).astype(int), 0, n - 1)
    ends = np.searchsorted(step, np.arange(1, n + 1))
    counts = np.diff(ends, prepend=0)
    total = np.cumsum(np.vstack([np.zeros_like(values[:1]), values]), 0, np.float64)
    sums = np.diff(total[ends], axis=0, prepend=0)
    out = sums / np.maximum(counts, 1)[:, None]
    empty = np.flatnonzero(counts == 0)
    middles = (empty + 0.5) / sfreq
    nearest = np.abs(times_s - middles[:, None]).argmin(1)
    out[empty] = values[nearest]
    return out.T.astype(np.float32)


def nearest_steps(frames: Num[np.ndarray, "*c F"], n: int) -> Num[np.ndarray, "*c {n}"]:
    """Frames at another number of steps: step i takes frame floor(i F / n).

    The rule by which TRIBE's released code brings features of sound to its grid.
    """
    return frames[..., np.arange(n) * frames.shape[-1] // n]


def log_mel_steps(
    wave: Float[np.ndarray, " S"], rate: float, sfreq: float, n: int
) -> Float[np.ndarray, "64 {n}"]:
    """Log-mel energies (`mel.log_mel`), the mean of the frames of each step."""
    frames = log_mel(wave, rate)
    return per_step(frames, frame_times(len(frames)), sfreq, n)


def envelope(
    wave: Float[np.ndarray, " S"], rate: float, sfreq: float, n: int
) -> Float[np.ndarray, "1 {n}"]:
    """Root mean square of the samples of each step."""
    edges = np.rint(np.arange(n + 1) * rate / sfreq).astype(int)
    steps = [wave[a:b].astype(np.float64) for a, b in itertools.pairwise(edges)]
    level = [np.sqrt(np.mean(x**2)) if len(x) else 0.0 for x in steps]
    return np.array([level], np.float32)


def word_rate(
    onsets_s: Float[np.ndarray, " W"], sfreq: float, n: int
) -> Float[np.ndarray, "1 {n}"]:
    """Words that begin in each step, a second."""
    inside = (onsets_s >= 0) & (onsets_s < n / sfreq)
    step = (onsets_s[inside] * sfreq).astype(int)
    counts = np.bincount(np.minimum(step, n - 1), minlength=n)
    return (counts * sfreq).astype(np.float32)[None]


def motion_energy(
    frames: Num[np.ndarray, "F H W"], fps: float
) -> Float[np.ndarray, "F D"]:
    """Energy of moving gratings, D of `N_MOTION`: spatial and temporal rate, direction.

    Quadrature pairs in space and time (Adelson and Bergen, 1985): complex Gabor filters
    over the image, correlated with a complex exponential under a Gaussian over frames;
    squared, averaged over the image, and the root taken. Direction k of 8 moves at
    45 k degrees from the right, counted towards the bottom. A rate at or above half of
    `fps` cannot be seen and is 0.

    Args:
      frames: brightness, in any unit.
      fps: frames a second.

    Raises:
      NeuroFMError: fewer than two frames.
    """
    if len(frames) < 2:
        raise NeuroFMError("motion needs two frames at least: give more of the film")
    small = _shrunk(frames)
    out = np.zeros((len(frames), len(SPATIAL), len(TEMPORAL), N_DIRECTIONS))
    height, width = small.shape[1:]
    fy = np.fft.fftfreq(height)[:, None] * height
    fx = np.fft.fftfreq(width)[None] * height  # cycles an image height as well
    spectra = [np.fft.fft2(small[i : i + _BLOCK]) for i in range(0, len(small), _BLOCK)]
    for i, rate in enumerate(SPATIAL):
        for k in range(N_DIRECTIONS):
            angle = 2 * np.pi * k / N_DIRECTIONS
            off = (fx - rate * np.cos(angle)) ** 2 + (fy - rate * np.sin(angle)) ** 2
            gabor = np.exp(-off / (2 * (rate / 2) ** 2))
            gabor[0, 0] = 0  # brightness itself is no grating
            seen = [np.fft.ifft2(s * gabor)[:, ::_STRIDE, ::_STRIDE] for s in spectra]
            flat = np.concatenate(seen).reshape(len(frames), -1)
            for j, cycles in enumerate(TEMPORAL):
                if cycles < fps / 2:
                    out[:, i, j, k] = _moving(flat, cycles, fps)
    return np.sqrt(out).reshape(len(frames), -1).astype(np.float32)


def _moving(seen: np.ndarray, cycles: float, fps: float) -> np.ndarray:
    """Mean power at a temporal rate around each frame, in the filters' direction."""
    sigma_s = 0.5 / cycles
    reach = int(np.ceil(2 * sigma_s * fps))
    at = np.arange(-reach, reach + 1) / fps
    kernel = np.exp(-0.5 * (at / sigma_s) ** 2)
    kernel = kernel / kernel.sum() * np.exp(2j * np.pi * cycles * at)
    padded = np.pad(seen, ((reach, reach), (0, 0)), mode="edge")
    filtered = np.zeros_like(seen)
    for tap, weight in enumerate(kernel):
        filtered += weight * padded[tap : tap + len(seen)]
    return np.mean(np.abs(filtered) ** 2, axis=1)


def _shrunk(frames: np.ndarray) -> np.ndarray:
    """Means of square blocks, about 64 to a frame's height."""
    size = max(1, frames.shape[1] // _PIXELS)
    height, width = (n // size * size for n in frames.shape[1:])
    cut = frames[:, :height, :width].astype(np.float32)
    blocks = cut.reshape(len(cut), height // size, size, width // size, size)
    return blocks.mean((2, 4))
