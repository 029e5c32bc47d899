"""BrainOmni against the released implementation, and the two stages at full size."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import quick
from fixtures import each, load
from test_brainomni_tokenizer import close, one_batch, same_codes, weights, whole_losses

from neurofm.models.brainomni import BrainOmni
from neurofm.models.brainomni_weights import convert, tokenizer_tensors
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.objectives import waveform
from neurofm.step import loss_and_grads

STAGE_2 = ("x", "w/mask_token", "u_mask", "logits")
RECIPE = ("seed", "x", "check_first_values", "encode")


def prepared(tensors, config, **fields):
    """Task and variables; signals and positions come normalised."""
    official = BrainOmni.from_official(tensors, config)
    assert not official.missing
    assert set(tensors) == official.used | set(official.ignored)
    tokenizer = replace(official.task.tokenizer, normalise="none")
    task = replace(official.task, tokenizer=tokenizer, **fields)
    return task, jax.tree.map(jnp.asarray, official.variables)


def of_file(f, **fields):
    return prepared(weights(f), json.loads(str(f["config_json"])), **fields)


def drawn(f, task):
    """The recorded draws, as ours."""
    keep = f["u_mask"] > task.mask_ratio
    np.testing.assert_array_equal(keep, f["mask_keep"])
    hide = keep + f["u_replace"] <= 0.8
    draws = {"keep": keep, "hide": hide, "source": f["token_perm"].reshape(keep.shape)}
    draws["dropout"] = np.zeros((len(keep), 2), np.uint32)
    return jax.tree.map(jnp.asarray, draws)


@each("brainomni", keys=STAGE_2)
def test_every_activation_is_the_released_one(path):
    f = load(path)
    task, variables = of_file(f, replacement="batch")
    batch = one_batch(f)

    @quick.jit
    def run(variables, batch, draws):
        params = variables["params"]
        tokens, codes, valid = task._tokens(variables, batch)
        hidden = task.hidden_tokens(params, tokens, draws)
        layers = task.layers(variables, hidden, valid, None)
        read = task.read(variables, batch)
        last = read.values["last"].reshape(*valid.shape, -1, task.width)
        return tokens, codes, layers, task.logits(params, layers[-1]), last

    tokens, codes, layers, logits, last = jax.device_get(
        run(variables, batch, drawn(f, task))
    )
    np.testing.assert_array_equal(codes, f["labels"])
    close(tokens, f["tokens"])
    for i, x in enumerate(layers):
        close(x, f[f"mlm_block_out_{i:02d}"], name=f"block {i}")
    close(logits, f["logits"])
    close(last.swapaxes(1, 2), f["encode"])


@each("brainomni", keys=STAGE_2)
def test_loss_accuracy_and_gradients_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(f, replacement="batch")

    @quick.jit
    def run(variables, batch, draws):
        others = dict(variables)
        params, step = others.pop("params"), jnp.int32(0)
        found = loss_and_grads(task, params, others, batch, draws, step, 1)
        return found[0], found[1], task.summary(found[2])

    found = run(variables, one_batch(f), drawn(f, task))
    means, grads, summary = jax.device_get(found)
    close(means["codes"], f["out/loss"])
    close(summary["accuracy"], f["out/acc_all"])
    for q in range(task.n_quantizers_used):
        close(summary[f"accuracy_{q + 1}"], f[f"out/acc_{q}"])
    slopes = {k.removeprefix("grad/"): g for k, g in f.items() if k[:5] == "grad/"}
    first = BrainTokenizer.from_official(
        tokenizer_tensors(weights(f)), json.loads(str(f["config_json"]))
    )
    theirs = convert(task, {**weights(f), **slopes}, first).variables["params"]
    ours = jax.tree_util.tree_leaves_with_path(grads)
    for (name, g), wanted in zip(ours, jax.tree.leaves(theirs), strict=True):
        close(g, wanted, 1e-5, 1e-3, jax.tree_util.keystr(name))


@each("brainomni", keys=STAGE_2)
def test_within_one_recording_the_same_vectors_are_taken(path):
    """Both forms of replacement are one where a permutation keeps to its example."""
    f = load(path)
    whole, variables = of_file(f, replacement="batch")
    task = replace(whole, replacement="example")
    b, s, w = f["mask_keep"].shape
    own = np.random.default_rng(0).permuted(np.tile(np.arange(s * w), (b, 1)), axis=1)
    draws = drawn(f, task)
    hidden = [
        t.hidden_tokens(
            variables["params"], jnp.asarray(f["tokens"]), {**draws, "source": source}
        )
        for t, source in (
            (task, jnp.asarray(own.reshape(b, s, w))),
            (
                whole,
                jnp.asarray((own + np.arange(b)[:, None] * s * w).reshape(b, s, w)),
            ),
        )
    ]
    np.testing.assert_array_equal(*hidden)


def recipe_weights(seed, config):
    """The weights that the full-size fixture was made with, drawn name by name."""
    task = BrainOmni(
        tokenizer=BrainTokenizer(
            window_samples=config["window_length"],
            n_filters=config["n_filters"],
            ratios=tuple(config["ratios"]),
            width=config["n_dim"],
            n_sources=config["n_neuro"],
            heads=config["n_head"],
            n_quantizers=config["num_quantizers"],
            n_codes=config["codebook_size"],
            code_width=config["codebook_dim"],
        ),
        width=config["lm_dim"],
        depth=config["lm_depth"],
        heads=config["lm_head"],
    )
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in sorted(official_shapes(task, config).items()):
        a = rng.standard_normal(shape).astype(np.float32)
        if name.endswith(("weight_g", "norm.weight")):
            a = 1 + np.float32(0.1) * a
        elif name.endswith("bias") or ".bias_" in name:
            a = np.float32(0.05) * a
        elif not name.endswith(("weight_v", "neuros", "mask_token")):
            scale = 0.7 if name.endswith(".embed") else 1.0
            a = (scale * a / np.sqrt(shape[1])).astype(np.float32)
        tensors[name] = a
    for name in [n for n in tensors if n.endswith(".embed")]:
        book = name.removesuffix("embed")
        tensors[f"{book}embed_avg"] = tensors[name]
        tensors[f"{book}cluster_size"] = np.full(len(tensors[name]), 4, np.float32)
        tensors[f"{book}inited"] = np.ones(1, np.float32)
    return tensors


def official_shapes(task, config):
    """Names and shapes of the released state_dict, written from its description."""
    first, d, shapes = task.tokenizer, task.tokenizer.width, {}

    def linear(name, n_out, n_in):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (n_out, n_in), (n_out,)

    def conv(name, n_out, n_in, k, up=False):
        name += ".convtr.convtr" if up else ".conv.conv"
        v = (n_in, n_out, k) if up else (n_out, n_in, k)
        shapes[f"{name}.weight_v"], shapes[f"{name}.weight_g"] = v, (v[0], 1, 1)
        shapes[f"{name}.bias"] = (n_out,)

    def residual(name, m):
        conv(f"{name}.block.1", m // 2, m, 3)
        conv(f"{name}.block.3", m, m // 2, 1)
        conv(f"{name}.shortcut", m, m, 1)

    def lstm(name, m):
        for i in (0, 1):
            for part in ("ih", "hh"):
                shapes[f"{name}.lstm.weight_{part}_l{i}"] = (4 * m, m)
                shapes[f"{name}.lstm.bias_{part}_l{i}"] = (4 * m,)

    at = "tokenizer.sensor_embed"
    shapes[f"{at}.sensor_embedding_layer.weight"] = (3, d)
    linear(f"{at}.pos_embedding_layer.0", d // 2, 6)
    linear(f"{at}.pos_embedding_layer.2", d, d // 2)
    linear(f"{at}.aggregate_mlp.layer.0", 4 * d, d)
    linear(f"{at}.aggregate_mlp.layer.2", d, 4 * d)
    shapes[f"{at}.norm.weight"] = (d,)
    shapes["tokenizer.encoder.neuros"] = (first.n_sources, d)
    for name in ("k_proj", "backwardsolution.v", "backwardsolution.proj"):
        linear(f"tokenizer.encoder.{name}", d, d)
    linear("tokenizer.decoder.forwardsolution.kv", 2 * d, d)
    linear("tokenizer.decoder.forwardsolution.proj", d, d)
    k, k_last, f = config["kernel_size"], config["last_kernel_size"], first.n_filters
    at = "tokenizer.encoder.seanet_encoder.model"
    conv(f"{at}.0", f, 1, k)
    for i, r in enumerate(reversed(first.ratios)):
        residual(f"{at}.{3 * i + 1}", f)
        conv(f"{at}.{3 * i + 3}", 2 * f, f, 2 * r)
        f *= 2
    n = 3 * len(first.ratios)
    lstm(f"{at}.{n + 1}", f)
    conv(f"{at}.{n + 3}", d, f, k_last)
    at = "tokenizer.decoder.seanet_decoder.model"
    conv(f"{at}.0", f, d, k)
    lstm(f"{at}.1", f)
    for i, r in enumerate(first.ratios):
        f //= 2
        conv(f"{at}.{3 * i + 3}", f, 2 * f, 2 * r, up=True)
        residual(f"{at}.{3 * i + 4}", f)
    conv(f"{at}.{n + 3}", 1, f, k_last)
    for q in range(first.n_quantizers):
        book = f"tokenizer.quantizer.rvq.layers.{q}._codebook.embed"
        shapes[book] = (first.n_codes, first.code_width)
    e, half = task.width, task.width // 2
    shapes["mask_token"] = (d,)
    if d != e:
        linear("projection", e, d)
    linear("predict_head", task.n_quantizers_used * first.n_codes, e)
    for i in range(task.depth):
        shapes[f"blocks.{i}.pre_attn_norm.weight"] = (e,)
        shapes[f"blocks.{i}.pre_ff_norm.weight"] = (e,)
        for part in ("time_attn", "spatial_attn"):
            linear(f"blocks.{i}.{part}.qkv", 3 * half, half)
            linear(f"blocks.{i}.{part}.proj", half, half)
        linear(f"blocks.{i}.ff.layer.0", 4 * e, e)
        linear(f"blocks.{i}.ff.layer.2", e, 4 * e)
    return shapes


@each("brainomni", keys=RECIPE)
def test_at_full_size_both_stages_are_the_released_ones(path):
    f = load(path)
    config = json.loads(str(f["config_json"]))
    tensors = recipe_weights(int(f["seed"]), config)
    neuros = tensors["tokenizer.encoder.neuros"]
    types = tensors["tokenizer.sensor_embed.sensor_embedding_layer.weight"]
    np.testing.assert_array_equal(neuros[0, :8], f["check_first_values"])
    close(types[0, :8], f["check_last_values"], 1e-7, 1e-6)
    task, variables = prepared(tensors, config)
    batch, first = one_batch(f), task.tokenizer
    own = variables["frozen"]["tokenizer"]
    there = batch["meeg/sensor_mask"]

    @quick.jit
    def run(variables, batch):
        params = variables["frozen"]["tokenizer"]["params"]
        windows, pos = first.inputs(batch, there, 0.0)
        sensors = first.sensors(params, pos, batch["meeg/sensor_type"])
        latents, _ = first.encode(params, windows, sensors, there)
        every = jnp.ones(latents.shape[:3], bool)
        found = first._quantize(own, latents, every, False)
        codes = jnp.asarray(f["indices"]).reshape(-1, first.n_quantizers)
        books = own["buffers"]["codebooks"]["embed"]
        vectors = sum(books[q][codes[:, q]] for q in range(first.n_quantizers))
        tokens = first.at_sensors(params, vectors.reshape(latents.shape), sensors)
        rebuilt = first.waveforms(params, tokens)
        target = waveform.standardized(windows)
        commitment = found.error.mean() / first.code_width
        losses = whole_losses(rebuilt, target, commitment)
        _, overlapping, _ = first.tokenize(own, batch, task.overlap)
        last = task.read(variables, batch).values["last"]
        return sensors, latents, found.indices, rebuilt, losses, overlapping, last

    got = jax.device_get(run(variables, batch))
    sensors, latents, codes, rebuilt, losses, overlapping, last = got
    close(sensors, f["sensor_embedding"])
    shape = f["latent"].shape
    theirs = f["latent"] / np.linalg.norm(f["latent"], axis=-1, keepdims=True)
    close(latents.reshape(shape), theirs)
    same_codes(codes.reshape(f["indices"].shape), f["indices"], f["index_gap_min"])
    close(rebuilt, f["x_rec"])
    close(losses["time"], f["time_loss"])
    close(losses["pcc"], f["pcc"])
    close(losses["amplitude"], f["amp_loss"])
    close(losses["phase"], f["phase_loss"], 1e-4)
    close(losses["commitment"], f["commitment_loss"])
    same_codes(overlapping, f["indices_overlap25"], f["index_gap_min"])
    wanted = f["encode"].swapaxes(1, 2).reshape(last.shape)
    if (overlapping == f["indices_overlap25"]).all():
        close(last, wanted)
    assert np.abs(last - wanted).mean() < 1e-3
