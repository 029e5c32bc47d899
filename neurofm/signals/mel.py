"""Log-mel spectrograms and their summaries: the classic features of sound.

Axis letters: N samples, T frames, F mel bands.
"""

import numpy as np
from jaxtyping import Float

from neurofm.errors import NeuroFMError

WINDOW_S = 0.025
HOP_S = 0.010


def log_mel(
    wave: Float[np.ndarray, "*B N"],
    sfreq: float,
    n_bands: int = 64,
    fmin: float = 50.0,
    fmax: float | None = None,
    window_s: float = WINDOW_S,
    hop_s: float = HOP_S,
) -> Float[np.ndarray, "*B T F"]:
    """Natural log of mel-band energies, `ln(energy + 1e-10)`, float32.

    Frames lie wholly inside the sound (T = 1 + (N - window) // hop); a sound shorter
    than one window is padded with zeros to one. Frame t is centred at
    `hop_s * t + window_s / 2` seconds.

    Args:
      wave: samples in [-1, 1].
      sfreq: sampling rate in Hz.
      n_bands: number of triangular bands, equally wide in mel (HTK formula).
      fmin: lower edge of the first band in Hz.
      fmax: upper edge of the last band in Hz; None is the Nyquist frequency.
      window_s: length of the Hann window in seconds.
      hop_s: step from frame to frame in seconds.
    """
    window, hop = round(window_s * sfreq), round(hop_s * sfreq)
    if short := max(0, window - wave.shape[-1]):
        wave = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, short)])
    filters, n_fft = _filters(sfreq, window, n_bands, fmin, fmax or sfreq / 2)
    frames = np.lib.stride_tricks.sliding_window_view(wave, window, axis=-1)
    frames = frames[..., ::hop, :] * np.hanning(window + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames, n_fft)).astype(np.float32) ** 2
    return np.log(power @ filters + np.float32(1e-10))


def frame_times(n_frames: int) -> Float[np.ndarray, " T"]:
    """Centres in seconds of the frames that `log_mel` makes with its defaults."""
    return HOP_S * np.arange(n_frames) + WINDOW_S / 2


def mean_std(values: Float[np.ndarray, "T F"]) -> Float[np.ndarray, "2*F"]:
    """Mean and standard deviation of each band over time."""
    return np.concatenate([values.mean(0), values.std(0)])


def time_bins(values: Float[np.ndarray, "T F"], n: int) -> Float[np.ndarray, "{n}*F"]:
    """Mean of each column in `n` equal bins of time, bin after bin.

    A bin narrower than a row takes the row in which it begins.
    """
    edges = np.arange(n + 1) * len(values) // n
    stops = np.maximum(edges[1:], edges[:-1] + 1)
    bins = [values[a:b].mean(0) for a, b in zip(edges[:-1], stops, strict=True)]
    return np.concatenate(bins)


def _filters(
    sfreq: float, window: int, n_bands: int, fmin: float, fmax: float
) -> tuple[Float[np.ndarray, "K F"], int]:
    """Triangles of height 1 on the bins of an FFT, zero-padded until none is empty."""
    if not 0 <= fmin < fmax <= sfreq / 2:
        raise NeuroFMError(
            f"mel bands from {fmin:g} to {fmax:g} Hz were asked of sound at {sfreq:g} "
            f"Hz; the edges must rise within 0 to {sfreq / 2:g} Hz"
        )
    mel = np.linspace(_to_mel(fmin), _to_mel(fmax), n_bands + 2)
    left, centre, right = (
        700 * (10 ** (mel[i : n_bands + i] / 2595) - 1) for i in range(3)
    )
    n_fft = 1 << (window - 1).bit_length()
    while True:
        hz = np.arange(n_fft // 2 + 1)[:, None] * sfreq / n_fft
        rise, fall = (hz - left) / (centre - left), (right - hz) / (right - centre)
        filters = np.maximum(0, np.minimum(rise, fall)).astype(np.float32)
        if filters.any(0).all():
            return filters, n_fft
        n_fft *= 2


def _to_mel(hz: float) -> float:
    return 2595 * np.log10(1 + hz / 700)
