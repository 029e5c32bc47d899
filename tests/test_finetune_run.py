"""`finetune`: labels of recordings and of events, in the loop of pretraining."""

import dataclasses
import json

import numpy as np
import pytest
from test_meeg_rows import SFREQ, experiment, store
from tiny_meeg import OMNI, TOKENIZER
from tiny_models import TINY

from neurofm import config, model
from neurofm.config import Data, Eval, Experiment, Init, Train
from neurofm.data import labelled, loader
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.finetune import below_head, finetune
from neurofm.models.finetune import Finetune
from neurofm.optim import Optim
from neurofm.run.metrics import read_rows
from neurofm.run.watch import Plateau
from neurofm.train import pretrain

AUDIO = Finetune(task=TINY, classes=("a", "b"))
WINDOW = TINY.window_samples
SPLITS = ("train", "train", "valid", "test")


def sounds(path, n=24, length=WINDOW, **meta):
    """Tones of two pitches in noise."""
    rng = np.random.default_rng(0)
    info = DatasetInfo(
        kind="audio", sfreq=TINY.sfreq, unit="full_scale", ch_names=("mono",)
    )

    def made():
        for i in range(n):
            pitch = "ab"[(i // 4) % 2]
            size = length + 40 * (i % 3)
            tone = np.sin(np.arange(size) * (0.3 if pitch == "a" else 1.1))
            x = 0.1 * (tone + 0.3 * rng.normal(0, 1, size))
            own = {"split": SPLITS[i % 4], "pitch": pitch, **meta}
            yield Recording(
                item=f"r{i:02d}", samples=x[None].astype(np.float32), meta=own
            )

    write_dataset(path, info, made())
    return open_dataset(path)


def crops(plan, n, start=0):
    return [plan.crop(i) for i in range(start, start + n)]


def test_an_epoch_shows_every_example_once_with_its_class(tmp_path):
    dataset = sounds(tmp_path / "d")
    spec, data = AUDIO.batch_spec(), Data(target="pitch")
    plan = labelled.training([dataset], spec, data, 0, 5)
    pitch = dataset.items["pitch"].to_pylist()
    split = dataset.items["split"].to_pylist()
    for epoch in range(3):
        seen = sorted(c.item for c in crops(plan, 12, 12 * epoch))
        assert seen == [i for i in range(24) if split[i] == "train"]
    assert {c.stop - c.start for c in crops(plan, 60)} == {WINDOW}
    assert len({(c.item, c.start) for c in crops(plan, 120)}) > 24
    batch = next(iter(loader.batches(plan, spec, 5, np.arange(5), workers=0)))
    assert [spec.fields["label"].words[k] for k in batch["label"]] == [
        pitch[plan.crop(i).item] for i in range(5)
    ]
    assert batch["audio/wave"].shape == (5, 1, WINDOW)


def test_held_out_examples_come_window_by_window_once(tmp_path):
    dataset = sounds(tmp_path / "d", length=2 * WINDOW)
    spec, data = AUDIO.batch_spec(), Data(target="pitch")
    plan = labelled.held_out([dataset], spec, data, None, 5, "test")
    found = crops(plan, plan.n_crops or 0)
    assert len(found) == 15
    real = sorted((c.item, c.start) for c in found if c.valid)
    assert real == [(i, at) for i in range(3, 24, 4) for at in (0, WINDOW)]


def meeg_events(path):
    """Recordings of 3 and 5 sensors with events, one of them bad, one cut short."""
    events = [
        (item, first, first + 8, kind)
        for item in range(3)
        for first, kind in ((20, "left"), (60, "right"), (100, "left"))
    ]
    events += [(0, 62, 64, "BAD_blink"), (1, 170, 178, "right"), (2, 5, 5, "right")]
    return store(path, [(3, 180), (5, 180), (3, 180)], events=events)


def test_events_are_cut_around_their_onset_where_nothing_is_bad(tmp_path):
    dataset = meeg_events(tmp_path / "d")
    task = Finetune(task=TOKENIZER, classes=("left", "right"))
    data = Data(target="trial_type", around=(-0.25, 0.75), buckets=2)
    spec = task.batch_spec()
    found = labelled.find([dataset], spec, data, "train")
    wanted = [
        (item, first - 10, first + 30)
        for item in range(3)
        for first in (20, 60, 100)
        if (item, first) != (0, 60)
    ]
    got = zip(found.item, found.start, found.stop, strict=True)
    assert sorted(got) == wanted
    assert found.counts[0]["bad"] == 1
    assert found.counts[0]["too_short"] == 2  # beyond the end, and before the start
    plan = labelled.training([dataset], spec, data, 0, 2)
    for step in range(12):
        sizes = {int(dataset.n_chans[c.item]) for c in crops(plan, 2, 2 * step)}
        assert len(sizes) == 1
    assert sorted(c.example for c in crops(plan, 16)[:16]).count(0) == 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A WavJEPA as it starts, as a model folder."""
    import jax

    folder = tmp_path_factory.mktemp("base")
    batch = {
        name: np.zeros(x.shape, x.dtype)
        for name, x in model.abstract_batch(TINY, 2).items()
    }
    batch = jax.tree.map(jax.numpy.asarray, batch)
    variables = jax.jit(lambda key: TINY.init(key, batch, {}))(jax.random.key(5))
    model.save(folder / "m", TINY, jax.device_get(variables), {})
    return folder / "m"


def run(data, **fields):
    task = {"regime": "full", "dropout": 0.1} | fields.pop("task", {})
    train = {"epochs": 8.0, "batch_size": 4, "log_every": 1, "keep": 1}
    return Experiment(
        task=Finetune(task=TINY, **task),
        data=Data(path=str(data), target="pitch", workers=1),
        optim=Optim(lr=1e-2, warmup=0.0),
        train=Train(**train | fields.pop("train", {})),
        eval=Eval(metric="balanced_accuracy", **fields),
    )


def test_tones_are_told_apart_and_the_best_epoch_is_tested(tmp_path, base):
    sounds(tmp_path / "d", n=48)
    done = finetune(run(tmp_path / "d"), base, tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores == done.scores
    assert scores["split"] == "test"
    assert scores["scores"]["model"]["n"] == 12
    assert scores["scores"]["model"]["mean"] > 0.8
    assert scores["scores"]["chance"]["mean"] == 0.5
    assert np.array(scores["confusion"]).sum() == 12
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    name = "eval/balanced_accuracy"
    found = {row["step"]: row[name] for row in rows if name in row}
    assert found[scores["chosen"]["step"]] == max(
        v for step, v in found.items() if step
    )
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["task"]["classes"] == ["a", "b"]
    assert saved["train"]["steps"] == 48
    (fold,) = json.loads((tmp_path / "run" / "split.json").read_text())["folds"]
    assert fold["test"] == [f"r{i:02d}" for i in range(3, 48, 4)]
    assert (len(fold["train"]), len(fold["valid"])) == (24, 12)
    again = finetune(run(tmp_path / "d"), base, tmp_path / "run")
    assert again.scores == done.scores


@pytest.mark.parametrize(
    "task", [{"regime": "lora"}, {"regime": "probe", "standardise": True}]
)
def test_a_finetuned_model_is_loaded_exported_and_read(tmp_path, base, task):
    sounds(tmp_path / "d", n=16)
    exp = run(tmp_path / "d", task=task, train={"epochs": 2.0})
    finetune(exp, base, tmp_path / "run")
    found = model.load(tmp_path / "run")
    wave = np.random.default_rng(1).normal(0, 0.1, (WINDOW,)).astype(np.float32)
    reading = found.embed(wave, sfreq=TINY.sfreq)
    assert reading.values["last"].shape[1] == TINY.width
    model.save(tmp_path / "exported", found.task, found.variables, found.meta)
    both = found, model.load(tmp_path / "exported")
    other = both[1].embed(wave, sfreq=TINY.sfreq)
    np.testing.assert_array_equal(other.values["last"], reading.values["last"])
    told = [one.embed(wave, sfreq=TINY.sfreq, want="prediction") for one in both]
    np.testing.assert_array_equal(*(one.values["prediction"] for one in told))
    trunk = below_head(found)
    model.save(tmp_path / "trunk", trunk.task, trunk.variables, trunk.meta)
    merged = model.load(tmp_path / "trunk")
    assert merged.task.name == "wavjepa"
    alone = merged.embed(wave, sfreq=TINY.sfreq)
    np.testing.assert_allclose(alone.values["last"], reading.values["last"], atol=1e-5)
    with pytest.raises(NeuroFMError, match="a wavjepa without a head"):
        below_head(merged)


def test_killed_and_run_again_it_ends_as_if_in_peace(tmp_path, base):
    sounds(tmp_path / "d", n=16)
    exp = run(tmp_path / "d", train={"epochs": 4.0})
    whole = finetune(exp, base, tmp_path / "whole")

    def kill(step, row):
        if step == 5 and "train/loss" in row:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(exp, base, tmp_path / "cut", kill)
    again = finetune(exp, base, tmp_path / "cut")
    assert again.outcome.row["train/loss"] == whole.outcome.row["train/loss"]
    assert again.scores == whole.scores


@pytest.mark.slow
def test_brainomni_is_tuned_on_events_with_its_tokenizer_at_hand(tmp_path):
    rng = np.random.default_rng(0)

    def made():
        for i in range(6):
            n_chans = 3 + i % 2
            sensors = Sensors(
                names=tuple(f"c{c}" for c in range(n_chans)),
                kind=np.zeros(n_chans, np.int32),
                pos=rng.normal(0, 0.1, (n_chans, 6)).astype(np.float32),
                coil=("",) * n_chans,
            )
            x = 2e-5 * rng.normal(0, 1, (n_chans, 400)).astype(np.float32)
            events = [
                {"onset": at / SFREQ, "duration": 1.0, "trial_type": kind}
                for at, kind in ((40, "x"), (120, "y"), (200, "x"), (280, "y"))
            ]
            split = ("train", "valid", "test")[i % 3]
            yield Recording(
                item=f"r{i}",
                samples=x,
                meta={"split": split},
                events=events,
                sensors=sensors,
            )

    info = DatasetInfo(kind="meeg", sfreq=SFREQ, unit="si", ch_names=())
    write_dataset(tmp_path / "d", info, made())
    pretrain(experiment(TOKENIZER, tmp_path / "d"), tmp_path / "one")
    init = Init(frozen={"tokenizer": str(tmp_path / "one")})
    pretrain(experiment(OMNI, tmp_path / "d", init=init), tmp_path / "two")
    exp = config.load(
        "brainomni/finetune",
        (
            f"data.path={tmp_path / 'd'}",
            "data.target=trial_type",
            "data.around=[0.0,1.05]",
            "train.batch_size=4",
            "train.epochs=2",
        ),
    )
    done = finetune(exp, tmp_path / "two", tmp_path / "run")
    assert done.scores["scores"]["model"]["n"] == 8
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["task"]["task"]["tokenizer"] == config.to_json(TOKENIZER)


def test_a_run_ends_where_nothing_is_gained(tmp_path, base):
    sounds(tmp_path / "d", n=16)
    exp = run(tmp_path / "d", train={"epochs": 30.0}, patience=2)
    exp = config.override(exp, ("data.split=kfold:4", "data.fold=1"))
    done = finetune(exp, base, tmp_path / "run")
    assert done.outcome.status == "done"
    assert done.outcome.step < 60
    again = finetune(exp, base, tmp_path / "run")
    assert again.outcome.step == done.outcome.step
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert saved["data"]["sides"] == split["sha256"]
    assert done.scores["fold"] == "1"
    assert done.scores["scores"]["model"]["n"] == len(split["folds"][1]["test"]) == 4
    watch = Plateau(2)
    for step, value in enumerate((0.5, 0.7, 0.7, 0.6)):
        watch = watch.seen(step, value)
    assert (watch.reached, watch.step) == (True, 1)
    assert not Plateau(0).seen(0, 0.5).seen(1, 0.4).reached
    assert Plateau(2).seen(0, np.nan).seen(1, -3.0) == Plateau(2, -3.0, 1, 0)


def test_a_users_mistake_is_named(tmp_path, base):
    data = tmp_path / "d"
    sounds(data, n=16)
    with pytest.raises(NeuroFMError, match=r"data.target is empty"):
        finetune(config.override(run(data), ("data.target=",)), base, tmp_path / "r")
    with pytest.raises(NeuroFMError, match=r"'pich' is no column .* pitch"):
        finetune(
            config.override(run(data), ("data.target=pich",)), base, tmp_path / "r"
        )
    sounds(tmp_path / "one", n=4)
    with pytest.raises(NeuroFMError, match=r"not two classes .* only 'a'"):
        finetune(run(tmp_path / "one"), base, tmp_path / "r")
    sounds(tmp_path / "leak", n=16, timeline="song")
    with pytest.raises(NeuroFMError, match=r"timeline song is in the splits"):
        finetune(run(tmp_path / "leak"), base, tmp_path / "r")
    strange = config.override(run(data), ("data.target=item",))
    with pytest.raises(NeuroFMError, match=r"class 'r\d+' is none of those trained on"):
        finetune(strange, base, tmp_path / "r")
    around = config.override(run(data), ("data.around=[0.0,1.0]",))
    with pytest.raises(NeuroFMError, match=r"data.around is given"):
        finetune(around, base, tmp_path / "r")
    with pytest.raises(NeuroFMError, match=r"this config trains wavjepa"):
        finetune(Experiment(task=TINY), base, tmp_path / "r")
    wrong = config.override(run(data), ("eval.metric=accuracyy",))
    with pytest.raises(NeuroFMError, match=r"eval.metric is 'accuracyy'"):
        finetune(wrong, base, tmp_path / "r")
    assert not (tmp_path / "r" / "checkpoints").exists()


def many(path, n=32):
    """Tones with a pitch as a number, and both tags where they are loud."""
    rng = np.random.default_rng(0)
    info = DatasetInfo(
        kind="audio", sfreq=TINY.sfreq, unit="full_scale", ch_names=("mono",)
    )

    def made():
        for i in range(n):
            pitch, loud = (i // 4) % 4, (i // 16) % 2
            tone = np.sin(np.arange(WINDOW) * (0.3 + 0.4 * pitch))
            x = (0.3 + loud) * 0.1 * (tone + 0.1 * rng.normal(0, 1, WINDOW))
            own = {
                "split": SPLITS[i % 4],
                "pitch": 100.0 * pitch,
                "loud": None if i % 8 == 0 else loud,
                "tags": ("low" if pitch < 2 else "high") + (", loud" if loud else ""),
            }
            yield Recording(
                item=f"r{i:02d}", samples=x[None].astype(np.float32), meta=own
            )

    write_dataset(path, info, made())
    return open_dataset(path)


@pytest.mark.parametrize(
    ("answer", "target", "names", "metric"),
    [
        pytest.param(
            *("tags", "tags", ["high", "loud", "low"], "mean_average_precision"),
            marks=pytest.mark.slow,
        ),
        ("numbers", "pitch,loud", ["pitch", "loud"], "r2"),
    ],
)
def test_tags_and_numbers_come_from_the_data(
    tmp_path, base, answer, target, names, metric
):
    dataset = many(tmp_path / "d")
    task = {"regime": "probe", "dropout": 0.0, "answer": answer}
    if answer == "tags":
        task["class_weight"] = "balanced"
    exp = run(tmp_path / "d", task=task, train={"epochs": 4.0})
    exp = dataclasses.replace(
        exp,
        data=dataclasses.replace(exp.data, target=target),
        eval=Eval(metric="r2" if answer == "numbers" else "f1"),
    )
    done = finetune(exp, base, tmp_path / "run")
    assert done.scores["metric"] == metric
    assert done.scores["scores"]["model"]["n"] == 8
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["task"]
    assert saved["classes"] == names
    rows = [i for i in range(32) if SPLITS[i % 4] == "train"]
    if answer == "numbers":
        for k, name in enumerate(names):
            values = [dataset.items[name][i].as_py() for i in rows]
            values = [v for v in values if v is not None]
            np.testing.assert_allclose(saved["centre"][k], np.mean(values), rtol=1e-6)
            np.testing.assert_allclose(saved["spread"][k], np.std(values), rtol=1e-6)
    else:
        held = [dataset.items["tags"][i].as_py() for i in rows]
        there = np.array([sum(name in h for h in held) for name in names])
        np.testing.assert_allclose(saved["weights"], (len(rows) - there) / there)


def test_balanced_classes_count_alike(tmp_path):
    from neurofm.finetune import balanced

    task = Finetune(task=TINY, classes=("a", "b", "c"))
    label = np.array([0, 0, 0, 1, 2, 2])
    weight = balanced(task, label)
    np.testing.assert_allclose(np.bincount(label) * weight, [2, 2, 2])


@pytest.mark.parametrize(
    ("target", "answer", "told"),
    [
        ("pitch,loud", "classes", "names 2 columns, but task.answer=classes takes one"),
        ("tags", "numbers", "holds the word 'low', but task.answer=numbers"),
        ("pitch,loudness", "numbers", "'loudness' is no column"),
        ("split", "numbers", "holds the word 'train'"),
        ("item,pitch", "classes", "names 2 columns"),
    ],
)
def test_labels_of_another_kind_are_named(tmp_path, base, target, answer, told):
    many(tmp_path / "d", 8)
    exp = run(tmp_path / "d", task={"answer": answer})
    exp = dataclasses.replace(exp, data=dataclasses.replace(exp.data, target=target))
    with pytest.raises(NeuroFMError, match=told):
        finetune(exp, base, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def spelt(path, n=24):
    """Two or three tones one after the other, spelt by their letters."""
    rng = np.random.default_rng(0)
    info = DatasetInfo(
        kind="audio", sfreq=TINY.sfreq, unit="full_scale", ch_names=("mono",)
    )

    def made():
        for i in range(n):
            word = "".join(rng.choice(list("ab"), 2 + i % 2))
            size = WINDOW // 3
            tones = [np.sin(np.arange(size) * (0.3 if c == "a" else 1.1)) for c in word]
            x = np.concatenate(tones)[None].astype(np.float32)
            x = np.tile(x, 3 if i == 0 else 1)  # one that no window holds
            x += rng.normal(0, 0.1, x.shape).astype(np.float32)
            own = {"split": SPLITS[i % 4], "word": word, "spaced": " ".join(word)}
            yield Recording(item=f"r{i:02d}", samples=0.1 * x, meta=own)

    write_dataset(path, info, made())


@pytest.mark.parametrize(
    ("symbols", "target"),
    [
        ("characters", "word"),
        pytest.param("words", "spaced", marks=pytest.mark.slow),
    ],
)
def test_sequences_come_from_the_data_and_are_scored_by_edits(
    tmp_path, base, symbols, target
):
    spelt(tmp_path / "d")
    task = {"answer": "sequence", "symbols": symbols}
    exp = run(tmp_path / "d", task=task, train={"epochs": 2.0})
    exp = config.override(exp, (f"data.target={target}", "eval.metric=symbol_accuracy"))
    done = finetune(exp, base, tmp_path / "run")
    assert done.scores["metric"] == "error_rate"
    assert 0 <= done.scores["scores"]["model"]["mean"] <= 2
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["task"]
    assert (saved["classes"], saved["length"]) == (["a", "b"], 3)
    counts = labelled.find(
        [open_dataset(tmp_path / "d")],
        Finetune(task=TINY, answer="sequence", classes=("a", "b")).batch_spec(),
        exp.data,
        "train",
    ).counts[0]
    assert counts["too_long"] == 1
    assert done.scores["symbols"] == sum(2 + i % 2 for i in range(3, 24, 4))


def test_without_a_split_to_choose_by_the_run_says_so(tmp_path, base, caplog):
    rng = np.random.default_rng(0)
    info = DatasetInfo(
        kind="audio", sfreq=TINY.sfreq, unit="full_scale", ch_names=("mono",)
    )
    write_dataset(
        tmp_path / "d",
        info,
        [
            Recording(
                item=f"r{i}",
                samples=0.1 * rng.standard_normal((1, WINDOW)).astype(np.float32),
                meta={"split": "train" if i < 4 else "test", "pitch": "ab"[i % 2]},
            )
            for i in range(6)
        ],
    )
    exp = run(tmp_path / "d", train={"epochs": 1.0}, patience=1)
    done = finetune(exp, base, tmp_path / "run")
    assert "no examples in the split valid" in caplog.text
    assert done.scores["split"] == "test"
