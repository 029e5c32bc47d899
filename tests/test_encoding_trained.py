"""`neurofm evaluate MODEL FEATURES --suite encoding` of brains that a model made."""

import json
from dataclasses import replace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import quick
from click.testing import CliRunner
from tiny_tribe import TRIBE

from neurofm.cli import cli
from neurofm.config import Data
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.encoding.predicted import predicted
from neurofm.encoding.stimulus import Run
from neurofm.encoding.trained import _score
from neurofm.model import load, save

TR, N = 1.5, 30  # s, volumes
SIZES = {"audio": 3, "words": 2}
# subject, film, split: 01 sees the test film twice
RUNS = (("01", "a", "test"), ("01", "a", "test"), ("02", "a", "test"), ("01", "b", ""))


def features(folder, modality, width, rng):
    told = {"modality": modality, "model": "noise", "layers": 1, "width": width}
    info = DatasetInfo(
        kind="features",
        sfreq=2.0,
        unit="none",
        ch_names=tuple(f"f{i}" for i in range(width)),
        payload="float32",
        processing=told,
    )
    x = 3 * rng.standard_normal((2, width, 3 * N)).astype(np.float32)
    films = zip("ab", x, strict=True)
    write_dataset(
        folder,
        info,
        [
            Recording(item=f, samples=y, meta={"timeline": f, "onset": 0.0})
            for f, y in films
        ],
    )


def brain(folder, responses, splits=True):
    info = DatasetInfo(
        kind="fmri",
        sfreq=1 / TR,
        unit="none",
        ch_names=tuple(f"p{i}" for i in range(5)),
        payload="float32",
        processing={"tr_s": TR, "atlas": "five"},
    )
    recordings = []
    for i, (who, film, split) in enumerate(RUNS):
        meta = {"subject": who, "timeline": film, "onset": 0.0}
        meta |= {"split": split or "train"} if splits else {}
        recordings.append(Recording(item=f"run-{i}", samples=responses[i].T, meta=meta))
    write_dataset(folder, info, recordings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, features, and brains that respond as it says, with noise."""
    at, rng = tmp_path_factory.mktemp("brains"), np.random.default_rng(0)
    for name, width in SIZES.items():
        features(at / name, name, width, rng)
    noise = rng.standard_normal((len(RUNS), N, 5)).astype(np.float32)
    brain(at / "noise", noise)
    stores = [open_dataset(at / name) for name in ("noise", *SIZES)]
    task = replace(TRIBE, smoothing=0, low_rank=0, shift_s=3.0).fitted(stores)
    variables = jax.device_get(quick.jit(task.init)(jax.random.key(1), {}, {}))
    save(at / "model", task, variables, {})
    for hidden in ("", *SIZES):
        read = predicted(task, variables, stores, Data(), "test", hidden)
        np.save(at / f"guess-{hidden}.npy", np.stack([read[0, i] for i in range(3)]))
    guess = np.load(at / "guess-.npy")
    responses = noise.copy()
    responses[:3] = guess + 0.3 * guess.std((0, 1)) * noise[:3]
    responses[:, :, 4] = noise[:, :, 4]
    brain(at / "fmri", responses)
    np.save(at / "responses.npy", responses)
    return at


def run(made, out, *more, given=("model", *SIZES)):
    words = ["evaluate", *(str(made / name) for name in given), "--suite", "encoding"]
    words += ["--json", "--out", str(out), "--permutations", "19", *more]
    if "--data" not in more:
        words += ["--data", str(made / "fmri")]
    done = CliRunner().invoke(cli, words)
    return json.loads(done.stdout)


def test_what_a_model_predicts_is_scored_with_and_without_each_modality(made, tmp_path):
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "03_r.npy", np.zeros(5))
    digests = open_dataset(made / "fmri").items["sha256"].to_pylist()
    seen = made / "model" / "pretrained_on.txt"
    seen.write_text(f"{digests[0]}\n{digests[3]}\n")
    found = run(made, tmp_path)
    assert found["split"] == "test"
    assert found["scores"]["model"]["n_transductive"] == 1  # of three that are tested
    assert found["left_out"] == {"runs": 0, "regions": 0}
    table = pq.read_table(tmp_path / "targets.parquet").to_pydict()
    responses = np.load(made / "responses.npy")
    truth = responses - responses.mean(1, keepdims=True)
    truth /= truth.std(1, keepdims=True)

    def r(hidden, rows, v):
        guess = np.load(made / f"guess-{hidden}.npy")
        both = (np.concatenate([x[i, :, v] for i in rows]) for x in (truth, guess))
        return np.corrcoef(*both)[0, 1]

    for who, rows in (("01", (0, 1)), ("02", (2,))):
        mine = [i for i, name in enumerate(table["subject"]) if name == who]
        whole = np.array([r("", rows, v) for v in range(5)])
        np.testing.assert_allclose(np.array(table["r"])[mine], whole, atol=1e-5)
        assert (whole[:4] > 0.7).all()
        for name in SIZES:
            lost = whole - [r(name, rows, v) for v in range(5)]
            column = np.array(table[f"lost without {name}"])[mine]
            np.testing.assert_allclose(column, lost, atol=1e-5)
            held = np.load(tmp_path / "maps" / f"{who}_lost-without-{name}.npy")
            np.testing.assert_allclose(held, lost, atol=1e-5)
    assert found["modalities"]["audio"]["mean"] > 0.05
    assert found["repeats"] == {"01": {"n": 2, "volumes": N}}
    assert np.isfinite(table["cc_max"][0])
    assert found["intersubject_among"] == ["01", "02"]
    assert not (tmp_path / "maps" / "03_r.npy").exists()
    assert (tmp_path / "figures" / "modalities.png").stat().st_size > 5_000
    page = (tmp_path / "report.html").read_text()
    assert "when a modality is hidden" in page


def test_a_model_and_what_does_not_go_with_it(made, tmp_path):
    def refused(*more, **given):
        return run(made, tmp_path / "o", *more, **given)["error"]

    assert "--delays cannot be given" in refused("--delays", "2,4")
    assert "tell no chance" in refused("--permutations", "0")
    assert "given 1 models and 0 features" in refused(given=("model",))
    assert "has no subject '07'" in refused("--subjects", "07")
    task = load(made / "model").task
    other = replace(task, subjects=("05",))
    variables = jax.device_get(quick.jit(other.init)(jax.random.key(1), {}, {}))
    save(tmp_path / "other", other, variables, {})
    names = (tmp_path / "other", *SIZES)
    assert "whom the model does not know" in refused(given=names)
    responses = np.load(made / "responses.npy")
    brain(tmp_path / "all", responses, splits=False)
    more = ("--data", str(tmp_path / "all"), "--subjects", "01")
    found = run(made, tmp_path / "o", *more)
    assert found["split"] == "all runs, as none has a split"
    assert found["scores"]["model"]["n"] == 3 * N
    assert "intersubject_among" not in found  # nobody else is scored


def test_a_prediction_that_stands_still_is_no_better_than_chance():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((N, 3)).astype(np.float32)
    y[:, 2] = np.nan  # a region that the brain lacks
    guess = y + 0.1 * rng.standard_normal(y.shape).astype(np.float32)
    guess[:, 1:] = 0.5
    times, x = np.arange(N) * TR, np.zeros((N, 0), np.float32)
    runs = {0: Run("01", "run", "test", "a", times, x, (), y, 0)}
    found = _score(runs, {"": {0: guess}, "audio": {0: guess}}, ["audio"], 3, 99)
    columns = found.columns
    assert columns["p"][:2].tolist() == [0.01, 1.0]
    assert columns["chance"][1] == columns["r"][1] == 0
    assert np.isnan([columns[name][2] for name in ("r", "p", "q", "chance")]).all()
