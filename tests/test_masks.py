"""Masks: their algebra on recorded draws, their statistics on our own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import each, load
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.objectives.masks import (
    Speech,
    TimeInverse,
    draw_masks,
    over_channels,
    positions,
    span_mask,
    without_short_runs,
)

N_DRAWS = 4000


def drawn(masker, n, tokens=200, cap=200, first=0, valid=None, seed=3):
    keys = jax.random.split(jax.random.key(seed), n)
    valid = tokens if valid is None else valid
    return jax.tree.map(
        np.asarray,
        draw_masks(masker, keys, jnp.full(n, first), jnp.full(n, valid), tokens, cap),
    )


def runs(mask):
    edges = np.diff(np.pad(mask.astype(int), 1))
    return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


@pytest.mark.parametrize(
    ("kind", "masker"), [("time_inverse", TimeInverse()), ("speech", Speech())]
)
@each("wavjepa", keys=("time_inverse_ctx_mask", "speech_ctx_mask"))
def test_statistics_are_those_of_the_released_sampler(path, kind, masker):
    f = load(path)
    masks = drawn(masker, N_DRAWS)
    quantities = {
        "context_tokens": masks.context.sum(-1),
        "target_tokens_per_group": masks.target.sum(-1).ravel(),
        "union_target_tokens": masks.target.any(1).sum(-1),
        "context_runs": np.array([len(runs(m)) for m in masks.context]),
    }
    for name, ours in quantities.items():
        mean, std, low, high = f[f"{kind}_stat_{name}_mean_std_min_max"]
        error = std * np.sqrt(1 / len(ours) + 1 / N_DRAWS)
        assert abs(ours.mean() - mean) < 3.5 * error, name
        assert abs(ours.std() - std) < 0.1 * std, name
        assert ours.min() >= low - 2 * std, name
        assert ours.max() <= high + 2 * std, name
    for name, ours in (
        ("context", masks.context.mean(0)),
        ("target", masks.target.mean((0, 1))),
    ):
        theirs = f[f"{kind}_stat_{name}_prob_by_position"]
        np.testing.assert_allclose(ours, theirs, atol=0.035, err_msg=name)


@each("wavjepa", keys=("time_inverse_ctx_mask", "speech_ctx_mask"))
def test_recorded_draws_obey_the_rules_that_ours_obey(path):
    f = load(path)
    for kind, masker in (("time_inverse", TimeInverse()), ("speech", Speech())):
        hidden, target = f[f"{kind}_ctx_mask"], f[f"{kind}_target"]
        unseen = f[f"{kind}_ctx_and_target_mask"]
        np.testing.assert_array_equal(unseen, hidden[:, None] ^ target)
        masks = drawn(masker, 64)
        for context, targets in ((~hidden, target), (masks.context, masks.target)):
            assert not (context[:, None] & targets).any()
            assert not targets[..., -1].any()
            assert (context.mean(-1) >= masker.min_context).all()


@each("wavjepa", keys=("base_ctx_mask", "expanded_ctx_mask"))
def test_interleaved_channels_are_the_released_expansion(path):
    f = load(path)
    for name in ("ctx_mask", "target", "ctx_and_target_mask"):
        ours = over_channels(jnp.asarray(f[f"base_{name}"]), 2, "interleaved_legacy")
        np.testing.assert_array_equal(ours, f[f"expanded_{name}"])


def test_shared_channels_are_masked_at_the_same_times():
    mask = jnp.asarray([True, False, False])
    ours = over_channels(mask, 2, "shared")
    np.testing.assert_array_equal(ours, [True, False, False] * 2)


def test_draws_stay_within_the_cap_and_few_are_altered():
    masks = drawn(TimeInverse(), N_DRAWS, cap=78)
    assert masks.context.sum(-1).max() <= 78
    assert masks.altered.mean() < 1e-3
    free = drawn(TimeInverse(), N_DRAWS)
    within = free.context.sum(-1) <= 78
    np.testing.assert_array_equal(masks.context[within], free.context[within])


def test_an_impossible_cap_cuts_the_context_and_says_so():
    masks = drawn(TimeInverse(), 50, cap=5)
    assert masks.altered.all()
    assert (masks.context.sum(-1) == 5).all()


@pytest.mark.parametrize(("first", "valid"), [(0, 37), (13, 90), (60, 12), (1, 199)])
def test_padding_is_neither_context_nor_target(first, valid):
    masks = drawn(TimeInverse(), 300, first=first, valid=valid)
    outside = np.ones(200, bool)
    outside[first : first + valid] = False
    assert not masks.context[:, outside].any()
    assert not masks.target[..., outside].any()
    ok = ~masks.altered
    assert (masks.context.sum(-1)[ok] >= 0.1 * valid).all()
    # The mean cover is that of a clip which is `valid` tokens long by itself.
    alone = drawn(TimeInverse(), 300, tokens=valid, seed=4)
    a, b = masks.target.sum(-1), alone.target.sum(-1)
    error = np.sqrt((a.var() + b.var()) / a.size)
    assert abs(a.mean() - b.mean()) < 6 * error + 1e-9


def slow_span_mask(u, order, valid, share, length, tokens):
    """The rule in plain Python, given the uniform number and an order of places."""
    n = int(np.floor(np.float32(share * valid / length) + np.float32(u)))
    last = valid - length - 1 if valid - length > n else n
    starts = [p for p in order if p <= last][:n]
    mask = np.zeros(tokens, bool)
    for start in starts:
        mask[start : min(start + length, valid)] = True
    return mask


@settings(deadline=None, max_examples=30)
@given(
    valid=st.integers(1, 23),
    length=st.integers(1, 7),
    share=st.sampled_from([0.1, 0.25, 0.65, 0.9]),
    seed=st.integers(0, 9999),
)
def test_spans_are_those_of_the_slow_rule(valid, length, share, seed):
    tokens, uniform = 23, np.random.default_rng(seed).random(24).astype(np.float32)
    order = np.argsort(-uniform[1:], kind="stable")
    ours = span_mask(jnp.asarray(uniform), jnp.asarray(valid), share, length)
    theirs = slow_span_mask(uniform[0], order, valid, share, length, tokens)
    np.testing.assert_array_equal(ours, theirs)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_short_runs_are_dropped_and_long_ones_kept(bits, shortest):
    mask = np.array(bits)
    expected = np.zeros_like(mask)
    start = 0
    for i in range(len(mask) + 1):
        if i == len(mask) or not mask[i]:
            if i - start >= shortest:
                expected[start:i] = True
            start = i + 1
    ours = without_short_runs(jnp.asarray(mask), shortest)
    np.testing.assert_array_equal(ours, expected)


def test_places_come_in_order_with_padding_marked():
    mask = jnp.asarray([[False, True, True, False, True], [False] * 5])
    index, real = positions(mask, 4)
    np.testing.assert_array_equal(index[0, :3], [1, 2, 4])
    np.testing.assert_array_equal(real, [[True, True, True, False], [False] * 4])


def test_masks_follow_the_example_wherever_it_lies():
    whole = drawn(TimeInverse(), 6)
    keys = jax.random.split(jax.random.key(3), 6)
    part = draw_masks(
        TimeInverse(), keys[4:5], jnp.zeros(1, int), jnp.full(1, 200), 200, 200
    )
    np.testing.assert_array_equal(part.context[0], whole.context[4])
