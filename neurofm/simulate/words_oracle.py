"""How well words are told by someone who knows how the recordings were made.

Axis letters: C channels, U units, W words, N samples, T steps of time, G frequencies,
F Fourier frequencies.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import i0e, logsumexp

from neurofm.simulate import words_seeg
from neurofm.simulate.words_seeg import BANDS_HZ, GAP_S, ONSET_S, SFREQ, UNIT_S, World

STEP = 4  # samples between the times that are looked at: 10 ms
SPACING_HZ = 2.0  # between the frequencies


def evidence(
    world: World, samples: Float[np.ndarray, "C N"]
) -> Float[np.ndarray, " W"]:
    """Log-likelihood of every word over that of the background alone.

    Units, words, loudness and the background's covariance are known. Phases are
    integrated over (the Bessel function of a matched filter's magnitude: Kay,
    "Fundamentals of Statistical Signal Processing II", 1998, section 7.6), frequencies,
    onsets and gaps averaged over on grids. Units that overlap do not occur.
    """
    heard = units(world, samples)[:, ::STEP]
    first, last = (round(s * SFREQ / STEP) for s in ONSET_S)
    out = []
    for word in world.words:
        ahead = heard[word[-1]]
        for unit in word[-2::-1]:
            ahead = heard[unit] + _after_gap(ahead)
        out.append(_mean(ahead[first : last + 1]))
    return np.array(out)


def units(world: World, samples: Float[np.ndarray, "C N"]) -> Float[np.ndarray, "U N"]:
    """Log-likelihood ratio of every unit that begins at every sample."""
    n = samples.shape[1]
    hz = np.fft.rfftfreq(n, 1 / SFREQ)
    power = n * words_seeg.spectrum(hz) / words_seeg.spectrum(hz).mean()
    among = np.linalg.inv(words_seeg.covariance(world))
    seen = world.patterns @ among  # [U, C]
    gain = np.einsum("uc,uc->u", seen, world.patterns)
    heard = seen @ np.fft.rfft(samples / words_seeg.RMS_V) / power  # [U, F]
    sizes, shape = words_seeg.amplitude(world), words_seeg.envelope()
    t = np.arange(len(shape)) / SFREQ
    out = np.empty((len(seen), n))
    for band, (low, high) in enumerate(BANDS_HZ):
        mine = world.bands == band
        grid = np.arange(low + SPACING_HZ / 2, high, SPACING_HZ)
        waves = sizes[band] * shape * np.exp(2j * np.pi * grid[:, None] * t)
        wanted = np.fft.fft(waves, n)[:, : len(hz)]  # [G, F]
        energy = (np.square(np.abs(wanted)) / power).sum(1) / 4
        product = np.zeros((mine.sum(), len(grid), n), complex)
        product[..., : len(hz)] = heard[mine][:, None] * wanted.conj()
        size = n * np.abs(np.fft.ifft(product))
        ratio = size + np.log(i0e(size)) - energy[:, None] * gain[mine, None, None]
        out[mine] = _mean(ratio.swapaxes(0, 1))
    return out


def _after_gap(ahead: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """What follows a unit that begins at each step, over all gaps."""
    first, last = (round((UNIT_S + gap) * SFREQ / STEP) for gap in GAP_S)
    later = np.pad(ahead, (0, last), constant_values=-np.inf)
    n = len(ahead)
    return _mean(np.stack([later[k : k + n] for k in range(first, last + 1)]))


def _mean(x: Float[np.ndarray, "K *T"]) -> Float[np.ndarray, "*T"]:
    """Log of the mean of likelihoods."""
    return np.asarray(logsumexp(x, axis=0) - np.log(len(x)))
