"""TRIBE trained from stores: what it takes from them, and a run killed and resumed."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import quick
import tiny_brains
from click.testing import CliRunner
from tiny_models import tiny
from tiny_tribe import TRIBE

from neurofm import config
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.model import load, save
from neurofm.train import pretrain

FILMS = [("film-a", 0.0, 60), ("film-b", 0.0, 50)]


@pytest.fixture
def stores(tmp_path):
    tiny_brains.features(tmp_path / "audio", FILMS)
    tiny_brains.features(tmp_path / "words", FILMS, "words", layers=1, width=2)
    runs = [("01", "film-a", 0.0, 20, ""), ("02", "film-b", 0.0, 16, "")]
    tiny_brains.runs(tmp_path / "fmri", runs)
    return tmp_path


def experiment(stores, *more):
    features = [str(stores / name) for name in ("audio", "words")]
    exp = config.load("tribe/quickstart", (f"data.path={stores / 'fmri'}", *more))
    task = replace(exp.task, width=24, depth=1, heads=2, output_steps=6)
    data = replace(exp.data, features=tuple(features))
    steps = ("train.steps=4", "train.batch_size=2", "train.checkpoint_every=2")
    return config.override(
        replace(exp, task=task, data=data), (*steps, "train.log_every=1")
    )


def test_sizes_follow_from_the_stores_and_known_modalities_keep_their_order(stores):
    datasets = [open_dataset(stores / name) for name in ("fmri", "words", "audio")]
    task = TRIBE.fitted(datasets)
    sizes = [(m.name, m.layers, m.width) for m in task.modalities]
    assert sizes == [("audio", 2, 3), ("words", 1, 2)]
    assert task.subjects == ("01", "02")
    assert task.tr_s == tiny_brains.TR
    assert task.n_outputs == datasets[0].info.n_chans
    assert task.feature_steps == task.output_steps * tiny_brains.TR * 2


@pytest.mark.slow
def test_a_run_killed_and_started_again_ends_as_if_in_peace(stores, tmp_path):
    exp = experiment(stores)
    done = pretrain(exp, tmp_path / "whole")
    assert done.status == "done"
    assert np.isfinite(done.row["train/loss"])

    def kill(step, row):
        if step == 3 and "train/loss" in row:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(exp, tmp_path / "cut", kill)
    again = pretrain(exp, tmp_path / "cut")
    assert again.row["train/loss"] == done.row["train/loss"]
    assert load(tmp_path / "cut").task.subjects == ("01", "02")


def trained(stores, folder, *more):
    """A model as training leaves it, though with its first weights."""
    exp = experiment(stores, *more)
    task = exp.task.fitted([open_dataset(path) for path in exp.data.stores])
    made = jax.device_get(jax.jit(task.init)(jax.random.key(0), {}, {}))
    save(folder, task, made, {})
    return made["params"]


def words(stores, command, *more):
    features = json.dumps([str(stores / name) for name in ("audio", "words")])
    settings = ("train.log_every=1", "train.batch_size=2", "eval.every=0")
    settings += (f"data.features={features}", *more)
    done = CliRunner().invoke(cli, [*command, *settings, "--json"])
    return json.loads(done.stdout), done.exit_code


def test_a_trained_model_is_fitted_to_new_people_whose_trunk_stays(
    stores, tmp_path, monkeypatch
):
    monkeypatch.setattr(jax, "jit", quick.jit)
    before = trained(stores, tmp_path / "old", "task.unseen_subject=true")
    runs = [("02", "film-a", 0.0, 20, "train"), ("07", "film-b", 0.0, 16, "train")]
    tiny_brains.runs(tmp_path / "others", runs)
    command = ["finetune", "tribe/new_subjects", "--from", str(tmp_path / "old")]
    command += ["--workdir", str(tmp_path / "new")]
    data = (f"data.path={tmp_path / 'others'}", "train.steps=3")
    found, code = words(stores, command, *data)
    assert (code, found["status"]) == (0, "done"), found
    new = load(tmp_path / "new")
    assert new.task.subjects == ("02", "07")
    assert new.task.trained == "head"
    after = new.variables["params"]
    for name in ("encoder", "projectors", "positions"):
        for a, b in zip(
            *map(jax.tree.leaves, (before[name], after[name])), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    was, now = before["subjects"]["kernel"], after["subjects"]["kernel"]
    start = np.stack([was[1], was[:2].mean(0), was[2]])
    np.testing.assert_array_equal(now[2], start[2])  # nobody is unseen here
    moved = np.abs(now[:2] - start[:2]).max((1, 2))
    assert (moved > 0).all()
    assert (moved < np.abs(start[0] - start[1]).max()).all()  # they began there


def test_what_does_not_fit_the_trained_model_is_told(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "jit", quick.jit)
    trained(stores, tmp_path / "old")
    tiny_brains.runs(
        tmp_path / "others", [("07", "film-a", 0.0, 20, "")], names=("a", "b")
    )
    command = ["finetune", "tribe/new_subjects", "--from", str(tmp_path / "old")]
    command += ["--workdir", str(tmp_path / "new")]
    found, code = words(stores, command, f"data.path={tmp_path / 'others'}")
    assert code == 1
    assert "trained on other regions (4) than those of the data (2)" in found["error"]
    model = tiny()
    save(tmp_path / "sounds", model.task, model.variables, {})
    command[3] = str(tmp_path / "sounds")
    found, code = words(stores, command, f"data.path={stores / 'fmri'}")
    assert code == 1
    assert "the model given is a wavjepa" in found["error"]
