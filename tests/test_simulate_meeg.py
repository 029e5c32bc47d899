"""Simulated EEG and MEG: levels, and labels that only the order of time tells."""

import numpy as np
import pytest

from neurofm.eval import probe
from neurofm.eval.splits import Fold
from neurofm.signals import bands
from neurofm.signals.meeg import EEG, GRAD, MAG
from neurofm.simulate import heads, meeg, oracle
from neurofm.simulate.meeg import Design

CAPS = Design(layouts=("eeg19", "eeg32"), per_subject=10)
HELMET = Design(layouts=("meg306",), per_subject=4)


def test_a_recording_depends_on_seed_part_and_index_alone():
    heads.subject.cache_clear()
    alone = meeg.record(3, "test", 17, CAPS)
    heads.subject.cache_clear()
    after = [meeg.record(3, "test", i, CAPS) for i in (2, 17)][1]
    np.testing.assert_array_equal(alone.samples, after.samples)
    assert alone.samples.dtype == np.float32
    for other in (
        meeg.record(4, "test", 17, CAPS),
        meeg.record(3, "valid", 17, CAPS),
        meeg.record(3, "test", 18, CAPS),
    ):
        assert not np.array_equal(alone.samples, other.samples)
    assert alone.subject.name == "test_01"
    assert alone.subject.layout.names[-1] == "E32"


def test_a_quieter_design_changes_the_event_alone():
    quiet = Design(layouts=CAPS.layouts, per_subject=10, snr_db=(-15.0, -5.0))
    loud, soft = (meeg.record(0, "train", 5, design) for design in (CAPS, quiet))
    assert loud.event.snr_db - soft.event.snr_db == pytest.approx(5)
    ratio = 10 ** (-5 / 20)
    assert soft.event.moment == pytest.approx(ratio * loud.event.moment)
    gone = np.outer(loud.event.topography - soft.event.topography, chirp_of(loud))
    np.testing.assert_allclose(
        loud.samples - soft.samples, gone, atol=1e-5 * np.abs(gone).max()
    )


def chirp_of(recorded):
    event = recorded.event
    return meeg.chirp(event.label, event.onset_s, event.phase)


def test_a_falling_chirp_is_a_rising_one_played_backwards():
    onset = 0.75  # on a sample, as is its mirror
    rising = meeg.chirp(0, onset, 0.7)
    mirror = meeg.DURATION_S - meeg.CHIRP_S - onset
    falling = meeg.chirp(1, mirror, 0.7)
    # A sample at 0 has its mirror at the end of the recording, which is not sampled.
    np.testing.assert_allclose(rising[1:], falling[:0:-1], atol=1e-9)
    assert np.square(rising).sum() / meeg.SFREQ == pytest.approx(1, rel=0.01)
    first, second = (
        np.abs(
            np.fft.rfft(rising * (np.arange(len(rising)) / meeg.SFREQ < onset + 0.5))
        ),
        np.abs(
            np.fft.rfft(rising * (np.arange(len(rising)) / meeg.SFREQ > onset + 0.5))
        ),
    )
    hz = meeg.frequencies()
    assert hz[first.argmax()] < 17.5 < hz[second.argmax()]


@pytest.mark.parametrize("design", [CAPS, HELMET])
def test_levels_are_what_they_are_said_to_be(design):
    recorded = [meeg.record(1, "train", i, design) for i in range(12)]
    for one in recorded:
        who = one.subject
        assert 0.085 <= who.radius <= 0.095
        loud = np.isin(who.layout.kind, (EEG, MAG))
        seen = np.sqrt((one.event.topography[loud] ** 2).mean())
        snr = 20 * np.log10(seen / meeg.background_rms(who))
        assert snr == pytest.approx(one.event.snr_db)
        assert -10 <= snr <= 0
        along = one.event.moment * who.measured(
            one.event.place[None], one.event.axis[None]
        )
        np.testing.assert_allclose(along[:, 0], one.event.topography)
    who = recorded[0].subject
    rng = np.random.default_rng(0)
    made = np.stack([meeg.background(rng, who) for _ in range(40)])
    kind = who.layout.kind
    power = made[:, np.isin(kind, (EEG, MAG))].var()
    assert np.sqrt(power) == pytest.approx(meeg.background_rms(who), rel=0.05)
    if kind[0] == EEG:
        assert 8e-6 < np.sqrt(power) < 22e-6
        shift = np.linalg.norm(who.place - who.radius * who.layout.place, axis=1)
        assert np.sqrt((shift**2).mean()) == pytest.approx(0.005, rel=0.3)
        assert not who.pos[:, 3:].any()
    else:
        assert 1e-13 < np.sqrt(power) < 3e-12
        own = who.noise(meeg.SFREQ)
        assert own[kind == MAG][0] == pytest.approx(3e-15 * 8)
        assert own[kind == GRAD][0] == pytest.approx(3e-13 * 8)


def test_the_background_has_the_covariance_that_the_oracle_reckons_with():
    who = meeg.record(2, "train", 0, CAPS).subject
    rng = np.random.default_rng(1)
    made = np.stack([np.fft.rfft(meeg.background(rng, who)) for _ in range(60)])
    root = np.linalg.cholesky(oracle.covariance(who))  # [F, C, C]
    inner = slice(2, -1)  # the slowest and the Nyquist frequency hold sensor noise only
    white = np.linalg.solve(root[inner], made.T[inner])  # [F, C, 60]
    n = white.shape[0] * white.shape[2]
    found = np.einsum("fci,fdi->cd", white, white.conj()) / n
    np.testing.assert_allclose(found, np.eye(len(found)), atol=5 / np.sqrt(n))


def test_power_and_covariance_are_blind_to_what_lags_and_the_oracle_tell():
    """On people and a cap that the probe was not fitted on."""
    parts: dict[heads.Part, tuple[Design, int]] = {
        "train": (CAPS, 240),
        "test": (Design(layouts=("eeg64",), per_subject=10), 120),
    }
    made = [
        meeg.record(9, part, i, design)
        for part, (design, n) in parts.items()
        for i in range(n)
    ]
    label = np.array([one.event.label for one in made])
    fold = Fold(train=np.arange(240), test=240 + np.arange(120))

    def score(features):
        return probe.fit(
            {"": np.array([features(one) for one in made])}, label, fold
        ).score

    def powers(one):
        bands_ = bands.log_band_power(one.samples, meeg.SFREQ)
        return np.concatenate([bands_.mean(0), bands_.max(0)])

    def covariance(one):
        values = np.linalg.eigvalsh(np.cov(one.samples.astype(float) * 1e6))
        return np.log(values[:-13:-1])

    def lags(one):
        spectra = bands.log_spectrogram(one.samples, meeg.SFREQ)
        return bands.lag_moments(spectra, (2, 4, 6, 8)).ravel()

    assert abs(score(powers) - 0.5) < 0.14  # three deviations of chance
    assert abs(score(covariance) - 0.5) < 0.14
    assert score(lags) > 0.9
    assert score(lambda one: [oracle.evidence(one)]) > 0.97


def test_spectra_and_covariances_do_not_change_when_time_turns_round():
    one = meeg.record(0, "test", 0, CAPS).samples.astype(float)
    forward, backward = (bands.log_band_power(x, 128) for x in (one, one[:, ::-1]))
    # The Hann window is symmetric: blindness is exact, not a matter of many examples.
    np.testing.assert_allclose(forward, backward, rtol=1e-9)


def test_lag_moments_are_those_of_two_loops():
    x = np.random.default_rng(0).standard_normal((3, 7, 2))
    y = x - x.mean(1, keepdims=True)
    found = bands.lag_moments(x, (1, 3))
    for k, lag in enumerate((1, 3)):
        for f in range(2):
            for g in range(2):
                pairs = [
                    y[c, t, f] * y[c, t + lag, g]
                    for c in range(3)
                    for t in range(7 - lag)
                ]
                assert found[k, f, g] == pytest.approx(np.mean(pairs))


def test_the_log_spectrogram_finds_a_tone_where_it_is():
    t = np.arange(384) / 128
    x = np.sin(2 * np.pi * 20 * t) * (t > 1.5) + 1e-3 * np.sin(2 * np.pi * 8 * t)
    found = bands.log_spectrogram(x, 128)
    assert found.shape == (1 + (384 - 32) // 8, 9)
    hz = np.arange(4, 37, 4)
    assert hz[found[40].argmax()] == 20
    assert found[40, 4] - found[4, 4] > 5
