"""Ceilings of `neurofm evaluate --suite encoding`, from repeats and other people."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_encoding import DELAY, FILMS, TR, N, brain, features

from neurofm.data.records import open_dataset
from neurofm.encoding import repeats, stimulus
from neurofm.evaluate import evaluate


def scored(folder, floor=None):
    found = evaluate(
        [folder / "x"],
        data=folder / "y",
        out=folder / "out",
        suite="encoding",
        floor=floor,
    )
    rows = pq.read_table(folder / "out" / "targets.parquet")
    rows = rows.drop_columns(["subject", "region"]).to_pydict()
    return found, {name: np.array(column, float) for name, column in rows.items()}


def z(x):
    return (x - x.mean(0)) / x.std(0)


def test_ceilings_of_repeats_are_those_of_the_raw_runs(tmp_path):
    rng = np.random.default_rng(0)
    shown = features(tmp_path / "x", rng)
    films = ("a", "a", "a", "b", "c")
    brain(tmp_path / "y", shown, rng, ("01",), films, noise=1.0)
    found, table = scored(tmp_path, floor=0.0)
    store = open_dataset(tmp_path / "y")
    runs = np.stack([z(store.read(i, 0, N).T[:, :4]) for i in range(3)])
    mean = runs.mean(0)
    signal = (3 * mean.var(0) - 1) / 2
    with np.errstate(invalid="ignore"):
        cc_max = np.sqrt(signal / mean.var(0))  # Schoppe's, written another way
        expected = 1 - ((runs - mean) ** 2).sum(0).mean(0) / 2
    np.testing.assert_allclose(table["cc_max"][:4], cc_max, atol=1e-4)
    np.testing.assert_allclose(table["explainable_variance"][:4], expected, atol=1e-4)
    assert np.isnan(table["cc_max"][4:]).all()
    assert (table["cc_abs"][:3] > table["r"][:3]).all()  # a mean has less noise
    ratio = table["cc_abs"] / table["cc_max"]
    np.testing.assert_allclose(table["cc_norm"], ratio, atol=1e-6)
    assert found["repeats"] == {"01": {"n": 3, "volumes": N}}
    assert found["undefined"]["cc_max"] == np.isnan(cc_max).sum()
    mean = found["scores"]["ceilings"]["cc_max"]["mean"]
    assert mean == pytest.approx(np.nanmean(table["cc_max"]))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "ceilings: cc_max" in page
    assert "Estimates of different names" in page


def test_below_the_floor_nothing_is_normalised_and_it_is_counted(tmp_path):
    rng = np.random.default_rng(1)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, rng, ("01",), ("a", "a", "b"), noise=1.0)
    found, table = scored(tmp_path, floor=0.999)
    assert np.isfinite(table["cc_max"][:3]).all()
    assert np.isnan(table["cc_norm"]).all()
    assert found["undefined"]["cc_norm"] == 4
    assert "cc_norm" not in found["scores"]["ceilings"]


def test_other_people_are_a_ceiling_of_another_name(tmp_path):
    rng = np.random.default_rng(2)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, rng, ("01", "02", "03"), noise=1.0, own=False)
    found, table = scored(tmp_path)
    assert found["repeats"] == {}
    assert set(found["scores"]["ceilings"]) == {"intersubject_r"}
    store = open_dataset(tmp_path / "y")
    y = np.stack([store.read(i, 0, N).T[:, :4] for i in range(9)])
    y = z(y.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(3, 3, N, 4)
    slow = np.zeros((3, 4))
    for who in range(3):
        others = np.delete(y, who, 0).mean(0)
        for film in range(3):
            for v in range(4):
                pair = np.corrcoef(y[who, film, :, v], others[film, :, v])
                slow[who, v] += pair[0, 1] / 3
    ours = table["intersubject_r"].reshape(3, 6)
    np.testing.assert_allclose(ours[:, :4], slow, atol=1e-5)
    assert np.isnan(ours[:, 4:]).all()


def test_repeats_of_other_lengths_share_what_all_have(tmp_path, caplog):
    rng = np.random.default_rng(3)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, rng, ("01",), ("a", "a", "b"), a={"volumes": 61})
    found, table = scored(tmp_path)
    assert found["repeats"] == {"01": {"n": 2, "volumes": 61}}
    assert "runs of 'a' of subject 01 have 61 and 80 volumes" in caplog.text
    assert (table["cc_max"][:3] > 0.9).all()


def test_runs_that_lie_between_each_others_volumes_are_no_repeats(tmp_path, caplog):
    rng = np.random.default_rng(4)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, rng, ("01",), FILMS)
    found = stimulus.runs(
        [stimulus.pieces(tmp_path / "x")], open_dataset(tmp_path / "y")
    )
    first = found[0]
    shifted = first.__class__(**{**vars(first), "times": first.times + TR / 2})
    later = first.__class__(**{**vars(first), "times": first.times + DELAY * TR})
    assert repeats.shared_rows([first, shifted], TR) is None
    met = repeats.shared_rows([first, later], TR)
    assert met is not None
    one, other = met
    np.testing.assert_allclose(first.times[one], later.times[other])
    assert len(one) == N - DELAY
    tested = [repeats.Tested(run, run.Y) for run in (first, shifted)]
    assert repeats.own(tested, TR) is None
    assert "do not meet volume for volume" in caplog.text
