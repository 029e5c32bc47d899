"""Classic features of EEG and MEG that a learnt embedding has to beat.

Each recording or interval is one vector, whatever its sensors: the mean over sensors
and the largest of them.

Axis letters: N examples, C sensors, n samples, F features.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates
from neurofm.eval.pieces import Recordings
from neurofm.signals import bands

N_BINS = 6
LAGS = (2, 4, 6, 8)  # frames of `bands.log_spectrogram`: 125 to 500 ms

Feature = Callable[[Float[np.ndarray, "C n"], float], Float[np.ndarray, " F"]]


def band_power_candidates(dataset: Recordings, examples: Examples) -> Candidates:
    """`band_power`, of the whole, and `band_power_bins`, in six bins of time."""
    return of_examples(BAND_POWER, dataset, examples)


def lag_moment_candidates(dataset: Recordings, examples: Examples) -> Candidates:
    """`lag_moments`: which frequencies follow which, over sensors and time."""
    return of_examples({"lag_moments": lag_moments}, dataset, examples)


def band_power(x: Float[np.ndarray, "C n"], sfreq: float) -> Float[np.ndarray, " F"]:
    """Log band power: the mean over sensors and the largest."""
    power = bands.log_band_power(x, sfreq)
    return np.concatenate([power.mean(0), power.max(0)])


def band_power_bins(
    x: Float[np.ndarray, "C n"], sfreq: float
) -> Float[np.ndarray, " F"]:
    """The same in each of six bins of time."""
    parts = np.array_split(x, N_BINS, axis=1)
    return np.concatenate([band_power(part, sfreq) for part in parts])


def lag_moments(x: Float[np.ndarray, "C n"], sfreq: float) -> Float[np.ndarray, " F"]:
    """See `bands.lag_moments`."""
    return bands.lag_moments(bands.log_spectrogram(x, sfreq), LAGS).ravel()


BAND_POWER: dict[str, Feature] = {
    "band_power": band_power,
    "band_power_bins": band_power_bins,
}


def of_examples(
    features: Mapping[str, Feature], dataset: Recordings, examples: Examples
) -> Candidates:
    """Features of every recording or interval, by name.

    Args:
      features: name -> what makes a vector of samples and their rate.
    """
    sfreq = dataset.info.sfreq
    n_samples = dataset.items["n_samples"].to_numpy()
    made: dict[str, list[np.ndarray]] = {name: [] for name in features}
    for i, row in enumerate(examples.row.tolist()):
        start, stop = 0, int(n_samples[row])
        if examples.span is not None:
            start, stop = (round(s * sfreq) for s in examples.span[i])
        x = dataset.read(row, start, stop).astype(np.float64)
        for name, feature in features.items():
            made[name].append(feature(x, sfreq).astype(np.float32))
    return {name: np.stack(vectors) for name, vectors in made.items()}
