"""Generated sounds: matched classes, disjoint parts, known truth."""

import dataclasses

import numpy as np
import pytest
from scipy import signal

from neurofm.eval import probe
from neurofm.eval.splits import Fold
from neurofm.signals import mel
from neurofm.simulate import sounds


def drawn(n: int, **fixed) -> sounds.Draws:
    """Choices with some of them replaced by one value for all clips."""
    choices = sounds.draw(n, seed=3, part="train")
    columns = {name: np.full(n, value) for name, value in fixed.items()}
    return dataclasses.replace(choices, **columns)


def one_class(n: int, name: str, **fixed) -> np.ndarray:
    return sounds.dry(drawn(n, label=sounds.CLASSES.index(name), **fixed))


def test_the_same_clips_come_whatever_range_they_are_asked_in():
    whole, labels = sounds.generate(31, seed=5, part="train")
    again, _ = sounds.generate(31, seed=5, part="train")
    np.testing.assert_array_equal(whole, again)
    part, part_labels = sounds.generate(5, seed=5, part="train", start=26)
    np.testing.assert_allclose(part, whole[26:], atol=1e-6)
    np.testing.assert_array_equal(part_labels, labels[26:])


def test_clips_differ_between_indices_seeds_and_parts():
    some = [
        sounds.generate(1, seed=seed, part=part, start=start)[0][0]
        for seed, part, start in [(0, "train", 0), (0, "train", 12), (1, "train", 0)]
    ]
    some.append(sounds.generate(1, seed=0, part="test")[0][0])
    correlation = np.corrcoef(np.stack(some)) - np.eye(4)
    assert np.abs(correlation).max() < 0.5


def test_clips_are_float32_of_one_level_within_full_scale():
    wave, labels = sounds.generate(48, seed=0, part="valid")
    assert wave.shape == (48, 16080)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(np.sqrt(np.mean(wave**2, 1)), 0.03, rtol=1e-3)
    assert np.abs(wave).max() < 1
    np.testing.assert_array_equal(np.bincount(labels), np.full(12, 4))


def test_the_stream_keeps_its_labels_to_itself_but_holds_every_class():
    _, labels = sounds.generate(3, seed=0, part="stream")
    assert labels is None
    hidden = sounds.draw(400, seed=0, part="stream").label
    assert np.bincount(hidden, minlength=12).min() > 15


@pytest.mark.parametrize("pool", [sounds.rooms, sounds.noises])
def test_no_two_parts_share_a_room_or_a_noise(pool):
    members = np.concatenate([pool(0, part) for part in sounds.PARTS])
    assert len(np.unique(members, axis=0)) == 4 * sounds.POOL


def test_rooms_decay_by_60_db_within_the_stated_times():
    for room in sounds.rooms(0, "test"):
        energy = np.cumsum(room[:0:-1].astype(float) ** 2)[::-1]
        level = 10 * np.log10(energy / energy[0])
        kept = (level < -5) & (level > -25)
        slope = np.polyfit(np.flatnonzero(kept) / sounds.SFREQ, level[kept], 1)[0]
        assert 0.08 < -60 / slope < 0.42


def test_noise_is_added_at_the_drawn_level():
    choices = drawn(24, snr_db=0.0)
    loud = sounds.render(choices, 0, "train")
    clean = sounds.render(
        dataclasses.replace(choices, snr_db=np.full(24, 90.0)), 0, "train"
    )
    share = [np.dot(a, b) / np.dot(b, b) for a, b in zip(loud, clean, strict=True)]
    np.testing.assert_allclose(share, np.sqrt(0.5), atol=0.12)


def test_both_classes_of_a_pair_have_the_same_long_term_spectrum():
    wave, labels = sounds.generate(12 * 100, seed=1, part="train")
    hz, power = signal.welch(wave, sounds.SFREQ, nperseg=512)
    band = np.digitize(hz, 100 * 2 ** np.arange(0, 5.4, 0.5))
    power = np.stack([power[:, band == b].mean(1) for b in range(1, 12)], 1)
    for p in range(6):
        first, second = (power[labels == 2 * p + which] for which in (0, 1))
        difference = 10 * np.log10(first.mean(0) / second.mean(0))
        assert np.abs(difference).max() < 3  # dB; within a class they spread by 2 to 10


def test_pairs_differ_from_each_other_in_their_spectrum():
    wave, labels = sounds.generate(12 * 20, seed=1, part="train")
    _, power = signal.welch(wave, sounds.SFREQ, nperseg=128)
    level = 10 * np.log10(power)
    means = np.stack([level[labels // 2 == p].mean(0) for p in range(6)])
    apart = np.abs(means[:, None] - means[None]).max(2)
    assert (apart[~np.eye(6, dtype=bool)] > 1.5).all()


def pitch(wave: np.ndarray, f0: float) -> np.ndarray:
    """Frequency of the fundamental every 10 ms, from a narrow filter's phase."""
    low, high = f0 * 2**-0.6, f0 * 2**0.6
    band = signal.butter(4, [low, high], "bandpass", fs=sounds.SFREQ, output="sos")
    analytic = signal.hilbert(signal.sosfiltfilt(band, wave))
    hz = np.diff(np.unwrap(np.angle(analytic))) * sounds.SFREQ / (2 * np.pi)
    loud = np.abs(analytic)[1:] > 0.3 * np.abs(analytic).max()
    return np.where(loud, hz, np.nan)[::80]


@pytest.mark.parametrize(
    ("name", "rising"), [("glide_up", True), ("glide_down", False)]
)
def test_the_pitch_of_a_glide_moves_as_its_name_says(name, rising):
    for wave in one_class(4, name, f0=120.0, period=0.35):
        steps = np.diff(pitch(wave, 120.0))
        steps = steps[np.isfinite(steps) & (np.abs(steps) < 20)]
        assert (np.median(steps) > 0) == rising


def test_a_glide_reversed_in_time_is_a_glide_the_other_way():
    (wave,) = one_class(1, "glide_up", f0=120.0, period=0.35)
    steps = np.diff(pitch(wave[::-1], 120.0))
    assert np.nanmedian(steps[np.abs(steps) < 20]) < 0


@pytest.mark.parametrize(("name", "sign"), [("ramped", 1), ("damped", -1)])
def test_envelopes_rise_slowly_or_fall_slowly(name, sign):
    wave = one_class(6, name, period=0.3)
    envelope = np.sqrt(signal.sosfiltfilt(_low_pass(25), wave**2).clip(1e-6))
    steps = np.diff(envelope[:, ::40])
    skewness = (steps**3).mean(1) / (steps**2).mean(1) ** 1.5
    assert (sign * skewness < -0.3).all()  # a slow rise ends in a fast fall


@pytest.mark.parametrize(("name", "hz"), [("am_4hz", 4), ("am_16hz", 16)])
def test_amplitude_is_modulated_at_the_named_rate(name, hz):
    wave = one_class(3, name, onset=0.2)[:, 1600 + 200 : 13600 - 200]
    power = np.abs(np.fft.rfft(wave**2 - (wave**2).mean(1, keepdims=True), 80000)).mean(
        0
    )
    rate = np.arange(len(power)) * sounds.SFREQ / 80000
    slow = (rate > 2) & (rate < 30)
    assert abs(rate[slow][power[slow].argmax()] - hz) < 0.5


def clicks(wave: np.ndarray) -> np.ndarray:
    """Onset times of clicks, s."""
    loud = np.flatnonzero(np.abs(wave) > 0.2)
    return loud[np.diff(loud, prepend=-1000) > 200] / sounds.SFREQ


def test_regular_clicks_are_equally_far_apart_and_poisson_clicks_are_not():
    regular = [np.diff(clicks(w)) for w in one_class(8, "clicks_regular")]
    poisson = [np.diff(clicks(w)) for w in one_class(8, "clicks_poisson")]
    assert max(gaps.std() / gaps.mean() for gaps in regular) < 0.02
    variation = np.mean([gaps.std() / gaps.mean() for gaps in poisson])
    assert 0.5 < variation < 1.2  # 1 for a Poisson process, less as near ones merge


@pytest.mark.parametrize(
    ("name", "first"), [("order_ab", "tone"), ("order_ba", "noise")]
)
def test_what_follows_the_gap_of_an_ordered_pair_is_its_first_half(name, first):
    heard = 0
    for wave in one_class(5, name, f0=400.0, period=0.36):
        energy = signal.sosfiltfilt(_low_pass(40), wave**2)
        loud = np.flatnonzero(energy > 0.05 * energy.max())
        starts = loud[1:][np.diff(loud) > 480]  # after at least 60 ms of silence
        for start in starts[starts < loud[-1] - 800]:
            power = np.abs(
                np.fft.rfft(wave[start + 250 : start + 650] * np.hanning(400))
            )
            share = np.sort(power**2)[-24:].sum() / np.sum(power**2)
            assert (share > 0.9) == (first == "tone")
            heard += 1
    assert heard > 10


def test_partials_of_a_harmonic_tone_are_multiples_and_others_are_not():
    def off_grid(wave: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(wave[4000:12000])) ** 2  # bins of 1 Hz
        hz = np.arange(len(spectrum))
        return (
            spectrum[np.abs(hz / 250 - np.round(hz / 250)) > 0.04].sum()
            / spectrum.sum()
        )

    choice = {"f0": 250.0, "onset": 0.3}
    assert max(map(off_grid, one_class(6, "harmonic", **choice))) < 0.02
    assert min(map(off_grid, one_class(6, "inharmonic", **choice))) > 0.4


def test_log_mel_mean_and_std_score_between_40_and_55_percent():
    parts = {"train": 480, "valid": 240, "test": 720}
    made = [sounds.generate(n, 0, part) for part, n in parts.items()]
    wave = np.concatenate([wave for wave, _ in made])
    label = np.concatenate([label for _, label in made])
    summary = [mel.mean_std(mel.log_mel(w, sounds.SFREQ, 40)) for w in wave]
    rows = np.split(np.arange(1440), [480, 720])
    fold = Fold(train=rows[0], valid=rows[1], test=rows[2])
    assert 0.40 < probe.fit({"logmel": np.stack(summary)}, label, fold).score < 0.55


def _low_pass(hz: float) -> np.ndarray:
    return signal.butter(2, hz, fs=sounds.SFREQ, output="sos")
