"""Brain-Semantoks against the released implementation: models, losses, a step."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from fixtures import each, load

from neurofm.models import brain_semantoks_tokenizers as tokenizers
from neurofm.models.brain_semantoks import BrainSemantoks, numbered
from neurofm.models.brain_semantoks_weights import MAP, convert
from neurofm.optim import Optim
from neurofm.step import loss_and_grads, update

MODEL = ("in/view1", "in/mask1", MAP, "w/*", "loss/masked/total")
TABLES = ("temporal_pos_embedding", "multiplier")
MASKED = "out/student_v1_masked/"
CASES = {"unmasked": 0.5, "unmasked_no_network": 0.0, "masked": 0.5}


def part(f, prefix):
    return {k.removeprefix(prefix): x for k, x in f.items() if k.startswith(prefix)}


def settings(path):
    return json.loads(path.with_suffix(".json").read_text())


def of_file(path, f, **fields):
    """Task and variables; the network term has its weight at every step."""
    config = settings(path)
    found = BrainSemantoks.from_official(
        part(f, "w/"), {**config, MAP: f[MAP].tolist()}
    )
    assert not found.missing
    assert set(part(f, "w/")) == found.used | set(found.ignored)
    fields = {
        "network_schedule": "constant",
        "horizon": config["K"],
        "compute": "exact",
        **fields,
    }
    task = replace(found.task, **fields)
    return task, jax.tree.map(jnp.asarray, found.variables)


def batch_of(f, want="train"):
    views = f["in/view1"], f["in/view2"]
    rows, regions, samples = views[0].shape
    batch = {
        "fmri/regions": np.ones((rows, regions), bool),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
    }
    if want == "train":
        batch["fmri/crops"] = np.stack(views, axis=1)
    else:
        batch["fmri/bold"] = views[0]
        batch["fmri/span"] = np.tile(np.int32([0, samples]), (rows, 1))
    return jax.tree.map(jnp.asarray, batch)


def draws_of(f, masked=True):
    hidden = np.stack([f["in/mask1"], f["in/mask2"]], axis=1)
    return {"hidden": jnp.asarray(hidden), "step": {"masked": jnp.asarray(masked)}}


def close(got, wanted, name="", atol=2e-5, rtol=0):
    assert np.shape(got) == np.shape(wanted), name
    np.testing.assert_allclose(got, wanted, rtol, atol, err_msg=name)


def officially(task, tensors, params, side):
    """Our parameters under their official names, NaN where none is ours."""
    names = [n for n in tensors if not n.endswith((*TABLES, "initialized"))]
    flags = {n: x for n, x in tensors.items() if n.endswith("initialized")}
    sizes = [tensors[n].size for n in names]
    ids = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    ids = {n: i.reshape(tensors[n].shape) for n, i in zip(names, ids, strict=True)}
    found = convert(task, ids | flags).variables
    places = found["params"] if side == "student" else found["slow"]["teacher"]
    values = np.full(sum(sizes), np.nan)
    for place, x in zip(jax.tree.leaves(places), jax.tree.leaves(params), strict=True):
        values[place.astype(int).ravel()] = np.ravel(x)
    return {n: values[i] for n, i in ids.items()}


@each("brain_semantoks", keys=MODEL)
def test_sizes_are_told_from_the_file(path):
    f = load(path)
    task, variables = of_file(path, f)
    config = settings(path)
    published = np.asarray(f[MAP])
    grid = len(task.members), task.patches, task.window_samples, task.patch_samples
    assert grid == (config["N"], config["P"], config["T"], config["patch"])
    wanted = (config["D"], config["depth"], config["heads"])
    assert (task.width, task.depth, task.heads) == wanted
    head = task.head_hidden, task.head_width, task.head_layers
    assert head == (config["ph"], config["pb"], config["pn"])
    assert task.separate_mask_head == config["sep"]
    if task.spatial != "max":
        assert (np.array(task.network_of) == published).all()
        for ours, theirs in zip(task.tokenizer, config["tok"], strict=True):
            assert ours.kind == theirs["type"].replace("dilated", "dense")
            assert (ours.width, ours.kernel) == (
                theirs["out_channels"],
                theirs["kernel_size"],
            )
    shapes = jax.eval_shape(task.init, jax.random.key(0), {}, {})
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)


@each("brain_semantoks", keys=MODEL)
@pytest.mark.parametrize("compute", ["exact", "batched"])
def test_every_activation_is_the_released_one(path, compute):
    f = load(path)
    task, variables = of_file(path, f, compute=compute)
    batch = batch_of(f)

    @quick.jit
    def run(variables, batch, hidden):
        params, buffers = variables["params"]["encoder"], variables["buffers"]
        norms, (one, two) = (
            buffers.get("kernel_norms"),
            jnp.moveaxis(batch["fmri/crops"], 1, 0),
        )
        teacher = variables["slow"]["teacher"]["encoder"]
        whole, of_teacher = None, buffers.get("teacher_kernel_norms")
        last, blocks = task.encode(params, norms, one, hidden)
        return {
            "grid": task.grid(params, norms, one),
            "tokens": last,
            **{f"block{i}": x for i, x in enumerate(blocks)},
            "unmasked": task.encode(params, norms, one, whole)[0],
            "teacher": task.encode(teacher, of_teacher, two, whole)[0],
        }

    found = jax.device_get(run(variables, batch, draws_of(f)["hidden"][:, 0]))
    close(found["grid"], f[MASKED + "token_grid_before_masking"], "grid")
    close(found["tokens"], f[MASKED + "tokens"], "tokens")
    blocks = [k for k in found if k.startswith("block")]
    assert blocks == sorted(k for k in part(f, MASKED) if k.startswith("block"))
    for name in blocks:
        close(found[name], f[MASKED + name], name)
    close(found["unmasked"], f["out/student_v1_unmasked/tokens"], "unmasked")
    close(found["teacher"], f["out/teacher_v2_unmasked/tokens"], "teacher")


@each("brain_semantoks", keys=(*MODEL, MASKED + "tok0"))
def test_tokenizers_and_their_branches_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(path, f)

    @quick.jit
    def run(variables, bold):
        params = variables["params"]["encoder"]["tokenizers"]
        norms = variables["buffers"]["kernel_norms"]
        patches = bold.reshape(*bold.shape[:2], -1, task.patch_samples).swapaxes(1, 2)
        own = [
            (
                task.tokenizer,
                [params[numbered(i)]],
                [norms[numbered(i)]],
                [members],
                patches,
            )
            for i, members in enumerate(task.members)
        ]
        tokens = [tokenizers.tokens(*arguments) for arguments in own]
        return tokens, tokenizers.branch_outputs(*own[0])

    tokens, branches = jax.device_get(run(variables, jnp.asarray(f["in/view1"])))
    for i, x in enumerate(tokens):
        wanted = f[f"{MASKED}tok{i}"]
        close(x.reshape(wanted.shape), wanted, f"tokenizer {i}")
    for j, x in enumerate(branches):
        wanted = f[f"{MASKED}tok0_branch{j}"]
        close(x[0].swapaxes(2, 3).reshape(wanted.shape), wanted, f"branch {j}")


@each("brain_semantoks", keys=MODEL)
def test_features_are_those_of_the_teacher(path):
    f = load(path)
    task, variables = of_file(path, f)
    batch, wanted = batch_of(f, "features"), f["out/features_cls_avg"]
    used = task.inference(variables)
    student = {**used, "params": {"encoder": variables["params"]["encoder"]}}
    student["buffers"] = {
        k: x for k, x in variables["buffers"].items() if k == "kernel_norms"
    }
    second = min(1, len(task.members) - 1)
    alone = replace(task, seen_networks=(task.named_networks[second],))

    @quick.jit
    def run(used, student, batch):
        return {
            "": task.read(used, batch).values["cls_avg"],
            "_student": task.read(student, batch).values["cls_avg"],
            "_only_network1": alone.read(used, batch).values["cls_avg"],
        }, task.read(used, batch, "sources").values

    found, sources = jax.device_get(run(used, student, batch))
    for name, x in found.items():
        close(x.mean(1), f["out/features_cls_avg" + name], name)
    close(found[""][:, 0, task.width :], f["out/features_cls"])
    n, d = len(task.members), task.width
    each_alone = sources["alone"].mean(1).reshape(-1, n, 2 * d)
    close(each_alone[:, second], f["out/features_cls_avg_only_network1"], "alone")
    tokens = sources["networks"].reshape(len(wanted), -1, n, d)
    close(tokens.mean((1, 2)), wanted[:, :d], "networks")


@each("brain_semantoks", keys=MODEL)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_their_parts_are_the_released_ones(path, case):
    f = load(path)
    task, variables = of_file(path, f, network_weight=CASES[case])
    batch, draws = batch_of(f), draws_of(f, case == "masked")
    close(settings(path)["w_net"], 0.5)

    @quick.jit
    def run(variables, batch, draws):
        terms, sums = task.loss(variables, batch, draws, jnp.int32(0), True)
        means = {name: total / weight for name, (total, weight) in terms.items()}
        return means, task.total(means), task.summary(sums)

    found, total, monitors = jax.device_get(run(variables, batch, draws))
    wanted = part(f, f"loss/{case}/")
    close(total, wanted["total"], "total")
    close(found["cls"], wanted["cls"], "cls")
    close(found["network"], wanted["network_weighted"], "network")
    close(found["mask"], wanted["mask_weighted"], "mask")
    close(found["mask"] / task.mask_weight, wanted["patch_unweighted"], "unweighted")
    close(monitors["network_weight"], wanted["network_weight_used"])
    for who in ("student", "teacher"):
        close(monitors[f"{who}_proj_std"], wanted[f"{who}_proj_std"], who)
    if case == "masked":
        for what in ("compression", "expansion"):
            close(monitors[what], f[f"out/cls_{what}_term"], what)


@each("brain_semantoks", keys=MODEL)
def test_projections_of_cls_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(path, f)

    @quick.jit
    def run(variables, crops, hidden):
        buffers, rows = variables["buffers"], crops.reshape(-1, *crops.shape[2:])
        student, teacher = variables["params"], variables["slow"]["teacher"]
        seen, _ = task.encode(
            student["encoder"],
            buffers.get("kernel_norms"),
            rows,
            hidden.reshape(-1, *hidden.shape[2:]),
        )
        whole, _ = task.encode(
            teacher["encoder"], buffers.get("teacher_kernel_norms"), rows, None
        )
        return task.projections(student, seen), task.projections(teacher, whole)

    crops = batch_of(f)["fmri/crops"]
    student, teacher = jax.device_get(run(variables, crops, draws_of(f)["hidden"]))
    for view in (0, 1):
        name = f"v{view + 1}"
        close(student["cls"][view], f[f"out/student_cls_proj_{name}_masked"], name)
        close(teacher["cls"][view], f[f"out/teacher_cls_proj_{name}"], name)


@each("brain_semantoks", keys=MODEL)
def test_gradients_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(path, f)

    @quick.jit
    def run(variables, batch, draws):
        others = {k: x for k, x in variables.items() if k != "params"}
        params, step = variables["params"], jnp.int32(0)
        return loss_and_grads(task, params, others, batch, draws, step, 1)[1]

    grads = jax.device_get(run(variables, batch_of(f), draws_of(f)))
    ours, wanted = officially(task, part(f, "w/"), grads, "student"), part(f, "grad/")
    norm = np.sqrt(sum(np.square(g, dtype=float).sum() for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(norm, f["grad_norm_before_clip"], rtol=1e-3)
    for name, g in wanted.items():
        close(ours[name], g, name, atol=1e-5, rtol=1e-3)
    without = {n for n, x in ours.items() if np.isfinite(x).any()} - set(wanted)
    assert not without


@each("brain_semantoks", keys=(*MODEL, "after/*"))
def test_a_training_step_is_the_released_one(path):
    f = load(path)
    task, variables = of_file(path, f)
    config = settings(path)
    optim = Optim(
        lr=config["lr"],
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=config["wd"],
        clip_norm=1.0,
        warmup=0.0,
        floor=1.0,
    )
    k, total = config["k"], config["K"]

    @quick.jit
    def run(variables, batch, draws):
        opt = optim.build(total).init(variables["params"])
        state = {**variables, "opt": opt, "step": jnp.int32(k)}
        state, _, _ = update(task, optim, total, 1, state, {}, batch, draws)
        step = state["step"]
        state = {name: state[name] for name in ("params", "slow", "buffers")}
        terms, sums = task.loss(state, batch, draws, step, True)
        means = {name: s / weight for name, (s, weight) in terms.items()}
        return state, means, task.summary(sums), task.teacher_share(step - 1)

    state, found, monitors, share = jax.device_get(
        run(variables, batch_of(f), draws_of(f))
    )
    np.testing.assert_allclose(1 - share, f["step/teacher_momentum"], rtol=1e-7)
    tensors, slopes = part(f, "w/"), part(f, "grad/")
    sides = {
        "student": officially(task, tensors, state["params"], "student"),
        "teacher": officially(task, tensors, state["slow"]["teacher"], "teacher"),
    }
    for name, wanted in part(f, "after/").items():
        side, own = name.split("_")[0], name.replace("teacher_", "student_")
        # Adam's first step is the sign of a gradient, noise where that is tiny.
        known = np.abs(slopes[own]) >= 1e-6
        got = sides[side][name]
        close(got[known], wanted[known], name)
        assert known.mean() > 0.5 or not wanted.any()
    wanted = part(f, "loss/after_step_masked/")
    close(sum(found.values()), wanted["total"], "total")
    close(found["cls"], wanted["cls"], "cls")
    close(found["network"], wanted["network_weighted"], "network")
    close(found["mask"], wanted["mask_weighted"], "mask")
    close(monitors["student_proj_std"], wanted["student_proj_std"])
    close(monitors["teacher_proj_std"], wanted["teacher_proj_std"])
    norms = variables["buffers"], state["buffers"]
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), *norms))
