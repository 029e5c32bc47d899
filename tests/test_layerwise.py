"""Rates by layer: how far down a layer lies, what it learns, when it opens."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from neurofm import config, layerwise
from neurofm.errors import NeuroFMError
from neurofm.optim import Group, Optim

RULES = ("^task/stem/", "^task/blocks/")


def params():
    rng = np.random.default_rng(0)

    def made(*shape):
        return jnp.array(rng.normal(0, 1, shape), jnp.float32)

    return {
        "task": {
            "stem": {"kernel": made(5, 7)},
            "blocks": {"attn": {"kernel": made(3, 7, 2)}, "scale": made(3)},
            "norm": made(7),
        },
        "head": {"kernel": made(7, 2)},
    }


def run(optim, steps=3, total=10):
    """Parameters after each step under gradients that are the parameters."""
    chain = optim.build(total)
    p = params()
    state, found = chain.init(p), [p]

    @jax.jit
    def step(p, state):
        updates, state = chain.update(p, state, p)
        return optax.apply_updates(p, updates), state

    for _ in range(steps):
        p, state = step(p, state)
        found.append(p)
    return found


def test_depth_is_counted_from_the_output():
    found = layerwise.depths(params(), RULES)
    assert found["head"]["kernel"] == found["task"]["norm"] == 0
    np.testing.assert_array_equal(found["task"]["blocks"]["scale"], [3, 2, 1])
    assert found["task"]["stem"]["kernel"] == 4


@pytest.mark.parametrize("groups", [(), (Group(path="^head/", weight_decay=0.0),)])
def test_a_lower_layer_moves_by_its_share_of_the_rate(groups):
    settings = {"lr": 1e-2, "warmup": 0.0, "weight_decay": 0.1, "groups": groups}
    plain = run(Optim(**settings), 1)
    scaled = run(Optim(**settings, layers=RULES, layer_decay=0.5), 1)
    share = layerwise.depths(params(), RULES)

    def check(before, after, scaled, depth):
        moved = np.asarray(after - before)
        part = 0.5 ** np.asarray(depth)
        part = part.reshape(part.shape + (1,) * (moved.ndim - part.ndim))
        np.testing.assert_allclose(scaled - before, moved * part, atol=2e-7)

    jax.tree.map(check, plain[0], plain[1], scaled[1], share)


def test_layers_open_one_after_the_other_from_the_top():
    found = run(Optim(lr=1e-2, warmup=0.0, layers=RULES, unfreeze=0.2), 9, 10)
    opened = {"stem": [], "head": [], "blocks": []}
    for before, after in itertools.pairwise(found):
        moved = jax.tree.map(lambda a, b: np.asarray(a != b), before, after)
        opened["head"].append(moved["head"]["kernel"].any())
        opened["stem"].append(moved["task"]["stem"]["kernel"].any())
        opened["blocks"].append(moved["task"]["blocks"]["scale"].tolist())
    assert all(opened["head"])
    assert opened["stem"].index(True) == 8  # the fourth down, every two steps
    first = np.argmax(np.array(opened["blocks"]), 0)
    np.testing.assert_array_equal(first, [6, 4, 2])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"layer_decay": 0.5}, "optim.layers is empty: name the layers"),
        ({"layers": ("(",)}, r"optim.layers has the path '\('"),
        ({"layers": RULES, "layer_decay": 0.0}, "give more than 0 and at most 1"),
    ],
)
def test_a_users_mistake_is_named(fields, told):
    with pytest.raises(NeuroFMError, match=told):
        Optim(**fields)


def test_a_rule_that_names_no_single_layer_is_refused():
    with pytest.raises(NeuroFMError, match="'nothing', which meets no parameter"):
        Optim(layers=("nothing",), layer_decay=0.5).build(3).init(params())
    with pytest.raises(NeuroFMError, match=r"meets stacks of \[1, 3\] layers"):
        Optim(layers=("^task/",), layer_decay=0.5).build(3).init(params())


def test_brain_semantoks_is_fine_tuned_with_the_released_rates():
    optim = config.load("brain_semantoks/finetune").optim
    shapes = {
        **dict.fromkeys(("cls_token", "position_embedding", "norm/scale"), (2,)),
        **dict.fromkeys(("tokenizers/conv/kernel", "tokenizers/bias"), (5, 2)),
        **dict.fromkeys(("blocks/attn/out/kernel", "blocks/bias"), (8, 2)),
    }
    params = {f"task/{name}": jnp.zeros(shape) for name, shape in shapes.items()}
    params |= {"head/kernel": jnp.zeros(2), "head/bias": jnp.zeros(2)}
    depth = layerwise.depths(params, optim.layers)
    scales = {"rest": 1.0}
    scales |= {f"group_{i}": g.lr_scale for i, g in enumerate(optim.groups)}
    found = {
        name: optim.lr * scales[group] * optim.layer_decay ** np.asarray(depth[name])
        for name, group in optim.labels(params).items()
    }
    # Spec: 0.9 ** (L + 1 - id), id 0 of tokens and positions, 1 of tokenizers, i + 2 of
    # block i of L = 8; the rest has the full rate.
    full = 1e-4 * 16 / 256
    for name, rate in found.items():
        power = {"task/cls_token": 9, "task/position_embedding": 9}.get(name, 0)
        power = 8 if "tokenizers" in name else power
        power = 7 - np.arange(8) if "blocks" in name else power
        np.testing.assert_allclose(rate, full * 0.9**power, rtol=1e-6)
