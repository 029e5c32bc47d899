"""Classic features against what is known of plain sounds and gratings."""

import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.signals import classic
from neurofm.signals.mel import log_mel


def test_steps_are_means_of_what_lies_in_them():
    values = np.array([[1.0, 10], [3, 30], [5, 50], [9, 90]])
    times = np.array([0.1, 0.4, 0.6, 1.8])
    steps = classic.per_step(values, times, 2.0, 5)
    # The third step has no row, and of all rows that at 1.8 s is nearest to its middle.
    np.testing.assert_allclose(steps[0], [2, 5, 9, 9, 9])
    np.testing.assert_allclose(steps[1], 10 * steps[0])


def test_frames_are_taken_and_not_averaged():
    frames = np.arange(7.0)[None]
    np.testing.assert_array_equal(
        classic.nearest_steps(frames, 3), [[int(i * 7 / 3) for i in range(3)]]
    )
    assert classic.nearest_steps(frames, 20).shape == (1, 20)


def test_the_envelope_of_a_swelling_tone_is_its_level():
    rate = 8000
    t = np.arange(3 * rate) / rate
    level = np.array([0.1, 0.5, 0.2])
    wave = np.repeat(level, rate) * np.sin(2 * np.pi * 440 * t)
    steps = classic.envelope(wave, rate, 1.0, 3)
    np.testing.assert_allclose(steps[0], level / np.sqrt(2), rtol=1e-3)


def test_log_mel_steps_are_means_of_frames():
    wave = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    steps = classic.log_mel_steps(wave, 8000.0, 2.0, 4)
    frames = log_mel(wave, 8000.0)
    centre = 0.0125 + 0.01 * np.arange(len(frames))
    inside = frames[(centre >= 0.5) & (centre < 1.0)]
    np.testing.assert_allclose(steps[:, 1], inside.mean(0), rtol=1e-5)


def test_words_are_counted_where_they_begin():
    onsets = np.array([-0.2, 0.0, 0.49, 0.5, 1.7, 5.0])
    np.testing.assert_array_equal(classic.word_rate(onsets, 2.0, 4), [[4, 2, 0, 2]])


@pytest.mark.parametrize("direction", [0, 1, 2, 5])
@pytest.mark.parametrize(("spatial", "temporal"), [(1, 0), (2, 1)])
def test_a_moving_grating_is_seen_at_its_rates_and_direction(
    direction, spatial, temporal
):
    fps, angle = 20.0, 2 * np.pi * direction / 8
    y, x = np.meshgrid(np.arange(80) / 80, np.arange(120) / 80, indexing="ij")
    along = x * np.cos(angle) + y * np.sin(angle)
    cycles, rate = classic.SPATIAL[spatial], classic.TEMPORAL[temporal]
    t = np.arange(30) / fps
    film = np.cos(2 * np.pi * (cycles * along - rate * t[:, None, None]))
    energy = classic.motion_energy(film, fps)[5:-5].mean(0)
    found = np.unravel_index(energy.argmax(), (3, 2, 8))
    assert found == (spatial, temporal, direction)
    table = energy.reshape(3, 2, 8)
    against = table[spatial, temporal, (direction + 4) % 8]
    assert energy.max() > 3 * against


def test_a_still_film_does_not_move():
    still = np.broadcast_to(
        np.random.default_rng(1).normal(size=(48, 64)), (20, 48, 64)
    )
    moving = np.random.default_rng(2).normal(size=(20, 48, 64))
    energy = classic.motion_energy(still, 30.0)
    assert energy.mean() < 0.2 * classic.motion_energy(moving, 30.0).mean()
    slow = classic.motion_energy(moving, 7.0).reshape(20, 3, 2, 8)
    assert not slow[:, :, 1].any()  # 4 Hz is over half of 7 frames a second
    assert slow[:, :, 0].all()
    with pytest.raises(NeuroFMError, match="two frames at least"):
        classic.motion_energy(moving[:1], 30.0)
