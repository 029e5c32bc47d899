"""Sound preparation and binaural scenes against the released implementation."""

import re

import jax.numpy as jnp
import numpy as np
from fixtures import each, load

from neurofm.signals import audio, scenes


@each("wavjepa", keys=("rms_in", "rms_out"))
def test_loudness_is_the_released_one(path):
    f = load(path)
    np.testing.assert_allclose(
        audio.rms_normalize(f["rms_in"]), f["rms_out"], rtol=0, atol=1e-5
    )


@each("wavjepa", keys=("preprocess_*_in", "preprocess_*_out_sr*"))
def test_loudness_and_length_are_the_released_ones(path):
    f = load(path)
    for name, out in f.items():
        if not (parts := re.fullmatch(r"preprocess_(\w+)_out_sr(\d+)", name)):
            continue
        clip = f[f"preprocess_{parts[1]}_in"][None]
        ours = audio.fit_length(audio.rms_normalize(clip), 10 * int(parts[2]))
        np.testing.assert_allclose(ours, out, rtol=0, atol=1e-5, err_msg=name)


@each("wavjepa", keys=("resample_*_in", "resample_*_to_*_out*"))
def test_resampling_is_the_released_one_on_host_and_device(path):
    f = load(path)
    for name, out in f.items():
        if not (parts := re.fullmatch(r"resample_(\d+)_to_(\d+)_out(.*)", name)):
            continue
        x = f[f"resample_{parts[1]}_in"]
        rates = float(parts[1]), float(parts[2])
        window = "hann" if "hann" in parts[3] else "kaiser"
        for ours in (
            audio.resample(x, *rates, window),
            audio.resample(x.astype(np.float64), *rates, window),
            audio.resample_on_device(jnp.asarray(x), *rates, window),
        ):
            np.testing.assert_allclose(ours, out, rtol=0, atol=1e-4, err_msg=name)


@each("wavjepa", keys=("crop_in", "crop_starts", "crop_perm", "crop_length"))
def test_crops_are_cut_and_normalised_as_released(path):
    f = load(path)
    length = int(f["crop_length"])
    cut = audio.crops(f["crop_in"], f["crop_starts"], length)
    cut = cut.reshape(-1, *cut.shape[2:])[f["crop_perm"]]
    span = jnp.tile(jnp.array([[0, length]]), (len(cut), 1))
    for statistics in ("valid", "unit"):
        ours = audio.normalize_crop(jnp.asarray(cut), span, statistics)
        np.testing.assert_allclose(
            ours, f["crop_out_bf16_as_f32"], rtol=2**-8, atol=1e-6
        )


@each("wavjepa", keys=("source", "noise", "source_rir", "noise_rirs", "snr_db"))
def test_scenes_are_mixed_as_released(path):
    f = load(path)
    source, noise, rir, rirs, snr = (
        jnp.asarray(f[k])
        for k in ("source", "noise", "source_rir", "noise_rirs", "snr_db")
    )
    heard = scenes.heard(source, rir)
    np.testing.assert_allclose(heard, f["scene_rir_only"], rtol=0, atol=1e-4)
    mixed = scenes.mix(heard, scenes.heard_from_all(noise, rirs), snr)
    np.testing.assert_allclose(mixed, f["scene_rir_and_noise"], rtol=0, atol=1e-4)


@each("wavjepa", keys=("fade_*_noise_in", "fade_*_noise_out_sr*"))
def test_noises_fade_as_released(path):
    f = load(path)
    for name, out in f.items():
        if not (parts := re.fullmatch(r"fade_(\w+)_noise_out_sr(\d+)", name)):
            continue
        noise = f[f"fade_{parts[1]}_noise_in"]
        start = int(f.get(f"fade_{parts[1]}_noise_start", 0))
        ours = scenes.place_noise(
            jnp.asarray(noise)[None],
            jnp.array([len(noise)]),
            jnp.array([-start]),
            len(out),
            float(parts[2]),
        )
        np.testing.assert_allclose(ours[0], out, rtol=0, atol=1e-5, err_msg=name)
