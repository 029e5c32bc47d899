"""The best that can be done by someone who knows how the recordings were made.

Axis letters: C sensors, F frequencies, N samples.
"""

import functools

import numpy as np
from jaxtyping import Float

from neurofm.simulate import meeg
from neurofm.simulate.heads import Subject


def evidence(recorded: meeg.Recorded) -> float:
    """Log of how much better a rising chirp explains it than a falling one.

    The topography of the event, the covariance of the background at every frequency
    and the chirp are known, its onset and phase are not: the larger output of two
    matched filters over all onsets wins (a generalised likelihood ratio: Kay,
    "Fundamentals of Statistical Signal Processing II", 1998, section 7.6). Frequencies
    of the chirp alone are looked at, where artefacts are small enough to be left out.
    """
    hz = meeg.frequencies()
    low, high = meeg.CHIRP_HZ
    inside = (hz >= low - 2) & (hz <= high + 2)
    signal = np.fft.rfft(recorded.samples.astype(float)).T  # [F, C]
    weight = inverse_covariance(recorded.subject) @ recorded.event.topography
    source = (weight * signal).sum(1) * inside
    last = round((meeg.DURATION_S - meeg.CHIRP_S) * meeg.SFREQ)
    heights = []
    for label in range(2):
        wanted = np.fft.rfft(meeg.chirp(label, 0.0, 0.0))
        found = np.fft.ifft(source * wanted.conj(), meeg.N_SAMPLES)
        heights.append(np.abs(found[: last + 1]).max())
    return float(np.log(heights[0] / heights[1]))


@functools.lru_cache(maxsize=4)  # recordings of a person come one after another
def inverse_covariance(who: Subject) -> Float[np.ndarray, "F C C"]:
    """Of `covariance`."""
    return np.linalg.inv(covariance(who))


def covariance(who: Subject) -> Float[np.ndarray, "F C C"]:
    """Expected outer product of the background's Fourier coefficients."""
    slow, alpha = meeg.spectra(who)
    brain = who.gain @ who.gain.T
    rhythm = (who.gain * who.alpha) @ who.gain.T
    half = meeg.N_SAMPLES**2 / 2
    noise = np.diag(meeg.N_SAMPLES * who.noise(meeg.SFREQ) ** 2)
    return half * (slow[:, None, None] * brain + alpha[:, None, None] * rhythm) + noise
