"""Evaluation: examples from tables, vectors from tokens, scores side by side."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from tiny_models import tiny

from neurofm import evaluate, model
from neurofm.contract import InputContract
from neurofm.data.layout import DatasetInfo
from neurofm.data.records import Recording, open_dataset, write_dataset
from neurofm.embed import embed
from neurofm.errors import NeuroFMError
from neurofm.eval.baselines import log_mel_candidates
from neurofm.eval.examples import Examples, from_dataset
from neurofm.eval.features import Tokens, vectors
from neurofm.eval.scores import compare
from neurofm.eval.splits import Fold
from neurofm.eval.untrained import untrained
from neurofm.optim import Optim
from neurofm.report.page import render
from neurofm.signals import mel
from neurofm.step import new_state
from neurofm.suites import entrants, probe

RATE = 1000.0
SPEAKERS = ["ann", "bob", "cy", "dee"]


def write(out, rows, events=(), n=500):
    """A dataset with one recording a row, of noise; `events` by item name."""
    info = DatasetInfo(kind="audio", sfreq=RATE, unit="full_scale", ch_names=("mono",))
    rng = np.random.default_rng(0)
    made = []
    for i, meta in enumerate(rows):
        wave = rng.normal(0, 0.1, (1, n + 7 * i)).astype(np.float32)
        own = [e for item, e in events if item == f"r{i:02d}"]
        made.append(Recording(item=f"r{i:02d}", samples=wave, meta=meta, events=own))
    write_dataset(out, info, made)
    return open_dataset(out)


@pytest.fixture
def spoken(tmp_path):
    """24 recordings of two words by four speakers."""
    rows = [
        {
            "word": ["yes", "no"][i % 2],
            "speaker": SPEAKERS[i // 6],
            "part": ["train", "valid", "test"][i % 3],
            "fold": 1 + i % 4,
            "age": 20.5 + i,
        }
        for i in range(24)
    ]
    return write(tmp_path / "spoken", rows)


@pytest.fixture
def sung(tmp_path):
    """Six recordings of 0.5 s or more with two intervals each."""
    rows = [{"day": f"2{i % 2}", "split": ""} for i in range(6)]
    events = [
        (f"r{i:02d}", {"onset": at, "duration": 0.1, "trial_type": name})
        for i in range(6)
        for at, name in ((0.05, "a"), (0.3, "b"))
    ]
    return write(tmp_path / "sung", rows, events)


# ---- examples


def test_recordings_get_target_groups_and_folds_from_columns(spoken):
    found = from_dataset(spoken, "word", "speaker", "logo")
    assert found.target.tolist() == ["yes", "no"] * 12
    assert found.span is None
    assert [fold.name for fold in found.folds] == SPEAKERS
    assert all(set(found.groups[f.test]) == {f.name} for f in found.folds)


def test_a_column_of_words_splits_and_one_of_numbers_folds(spoken):
    (fold,) = from_dataset(spoken, "word", None, "part").folds
    assert [len(fold.train), len(fold.valid), len(fold.test)] == [8, 8, 8]
    assert len(from_dataset(spoken, "age", None, "fold").folds) == 4


def test_one_value_of_a_column_can_be_tested_alone(spoken):
    (fold,) = from_dataset(spoken, "word", None, "speaker=cy").folds
    assert fold.test.tolist() == list(range(12, 18))
    assert len(fold.train) == 18


def test_numbers_with_a_point_are_regressed_and_whole_ones_are_classes(spoken):
    assert from_dataset(spoken, "age", None, "fold").target.dtype == float
    assert from_dataset(spoken, "fold", None, "part").target.dtype == int


def test_intervals_carry_the_columns_of_their_recording(sung):
    found = from_dataset(sung, None, "item", "day=21")
    assert found.target.tolist() == ["a", "b"] * 6
    np.testing.assert_allclose(found.span[1], [0.3, 0.4])
    assert found.row.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert found.folds[0].test.tolist() == [2, 3, 6, 7, 10, 11]


def test_rows_without_a_target_are_left_out_and_counted(tmp_path, caplog):
    rows = [{"word": None if i == 3 else "ab"[i % 2]} for i in range(8)]
    found = from_dataset(write(tmp_path / "d", rows), "word", None, "kfold:2")
    assert found.row.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert found.left_out["without_target"] == 1
    assert "1 examples left out: without target" in caplog.text


def test_a_stray_class_is_left_out_of_the_test_rows_and_counted(tmp_path):
    rows = [{"word": "ab"[i % 2], "part": "train"} for i in range(10)]
    rows += [{"word": "ab"[i % 2], "part": "test"} for i in range(29)]
    rows += [{"word": "-", "part": "test"}]
    found = from_dataset(write(tmp_path / "d", rows), "word", None, "part")
    assert found.folds[0].test.tolist() == list(range(10, 39))
    assert found.left_out["class_not_in_training"] == 1


def test_a_split_between_classes_is_refused(spoken):
    with pytest.raises(NeuroFMError, match=r"lack \(no\)"):
        from_dataset(spoken, "word", None, "word=no")


def test_a_class_with_one_item_and_a_group_without_a_name_are_told(tmp_path):
    rows = [{"word": "ab"[i % 2], "who": "xyz"[i % 3]} for i in range(24)]
    rows += [{"word": "c", "who": "x"}]
    data = write(tmp_path / "d", rows)
    with pytest.raises(NeuroFMError, match=r"\(c\); .* leave out classes of a single"):
        from_dataset(data, "word", None, "kfold:3")
    rows[3]["who"] = None
    data = write(tmp_path / "e", rows)
    with pytest.raises(NeuroFMError, match="'who' used as groups has no value in 1 of"):
        from_dataset(data, "word", "who", "logo")


@pytest.mark.parametrize(
    ("target", "groups", "split", "message"),
    [
        ("wrod", None, "part", "'wrod' to use as target; did you mean word"),
        (None, None, "part", "no target was named"),
        ("word", "speakers", "logo", "'speakers' to use as groups; did you mean sp"),
        ("word", None, "prat", "'prat' to use as split; did you mean part"),
        ("word", None, "speker=cy", "'speker' to use as split; did you mean sp"),
        ("word", None, "speaker=eve", "meets no row; speaker is one of ann, bob"),
        ("word", None, None, "split column 'split' is blank"),
        ("word", None, "logo", "needs groups"),
        ("word", "speaker", "part", r"4 groups are in training and in test \(ann"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_way_out(
    spoken, target, groups, split, message
):
    with pytest.raises(NeuroFMError, match=message):
        from_dataset(spoken, target, groups, split)


# ---- vectors


def counting(dataset, rows):
    """Tokens every 50 ms from 25 ms on, that hold their number and their row."""
    for row in reversed(rows):
        at = np.arange(10.0)
        values = np.stack([at, np.full(10, float(row))], 1)
        yield row, Tokens({"last": values, "layer_01": -values}, 0.025 + 0.05 * at)


def mean_only(layer):
    return {layer: lambda values, mask: values[mask].mean(0)}


def test_a_recording_is_pooled_whole_in_the_order_of_the_examples(spoken):
    found = vectors(
        counting, mean_only, spoken, from_dataset(spoken, "word", None, "part")
    )
    assert list(found) == ["last", "layer_01"]
    expected = np.stack([np.full(24, 4.5), np.arange(24)], 1)
    np.testing.assert_allclose(found["last"], expected)
    np.testing.assert_allclose(found["layer_01"], -expected)


def test_an_interval_is_pooled_over_the_tokens_whose_centre_it_holds(sung):
    found = vectors(
        counting, mean_only, sung, from_dataset(sung, None, None, "kfold:2")
    )
    # 0.05-0.15 s holds the centres 0.075 and 0.125; 0.3-0.4 s those of tokens 6 and 7.
    np.testing.assert_allclose(found["last"][:4, 0], [1.5, 6.5, 1.5, 6.5])
    np.testing.assert_allclose(found["last"][:4, 1], [0, 0, 1, 1])
    np.testing.assert_allclose(found["last"][:, 2], np.log(0.101), rtol=1e-5)


def test_an_interval_between_two_centres_takes_the_nearest_token(tmp_path):
    event = {"onset": 0.126, "duration": 0.01, "trial_type": "a"}
    data = write(tmp_path / "d", [{}, {}], [("r00", event), ("r01", event)])
    every = np.arange(2)
    span = np.array([[0.126, 0.136]] * 2)
    wanted = Examples(every, span, every, None, every, [], {})
    found = vectors(counting, mean_only, data, wanted)
    np.testing.assert_allclose(found["last"][:, 0], 2)


def test_a_recording_without_tokens_counts_as_zeros(spoken, caplog):
    def silent_third(dataset, rows):
        for row, tokens in counting(dataset, rows):
            n = 0 if row == 3 else 10
            values = {name: x[:n] for name, x in tokens.values.items()}
            yield row, Tokens(values, tokens.times_s[:n])

    wanted = from_dataset(spoken, "word", None, "part")
    found = vectors(silent_third, mean_only, spoken, wanted)
    assert found["last"].shape == (24, 2)
    np.testing.assert_array_equal(found["last"][3], 0)
    assert "1 recordings hold no token" in caplog.text


def test_log_mel_candidates_are_those_of_each_recording(spoken):
    found = log_mel_candidates(spoken, from_dataset(spoken, "word", None, "part"))
    n_samples = spoken.items["n_samples"].to_pylist()
    for row in (0, 5):
        wave = spoken.read(row, 0, n_samples[row])[0]
        level = mel.log_mel(wave, RATE, 40)
        expected = np.concatenate([level.mean(0), level.std(0)])
        np.testing.assert_allclose(found["logmel_mean_std"][row], expected, rtol=1e-4)
        peak = mel.log_mel(wave / np.abs(wave).max(), RATE, 40)
        first = peak[: len(peak) // 8].mean(0) - peak.mean(0)
        np.testing.assert_allclose(
            found["logmel_bins8"][row, :40], first, rtol=1e-3, atol=1e-4
        )


# ---- scores


def labelled(n=60, seed=0, groups=None):
    """Examples of three classes in three folds, and a candidate that tells them."""
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.arange(n) % 3)
    rows = np.arange(n)
    parts = [rows[k::3] for k in range(3)]
    made = [
        Fold(train=np.setdiff1d(rows, part), test=part, name=f"{k}")
        for k, part in enumerate(parts)
    ]
    clusters = rows if groups is None else groups
    wanted = Examples(rows, None, target, groups, clusters, made, {})
    told = np.eye(3)[target] + 0.01 * rng.normal(size=(n, 3))
    return wanted, told, rng.normal(size=(n, 4))


def test_what_tells_the_classes_scores_1_and_noise_scores_at_chance():
    wanted, told, noise = labelled(n=300)
    found = compare({"model": [{"a": noise, "b": told}]}, {"noise": noise}, wanted)
    scores = found["scores"]
    assert scores["model"]["mean"] == 1
    assert scores["model"]["n"] == 300
    assert scores["model"]["folds"] == {"0": 1, "1": 1, "2": 1}
    assert [one["candidate"] for one in scores["model"]["chosen"][0]] == ["b"] * 3
    assert abs(scores["noise"]["mean"] - 1 / 3) < 0.1
    assert abs(scores["chance"]["mean"] - 1 / 3) < 0.1


def test_the_best_baseline_is_chosen_without_the_test_rows():
    wanted, told, noise = labelled()
    half = told.copy()
    wanted = Examples(
        wanted.row,
        None,
        wanted.target,
        None,
        wanted.row,
        [Fold(train=wanted.row[:30], valid=wanted.row[30:45], test=wanted.row[45:])],
        {},
    )
    half[:45] = noise[:45, :3]  # tells the classes of test rows only
    decent = told + np.random.default_rng(1).normal(size=told.shape)
    found = compare({}, {"leak": half, "decent": decent}, wanted)["scores"]
    assert found["baseline"]["chosen"][0][0]["candidate"] == "decent"
    assert found["baseline"]["mean"] == found["decent"]["mean"]


def test_seeds_are_averaged_and_differences_are_paired():
    wanted, told, noise = labelled()
    systems = {"model": [{"a": told}, {"a": noise}], "untrained": [{"a": noise}]}
    pairs = [("model", "untrained"), ("model", "gone")]
    found = compare(systems, {}, wanted, pairs)
    one, other = found["scores"]["model"], found["scores"]["untrained"]
    assert one["seeds"][0] == 1
    assert one["seeds"][1] == other["mean"]
    assert one["mean"] == pytest.approx((1 + other["mean"]) / 2)
    (name,) = found["differences"]
    gap = found["differences"][name]
    assert name == "model-untrained"
    assert gap["mean"] == pytest.approx(one["mean"] - other["mean"])
    # Item by item, the difference is half of what the noise gets wrong.
    assert gap["low"] == pytest.approx((1 - other["high"]) / 2, abs=0.02)
    assert gap["high"] == pytest.approx((1 - other["low"]) / 2, abs=0.02)


def test_intervals_are_drawn_over_groups_and_say_so():
    groups = np.arange(60) // 15
    wanted, told, noise = labelled(groups=groups)
    half = np.where(groups[:, None] < 2, told, noise[:, :3])  # two groups are easy
    found = {
        over: compare({}, {"half": half}, dataclasses.replace(wanted, **fields))
        for over, fields in (
            ("groups", {}),
            ("recordings", {"groups": None, "clusters": wanted.row}),
        )
    }
    assert all(result["over"] == over for over, result in found.items())
    score = {over: result["scores"]["half"] for over, result in found.items()}
    width = {over: one["high"] - one["low"] for over, one in score.items()}
    assert width["groups"] > 1.5 * width["recordings"]


def test_a_single_tested_group_gives_intervals_over_recordings(spoken):
    wanted = from_dataset(spoken, "word", "speaker", "speaker=cy")
    found = compare({}, log_mel_candidates(spoken, wanted), wanted)
    assert found["over"] == "recordings"


# ---- the whole

CONTRACT = InputContract(
    kind="audio",
    sfreq=RATE,
    unit="full_scale",
    n_chans=1,
    window_samples=300,
    hop_samples=50,
    receptive_samples=50,
)


def test_items_that_pretraining_saw_mark_the_score_as_transductive(spoken):
    wanted = from_dataset(spoken, "word", None, "part")
    digests = spoken.items["sha256"].to_pylist()
    seen = frozenset([digests[2], digests[5], digests[0]])  # two tested, one trained on
    entrant = entrants.Entrant(counting, None, CONTRACT, "fake", seen)
    score = probe.score_probe([entrant], spoken, wanted)[0]["scores"]
    assert score["model"]["transductive"] is True
    assert score["model"]["n_transductive"] == 2
    assert "transductive" not in score["baseline"]
    assert "untrained" not in score


def test_untrained_is_the_network_at_step_zero_of_the_run():
    trained = tiny()
    run = model.Model(trained.task, trained.variables, {"config": {"seed": 11}})
    batch = {
        name: jnp.ones(x.shape, x.dtype)
        for name, x in model.abstract_batch(run.task, 2).items()
    }
    first = jax.jit(lambda key, batch: new_state(run.task, Optim(), 5, key, batch, {}))
    state = first(jax.random.key(11), batch)
    found = untrained(run)
    same = jax.tree.map(
        lambda a, b: np.allclose(a, b, atol=1e-6),
        found.variables["params"],
        state["params"],
    )
    assert all(jax.tree.leaves(same))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty-four sounds of two pitches, and a saved model."""
    at = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    (at / "audio").mkdir()
    lines = ["file\tpitch\tspeaker"]
    for i in range(24):
        hz = (60, 150)[i % 2] * rng.uniform(0.9, 1.1)
        t = np.arange(300 + 20 * i) / 800
        wave = 0.3 * np.sin(2 * np.pi * hz * t) + 0.05 * rng.normal(size=len(t))
        soundfile.write(at / "audio" / f"{i:02d}.wav", wave, 800)
        lines.append(f"{i:02d}.wav\t{('low', 'high')[i % 2]}\t{SPEAKERS[i // 6]}")
    (at / "audio" / "labels.tsv").write_text("\n".join(lines) + "\n")
    one = tiny()
    model.save(at / "model", one.task, one.variables, {"source": "test"})
    return at


def test_a_folder_of_sounds_is_prepared_scored_and_reported(folder, tmp_path):
    asked = {"target": "pitch", "groups": "speaker", "split": "logo"}
    result = evaluate.evaluate(
        [folder / "model"],
        data=folder / "audio",
        labels=folder / "audio" / "labels.tsv",
        out=tmp_path / "out",
        **asked,
    )
    scores = result["scores"]
    names = {"model", "untrained", "baseline", "chance"}
    assert set(scores) == names | {"logmel_mean_std", "logmel_bins8"}
    assert all({"mean", "std", "n", "low", "high"} <= set(s) for s in scores.values())
    assert scores["baseline"]["mean"] == 1  # two pitches: log-mel cannot miss them
    assert scores["chance"]["mean"] == 0.5
    assert result["metric"] == "accuracy"
    assert result["over"] == "groups"
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == result
    assert "logmel_mean_std" in (tmp_path / "out" / "report.html").read_text()

    again = evaluate.evaluate(
        [folder / "model"],
        data=tmp_path / "out" / "records",
        out=tmp_path / "b",
        **asked,
    )
    assert again["scores"] == scores


def test_a_step_of_a_run_brings_what_its_workdir_says_it_saw(folder, tmp_path):
    (tmp_path / "pretrained_on.txt").write_text("c0ffee\nbeef\n")
    step = tmp_path / "checkpoints" / "9"
    one = model.load(folder / "model")
    model.save(step, one.task, one.variables, {})
    assert entrants.entrant(step).seen == {"c0ffee", "beef"}
    assert entrants.entrant(folder / "model").seen == frozenset()


def test_stored_embeddings_score_as_the_model_that_made_them(folder, tmp_path):
    asked = {"target": "pitch", "split": "kfold:2"}
    made = evaluate.evaluate(
        [folder / "model"],
        data=folder / "audio",
        labels=folder / "audio" / "labels.tsv",
        out=tmp_path / "out",
        **asked,
    )
    records = tmp_path / "out" / "records"
    embed(model.load(folder / "model"), [records], tmp_path / "e", layers="all")
    found = evaluate.evaluate(
        [tmp_path / "e"], data=records, out=tmp_path / "b", **asked
    )
    assert found["scores"]["model"] == made["scores"]["model"]
    assert "untrained" not in found["scores"]
    assert found["split_sha256"] == made["split_sha256"]

    asked["split"] = str(tmp_path / "b" / "split.json")
    more = evaluate.evaluate(
        [tmp_path / "e"],
        data=records,
        out=tmp_path / "c",
        probe="logistic",
        label_counts=[3, 5, 99],
        **asked,
    )
    assert more["split_sha256"] == made["split_sha256"]
    assert more["scores"]["chance"] == made["scores"]["chance"]
    chosen = more["scores"]["model"]["chosen"][0]
    assert {choice["kind"] for choice in chosen} == {"logistic"}
    curve = more["over_labels"]["baseline"]
    assert [point["labels"] for point in curve] == [3, 5]
    assert all(point["low"] <= point["mean"] <= point["high"] for point in curve)
    assert "Score over labels" in (tmp_path / "c" / "report.html").read_text()
    page = render([tmp_path / name for name in "bc"], tmp_path / "pair.md").read_text()
    assert "| b - c, pitch, accuracy |" in page
    assert "| baseline, 3 labels |  | " in page


def test_what_is_no_suite_model_or_label_is_refused(folder, tmp_path, spoken):
    def refused(message, given=(folder / "model",), data=folder / "audio", **options):
        with pytest.raises(NeuroFMError, match=message):
            evaluate.evaluate(given, data=data, out=tmp_path / "out", **options)

    refused("no suite is called 'prob': did you mean probe", suite="prob")
    refused("nothing was given", given=())
    refused("holds no model", given=[tmp_path])
    other = tiny(depth=3)
    model.save(tmp_path / "other", other.task, other.variables, {})
    refused("not seeds of one system", given=[folder / "model", tmp_path / "other"])
    embed(model.load(tmp_path / "other"), [folder / "audio" / "00.wav"], tmp_path / "e")
    refused("not seeds of one system", given=[folder / "model", tmp_path / "e"])
    refused(
        "labels cannot be given here",
        data=spoken.path,
        labels=folder / "audio" / "labels.tsv",
    )


def test_a_mistake_in_the_question_is_found_first_and_leaves_nothing(
    folder, tmp_path, spoken, monkeypatch
):
    """Before any network is initialised, which takes a large one minutes."""
    monkeypatch.setattr(entrants, "untrained", lambda model: pytest.fail("too early"))
    for wrong in ({"target": "wrod"}, {"target": "word", "split": "kfold:99"}):
        with pytest.raises(NeuroFMError):
            evaluate.evaluate(
                [folder / "model"], data=spoken.path, out=tmp_path / "out", **wrong
            )
    assert not (tmp_path / "out").exists()


def test_embeddings_that_do_not_fit_the_question_are_refused(folder, tmp_path, sung):
    one = model.load(folder / "model")
    audio = folder / "audio" / "00.wav"
    embed(one, [audio], tmp_path / "pooled", pool="mean")

    def refused(message, given, data, **options):
        with pytest.raises(NeuroFMError, match=message):
            evaluate.evaluate([given], data=data, out=tmp_path / "out", **options)

    split = {"split": "kfold:2"}
    refused("pooled over recordings", tmp_path / "pooled", sung.path, **split)
    refused("lacks 6 of 6", tmp_path / "pooled", sung.path, target="day", **split)
