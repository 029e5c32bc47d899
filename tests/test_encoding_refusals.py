"""Data that does not fit, through `neurofm evaluate --suite encoding`: what is told."""

import json
import logging

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_encoding import FILMS, TR, N, brain, features

from neurofm.cli import cli
from neurofm.encoding.stimulus import Piece, at_volumes
from neurofm.errors import NeuroFMError

QUICK = ("--permutations", "9")


@pytest.fixture
def shown(tmp_path):
    return features(tmp_path / "x", np.random.default_rng(0))


def run(folder, *more, given="x"):
    """The JSON object, and what a person is told beside it."""
    words = ["evaluate", str(folder / given), "--suite", "encoding", "--json", *QUICK]
    words += ["--data", str(folder / "y"), "--out", str(folder / "out"), *more]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == int("error" in done.stdout), done.output
    return json.loads(done.stdout), done.stderr


def test_a_repetition_time_that_contradicts_the_rate(tmp_path, shown):
    brain(tmp_path / "y", shown, np.random.default_rng(1), tr_s=2.0)
    told, _ = run(tmp_path)
    assert "repetition time of 2 s and a rate of 0.666667 Hz" in told["error"]
    assert "--source-tr" in told["error"]


def test_features_slower_than_the_volumes(tmp_path, shown):
    rng = np.random.default_rng(1)
    brain(tmp_path / "y", shown, rng)
    features(tmp_path / "slow", rng, sfreq=0.5)
    told, _ = run(tmp_path, given="slow")
    assert "a sample every 2 s and the fMRI a volume every 1.5 s" in told["error"]


def test_features_that_end_early(tmp_path, shown):
    rng = np.random.default_rng(1)
    brain(tmp_path / "y", shown, rng, ("01",))
    features(tmp_path / "short", rng, seconds=60)
    found, told = run(tmp_path, given="short")
    assert found["left_out"]["volumes"] == 3 * (N - 40)
    assert (
        "features do not cover 3 runs: those of 'a' leave out 40 of 80 volumes of run "
        "01-0, which goes on to 120 s where they cover it to 60 s"
    ) in told


def test_runs_of_another_length(tmp_path, shown):
    rng = np.random.default_rng(1)
    films = ("a", "a", "b", "c")
    brain(tmp_path / "y", shown, rng, ("01",), films, a={"volumes": 70})
    found, told = run(tmp_path)
    assert "runs of 'a' of subject 01 have 70 and 80 volumes" in told
    assert found["scores"]["model"]["n"] == 4 * N - 10
    assert found["repeats"] == {"01": {"n": 2, "volumes": 70}}


def test_a_parcel_that_is_constant_or_missing(tmp_path, shown):
    brain(tmp_path / "y", shown, np.random.default_rng(1), ("01",))
    found, told = run(tmp_path)
    assert found["left_out"]["regions"] == 2
    assert "2 of 6 regions of subject 01 never change or have gaps in some run" in told
    assert "the first is p4, in run 01-0" in told


def test_an_unknown_subject(tmp_path, shown):
    brain(tmp_path / "y", shown, np.random.default_rng(1))
    told, _ = run(tmp_path, "--subjects", "01,022")
    assert "has no subject '022': did you mean 02" in told["error"]
    found, _ = run(tmp_path, "--subjects", "02")
    assert set(found["scores"]["by subject"]) == {"02"}
    assert found["left_out"]["runs"] == 0


def test_a_stimulus_without_features(tmp_path):
    rng = np.random.default_rng(1)
    shown = features(tmp_path / "x", rng)
    shown["unheard"] = shown["a"]
    brain(tmp_path / "y", shown, rng, ("01",), (*FILMS, "unheard"))
    found, told = run(tmp_path)
    assert "1 of 4 runs have no features" in told
    assert found["left_out"]["runs"] == 1


def test_events_out_of_order(tmp_path):
    table = tmp_path / "events.tsv"
    rows = [("word", 3, 1, "a", "x"), ("word", 1, 1, "a", "y")]
    lines = ["\t".join(map(str, row)) for row in rows]
    header = "type\tonset\tduration\ttimeline\ttext"
    table.write_text("\n".join([header, *lines]) + "\n")
    words = ["prepare", "features", str(table), "--extractor", "word_rate"]
    done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "x")])
    assert done.exit_code == 1
    assert "sort each timeline's events by their onset" in done.output


def piece(first, n, value=0.0):
    return Piece(np.full((n, 2), value, np.float32), first + (np.arange(n) + 0.5) / 2)


def test_features_that_lie_on_one_another_or_are_no_numbers():
    times = (np.arange(20) + 0.5) * TR
    for begins in (10, 9.8):  # side by side, and rounded by less than half a step
        _, there = at_volumes([piece(begins, 20), piece(0, 20)], times, TR)
        assert there.sum() == 13
    with pytest.raises(NeuroFMError, match=r"begin at 9 s, before others end at 10 s"):
        at_volumes([piece(9, 20), piece(0, 20)], times, TR)
    with pytest.raises(NeuroFMError, match=r"not finite, from 10\.25 s"):
        at_volumes([piece(10, 20, np.nan), piece(0, 20)], times, TR)


@pytest.fixture(autouse=True)
def _logging_as_before():
    before = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    logging.getLogger().handlers[:], level = before
    logging.getLogger().setLevel(level)
