"""Models that another leans on: named in the config, loaded, known by their hash."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import quick
from tiny_meeg import OMNI, TOKENIZER, meeg_batch
from tiny_models import tiny

from neurofm import config, model
from neurofm.checkpoint import Checkpoints
from neurofm.config import Experiment, Init, Mesh
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_variables
from neurofm.optim import Optim
from neurofm.parallel import mesh
from neurofm.run import frozen
from neurofm.step import abstract_state, new_state, train_step


def random_variables(task, seed=0):
    rng = np.random.default_rng(seed)
    random = lambda x: rng.normal(0.1, 0.3, x.shape).astype(x.dtype)  # noqa: E731
    return jax.tree.map(random, abstract_variables(task))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tokenizer"
    own = replace(TOKENIZER, n_filters=6)
    model.save(folder, own, random_variables(own), {"source": "made by hand"})
    return str(folder)


def experiment(**paths):
    return Experiment(task=OMNI, init=Init(frozen=paths))


def test_the_task_of_the_frozen_model_takes_its_place(tokenizer):
    exp, leaning = frozen.lean(experiment(tokenizer=tokenizer))
    assert exp.task == replace(OMNI, tokenizer=replace(TOKENIZER, n_filters=6))
    assert set(leaning) == {"tokenizer"}
    assert len(leaning["tokenizer"].sha256) == 64


def test_a_model_that_leans_on_none_is_left_as_it_is():
    exp = Experiment(task=TOKENIZER)
    assert frozen.lean(exp) == (exp, {})


def test_a_missing_unknown_or_other_model_is_refused(tokenizer, tmp_path):
    other = tiny()
    model.save(tmp_path / "wav", other.task, other.variables, {})
    for exp, message in (
        (
            experiment(),
            r"leans on a trained tokenizer: .*init\.frozen\.tokenizer=MODEL",
        ),
        (experiment(tokeniser=tokenizer), "names 'tokeniser', but brainomni leans on"),
        (experiment(tokenizer=str(tmp_path)), r"init\.frozen\.tokenizer: .*no model"),
        (
            experiment(tokenizer=str(tmp_path / "wav")),
            "a model of wavjepa: give one of",
        ),
        (replace(experiment(tokenizer=tokenizer), task=TOKENIZER), "no other model"),
    ):
        with pytest.raises(NeuroFMError, match=message):
            frozen.lean(exp)


def test_a_run_does_not_go_on_with_another_model(tokenizer):
    _, leaning = frozen.lean(experiment(tokenizer=tokenizer))
    saved = frozen.known(leaning)
    frozen.check_same(saved, leaning)
    saved["tokenizer"] = {**saved["tokenizer"], "sha256": "0" * 64}
    with pytest.raises(NeuroFMError, match="not the model this run began with"):
        frozen.check_same(saved, leaning)


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """A checkpoint after two steps, and what the loop needs to make it."""
    folder = tmp_path_factory.mktemp("run")
    exp, leaning = frozen.lean(experiment(tokenizer=tokenizer))
    devices, optim = mesh.make(Mesh()), Optim(warmup=0.0, clip_norm=0.0)
    placed = frozen.place(leaning, devices)
    batch = meeg_batch(exp.task)
    wanted, _ = abstract_state(exp.task, optim, 4, batch, devices, placed)
    shardings = jax.tree.map(lambda x: x.sharding, wanted)
    fresh = quick.jit(
        lambda k, b, f: new_state(exp.task, optim, 4, k, b, f), out_shardings=shardings
    )
    state = fresh(jax.random.key(0), batch, placed)
    step = quick.jit(train_step(exp.task, optim, 4, 1, 0))
    losses = []
    for _ in range(3):
        state, metrics, _ = step(state, placed, batch)
        losses.append(float(metrics["train/loss"]))
    checkpoints = Checkpoints(folder / "checkpoints")
    meta = {"config": config.to_json(exp), "frozen": frozen.known(leaning)}
    checkpoints.save(3, state, meta)
    checkpoints.wait()
    return folder, exp, losses, leaning


def test_steps_lower_the_loss_and_leave_the_frozen_model_alone(run, tokenizer):
    _, _, losses, leaning = run
    assert losses[-1] < losses[0]
    again = model.load(tokenizer).variables
    same = jax.tree.map(np.array_equal, again, leaning["tokenizer"].variables)
    assert all(jax.tree.leaves(same))


def test_a_checkpoint_finds_its_frozen_model_again_and_only_that(run, tokenizer):
    folder, exp, _, leaning = run
    loaded = model.load(folder)
    assert loaded.task == exp.task
    read = quick.jit(lambda v, b: exp.task.read(v, b).values["last"])
    assert np.isfinite(read(loaded.inference, meeg_batch(exp.task))).all()
    whole = loaded.variables["frozen"]["tokenizer"]
    same = jax.tree.map(np.array_equal, whole, leaning["tokenizer"].variables)
    assert all(jax.tree.leaves(same))
    own = replace(TOKENIZER, n_filters=6)
    before = model.load(tokenizer)
    model.save(tokenizer, own, random_variables(own, seed=9), {})
    try:
        with pytest.raises(NeuroFMError, match="is not the tokenizer that"):
            model.load(folder)
    finally:
        model.save(tokenizer, own, before.variables, {})


def test_an_exported_model_carries_its_frozen_one(run, tmp_path):
    loaded = model.load(run[0])
    model.save(tmp_path / "out", loaded.task, loaded.variables, {})
    again = model.load(tmp_path / "out")
    same = jax.tree.map(np.array_equal, again.variables, loaded.variables)
    assert all(jax.tree.leaves(same))
