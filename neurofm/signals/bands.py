"""Power of EEG and MEG by frequency and time, and its classic summaries.

Axis letters: C sensors, N samples, T frames, F frequencies, B bands, K lags.
"""

import numpy as np
from jaxtyping import Float

WINDOW_S, HOP_S = 0.25, 0.0625
RANGE_HZ = (4.0, 36.0)
BANDS_HZ = ((1, 4), (4, 8), (8, 13), (13, 20), (20, 30), (30, 45))
FLOOR = 1e-3  # of the mean power, added before the logarithm


def log_spectrogram(
    x: Float[np.ndarray, "*C N"], sfreq: float
) -> Float[np.ndarray, "*C T F"]:
    """Natural log of power in Hann windows of 250 ms every 62.5 ms, 4 to 36 Hz.

    In steps of 4 Hz. A thousandth of the sensor's mean power is added to all of it.
    """
    window, hop = round(WINDOW_S * sfreq), round(HOP_S * sfreq)
    frames = np.lib.stride_tricks.sliding_window_view(x, window, axis=-1)
    frames = frames[..., ::hop, :] * np.hanning(window + 1)[:-1]
    hz = np.fft.rfftfreq(window, 1 / sfreq)
    wanted = (hz >= RANGE_HZ[0]) & (hz <= RANGE_HZ[1])
    power = np.abs(np.fft.rfft(frames)[..., wanted]) ** 2
    floor = FLOOR * power.mean((-2, -1), keepdims=True)
    return np.log(power + np.maximum(floor, np.finfo(float).tiny))


def log_band_power(
    x: Float[np.ndarray, "*C N"], sfreq: float
) -> Float[np.ndarray, "*C B"]:
    """Natural log of the power in `BANDS_HZ` over the whole recording.

    A band in which a short recording has no frequency is told by the nearest one.
    """
    power = np.abs(np.fft.rfft(x * np.hanning(x.shape[-1]))) ** 2
    hz = np.fft.rfftfreq(x.shape[-1], 1 / sfreq)
    inside = [np.flatnonzero((hz >= low) & (hz < high)) for low, high in BANDS_HZ]
    nearest = [[np.abs(hz - (low + high) / 2).argmin()] for low, high in BANDS_HZ]
    taken = [a if len(a) else b for a, b in zip(inside, nearest, strict=True)]
    bands = np.stack([power[..., rows].mean(-1) for rows in taken], -1)
    return np.log(np.maximum(bands, np.finfo(float).tiny))


def lag_moments(
    spectrogram: Float[np.ndarray, "C T F"], lags: tuple[int, ...]
) -> Float[np.ndarray, "K F F"]:
    """Mean over sensors and time of each frequency times each other one some frames on.

    Of the spectrogram less its mean over time.
    """
    x = spectrogram - spectrogram.mean(1, keepdims=True)
    pairs = [np.einsum("ctf,ctg->fg", x[:, :-lag], x[:, lag:]) for lag in lags]
    frames = [x.shape[0] * (x.shape[1] - lag) for lag in lags]
    return np.stack(pairs) / np.array(frames)[:, None, None]
