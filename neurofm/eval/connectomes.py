"""Classic features of parcellated fMRI that a learnt embedding has to beat.

Regions are scaled to mean 0 and deviation 1 first; one that a run lacks, or that never
changes, is 0 in all features.

Axis letters: C regions, T volumes, F features.
"""

import numpy as np
from jaxtyping import Float
from scipy.signal import welch

from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates
from neurofm.eval.pieces import Recordings
from neurofm.eval.rhythms import of_examples
from neurofm.signals.bold import usable

LAGS = (1, 2)  # volumes
SEGMENT = 50  # volumes, of which periodograms are averaged


def connectome_candidates(dataset: Recordings, examples: Examples) -> Candidates:
    """`connectivity`, of all pairs of regions, and `spectra`, of every region."""
    made = {"connectivity": connectivity, "spectra": spectra}
    return of_examples(made, dataset, examples)


def lagged_candidates(dataset: Recordings, examples: Examples) -> Candidates:
    """`lagged_covariance`: which regions follow which."""
    return of_examples({"lagged_covariance": lagged_covariance}, dataset, examples)


def connectivity(x: Float[np.ndarray, "C T"], sfreq: float) -> Float[np.ndarray, " F"]:
    """Fisher's z of the correlation of every pair of regions."""
    del sfreq
    z = _scaled(x)
    r = (z @ z.T / z.shape[1])[np.triu_indices(len(z), 1)]
    return np.arctanh(np.clip(r, -0.999, 0.999))


def spectra(x: Float[np.ndarray, "C T"], sfreq: float) -> Float[np.ndarray, " F"]:
    """Log power of every region at every frequency (Welch)."""
    z = _scaled(x)
    power = welch(z, sfreq, nperseg=min(SEGMENT, z.shape[1]))[1]
    return np.log(power + 1e-6).ravel()


def lagged_covariance(
    x: Float[np.ndarray, "C T"], sfreq: float
) -> Float[np.ndarray, " F"]:
    """Covariance of every region with every other one and two volumes before."""
    del sfreq
    z = _scaled(x)
    n = z.shape[1]
    return np.concatenate([(z[:, k:] @ z[:, : n - k].T / n).ravel() for k in LAGS])


def _scaled(x: Float[np.ndarray, "C T"]) -> Float[np.ndarray, "C T"]:
    there = usable(x)
    z = np.where(there[:, None], x, 0).astype(np.float64)
    z -= z.mean(1, keepdims=True)
    return z / np.where(there, z.std(1), 1)[:, None]
