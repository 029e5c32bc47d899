"""What BrainBERT is set beside on simulated contacts: classic features of a window.

Axis letters: N windows, T frames, F frequencies, S samples.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from neurofm.eval import probe
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates
from neurofm.eval.probe import Outcome
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

    trace        samples, over the window's deviation
    pooled       mean and deviation over time of log amplitudes
    spectrogram  log amplitudes of all frames
    scores       what the network is given, of all frames
    """
    x = windows.signal[:, 0]
    spectrogram = log_amplitudes(task, windows)
    spectra = jax.jit(task.spectra)
    scores = np.concatenate([np.asarray(spectra(b)[0]) for b in windows.batches()])
    return {
        "trace": x / x.std(1, keepdims=True),
        "pooled": np.stack([mean_std(one) for one in spectrogram]),
        "spectrogram": spectrogram.reshape(len(x), -1),
        "scores": scores.reshape(len(x), -1),
    }


def lag_moments(task: BrainBERT, windows: Labelled) -> Float[np.ndarray, "N _"]:
    """Which frequencies follow which, see `bands.lag_moments`."""
    spectrogram = log_amplitudes(task, windows)
    return np.stack([bands.lag_moments(x[None], LAGS).ravel() for x in spectrogram])


def fitted(
    candidates: Candidates, examples: Examples, kind: Literal["ridge", "knn"]
) -> Outcome:
    """The best candidate under one kind of probe, chosen on validation."""
    (fold,) = examples.folds
    return probe.fit(candidates, examples.target, fold, examples.clusters, (kind,))


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
