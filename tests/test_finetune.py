"""A head on a task's features: what it learns and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny_models import tiny

from neurofm.finetune import Finetune
from neurofm.optim import Optim
from neurofm.step import new_state, train_step


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


def test_a_separable_problem_is_learnt():
    task = Finetune(task=tiny().task, n_classes=2)
    optim, batch = Optim(lr=2e-2, warmup=0.0), labelled_batch(task)
    fresh = jax.jit(lambda key: new_state(task, optim, 40, key, batch, {}))
    state = fresh(jax.random.key(0))
    step = jax.jit(train_step(task, optim, 40, 1, 0))
    losses = []
    for _ in range(40):
        state, metrics, sums = step(state, {}, batch)
        losses.append(float(metrics["train/loss"]))
    np.testing.assert_allclose(losses[0], np.log(2), rtol=1e-5)  # a head of zeros
    assert losses[-1] < 0.2 * losses[0]
    assert float(task.summary(sums)["accuracy"]) == 1.0


def test_filler_rows_weigh_nothing():
    model = tiny()
    task = Finetune(task=model.task, n_classes=2)
    batch = labelled_batch(task)
    variables = jax.jit(task.on)(model.variables, batch)
    head = {"kernel": jnp.ones_like(variables["params"]["head"]["kernel"])}
    variables["params"]["head"] |= head
    filled = {**batch, "valid": jnp.arange(6) < 4}
    first = {name: x[:4] for name, x in batch.items()}
    loss = jax.jit(lambda batch: task.loss(variables, batch, {}, jnp.int32(0), True))
    for a, b in zip(
        jax.tree.leaves(loss(filled)),
        jax.tree.leaves(loss(first)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)
