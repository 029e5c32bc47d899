"""TRIBE's quickstart on few people and short films: what it leaves and says."""

import json
import shutil

import jax
import numpy as np
import pytest
import quick
from click.testing import CliRunner

from neurofm.cli import cli
from neurofm.encoding.scores import correlation
from neurofm.errors import NeuroFMError
from neurofm.quickstart import film_ridges, films, tribe
from neurofm.quickstart.film_ridges import Rows
from neurofm.simulate import film_brains

SMALL = (
    *("task.width=24", "task.depth=1", "task.heads=2", "task.output_steps=20"),
    *("train.steps=2", "train.batch_size=4"),
)
TINY = films.Design(
    n_subjects=2, n_parcels=20, film_s=60.0, n_films=2, n_test=2, n_repeats=2
)
SYSTEMS = {
    *("model", "untrained", "baseline", "ridge", "banded ridge", "linear oracle"),
    *("product ridge", "true response", "ceiling", "ceiling from repeats", "chance"),
}


@pytest.fixture
def short_films(monkeypatch):
    monkeypatch.setattr(films, "FORTY_MINUTES", TINY)
    monkeypatch.setattr(film_ridges, "DELAYS", (2, 3, 4))
    monkeypatch.setattr(film_ridges, "SHARES", film_ridges.SHARES[:2])
    monkeypatch.setattr(jax, "jit", quick.jit)


def run(*arguments):
    settings = ["quickstart", "--system", "tribe", *arguments, "--json"]
    result = CliRunner().invoke(cli, settings)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_a_finished_quickstart_leaves_a_whole_workdir_and_is_read_back(
    short_films, tmp_path
):
    workdir = tmp_path / "quick"
    found = run("--workdir", str(workdir), *SMALL)
    kinds = ("linear", "compressive", "memory", "product", "null")
    parts = [found["scores"], *(found["scores"][f"{kind} parcels"] for kind in kinds)]
    for part in parts:
        assert set(part) >= SYSTEMS
        for name in SYSTEMS:
            score = part[name]
            assert -1 <= score["low"] <= score["mean"] <= score["high"] <= 1
            assert score["n"] == 2 * 2 * 2 * 40  # volumes
    gap = found["differences"]["model-baseline"]["mean"]
    expected = parts[0]["model"]["mean"] - parts[0]["baseline"]["mean"]
    assert gap == pytest.approx(expected)
    linear, oracle = parts[1], parts[1]["linear oracle"]["mean"]
    assert oracle == pytest.approx(linear["true response"]["mean"])
    assert oracle > linear["untrained"]["mean"] + 0.2
    assert parts[4]["linear oracle"]["mean"] == 0
    assert parts[5]["ceiling"]["mean"] == 0
    assert found["named"]["n"] == 11  # linear and compressive parcels

    truth = json.loads((workdir / "records" / "truth.json").read_text())
    assert [row["kind"] for row in truth].count("product") == 4
    page = (workdir / "report.html").read_text()
    assert "product parcels: model" in page
    assert page.count("data:image/png") == 3

    before = (workdir / "report.html").stat().st_mtime_ns
    assert run("--workdir", str(workdir), *SMALL) == found
    assert (workdir / "report.html").stat().st_mtime_ns == before


def test_stores_hold_the_scaled_simulation_and_know_their_seed(short_films, tmp_path):
    made = films.simulation(3, TINY)
    store = films.generate(tmp_path, made)
    splits = np.array(store.items["split"].to_pylist())
    timelines = np.array(store.items["timeline"].to_pylist())
    assert [(splits == s).sum() for s in ("train", "valid", "test")] == [4, 2, 8]
    assert not set(timelines[splits == "test"]) & set(timelines[splits != "test"])
    assert len(set(timelines[splits == "train"])) == 4
    row = int(np.flatnonzero(splits == "test")[5])
    one = films.showings(TINY)[row]
    x = film_brains.recorded(
        made.brains, made.film(one.film), one.subject, 3, 10 * one.film + one.repeat
    )
    x = (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True)
    np.testing.assert_allclose(store.read(row, 0, 40), x, rtol=1e-4, atol=1e-5)
    shutil.rmtree(tmp_path / "text")  # as if it had stopped between
    with pytest.raises(NeuroFMError, match="seed 3 and 4 was asked for"):
        films.generate(tmp_path, films.simulation(4, TINY))


def test_the_largest_drop_names_a_modality():
    drawn = films.simulation(0, TINY).brains
    asked = np.flatnonzero(np.isin(drawn.kind, ("linear", "compressive")))
    drops = np.zeros((3, 2, 20))
    drops[drawn.modality[asked], :, asked] = 0.1
    assert tribe.named(drops, drawn)["mean"] == 1
    wrong = asked[:3]
    drops[(drawn.modality[wrong] + 1) % 3, :, wrong] = 0.2
    assert tribe.named(drops, drawn)["mean"] == pytest.approx(1 - 3 / len(asked))


def test_chance_keeps_each_persons_predictions_to_themselves():
    rng = np.random.default_rng(0)
    rows = Rows((), np.repeat([0, 1], 30), np.zeros(60, int), rng.random((60, 2)))
    out = tribe.moved(rows.Y, rows)
    np.testing.assert_array_equal(out[15:30], rows.Y[:15])
    np.testing.assert_array_equal(out[30:45], rows.Y[45:])


def test_a_prediction_that_never_changes_scores_nothing():
    rng = np.random.default_rng(0)
    rows = Rows((), np.repeat([0, 1], 30), np.zeros(60, int), rng.random((60, 2)))
    guess = rows.Y + rng.random((60, 2))
    guess[:30, 1] = 0
    found = film_ridges.correlations(guess, rows)
    assert found[0, 1] == 0
    np.testing.assert_allclose(found[1], correlation(rows.Y[30:], guess[30:]))


def test_products_are_of_components_that_films_of_the_test_did_not_shape(tmp_path):
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((16, 40))

    def space(scale):
        pieces = {}
        for name, size in (("a", 1.0), ("b", 1.0), ("test", scale)):
            x = size * rng.standard_normal((200, 16)) @ mixing
            pieces[name] = [film_ridges.Piece(x.astype(np.float32), np.arange(200.0))]
        return pieces

    def made(scale):
        nonlocal rng
        rng = np.random.default_rng(1)
        return film_ridges.products([space(scale)], {"a", "b"})

    one, other = made(1.0), made(5.0)
    np.testing.assert_allclose(one["a"][0].samples, other["a"][0].samples)
    assert one["a"][0].samples.shape == (200, 15 * 16 // 2)
    both = np.concatenate([one[name][0].samples for name in ("a", "b")])
    squares = [
        i for i, (p, q) in enumerate(zip(*np.triu_indices(15), strict=True)) if p == q
    ]
    np.testing.assert_allclose(both[:, squares].mean(0), 1, rtol=1e-2)


@pytest.mark.slow
def test_the_whole_quickstart_beats_every_linear_model(tmp_path):
    found = run("--workdir", str(tmp_path / "quick"), "--seed", "100")
    for name in tribe.LINEAR:
        assert found["differences"][f"model-{name}"]["mean"] >= 0.02, name
    assert found["named"]["mean"] >= 0.75
    assert found["ceilings"]["correlation"] > 0.9
