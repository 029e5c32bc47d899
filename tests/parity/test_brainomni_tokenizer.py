"""BrainTokenizer against the released implementation, stage by stage."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import quick
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

    @quick.jit
    def run(variables, batch):
        params, there = variables["params"], batch["meeg/sensor_mask"]
        windows, pos = task.inputs(batch, there, 0.0)
        sensors = task.sensors(params, pos, batch["meeg/sensor_type"])
        latents, _ = task.encode(params, windows, sensors, there)
        every = jnp.ones(latents.shape[:3], bool)
        found = task._quantize(variables, latents, every, False)
        tokens, kept = task._modules["encoder"].apply(
            {"params": params["encoder"]},
            windows.reshape(-1, task.window_samples, 1),
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        quantized = found.levels.sum(0).reshape(latents.shape)
        given = task._modules["from_sources"].apply(
            {"params": params["from_sources"]}, quantized, sensors
        )
        rebuilt = task.waveforms(params, given)
        commitment = found.error.mean() / task_width(task)
        target = waveform.standardized(windows)
        losses = whole_losses(rebuilt, target, commitment)
        overlapping, more_codes, valid = task.tokenize(variables, batch, 0.25)
        values = {
            "windows": windows,
            "sensor_embedding": sensors,
            "seanet_out": tokens,
            "latent_normed": latents,
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
            "windows_overlap25": task.inputs(batch, there, 0.25)[0],
            "tokens_overlap25": overlapping,
        }
        stages = {
            name: value["__call__"][0]
            for name, value in kept["intermediates"].items()
            if name != "__call__"
        }
        codes = {"indices": found.indices, "indices_overlap25": more_codes}
        return values, codes, stages, valid

    values, codes, stages, valid = jax.device_get(run(variables, one_batch(f)))
    assert valid.all()
    for name, ours in codes.items():
        same_codes(ours.reshape(f[name].shape), f[name], f["index_gap_min"])
    for name, ours in values.items():
        atol = 1e-4 if name in ("phase_loss", "total_loss") else 1e-5
        close(ours.reshape(f[name].shape), f[name], atol, name=name)

    n = len(task.ratios)
    at = {"first": 0, "lstm": 3 * n + 1, "last": 3 * n + 3}
    at |= {f"residual_{i}": 3 * i + 1 for i in range(n)}
    at |= {f"down_{i}": 3 * i + 3 for i in range(n)}
    assert set(at) == set(stages)
    shape = values["windows"].shape[:3]
    for name, number in at.items():
        x = stages[name]
        ours = x.reshape(*shape, *x.shape[1:])[0, :2, 0]  # as the file: two sensors
        theirs = f[f"enc_stage_{number:02d}"][0, :, 0]
        close(ours.swapaxes(1, 2), theirs, name=name)


def task_width(task):
    return task.width if task.quantizer == "simvq" else task.code_width


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


@each("brainomni", keys=TRAIN)
def test_losses_gradients_and_codebooks_are_the_released_ones(path):
    f = load(path)
    task, variables = prepared(f, revival="released")
    batch, draws = one_batch(f), drawn(f)
    b, c = batch["meeg/sensor_mask"].shape
    assert draws["shown"].shape == (b, int(task.n_shown(c)))

    @quick.jit
    def run(variables, batch, draws):
        others = {**variables, "frozen": {}}
        params, step = others.pop("params"), jnp.int32(0)
        found = loss_and_grads(task, params, others, batch, draws, step, 1)
        means, grads, sums = found
        moved = task.update_buffers(variables["buffers"], sums, step)
        return task.total(means), means, grads, sums["codebooks"]["count"], moved

    total, means, grads, counts, moved = jax.device_get(run(variables, batch, draws))
    for q, count in enumerate(counts):
        theirs = np.bincount(f["indices"][..., q].ravel(), minlength=task.n_codes)
        np.testing.assert_array_equal(count, theirs)
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
