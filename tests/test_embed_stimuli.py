"""`neurofm embed` of a TRIBE: its trunk and what it predicts, by timeline."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import quick
import tiny_brains
from click.testing import CliRunner
from tiny_brains import TR
from tiny_tribe import TRIBE

from neurofm.cli import cli
from neurofm.data.embeddings import open_embeddings
from neurofm.data.records import open_dataset
from neurofm.model import load, save

STEPS, START = 12, 0.5  # of a window of 4 volumes; s at which film-a begins


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and films: one of two pieces and two modalities, one of one."""
    at = tmp_path_factory.mktemp("stimuli")
    tiny_brains.features(at / "audio", [("film-a", START, 20), ("film-a", 12.5, 6)])
    timelines = [("film-a", 2.0, 15), ("film-b", 0.0, 14)]
    tiny_brains.features(at / "words", timelines, "words", layers=1, width=2)
    tiny_brains.runs(
        at / "fmri", [("01", "film-a", 0, 20, ""), ("02", "film-b", 0, 9, "")]
    )
    stores = [open_dataset(at / name) for name in ("fmri", "audio", "words")]
    task = replace(TRIBE, shift_s=3.2).fitted(stores)
    assert task.feature_steps == STEPS
    variables = quick.jit(task.init)(jax.random.key(0), {}, {})
    save(at / "model", task, jax.device_get(variables), {})
    return at


def embed(made, out, *more):
    words = ["embed", str(made / "model"), str(made / "audio"), str(made / "words")]
    done = CliRunner().invoke(cli, [*words, "--out", str(out), "--json", *more])
    return json.loads(done.stdout)


def read(made, subject, want="features"):
    """What the model says of film-a for a subject, a window a row."""
    model = load(made / "model")
    batch = {**windows(made), "subject": np.full(3, subject, np.int32)}
    said = quick.jit(lambda v, b: model.task.read(v, b, want).values)
    return said(model.inference, batch)


def windows(made):
    """The batch that film-a makes, by hand: 30 steps from 0.5 s on."""
    audio, words = (open_dataset(made / name) for name in ("audio", "words"))
    whole = {"audio": np.zeros((6, 36)), "words": np.zeros((2, 36))}
    whole["audio"][:, :20] = audio.read(0, 0, 20)
    whole["audio"][:, 24:30] = audio.read(1, 0, 6)
    whole["words"][:, 3:18] = words.read(0, 0, 15)
    cut = {n: x.reshape(len(x), 3, STEPS).swapaxes(0, 1) for n, x in whole.items()}
    return {
        "features/audio": cut["audio"].reshape(3, 2, 3, STEPS).astype(np.float32),
        "features/words": cut["words"].reshape(3, 1, 2, STEPS).astype(np.float32),
        "features/present": np.ones((3, 2), bool),
        "index": np.arange(3, dtype=np.int32),
        "valid": np.ones(3, bool),
    }


def test_the_trunk_is_read_step_by_step_on_the_clock_of_each_timeline(made, tmp_path):
    found = embed(made, tmp_path / "e")
    assert (found["n_embeddings"], found["dim"]) == (2, 24)
    held = open_embeddings(tmp_path / "e")
    assert held.index["timeline"].to_pylist() == ["film-a", "film-b"]
    wanted = read(made, 2)["last"].reshape(36, 24)  # of the unseen one
    np.testing.assert_allclose(held.read(0), wanted[:30], atol=1e-4)
    np.testing.assert_allclose(held.times(0), START + (np.arange(30) + 0.5) / 2)
    assert held.read(1).shape == (14, 24)


def test_responses_are_predicted_for_a_subject_behind_the_stimulus(made, tmp_path):
    embed(made, tmp_path / "e", "--predict", "--subject", "02")
    held = open_embeddings(tmp_path / "e")
    assert held.index["subject"].to_pylist() == ["02", "02"]
    n = round(30 / 2 / TR)  # volumes that face the stimulus
    at = START + (np.arange(n) + 0.5) * TR + 3.2
    np.testing.assert_allclose(held.times(0), at, atol=1e-5)
    wanted = read(made, 1, "prediction")["bold"].reshape(12, -1)[:n]
    np.testing.assert_allclose(held.read(0, "bold"), wanted, atol=1e-4)
    embed(made, tmp_path / "other", "--predict")
    other = open_embeddings(tmp_path / "other").read(0, "bold")
    assert np.abs(other - wanted).max() > 0.1  # nobody in particular


def test_what_cannot_be_embedded_is_told(made, tmp_path):
    def refused(*more):
        return embed(made, tmp_path / "no", *more)["error"]

    assert "knows 01, 02: give one of these" in refused("--subject", "03")
    words = ["embed", str(made / "model"), str(made / "fmri"), "--json", "--out"]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "no")])
    assert "holds fmri and this model takes features" in done.stdout
    task = replace(load(made / "model").task, unseen_subject=False, subject_dropout=0.0)
    variables = quick.jit(task.init)(jax.random.key(0), {}, {})
    save(tmp_path / "m", task, jax.device_get(variables), {})
    words = ["embed", str(tmp_path / "m"), str(made / "words"), "--predict", "--json"]
    done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "no")])
    assert "no subject was given and this model knows 01, 02" in done.stdout
    assert not (tmp_path / "no").exists()
