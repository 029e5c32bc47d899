"""BrainBERT's quickstart on a few people: what it leaves, and what is kept apart."""

import json
import shutil

import jax
import numpy as np
import pytest
import quick
from click.testing import CliRunner

from neurofm.cli import cli
from neurofm.errors import NeuroFMError
from neurofm.quickstart import brainbert, contacts, filled, rates, words

SMALL = (
    *("task.width=16", "task.mlp_width=16", "task.depth=1", "task.heads=2"),
    *("train.steps=2", "train.batch_size=4", "train.log_every=1", "eval.every=0"),
)
FEW = contacts.People(
    n_subjects={"stream": 2, "train": 3, "valid": 2, "test": 3},
    per_subject={"stream": 2, "train": 8, "valid": 8, "test": 8},
    stream_s=4.0,
    stream_contacts=3,
)
SYSTEMS = {
    *("model", "supervised", "frozen", "untrained", "baseline", "lag_moments"),
    *("oracle", "trace", "pooled", "spectrogram", "scores", "neighbours", "chance"),
}


@pytest.fixture
def few_people(monkeypatch):
    monkeypatch.setattr(contacts, "PEOPLE", FEW)
    monkeypatch.setattr(rates, "RATES", (1e-3,))
    monkeypatch.setattr(rates, "STEPS", 2)
    monkeypatch.setattr(rates, "EVERY", 1)
    monkeypatch.setattr(rates, "SIZE", 24)
    monkeypatch.setattr(jax, "jit", quick.jit)


def run(*arguments, code=0):
    settings = ["quickstart", "--system", "brainbert", *arguments, "--json"]
    result = CliRunner().invoke(cli, settings)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.mark.slow  # many programs to compile
def test_a_finished_quickstart_leaves_a_whole_workdir_and_is_read_back(
    few_people, tmp_path
):
    workdir = tmp_path / "quick"
    half = "simulation.responsive=0.5"
    found = run("--workdir", str(workdir), half, *SMALL)
    some = found["scores"].pop("responsive contacts")
    assert set(found["scores"]) == set(some) == SYSTEMS
    n_responsive = some["model"]["n"]
    assert 3 < n_responsive < 21
    for part, n in ((found["scores"], 24), (some, n_responsive)):
        for score in part.values():
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
            assert score["n"] == n
    gap = found["differences"]["model-supervised"]["mean"]
    scores = found["scores"]
    expected = scores["model"]["mean"] - scores["supervised"]["mean"]
    assert gap == pytest.approx(expected)
    assert 0.3 < found["responsive"] < 0.7
    errors = found["masked_error"]
    for part in ("all", "loud"):
        assert set(errors[part]) == {"model", "mean", "interpolation"}
    assert 0.5 < errors["all"]["mean"]["mean"] < 1 < errors["loud"]["mean"]["mean"]
    page = (workdir / "report.html").read_text()
    assert "frozen" in page
    assert page.count("data:image/png") == 1

    found["scores"]["responsive contacts"] = some
    before = (workdir / "report.html").stat().st_mtime_ns
    assert run("--workdir", str(workdir), half, *SMALL) == found
    assert (workdir / "report.html").stat().st_mtime_ns == before
    told = run("--workdir", str(workdir), *SMALL, code=1)["error"]
    assert "responsive 0.5 and 1.0 was asked for" in told


def test_people_of_the_parts_are_others_and_labels_are_even(tmp_path):
    store = contacts.generate(tmp_path, 3, brainbert.simulation(()), FEW)
    examples = contacts.examples(store)
    (fold,) = examples.folds
    who = [set(examples.groups[rows]) for rows in (fold.train, fold.valid, fold.test)]
    assert [len(names) for names in who] == [3, 2, 3]
    assert not set.intersection(*who)
    made = contacts.windows(store)
    assert made.label[fold.test].mean() == 0.5
    assert made.signal.shape == (64, 1, 1536)
    shutil.rmtree(tmp_path / "labelled")  # as if it had stopped between
    quieter = brainbert.simulation(("simulation.loud_db=[5,8]",))
    for seed, design, asked in (
        (4, brainbert.simulation(()), "seed 3 and 4 was"),
        (3, quieter, r"loud_db \[12.0, 18.0\] and \[5.0, 8.0\] was"),
    ):
        with pytest.raises(NeuroFMError, match=asked):
            contacts.generate(tmp_path, seed, design, FEW)
    with pytest.raises(NeuroFMError, match="ieeg that this quickstart did not"):
        words.generate(tmp_path, 3, words.TWENTY_TRIALS)
    whole = contacts.PEOPLE
    assert whole.n_subjects["train"] * whole.per_subject["train"] == 200


def test_hidden_entries_are_bridged_by_straight_lines_over_time():
    x = np.arange(7.0)[None, :, None] ** 2 * np.array([1.0, -1.0])
    hidden = np.zeros(x.shape, bool)
    hidden[0, 2:4, 0] = hidden[0, 5:, 1] = True
    out = filled.interpolated(np.where(hidden, np.nan, x), hidden)
    np.testing.assert_allclose(out[0, 2:4, 0], [1 + 5, 1 + 10])  # from 1 to 16
    np.testing.assert_allclose(out[0, 5:, 1], -16)  # nothing lies behind
    np.testing.assert_array_equal(out[~hidden], x[~hidden])


@pytest.mark.slow
def test_the_whole_quickstart_beats_the_same_network_from_scratch(tmp_path):
    found = run("--workdir", str(tmp_path / "quick"), "--seed", "100")
    for name in ("supervised", "untrained", "baseline"):
        assert found["differences"][f"model-{name}"]["low"] > 0, name
    errors = found["masked_error"]["loud"]
    for name in ("mean", "interpolation"):
        assert errors["model"]["high"] < errors[name]["low"]
    assert found["scores"]["oracle"]["mean"] > 0.9
