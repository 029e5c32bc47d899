"""TRIBE: its sizes, what is dropped and kept, times, subjects, and averaged weights."""

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tiny_tribe import TRIBE
from tiny_tribe import tribe_batch as numpy_batch

from neurofm import config
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_variables
from neurofm.models.tribe import Modality, Tribe, gaussian
from neurofm.models.tribe_subjects import with_subjects
from neurofm.objectives import responses
from neurofm.optim import Optim
from neurofm.step import train_step

PLAIN = replace(TRIBE, smoothing=0, temporal_dropout=0.0)


def tribe_batch(task, rows=8):
    return jax.tree.map(jnp.asarray, numpy_batch(task, rows))


def variables_of(task, seed=2):
    rng = np.random.default_rng(seed)

    def random(x):
        if x.dtype == np.int32:
            return jnp.zeros(x.shape, x.dtype)
        return jnp.asarray(rng.normal(0.1, 0.4, x.shape), jnp.float32)

    return jax.tree.map(random, abstract_variables(task))


def drawn(task, batch, train=True, seed=0):
    draw = quick.jit(lambda b: task.draw(b, jax.random.key(seed), jnp.int32(0), train))
    return draw(batch)


def read(task, variables, batch, want="features"):
    @quick.jit
    def run(variables, batch):
        reading = task.read(variables, batch, want)
        return reading.values, reading.times_s

    return run(variables, batch)


# ---- sizes ---------------------------------------------------------------------------

V1 = config.load("tribe/v1").task
V2 = config.load("tribe/v2").task
PARTS = {  # of the published v2 in training
    "encoder": 127_466_513,
    "subjects": 1_091_264_616,
    "projectors": 4_228_224,
    "low_rank": 2_359_296,
    "positions": 1_179_648,
}


def n_params(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("task", "n"),
    [
        (V1, 932_854_705),
        (replace(V1, subject_embedding=True), 932_866_993),
        (replace(V1, feature_aggregation="sum"), 955_405_233),
        (replace(V1, layer_aggregation="mean"), 927_218_609),
        (V2, 1_226_498_297),
        (replace(V2, subjects=()), 177_205_397),
        (replace(V2, n_outputs=8_802), 604_151_429),
        (replace(V2, n_outputs=8_802, subjects=()), 153_268_979),
    ],
)
def test_published_models_have_as_many_parameters_as_published(task, n):
    assert n_params(abstract_variables(task)["params"]) == n


def test_so_have_the_parts_of_v2():
    params = abstract_variables(V2)["params"]
    assert {name: n_params(tree) for name, tree in params.items()} == PARTS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 25}, "a multiple of twice the heads"),
        ({"width": 32}, "3 modalities cannot share evenly"),
        ({"rotary_width": 14}, "an even number, 12 at most"),
        ({"feature_steps": 14}, "there are positions for 13"),
        ({"smoothing": 4}, "an odd number of steps"),
        ({"unseen_subject": False}, "set task.unseen_subject=true"),
        ({"modalities": ()}, "one or more with features"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(NeuroFMError, match=message):
        replace(TRIBE, **fields)


# ---- dropouts ------------------------------------------------------------------------


def shares(task, rows=4000, present=None):
    batch = tribe_batch(task, rows)
    if present is not None:
        batch["features/present"] = jnp.tile(jnp.array(present, bool), (rows, 1))
    return batch, jax.device_get(drawn(task, batch))


def test_by_example_each_modality_is_hidden_by_itself_and_one_is_kept():
    p = TRIBE.modality_dropout
    _, draws = shares(TRIBE, present=[True, True, True])
    seen = draws["modalities"]
    assert seen.any(1).all()
    lone = p * p * (1 - p) + p**3 / 3  # the others hidden, or kept of three
    np.testing.assert_allclose((seen.sum(1) == 1).mean(), 3 * lone, atol=0.03)
    np.testing.assert_allclose(seen.mean(0), 1 - p + p**3 / 3, atol=0.03)
    released = replace(TRIBE, keep_one=False)
    _, draws = shares(released, present=[True, True, True])
    none = ~draws["modalities"].any(1)
    np.testing.assert_allclose(none.mean(), p**3, atol=0.01)


def test_the_one_kept_is_one_that_the_example_has():
    _, draws = shares(replace(TRIBE, modality_dropout=0.95), present=[0, 1, 1])
    assert (draws["modalities"] & [False, True, True]).any(1).all()


def test_by_batch_all_examples_lose_the_same_at_the_given_rate():
    task = replace(TRIBE, modality_dropout_by="batch")
    batch = tribe_batch(task, 3)
    draw = quick.jit(lambda key: task.draw(batch, key, jnp.int32(0), True))
    seen = np.stack([draw(jax.random.key(i))["modalities"] for i in range(300)])
    assert (seen == seen[:, :1]).all()
    assert seen.any(2).all()
    np.testing.assert_allclose(seen.mean(), 0.7 + 0.027 / 3, atol=0.05)


def test_subjects_and_steps_are_dropped_in_training_alone():
    batch, draws = shares(TRIBE)
    unseen = draws["subject"] == 3
    np.testing.assert_allclose(unseen.mean(), 0.3, atol=0.03)
    np.testing.assert_array_equal(draws["subject"][~unseen], batch["subject"][~unseen])
    np.testing.assert_allclose(draws["steps"].mean(), 0.9, atol=0.02)
    calm = drawn(TRIBE, batch, train=False)
    np.testing.assert_array_equal(calm["subject"], batch["subject"])
    assert calm["modalities"].all()
    assert calm["steps"].all()
    average = drawn(replace(TRIBE, average_subjects=True), batch, train=False)
    assert (average["subject"] == 3).all()


def test_what_an_example_lacks_and_what_is_hidden_change_nothing():
    """Whatever stands in the batch there, bias included: projections are zero."""
    batch = tribe_batch(TRIBE)
    variables = variables_of(TRIBE)
    draws = drawn(TRIBE, batch)

    @quick.jit
    def bold(batch):
        return TRIBE._read(variables, batch, draws, "prediction").values["bold"]

    wanted = bold(batch)
    seen = draws["modalities"] & batch["features/present"]
    assert 0 < seen.mean() < 1
    other = dict(batch)
    for i, m in enumerate(TRIBE.modalities):
        x = batch[f"features/{m.name}"]
        other[f"features/{m.name}"] = jnp.where(seen[:, i, None, None, None], x, 7e3)
    np.testing.assert_array_equal(bold(other), wanted)


# ---- loss ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mse", "huber", "pearson"])
def test_losses_are_those_of_the_masked_elements_alone(kind):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 2, (2, 3, 5, 4))
    mask = rng.random(x.shape) > 0.3
    mask[..., 2] = False  # an output that nobody has
    total, weight = responses.loss(
        *(jnp.asarray(a, jnp.float32) for a in (x, y)), jnp.asarray(mask), kind
    )
    if kind == "pearson":
        pairs = [
            (x[..., p][m], y[..., p][m]) for p in range(4) if (m := mask[..., p]).any()
        ]
        wanted = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in pairs])
        assert weight == 3
    else:
        error = np.abs(x - y)[mask]
        small = error**2 / 2
        huber = np.where(error < 1, small, error - 0.5)
        wanted = (error**2 if kind == "mse" else huber).mean()
        assert weight == mask.sum()
    np.testing.assert_allclose(total / weight, wanted, 1e-5)


def test_a_constant_prediction_has_a_loss_and_a_slope():
    y = jnp.asarray(np.random.default_rng(0).normal(0, 1, (2, 5, 3)), jnp.float32)
    mask = jnp.ones(y.shape, bool)
    value, slope = jax.value_and_grad(
        lambda x: responses.loss(x, y, mask, "pearson")[0]
    )(jnp.ones_like(y))
    assert value == 3
    assert jnp.isfinite(slope).all()


def test_correlations_are_told_by_subject_and_pooled():
    task = replace(PLAIN, n_outputs=5)
    batch, variables = numpy_batch(task, 12), variables_of(task)

    @quick.jit
    def run(batch):
        draws = task.draw(batch, jax.random.key(0), jnp.int32(0), False)
        found = task.loss(variables, batch, draws, jnp.int32(0), False)
        read = task.read(variables, batch, "prediction").values["bold"]
        return found[0], task.summary(found[1]), read

    terms, summary, bold = jax.device_get(run(batch))
    mask = (batch["fmri/mask"] & batch["valid"][:, None, None]).swapaxes(1, 2)
    target = batch["fmri/bold"].swapaxes(1, 2)

    def mean_r(rows):
        pairs = [
            (bold[rows, :, p][m], target[rows, :, p][m])
            for p in range(5)
            if (m := mask[rows, :, p]).any()
        ]
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])

    by_subject = [mean_r(batch["subject"] == s) for s in range(3)]
    close = lambda got, r: np.testing.assert_allclose(got, r, atol=3e-4)  # noqa: E731
    close(summary["pearson"], np.mean(by_subject))
    close(summary["pearson_pooled"], mean_r(np.ones(12, bool)))
    error = np.square(bold - target)[mask].mean()
    np.testing.assert_allclose(terms["mse"][0] / terms["mse"][1], error, 1e-5)


# ---- the trained model ---------------------------------------------------------------


def test_a_response_comes_after_what_evoked_it():
    variables, batch = variables_of(PLAIN), tribe_batch(PLAIN)
    values, times = read(PLAIN, variables, batch, "prediction")
    assert values["bold"].shape == (8, 4, 16)
    np.testing.assert_allclose(times[0], 4.47 + 1.49 * (np.arange(4) + 0.5))
    values, times = read(PLAIN, variables, batch)
    assert sorted(values) == ["last", "layer_01", "layer_02"]
    np.testing.assert_allclose(times[0], 0.25 + 0.5 * np.arange(10))


def test_a_subject_outside_the_table_is_no_number():
    batch = {**tribe_batch(PLAIN, 2), "subject": jnp.int32([1, 9])}
    bold = read(PLAIN, variables_of(PLAIN), batch, "prediction")[0]["bold"]
    assert np.isfinite(bold[0]).all()
    assert np.isnan(bold[1]).all()


def test_a_smoothing_kernel_that_is_not_trained_is_a_buffer():
    frozen, trained = TRIBE, replace(TRIBE, smoothing_trained=True)
    held, moved = abstract_variables(frozen), abstract_variables(trained)
    assert held["buffers"]["smoothing"].shape == (3, 24)
    assert moved["params"]["smoothing"].shape == (3, 24)
    assert not moved["buffers"]
    fresh = gaussian(3, 1.0, 24)
    np.testing.assert_allclose(
        fresh[:, 0] / fresh[1, 0], [np.exp(-0.5), 1, np.exp(-0.5)]
    )
    np.testing.assert_allclose(fresh.sum(0), 1, 1e-6)


def test_averaged_weights_are_what_is_used():
    task = replace(PLAIN, swa_epochs=5, horizon=11)
    starts = [5, 7, 9]  # of epochs 2, 3 and 4, each two steps and a fifth long
    variables = variables_of(task)
    slow, params = variables["slow"], variables["params"]
    used = task.inference(variables)["params"]
    jax.tree.map(np.testing.assert_array_equal, used, params)

    @quick.jit
    def moved(slow, step):
        old = jax.tree.map(lambda x: x + step, params)
        return task.update_slow(slow, old, params, step)

    for step in range(11):
        slow = moved(slow, jnp.int32(step))
    assert slow["count"] == 3
    used = task.inference({**variables, "slow": slow})
    assert used["slow"] == {}
    mean = np.mean(starts)
    close = lambda got, p: np.testing.assert_allclose(got, p + mean, 1e-5)  # noqa: E731
    jax.tree.map(close, used["params"], params)


def test_averaging_follows_the_schedule():
    exp = config.load("tribe/quickstart", ("optim.swa_epochs=7", "train.steps=70"))
    task = exp.task
    assert isinstance(task, Tribe)
    assert (task.swa_epochs, task.horizon) == (7, 70)
    with pytest.raises(NeuroFMError, match=r"under optim\.schedule=onecycle"):
        config.load("wavjepa/tiny", ("optim.swa_epochs=7",))


def test_a_modality_without_features_keeps_its_place():
    silent = Modality(name="audio", layers=0, width=0)
    task = replace(PLAIN, modalities=(PLAIN.modalities[0], silent, PLAIN.modalities[2]))
    assert "features/audio" not in task.batch_spec().fields
    assert task.batch_spec().fields["features/present"].shape == (3,)
    assert sorted(abstract_variables(task)["params"]["projectors"]) == ["text", "video"]
    assert dataclasses.asdict(silent) == {"name": "audio", "layers": 0, "width": 0}


# ---- new subjects --------------------------------------------------------------------


def test_new_subjects_start_from_the_mean_and_known_ones_from_their_own():
    variables = variables_of(TRIBE)
    task, new = with_subjects(TRIBE, variables, ["dora", "ben"])
    assert (task.subjects, task.rows) == (("dora", "ben"), 3)
    old, found = variables["params"]["subjects"], new["params"]["subjects"]
    for name in ("kernel", "bias"):
        mean = np.mean(old[name][:3], axis=0)
        np.testing.assert_allclose(found[name][0], mean, rtol=1e-5)
        np.testing.assert_array_equal(found[name][1:], old[name][jnp.array([1, 3])])
    assert new["params"]["subject_embedding"].shape == (3, 24)
    shapes = jax.tree.map(jnp.shape, abstract_variables(task))
    assert jax.tree.map(jnp.shape, new) == shapes
    alone = replace(TRIBE, subjects=())
    _, new = with_subjects(alone, variables_of(alone), ["dora"])
    table = new["params"]["subjects"]["kernel"]
    np.testing.assert_array_equal(table[0], table[1])
    with pytest.raises(NeuroFMError, match="each name once"):
        with_subjects(TRIBE, variables, ["dora", "dora"])


@pytest.mark.parametrize("before", [10, 0])
def test_another_width_before_the_head_keeps_the_largest_directions(before):
    task = replace(PLAIN, low_rank=before)
    variables, batch = variables_of(task), tribe_batch(task)
    names = list(task.subjects)
    wanted = read(task, variables, batch, "prediction")[0]["bold"]
    for rank in (0, 24):
        same, new = with_subjects(task, variables, names, rank)
        bold = read(same, new, batch, "prediction")[0]["bold"]
        np.testing.assert_allclose(bold, wanted, rtol=1e-4, atol=1e-4)

    def maps(params):
        kernel = np.asarray(params["subjects"]["kernel"], float)
        if "low_rank" in params:
            kernel = np.asarray(params["low_rank"]["kernel"], float) @ kernel
        return np.concatenate(list(kernel), axis=1)  # rows side by side

    whole = maps(variables["params"])
    _, new = with_subjects(task, variables, names, 3)
    u, s, v = np.linalg.svd(whole, full_matrices=False)
    best = (u[:, :3] * s[:3]) @ v[:3]
    np.testing.assert_allclose(maps(new["params"]), best, rtol=1e-3, atol=1e-4)


def test_only_the_table_learns_from_new_subjects():
    task = replace(PLAIN, trained="head")
    variables, batch = variables_of(task), tribe_batch(task)
    state = {**variables, "step": jnp.int32(0)}
    optim = Optim(lr=0.1, weight_decay=0.0, warmup=0.0)
    state["opt"] = optim.build(9).init(state["params"])
    moved, _, _ = quick.jit(train_step(task, optim, 9, 1, 0))(state, {}, batch)
    old, new = state["params"], moved["params"]
    for name in old:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), old[name], new[name])
        assert all(jax.tree.leaves(same)) == (name != "subjects"), name


# ---- what no fixture covers ----------------------------------------------------------


def test_smoothing_and_the_combiner_are_what_their_formulas_say():
    """In float64 with plain loops: E 40, three modalities, kernel of 5 steps."""
    task = replace(
        TRIBE, combiner=True, smoothing=5, subject_embedding=False, width=40, heads=2
    )
    task = replace(task, smoothing_sigma=0.8, layer_aggregation="mean")
    variables, batch = variables_of(task), numpy_batch(task, 2)
    variables["buffers"]["smoothing"] = gaussian(5, 0.8, 40)
    seen = np.array([[True, True, False], [False, True, True]])
    params = jax.tree.map(lambda x: np.asarray(x, float), variables["params"])
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    kernel /= kernel.sum()
    wanted = np.zeros((2, 10, 40))
    for b in range(2):
        parts = []
        for i, m in enumerate(task.modalities):
            own = params["projectors"][m.name]
            x = batch[f"features/{m.name}"][b].mean(0).T @ own["kernel"] + own["bias"]
            parts.append(x * seen[b, i])  # 40 // 3 features each
        x = np.concatenate(parts, 1) @ params["combiner"]["kernel"]
        x += params["combiner"]["bias"]
        for e in range(40):
            wanted[b, :, e] = np.convolve(x[:, e], kernel, "same")
        wanted[b] += params["positions"][:10]

    @quick.jit
    def run(variables, batch):
        x = task.aggregated(variables["params"], batch, jnp.asarray(seen))
        return task.positioned(variables, x, batch["subject"])

    np.testing.assert_allclose(run(variables, batch), wanted, 1e-4, 1e-5)
