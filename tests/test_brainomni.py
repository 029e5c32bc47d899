"""BrainOmni: masks, dropout, padding, and the switches of the released form."""

import functools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tiny_meeg import OMNI, TOKENIZER, loud_outside, meeg_batch, sized, wider

from neurofm.config import Experiment, override
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_variables
from neurofm.models.brainomni import BrainOmni
from neurofm.nn.crisscross import CrissCross, rotate
from neurofm.nn.dropout import dropout
from neurofm.step import draw_key, loss_and_grads

BATCH = meeg_batch(OMNI)


def large(**fields):
    """A task with long segments, and what it draws for four of them."""
    task = replace(OMNI, segment_samples=4000, **fields)
    shape = (4, task.n_sensors, task.segment_samples)
    batch = {"meeg/signal": jnp.zeros(shape), "index": jnp.arange(4)}
    key, step = jax.random.key(0), jnp.int32(0)
    return jax.device_get(quick.jit(lambda b: task.draw(b, key, step, True))(batch))


CALM = replace(OMNI, dropout=0.0)


@functools.cache
def variables(task=OMNI):
    rng = np.random.default_rng(4)
    shapes = abstract_variables(task)
    random = lambda x: rng.normal(0.1, 0.3, x.shape).astype(x.dtype)  # noqa: E731
    return jax.tree.map(random, shapes)


@functools.cache
def draw(task=OMNI):
    run = quick.jit(
        lambda b: task.draw(b, draw_key(1, jnp.int32(2), "train"), jnp.int32(2), True)
    )
    return jax.device_get(run(BATCH))


@functools.cache
def program(task, accumulate, train=True):
    """Loss and gradients, or for `accumulate` 0 the loss alone."""

    def run(variables, batch, draws):
        step = jnp.int32(0)
        if not accumulate:
            return task.loss(variables, batch, draws, step, train)
        others = dict(variables)
        params = others.pop("params")
        return loss_and_grads(task, params, others, batch, draws, step, accumulate)

    return quick.jit(run)


def measured(batch=BATCH):
    return jax.device_get(program(CALM, 1)(variables(), batch, draw()))


def loss_of(task=CALM, train=True):
    return jax.device_get(program(task, 0, train)(variables(), BATCH, draw()))


def assert_same(got, wanted, share=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        size = max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(a / size, b / size, atol=share)


def test_places_for_more_sensors_and_samples_change_nothing():
    batch = wider(BATCH, sensors=2, samples=13)
    task = sized(CALM, batch)
    draws = dict(draw())
    w = draws["keep"].shape[-1]
    key, step = jax.random.key(0), jnp.int32(0)
    drawn = jax.eval_shape(lambda b: task.draw(b, key, step, True), batch)
    more = drawn["keep"].shape[-1] - w
    assert more > 0
    row, column = np.divmod(draws["source"], w)
    wide = ((0, 0), (0, 0), (0, more))
    draws["source"] = np.pad(row * (w + more) + column, wide)
    draws |= {k: np.pad(draws[k], wide) for k in ("keep", "hide")}
    got = program(task, 0)(variables(), batch, draws)
    assert_same(jax.device_get(got), loss_of())


def test_what_is_not_recorded_changes_nothing():
    assert_same(measured(batch=loud_outside(BATCH)), measured())


def test_half_of_the_positions_are_masked_and_four_fifths_of_them_hidden():
    draws = large()
    assert abs(draws["keep"].mean() - 0.5) < 0.03
    assert abs(draws["hide"].mean() - 0.8) < 0.03
    for source in draws["source"]:
        assert sorted(source.ravel().tolist()) == list(range(source.size))


def test_spans_hide_all_sources_at_the_same_times():
    keep = np.asarray(large(mask="span", span_tokens=5)["keep"])
    assert (keep == keep[:, :1]).all()
    starts = np.flatnonzero(np.diff(keep[0, 0].astype(int)) == -1)
    ends = np.flatnonzero(np.diff(keep[0, 0].astype(int)) == 1)
    assert (ends[: len(starts)] - starts[: len(ends)]).min() >= 5
    assert 0.25 < 1 - keep.mean() < 0.5


def test_a_masked_position_is_the_mask_token_or_another_vector():
    tokens = np.random.default_rng(0).normal(0, 1, (8, 3, 8, 8)).astype(np.float32)
    draws = draw()
    params = variables()["params"]
    own = jax.tree.map(jnp.asarray, (params, tokens, draws))
    got = np.asarray(OMNI.hidden_tokens(*own))
    keep, hide = draws["keep"], draws["hide"]
    assert keep.shape == tokens.shape[:3]
    np.testing.assert_array_equal(got[keep], tokens[keep])
    token = np.broadcast_to(params["mask_token"], got[~keep & hide].shape)
    np.testing.assert_array_equal(got[~keep & hide], token)
    flat = tokens.reshape(8, -1, 8)
    others = np.take_along_axis(flat, draws["source"].reshape(8, -1, 1), axis=1)
    others = others.reshape(tokens.shape)
    np.testing.assert_array_equal(got[~keep & ~hide], others[~keep & ~hide])


def test_only_masked_positions_of_valid_rows_weigh():
    terms, sums = loss_of()
    valid = -(-np.maximum(BATCH["meeg/length"] - 16, 0) // 12) + 1
    masked = [
        (~draw()["keep"][i, :, : 2 * n]).sum() * BATCH["valid"][i]
        for i, n in enumerate(valid)
    ]
    assert terms["codes"][1] == sum(masked) == sums["masked"]


def test_fewer_levels_than_the_tokenizer_has_are_predicted():
    task = replace(CALM, n_quantizers_used=1)
    params = dict(variables()["params"])
    params["head"] = {
        "kernel": params["head"]["kernel"][:, :6],
        "bias": params["head"]["bias"][:6],
    }
    own = {**variables(), "params": params}
    terms, sums = program(task, 0)(own, BATCH, draw())
    assert sums["hits"].shape == (1,)
    whole = loss_of()[1]["hits"]
    np.testing.assert_array_equal(sums["hits"], whole[:1])
    assert np.isfinite(terms["codes"][0])


# ---- dropout -------------------------------------------------------------------------


def test_dropout_drops_its_share_by_the_key_of_each_example():
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
    x = jnp.ones((3, 40, 50))
    got = np.asarray(dropout(x, keys, 0.1, jnp.int32(4)))
    assert set(np.unique(got).round(5)) == {0, np.float32(1 / 0.9).round(5)}
    assert abs((got == 0).mean() - 0.1) < 0.01
    alone = dropout(x[1:2], keys[1:2], 0.1, jnp.int32(4))
    np.testing.assert_array_equal(alone[0], got[1])
    assert not np.array_equal(dropout(x, keys, 0.1, jnp.int32(5)), got)


def test_dropout_acts_in_training_and_as_released_in_evaluation_too():
    task = replace(OMNI, dropout=0.4)
    released = replace(task, eval_dropout="released")
    calm = loss_of()[0]["codes"][0]
    losses = {t: loss_of(t, False)[0]["codes"][0] for t in (task, released)}
    assert losses[task] == pytest.approx(calm, rel=1e-6)
    assert abs(losses[released] - calm) > 1e-4 * calm
    assert abs(loss_of(task)[0]["codes"][0] - calm) > 1e-4 * calm


def features(task, batch=BATCH):
    read = quick.jit(lambda v, b: vars(task.read(v, b)))
    return jax.device_get(read(variables(), batch))


def test_features_are_the_same_at_every_reading_but_for_the_released_dropout():
    task = replace(OMNI, dropout=0.4)
    other = {**BATCH, "index": BATCH["index"] + 5}
    one, two = features(task)["values"]["last"], features(task, other)["values"]["last"]
    np.testing.assert_array_equal(one, two)
    released = replace(task, eval_dropout="released")
    one, two = features(released), features(released, other)
    assert not np.array_equal(one["values"]["last"], two["values"]["last"])


def test_features_have_unit_length_at_every_source_and_layers_are_named():
    got = features(OMNI)
    last = got["values"]["last"].reshape(8, -1, 3, 12)
    np.testing.assert_allclose(np.linalg.norm(last, axis=-1), 1, rtol=1e-4)
    assert set(got["values"]) == {"layer_01", "layer_02", "last"}
    valid = -(-np.maximum(BATCH["meeg/length"] - 16, 0) // 12) + 1
    np.testing.assert_array_equal(got["mask"].sum(1), 2 * valid)
    np.testing.assert_allclose(got["times_s"][0, 2], (12 + 4) / 40.0)


# ---- what a plan asks ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["block", "selective"])
def test_recomputing_changes_no_output_and_no_gradient_of_the_blocks(remat):
    x = jax.random.normal(jax.random.key(3), (2, 3, 5, 8))
    visible = jnp.arange(5) < jnp.asarray([[5], [4]])
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 2))

    def slopes(remat):
        stack = CrissCross(2, 4, rate=0.3, rate_mlp=0.3, remat=remat)
        params = stack.init(jax.random.key(0), x, visible, keys)

        def total(params):
            return jnp.square(stack.apply(params, x, visible, keys)).sum()

        return quick.jit(jax.value_and_grad(total))(params)

    got, wanted = slopes(remat), slopes("none")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, wanted)


def test_a_platform_decides_the_precision_of_both_stages_and_only_where_it_is_auto():
    on_tpu = OMNI.for_platform("tpu")
    assert (on_tpu.precision, on_tpu.tokenizer.precision) == ("bfloat16", "bfloat16")
    given = replace(OMNI, precision="float32").for_platform("tpu")
    assert (given.precision, given.tokenizer.precision) == ("float32", "bfloat16")
    assert OMNI.for_platform("cpu").precision == "float32"


def test_what_saves_memory_are_settings_of_the_task():
    for saving in OMNI.savings():
        exp = override(Experiment(task=OMNI), (saving,))
        assert exp.task.savings() == ()
    assert len(OMNI.savings()) == 2


# ---- rotary --------------------------------------------------------------------------


def test_heads_turn_at_rates_that_run_on_from_head_to_head():
    x = np.random.default_rng(0).normal(0, 1, (1, 1, 5, 2, 4)).astype(np.float32)
    exact, cosine = (
        np.asarray(rotate(jnp.asarray(x), r)).reshape(5, 4, 2)
        for r in ("exact", "cosine_only")
    )
    flat = x.reshape(5, 4, 2)
    angle = np.arange(5)[:, None] * 10_000.0 ** (-2 * np.arange(4) / 8)
    turned = (flat[..., 0] + 1j * flat[..., 1]) * np.exp(1j * angle)
    np.testing.assert_allclose(exact[..., 0] + 1j * exact[..., 1], turned, atol=1e-5)
    np.testing.assert_allclose(cosine, flat * np.cos(angle)[..., None], atol=1e-5)


# ---- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "task.width is 256 with task.heads 3"),
        ({"depth": 1}, "task.depth is 1: give 2 or more"),
        ({"n_quantizers_used": 5}, "n_quantizers_used is 5: the tokenizer has 4"),
        ({"overlap": 1.0}, "task.overlap is 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(NeuroFMError, match=message):
        BrainOmni(**fields)


def test_vectors_of_the_whole_batch_couple_it():
    assert not OMNI.batch_coupled
    coupled = replace(OMNI, replacement="batch")
    assert coupled.batch_coupled
    source = draw(coupled)["source"]
    assert sorted(source.ravel().tolist()) == list(range(source.size))
    with pytest.raises(NeuroFMError, match=r"train\.accumulate is 2"):
        program(coupled, 2)(variables(), BATCH, draw(coupled))


def test_the_tokenizer_gets_no_gradient():
    known = jax.tree.map(jnp.asarray, variables())
    batch, draws = jax.tree.map(jnp.asarray, (BATCH, draw()))

    def loss(frozen):
        first = {**known["frozen"]["tokenizer"], "params": frozen}
        own = {**known, "frozen": {"tokenizer": first}}
        terms, _ = CALM.loss(own, batch, draws, jnp.int32(0), True)
        return terms["codes"][0]

    frozen = variables()["frozen"]["tokenizer"]["params"]
    grads = quick.jit(jax.grad(loss))(frozen)
    assert all(not np.any(g) for g in jax.tree.leaves(grads))
    assert TOKENIZER.n_sources == 3
