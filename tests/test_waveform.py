"""Losses on waveforms against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.objectives import waveform

RNG = np.random.default_rng(2)
X, Y = RNG.normal(0.3, 1, (2, 3, 15)).astype(np.float32)
PAIR = jnp.asarray(X), jnp.asarray(Y)


def test_each_loss_is_its_formula():
    y = np.asarray(waveform.standardized(PAIR[1]), float)
    wanted = (Y - Y.mean(-1, keepdims=True)) / Y.std(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(y, wanted, atol=1e-4)
    corr = [np.corrcoef(a, b)[0, 1] for a, b in zip(X, Y, strict=True)]
    np.testing.assert_allclose(waveform.correlation(*PAIR), corr, atol=1e-4)
    np.testing.assert_allclose(
        waveform.time_error(*PAIR), np.abs(X - Y).mean(-1), rtol=1e-5
    )
    at = np.arange(15)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * at / 15)
    table = np.exp(-2j * np.pi * np.outer(at, np.arange(8)) / 15) / np.sqrt(15)
    a, b = ((x * window) @ table for x in (X.astype(float), Y.astype(float)))
    spectra = waveform.spectrum(PAIR[0]), waveform.spectrum(PAIR[1])
    amplitude = np.abs(np.abs(a) - np.abs(b)).mean(-1)
    np.testing.assert_allclose(waveform.amplitude_error(*spectra), amplitude, atol=1e-5)
    phase = np.abs(np.angle(a) - np.angle(b))
    np.testing.assert_allclose(
        waveform.phase_error(*spectra), phase.mean(-1), atol=1e-4
    )
    short = np.abs(np.angle(a * b.conj())).mean(-1)
    np.testing.assert_allclose(
        waveform.phase_error(*spectra, wrapped=True), short, atol=1e-4
    )


@pytest.mark.parametrize("flat", [np.zeros_like(X), np.ones_like(X)])
def test_flat_windows_have_finite_losses_and_slopes(flat):
    y = waveform.standardized(jnp.asarray(flat))
    np.testing.assert_array_equal(y, 0)

    def total(x):
        spectra = waveform.spectrum(x), waveform.spectrum(y)
        return (
            waveform.correlation(x, y)
            + waveform.amplitude_error(*spectra)
            + waveform.phase_error(*spectra)
        ).sum()

    value, slope = jax.value_and_grad(total)(jnp.asarray(X))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
