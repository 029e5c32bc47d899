"""BrainTokenizer against the released implementation, stage by stage."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import each, load

from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.models.braintokenizer_weights import convert
from neurofm.nn.quantizers import kmeans
from neurofm.objectives import waveform
from neurofm.signals import meeg
from neurofm.step import loss_and_grads

EVAL = ("x", "w/encoder.neuros", "enc_stage_00", "x_rec")
TRAIN = ("x", "w/encoder.neuros", "channel_perm", "noise_unit")


def close(ours, theirs, atol=1e-5, rtol=1e-4, name=""):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=name)


def weights(f):
    return {k.removeprefix("w/"): v for k, v in f.items() if k.startswith("w/")}


def prepared(f, **fields):
    """Task and variables; signals and positions come normalised."""
    tensors = weights(f)
    official = BrainTokenizer.from_official(tensors, json.loads(str(f["config_json"])))
    assert not official.missing
    assert set(tensors) == official.used | set(official.ignored)
    task = replace(official.task, normalise="none", **fields)
    return task, jax.tree.map(jnp.asarray, official.variables)


def one_batch(f):
    b, c, t = f["x"].shape
    batch = {
        "meeg/signal": f["x"],
        "meeg/pos": f["pos"],
        "meeg/sensor_type": f["sensor_type"],
        "meeg/sensor_mask": np.ones((b, c), bool),
        "meeg/length": np.full(b, t, np.int32),
        "index": np.arange(b, dtype=np.int32),
        "valid": np.ones(b, bool),
    }
    return jax.tree.map(jnp.asarray, batch)


def same_codes(ours, theirs, gaps):
    """No code differs where the nearest was clear; else one in a thousand may."""
    allowed = 0.001 if gaps.min() < 1e-5 else 0.0
    assert (np.asarray(ours) != theirs).mean() <= allowed


def whole_losses(x, target, commitment):
    spectra = waveform.spectrum(x), waveform.spectrum(target)
    return {
        "time": waveform.time_error(x, target).mean(),
        "pcc": waveform.correlation(x, target).mean(),
        "amplitude": waveform.amplitude_error(*spectra).mean(),
        "phase": waveform.phase_error(*spectra).mean(),
        "commitment": commitment,
    }


@each("brainomni", keys=EVAL)
def test_every_stage_of_inference_is_the_released_one(path):
    f = load(path)
    task, variables = prepared(f)
    params, batch = variables["params"], one_batch(f)
    there = batch["meeg/sensor_mask"]

    @jax.jit
    def run(variables, batch):
        windows, pos = task.inputs(batch, there, 0.0)
        sensors = task.sensors(params, pos, batch["meeg/sensor_type"])
        latents = task.encode(params, windows, sensors, there)
        found = task._quantize(
            variables, latents, jnp.ones(latents.shape[:3], bool), False
        )
        flat = windows.reshape(-1, task.window_samples, 1)
        tokens = task._modules["encoder"].apply({"params": params["encoder"]}, flat)
        quantized = found.levels.sum(0).reshape(latents.shape)
        given = task._modules["from_sources"].apply(
            {"params": params["from_sources"]}, quantized, sensors
        )
        rebuilt = task.decode(params, quantized, sensors)
        commitment = found.error.mean() / task_width(task)
        target = waveform.standardized(windows)
        losses = whole_losses(rebuilt, target, commitment)
        return {
            "windows": windows,
            "sensor_embedding": sensors,
            "seanet_out": tokens,
            "latent_normed": latents,
            "indices": found.indices,
            "quantized": quantized,
            "quantized_per_layer": found.levels,
            "forward_solution": given,
            "x_rec": rebuilt,
            "target": target,
            "commitment_loss": commitment,
            "time_loss": losses["time"],
            "pcc": losses["pcc"],
            "amp_loss": losses["amplitude"],
            "phase_loss": losses["phase"],
            "total_loss": task.total(losses),
        }

    got = jax.device_get(run(variables, batch))
    same_codes(
        got.pop("indices").reshape(f["indices"].shape), f["indices"], f["index_gap_min"]
    )
    for name, value in got.items():
        atol = 1e-4 if name in ("phase_loss", "total_loss") else 1e-5
        close(value.reshape(f[name].shape), f[name], atol, name=name)


def task_width(task):
    return task.width if task.quantizer == "simvq" else task.code_width


@each("brainomni", keys=EVAL)
def test_every_stage_of_the_encoder_is_the_released_one(path):
    f = load(path)
    task, variables = prepared(f)
    windows, _ = task.inputs(one_batch(f), jnp.ones(f["x"].shape[:2], bool), 0.0)
    x = windows[0, :2, 0, :, None]
    module = {"params": variables["params"]["encoder"]}
    _, kept = task._modules["encoder"].apply(
        module, x, capture_intermediates=True, mutable=["intermediates"]
    )
    seen = {
        k: v["__call__"][0] for k, v in kept["intermediates"].items() if k[0] != "_"
    }
    stages = len(task.ratios)
    at = {"first": 0, "lstm": 3 * stages + 1, "last": 3 * stages + 3}
    at |= {f"residual_{i}": 3 * i + 1 for i in range(stages)}
    at |= {f"down_{i}": 3 * i + 3 for i in range(stages)}
    for name, number in at.items():
        theirs = f[f"enc_stage_{number:02d}"][0, :, 0]  # sensors, channels, time
        close(seen[name].swapaxes(1, 2), theirs, name=name)


@each("brainomni", keys=EVAL)
def test_tokens_of_overlapping_windows_are_the_released_ones(path):
    f = load(path)
    task, variables = prepared(f)
    batch = one_batch(f)
    windows, _ = task.inputs(batch, batch["meeg/sensor_mask"], 0.25)
    close(windows, f["windows_overlap25"], 0, 0)
    tokens, codes, valid = jax.jit(partial(task.tokenize, overlap=0.25))(
        variables, batch
    )
    assert valid.all()
    same_codes(codes, f["indices_overlap25"], f["index_gap_min"])
    close(tokens, f["tokens_overlap25"])


@each("brainomni", keys=("signal_si_units", "signal_normalised", "pos_raw_m"))
def test_reference_scale_and_positions_are_the_released_ones(path):
    f = load(path)
    kinds = jnp.asarray(f["sensor_type"])[None]
    there = jnp.ones(kinds.shape, bool)
    x = jnp.asarray(f["signal_si_units"], jnp.float32)[None]
    recorded = jnp.ones((1, x.shape[-1]), bool)
    scaled = meeg.reference_and_scale(x, kinds, there, recorded)
    close(scaled[0], f["signal_normalised"])
    pos = meeg.normalise_positions(jnp.asarray(f["pos_raw_m"])[None], kinds, there)
    close(pos[0], f["pos_normalised"])


def drawn(f):
    """The recorded draws, as ours: which sensors are shown, and the noise on them."""
    batch = len(f["x"])
    shown = f["channel_perm"][int(f["n_mask_channel"]) :]
    draws = {"shown": np.tile(shown.astype(np.int32), (batch, 1))}
    draws["noise"] = f["noise_unit"]
    return jax.tree.map(jnp.asarray, draws)


@pytest.mark.parametrize("accumulate", [1, 2])
@each("brainomni", keys=TRAIN)
def test_losses_gradients_and_codebooks_are_the_released_ones(path, accumulate):
    f = load(path)
    if accumulate > 1 and len(f["x"]) % accumulate:
        pytest.skip("its batch does not split")
    task, variables = prepared(f, revival="released")
    batch, draws = one_batch(f), drawn(f)
    b, c = batch["meeg/sensor_mask"].shape
    assert draws["shown"].shape == (b, int(task.n_shown(c)))

    @jax.jit
    def run(variables, batch, draws):
        others = {**variables, "frozen": {}}
        params, step = others.pop("params"), jnp.int32(0)
        found = loss_and_grads(task, params, others, batch, draws, step, accumulate)
        means, grads, sums = found
        latents = task._training_view(params, batch, draws)[0]
        codes = task._quantize(
            variables, latents, jnp.ones(latents.shape[:3], bool), True
        ).indices
        moved = task.update_buffers(variables["buffers"], sums, step)
        return task.total(means), means, grads, codes, moved

    total, means, grads, codes, moved = jax.device_get(run(variables, batch, draws))
    np.testing.assert_array_equal(codes.reshape(f["indices"].shape), f["indices"])
    named = {"time": "time_loss", "pcc": "pcc", "amplitude": "amp_loss"}
    named |= {"phase": "phase_loss", "commitment": "commitment_loss"}
    for ours, theirs in named.items():
        atol = 1e-4 if ours == "phase" else 1e-5
        close(means[ours], f[f"out/{theirs}"], atol, name=ours)
    close(total, f["out/loss"], 1e-4, name="loss")

    slopes = {k.removeprefix("grad/"): g for k, g in f.items() if k[:5] == "grad/"}
    theirs = convert(task, {**weights(f), **slopes}).variables["params"]
    atol = 1e-4 if task.quantizer == "simvq" else 1e-5
    ours = jax.tree_util.tree_leaves_with_path(grads)
    for (name, g), wanted in zip(ours, jax.tree.leaves(theirs), strict=True):
        close(g, wanted, atol, 1e-3, jax.tree_util.keystr(name))

    after = {k.removeprefix("after/"): v for k, v in f.items() if k[:6] == "after/"}
    theirs = convert(task, {**weights(f), **after}).variables["buffers"]
    jax.tree.map(partial(close, atol=1e-6, rtol=1e-5), moved, theirs)
    if task.quantizer == "ema":
        assert (moved["codebooks"]["count"] < 2).sum() >= 2


@each("brainomni", keys=("samples", "initial_centers", "bins"))
def test_k_means_is_the_released_one(path):
    f = load(path)
    weight = jnp.ones(len(f["samples"]))
    centers, bins = kmeans(
        jnp.asarray(f["samples"]), weight, jnp.asarray(f["initial_centers"])
    )
    close(centers, f["centers"])
    np.testing.assert_array_equal(bins, f["bins"])
