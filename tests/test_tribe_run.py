"""TRIBE trained from stores: what it takes from them, and a run killed and resumed."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_brains
from tiny_tribe import TRIBE

from neurofm import config
from neurofm.data.records import open_dataset
from neurofm.model import load
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
