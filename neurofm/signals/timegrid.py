"""Signals of different rates and starts on one clock: which steps meet which.

The rule is TRIBE's (arXiv 2507.22229 and its released code): of the overlap of two
spans, each grid takes steps from round(rate x distance from its own start), as many as
round(rate x length of the overlap) and at least one, never past its end. Halves round
to the even neighbour. What falls on one step adds up, which at the border of two
pieces of one signal may be the last step of one and the first of the next.

Times are in seconds on the clock of a stimulus. Axis letters: N steps, W words.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from neurofm.errors import NeuroFMError


class Grid(NamedTuple):
    """`n` steps at `sfreq` Hz, the first beginning at `start_s`."""

    start_s: float
    sfreq: float
    n: int

    @property
    def duration_s(self) -> float:
        return self.n / self.sfreq


def overlap(
    start_s: float, duration_s: float, other_start_s: float, other_duration_s: float
) -> tuple[float, float] | None:
    """Start and length of what two spans share; None where they only touch."""
    first = max(start_s, other_start_s)
    length = min(start_s + duration_s, other_start_s + other_duration_s) - first
    return (first, length) if length > 0 else None


def steps(grid: Grid, start_s: float, length_s: float) -> slice:
    """The steps of a grid that a span within it takes, at least one."""
    count = min(max(1, round(grid.sfreq * length_s)), grid.n)
    first = min(round(grid.sfreq * (start_s - grid.start_s)), grid.n - count)
    return slice(first, first + count)


def meeting(source: Grid, window: Grid) -> tuple[slice, slice] | None:
    """Steps of `source` and the steps of `window` they are added to, one to one.

    None where they do not overlap. The rates may differ a little: by less than half a
    step over the window.

    Raises:
      NeuroFMError: they differ by more.
    """
    off = abs(source.sfreq - window.sfreq) * window.duration_s
    if off >= 0.5:
        raise NeuroFMError(
            f"a signal at {source.sfreq:g} Hz was given for a grid at {window.sfreq:g} "
            f"Hz, which is {off:.3g} steps away at the end of a window of "
            f"{window.duration_s:g} s: resample it to the rate of the grid"
        )
    shared = overlap(
        source.start_s, source.duration_s, window.start_s, window.duration_s
    )
    if shared is None:
        return None
    taken, given = steps(source, *shared), steps(window, *shared)
    # The two counts can differ by one where the rates differ.
    count = min(taken.stop - taken.start, given.stop - given.start)
    return slice(taken.start, taken.start + count), slice(
        given.start, given.start + count
    )


def signal_on_grid(
    window: Grid, signals: Iterable[tuple[float, float, Float[np.ndarray, "*c _"]]]
) -> Float[np.ndarray, "*c {window.n}"]:
    """Sampled signals, each with its start and rate, added to the steps they meet.

    Raises:
      NeuroFMError: a rate is not that of the grid.
    """
    out = None
    for start_s, sfreq, x in signals:
        if out is None:
            out = np.zeros((*x.shape[:-1], window.n), x.dtype)
        if met := meeting(Grid(start_s, sfreq, x.shape[-1]), window):
            taken, given = met
            out[..., given] += x[..., taken]
    if out is None:
        raise NeuroFMError("no signal was given for a grid: give one at least")
    return out


def words_on_grid(
    window: Grid,
    vectors: Float[np.ndarray, "W *c"],
    onsets_s: Sequence[float] | Float[np.ndarray, " W"],
    durations_s: Sequence[float] | Float[np.ndarray, " W"],
) -> Float[np.ndarray, "*c {window.n}"]:
    """Vectors that each hold for a while (words), added to every step they meet.

    A word outside the window is not in it; one that meets it fills a step at least.
    """
    out = np.zeros((*vectors.shape[1:], window.n), vectors.dtype)
    for vector, onset, duration in zip(vectors, onsets_s, durations_s, strict=True):
        shared = overlap(onset, duration, window.start_s, window.duration_s)
        if shared:
            out[..., steps(window, *shared)] += vector[..., None]
    return out


def window_starts(
    start_s: float, stop_s: float, length_s: float, stride_s: float | None = None
) -> Float[np.ndarray, " n"]:
    """Starts of windows from `start_s`, the last one perhaps longer than what is left.

    Args:
      stop_s: no window begins here or later.
      stride_s: from start to start; by default `length_s`, side by side.
    """
    stride = stride_s or length_s
    n = max(1, int(np.ceil((stop_s - start_s) / stride - 1e-9)))
    return start_s + stride * np.arange(n)
