"""Activations, losses, gradients and training steps of the released implementation."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures import beside, config, each, load

from neurofm.models.wavjepa import WavJEPA
from neurofm.models.wavjepa_weights import convert
from neurofm.nn.conv import TimeNorm, strided_conv
from neurofm.objectives.masks import positions
from neurofm.optim import Optim
from neurofm.step import update

FORWARD = ("in_audio", "out_loss", "out_local_features")
STEPS = ("in_audio", "step_loss", "step_ema")


def prepared(path, **fields):
    """Task and variables of the weights beside a file; its crops come normalised."""
    weights = load(beside(path, "_weights.npz"))
    tensors = {name.removeprefix("w/"): w for name, w in weights.items()}
    official = WavJEPA.from_official(tensors, config(path))
    assert not official.missing
    assert set(tensors) == official.used | set(official.ignored)
    variables = jax.tree.map(jnp.asarray, official.variables)
    return replace(official.task, crop_norm="none", **fields), variables


def one_batch(wave, context_hidden, target):
    n = wave.shape[0]
    span = np.tile(np.array([[0, wave.shape[-1]]], np.int32), (n, 1))
    batch = {
        "audio/wave": wave,
        "audio/span": span,
        "index": np.arange(n),
        "valid": np.ones(n, bool),
    }
    draws = {
        "context": ~context_hidden,
        "target": target,
        "altered": np.zeros(n, bool),
    }
    return jax.tree.map(jnp.asarray, (batch, draws))


INPUTS = ("in_audio", "in_ctx_mask", "in_target_mask")


def close(ours, theirs, atol, name=""):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


@each("wavjepa", keys=FORWARD)
def test_every_activation_is_the_released_one(path):
    f = load(path)
    task, variables = prepared(path, compute="dense")
    params, slow = variables["params"], variables["slow"]
    batch, draws = one_batch(f["in_audio"], f["in_ctx_mask"], f["in_target_mask"])
    encode, predict = jax.jit(task._encoder.apply), jax.jit(task._predictor.apply)
    tokens = jax.jit(task.embed_tokens)(
        params, batch["audio/wave"], batch["audio/span"]
    )
    close(tokens, f["out_local_features"], 6e-6, "tokens")

    encoder = {"params": params["encoder"]}
    encoded, blocks = encode(encoder, tokens, draws["context"])
    for i, block in enumerate(blocks):
        close(block, f[f"out_encoder_layer{i}"], 6e-6, f"student block {i}")
    close(encoded, f["out_encoder"], 6e-6, "student")

    valid = jnp.ones(tokens.shape[:2], bool)
    teacher = {"params": slow["teacher"]}
    _, blocks = encode(teacher, tokens, valid)
    for i, block in enumerate(blocks):
        close(block, f[f"out_teacher_layer{i}"], 6e-6, f"teacher block {i}")
    close(
        jax.jit(task.targets)(slow, tokens, valid)[0], f["out_targets"], 6e-6, "targets"
    )

    z = task._to_predictor(params, encoded)
    packed = np.asarray(z)[~f["in_ctx_mask"]]
    close(packed, f["out_encoder_to_decoder_packed"], 6e-6, "packed context")
    z = jnp.where(draws["context"][..., None], z, params["mask_token"])
    z = z + task._positions(task.predictor_width, z.dtype)
    close(z, f["out_decoder_input"], 6e-6, "predictor input")

    groups = f["in_target_mask"].shape[1]
    visible = jnp.asarray(~f["in_ctx_and_target_mask"])
    flat = visible.reshape(-1, visible.shape[-1])
    repeated = jnp.repeat(z, groups, axis=0)
    predictor = {"params": params["predictor"]}
    out, _ = predict(predictor, repeated, flat)
    close(out[:groups], f["out_decoder_first"], 6e-6, "predictor")
    close(
        jax.jit(task._predict)(params, repeated, flat),
        f["out_preds"],
        6e-6,
        "predictions",
    )

    everything, _ = encode(encoder, tokens, valid)
    close(everything, f["out_representation_nopad"], 6e-6, "representation")
    shown = ~f["in_padding_mask"]
    padded, _ = encode(encoder, tokens, jnp.asarray(shown))
    padded = np.where(shown[..., None], padded, 0)
    close(padded, f["out_representation_padded"], 6e-6, "padded representation")


@each("wavjepa", keys=FORWARD)
def test_every_stem_layer_is_the_released_one(path):
    f = load(path)
    task, variables = prepared(path)
    for name in (n for n in f if n.startswith("out_conv")):
        channel, last = re.fullmatch(r"out_conv(?:_ch(\d)_)?(\d)", name).groups()
        stem = variables["params"][f"stem_{channel or 0}"]
        y = jnp.asarray(f["in_audio"][:1, int(channel or 0), :, None])
        for i, (_, _, stride) in enumerate(task.conv_layers[: int(last) + 1]):
            y = strided_conv(y, stem[f"conv_{i}"], stride)
            if i == 0:
                y = TimeNorm().apply({"params": stem["norm"]}, y, None)
            y = jax.nn.gelu(y, approximate=False)
        close(y.transpose(0, 2, 1), f[name], 6e-6, name)


@pytest.mark.parametrize("form", ["dense", "gathered"])
@each("wavjepa", keys=FORWARD)
def test_loss_and_gradients_are_the_released_ones(path, form):
    f = load(path)
    widest = int((~f["in_ctx_mask"]).sum(-1).max())
    task, variables = prepared(path, compute=form, context_caps=(30, widest + 1))
    batch, draws = one_batch(f["in_audio"], f["in_ctx_mask"], f["in_target_mask"])

    def loss(params):
        own = {**variables, "params": params}
        terms, _ = task.loss(own, batch, draws, jnp.zeros((), int), True)
        total, weight = terms["latent"]
        return total / weight

    value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
    close(value, f["out_loss"], 1e-5, "loss")
    official = load(beside(path, "_grads.npz"))
    tensors = {n.removeprefix("g/"): g for n, g in official.items() if "g/" in n}
    theirs = convert(task, tensors).variables["params"]
    jax.tree.map(lambda a, b: close(a, b, 1e-5), grads, theirs)
    close(jax.jit(optax.tree.norm)(grads), official["grad_norm"], 1e-5, "gradient norm")


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
@each("wavjepa", keys=STEPS)
def test_training_steps_are_the_released_ones(path, accumulate):
    f, settings = load(path), config(path)["trainsteps"]
    steps = settings["steps"]
    if f["in_audio"].shape[1] % accumulate:
        accumulate = f["in_audio"].shape[1]
    task, variables = prepared(
        path,
        horizon=steps,
        ema_start=settings["ema_decay"],
        ema_end=settings["ema_end_decay"],
        ema_anneal=settings["ema_anneal_end_step"] / steps,
        context_caps=(400,),
    )
    optim = Optim(
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
        clip_norm=settings["grad_clip_global_norm"],
        warmup=settings["warmup_steps"] / steps,
    )

    @jax.jit
    def advance(state, batch, draws):
        return update(task, optim, steps, accumulate, state, {}, batch, draws)

    params = jax.tree.map(jnp.asarray, variables["params"])
    state = {
        "params": params,
        "slow": {"teacher": params["encoder"]},
        "buffers": {},
        "opt": jax.jit(optim.build(steps).init)(params),
        "step": jnp.zeros((), jnp.int32),
    }
    for i in range(steps):
        state, metrics, _ = advance(
            state,
            *one_batch(*(f[n][i] for n in INPUTS)),
        )
        close(metrics["train/loss"], f["step_loss"][i], 1e-4, f"loss {i}")
        close(metrics["optim/lr"], f["step_lr"][i], 1e-8, f"rate {i}")
        norm = f["step_grad_norm_before_clip"][i]
        close(metrics["optim/grad_norm"], norm, 1e-4, f"norm {i}")
    final = {n.removeprefix("final/"): w for n, w in f.items() if "final/" in n}
    theirs = convert(task, final).variables
    jax.tree.map(lambda a, b: close(a, b, 1e-4), state["params"], theirs["params"])
    jax.tree.map(lambda a, b: close(a, b, 1e-4), state["slow"], theirs["slow"])


@each("wavjepa", keys=FORWARD)
def test_gathered_places_cover_the_visible_tokens(path):
    f = load(path)
    context = ~f["in_ctx_mask"]
    index, real = positions(jnp.asarray(context), int(context.sum(-1).max()))
    for row in range(len(context)):
        places = np.asarray(index[row])[np.asarray(real[row])]
        np.testing.assert_array_equal(places, np.flatnonzero(context[row]))
