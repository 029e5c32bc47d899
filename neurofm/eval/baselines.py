"""Classic features of sound that a learnt embedding has to beat.

Axis letters: N examples, T frames, F mel bands, C channels, n samples.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates, Tokens, sounds, vectors
from neurofm.eval.pieces import Recordings
from neurofm.signals.mel import frame_times, log_mel, mean_std, time_bins


def log_mel_candidates(dataset: Recordings, examples: Examples) -> Candidates:
    """`logmel_mean_std` and `logmel_bins8` of the mean over channels.

    The first is the mean and standard deviation of each band over time; the second the
    mean in 8 equal time bins less the mean over time, of sound divided by its peak.
    40 bands below a sampling rate of 16 kHz, 64 from there on.
    """
    pools = {
        "logmel": {"logmel_mean_std": _mean_std},
        "logmel_peak": {"logmel_bins8": _centred_bins},
    }
    return vectors(_embed, pools.__getitem__, dataset, examples)


def _embed(dataset: Recordings, rows: Sequence[int]) -> Iterator[tuple[int, Tokens]]:
    sfreq = dataset.info.sfreq
    n_bands = 40 if sfreq < 16000 else 64
    for row, samples in sounds(dataset, rows):
        wave = samples.mean(0)
        level = log_mel(wave, sfreq, n_bands)
        peak = log_mel(wave / max(np.abs(wave).max(), 1e-9), sfreq, n_bands)
        values = {"logmel": level, "logmel_peak": peak}
        yield row, Tokens(values, frame_times(len(level)))


def _mean_std(
    values: Float[np.ndarray, "T F"], mask: Bool[np.ndarray, " T"]
) -> Float[np.ndarray, "2*F"]:
    return mean_std(values[mask])


def _centred_bins(
    values: Float[np.ndarray, "T F"], mask: Bool[np.ndarray, " T"]
) -> Float[np.ndarray, "8*F"]:
    kept = values[mask]
    return time_bins(kept - kept.mean(0), 8)
