"""TRIBE v1 and v2 against the released implementations."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import quick
from fixtures import each, load

from neurofm.models.tribe import Tribe
from neurofm.models.tribe_weights import convert
from neurofm.optim import Optim
from neurofm.step import loss_and_grads, update

MODEL = ("param::time_pos_embed", "out::pooled", "config_json")
PLAIN = {"norm_unit_offset": False}
STEPS_OF_SCHEDULE = 20


def part(f, prefix):
    return {k.removeprefix(prefix): x for k, x in f.items() if k.startswith(prefix)}


def of_file(f, **fields):
    """Task and variables; the released code trains a smoothing kernel if it has one."""
    config, tensors = json.loads(str(f["config_json"])), part(f, "param::")
    found = Tribe.from_official(tensors, config)
    assert not found.missing
    assert set(tensors) == found.used | set(found.ignored)
    task = replace(found.task, smoothing_trained=bool(found.task.smoothing), **fields)
    variables = convert(task, tensors, config).variables
    return task, jax.tree.map(jnp.asarray, variables)


def batch_of(f, task, target="target::fmri", without=()):
    subject = f["in::subject_id"][:, 0]
    n, batch = len(subject), {}
    given = [f"in::{m.name}" in f and m.name not in without for m in task.modalities]
    for m, there in zip(task.modalities, given, strict=True):
        if m.layers:
            zeros = np.zeros((n, m.layers, m.width, task.feature_steps), np.float32)
            batch[f"features/{m.name}"] = f[f"in::{m.name}"] if there else zeros
    missing = target.endswith("_with_missing")
    seen = (f[target] != 0).any(1, keepdims=True) | (not missing)
    batch |= {
        "features/present": np.tile(given, (n, 1)),
        "subject": subject.astype(np.int32),
        "fmri/bold": f[target],
        "fmri/mask": np.broadcast_to(seen, f[target].shape),
        "index": np.arange(n, dtype=np.int32),
        "valid": np.ones(n, bool),
    }
    return jax.tree.map(jnp.asarray, batch)


def all_seen(task, batch):
    return task.draw(batch, jax.random.key(0), jnp.int32(0), train=False)


def close(got, wanted, name="", atol=1e-5, rtol=1e-4):
    assert got.shape == wanted.shape, name
    np.testing.assert_allclose(got, wanted, rtol, atol, err_msg=name)


@each("tribe", keys=MODEL)
def test_every_activation_is_the_released_one(path):
    f = load(path)
    task, variables = of_file(f)
    batch = batch_of(f, task)

    @quick.jit
    def run(variables, batch):
        draws, params = all_seen(task, batch), variables["params"]
        seen = draws["modalities"] & batch["features/present"]
        first = task.aggregated(params, batch, seen)
        into = task.positioned(variables, first, draws["subject"])
        last, sums = task.encoded(variables, batch, draws)
        whole = replace(task, output_steps=task.feature_steps)
        unpooled = whole.predicted(params, last, draws["subject"])
        late = replace(task, pool="after_head")
        found = {
            "aggregated": first,
            "encoder_in": into,
            "encoder_out": last,
            "predictor": unpooled.swapaxes(1, 2),
            "unpooled": unpooled.swapaxes(1, 2),
            "pooled": task.read(variables, batch, "prediction").values["bold"],
            "late": late.read(variables, batch, "prediction").values["bold"],
        }
        return found, sums.reshape(-1, *last.shape)

    found, sums = jax.device_get(run(variables, batch))
    late, pooled = (found.pop(k).swapaxes(1, 2) for k in ("late", "pooled"))
    for name, x in [*found.items(), ("pooled", pooled)]:
        close(x, f[f"out::{name}"], name)
    close(late, f["out::pooled"], "pooled after the head")
    wanted = sorted(k for k in f if k.startswith("out::sublayer"))
    assert len(sums) == len(wanted)
    for name, x in zip(wanted, sums, strict=True):
        close(x, f[name], name)


@each("tribe", keys=MODEL)
def test_the_sizes_and_styles_are_told_from_the_file(path):
    f = load(path)
    config, tensors = json.loads(str(f["config_json"])), part(f, "param::")
    task, variables = of_file(f)
    told = {**config}
    for key in ("rotary_style", "norm_unit_offset", "rotary_dim", "n_outputs"):
        told.pop(key, None)
    for key in ("feature_aggregation", "layer_aggregation", "subject_embedding"):
        told.pop(key, None)
    detected = Tribe.from_official(tensors, told)
    assert detected.task == replace(task, smoothing_trained=False)
    assert detected.task.rotary == config["rotary_style"]
    n = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert n == config["params"]


@each("tribe", keys=(*MODEL, "out::pooled_average_subject"))
def test_the_unseen_subject_speaks_for_all(path):
    f = load(path)
    task, variables = of_file(f, average_subjects=True)
    read = quick.jit(lambda v, b: task.read(v, b, "prediction").values["bold"])
    bold = read(variables, batch_of(f, task))
    close(bold.swapaxes(1, 2), f["out::pooled_average_subject"])


@each("tribe", keys=(*MODEL, "out::pooled_without_*"))
def test_an_absent_modality_leaves_zeros(path):
    f = load(path)
    task, variables = of_file(f)
    read = quick.jit(lambda v, b: task.read(v, b, "prediction").values["bold"])
    for name, wanted in part(f, "out::pooled_without_").items():
        bold = read(variables, batch_of(f, task, without=(name,)))
        close(bold.swapaxes(1, 2), wanted, name)


@each("tribe", keys=MODEL)
def test_losses_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(f)
    kinds = [k for k in part(f, "loss::") if not k.endswith("rows_dropped")]

    @quick.jit
    def run(variables, batch):
        draws = all_seen(task, batch)
        return {
            kind: replace(task, loss_kind=kind).loss(
                variables, batch, draws, jnp.int32(0), True
            )[0][kind]
            for kind in kinds
        }

    assert {"mse", "pearson", "smoothl1", "huber"} <= set(kinds)
    for kind, (total, weight) in run(variables, batch_of(f, task)).items():
        close(total / weight, f[f"loss::{kind}"], kind, atol=1e-6)


@each("tribe", keys=(*MODEL, "target::fmri_with_missing"))
def test_what_lies_outside_the_run_is_dropped_or_counts_as_zero(path):
    f = load(path)
    task, variables = of_file(f)
    released = replace(task, out_of_run="zeros")
    batch = batch_of(f, task, "target::fmri_with_missing")
    batch["fmri/bold"] = jnp.where(batch["fmri/mask"], batch["fmri/bold"], jnp.nan)

    @quick.jit
    def run(variables, batch):
        draws = all_seen(task, batch)
        both = [
            t.loss(variables, batch, draws, jnp.int32(0), True)[0]["mse"]
            for t in (task, released)
        ]
        read = task.read(variables, batch, "prediction").values["bold"]
        return [s / w for s, w in both], read

    (dropped, zeros), bold = run(variables, batch)
    close(dropped, f["loss::mse_rows_dropped"], atol=1e-6)
    error = bold.swapaxes(1, 2) - f["target::fmri_with_missing"]
    close(zeros, np.square(error).mean(), atol=1e-6)


@each("tribe", keys=MODEL)
def test_gradients_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(f)

    @quick.jit
    def run(variables, batch):
        others = dict(variables)
        params, step = others.pop("params"), jnp.int32(0)
        draws = all_seen(task, batch)
        return loss_and_grads(task, params, others, batch, draws, step, 1)[1]

    tensors = part(f, "param::")
    grads = jax.device_get(run(variables, batch_of(f, task)))
    numbered = {n: np.full(x.shape, i) for i, (n, x) in enumerate(tensors.items())}
    places = convert(task, numbered, PLAIN).variables["params"]
    squares = np.zeros(len(tensors))
    for where, g in zip(jax.tree.leaves(places), jax.tree.leaves(grads), strict=True):
        at = where.astype(int).ravel()
        squares += np.bincount(at, np.square(g, dtype=float).ravel(), len(tensors))
    norms = dict(zip(tensors, np.sqrt(squares), strict=True))
    for name, wanted in part(f, "gradnorm::").items():
        close(norms[name], wanted, name, 1e-6, 1e-3)
    if slopes := part(f, "grad::"):
        theirs = convert(task, slopes, PLAIN)
        assert not theirs.missing
        ours = jax.tree_util.tree_leaves_with_path(grads)
        wanted = jax.tree.leaves(theirs.variables["params"])
        for (name, g), w in zip(ours, wanted, strict=True):
            close(g, w, jax.tree_util.keystr(name), 1e-6, 1e-3)


@each("tribe", keys=(*MODEL, "train::loss"))
def test_training_steps_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(f)
    optim = Optim(
        lr=1e-4,
        betas=(0.95, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=0.0,
        warmup=0.1,
        schedule="onecycle",
    )
    total = STEPS_OF_SCHEDULE
    opt = optim.build(total).init(variables["params"])
    state = {**variables, "opt": opt, "step": jnp.int32(0)}
    batch = batch_of(f, task)

    @quick.jit
    def one(state, batch):
        draws = all_seen(task, batch)
        found = update(task, optim, total, 1, state, {}, batch, draws)
        return *found[:2], optim.first_decay(state["step"], total)

    for i, wanted in enumerate(f["train::loss"]):
        state, metrics, beta1 = one(state, batch)
        close(metrics["train/loss"], wanted, f"step {i}", atol=0)
        close(metrics["optim/lr"], f["train::lr"][i], f"step {i}", 0, 1e-5)
        close(beta1, f["train::beta1"][i], f"step {i}", 0, 1e-6)
    read = quick.jit(lambda v, b: task.read(v, b, "prediction").values["bold"])
    state = {k: state[k] for k in ("params", "slow", "buffers")}
    close(read(state, batch).swapaxes(1, 2), f["train::final_pooled"])
