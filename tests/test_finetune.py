"""A head on a task's features: what it learns and what it leaves alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_meeg import OMNI, meeg_batch
from tiny_models import TINY

from neurofm.errors import NeuroFMError
from neurofm.model import abstract_batch
from neurofm.models.finetune import Finetune
from neurofm.nn import adapt
from neurofm.optim import Group, Optim
from neurofm.parallel.sharding import param_shardings
from neurofm.signals import augment as augmenting
from neurofm.signals.augment import Augment
from neurofm.step import new_state, train_step

TWO = ("low", "high")


def labelled_batch(task, n=6, seed=0):
    spec = task.batch_spec("train")
    chans, window = spec.fields["audio/wave"].shape
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    tone = np.sin(np.arange(window) * 0.3)
    wave = rng.standard_normal((n, chans, window)) + 4 * label[:, None, None] * tone
    batch = {
        "audio/wave": wave.astype(np.float32),
        "audio/span": np.tile(np.array([[0, window]], np.int32), (n, 1)),
        "label": label.astype(np.int32),
        "index": np.arange(n, dtype=np.int32),
        "valid": np.ones(n, bool),
    }
    return jax.tree.map(jnp.asarray, batch)


def frozen_model():
    """WavJEPA as it starts, and its variables in use."""
    shapes = abstract_batch(TINY, 2)
    batch = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    fresh = jax.jit(lambda key: TINY.init(key, batch, {}))(jax.random.key(5))
    return TINY, {"task": TINY.inference(fresh)}


def omni():
    """BrainOmni and its variables in use, on a batch with labels."""
    rows = jax.tree.map(jnp.asarray, meeg_batch(OMNI, 4))
    tokenizer = jax.jit(OMNI.tokenizer.init)(jax.random.key(1), rows, {})
    fresh = jax.jit(OMNI.init)(jax.random.key(2), rows, {})
    variables = OMNI.inference({**fresh, "frozen": {"tokenizer": tokenizer}})
    return variables, {**rows, "label": jnp.array([0, 1, 1, 0])}


def trained(task, frozen, batch, steps, **fields):
    optim = Optim(**{"lr": 2e-2, "warmup": 0.0, **fields})
    fresh = jax.jit(lambda key: new_state(task, optim, steps, key, batch, frozen))
    state = fresh(jax.random.key(0))
    step = jax.jit(train_step(task, optim, steps, 1, 0), donate_argnums=0)
    losses, sums = [], {}
    for _ in range(steps):
        state, metrics, sums = step(state, frozen, batch)
        losses.append(float(metrics["train/loss"]))
    return state, losses, sums


@pytest.mark.parametrize("regime", ["full", "last", "lora", "probe"])
def test_a_separable_problem_is_learnt_and_the_rest_is_left_alone(regime):
    base, frozen = frozen_model()
    before = jax.tree.map(np.array, frozen)
    task = Finetune(task=base, classes=TWO, regime=regime, lora_rank=2)
    batch = labelled_batch(task)
    state, losses, sums = trained(task, frozen, batch, 40)
    np.testing.assert_allclose(losses[0], np.log(2), rtol=1e-5)  # a head of zeros
    share = {"full": 0.3, "last": 0.7, "lora": 0.7, "probe": 0.99}[regime]
    assert losses[-1] < share * losses[0]
    least = 0.8 if regime == "probe" else 1.0
    assert float(task.summary(sums)["accuracy"]) >= least
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    was = flatten_dict(before["task"]["params"], sep="/")
    now = task.model({**state, "frozen": frozen})["params"]
    moved = {
        name: [not np.array_equal(a, b) for a, b in zip(was[name], x, strict=True)]
        if "/blocks/" in name
        else [not np.array_equal(was[name], x)]
        for name, x in flatten_dict(now, sep="/").items()
    }
    blocks = [m for name, m in moved.items() if "/blocks/" in name]
    others = [m for name, m in moved.items() if "/blocks/" not in name]
    if regime == "probe":
        assert not any(map(any, moved.values()))
    if regime == "last":
        assert not any(map(any, others))
        assert any(m[-1] for m in blocks)
        assert not any(any(m[:-1]) for m in blocks)
    if regime == "lora":
        assert {n.split("/")[-2] for n, m in moved.items() if any(m)} <= {
            *("query", "key", "value", "out", "mlp_in", "mlp_out"),
        }
        assert any(map(any, blocks))
    if regime == "full":
        assert any(map(any, others))


@pytest.mark.parametrize("regime", ["full", "last", "lora", "probe"])
def test_a_fresh_part_leaves_the_model_as_it_is(regime):
    base, frozen = frozen_model()
    how = Finetune(task=base, classes=TWO, regime=regime)._how
    params = frozen["task"]["params"]
    part = adapt.start(how, params, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, adapt.joined(how, params, part), params)


def test_low_rank_additions_are_products_of_their_rank():
    base, frozen = frozen_model()
    how = Finetune(task=base, classes=TWO, regime="lora", lora_rank=2)._how
    params = frozen["task"]["params"]
    part = adapt.start(how, params, jax.random.key(0))
    part = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape), part
    )
    flat, own = (flatten_dict(t, sep="/") for t in (params, part))
    joined = flatten_dict(adapt.joined(how, params, part), sep="/")
    for name in {n.rpartition("/")[0] for n in own}:
        down, up = own[f"{name}/down"], own[f"{name}/up"]
        for layer in range(len(down)):
            delta = np.asarray(joined[name][layer] - flat[name][layer])
            wanted = np.asarray(down[layer]) @ np.asarray(up[layer]) * 16 / 2
            np.testing.assert_allclose(delta.reshape(wanted.shape), wanted, atol=2e-5)
            assert np.linalg.matrix_rank(wanted) == 2
    assert adapt._matrix("blocks/out/kernel", (3, 2, 4, 8)) == ((3,), 8, 8)
    assert adapt._matrix("a/qkv/kernel", (8, 3, 2, 4)) == ((), 8, 24)


def test_the_middle_of_a_short_example_is_its_own():
    tuned = Finetune(task=TINY, center_tokens=4)
    mask = jnp.arange(9) < np.array([[9], [8], [5], [3], [1], [0]])
    found = [np.flatnonzero(row).tolist() for row in tuned._pooled(mask)]
    whole = [[2, 3, 4, 5], [2, 3, 4, 5], [0, 1, 2, 3], [0, 1, 2], [0], []]
    assert found == whole


def test_filler_rows_weigh_nothing():
    base, frozen = frozen_model()
    task = Finetune(task=base, classes=TWO)
    batch = labelled_batch(task)
    variables = jax.jit(task.init)(jax.random.key(0), batch, frozen)
    head = {"kernel": jnp.ones_like(variables["params"]["head"]["kernel"])}
    variables["params"]["head"] |= head
    variables["frozen"] = frozen
    filled = {**batch, "valid": jnp.arange(6) < 4}
    first = {name: x[:4] for name, x in batch.items()}

    @jax.jit
    def loss(batch):
        draws = task.draw(batch, jax.random.key(0), jnp.int32(0), True)
        return task.loss(variables, batch, draws, jnp.int32(0), True)

    for a, b in zip(
        jax.tree.leaves(loss(filled)), jax.tree.leaves(loss(first)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_released_head_is_dropout_selu_and_two_linear_maps():
    variables, batch = omni()
    task = Finetune(task=OMNI, classes=("a", "b", "c"), head="mlp", dropout=0.25)
    frozen = {"task": variables}
    own = jax.jit(task.init)(jax.random.key(0), batch, frozen)
    head = own["params"]["head"]
    d = OMNI.tokenizer.n_sources * OMNI.width
    assert head["hidden_kernel"].shape == (d, OMNI.width)
    whole = {**own, "frozen": frozen}
    told = jax.jit(lambda v, b: vars(task.read(v, b, "prediction")))(whole, batch)
    reading = jax.jit(lambda v, b: vars(OMNI.read(v, b)))(variables, batch)
    x = np.array(reading["values"]["last"], np.float64)
    mask = np.array(reading["mask"])[..., None]
    x = (x * mask).sum(1) / mask.sum(1)
    h = x @ np.array(head["hidden_kernel"], np.float64)
    h = 1.0507009873554805 * np.where(h > 0, h, 1.6732632423543772 * np.expm1(h))
    logits = told["values"]["prediction"][:, 0]
    np.testing.assert_allclose(logits, h @ np.array(head["kernel"]), atol=1e-6)

    @functools.partial(jax.jit, static_argnums=0)
    def loss(train, seed):
        draws = task.draw(batch, jax.random.key(seed), jnp.int32(0), train)
        terms, _ = task.loss(whole, batch, draws, jnp.int32(0), train)
        return terms["classes"][0]

    assert loss(False, 0) == loss(False, 1)
    assert loss(True, 0) != loss(True, 1)


def test_smoothed_labels_follow_their_formula():
    base, frozen = frozen_model()
    task = Finetune(task=base, classes=("a", "b", "c"), label_smoothing=0.1)
    batch = labelled_batch(task)
    variables = jax.jit(task.init)(jax.random.key(0), batch, frozen)
    logits = np.array([2.0, -1.0, 0.5])
    variables["params"]["head"]["bias"] = jnp.array(logits, jnp.float32)
    variables["frozen"] = frozen
    draws = task.draw(batch, jax.random.key(0), jnp.int32(0), True)
    loss = jax.jit(lambda v: task.loss(v, batch, draws, jnp.int32(0), True))
    terms, sums = loss(variables)
    log_p = logits - np.log(np.exp(logits).sum())
    target = np.full((6, 3), 0.1 / 3)
    target[np.arange(6), np.arange(6) % 2] += 0.9
    np.testing.assert_allclose(terms["classes"][0], -(target @ log_p).sum(), rtol=1e-5)
    found = task.summary(sums)  # all are guessed to be of the first class
    np.testing.assert_allclose(found["accuracy"], 0.5)
    np.testing.assert_allclose(found["balanced_accuracy"], 0.5)


def test_every_parameter_has_a_place_on_a_mesh():
    variables, batch = omni()
    mesh = jax.make_mesh((1, 1, 1, 1), ("replica", "data", "fsdp", "tensor"))
    for regime in ("full", "last", "lora"):
        task = Finetune(task=OMNI, classes=TWO, head="mlp", regime=regime)
        own = jax.eval_shape(task.init, jax.random.key(0), batch, {"task": variables})
        param_shardings(own["params"], mesh, task.rules())


def test_the_head_may_learn_faster_than_the_model():
    base, frozen = frozen_model()
    task = Finetune(task=base, classes=TWO)
    groups = (Group(path="^head/", lr_scale=10, weight_decay=0),)
    batch = labelled_batch(task)
    state, _, _ = trained(task, frozen, batch, 1, lr=1e-3, groups=groups)
    head = np.abs(state["params"]["head"]["kernel"])
    np.testing.assert_allclose(head[head > 1e-4], 1e-2, rtol=1e-2)  # Adam's first step


def test_a_users_mistake_is_named():
    base, frozen = frozen_model()
    with pytest.raises(NeuroFMError, match=r"task.dropout is 1"):
        Finetune(task=base, dropout=1.0)
    with pytest.raises(NeuroFMError, match=r"task.lora_rank is 0"):
        Finetune(task=base, lora_rank=0)
    with pytest.raises(NeuroFMError, match=r"task.lora_path is '\(', which is no reg"):
        Finetune(task=base, lora_path="(")
    with pytest.raises(NeuroFMError, match=r"task.pool is attention, but task.head=fl"):
        Finetune(task=base, head="flat", pool="attention")
    task = Finetune(task=base, classes=TWO, regime="lora", lora_path="nothing")
    with pytest.raises(
        NeuroFMError, match=r"lora_path 'nothing' is found in no kernel"
    ):
        task.init(jax.random.key(0), labelled_batch(task), frozen)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("tags", [[0, 1], [1, 0], [0, 1], [1, 1], [0, 1], [1, 0]]),
        ("numbers", [[1.0, 10], [3, 10], [1, np.nan], [3, 30], [1, 10], [3, 30]]),
    ],
)
def test_tags_and_numbers_are_learnt_too(answer, label):
    base, frozen = frozen_model()
    task = Finetune(
        task=base,
        answer=answer,
        classes=TWO,
        layer="mix",
        pool="attention",
        augment=Augment(gain_db=3.0),
        centre=(2.0, 15.0) if answer == "numbers" else (),
        spread=(1.0, 10.0) if answer == "numbers" else (),
    )
    batch = {**labelled_batch(task), "label": jnp.array(label, jnp.float32)}
    _, losses, sums = trained(task, frozen, batch, 40)
    assert losses[-1] < 0.5 * losses[0]
    (found,) = task.summary(sums).values()
    assert float(found) > 0.5
    variables = jax.jit(task.init)(jax.random.key(0), batch, frozen)
    told = task.read({**variables, "frozen": frozen}, batch, "prediction")
    fresh = task.centre or (0.0, 0.0)  # a head of zeros says the mean
    np.testing.assert_allclose(told.values["prediction"][:, 0], [fresh] * 6)


def test_windows_side_by_side_are_read_as_each_alone():
    base, frozen = frozen_model()
    task = Finetune(task=base, classes=TWO, windows=3, pool="windows")
    size, n = base.window_samples, 2
    rng = np.random.default_rng(3)
    wave = rng.standard_normal((n, 1, 3 * size)).astype(np.float32)
    # The first begins in its second window; the other fills all three.
    spans = np.array([[size + 40, 3 * size], [0, 3 * size]], np.int32)
    wave[0, :, : size + 40] = 0
    batch = {"audio/wave": jnp.asarray(wave), "audio/span": jnp.asarray(spans)}
    batch |= {"index": jnp.arange(n), "valid": jnp.ones(n, bool)}
    whole = {**batch, "label": jnp.array([0, 1])}
    own = jax.jit(task.init)(jax.random.key(0), whole, frozen)
    assert own["params"]["head"]["kernel"].shape == (3 * base.width, 2)
    own["params"]["head"]["kernel"] = jnp.asarray(
        rng.normal(0, 1, (3 * base.width, 2)), jnp.float32
    )
    variables = {**own, "frozen": frozen}
    made = jax.jit(lambda v, b: vars(task.read(v, b, "prediction")))(variables, batch)
    pooled = np.zeros((n, 3, base.width))
    read = jax.jit(lambda v, b: vars(base.read(v, b)))
    for k in range(3):
        part = wave[..., k * size : (k + 1) * size]
        inside = np.clip(spans - k * size, 0, size).astype(np.int32)
        for row in range(n):
            if inside[row, 1] <= inside[row, 0]:
                continue
            one = {
                "audio/wave": jnp.asarray(part[row : row + 1]),
                "audio/span": jnp.asarray(inside[row : row + 1]),
                "index": jnp.arange(1),
                "valid": jnp.ones(1, bool),
            }
            alone = read(frozen["task"], one)
            mask = np.asarray(alone["mask"][0])
            pooled[row, k] = np.asarray(alone["values"]["last"][0])[mask].mean(0)
    wanted = pooled.reshape(n, -1) @ np.asarray(own["params"]["head"]["kernel"])
    found = made["values"]["prediction"][:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    spec = task.batch_spec("features")
    assert spec.contract.window_samples == size  # embeddings are of single windows
    alone = {**whole, "audio/wave": whole["audio/wave"][..., :size]}
    shapes = [
        jax.eval_shape(task.init, jax.random.key(0), b, frozen) for b in (whole, alone)
    ]
    assert shapes[0] == shapes[1]
    draws = jax.jit(lambda b: task.draw(b, jax.random.key(1), jnp.int32(0), True))(
        whole
    )
    assert {x.shape[0] for x in jax.tree.leaves(draws)} == {n}


@pytest.mark.slow
def test_a_mixture_is_learnt_as_a_mixture_of_labels():
    base, frozen = frozen_model()
    task = Finetune(task=base, classes=TWO, augment=Augment(mixup=0.4))
    batch = labelled_batch(task, 5)
    batch["audio/span"] = batch["audio/span"].at[1, 0].set(30)
    batch["valid"] = jnp.arange(5) < 4
    own = jax.jit(task.init)(jax.random.key(0), batch, frozen)
    own["params"]["head"]["bias"] = jnp.array([0.3, -0.9])
    variables = {**own, "frozen": frozen}

    @functools.partial(jax.jit, static_argnums=1)
    def loss(batch, train):
        draws = task.draw(batch, jax.random.key(7), jnp.int32(0), train)
        (term, sums) = task.loss(variables, batch, draws, jnp.int32(0), train)
        return draws, term["classes"], sums

    draws, (total, weight), _ = loss(batch, True)
    share = np.asarray(draws["mixup"]["share"])
    one_hot = np.eye(2)[np.asarray(batch["label"])]
    other = np.asarray(draws["mixup"]["partner"]["label"])
    shift = next(
        k for k in range(1, 5) if np.array_equal(np.roll(one_hot, k, 0), other)
    )
    assert (
        share[:4] < 1
    ).sum() == 3  # the filler is mixed with nobody, nor its partner
    assert share[4] == share[(4 + shift) % 5] == 1
    label = share[:, None] * one_hot + (1 - share)[:, None] * other
    log_p = np.array([0.3, -0.9]) - np.log(np.exp([0.3, -0.9]).sum())
    np.testing.assert_allclose(total, -(label[:4] @ log_p).sum(), rtol=1e-5)
    assert weight == 4
    made = augmenting.mixed({**batch, "label": jnp.asarray(one_hot)}, draws["mixup"])
    wave = np.asarray(batch["audio/wave"])
    of = share[:, None, None]
    wanted = of * wave + (1 - of) * np.roll(wave, shift, 0)
    np.testing.assert_allclose(made["audio/wave"], wanted, rtol=1e-5, atol=1e-5)
    assert made["audio/span"][1, 0] == (0 if share[1] < 1 else 30)
    lone = {"share": jnp.ones(2), "partner": {"label": jnp.full((2, 1), jnp.nan)}}
    kept = augmenting.mixed({"label": jnp.array([[3.0], [4.0]])}, lone)["label"]
    assert kept.ravel().tolist() == [3, 4]
    assert "mixup" not in loss(batch, False)[0]


def test_people_in_unlike_caps_are_not_mixed():
    rows = jax.tree.map(jnp.asarray, meeg_batch(OMNI, 4))
    draws = Augment(mixup=0.4).partners(
        {**rows, "label": jnp.ones(4)}, jax.random.key(2)
    )
    same = {name: jnp.broadcast_to(x[:1], x.shape) for name, x in rows.items()}
    same |= {"index": rows["index"], "label": jnp.ones(4)}
    alike = Augment(mixup=0.4).partners(same, jax.random.key(2))
    others = [x for name, x in rows.items() if name not in ("meeg/signal", "index")]
    shift = next(
        k
        for k in range(1, 4)
        if np.array_equal(
            np.roll(rows["meeg/signal"], k, 0), draws["partner"]["meeg/signal"]
        )
    )
    unlike = [
        any(not np.array_equal(x[i], np.roll(x, shift, 0)[i]) for x in others)
        for i in range(4)
    ]
    assert any(unlike)
    np.testing.assert_array_equal(draws["share"] == 1, unlike)
    assert (np.asarray(alike["share"]) < 1).all()
    with pytest.raises(NeuroFMError, match=r"mixup mixes sound, EEG, MEG and intra"):
        Augment(mixup=0.4).partners({"index": jnp.arange(2)}, jax.random.key(0))


@pytest.mark.parametrize(
    "fields", [{"pool": "attention"}, {"center_tokens": 3}, {"head": "flat"}]
)
def test_a_sequence_is_told_by_all_tokens(fields):
    with pytest.raises(NeuroFMError, match="tells symbols token by token"):
        Finetune(task=TINY, answer="sequence", **fields)
