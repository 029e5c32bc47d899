"""What BrainBERT is set beside on simulated contacts: classic features of a window.

Axis letters: N windows, T frames, F frequencies, S samples.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from neurofm.eval.features import Candidates
from neurofm.models.brainbert import BrainBERT
from neurofm.quickstart.contacts import Labelled
from neurofm.signals import bands, stft
from neurofm.signals.mel import mean_std
from neurofm.task import Tree

LAGS = (2, 3, 4, 5, 6)  # frames
FLOOR = 1e-3  # of the mean amplitude, added before the logarithm


def network(task: BrainBERT, variables: Tree, windows: Labelled) -> Candidates:
    """Every layer of a network, its mean over tokens and its mean and deviation."""

    @jax.jit
    def read(variables, batch):
        return task.read(variables, batch).values

    made: dict[str, list[np.ndarray]] = {}
    for batch in windows.batches():
        for layer, values in jax.device_get(read(variables, batch)).items():
            made.setdefault(f"{layer}/mean", []).append(values.mean(1))
            spread = np.concatenate([values.mean(1), values.std(1)], 1)
            made.setdefault(f"{layer}/mean_std", []).append(spread)
    return {name: np.concatenate(rows) for name, rows in made.items()}


def classic(task: BrainBERT, windows: Labelled) -> dict[str, Float[np.ndarray, "N _"]]:
    """By name:

    trace              samples, over the window's deviation
    spectrogram        log amplitudes of all frames
    spectrogram_scores what the network is given, of all frames
    pooled             mean and deviation over time of log amplitudes
    lag_moments        which frequencies follow which, see `bands.lag_moments`
    """
    x = windows.signal[:, 0]
    spectrogram = log_amplitudes(task, windows)
    spectra = jax.jit(task.spectra)
    scores = np.concatenate([np.asarray(spectra(b)[0]) for b in windows.batches()])
    moments = [bands.lag_moments(one[None], LAGS).ravel() for one in spectrogram]
    return {
        "trace": x / x.std(1, keepdims=True),
        "spectrogram": spectrogram.reshape(len(x), -1),
        "spectrogram_scores": scores.reshape(len(x), -1),
        "pooled": np.stack([mean_std(one) for one in spectrogram]),
        "lag_moments": np.stack(moments),
    }


def log_amplitudes(task: BrainBERT, windows: Labelled) -> Float[np.ndarray, "N T F"]:
    """Logarithms of the spectrogram of which the network is given scores."""
    amplitudes = stft.magnitude(
        jnp.asarray(windows.signal[:, 0]),
        task.frame_samples,
        task.hop_samples,
        task.n_freqs,
    )
    x = np.asarray(amplitudes)
    return np.log(x + FLOOR * x.mean((1, 2), keepdims=True))
