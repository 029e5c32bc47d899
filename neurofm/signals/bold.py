"""Runs of BOLD: filters, scaling, trends, and other repetition times.

A region without a value is NaN in all of a run and stays so. Axis letters: P regions,
N volumes. A volume stands for its whole repetition time, so its time is the middle.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.signal import butter, filtfilt
from scipy.signal import detrend as remove_trend

Detrend = Literal["none", "constant", "linear"]
Scale = Literal["none", "zscore"]
Grid = Literal["middle", "first"]


def usable(bold: Float[np.ndarray, "P N"]) -> Bool[np.ndarray, " P"]:
    """Regions with a finite value in every volume that is not always the same."""
    return np.isfinite(bold).all(axis=1) & (bold != bold[:, :1]).any(axis=1)


def recorded(bold: Float[np.ndarray, "P N"]) -> int:
    """Volumes before the end of a run that holds no value in any region."""
    there = np.flatnonzero(np.isfinite(bold).any(axis=0))
    return int(there[-1]) + 1 if len(there) else 0


def bandpassed(
    bold: Float[np.ndarray, "P N"], tr_s: float, low: float, high: float
) -> Float[np.ndarray, "P N"]:
    """Between `low` and `high` Hz by a Butterworth of order 5, forth and back.

    Regions that are not usable become NaN (Brain-Semantoks, arXiv 2512.11582: 0.01 to
    0.1 Hz).
    """
    out = np.full(bold.shape, np.nan, np.float64)
    good = usable(bold)
    ratio: Any = butter(5, [low, high], btype="bandpass", fs=1 / tr_s)
    b, a = ratio
    out[good] = filtfilt(b, a, bold[good].astype(np.float64), axis=1)
    return out


def prepared(
    bold: Float[np.ndarray, "P N"],
    detrend: Detrend = "none",
    scale: Scale = "zscore",
    ddof: int = 1,
) -> Float[np.ndarray, "P N"]:
    """Trend taken out, then mean 0 and standard deviation 1, of every usable region.

    The others become NaN. `ddof=1`, the sample's deviation, is TRIBE's (v1 with no
    detrending, v2 with a linear one).
    """
    out = np.full(bold.shape, np.nan, np.float64)
    good = usable(bold)
    x = bold[good].astype(np.float64)
    if detrend != "none":
        x = remove_trend(x, axis=1, type=detrend)
    if scale == "zscore":
        x = (x - x.mean(1, keepdims=True)) / x.std(1, ddof=ddof, keepdims=True)
    out[good] = x
    return out


def at_tr(
    bold: Float[np.ndarray, "P N"], tr_s: float, new_tr_s: float, grid: Grid = "middle"
) -> Float[np.ndarray, "P M"]:
    """The run at another repetition time, linearly between volumes. NaN stays NaN.

    A volume stands for its `middle`: the new run begins when the run does, and what
    lies outside of the first and last middle takes their values. Or the `first` volumes
    of both are at one time, and what lies beyond the last goes on along the last line
    (Brain-Semantoks as released).
    """
    if tr_s == new_tr_s:
        return bold
    n = bold.shape[1]
    if grid == "first":
        place = np.arange(int(n * tr_s / new_tr_s)) * new_tr_s / tr_s
        high = np.clip(np.ceil(place).astype(int), 1, n - 1)
        low = high - 1
        return bold[:, low] + (place - low) * (bold[:, high] - bold[:, low])
    m = max(1, round(n * tr_s / new_tr_s))
    place = (np.arange(m) + 0.5) * new_tr_s / tr_s - 0.5  # in volumes of the run
    place = np.clip(place, 0, n - 1)
    low = np.minimum(place.astype(int), max(n - 2, 0))
    share = place - low
    high = np.minimum(low + 1, n - 1)
    return bold[:, low] * (1 - share) + bold[:, high] * share
