"""Du-IN's quickstart in small: what it leaves, and what its words are known to be."""

import json
import shutil

import jax
import numpy as np
import pytest
import quick
from click.testing import CliRunner

from neurofm.cli import cli
from neurofm.errors import NeuroFMError
from neurofm.eval import probe
from neurofm.eval.splits import Fold
from neurofm.models.duin import DuIN
from neurofm.models.duin_vqvae import BANDS_HZ, DuINVQVAE
from neurofm.quickstart import duin, word_figures, word_scores, words
from neurofm.simulate import words_oracle, words_seeg

TINY = words.Design(
    n_stream=2, stream_s=6.0, n_trials={"train": 1, "valid": 1, "test": 1}
)
TRUNK = ("depth=1", "heads=1", "head_width=4", "mlp_width=8", "convs=[[2,19,10]]")
SMALL = (
    *(f"tokenizer.task.trunk.{setting}" for setting in TRUNK),
    *("tokenizer.task.n_codes=5", "tokenizer.task.code_width=4"),
    *("tokenizer.train.steps=2", "tokenizer.train.batch_size=4"),
    *("train.steps=2", "train.batch_size=4"),
    *("words.task.hidden=3", "words.train.epochs=1"),
)
NETWORKS = {"model", "frozen", "untrained"}
CLASSIC = {"baseline", "band_power", "band_power_bins", "oracle", "chance"}
PARTS = ("unit set", "order in the set")


@pytest.fixture
def few_trials(monkeypatch):
    monkeypatch.setattr(words, "TWENTY_TRIALS", TINY)
    monkeypatch.setattr(duin, "RATES", (1e-3,))
    monkeypatch.setattr(duin, "STARTS", {"model": ""})  # fewer programs to compile
    monkeypatch.setattr(word_figures, "SYSTEMS", ("oracle", "model", "frozen"))
    monkeypatch.setattr(jax, "jit", quick.jit)


def run(*arguments):
    settings = ["quickstart", "--system", "duin", *arguments, "--json"]
    result = CliRunner().invoke(cli, settings)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow  # a dozen programs to compile
def test_a_finished_quickstart_leaves_a_whole_workdir_and_is_read_back(
    few_trials, tmp_path
):
    workdir = tmp_path / "quick"
    found = run("--workdir", str(workdir), *SMALL)
    scores = found["scores"]
    assert set(scores) == NETWORKS | CLASSIC | {*PARTS, duin.CODES}
    for part in (scores, *(scores[name] for name in PARTS)):
        for name in NETWORKS | CLASSIC - {"chance"}:
            score = part[name]
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
            assert score["n"] == words_seeg.N_WORDS
    assert set(scores[duin.CODES]) == {"model", "untrained", "k-means"}
    assert scores["oracle"]["mean"] > 0.8
    assert scores["order in the set"]["chance"]["mean"] == 0.25
    gap = found["differences"]["unit set"]["model-frozen"]["mean"]
    of_set = scores["unit set"]
    expected = of_set["model"]["mean"] - of_set["frozen"]["mean"]
    assert gap == pytest.approx(expected)
    page = (workdir / "report.html").read_text()
    assert "order in the set: model" in page
    assert page.count("data:image/png") == 2

    before = (workdir / "report.html").stat().st_mtime_ns
    assert run("--workdir", str(workdir), *SMALL) == found
    assert (workdir / "report.html").stat().st_mtime_ns == before


def test_overrides_go_to_their_stage(tmp_path):
    given = ("tokenizer.train.steps=5", "train.steps=7", "words.train.epochs=2")
    own = "tokenizer.task.n_codes=9"
    first, second, last = duin.experiments(tmp_path, 3, (*given, own))
    assert (first.train.steps, second.train.steps, last.train.epochs) == (5, 7, 2)
    assert isinstance(second.task, DuIN)
    assert isinstance(first.task, DuINVQVAE)
    assert second.task.tokenizer == first.task  # the second is as large as the first
    assert first.task.n_codes == 9
    assert second.init.frozen == {"tokenizer": str(tmp_path / "tokenizer")}
    assert first.data.path == second.data.path != last.data.path
    assert {exp.seed for exp in (first, second, last)} == {3}
    each = 2 * 24 * 16 // 32  # epochs, words, trials of each, in batches
    assert duin.total_steps(given) == 5 + 7 + 4 * each
    runs = [*duin.tunings(tmp_path, last)]
    rates = {
        name: {r[2].optim.lr for r in runs if r[0] == name} for name in duin.STARTS
    }
    assert rates["model"] == rates["supervised"]  # one grid for both
    assert {r[3] for r in runs} == {tmp_path, tmp_path / "untrained"}


def test_differences_are_of_the_same_trials():
    rng = np.random.default_rng(0)
    word = np.arange(48) % words_seeg.N_WORDS
    made = {n: rng.random((48, words_seeg.N_WORDS)) for n in ("model", "untrained")}
    made["oracle"] = np.eye(words_seeg.N_WORDS)[word]
    found = word_scores.tables(made, word)
    for part in ("", *PARTS):
        scores = found["scores"][part] if part else found["scores"]
        ahead = found["differences"][part] if part else found["differences"]
        gap = scores["model"]["mean"] - scores["untrained"]["mean"]
        assert ahead["model-untrained"]["mean"] == pytest.approx(gap)
        assert scores["oracle"]["mean"] == 1
        assert abs(scores["untrained"]["mean"] - scores["chance"]["mean"]) < 0.25


def test_stores_hold_the_simulation_and_know_their_seed(tmp_path):
    store = words.generate(tmp_path, 3, TINY)
    split = np.array(store.items["split"].to_pylist())
    word = words.words(store)
    for part, n in TINY.n_trials.items():
        counts = np.bincount(word[split == part], minlength=words_seeg.N_WORDS)
        np.testing.assert_array_equal(counts, n)
    world = words_seeg.world(3)
    one = words_seeg.trial(world, 3, words.FIRST_TRIAL + 50, int(word[50]))
    step = abs(one.samples).max() / 2**14
    np.testing.assert_allclose(store.read(50, 0, 800), one.samples, atol=step)
    heard = words.units_heard(store, 0.1, 20)[50]
    for token, unit in enumerate(heard):
        at = 400 * 0.1 * (token + 0.5)
        wanted = [
            u
            for u, start in zip(one.units, one.starts, strict=True)
            if start <= at < start + 100
        ]
        assert wanted == ([unit] if unit >= 0 else [])
    assert (np.unique(heard[heard >= 0]) == np.sort(world.words[word[50]])).all()
    shutil.rmtree(tmp_path / "words")  # as if it had stopped between
    with pytest.raises(NeuroFMError, match="seed 3 and 4 was asked for"):
        words.generate(tmp_path, 4, TINY)


def spoken(world, word, seed=0):
    found = [words_seeg.trial(world, seed, i, int(w)) for i, w in enumerate(word)]
    return np.stack([one.samples for one in found])


def test_pooled_band_power_knows_the_unit_set_and_not_the_order():
    world = words_seeg.world(1)
    word = np.tile(np.arange(words_seeg.N_WORDS), 24)
    x = spoken(world, word)
    power = word_scores.pooled_power(x, words_seeg.SFREQ, BANDS_HZ)
    rows = np.arange(len(word))
    fold = Fold(train=rows[:288], valid=rows[288:336], test=rows[336:])
    features = {"power": power.reshape(len(x), -1)}
    assert probe.fit(features, words_seeg.set_of(word), fold).score > 0.8
    made = probe.fit(features, word, fold).output
    found = word_scores.hits(made, word[fold.test])["order in the set"]
    assert abs(found.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(found))


def test_a_burst_is_as_loud_as_said_beside_the_background_of_its_band():
    world = words_seeg.world(2)
    rng = np.random.default_rng(0)
    noise = words_seeg.background(world, rng, 400_000)
    np.testing.assert_allclose(noise.var(1).mean(), 1, rtol=0.05)
    np.testing.assert_allclose(np.cov(noise), words_seeg.covariance(world), atol=0.1)
    hz = np.fft.rfftfreq(noise.shape[1], 1 / words_seeg.SFREQ)
    power = 2 * np.square(np.abs(np.fft.rfft(noise) / noise.shape[1]))
    for (low, high), size in zip(
        words_seeg.BANDS_HZ, words_seeg.amplitude(world), strict=True
    ):
        of_band = power[:, (hz >= low) & (hz < high)].sum(1).mean()
        at_peak = size**2 / 2 / words_seeg.N_CHANS
        ratio = 10 * np.log10(at_peak / of_band)
        assert abs(ratio - words_seeg.SNR_DB) < 0.3


def test_words_of_a_set_are_orders_of_its_units():
    world = words_seeg.world(5)
    sets = np.sort(world.words, 1).reshape(words_seeg.N_SETS, words_seeg.N_ORDERS, -1)
    assert (sets == sets[:, :1]).all()
    assert len(np.unique(sets[:, 0], axis=0)) == words_seeg.N_SETS
    assert len(np.unique(world.words, axis=0)) == words_seeg.N_WORDS


def test_the_oracle_hears_words_and_its_odds_are_fair(monkeypatch):
    world = words_seeg.world(4)
    word = np.arange(words_seeg.N_WORDS)
    made = [words_oracle.evidence(world, x) for x in spoken(world, word)]
    assert (np.argmax(made, 1) == word).mean() > 0.9
    # Where nothing is heard, the mean of a likelihood ratio is 1.
    monkeypatch.setattr(words_seeg, "SNR_DB", -20.0)
    rng = np.random.default_rng(1)
    odds = [
        np.exp(words_oracle.units(world, words_seeg.RMS_V * noise))
        for noise in (words_seeg.background(world, rng, 800) for _ in range(60))
    ]
    np.testing.assert_allclose(np.mean(odds, (0, 2)), 1, atol=0.1)


def test_a_set_is_that_of_the_best_word_and_the_order_is_told_in_the_true_set():
    outputs = np.zeros((2, words_seeg.N_WORDS))
    outputs[0, [4, 2]] = 3, 1  # the best word is of set 1, the true one, 2, of set 0
    outputs[1, [5, 7]] = 1, 2
    found = word_scores.hits(outputs, np.array([2, 5]))
    assert {name: x.tolist() for name, x in found.items()} == {
        "": [0, 0],
        "unit set": [0, 1],
        "order in the set": [1, 0],
    }


def test_codes_that_name_units_tell_all_of_them_and_random_ones_nothing():
    rng = np.random.default_rng(0)
    units = rng.integers(-1, 5, (40, 6))
    names = rng.permutation(5)[units]
    names[units < 0] = rng.integers(0, 5, (units < 0).sum())
    assert word_scores.information(names, units)["mean"] == pytest.approx(1)
    other = rng.integers(0, 5, units.shape)
    assert abs(word_scores.information(other, units)["mean"]) < 0.05


@pytest.mark.slow
def test_the_whole_quickstart_tells_orders_that_band_power_cannot(tmp_path):
    found = run("--workdir", str(tmp_path / "quick"), "--seed", "100")
    order = found["scores"]["order in the set"]
    assert order["model"]["low"] > order["band_power"]["high"]
    codes = found["scores"][duin.CODES]
    assert codes["model"]["low"] > codes["untrained"]["high"]
