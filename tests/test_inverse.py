"""Sensors from sensors and dipoles from sensors, when the head is known."""

import numpy as np
import pytest

from neurofm.simulate import heads, inverse, meeg, oracle

SNR_DB = (-10.0, 0.0)


def hidden_in(who, n_hidden):
    shown = np.ones(len(who.layout.kind), bool)
    shown[np.random.default_rng(4).permutation(len(shown))[:n_hidden]] = False
    return shown


def test_filters_are_the_regression_of_hidden_sensors_on_those_shown():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((3, 7, 5000))
    mixed += rng.standard_normal((3, 1, 5000))
    shown = np.array([True, True, False, True, False, True, True])
    found = oracle.wiener(mixed @ mixed.swapaxes(1, 2), shown)
    for f in range(3):
        slow = np.linalg.lstsq(mixed[f, shown].T, mixed[f, ~shown].T, rcond=None)[0]
        np.testing.assert_allclose(found[f], slow.T, atol=1e-9)


def test_filters_do_not_depend_on_units():
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((2, 6, 50))
    shown = np.array([True, False, True, True, False, True])
    plain = oracle.wiener(mixed @ mixed.swapaxes(1, 2), shown)
    unit = np.array([1e-6, 1e-13, 1e-13, 1e-6, 1e-11, 1e-11])
    mixed *= unit[:, None]
    found = oracle.wiener(mixed @ mixed.swapaxes(1, 2), shown)
    wanted = plain * unit[~shown][:, None] / unit[shown]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_wiener_filter_errs_as_much_as_it_expects_to():
    """Which it would not, were a part of the covariance missing or out of scale."""
    design = meeg.Design(layouts=("eeg19",), per_subject=40, snr_db=SNR_DB)
    made = [meeg.record(5, "valid", i, design) for i in range(40)]
    who = made[0].subject
    shown = hidden_in(who, 5)
    x = np.stack([one.samples.astype(float) for one in made])
    against = np.eye(len(shown)) - shown / shown.sum()
    known = against @ oracle.full_covariance(who, SNR_DB) @ against.T
    weights = oracle.wiener(known, shown)
    left = known[:, ~shown][:, :, ~shown] - weights @ known[:, shown][:, :, ~shown]
    told = oracle.rebuilt(x, who, shown, SNR_DB)
    error = np.fft.rfft((against @ x)[:, ~shown] - told)  # [B, H, F]
    measured = np.square(np.abs(error)).mean(0)
    expected = np.diagonal(left, axis1=1, axis2=2).T
    inner = slice(2, -1)
    ratio = measured[:, inner].sum(1) / expected[:, inner].sum(1)
    np.testing.assert_allclose(ratio, 1, atol=0.2)


def test_hidden_electrodes_are_told_from_those_shown_alone():
    who = heads.subject(1, "test", 3, "eeg19")
    shown = hidden_in(who, 4)
    x = np.random.default_rng(1).standard_normal((2, 19, meeg.N_SAMPLES))
    told = oracle.rebuilt(x, who, shown, SNR_DB)
    assert told.shape == (2, 4, meeg.N_SAMPLES)
    x[:, ~shown] = 9
    x += np.arange(meeg.N_SAMPLES)  # the same at all electrodes
    np.testing.assert_allclose(oracle.rebuilt(x, who, shown, SNR_DB), told, atol=1e-8)


@pytest.mark.parametrize("name", ["eeg32", "meg306"])
def test_minimum_norm_is_the_penalised_least_squares_solution(name):
    who = heads.subject(2, "test", 0, name)
    places, axes = inverse.grid(who.radius, 0.03)
    gain = who.measured(places, axes)
    noise = who.noise(128.0)
    seen = gain[:, 7] * 1e-8 + noise * np.random.default_rng(0).standard_normal(
        len(gain)
    )
    found = inverse.minimum_norm(gain, noise) @ seen
    # Two equations an unknown: what is measured, and that nothing is active.
    white = gain / noise[:, None]
    loud = [np.square(white[:, k : k + 3]).sum() for k in range(0, gain.shape[1], 3)]
    deviation = np.repeat(np.array(loud) ** (-inverse.DEPTH / 2), 3)
    level = np.sqrt(np.square(white * deviation).sum() / len(gain)) / inverse.SNR
    both = np.concatenate([white, level * np.diag(1 / deviation)])
    wanted = np.concatenate([seen / noise, np.zeros(gain.shape[1])])
    slow = np.linalg.lstsq(both, wanted, rcond=None)[0]
    np.testing.assert_allclose(found, slow, atol=1e-6 * np.abs(slow).max())


def test_minimum_norm_peaks_near_a_strong_dipole():
    who = heads.subject(2, "test", 1, "eeg64")
    places, axes = inverse.grid(who.radius)
    assert np.linalg.norm(places, axis=1).max() < 0.87 * who.radius
    back = inverse.minimum_norm(who.measured(places, axes), who.noise(128.0))
    at = who.radius * np.array([0.3, 0.4, 0.55])
    seen = who.measured(at[None], np.array([[0.6, -0.8, 0.0]]))[:, 0]
    power = np.square(back @ seen).reshape(-1, 3).sum(1)
    peak = places[::3][power.argmax()]
    assert np.linalg.norm(peak - at) < 0.04  # the grid is 20 mm wide
