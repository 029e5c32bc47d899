"""Du-IN against the released implementation: codes, masked codes, words."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import quick
from fixtures import each, load

from neurofm.models import duin_trunk
from neurofm.models.duin import DuIN, channel_contribution
from neurofm.models.duin_vqvae import DuINVQVAE
from neurofm.models.duin_weights import convert, convert_vqvae
from neurofm.models.finetune import Finetune
from neurofm.nn.quantizers import kmeans
from neurofm.step import loss_and_grads

F32 = jnp.dtype("float32")
VQVAE = ("w/vq_block.codex.embeddings", "config_json", "X_reconstr")
EVAL = (*VQVAE, "code_index")
TRAIN = (*VQVAE, "grad/*", "after/*")
MASKED = ("w/mask_emb", "config_json", "c_true", "mask")
WORDS = ("w/cls_block.cls_head.*", "config_json", "y_pred_sigmoid")


def close(ours, theirs, atol=1e-5, rtol=1e-4, name=""):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=name)


def part(f, prefix):
    return {k.removeprefix(prefix): x for k, x in f.items() if k.startswith(prefix)}


def of_file(cls, f):
    """Task and variables of the weights in a file."""
    tensors, config = part(f, "w/"), json.loads(str(f["config_json"]))
    found = cls.from_official(tensors, config)
    assert not found.missing
    assert set(tensors) == found.used | set(found.ignored)
    return found.task, jax.tree.map(jnp.asarray, found.variables)


def batch_of(f):
    b, t, c = f["X"].shape
    mask = f.get("channel_mask", np.ones((b, c), bool))
    batch = {
        "ieeg/signal": f["X"].swapaxes(1, 2),
        "ieeg/channel_mask": mask,
        "ieeg/length": np.full(b, t, np.int32),
        "subject": f["subj_id"].argmax(1).astype(np.int32),
        "index": np.arange(b, dtype=np.int32),
        "valid": np.ones(b, bool),
    }
    return jax.tree.map(jnp.asarray, batch)


def trunk_of(task, variables, batch):
    """What the fixtures hold of the trunk, by their names."""
    params = variables["params"]
    x, there = task.trunk.signals(batch)
    neural = task.trunk.neural(params, x, batch["subject"], F32)
    tokens, _ = task.trunk.tokens(params, variables["buffers"], neural, None)
    layers = task.trunk.layers(params, tokens, there, None, F32)
    found = {"subj_out": neural, "tokenizer_out": tokens, "encoder_out": layers[-1]}
    return found | {f"encoder_block_{i:02d}": y for i, y in enumerate(layers)}


def all_close(found, f):
    for name, x in jax.device_get(found).items():
        close(x, f[name], name=name)


def same_gradients(ours, theirs):
    named = jax.tree_util.tree_leaves_with_path(ours)
    for (name, g), wanted in zip(named, jax.tree.leaves(theirs), strict=True):
        close(g, wanted, 1e-5, 1e-3, jax.tree_util.keystr(name))


@each("duin", keys=EVAL)
def test_every_stage_of_the_codes_is_the_released_one(path):
    f = load(path)
    task, variables = of_file(DuINVQVAE, f)
    batch = batch_of(f)

    @quick.jit
    def run(variables, batch):
        params = variables["params"]
        found = trunk_of(task, variables, batch)
        last = found["encoder_out"]
        every = jnp.ones(last.shape[:2], bool)
        coded = task.coded(variables, last, every)
        quantized = coded.vectors.reshape(last.shape)
        decoded = task.decoded(params, quantized, every)
        z = task._codes.unit(params["codes"], last.reshape(-1, last.shape[-1]))
        terms, _ = task.loss(variables, batch, {}, jnp.int32(0), False)
        means = {name: total / n for name, (total, n) in terms.items()}
        found |= {
            "code_pre": z.reshape(*last.shape[:2], -1),
            "quantized": quantized,
            "decoder_out": decoded,
            "rgs_out": task.regressed(params, decoded),
            "loss_vq": means["commitment"],
            "loss_rgs": means["waveform"],
            "loss_total": task.total(means),
        }
        told = task.read(variables, batch, "reconstruction").values["reconstruction"]
        return {**found, "X_reconstr": told}, task.codes(variables, batch)[0]

    found, codes = run(variables, batch)
    all_close(found, f)
    np.testing.assert_array_equal(codes, f["code_index"])


@each("duin", keys=TRAIN)
def test_a_training_step_of_the_codes_is_the_released_one(path):
    f = load(path)
    task, variables = of_file(DuINVQVAE, f)
    task = replace(task, trunk=replace(task.trunk, dropout=0.0))

    @quick.jit
    def run(variables, batch):
        others = {**variables, "frozen": {}}
        params, step = others.pop("params"), jnp.int32(0)
        draws = task.draw(batch, jax.random.key(0), step, True)
        found = loss_and_grads(task, params, others, batch, draws, step, 1)
        means, grads, sums = found
        moved = task.update_buffers(variables["buffers"], sums, step)
        return task.total(means), means, grads, moved

    total, means, grads, moved = jax.device_get(run(variables, batch_of(f)))
    close(total, f["loss_total"])
    close(means["commitment"], f["loss_vq"])
    close(means["waveform"], f["loss_rgs"])
    tensors = part(f, "w/")
    theirs = convert_vqvae(task, {**tensors, **part(f, "grad/")})
    same_gradients(grads, theirs.variables["params"])
    theirs = convert_vqvae(task, {**tensors, **part(f, "after/")}).variables["buffers"]
    jax.tree.map(partial(close, atol=1e-6, rtol=1e-5), moved, theirs)


@each("duin", keys=MASKED)
def test_masked_codes_and_their_gradients_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(DuIN, f)
    batch, hidden = batch_of(f), jnp.asarray(f["mask"])
    codes = jnp.asarray(f["c_true"].argmax(-1))

    def loss(params):
        own = {**variables, "params": params}
        tokens, _ = task.trunk.patches(params, own["buffers"], batch, None, F32)
        there = jnp.ones(hidden.shape, bool)
        logits, _ = task.logits(params, tokens, there, hidden)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
        return each.mean(), logits

    @quick.jit
    def run(params):
        found = jax.value_and_grad(loss, has_aux=True)(params)
        return found, trunk_of(task, {**variables, "params": params}, batch)

    ((value, logits), grads), trunk = run(variables["params"])
    all_close({**trunk, "c_pred": logits, "loss": value}, f)
    tensors = {**part(f, "w/"), **part(f, "grad/")}
    same_gradients(grads, convert(task, tensors).variables["params"])


@each("duin", keys=MASKED)
def test_the_loss_of_the_task_is_that_of_the_codes_which_its_first_stage_gives(path):
    f = load(path)
    task, variables = of_file(DuIN, f)
    batch = batch_of(f)
    first = quick.jit(lambda b: task.tokenizer.init(jax.random.key(1), b, {}))(batch)
    draws = {"hidden": jnp.asarray(f["mask"])}

    @quick.jit
    def run(variables, batch):
        terms, sums = task.loss(variables, batch, draws, jnp.int32(0), False)
        codes, _, there = task.tokenizer.codes(first, batch)
        tokens, _ = task.trunk.patches(
            variables["params"], variables["buffers"], batch, None, F32
        )
        logits, _ = task.logits(variables["params"], tokens, there, draws["hidden"])
        return terms["codes"], sums["hits"], logits, codes

    given = {**variables, "frozen": {"tokenizer": first}}
    (total, n), hits, logits, codes = run(given, batch)
    assert n == codes.size
    share = jax.nn.softmax(logits)
    told = np.take_along_axis(np.asarray(share), np.asarray(codes)[..., None], -1)
    close(total / n, -np.log(told).mean())
    assert hits == (np.asarray(logits).argmax(-1) == codes).sum()


def words_of(f, task, variables):
    """The word model as fine-tuning has it."""
    config = json.loads(str(f["config_json"]))
    hidden = config["cls"]["d_hidden"]
    assert len(hidden) <= 1
    n = len(hidden) + 1
    linear = [
        (
            f[f"w/cls_block.cls_head.{i}.0.weight"].T,
            f[f"w/cls_block.cls_head.{i}.0.bias"],
        )
        for i in range(1, n + 1)
    ]
    head = dict(zip(("kernel", "bias"), linear[-1], strict=True))
    if hidden:
        head |= dict(zip(("hidden_kernel", "hidden_bias"), linear[0], strict=True))
    tuned = Finetune(
        task=task,
        head="flat",
        hidden=hidden[0] if hidden else 0,
        classes=tuple(f"{i}" for i in range(f["y_true"].shape[1])),
        scores="released",
    )
    own = {"task": variables["params"], "head": jax.tree.map(jnp.asarray, head)}
    return tuned, own


@each("duin", keys=WORDS)
def test_words_are_told_as_released(path):
    f = load(path)
    task, variables = of_file(DuIN, f)
    tuned, own = words_of(f, task, variables)
    batch = {**batch_of(f), "label": jnp.asarray(f["y_true"].argmax(1), jnp.int32)}
    frozen = {"task": variables}
    logits = quick.jit(
        lambda v: tuned.read(v, batch, "prediction").values["prediction"]
    )
    whole = {"params": own, "buffers": {}, "frozen": frozen}
    close(logits(whole)[:, 0], f["y_pred_sigmoid"])
    plain = replace(tuned, scores="plain")
    raw = plain.read(whole, batch, "prediction").values["prediction"][:, 0]
    close(jax.nn.sigmoid(raw), f["y_pred_sigmoid"])

    def loss(head):
        params = {**own, "head": head}
        draws = tuned.draw(batch, jax.random.key(0), jnp.int32(0), False)
        variables = {"params": params, "buffers": {}, "frozen": frozen}
        terms, _ = tuned.loss(variables, batch, draws, jnp.int32(0), False)
        total, n = terms["classes"]
        return total / n

    value, grads = quick.jit(jax.value_and_grad(loss))(own["head"])
    close(value, f["loss_cls"])
    last = len(json.loads(str(f["config_json"]))["cls"]["d_hidden"]) + 1
    names = {"kernel": (last, "weight"), "bias": (last, "bias")}
    names |= {"hidden_kernel": (1, "weight"), "hidden_bias": (1, "bias")}
    for name, g in grads.items():
        i, kind = names[name]
        close(g.T, f[f"grad/cls_block.cls_head.{i}.0.{kind}"], 1e-5, 1e-3, name)
    all_close(quick.jit(lambda v: trunk_of(task, v, batch))(variables), f)


@each("duin", keys=(*WORDS, "channel_weight"))
def test_what_a_channel_contributes_is_the_released_number_for_one_subject(path):
    f = load(path)
    _, variables = of_file(DuIN, f)
    released = channel_contribution(variables["params"], "released")
    close(released, f["channel_weight"])
    own = channel_contribution(variables["params"])
    weight = f["w/subj_block.subj_layer.W.weight"]
    for s, row in enumerate(own):
        close(row, np.abs(weight[:, s]).reshape(len(row), -1).mean(1))
    assert np.allclose(own, released) == (len(own) == 1)


@each("duin", keys=("samples", "initial_means", "bins"))
def test_spherical_k_means_is_the_released_one(path):
    f = load(path)
    samples = jnp.asarray(f["samples"])
    weight, start = jnp.ones(len(samples)), jnp.asarray(f["initial_means"])
    means, bins = kmeans(samples, weight, start, unit=True)
    close(means, f["means"])
    np.testing.assert_array_equal(bins, f["bins"])


@each("duin", keys=MASKED)
def test_times_are_added_as_the_released_table_has_them(path):
    f = load(path)
    task, _ = of_file(DuIN, f)
    table = f["w/emb_time.time_encodings"]
    ours = duin_trunk.sincos_interleaved(len(table), task.trunk.width)
    close(ours, table, 1e-6)
