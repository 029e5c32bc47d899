"""`neurofm evaluate --suite encoding` on brains made of delayed features."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_encoding import DELAY, FILMS, TR, N, brain, features

from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.encoding import stimulus, subject
from neurofm.encoding.stimulus import Piece, at_volumes
from neurofm.errors import NeuroFMError
from neurofm.evaluate import evaluate


@pytest.fixture
def made(tmp_path):
    rng = np.random.default_rng(0)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, rng)
    return tmp_path


def test_regions_that_follow_are_predicted_on_films_never_fitted(made):
    words = ["evaluate", str(made / "x"), "--suite", "encoding", "--json"]
    words += ["--data", str(made / "y"), "--out", str(made / "out")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    rows = pq.read_table(made / "out" / "targets.parquet").to_pydict()
    r = np.array(rows["r"]).reshape(2, 6)
    assert rows["subject"] == ["01"] * 6 + ["02"] * 6
    assert rows["region"] == [f"p{i}" for i in range(6)] * 2
    assert (r[:, :3] > 0.9).all()
    assert (abs(r[:, 3]) < 0.3).all()
    assert np.isnan(r[:, 4:]).all()
    scores = found["scores"]
    assert scores["model"]["mean"] == pytest.approx(np.nanmean(r, 1).mean(), abs=1e-6)
    assert scores["model"]["n"] == 2 * 3 * N
    assert abs(scores["chance"]["mean"]) < 0.2
    assert found["left_out"] == {"runs": 0, "volumes": 0, "regions": 4}
    assert "regions, of each region" in (made / "out" / "report.html").read_text()


def test_a_delay_too_short_predicts_less(made):
    def mean(*delays):
        found = evaluate(
            [made / "x"],
            data=made / "y",
            out=made / "out",
            suite="encoding",
            delays=delays,
        )
        return found["scores"]["model"]["mean"]

    assert mean(DELAY * TR) > mean(0.0) + 0.1


def test_a_given_split_is_kept_and_repeats_are_never_on_both_sides(tmp_path):
    rng = np.random.default_rng(1)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, rng, a={"split": "test"}, b={"split": "train"})
    spaces = [stimulus.pieces(tmp_path / "x")]
    runs = stimulus.runs(spaces, open_dataset(tmp_path / "y"))
    mine = [run for run in runs if run.subject == "01"]
    (fold,) = subject.splits("01", mine)
    assert [run.timeline for run in fold.test] == ["a"]
    assert [run.timeline for run in fold.train] == ["b", "c"]

    again = [*mine, mine[0].__class__(**{**vars(mine[0]), "split": "train"})]
    with pytest.raises(NeuroFMError, match="'a' is in training and in test runs"):
        subject.splits("01", again)
    free = [run.__class__(**{**vars(run), "split": ""}) for run in [*mine, mine[0]]]
    folds = subject.splits("01", free)
    assert [len(fold.test) for fold in folds] == [2, 1, 1]


def test_features_at_volumes_keep_a_constant_and_say_where_they_end():
    piece = Piece(np.full((40, 1), 7, np.float32), (np.arange(40) + 0.5) / 2)
    times = (np.arange(20) + 0.5) * TR
    x, there = at_volumes([piece], times, TR)
    assert there.sum() == 13  # 20 s of features
    np.testing.assert_allclose(x, 7, atol=1e-5)  # at the ends too


def test_an_offset_of_features_changes_nothing_but_their_mean():
    rng = np.random.default_rng(3)
    samples = rng.standard_normal((60, 2)).astype(np.float32)
    at = (np.arange(60) + 0.5) / 2
    times = (np.arange(20) + 0.5) * TR
    low, _ = at_volumes([Piece(samples, at)], times, TR)
    high, _ = at_volumes([Piece(samples + 50, at)], times, TR)
    np.testing.assert_allclose(high - 50, low, atol=1e-4)


def test_what_does_not_fit_is_told(made, tmp_path):
    rng = np.random.default_rng(2)
    features(tmp_path / "slow", rng, sfreq=0.5)
    ask = {"data": made / "y", "out": tmp_path / "o", "suite": "encoding"}
    with pytest.raises(NeuroFMError, match=r"a sample every 2 s .* every 1.5 s"):
        evaluate([tmp_path / "slow"], **ask)
    with pytest.raises(NeuroFMError, match="holds fmri where features"):
        evaluate([made / "y"], **ask)
    with pytest.raises(NeuroFMError, match="holds features where fMRI"):
        evaluate([made / "x"], **{**ask, "data": made / "x"})
    with pytest.raises(NeuroFMError, match="encoding has no --target"):
        evaluate([made / "x"], **ask, target="label")
    with pytest.raises(NeuroFMError, match="probe has no --delays"):
        evaluate([made / "x"], data=made / "y", out=tmp_path / "o", delays=(2,))
    one = {film: np.zeros((3, 240), np.float32) for film in FILMS}
    brain(tmp_path / "one", one, rng, films=("a",))
    with pytest.raises(NeuroFMError, match="runs of one stimulus only"):
        evaluate([made / "x"], **{**ask, "data": tmp_path / "one"})
    assert not (tmp_path / "o").exists()
