"""Several feature spaces, and chance, in `neurofm evaluate --suite encoding`."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_encoding import brain, features

from neurofm.cli import cli
from neurofm.encoding import subject


@pytest.fixture
def made(tmp_path):
    rng = np.random.default_rng(0)
    shown = features(tmp_path / "true", rng)
    features(tmp_path / "other", rng, n_features=5)
    brain(tmp_path / "y", shown, rng, noise=0.5)
    return tmp_path


def run(folder, *more: str, spaces=("true", "other")):
    given = [str(folder / name) for name in spaces]
    words = ["evaluate", *given, "--suite", "encoding", "--json", *more]
    words += ["--data", str(folder / "y"), "--out", str(folder / "out")]
    done = CliRunner().invoke(cli, words)
    found = json.loads(done.stdout)
    if done.exit_code:
        return found["error"], {}
    rows = pq.read_table(folder / "out" / "targets.parquet").to_pydict()
    return found, {name: np.array(column) for name, column in rows.items()}


def test_the_space_that_drives_a_region_has_its_share_and_what_is_unique(made):
    found, table = run(made, "--penalty", "banded", "--permutations", "19")
    assert found["penalty"] == "banded"
    driven = np.tile([True] * 3 + [False] * 3, 2)
    assert (table["share true"][driven] > 0.8).all()
    sums = table["share true"] + table["share other"]
    np.testing.assert_allclose(sums[~np.isnan(table["r"])], 1, atol=1e-6)
    assert np.isnan(sums[np.isnan(table["r"])]).all()
    assert (table["only true"][driven] > 0.3).all()
    assert (abs(table["only other"][driven]) < 0.1).all()
    parts = table["only true"] + table["only other"] + table["only true+other"]
    np.testing.assert_allclose(parts, table["r2 true+other"], atol=1e-6)
    mean = np.nanmean(table["only true"].reshape(2, 6), 1).mean()
    assert found["partition"]["only"]["true"] == pytest.approx(mean, abs=1e-6)
    assert "unique to it" in (made / "out" / "report.html").read_text()


def test_a_space_alone_explains_what_its_own_model_does(made):
    _, both = run(made, "--permutations", "19")
    _, alone = run(made, "--permutations", "19", spaces=("true",))
    assert "only true" not in alone
    assert (both["r2 true"][:3] > 0.3).all()
    assert (both["r2 other"][:3] < 0.1).all()
    assert (alone["r"][:3] >= both["r"][:3] - 0.02).all()


def test_chance_is_told_by_region_and_half_of_nothing_is_significant(made):
    found, table = run(made, "--permutations", "199", spaces=("true",))
    driven = np.tile([True] * 3 + [False] * 3, 2)
    assert (table["q"][driven] <= 0.05).all()
    assert (table["q"][[3, 9]] > 0.05).all()
    assert np.isnan(table["q"][[4, 5, 10, 11]]).all()
    assert (table["p"][driven] == 1 / 200).all()
    assert (abs(table["chance"][~np.isnan(table["r"])]) < 0.1).all()
    told = found["significance"]
    assert told["share"] == pytest.approx(3 / 4)
    assert told["by subject"] == {"01": 0.75, "02": 0.75}
    mean = np.nanmean(table["chance"])
    assert found["scores"]["chance"]["mean"] == pytest.approx(mean, abs=1e-6)
    again, same = run(made, "--permutations", "199", spaces=("true",))
    np.testing.assert_array_equal(table["p"], same["p"])
    assert again["scores"] == found["scores"]


def test_what_cannot_be_asked_is_told(made):
    error, _ = run(made, "--penalty", "banded", spaces=("true",))
    assert "one was given" in error
    error, _ = run(made, "--penalty", "bnded")
    assert "did you mean banded" in error
    error, _ = run(made, "--permutations", "0")
    assert "such as 1000" in error
    error, _ = run(made, spaces=("true", "true"))
    assert "given twice" in error


def held_out(timeline, n, first=0.0):
    times = first + np.arange(n, dtype=float)
    X, Y = np.zeros((2, n, 1), np.float32)
    return subject.Run("01", timeline, "", timeline, times, X, (1,), Y, 0)


def test_repeats_of_a_stimulus_are_reordered_alike_and_stay_in_their_runs():
    runs = [held_out("a", 11), held_out("a", 11), held_out("b", 11)]
    rows = subject.reordered(runs, 3, 9, {"a": 0, "b": 1})
    assert rows.shape == (9, 33)
    first, second, other = rows[:, :11], rows[:, 11:22], rows[:, 22:]
    np.testing.assert_array_equal(second, first + 11)
    assert (np.sort(other, 1) == np.arange(22, 33)).all()
    assert (other != first + 22).any()
    steps = np.diff(first)
    assert ((steps == 1).sum(1) >= 7).all()  # 11 rows in 4 blocks
