"""Fractional adaptive superlets: spectrograms sharp in time and in frequency.

The geometric mean of the amplitudes of Morlet wavelets of more and more cycles, whose
number rises with the frequency (Moca et al., 2021), as BrainBERT was trained on them.
They cost far more than a Fourier transform, so they are computed once and kept.

Axes: N samples, F frequencies, T frames, M samples of a wavelet.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex64, Float
from scipy.signal import fftconvolve


@dataclass(frozen=True, kw_only=True)
class Superlets:
    """Settings; the defaults are BrainBERT's.

    Attributes:
      sfreq: of the trace, in Hz.
      cycles: of the wavelet of order 1.
      orders: at the lowest and at the highest frequency; between, in proportion.
      range_hz, n_freqs: evenly spaced frequencies.
      decimation: samples from one frame to the next.
      edge_frames: left out at each end.
    """

    sfreq: float = 2048.0
    cycles: float = 1.0
    orders: tuple[int, int] = (3, 30)
    range_hz: tuple[float, float] = (0.1, 200.0)
    n_freqs: int = 40
    decimation: int = 50
    edge_frames: int = 5

    @property
    def frequencies(self) -> Float[np.ndarray, " F"]:
        """In Hz."""
        return np.linspace(*self.range_hz, self.n_freqs)

    @property
    def fractional_orders(self) -> Float[np.ndarray, " F"]:
        """Of every frequency."""
        (low, high), (first, last) = self.orders, self.range_hz
        return low + (high - low) * (self.frequencies - first) / (last - first)


def scored(x: Float[np.ndarray, " N"], how: Superlets) -> Float[np.ndarray, "T F"]:
    """Frames of a trace, each frequency with mean 0 and deviation 1 over them.

    A frequency that does not change is 0.
    """
    inner = slice(how.edge_frames, -how.edge_frames or None)
    frames = amplitude(x, how)[:, :: how.decimation][:, inner]
    frames = frames - frames.mean(1, keepdims=True)
    deviation = frames.std(1, keepdims=True)
    return (frames / np.where(deviation > 0, deviation, 1)).T.astype(np.float32)


def amplitude(x: Float[np.ndarray, " N"], how: Superlets) -> Float[np.ndarray, "F N"]:
    """Geometric means of the wavelets' amplitudes, at every sample.

    At order o the wavelets of all whole orders up to o count alike, the next one by the
    fraction. Whole orders that no frequency has are skipped, as released, and above the
    highest none is next.
    """
    orders = how.fractional_orders
    whole = np.floor(orders)
    used = np.unique(whole)
    rows = []
    for f, order, n in zip(how.frequencies, orders, whole, strict=True):
        exponent = 1 / (order - how.orders[0] + 1)
        row = np.ones(len(x))
        for m in used[used <= n]:
            row *= _wavelet_amplitude(x, f, m * how.cycles, how) ** exponent
        fraction = order % n
        if (above := used[used > n]).size and fraction > 0:
            following = _wavelet_amplitude(x, f, above[0] * how.cycles, how)
            row *= following ** (fraction * exponent)
        rows.append(row)
    return np.stack(rows)


def _wavelet_amplitude(
    x: Float[np.ndarray, " N"], f: float, cycles: float, how: Superlets
) -> Float[np.ndarray, " N"]:
    wavelet = morlet(f, cycles, how.sfreq)
    return np.abs(fftconvolve(x, wavelet, mode="same").astype(np.complex64))


def morlet(f: float, cycles: float, sfreq: float) -> Complex64[np.ndarray, " M"]:
    """The wavelet of `cycles` cycles at `f` Hz, of four deviations to each side."""
    scale = 1 / (2 * np.pi * f)
    half = 5 * scale * cycles * sfreq
    at = np.arange(0.5 - half, half + 0.5) / sfreq
    envelope = np.exp(-0.5 * (5 * at / (2 * np.pi * cycles * scale)) ** 2)
    size = 5 / (scale * cycles * (2 * np.pi) ** 1.5)
    norm = sfreq**-0.5 / (4 * np.pi)
    wave = size * np.exp(1j * at / scale) * envelope * norm
    return wave.astype(np.complex64)
