"""Codes made once: what a run on them sees is what the tokenizer would give."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_frozen import random_variables
from tiny_meeg import OMNI, TOKENIZER

from data_pipelines import codes as pipeline
from neurofm import model
from neurofm.cli import cli
from neurofm.config import Data, Eval, Experiment, Init, Train
from neurofm.data import codes, loader, meeg, segments, writer
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_variables
from neurofm.optim import Optim
from neurofm.run import frozen
from neurofm.step import draw_key, loss_and_grads
from neurofm.train import pretrain

SIGNALS = replace(OMNI, dropout=0.1)
CODES = replace(SIGNALS, train_on="codes")
SEGMENT_S = SIGNALS.segment_samples / TOKENIZER.sfreq
WINDOW = SIGNALS.segment_samples  # 42 samples, at 40 Hz
LENGTHS = (3, 2 * WINDOW + 9), (7, 30), (4, 4 * WINDOW), (7, 9), (5, WINDOW + 1)
BAD = (2, WINDOW + 3, WINDOW + 8)  # recording, first sample, past the last


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tokenizer"
    variables = random_variables(TOKENIZER, seed=2)
    model.save(folder, TOKENIZER, variables, {"source": "made by hand"})
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Noise of 3 to 7 sensors, one marked bad in between and one too short."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("meeg") / "d"

    def made():
        for i, (n_chans, n) in enumerate(LENGTHS):
            sensors = Sensors(
                names=tuple(f"c{c}" for c in range(n_chans)),
                kind=np.zeros(n_chans, np.int32),
                pos=rng.normal(0, 0.1, (n_chans, 6)).astype(np.float32),
                coil=("",) * n_chans,
            )
            item, first, past = BAD
            seconds = {"onset": first / 40, "duration": (past - first) / 40}
            mark = {**seconds, "trial_type": "BAD_jump"}
            yield Recording(
                item=f"r{i}",
                samples=2e-5 * rng.normal(0, 1, (n_chans, n)).astype(np.float32),
                meta={"split": "valid" if i == 4 else "train", "subject": f"s{i}"},
                events=[mark] * (i == item),
                sensors=sensors,
            )

    info = DatasetInfo(
        kind="meeg", sfreq=40.0, unit="si", ch_names=(), payload="float32"
    )
    write_dataset(path, info, made())
    return open_dataset(path)


@pytest.fixture(scope="module")
def cached(recordings, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("codes") / "d"
    pipeline.prepare(
        recordings.path, out, tokenizer=tokenizer, segment_s=SEGMENT_S, batch_size=4
    )
    return open_dataset(out)


def experiment(dataset, tokenizer, task=CODES, **train):
    return Experiment(
        task=task,
        data=Data(path=str(dataset.path)),
        optim=Optim(warmup=0.0),
        train=Train(steps=3, batch_size=3, log_every=1, checkpoint_every=3, **train),
        init=Init(frozen={"tokenizer": str(tokenizer)}),
        eval=Eval(every=0),
    )


def test_the_store_has_every_segment_once_around_what_is_bad(cached, recordings):
    rows = cached.items.select(["item", "n_recorded", "split", "subject"]).to_pylist()
    found = sorted((r["item"], r["n_recorded"]) for r in rows)
    after = BAD[2]  # a stretch of 118 samples holds two segments
    assert found == [
        ("r0@0", WINDOW),
        (f"r0@{WINDOW}", WINDOW),
        ("r1@0", 30),
        ("r2@0", WINDOW),
        (f"r2@{after}", WINDOW),
        (f"r2@{after + WINDOW}", WINDOW),
        ("r4@0", WINDOW),
    ]
    assert {r["item"]: r["split"] for r in rows}["r4@0"] == "valid"
    assert {r["item"]: r["subject"] for r in rows}["r1@0"] == "s1"
    assert cached.info.processing["dataset"] == recordings.hash
    skipped = (cached.path / "skipped.tsv").read_text()
    assert skipped.splitlines()[1].startswith("r3\t")


def batches(cached, recordings):
    """All segments from the store of codes, and cut from the recordings again."""
    spec = CODES.batch_spec("train")
    plan = codes.training([cached], spec, Data(), seed=1)
    n = 6  # of the split train
    local = loader.batches(plan, spec, n, np.arange(n), workers=0)
    coded = next(iter(local))
    names = [cached.items["item"][plan.crop(i).item].as_py() for i in range(n)]
    assert len(set(names)) == n
    crops = []
    for name, length in zip(names, coded["meeg/length"].tolist(), strict=True):
        item, start = name[1:].split("@")
        start = int(start)
        crops.append(meeg.Crop(0, int(item), start, start + length, (0, length)))
    live = meeg.filler([recordings], (7,))(crops, SIGNALS.batch_spec("train"))
    coded.pop("redraws")
    return coded, {**live, "index": coded["index"], "valid": coded["valid"]}


def test_losses_and_gradients_are_those_of_the_signals(cached, recordings, tokenizer):
    coded, live = batches(cached, recordings)
    first = jax.tree.map(jnp.asarray, model.load(tokenizer).inference)
    rng = np.random.default_rng(3)
    shapes = abstract_variables(SIGNALS)["params"]
    params = jax.tree.map(
        lambda x: rng.normal(0.1, 0.3, x.shape).astype(x.dtype), shapes
    )
    others = {"slow": {}, "buffers": {}, "frozen": {"tokenizer": first}}
    step = jnp.int32(0)

    def run(task, batch):
        draws = task.draw(batch, draw_key(5, step, "train"), step, True)
        return loss_and_grads(task, params, others, batch, draws, step, 1)

    got = jax.device_get(quick.jit(lambda b: run(CODES, b))(coded))
    wanted = jax.device_get(quick.jit(lambda b: run(SIGNALS, b))(live))
    assert 0.5 < got[0]["codes"] < 50
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        size = max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(a / size, b / size, atol=2e-5)
    changed = {**coded, "meeg/codes": (coded["meeg/codes"] + 1) % TOKENIZER.n_codes}
    other = jax.device_get(quick.jit(lambda b: run(CODES, b))(changed))
    assert abs(other[0]["codes"] - got[0]["codes"]) > 1e-3


def test_held_out_segments_are_those_of_the_split_with_fillers(cached):
    plan = codes.held_out([cached], CODES.batch_spec("train"), Data(), 9)
    assert plan.n_crops == 1
    assert cached.items["item"][plan.crop(0).item].as_py() == "r4@0"
    assert [plan.crop(i).valid for i in range(3)] == [True, False, False]


def test_a_run_on_codes_makes_a_model_of_signals(cached, tokenizer, tmp_path):
    outcome = pretrain(experiment(cached, tokenizer), tmp_path / "run")
    assert outcome.status == "done"
    rows = [
        json.loads(line)
        for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert [r["step"] for r in rows if "train/loss" in r] == [1, 2, 3]
    trained = model.load(tmp_path / "run")
    assert trained.contract.kind == "meeg"
    assert trained.contract.window_samples == WINDOW


def test_another_tokenizer_or_grid_or_kind_is_refused(
    cached, recordings, tokenizer, tmp_path
):
    other = tmp_path / "other"
    model.save(other, TOKENIZER, random_variables(TOKENIZER, seed=8), {})
    with pytest.raises(NeuroFMError, match=r"made by another tokenizer \(sha256 "):
        pretrain(experiment(cached, other), tmp_path / "a")
    _, leaning = frozen.lean(experiment(cached, tokenizer))
    frozen.check_made_by([cached, recordings], leaning)
    task = replace(CODES, overlap=0.5)
    with pytest.raises(NeuroFMError, match=r"step_samples 12, not 8.*--overlap 0\.5"):
        pretrain(experiment(cached, tokenizer, task), tmp_path / "b")
    with pytest.raises(NeuroFMError, match=r"kind codes.*set task\.train_on=codes"):
        pretrain(experiment(cached, tokenizer, SIGNALS), tmp_path / "c")
    with pytest.raises(NeuroFMError, match=r"kind meeg.*neurofm prepare codes"):
        pretrain(experiment(recordings, tokenizer), tmp_path / "d")


def test_interrupted_it_goes_on_and_ends_with_the_same(
    cached, recordings, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(writer, "ITEMS_PER_SHARD", 2)
    options = {"tokenizer": tokenizer, "segment_s": SEGMENT_S, "batch_size": 4}

    def stop(done, total, seconds):
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(recordings.path, tmp_path / "out", **options, progress=stop)
    with pytest.raises(NeuroFMError, match=r"made with overlap 0\.25 and not 0\.5"):
        pipeline.prepare(recordings.path, tmp_path / "out", **options, overlap=0.5)
    summary = pipeline.prepare(recordings.path, tmp_path / "out", **options)
    assert summary.status == "resumed"
    assert summary.hash == cached.hash
    again = open_dataset(tmp_path / "out")
    assert len(again.info.shards) > 3
    for i in range(len(cached)):
        n = cached.items["n_samples"][i].as_py()
        np.testing.assert_array_equal(cached.read(i, 0, n), again.read(i, 0, n))
    again = pipeline.prepare(recordings.path, tmp_path / "out", **options)
    assert again.status == "already prepared"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_the_command_names_what_it_needs_and_what_comes_next(
    recordings, tokenizer, tmp_path
):
    asked = ["prepare", "codes", str(recordings.path), "--out", str(tmp_path / "o")]
    run = CliRunner()
    failed = run.invoke(cli, asked)
    assert failed.exit_code == 1
    assert "needs --tokenizer MODEL" in failed.output
    asked += ["--tokenizer", str(tokenizer), "--segment", str(SEGMENT_S)]
    asked += ["--batch-size", "4"]
    done = run.invoke(cli, asked)
    assert done.exit_code == 0, done.output
    assert "5, in 7 segments" in done.output
    assert "task.train_on=codes init.frozen.tokenizer=MODEL" in done.output
    told = run.invoke(cli, ["check", str(tmp_path / "o"), "--json"])
    facts = json.loads(told.stdout)
    assert facts["signal"] == "codes"
    assert "brainomni/tiny task.train_on=codes" in facts["next"][0]


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=40))
def test_whole_numbers_are_stored_exactly(values):
    x = np.array([values, values[::-1]], np.float32)
    record = segments.pack(x, "int16")
    np.testing.assert_array_equal(segments.unpack(record, 0, len(values)), x)
