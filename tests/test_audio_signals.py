"""Sound preparation and scenes against slow references and known answers."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.errors import NeuroFMError
from neurofm.signals import audio, scenes


def slow_resample(x, o, n, window):
    """The definition, one output sample and one tap at a time."""
    width, rolloff = {"kaiser": (64, 0.9475937167399596), "hann": (6, 0.99)}[window]
    g = np.gcd(int(o), int(n))
    o, n = o / g, n / g
    b = min(o, n) * rolloff
    out = np.zeros(int(np.ceil(n * len(x) / o)))
    for i in range(len(out)):
        for j in range(len(x)):
            u = (j / o - i / n) * b
            if abs(u) >= width:
                continue
            if window == "kaiser":
                beta = 14.769656459379492
                w = np.i0(beta * np.sqrt(1 - (u / width) ** 2)) / np.i0(beta)
            else:
                w = np.cos(np.pi * u / (2 * width)) ** 2
            out[i] += x[j] * np.sinc(u) * w * b / o
    return out


@settings(max_examples=40, deadline=None)
@given(
    n_samples=st.integers(1, 40),
    rates=st.tuples(*2 * [st.integers(1, 30).map(float)]),
    window=st.sampled_from(["kaiser", "hann"]),
)
def test_resampling_follows_its_definition(n_samples, rates, window):
    x = np.random.default_rng(n_samples).standard_normal(n_samples)
    if rates[0] == rates[1]:
        expected = x
    else:
        expected = slow_resample(x, *rates, window)
    np.testing.assert_allclose(
        audio.resample(x, *rates, window), expected, rtol=0, atol=1e-12
    )


def test_rates_without_a_common_divisor_follow_the_definition_too():
    x = np.random.default_rng(0).standard_normal(61)
    np.testing.assert_allclose(
        audio.resample(x, 44101.0, 16000.0),
        slow_resample(x, 44101.0, 16000.0, "kaiser"),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    "rates", [(44100.0, 16000.0), (8000.0, 16000.0), (44101.0, 16000.0)]
)
def test_a_tone_stays_that_tone_at_the_new_rate(rates):
    before, after = rates
    n_samples = int(before) + 17
    x = np.sin(2 * np.pi * 1234.5 * np.arange(n_samples) / before + 0.3)
    y = audio.resample(x.astype(np.float32), before, after)
    assert y.dtype == np.float32
    assert len(y) == -(-n_samples * after // before)
    expected = np.sin(2 * np.pi * 1234.5 * np.arange(len(y)) / after + 0.3)
    inner = slice(200, -200)
    np.testing.assert_allclose(y[inner], expected[inner], rtol=0, atol=1e-4)


def test_a_tone_above_the_new_nyquist_vanishes():
    x = np.sin(2 * np.pi * 9000 * np.arange(44100) / 44100)
    assert np.abs(audio.resample(x, 44100.0, 16000.0)[200:-200]).max() < 1e-4


@settings(max_examples=30, deadline=None)
@given(
    rates=st.sampled_from(
        [(44100.0, 16000.0), (8000.0, 16000.0), (3.0, 2.0), (1009.0, 160.0)]
    ),
    sizes=st.lists(st.integers(0, 5000), max_size=6),
)
def test_blocks_of_any_length_give_the_bits_of_the_whole(rates, sizes):
    x = np.random.default_rng(0).standard_normal((2, sum(sizes))).astype(np.float32)
    blocks = np.split(x, np.cumsum(sizes)[:-1], axis=-1) if sizes else [x]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "_BLOCK_SAMPLES", 4096)
        pieces = list(audio.resample_blocks(blocks, *rates))
        whole = audio.resample(x, *rates)
    joined = np.concatenate([np.zeros((2, 0), np.float32), *pieces], axis=-1)
    np.testing.assert_array_equal(joined, whole)


def test_the_block_size_is_not_part_of_the_definition(monkeypatch):
    x = np.random.default_rng(0).standard_normal(9000)
    whole = audio.resample(x, 44100.0, 16000.0)
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 1000)
    np.testing.assert_allclose(
        audio.resample(x, 44100.0, 16000.0), whole, rtol=0, atol=1e-12
    )


def test_a_long_recording_is_never_held_whole(monkeypatch):
    monkeypatch.setattr(audio, "_BLOCK_SAMPLES", 4096)
    taken = given_back = 0
    most = 0

    def recording():
        nonlocal taken
        for _ in range(100):
            taken += 1000
            yield np.ones(1000, np.float32)

    for piece in audio.resample_blocks(recording(), 48000.0, 16000.0):
        given_back += 3 * piece.shape[-1]
        most = max(most, taken - given_back)
    assert given_back == 3 * 33334  # ceil(100000 / 3) outputs
    assert most < 4096 + 2000


def test_channels_are_resampled_each_alone():
    x = np.random.default_rng(0).standard_normal((2, 3, 500)).astype(np.float32)
    y = audio.resample(x, 22050.0, 16000.0)
    assert y.shape == (2, 3, 363)
    np.testing.assert_array_equal(y[1, 2], audio.resample(x[1, 2], 22050.0, 16000.0))


@pytest.mark.parametrize(
    "rates", [(32000.0, 16000.0), (16000.0, 32000.0), (44100.0, 16000.0)]
)
def test_device_and_host_resample_alike(rates):
    x = np.random.default_rng(0).standard_normal((2, 1, 777)).astype(np.float32)
    np.testing.assert_allclose(
        jax.jit(audio.resample_on_device, static_argnums=(1, 2))(
            jnp.asarray(x), *rates
        ),
        audio.resample(x, *rates),
        rtol=0,
        atol=1e-5,
    )


@pytest.fixture
def unchecked():
    """As users have it: without the tests' check of annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_wrong_input_of_the_resampler_is_named(unchecked):
    x, resample = np.zeros(10, np.float32), cast(Any, audio.resample)
    with pytest.raises(NeuroFMError, match="int16"):
        resample(x.astype(np.int16), 8000.0, 16000.0)
    with pytest.raises(NeuroFMError, match=r"from 0\.0 Hz"):
        resample(x, 0.0, 16000.0)
    with pytest.raises(NeuroFMError, match="'box'"):
        resample(x, 8000.0, 16000.0, "box")


def test_an_empty_clip_stays_empty():
    assert audio.resample(np.zeros((2, 0), np.float32), 44100.0, 16000.0).shape == (
        2,
        0,
    )


def test_loudness_is_set_over_all_channels_together():
    x = np.random.default_rng(0).standard_normal((2, 999)).astype(np.float32)
    x[1] *= 0.01
    y = audio.rms_normalize(x)
    assert y.dtype == np.float32
    assert 20 * np.log10(np.sqrt(np.mean(np.square(y)))) == pytest.approx(-14, abs=1e-4)
    np.testing.assert_allclose(y[1] / y[0], x[1] / x[0], rtol=1e-5)


def test_a_silent_clip_stays_silent():
    x = np.zeros((2, 7), np.float32)
    np.testing.assert_array_equal(audio.rms_normalize(x), x)


def test_gains_of_several_items_are_those_of_each():
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal((1, 50)) * scale for scale in (1e-4, 1.0, 0.0, 30.0)]
    gains = audio.rms_gain(
        np.array([np.sqrt(np.mean(c**2)) for c in clips]), dbfs=-20.0
    )
    assert gains[2] == 1
    for clip, gain in zip(clips, gains, strict=True):
        np.testing.assert_allclose(clip * gain, audio.rms_normalize(clip, -20.0))


def test_a_clip_is_padded_at_its_end_or_cut():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(
        audio.fit_length(x, 5), [[0, 1, 2, 0, 0], [3, 4, 5, 0, 0]]
    )
    np.testing.assert_array_equal(audio.fit_length(x, 2), [[0, 1], [3, 4]])


def test_crops_are_slices_of_their_clip():
    x = np.random.default_rng(0).standard_normal((2, 3, 20))
    starts = np.array([[0, 13], [5, 5]])
    cut = audio.crops(x, starts, 7)
    assert cut.shape == (2, 2, 3, 7)
    for b in range(2):
        for k in range(2):
            at = starts[b, k]
            np.testing.assert_array_equal(cut[b, k], x[b, :, at : at + 7])
    with pytest.raises(NeuroFMError, match="from 0 to 13"):
        audio.crops(x, np.array([[0, 14], [0, 0]]), 7)


def test_crop_statistics_use_the_span_alone_and_clear_the_rest():
    rng = np.random.default_rng(0)
    x = (3 + 0.2 * rng.standard_normal((3, 2, 11))).astype(np.float32)
    spans = np.array([[0, 11], [2, 9], [4, 5]])
    x[1, :, 9:] = np.nan  # whatever lies outside must not matter
    y = np.asarray(audio.normalize_crop(jnp.asarray(x), jnp.asarray(spans)))
    for item, ours, (start, stop) in zip(x, y, spans, strict=True):
        part = item[:, start:stop].astype(np.float64)
        expected = np.zeros((2, 11))
        expected[:, start:stop] = (part - part.mean()) / (part.std(ddof=1) + 1e-5)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_unit_statistics_count_the_padding_as_signal():
    x = np.zeros((2, 1, 9), np.float32)
    x[:, :, :5] = np.random.default_rng(0).standard_normal((2, 1, 5)) + 1
    y = audio.normalize_crop(jnp.asarray(x), jnp.array([[0, 5], [0, 5]]), "unit")
    mean, std = x.mean((1, 2), keepdims=True), x.std((1, 2), keepdims=True, ddof=1)
    np.testing.assert_allclose(y, (x - mean) / (std + 1e-5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("statistics", ["valid", "unit"])
@pytest.mark.parametrize("span", [[0, 7], [3, 4], [3, 3]])
def test_a_silent_crop_becomes_zeros(statistics, span):
    y = audio.normalize_crop(
        jnp.zeros((2, 2, 7)), jnp.array([span, [0, 7]]), statistics
    )
    np.testing.assert_array_equal(y, np.zeros((2, 2, 7)))


def test_crop_normalisation_keeps_the_level_difference_between_the_ears():
    x = np.random.default_rng(0).standard_normal((1, 2, 4001)).astype(np.float32)
    x[:, 0] *= 5
    y = np.asarray(audio.normalize_crop(jnp.asarray(x), jnp.array([[0, 4001]])))
    assert y[0, 0].std() / y[0, 1].std() == pytest.approx(
        x[0, 0].std() / x[0, 1].std(), rel=1e-5
    )


def test_unknown_crop_statistics_are_named(unchecked):
    crop, span = jnp.zeros((1, 1, 7)), jnp.array([[0, 7]])
    with pytest.raises(NeuroFMError, match="'all'"):
        cast(Any, audio.normalize_crop)(crop, span, "all")


def slow_place(noise, offset, n_samples, n_fade):
    """The released order of things: fade a noise, then lay it into a zero buffer."""
    out = np.zeros(n_samples)
    up = np.linspace(0, 1, n_fade)
    if len(noise) > n_samples:
        out[:] = noise[-offset : n_samples - offset]
        out[n_samples - n_fade :] *= up[::-1]
        return out
    faded = noise.copy()
    faded[:n_fade] *= up
    faded[len(faded) - n_fade :] *= up[::-1]
    out[offset : offset + len(faded)] = faded
    return out


@pytest.mark.parametrize(
    ("n_noise", "offset"),
    [(50, 0), (15, 7), (50, 31), (50, 50), (100, 0), (101, 0), (130, -30)],
)
def test_noises_are_faded_and_placed(n_noise, offset):
    noise = np.random.default_rng(n_noise).standard_normal((2, 130))
    placed = jax.jit(scenes.place_noise, static_argnums=(3, 4))(
        noise, jnp.array([n_noise, 130]), jnp.array([offset, 0]), 100, 50.0
    )
    expected = [
        slow_place(noise[0, :n_noise], offset, 100, 10),
        slow_place(noise[1], 0, 100, 10),
    ]
    np.testing.assert_allclose(placed, expected, rtol=0, atol=1e-6)


def test_a_place_hears_the_full_convolution_cut_to_the_clip():
    rng = np.random.default_rng(0)
    x, rir = rng.standard_normal((2, 37)), rng.standard_normal((2, 2, 53))
    y = scenes.heard(jnp.asarray(x), jnp.asarray(rir))
    for b in range(2):
        for ear in range(2):
            np.testing.assert_allclose(
                y[b, ear], np.convolve(x[b], rir[b, ear])[:37], rtol=0, atol=1e-4
            )


def test_every_ear_gets_the_snr_that_was_drawn():
    rng = np.random.default_rng(0)
    source, noise = rng.standard_normal((2, 3, 2, 501)).astype(np.float32)
    noise[:, 1] *= 9  # louder at one ear, which the mixing undoes
    snr = np.array([[5.0], [22.5], [40.0]], np.float32)
    added = np.asarray(scenes.mix(*map(jnp.asarray, (source, noise, snr)))) - source
    measured = 10 * np.log10(np.square(source).sum(-1) / np.square(added).sum(-1))
    np.testing.assert_allclose(measured, np.broadcast_to(snr, (3, 2)), atol=0.01)


def test_silence_mixes_without_nans():
    tone = jnp.ones((1, 2, 7))
    snr = jnp.array([[20.0]])
    np.testing.assert_array_equal(scenes.mix(tone, 0 * tone, snr), tone)
    np.testing.assert_array_equal(scenes.mix(0 * tone, tone, snr), 0 * tone)


def test_a_scene_is_its_parts_one_item_and_one_position_at_a_time():
    rng = np.random.default_rng(0)
    clips, noises = rng.standard_normal((2, 90)), rng.standard_normal((2, 120))
    n_noise, rirs = np.array([40, 120]), rng.standard_normal((2, 4, 2, 30))
    rirs[0, 3] = 0  # this item has two noises only
    draws = scenes.SceneDraws(jnp.array([6.0, 31.0]), jnp.array([13, 0]))
    ours = jax.jit(scenes.scene, static_argnames="sfreq")(
        clips, noises, n_noise, rirs, draws, sfreq=100.0
    )
    for b in range(2):
        placed = slow_place(noises[b, : n_noise[b]], int(draws.offset[b]), 90, 20)
        for ear in range(2):
            source = np.convolve(clips[b], rirs[b, 0, ear])[:90]
            noise = sum(np.convolve(placed, rirs[b, k, ear])[:90] for k in (1, 2, 3))
            actual = 10 * np.log10(np.sum(source**2) / np.sum(noise**2))
            gain = 10 ** ((actual - float(draws.snr_db[b])) / 20)
            np.testing.assert_allclose(
                ours[b, ear], source + gain * noise, rtol=0, atol=1e-4
            )


def test_snr_and_offset_are_drawn_over_their_whole_range():
    n = 4000
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.vmap(scenes.draw_scene, in_axes=(0, 0, None))
    snr, offset = draw(keys, jnp.full(n, 90), 100)
    assert snr.min() >= 5
    assert snr.max() <= 40
    assert snr.mean() == pytest.approx(22.5, abs=3 * 35 / np.sqrt(12 * n))
    assert snr.std() == pytest.approx(35 / np.sqrt(12), rel=0.03)
    counts = np.bincount(offset, minlength=11)
    assert len(counts) == 11  # 0 to 10: the noise always fits
    expected = n / 11
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)
    assert abs(np.corrcoef(snr, offset)[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize("n_noise", [100, 101, 5000])
def test_a_noise_that_fills_the_clip_begins_with_it(n_noise):
    assert scenes.draw_scene(jax.random.key(3), n_noise, 100).offset == 0
