"""Brain-Semantoks' quickstart on few people: what it leaves, and what is kept apart."""

import json
import shutil

import jax
import numpy as np
import pytest
import quick
from click.testing import CliRunner

from neurofm.cli import cli
from neurofm.errors import NeuroFMError
from neurofm.quickstart import brain_semantoks, resting

SMALL = (
    *("task.width=8", "task.depth=1", "task.heads=2", "task.head_hidden=8"),
    'task.tokenizer=[{"width":4},{"kind":"sgconv","width":4,"kernel":4}]',
    *("task.head_width=8", "train.steps=2", "train.batch_size=8"),
    *("train.checkpoint_every=1", "eval.every=0"),
)
FEW = resting.People(
    n_subjects={"stream": 10, "train": 24, "valid": 12, "test": 20},
    stream_volumes=200,
    n_volumes=200,
)
SYSTEMS = {
    *("model", "untrained", "supervised", "baseline", "connectivity", "spectra"),
    *("lagged_covariance", "oracle", "chance"),
}


@pytest.fixture
def few_people(monkeypatch):
    monkeypatch.setattr(resting, "PEOPLE", FEW)
    monkeypatch.setattr(brain_semantoks, "SUPERVISED_STEPS", 2)
    monkeypatch.setattr(jax, "jit", quick.jit)


def run(*arguments):
    settings = ["quickstart", "--system", "brain_semantoks", *arguments, "--json"]
    result = CliRunner().invoke(cli, settings)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow  # many networks of unlike sizes to compile
def test_a_finished_quickstart_leaves_a_whole_workdir_and_is_read_back(
    few_people, tmp_path
):
    workdir = tmp_path / "quick"
    found = run("--workdir", str(workdir), *SMALL)
    scores = found["scores"]
    assert set(scores) == {*SYSTEMS, "coupling"}
    assert set(scores["coupling"]) == SYSTEMS
    for table in (scores, scores["coupling"]):
        for name in SYSTEMS:
            score = table[name]
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
            assert score["n"] == 20
    assert scores["oracle"]["mean"] > 0.8
    assert scores["coupling"]["oracle"]["mean"] > 0.8
    gap = found["differences"]["model-untrained"]["mean"]
    expected = scores["model"]["mean"] - scores["untrained"]["mean"]
    assert gap == pytest.approx(expected)
    assert found["over"] == "groups"
    for curve in found["over_steps"].values():
        assert [point["step"] for point in curve] == [0, 1, 2]
    assert "coupling: lagged_covariance" in (workdir / "report.html").read_text()

    before = (workdir / "report.html").stat().st_mtime_ns
    assert run("--workdir", str(workdir), *SMALL) == found
    assert (workdir / "report.html").stat().st_mtime_ns == before


def test_stores_keep_people_apart_and_know_their_seed(tmp_path):
    store = resting.generate(tmp_path, 3, FEW)
    columns = store.items.to_pydict()
    splits, people = np.array(columns["split"]), np.array(columns["subject"])
    assert [(splits == s).sum() for s in ("train", "valid", "test")] == [24, 12, 20]
    assert len(set(people)) == len(people)
    x = store.read(5, 0, 200)
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(1), 1, atol=1e-5)
    table = (tmp_path / "networks.tsv").read_text().splitlines()
    assert len(table) == 1 + len(x)
    assert len({row.split("\t")[1] for row in table[1:]}) == 6
    shutil.rmtree(tmp_path / "labelled")  # as if it had stopped between
    with pytest.raises(NeuroFMError, match="seed 3 and 4 was asked for"):
        resting.generate(tmp_path, 4, FEW)


@pytest.mark.slow
def test_the_whole_quickstart_tells_the_direction_where_connectivity_cannot(tmp_path):
    found = run("--workdir", str(tmp_path / "quick"), "--seed", "100")
    scores = found["scores"]
    assert scores["model"]["low"] > scores["connectivity"]["high"]
    assert scores["lagged_covariance"]["mean"] > 0.9
    for name in ("connectivity", "spectra"):
        assert scores[name]["low"] < 0.5 < scores[name]["high"]
