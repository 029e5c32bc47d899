"""The quickstart on a handful of clips: what it leaves, and that it goes on."""

import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from neurofm.cli import cli
from neurofm.errors import NeuroFMError
from neurofm.quickstart import wavjepa as quick

SMALL = (
    *("task.width=16", "task.depth=2", "task.heads=2", "task.top_k=2"),
    *("task.predictor_width=8", "task.predictor_depth=1", "task.predictor_heads=2"),
    "task.conv_layers=[[8,10,5],[8,3,2],[8,3,2],[8,3,2],[8,3,2],[8,2,2]]",
    *("train.steps=4", "train.batch_size=4", "train.checkpoint_every=2"),
    *("train.log_every=2", "eval.every=2", "eval.crops=8"),
)


@pytest.fixture
def few_clips(monkeypatch):
    monkeypatch.setattr(quick, "N_STREAM", 120)
    monkeypatch.setattr(quick, "N_HELD_OUT", 12)
    monkeypatch.setattr(quick, "N_CLIPS", {"train": 60, "valid": 36, "test": 60})
    monkeypatch.setattr(quick, "SUPERVISED_STEPS", 2)


def run(*arguments):
    result = CliRunner().invoke(cli, ["quickstart", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_finished_quickstart_leaves_a_whole_workdir_and_is_read_back(
    few_clips, tmp_path
):
    workdir = tmp_path / "quick"
    found = run("--workdir", str(workdir), *SMALL)
    scores = found["scores"]
    assert {"model", "untrained", "supervised", "baseline", "chance"} <= set(scores)
    for score in scores.values():
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
        assert score["n"] == 60
    assert scores["chance"]["mean"] < 0.25
    gap = found["differences"]["model-untrained"]["mean"]
    expected = scores["model"]["mean"] - scores["untrained"]["mean"]
    assert gap == pytest.approx(expected)
    assert [p["step"] for p in found["over_steps"]["model"]] == [0, 2, 4]
    for name in ("config.json", "metrics.jsonl", "env.json", "log.txt", "scores.json"):
        assert (workdir / name).stat().st_size > 0, name
    page = (workdir / "report.html").read_text()
    assert "Score over steps" in page
    assert page.count("data:image/png") == 3  # the spectrograms with their spans
    assert not re.search(r"(src|href)=.https?:", page)

    before = (workdir / "report.html").stat().st_mtime_ns
    assert run("--workdir", str(workdir), *SMALL) == found
    assert (workdir / "report.html").stat().st_mtime_ns == before


def test_another_seed_in_the_same_workdir_is_refused(few_clips, tmp_path):
    quick.generate(tmp_path / "records", 0)
    shutil.rmtree(tmp_path / "records" / "labelled")  # as if it had stopped between
    with pytest.raises(NeuroFMError, match="seed 0 and 1 was asked for"):
        quick.generate(tmp_path / "records", 1)


def test_folds_test_every_clip_once_and_never_train_on_test_rooms(few_clips, tmp_path):
    labelled = quick.generate(tmp_path / "records", 0)
    examples = quick.probe_examples(labelled, 0)
    split = np.array(labelled.items["split"].to_pylist())
    tested = np.concatenate([fold.test for fold in examples.folds])
    np.testing.assert_array_equal(np.sort(tested), np.flatnonzero(split == "test"))
    for fold in examples.folds:
        assert set(split[fold.train]) == {"train"}
        assert set(split[fold.valid]) == {"valid"}
        assert examples.groups is not None
        known = {*examples.groups[fold.train], *examples.groups[fold.valid]}
        assert not known & set(examples.groups[fold.test])
