"""Simulated contacts: what tells the label, and what is blind to it."""

import numpy as np
import pytest
from scipy import signal
from sklearn.linear_model import RidgeClassifier

from neurofm.errors import NeuroFMError
from neurofm.simulate import bursts
from neurofm.simulate.bursts import Design

N = 600


@pytest.fixture(scope="module")
def windows():
    made = [bursts.record(7, "test", i // 20, i, 1, 3.0, Design()) for i in range(N)]
    return np.concatenate([one.samples for one in made]), made


def labels(made):
    return np.array([one.label for one in made])


def log_spectrogram(x):
    amplitudes = np.abs(signal.stft(x, bursts.SFREQ, nperseg=64, noverlap=44)[2])
    return np.log(amplitudes[:, :24] + 1e-9)  # below 190 Hz


@pytest.mark.parametrize("view", ["trace", "pooled", "spectrogram"])
def test_whatever_is_linear_is_at_chance(windows, view):
    x, made = windows
    spectrogram = log_spectrogram(x)
    features = {
        "trace": x / x.std(),
        "pooled": np.concatenate([spectrogram.mean(2), spectrogram.std(2)], 1),
        "spectrogram": spectrogram.reshape(len(x), -1),
    }[view]
    features = (features - features.mean(0)) / features.std(0)
    known, tested = slice(300), slice(300, N)
    for penalty in (1.0, 1e3, 1e5):
        linear = RidgeClassifier(alpha=penalty)
        linear.fit(features[known], labels(made)[known])
        score = linear.score(features[tested], labels(made)[tested])
        assert abs(score - 0.5) < 0.1  # 3.5 deviations of 300 fair coins


def test_one_who_knows_bands_and_lead_reads_the_label(windows):
    x, made = windows
    assert np.mean((bursts.evidence(x) > 0) == (labels(made) == 0)) > 0.95


def test_the_high_band_follows_or_precedes_by_the_lead():
    quiet = Design(loud_db=(40.0, 40.0))
    for number, label in ((4, 0), (5, 1)):
        one = bursts.record(1, "train", 3, number, 2, 3.0, quiet)
        assert one.label == label
        moments = bursts.middles(one.times_s, label)
        for band, times in zip(bursts.BANDS_HZ, moments, strict=True):
            sos = signal.butter(4, band, "bandpass", fs=bursts.SFREQ, output="sos")
            twice = np.tile(one.samples[0].astype(float), 2)  # a circle
            power = signal.sosfiltfilt(sos, twice)[: one.samples.shape[1]] ** 2
            at = np.arange(len(power)) / bursts.SFREQ
            away = np.abs((at[:, None] - times + 1.5) % 3.0 - 1.5).min(1)
            assert power[away < 0.12].sum() > 0.9 * power.sum()
        assert np.all((moments[1] - moments[0] > 0) == (label == 0))


def test_pairs_lie_anywhere_on_the_circle():
    times = np.concatenate(
        [bursts.pair_times(np.random.default_rng(i), 3.0) for i in range(400)]
    )
    counts = np.histogram(times, bins=12, range=(0, 3))[0]
    assert np.abs(counts - 100).max() < 45  # 4.5 deviations


def test_contacts_that_do_not_respond_have_background_alone():
    loud = {"loud_db": (40.0, 40.0)}
    made = [
        bursts.record(2, "stream", i, 0, 20, 4.0, Design(responsive=0.3, **loud))
        for i in range(20)
    ]
    responsive = np.concatenate([one.responsive for one in made]).astype(bool)
    assert 0.2 < responsive.mean() < 0.4
    x = np.concatenate([bursts.banded(one.samples, (70.0, 150.0)) for one in made])
    peaked = (x**4).mean(1) / (x**2).mean(1) ** 2  # of Gaussian noise about 3
    assert peaked[responsive].min() > 2 * peaked[~responsive].max() > 6


def test_a_loudness_from_high_to_low_is_refused():
    with pytest.raises(NeuroFMError, match="give the lower one first"):
        Design(loud_db=(9.0, 3.0))


def test_a_recording_does_not_depend_on_others():
    one = bursts.record(0, "valid", 2, 5, 3, 2.0, Design())
    again = bursts.record(0, "valid", 2, 5, 3, 2.0, Design())
    other = bursts.record(0, "test", 2, 5, 3, 2.0, Design())
    np.testing.assert_array_equal(one.samples, again.samples)
    assert np.abs(one.samples - other.samples).max() > 1e-6
    assert one.samples.shape == (3, 1024)


@pytest.mark.parametrize("share", [0.0, 1.2])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(NeuroFMError, match="responsive contacts is"):
        Design(responsive=share)
