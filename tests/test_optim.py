"""Schedules, and groups of parameters with settings of their own."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from neurofm.errors import NeuroFMError
from neurofm.optim import Group, Optim

PARAMS = {
    "norm": {"scale": jnp.asarray([1.0, 2.0])},
    "head": {"kernel": jnp.asarray([[3.0, -1.0]]), "bias": jnp.asarray([0.5])},
    "quantizer": {"kernel": jnp.asarray([2.0])},
}
LOG = Optim(
    lr=2e-3,
    betas=(0.5, 0.9),
    eps=1e-5,
    weight_decay=0.1,
    clip_norm=0.0,
    warmup=0.2,
    warmup_form="log",
    floor=0.05,
)
GROUPS = (
    Group(path="quantizer", lr_scale=1.5, weight_decay=0.0),
    Group(path="norm", weight_decay=0.0),
)


def test_the_logarithmic_warm_up_and_the_floor_are_those_of_the_formula():
    total, warm = 40, 8
    rates = [float(LOG.learning_rate(jnp.int32(t), total)) / 2e-3 for t in range(total)]
    for t, rate in enumerate(rates):
        if t < warm:
            wanted = 0.1 + 0.9 * math.log(t + 1) / math.log(warm)
        else:
            cosine = 1 + math.cos(math.pi * (t - warm + 1) / (total - warm))
            wanted = 0.05 + 0.95 * cosine / 2
        assert rate == pytest.approx(wanted, rel=1e-5)
    assert (rates[0], rates[7], rates[-1]) == pytest.approx((0.1, 1, 0.05), rel=1e-5)


def test_a_warm_up_of_one_step_is_none():
    rate = replace(LOG, warmup=0.025).learning_rate(jnp.int32(0), 40)
    wanted = 0.05 + 0.95 * (1 + math.cos(math.pi / 40)) / 2
    assert float(rate) == pytest.approx(2e-3 * wanted, rel=1e-5)


def steps(optim, n=3):
    optimizer = optim.build(40)
    params, state = PARAMS, optimizer.init(PARAMS)
    for i in range(n):
        grads = jax.tree.map(lambda p, i=i: jnp.sin(p + i), params)
        delta, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, delta)
    return params


def by_hand(optim, p, lr_scale, decay, first_rate=None, n=3):
    p = np.asarray(p, float)
    m = v = np.zeros_like(p)
    b1, b2 = optim.betas
    for t in range(n):
        g = np.sin(p + t)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        rate = lr_scale * float(optim.learning_rate(jnp.int32(t), 40))
        if t == 0 and first_rate:
            rate = first_rate
        adam = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + optim.eps)
        p = p - rate * (adam + decay * p)
    return p


@pytest.mark.parametrize("first_step", ["scheduled", "released"])
def test_every_group_steps_by_its_own_rate_and_decay(first_step):
    optim = replace(LOG, groups=GROUPS, first_step=first_step)
    got = steps(optim)
    late = first_step == "released"
    wanted = {
        ("norm", "scale"): (1.0, 0.0, 2e-3 if late else None),
        ("head", "kernel"): (1.0, 0.1, None),
        ("head", "bias"): (1.0, 0.1, None),
        ("quantizer", "kernel"): (1.5, 0.0, 3e-3 if late else None),
    }
    for (part, leaf), settings in wanted.items():
        by = by_hand(optim, PARAMS[part][leaf], *settings)
        np.testing.assert_allclose(got[part][leaf], by, rtol=1e-5)


def test_without_groups_the_state_is_that_of_plain_adamw():
    state = LOG.build(40).init(PARAMS)
    plain = optax.adamw(lambda _: 0.1).init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(plain)


def test_the_first_path_that_is_found_decides():
    both = (Group(path="kernel", lr_scale=0.0), Group(path="head"))
    got = steps(replace(LOG, groups=both))
    np.testing.assert_array_equal(got["head"]["kernel"], PARAMS["head"]["kernel"])
    assert not np.array_equal(got["head"]["bias"], PARAMS["head"]["bias"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"floor": 2.0}, "optim.floor is 2.0"),
        ({"groups": (Group(path="("),)}, "'\\(', which is no regular expression"),
        ({"groups": (Group(path="tail"),)}, "'tail', which no parameter is left for"),
        (
            {"groups": (Group(path="norm"), Group(path="norm"))},
            "which no parameter is left for",
        ),
    ],
)
def test_groups_that_cannot_be_are_refused(fields, message):
    with pytest.raises(NeuroFMError, match=message):
        replace(LOG, **fields).build(40).init(PARAMS)


def test_weight_decay_follows_half_a_cosine_and_groups_keep_their_own():
    optim = Optim(
        lr=0.5,
        weight_decay=0.1,
        weight_decay_end=0.4,
        warmup=0.0,
        floor=1.0,
        groups=(Group(path="head", weight_decay=0.0), Group(path="norm")),
    )
    total = 6
    optimizer = optim.build(total)
    state, zero = optimizer.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS)
    for t in range(total):
        delta, state = optimizer.update(zero, state, PARAMS)
        decay = 0.4 + (0.1 - 0.4) * (1 + math.cos(math.pi * t / total)) / 2
        assert float(optim.decay(jnp.int32(t), total)) == pytest.approx(decay)
        for name in ("quantizer", "norm"):  # without slopes, decay alone moves them
            (moved,), (x,) = jax.tree.leaves(delta[name]), jax.tree.leaves(PARAMS[name])
            np.testing.assert_allclose(moved, -0.5 * decay * x, rtol=1e-5)
        assert not np.any(delta["head"]["kernel"])
