"""The best that can be done by someone who knows how the recordings were made.

Axis letters: C sensors, S those shown, H those hidden, F frequencies, N samples.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float

from neurofm.signals.meeg import EEG
from neurofm.simulate import meeg
from neurofm.simulate.heads import Subject, dipoles

N_DRAWN = 300  # dipoles, and stretches of artefacts, that expectations are taken over


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


def full_covariance(
    who: Subject, snr_db: tuple[float, float]
) -> Float[np.ndarray, "F C C"]:
    """Of the background, of artefacts and of events, whose place and onset are open.

    Args:
      snr_db: range of the loudness of events, see `meeg.Design`.
    """
    rng = np.random.default_rng(0)
    waves = np.stack([meeg.artefact_waves(rng, who) for _ in range(N_DRAWN)])
    power = np.square(np.abs(np.fft.rfft(waves))).mean(0)  # [3, F]
    topography = meeg.artefact_topographies(who)
    phases = np.stack([meeg.chirp(0, 0.0, phase) for phase in (0.0, np.pi / 2)])
    chirp = np.square(np.abs(np.fft.rfft(phases))).mean(0)  # [F]
    seen = who.measured(*dipoles(rng, N_DRAWN, who.radius))
    loudness = np.mean(10 ** (np.linspace(*snr_db, 100) / 10))
    seen = seen * meeg.moments(who, seen, 0.0) * np.sqrt(loudness / N_DRAWN)
    found = covariance(who)
    found += np.einsum("ca,af,da->fcd", topography, power, topography)
    return found + chirp[:, None, None] * (seen @ seen.T)


def rebuilt(
    samples: Float[np.ndarray, "*B C N"],
    who: Subject,
    shown: Bool[np.ndarray, " C"],
    snr_db: tuple[float, float],
) -> Float[np.ndarray, "*B H N"]:
    """Hidden sensors from those shown: what no linear filter of a person exceeds.

    Electrodes are told against the mean of those shown, as their average reference
    gives away the mean of those hidden; coils as they are.
    """
    n = samples.shape[-1]
    against = np.eye(len(shown))
    if (who.layout.kind == EEG).all():
        against = against - shown / shown.sum()
    known = against @ full_covariance(who, snr_db) @ against.T
    filters = wiener(known, shown)
    given = np.fft.rfft((against @ samples)[..., shown, :])
    return np.fft.irfft(np.einsum("fhs,...sf->...hf", filters, given), n)


def wiener(
    covariance: Float[np.ndarray, "F C C"], shown: Bool[np.ndarray, " C"]
) -> Float[np.ndarray, "F H S"]:
    """Filters of least squared error from the sensors shown to those hidden."""
    size = np.sqrt(np.einsum("fcc->c", covariance))  # V, T and T/m are far apart
    scaled = covariance / np.outer(size, size)
    among = scaled[:, shown][:, :, shown]
    across = scaled[:, ~shown][:, :, shown]
    filters = across @ np.linalg.pinv(among, rcond=1e-10, hermitian=True)
    return filters * np.divide.outer(size[~shown], size[shown])
