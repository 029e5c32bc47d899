"""Log-mel spectrograms against a loop over frames, bands and bins."""

import math

import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.signals import mel


def slow_log_mel(wave, sfreq, n_bands, fmin, fmax, n_fft):
    window, hop = round(0.025 * sfreq), round(0.010 * sfreq)
    to_mel = lambda hz: 2595 * math.log10(1 + hz / 700)  # noqa: E731
    step = (to_mel(fmax) - to_mel(fmin)) / (n_bands + 1)
    edge = [700 * (10 ** ((to_mel(fmin) + step * i) / 2595) - 1) for i in range(99)]
    frames = []
    for start in range(0, len(wave) - window + 1, hop):
        power = []
        for k in range(n_fft // 2 + 1):
            total = 0j
            for n in range(window):
                hann = 0.5 - 0.5 * math.cos(2 * math.pi * n / window)
                turn = np.exp(-2j * math.pi * k * n / n_fft)
                total += hann * wave[start + n] * turn
            power.append(abs(total) ** 2)
        bands = []
        for b in range(n_bands):
            low, mid, high = edge[b : b + 3]
            energy = 0.0
            for k, p in enumerate(power):
                hz = k * sfreq / n_fft
                if low < hz <= mid:
                    energy += p * (hz - low) / (mid - low)
                elif mid < hz < high:
                    energy += p * (high - hz) / (high - mid)
            bands.append(math.log(energy + 1e-10))
        frames.append(bands)
    return np.array(frames)


def test_log_mel_equals_a_loop_over_frames_bands_and_bins():
    wave = np.random.default_rng(0).normal(0, 0.1, 107).astype(np.float32)
    found = mel.log_mel(wave, 2000, n_bands=7, fmin=100, fmax=900)
    expected = slow_log_mel(wave, 2000, 7, 100, 900, n_fft=64)
    assert found.shape == (3, 7)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_transform_is_padded_until_no_band_is_empty():
    found = mel.log_mel(np.ones(400, np.float32), 8000, n_bands=64)
    noise = np.random.default_rng(0).normal(0, 0.1, 400).astype(np.float32)
    assert found.shape[1] == 64
    assert mel.log_mel(noise, 8000, n_bands=64).min() > np.log(1e-6)


def test_a_tone_is_loudest_in_the_band_that_holds_it():
    t = np.arange(8000) / 8000
    levels = mel.log_mel(np.sin(2 * np.pi * 1000 * t), 8000, 40).mean(0)
    centres = np.linspace(
        2595 * np.log10(1 + 50 / 700), 2595 * np.log10(1 + 4000 / 700), 42
    )
    nearest = np.abs(centres[1:-1] - 2595 * np.log10(1 + 1000 / 700)).argmin()
    assert levels.argmax() == nearest


def test_silence_is_the_log_of_the_floor():
    found = mel.log_mel(np.zeros(1000, np.float32), 8000, 5)
    np.testing.assert_allclose(found, np.log(1e-10), rtol=1e-6)


def test_channels_are_transformed_alone():
    wave = np.random.default_rng(1).normal(size=(2, 3, 500)).astype(np.float32)
    found = mel.log_mel(wave, 8000, 5)
    np.testing.assert_allclose(found[1, 2], mel.log_mel(wave[1, 2], 8000, 5), rtol=1e-5)


def test_a_sound_shorter_than_a_window_makes_one_frame():
    wave = np.full(30, 0.1, np.float32)
    padded = np.concatenate([wave, np.zeros(170, np.float32)])
    found = mel.log_mel(wave, 8000, 5)
    assert found.shape == (1, 5)
    np.testing.assert_allclose(found, mel.log_mel(padded, 8000, 5))


def test_a_click_is_loudest_in_the_frame_whose_time_is_its_own():
    wave = np.zeros(8000, np.float32)
    wave[3300] = 1.0  # 0.4125 s
    levels = mel.log_mel(wave, 8000, 5).mean(1)
    assert mel.frame_times(len(levels))[levels.argmax()] == pytest.approx(0.4125)


@pytest.mark.parametrize(("fmin", "fmax"), [(50, 4100), (900, 800), (-1, 800)])
def test_edges_outside_the_band_of_the_sound_are_refused(fmin, fmax):
    with pytest.raises(NeuroFMError, match="0 to 4000 Hz"):
        mel.log_mel(np.zeros(400, np.float32), 8000, 5, fmin, fmax)


def test_mean_and_std_are_taken_over_time():
    values = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 40.0]])
    expected = [3, 20, np.sqrt(8 / 3), np.sqrt(200)]
    np.testing.assert_allclose(mel.mean_std(values), expected)


@pytest.mark.parametrize(
    ("n_rows", "expected"), [(8, [0.5, 2.5, 4.5, 6.5]), (6, [0, 1.5, 3, 4.5])]
)
def test_time_bins_are_means_of_equal_parts(n_rows, expected):
    values = np.arange(n_rows)[:, None] * np.array([1.0, -1.0])
    found = mel.time_bins(values, 4).reshape(4, 2)
    np.testing.assert_allclose(found[:, 0], expected)
    np.testing.assert_allclose(found[:, 1], -found[:, 0])


def test_bins_narrower_than_a_row_take_the_row_they_begin_in():
    values = np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(mel.time_bins(values, 6), [1, 1, 2, 2, 3, 3])
