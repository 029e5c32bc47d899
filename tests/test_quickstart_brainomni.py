"""BrainOmni's quickstart on a few people: what it leaves, and what is kept apart."""

import json
import shutil

import jax
import numpy as np
import pytest
import quick
from click.testing import CliRunner

from neurofm.cli import cli
from neurofm.errors import NeuroFMError
from neurofm.quickstart import events, labels

TINY = (
    *("n_filters=4", "width=8", "code_width=8", "n_sources=3", "heads=2", "n_codes=8"),
)
SMALL = (
    *(f"tokenizer.task.{setting}" for setting in TINY),
    *("tokenizer.train.steps=2", "tokenizer.train.batch_size=4"),
    *("task.width=8", "task.depth=2", "task.heads=2"),
    *("train.steps=2", "train.batch_size=4", "data.buckets=1"),
    "tokenizer.data.buckets=1",
)


@pytest.fixture
def few_people(monkeypatch):
    people = events.People(
        known=("eeg19",),  # fewer programs to compile
        unseen=("eeg32",),
        n_subjects={"stream": 4, "train": 10, "valid": 4, "test": 10},
        per_subject={"stream": 4, "train": 4, "valid": 4, "test": 2},
    )
    monkeypatch.setattr(events, "CAPS", people)
    monkeypatch.setattr(labels, "STEPS", 2)
    monkeypatch.setattr(jax, "jit", quick.jit)  # a dozen programs, each run twice


def run(*arguments):
    settings = ["quickstart", "--system", "brainomni", *arguments, "--json"]
    result = CliRunner().invoke(cli, settings)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow  # many programs to compile
def test_a_finished_quickstart_leaves_a_whole_workdir_and_is_read_back(
    few_people, tmp_path
):
    workdir = tmp_path / "quick"
    found = run("--workdir", str(workdir), *SMALL)
    scores = found["scores"]
    networks = {"model", "tokenizer", "untrained", "supervised"}
    classic = {"baseline", "band_power", "band_power_bins", "lag_moments", "oracle"}
    tasks = {"plain mean", "-15 to -5 dB", "-15 to -5 dB, plain mean"}
    assert set(scores) == networks | classic | tasks | {"chance"}
    for table in (scores, *(scores[task] for task in tasks)):
        for name in networks | classic | {"chance"}:
            score = table[name]
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
            assert score["n"] == 20
    assert scores["chance"]["mean"] == 0.5
    assert scores["oracle"]["mean"] > 0.8
    gap = found["differences"]["model-tokenizer"]["mean"]
    expected = scores["model"]["mean"] - scores["tokenizer"]["mean"]
    assert gap == pytest.approx(expected)
    assert found["over"] == "groups"
    for name in (
        "config.json",
        "metrics.jsonl",
        "scores.json",
        "tokenizer/config.json",
    ):
        assert (workdir / name).stat().st_size > 0, name
    page = (workdir / "report.html").read_text()
    assert "-15 to -5 dB: model" in page

    before = (workdir / "report.html").stat().st_mtime_ns
    assert run("--workdir", str(workdir), *SMALL) == found
    assert (workdir / "report.html").stat().st_mtime_ns == before


def test_test_people_and_their_cap_are_met_nowhere_else(few_people, tmp_path):
    stores = events.generate(tmp_path / "records", 3, events.CAPS)
    for store in stores.values():
        examples = events.examples(store, 3)
        columns = {
            name: np.array(store.items[name].to_pylist())
            for name in ("split", "cap", "subject", "label")
        }
        tested = np.concatenate([fold.test for fold in examples.folds])
        test = columns["split"] == "test"
        np.testing.assert_array_equal(np.sort(tested), np.flatnonzero(test))
        for name in ("cap", "subject"):
            assert not set(columns[name][test]) & set(columns[name][~test])
        assert np.mean(columns["label"] == "rising") == 0.5
        for fold in examples.folds:
            assert set(columns["split"][fold.train]) == {"train"}
            assert set(columns["split"][fold.valid]) == {"valid"}
    loud, quiet = stores["labelled"], stores["quiet"]
    assert loud.items["item"].to_pylist() == quiet.items["item"].to_pylist()
    weaker = np.array(loud.items["snr_db"]) - np.array(quiet.items["snr_db"])
    np.testing.assert_allclose(weaker, 5)
    shutil.rmtree(tmp_path / "records" / "labelled")  # as if it had stopped between
    with pytest.raises(NeuroFMError, match="seed 3 and 4 was asked for"):
        events.generate(tmp_path / "records", 4, events.CAPS)
