"""From the time of features to the time of responses: downsampling and delays."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from neurofm.errors import NeuroFMError


def fir(
    X: Float[np.ndarray, "T F"],
    delays: Sequence[int],
    runs: Shaped[np.ndarray, " T"] | None,
) -> Float[np.ndarray, "T D_times_F"]:
    """Copies of the features shifted later by each delay, side by side, delay-major.

    With them a linear model has a finite impulse response: a weight a delay. Rows with
    nothing to show (the first `d` of a run) are zero.

    Args:
      delays: in rows; negative ones look ahead.
      runs: the run of each row, each run in one piece: no run sees the end of the one
        before. None takes all rows for one run, as published fits of stacked stories
        do.

    Raises:
      NeuroFMError: a run whose rows are not in one piece.
    """
    starts = np.zeros(1, int)
    if runs is not None:
        starts = np.r_[0, 1 + np.flatnonzero(runs[1:] != runs[:-1])]
        if len(starts) != len(np.unique(runs)):
            raise NeuroFMError(
                f"{len(np.unique(runs))} runs lie in {len(starts)} pieces; sort the "
                "rows by run before delaying them"
            )
    run = np.searchsorted(starts, np.arange(len(X)), side="right")
    shifted = []
    for delay in delays:
        source = np.arange(len(X)) - delay
        inside = (source >= 0) & (source < len(X))
        source = np.where(inside, source, 0)
        inside &= run[source] == run
        shifted.append(np.where(inside[:, None], X[source], 0).astype(X.dtype))
    return np.concatenate(shifted, 1)


def lanczos(
    samples: Float[np.ndarray, "S F"],
    times: Float[np.ndarray, " S"],
    new_times: Float[np.ndarray, " T"],
    lobes: int = 3,
) -> Float[np.ndarray, "T F"]:
    """Samples at any times, brought to evenly spaced times by a Lanczos window.

    The weight of a sample u new steps away is sinc(u)·sinc(u/lobes), 0 beyond `lobes`;
    weights are not normalised, so a sum over samples (words) stays a sum (Huth et al.,
    "Natural speech reveals the semantic maps that tile human cerebral cortex", 2016).

    Args:
      times: s, of the samples; of a word, the mean of its onset and offset.
      new_times: s, centres of the responses' frames.

    Raises:
      NeuroFMError: fewer than two new times, or not rising.
    """
    if len(new_times) < 2 or (np.diff(new_times) <= 0).any():
        raise NeuroFMError(
            "downsampling needs at least two new times, each later than the last; give "
            "the centre of every frame"
        )
    u = (new_times[:, None] - times) / np.diff(new_times).mean()
    weight = np.where(abs(u) <= lobes, np.sinc(u) * np.sinc(u / lobes), 0)
    return (weight @ samples).astype(samples.dtype)
