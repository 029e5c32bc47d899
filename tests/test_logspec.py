"""Log-spectrograms at the sensors against SciPy and loops."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from neurofm.signals import logspec

RNG = np.random.default_rng(11)
SFREQ, LENGTH, HOP = 100.0, 60, 10  # frames of 25 samples, wider than a hop
KINDS = np.array([[0, 1, 0, 0, 1], [2, 2, 0, 1, 2]], np.int32)
THERE = np.array([[1, 1, 1, 0, 1], [1, 1, 1, 1, 0]], bool)
POS = RNG.normal(0, 0.3, (2, 5, 6)).astype(np.float32)
WINDOWS = RNG.normal(0.7, 1, (2, 5, 3, LENGTH)).astype(np.float32)
N_SAMPLES = np.array([180, 97], np.int32)


def got():
    near = logspec.neighbours(*map(jnp.asarray, (POS, KINDS, THERE)))
    counted = logspec.counted_tokens(jnp.asarray(N_SAMPLES), 3, SFREQ, LENGTH, HOP)
    spectra = logspec.log_spectra(jnp.asarray(WINDOWS), near, counted, SFREQ)
    return np.asarray(near), np.asarray(counted), np.asarray(spectra)


def frame(token):
    """Samples of a token's frame: 25 around its centre, moved inside the window."""
    start = min(max(0, token * HOP + HOP // 2 - 13), LENGTH - 25)
    return slice(start, start + 25)


def test_spectra_are_scipys_averaged_over_neighbours_minus_the_mean_over_time():
    near, counted, spectra = got()
    np.testing.assert_allclose(logspec.frequencies(SFREQ), np.arange(4, 37, 4))
    for row, n in np.ndindex(2, 3):
        power = np.zeros((5, 6, 9))
        for c, t in np.ndindex(5, 6):
            hz, density = scipy.signal.periodogram(
                WINDOWS[row, c, n, frame(t)].astype(float),
                window="hann",
                return_onesided=False,
            )
            assert hz[1] * SFREQ == 4
            power[c, t] = density[1:10]
        wanted = np.log(np.einsum("cd,dtf->ctf", near[row].astype(float), power) + 1e-6)
        if counted[row, n].any():
            wanted -= wanted[:, counted[row, n]].mean(1, keepdims=True)
        mine = THERE[row]
        np.testing.assert_allclose(spectra[row, mine, n], wanted[mine], atol=2e-4)


def test_tokens_count_where_their_frames_are_recorded():
    _, counted, _ = got()
    for row, n, t in np.ndindex(*counted.shape):
        assert counted[row, n, t] == (n * LENGTH + frame(t).stop <= N_SAMPLES[row])


def test_neighbours_are_sensors_of_the_type_that_are_there():
    near, _, _ = got()
    for row, c in np.argwhere(THERE):
        weight = np.zeros(5)
        for d in range(5):
            if THERE[row, d] and KINDS[row, c] == KINDS[row, d]:
                apart = np.linalg.norm(POS[row, c, :3] - POS[row, d, :3])
                weight[d] = np.exp(-0.5 * (apart / 0.25) ** 2)
        np.testing.assert_allclose(near[row, c], weight / weight.sum(), rtol=1e-4)


def test_white_noise_has_unit_power():
    table = logspec._table(256.0, 512, 64)
    power = np.square(table).sum((0, 1))
    np.testing.assert_allclose(power[:, 0], 5 / 6, rtol=1e-5)
    np.testing.assert_allclose(power[:, 1:], 1, rtol=1e-5)


@pytest.mark.parametrize("sfreq", [40.0, 250.0, 256.0, 1000.0])
def test_bins_lie_from_4_to_36_hz_and_below_nyquist(sfreq):
    hz = logspec.frequencies(sfreq)
    assert abs(hz[0] - 4) < 0.2
    assert abs(hz[-1] - min(36, sfreq / 2)) < 0.7
