"""One training step: the same however its batch is split, padded, masked or spread.

Run as a script, this file is the process that has eight devices.
"""

import functools
import json
import os
import re
import subprocess
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import tiny_fmri
import tiny_ieeg
import tiny_meeg
import tiny_tribe
from tiny_models import TRAINABLE as TINY

from neurofm import registry
from neurofm.config import Mesh
from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_frozen
from neurofm.models.finetune import Finetune
from neurofm.models.wavjepa_scenes import Scenes
from neurofm.nn.blocks import Transformer
from neurofm.nn.positions import sincos_channels
from neurofm.optim import Optim
from neurofm.parallel import distributed, mesh, sharding
from neurofm.step import draw_key, eval_step, loss_and_grads, train_step, update
from neurofm.task import Task

STEPS = 20
OPTIM = Optim(lr=1e-2, warmup=0.0, clip_norm=0.0)

IN_ROOMS = replace(
    TINY,
    n_chans=2,
    depth=1,
    top_k=1,
    compute="dense",  # compiles faster
    scenes=Scenes(source="simulated", sfreq=4000.0, clip_s=0.8, rir_s=0.05),
)


@dataclass(frozen=True, kw_only=True)
class Line(Task):
    """Fits lines to what a mask shows: every hook, and two terms of unlike weights."""

    name: ClassVar[str] = "line"

    def batch_spec(self, want="train"):
        fields = {"x": Field(shape=(5,), axes=("in",))}
        fields |= {"y": Field(shape=(3,), axes=("out",))}
        contract = InputContract(
            kind="features",
            sfreq=1.0,
            unit="1",
            n_chans=5,
            window_samples=1,
            hop_samples=1,
            receptive_samples=1,
        )
        return BatchSpec(fields=fields, contract=contract)

    def init(self, key, batch, frozen):
        params = {"w": jax.random.normal(key, (5, 3)), "b": jnp.full(3, 0.09)}
        slow = {name: jnp.zeros((5, 3)) for name in ("before", "after")}
        return {"params": params, "slow": slow, "buffers": {"mean": jnp.ones(3)}}

    def draw(self, batch, key, step, train):
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["index"])
        shown = jax.vmap(lambda k: jax.random.bernoulli(k, 0.4, (3,)))(keys)
        return {"shown": shown, "step": {"gain": 1.0 + step}}

    def loss(self, variables, batch, draws, step, train):
        p = batch["x"] @ variables["params"]["w"] + variables["params"]["b"]
        shown = draws["shown"] & batch["valid"][:, None]
        errors = draws["step"]["gain"] * jnp.square(p - batch["y"]) * shown
        weight = batch["valid"] * jnp.square(batch["x"][:, 0])
        terms = {
            "fit": (errors.sum(), shown.sum().astype(jnp.float32)),
            "size": ((jnp.square(p).sum(-1) * weight).sum(), weight.sum()),
        }
        rows = batch["valid"].astype(jnp.float32)
        return terms, {"rows": rows.sum(), "p": (p * rows[:, None]).sum(0)}

    def summary(self, sums):
        return {"p_mean": (sums["p"] / sums["rows"]).mean()}

    def update_buffers(self, buffers, sums, step):
        return {"mean": 0.5 * buffers["mean"] + 0.5 * sums["p"] / sums["rows"]}

    def project(self, params, step):
        return {**params, "b": jnp.clip(params["b"], -0.04, 0.04)}

    def update_slow(self, slow, old_params, new_params, step):
        return {"before": old_params["w"], "after": new_params["w"] + new_params["b"]}

    def rules(self):
        return ((r"(^|/)(w|b|mean|before|after)$", ()),)

    def flops(self, batch_size):
        return 30.0 * batch_size


def line_batch(rows=8):
    rng = np.random.default_rng(5)
    return {
        "x": rng.normal(0, 1, (rows, 5)).astype(np.float32),
        "y": rng.normal(0, 1, (rows, 3)).astype(np.float32),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) % 5 != 3,
    }


def sound_batch(task=TINY, rows=8):
    """Noise in whole and short crops, zero outside their spans, and some fillers."""
    rng = np.random.default_rng(7)
    n = task.window_samples
    spans = [(0, n), (100, 560), (0, n), (320, n), (0, 300), (40, 900), (0, n), (0, n)]
    span = np.resize(np.array(spans, np.int32), (rows, 2))
    at = np.arange(n)
    inside = (at >= span[:, :1]) & (at < span[:, 1:])
    wave = rng.normal(0, 0.2, (rows, task.n_chans, n)) * inside[:, None]
    return {
        "audio/wave": wave.astype(np.float32),
        "audio/span": span,
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) % 5 != 3,
    }


def scene_batch(task, rows=8):
    """Noise as clips, each with a noise of its own in a room of its own."""
    rng = np.random.default_rng(8)
    batch = sound_batch(task, rows)
    batch["audio/span"] = 2 * batch["audio/span"]  # at the scenes' rate
    first, past = batch["audio/span"].T
    fields, window = task.batch_spec("train").fields, 2 * task.window_samples
    n = fields["audio/wave"].shape[-1]
    short = past - first < window
    n_clip = np.where(short, past - first, rng.integers(window, n + 1, rows))
    at = np.where(short, -first, rng.integers(0, n_clip - past + first + 1))
    made = {
        name: rng.normal(0, 0.2, (rows, *field.shape)).astype(np.float32)
        for name, field in fields.items()
        if field.unit
    }
    made["audio/wave"] *= np.arange(n) < n_clip[:, None, None]
    return {
        **batch,
        **made,
        "scene/clip": np.stack([at, n_clip], 1).astype(np.int32),
        "scene/noise_samples": rng.integers(100, 2 * n, rows).astype(np.int32),
        "scene/key": rng.integers(0, 2**32, (rows, 2), np.uint32),
    }


SYSTEMS = {
    "line": Line(),
    "wavjepa": TINY,
    "wavjepa in rooms": IN_ROOMS,
    "braintokenizer": tiny_meeg.TOKENIZER,
    "brainomni": tiny_meeg.OMNI,
    "finetune": Finetune(task=TINY, head="mlp", dropout=0.25),
    "tribe": tiny_tribe.TRIBE,
    "brainbert": tiny_ieeg.BERT,
    "brain_semantoks": tiny_fmri.SEMANTOKS,
    "duin_vqvae": tiny_ieeg.VQVAE,
    "duin": tiny_ieeg.DUIN,
}


def batch_of(task, rows):
    if task.name == "line":
        return line_batch(rows)
    if task.name == "wavjepa":
        return (scene_batch if task.scenes.simulated else sound_batch)(task, rows)
    if task.name == "finetune":
        label = np.arange(rows, dtype=np.int32) % len(task.classes)
        return {**batch_of(task.task, rows), "label": label}
    if task.name == "tribe":
        return tiny_tribe.tribe_batch(task, rows)
    if task.name == "brainbert":
        return tiny_ieeg.electrode_batch(task, rows)
    if task.name == "brain_semantoks":
        return tiny_fmri.fmri_batch(task, rows)
    if task.name in ("duin", "duin_vqvae"):
        return tiny_ieeg.group_batch(task, rows)
    return tiny_meeg.meeg_batch(task, rows)


@functools.cache
def drawn(task, rows=8):
    """A batch, and its draws as the training step makes them."""
    batch = batch_of(task, rows)
    step = jnp.int32(2)
    draw = jax.jit(lambda b: task.draw(b, draw_key(1, step, "train"), step, True))
    return batch, jax.device_get(draw(batch))


@functools.cache
def variables_of(task):
    """Variables all of which are random, so that none is idle."""
    key, frozen = jax.eval_shape(lambda: jax.random.key(0)), abstract_frozen(task)
    shapes = jax.eval_shape(task.init, key, drawn(task)[0], frozen)
    shapes |= {"frozen": frozen} if frozen else {}
    rng = np.random.default_rng(11)

    def random(path, x):
        # Attention of small random numbers is flat, and its slopes nothing.
        size = 4 if "_sources" in jax.tree_util.keystr(path) else 1
        out = (size * rng.normal(0.1, 0.3, x.shape)).astype(x.dtype)
        return np.abs(out) if path[-1].key == "var" else out

    return jax.tree_util.tree_map_with_path(random, shapes)


def params_of(task):
    return jax.tree.map(jnp.asarray, variables_of(task)["params"])


@functools.cache
def program(task, accumulate=1):
    def run(variables, batch, draws):
        others = {k: v for k, v in variables.items() if k != "params"}
        params, step = variables["params"], jnp.int32(0)
        return loss_and_grads(task, params, others, batch, draws, step, accumulate)

    return quick.jit(run)


def measured(task, accumulate=1, batch=None, draws=None):
    """Losses, gradients and sums, by default of the batch and draws above."""
    known = drawn(task)
    batch, draws = batch or known[0], draws or known[1]
    return jax.device_get(program(task, accumulate)(variables_of(task), batch, draws))


def norm_of(arrays):
    return np.sqrt(sum(np.sum(np.square(x, dtype=float)) for x in arrays))


def assert_same(got, wanted, share):
    """Losses, gradients and sums agree.

    Every array does but for `share` of the norm of its top-level group, or of a
    thousandth of the whole's, where that is more.
    """
    (losses, *trees), (losses_2, *trees_2) = got, wanted
    assert losses.keys() == losses_2.keys()
    for name, value in losses_2.items():
        close = functools.partial(np.testing.assert_allclose, rtol=share, atol=2e-7)
        close(losses[name], value, err_msg=name)
    for tree, tree_2 in zip(trees, trees_2, strict=True):
        assert jax.tree.structure(tree) == jax.tree.structure(tree_2)
        whole = norm_of(jax.tree.leaves(tree_2))
        for name in tree_2:
            leaves = jax.tree_util.tree_leaves_with_path(tree_2[name])
            size = max(norm_of([x for _, x in leaves]), whole / 1000)
            for (path, b), a in zip(leaves, jax.tree.leaves(tree[name]), strict=True):
                error = np.sqrt(np.sum(np.square(a - b, dtype=float)))
                where = name + jax.tree_util.keystr(path)
                assert error <= share * size, f"{where}: {error:.2e} of {size:.2e}"


# ---- against numbers worked out by hand ----------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_a_step_is_what_one_works_out_by_hand(accumulate, clip_norm):
    optim = replace(OPTIM, clip_norm=clip_norm)
    batch, draws = drawn(Line())
    old, mean = (variables_of(Line())[k] for k in ("params", "buffers"))
    x, y, valid = batch["x"].astype(float), batch["y"].astype(float), batch["valid"]
    p = x @ old["w"] + old["b"]
    shown = (draws["shown"] & valid[:, None]) / (draws["shown"] & valid[:, None]).sum()
    weight = valid * x[:, 0] ** 2 / (valid * x[:, 0] ** 2).sum()
    fit = 3 * (np.square(p - y) * shown).sum()  # the gain drawn at step 2
    size = (np.square(p) * weight[:, None]).sum()
    dp = 6 * (p - y) * shown + 2 * p * weight[:, None]
    grads = {"w": x.T @ dp, "b": dp.sum(0)}
    norms = {name: np.sqrt(np.square(g).sum()) for name, g in grads.items()}
    norm = np.hypot(*norms.values())
    share = min(1, clip_norm / norm) if clip_norm else 1
    new = {}
    for name, g in grads.items():  # Adam's first step is the sign, smoothed by eps
        adam = share * g / (np.abs(share * g) + optim.eps)
        new[name] = old[name] - optim.lr * (adam + optim.weight_decay * old[name])
    new["b"] = np.clip(new["b"], -0.04, 0.04)

    run = jax.jit(functools.partial(update, Line(), optim, STEPS, accumulate))
    state, metrics, sums = run(new_line(), {}, batch, draws)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    told = {f"optim/grad_norm/{name}": value for name, value in norms.items()}
    told |= {"train/fit": fit, "train/size": size, "train/loss": fit + size}
    told |= {"optim/grad_norm": norm, "optim/lr": optim.lr}
    assert metrics.keys() == told.keys()
    for name, value in told.items():
        close(metrics[name], value, err_msg=name)
    for name, value in new.items():
        close(state["params"][name], value)
    assert (np.abs(new["b"]) == 0.04).sum() == 2  # both limits are met
    assert norm > 0.5
    close(state["slow"]["before"], old["w"])
    close(state["slow"]["after"], new["w"] + new["b"])
    close(state["buffers"]["mean"], 0.5 * mean["mean"] + 0.5 * p[valid].mean(0))
    close(sums["p"], p[valid].sum(0))
    assert (sums["rows"], state["step"]) == (valid.sum(), 1)


# ---- accumulation --------------------------------------------------------------------


def test_every_system_has_a_tiny_form_here():
    assert set(registry.names()) <= set(SYSTEMS)


@pytest.mark.parametrize(
    ("name", "accumulate"),
    [
        ("line", 2),
        ("line", 4),
        ("wavjepa", 4),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("wavjepa in rooms", 2),
                ("braintokenizer", 4),
                ("brainomni", 4),
                ("finetune", 2),
                ("tribe", 4),
                ("brainbert", 4),
            )
        ),
    ],
)
def test_accumulation_changes_nothing(name, accumulate):
    task = SYSTEMS[name]
    share = 1e-5 if name == "braintokenizer" else 2e-6  # phases have steep slopes
    assert_same(measured(task, accumulate), measured(task), share)


def test_microbatches_above_have_unlike_weights():
    for task, name in ((Line(), "shown"), (TINY, "target")):
        batch, draws = drawn(task)
        mask = draws[name] & batch["valid"].reshape(-1, *[1] * (draws[name].ndim - 1))
        weights = mask.reshape(8, -1).sum(-1)
        for n in (2, 4):
            assert len(set(weights.reshape(8 // n, n).sum(0))) > 1


def new_line():
    state = {**variables_of(Line()), "step": jnp.int32(0)}
    return {**state, "opt": OPTIM.build(STEPS).init(state["params"])}


def test_draws_without_the_batch_axis_are_refused():
    class Wrong(Line):
        def draw(self, batch, key, step, train):
            return {"shown": jnp.ones((3, 3), bool), "step": {"gain": 1.0}}

    run, state = train_step(Wrong(), OPTIM, STEPS, 1, seed=0), new_line()
    with pytest.raises(ValueError, match=r"draws\['shown'\] has shape \(3, 3\).*\(8\)"):
        jax.eval_shape(run, state, {}, line_batch())


def test_the_coding_rate_refuses_accumulation():
    task = tiny_fmri.SEMANTOKS
    with pytest.raises(NeuroFMError, match=r"loss of brain_semantoks compares"):
        jax.eval_shape(
            lambda v, b, d: loss_and_grads(
                task, v["params"], v, b, d, jnp.int32(0), accumulate=2
            ),
            variables_of(task),
            *drawn(task),
        )


def test_accumulation_of_a_loss_that_couples_the_batch_is_refused():
    class Coupled(Line):
        batch_coupled = True

    whole, split = (train_step(Coupled(), OPTIM, STEPS, n, seed=0) for n in (1, 2))
    state = new_line()
    jax.eval_shape(whole, state, {}, line_batch())
    with pytest.raises(NeuroFMError, match=r"train.accumulate is 2, .* loss of line"):
        jax.eval_shape(split, state, {}, line_batch())


# ---- draws ---------------------------------------------------------------------------


def test_training_draws_differ_by_step_and_seed_and_from_those_of_evaluation():
    keys = [draw_key(seed, jnp.int32(n), "train") for seed in (0, 1) for n in (0, 1)]
    keys += [draw_key(seed, jnp.int32(0), "eval") for seed in (0, 1)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


def test_evaluation_draws_follow_the_row_however_it_is_batched():
    measure = jax.jit(eval_step(Line(), seed=4))
    variables, batch = variables_of(Line()), line_batch()
    whole = measure(variables, batch)
    again = measure(variables, batch)
    pieces = [
        measure(variables, {k: v[rows] for k, v in batch.items()})
        for rows in ([6, 1, 3, 0], [2, 7, 5, 4])
    ]
    assert_tree = functools.partial(jax.tree.map, np.testing.assert_allclose)
    assert_tree(again, whole)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, jax.tree.map(jnp.add, *pieces), whole)


# ---- WavJEPA: what must not matter ---------------------------------------------------


def noise_outside(batch):
    """The batch with loud noise where there is no recording."""
    rng = np.random.default_rng(1)
    at = np.arange(batch["audio/wave"].shape[-1])
    outside = (at < batch["audio/span"][:, :1]) | (at >= batch["audio/span"][:, 1:])
    noise = rng.normal(0, 3, batch["audio/wave"].shape) * outside[:, None]
    return {**batch, "audio/wave": (batch["audio/wave"] + noise).astype(np.float32)}


def test_what_lies_outside_the_span_changes_nothing():
    batch, _ = drawn(TINY)
    changed = noise_outside(batch)
    assert np.abs(changed["audio/wave"] - batch["audio/wave"]).max() > 5
    assert_same(measured(TINY, batch=changed), measured(TINY), 1e-6)


def test_how_much_lies_outside_the_span_changes_no_token_inside():
    batch, _ = drawn(TINY)
    row, (first, past) = 1, batch["audio/span"][1]
    clip = batch["audio/wave"][[row], :, first:past]
    alone = replace(TINY, window_samples=int(past - first))
    spans = np.int32([[first, past]]), np.int32([[0, past - first]])
    waves = batch["audio/wave"][[row]], clip
    tokens = []
    for task, wave, span in zip((TINY, alone), waves, spans, strict=True):
        embed = jax.jit(lambda w, s, t=task: t.embed_tokens(params_of(TINY), w, s))
        tokens.append(embed(wave, span)[0] - sincos_channels(task.tokens, 16, 1))
    hop = TINY.batch_spec().contract.hop_samples
    assert first % hop == 0
    inside = tokens[0][first // hop :][: alone.tokens]
    np.testing.assert_allclose(inside, tokens[1], atol=1e-5)


def test_what_a_filler_row_holds_changes_nothing():
    batch, draws = drawn(TINY)
    filler = ~batch["valid"]
    assert filler.sum() == 1
    wave, span = batch["audio/wave"].copy(), batch["audio/span"].copy()
    wave[filler], span[filler] = wave[5] * 3, span[5]
    other = {
        k: np.where(filler.reshape(-1, *[1] * (v.ndim - 1)), v[[0]], v)
        for k, v in draws.items()
    }
    changed = {**batch, "audio/wave": wave, "audio/span": span}
    assert_same(measured(TINY, batch=changed, draws=other), measured(TINY), 1e-6)


@functools.cache
def loss_of(task):
    def run(batch, draws):
        variables = {**variables_of(task), "frozen": {}}
        variables = jax.tree.map(jnp.asarray, variables)
        return task.loss(variables, batch, draws, jnp.int32(0), True)[0]["latent"]

    return jax.jit(run)


def test_the_loss_is_the_global_mean_over_the_target_tokens_of_valid_rows():
    batch, draws = drawn(TINY)
    rows = np.flatnonzero(batch["valid"])
    alone = [jax.tree.map(lambda x, i=i: x[[i]], (batch, draws)) for i in rows]
    terms = jax.device_get([loss_of(TINY)(*row) for row in alone])
    errors, weights = np.sum(terms, axis=0, dtype=float)
    assert weights == draws["target"][batch["valid"]].sum()
    losses, _, _ = measured(TINY)
    np.testing.assert_allclose(losses["latent"], errors / weights, rtol=1e-5)


def test_gathered_and_dense_are_one_loss_with_one_gradient():
    dense = replace(TINY, compute="dense")
    batch, draws = drawn(TINY)
    assert_same(measured(TINY), measured(dense, batch=batch, draws=draws), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1])
def test_so_are_they_for_two_channels_and_whichever_room_the_context_takes(room):
    gathered = replace(TINY, n_chans=2, context_caps=(12, 40))
    dense = replace(gathered, compute="dense")
    batch, draws = drawn(gathered)
    few, many = (2 * cap for cap in gathered.context_caps)
    assert few < draws["context"].sum(-1).max() <= many
    if room == 0:
        shown = np.cumsum(draws["context"], -1) <= few
        draws = {**draws, "context": draws["context"] & shown}
    got, wanted = (measured(t, batch=batch, draws=draws) for t in (gathered, dense))
    assert_same(got, wanted, 1e-5)


@pytest.mark.parametrize("remat", ["block", "selective"])
def test_recomputing_changes_no_loss_and_no_gradient(remat):
    assert_same(measured(replace(TINY, remat=remat)), measured(TINY), 1e-6)


def test_the_backward_pass_keeps_less_the_more_it_recomputes():
    x, visible = jnp.ones((2, 9, 16)), jnp.ones((2, 9), bool)

    def kept(remat):
        stack = Transformer(depth=3, heads=2, remat=remat)
        params = stack.init(jax.random.key(0), x, visible)
        _, back = jax.vjp(lambda p: stack.apply(p, x, visible)[0], params)
        n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        return sum(leaf.size for leaf in jax.tree.leaves(back)) - n_params

    layers, tokens, width = 3, 18, 16
    projections = 3 + 1 + 4 + 1  # q, k, v; out; mlp_in; mlp_out, in widths
    inputs, outputs = layers * tokens * width, layers * tokens * width * projections
    slack = 3 * tokens * width + visible.size  # the last norm, and indices
    assert inputs <= kept("block") <= inputs + slack
    assert inputs + outputs <= kept("selective") <= inputs + outputs + slack
    assert kept("none") > 2 * (inputs + outputs)


def test_on_whole_crops_the_statistics_of_the_unit_are_those_of_the_recording():
    batch, draws = drawn(TINY)
    whole = np.zeros_like(batch["audio/span"])
    whole[:, 1] = TINY.window_samples
    batch = {**noise_outside(batch), "audio/span": whole}
    losses, _, _ = measured(TINY, batch=batch, draws=draws)
    error, weight = loss_of(replace(TINY, statistics="unit"))(batch, draws)
    np.testing.assert_allclose(error / weight, losses["latent"], rtol=1e-5)


# ---- eight devices, in a process of their own ----------------------------------------

SPREAD = {
    "data=8": (Mesh(data=8), 1),
    "fsdp=8": (Mesh(data=1, fsdp=8), 1),
    "data=2 fsdp=2 tensor=2, accumulated": (Mesh(data=2, fsdp=2, tensor=2), 2),
}


def equals_one_device(name, sizes, accumulate):
    task, (batch, draws) = SYSTEMS[name], drawn(SYSTEMS[name], 16)
    if "target" in draws:
        assert len(set(draws["target"].sum((1, 2)))) > 8
    variables = variables_of(task)
    wanted = jax.device_get(program(task)(variables, batch, draws))
    devices = mesh.make(sizes)
    mesh.check_batch(devices, 16, accumulate)
    placed, _ = sharding.state_shardings(
        variables, variables["params"], devices, task.rules()
    )
    rows = sharding.batch_sharding(devices)
    shared = draws.get("step", {})
    own = {k: v for k, v in draws.items() if k != "step"}
    draws = jax.device_put(own, rows) | ({"step": shared} if shared else {})
    with jax.set_mesh(devices):
        variables, batch = (
            jax.device_put(variables, placed),
            jax.device_put(batch, rows),
        )
        run = program(task, accumulate).lower(variables, batch, draws).compile()
        got = run(variables, batch, draws)
    own = 16 // accumulate // (8 // sizes.tensor)  # rows of a device
    assert set(re.findall(r"\[(\d+),\S* fft\(", run.as_text())) <= {str(own)}
    assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(got))
    assert_same(jax.device_get(got), wanted, 1e-5)


SPREAD_OVER = ("line", "wavjepa", "tribe")
CASES = {f"{n}, {s}": (n, *SPREAD[s]) for n in SPREAD_OVER for s in SPREAD}
CASES |= {
    f"brain_semantoks, {s}": ("brain_semantoks", *SPREAD[s])
    for s in ("data=8", "fsdp=8")
}
CASES |= {
    f"{name}, data=8": (name, *SPREAD["data=8"])
    for name in ("brainbert", "duin_vqvae", "duin")
}
CASES["wavjepa in rooms, data=8, accumulated"] = "wavjepa in rooms", Mesh(data=8), 2


# What compiles for long, and is spread by the same rules as those that stay.
SLOW = (
    *("wavjepa, data=8", "wavjepa, fsdp=8", "tribe, data=8", "tribe, fsdp=8"),
    *("brain_semantoks, fsdp=8", "brainbert, data=8", "duin, data=8"),
)


def on_eight_devices(cases):
    distributed.initialise(devices=8)
    told = {}
    for case in cases:
        try:
            equals_one_device(*CASES[case])
            told[case] = ""
        except Exception:
            told[case] = traceback.format_exc()
    print(json.dumps(told))


@pytest.fixture(scope="module")
def outcomes(request):
    """Case -> traceback, empty where it went well; of the cases that are asked for."""
    asked = {
        item.callspec.params["case"]
        for item in request.session.items
        if item.originalname == "test_eight_devices_give_what_one_gives"
    }
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster
    done = subprocess.run(
        [sys.executable, __file__, *sorted(asked)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] if c in SLOW else []) for c in CASES],
)
def test_eight_devices_give_what_one_gives(outcomes, case):
    assert not outcomes[case], outcomes[case]


if __name__ == "__main__":
    on_eight_devices(sys.argv[1:])
