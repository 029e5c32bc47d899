"""HEAR's scorer against a slow reference, on a made-up task of each type."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hear_tasks import happenings, scenes, tags
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.analysis.hear import events, mlp, scores, search, tasks
from neurofm.analysis.hear.events import Event
from neurofm.analysis.hear.search import Protocol
from neurofm.errors import NeuroFMError
from neurofm.suites.hear import embedded

GRID = (search.GRID[1], search.GRID[6])  # one learns slowly, one fast
QUICK = Protocol(tuple(c._replace(hidden_dim=16) for c in GRID), 40, 5)
STEP_MS = 50.0


def reader(noise=0.3, width=6, seconds=4.0):
    """Embeddings that hold the labels, and noise."""

    def read(task, split):
        rng = np.random.default_rng(list(split.encode()))
        n = len(task.labels)
        turn = np.random.default_rng(5).normal(size=(n, width))
        at = STEP_MS * (np.arange(round(1000 * seconds / STEP_MS)) + 0.5)
        for answer in task.answers[split].values():
            if task.kind == "scene":
                on = np.array([[label in answer for label in task.labels]], float)
            else:
                on = slow_frames(answer, at, task.labels)
            x = on @ turn + noise * rng.normal(size=(len(on), width))
            yield x.astype(np.float32), at[: len(x)]

    return read


def splits(task, **options):
    return {s: embedded(task, s, reader(**options)) for s in task.splits}


# ---- the slow reference


def slow_frames(found, at, labels):
    out = np.zeros((len(at), len(labels)))
    for (t, time), (k, label) in itertools.product(enumerate(at), enumerate(labels)):
        out[t, k] = any(
            e.label == label and e.start <= time < e.end + 1e-4 for e in found
        )
    return out


def slow_predict(network, x, multilabel):
    """One item after the other, in numpy, by running statistics."""
    params, stats = jax.tree.map(np.asarray, network)
    out = []
    for row in x.astype(np.float64):
        for layer, known in itertools.zip_longest(params["layers"], stats):
            row = row @ layer["weight"] + layer["bias"]
            if known is not None:
                row = (row - known["mean"]) / np.sqrt(known["var"] + 1e-5)
                row = np.maximum(row * layer["gain"] + layer["offset"], 0)
        e = np.exp(-row) if multilabel else np.exp(row - row.max())
        out.append(1 / (1 + e) if multilabel else e / e.sum())
    return np.array(out)


def slow_precision(target, prediction):
    """Area under precision over recall, threshold by threshold."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(prediction), reverse=True):
        chosen = prediction >= threshold
        recall = target[chosen].sum() / target.sum()
        area += (recall - recall_before) * target[chosen].mean()
        recall_before = recall
    return area


def slow_auc(target, prediction):
    """Share of pairs in the right order, ties half."""
    pairs = itertools.product(prediction[target > 0], prediction[target == 0])
    return np.mean([(p > n) + (p == n) / 2 for p, n in pairs])


def slow_events(prediction, at, labels, shortest):
    found, half = [], round(250 / STEP_MS) // 2
    for k, label in enumerate(labels):
        padded = np.pad(prediction[:, k], half, "symmetric")
        smooth = [np.median(padded[t : t + 2 * half + 1]) for t in range(len(at))]
        run = []
        for t, value in [*enumerate(smooth), (len(at), 0)]:
            if value > 0.5:
                run.append(at[t])
                continue
            if run and run[-1] - run[0] >= shortest:
                found.append(Event(label, run[0], run[-1]))
            run = []
    return found


def slow_f(reference, predicted, collar):
    """The most one-to-one matches, by trying all orders of the predictions."""
    right = n = 0
    for file in reference:
        n += len(reference[file]) + len(predicted[file])
        for label in {e.label for e in reference[file]}:
            ours = [e for e in predicted[file] if e.label == label]
            theirs = [e for e in reference[file] if e.label == label]
            right += most(theirs, ours, collar)
    return 2 * right / n


def most(theirs, ours, collar):
    if not theirs:
        return 0
    first, *others = theirs
    best = most(others, ours, collar)
    for i, one in enumerate(ours):
        if abs(one.start - first.start) <= collar:
            best = max(best, 1 + most(others, ours[:i] + ours[i + 1 :], collar))
    return best


def slow_error_rate(reference, predicted):
    wrong = active = 0
    for file in reference:
        for second in range(10):
            low, high = 1000 * second, 1000 * (second + 1)

            def touching(found, low=low, high=high):
                return {e.label for e in found if e.start < high and e.end > low}

            r, p = touching(reference[file]), touching(predicted[file])
            fn, fp = len(r - p), len(p - r)
            wrong += min(fn, fp) + max(0, fn - fp) + max(0, fp - fn)
            active += len(r)
    return wrong / active


# ---- a task of each type


def networks(task, given, monkeypatch):
    """Scores of a task, and the networks that were tested."""
    kept, test = [], search._test

    def spy(task, split, one):
        kept.append(one)
        return test(task, split, one)

    monkeypatch.setattr(search, "_test", spy)
    return search.evaluate(task, given, QUICK), kept


@pytest.mark.parametrize("make", [scenes, tags])
def test_scenes_score_as_the_slow_reference(tmp_path, make, monkeypatch):
    task = tasks.read(make(tmp_path / "task"))
    given = splits(task)
    found, kept = networks(task, given, monkeypatch)
    several = task.prediction == "multilabel"
    for fold, one in zip(task.folds, kept, strict=True):
        (name,) = fold.test
        y = np.array(
            [[lab in a for lab in task.labels] for a in task.answers[name].values()],
            float,
        )
        p = slow_predict(one.state, given[name].x, several)
        columns = [(y[:, k], p[:, k]) for k in range(y.shape[1])]
        expected = {
            "test_mAP": np.mean([slow_precision(*c) for c in columns]),
            "test_aucroc": np.mean([slow_auc(*c) for c in columns]),
            "test_top1_acc": np.mean(y.argmax(1) == p.argmax(1)),
        }
        for score, value in found["per_fold"][name].items():
            if score in expected:
                assert value == pytest.approx(expected[score], rel=1e-6), score
    first = f"test_{task.scores[0]}"
    of_folds = [fold[first] for fold in found["per_fold"].values()]
    assert np.mean(of_folds) > 0.6  # the labels are in the embeddings
    if len(of_folds) > 1:
        told = found["aggregated_scores"]
        assert told[f"{first}_std"] == pytest.approx(np.std(of_folds, ddof=1))


def test_events_score_as_the_slow_reference(tmp_path, monkeypatch):
    task = tasks.read(happenings(tmp_path / "task"))
    given = splits(task)
    found, (one,) = networks(task, given, monkeypatch)
    times, predicted, first = given["test"].times, {}, 0
    p = slow_predict(one.state, given["test"].x, True)
    for file, at in times.items():
        part = p[first : first + len(at)]
        predicted[file] = slow_events(part, at, task.labels, one.min_duration)
        first += len(at)
    truth = task.answers["test"]
    told = found["per_fold"]["test"]
    expected = slow_f(truth, predicted, 200)
    assert told["test_event_onset_200ms_fms"] == pytest.approx(expected, rel=1e-6)
    assert expected > 0.5
    expected = slow_error_rate(truth, predicted)
    assert told["test_segment_1s_er"] == pytest.approx(expected, rel=1e-6)


# ---- its parts


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_class_scores_are_those_of_the_slow_reference(data):
    n = data.draw(st.integers(2, 9))
    draw = lambda of: np.array(data.draw(st.lists(of, min_size=n, max_size=n)))  # noqa: E731
    target, prediction = draw(st.integers(0, 1)), draw(st.integers(0, 4)) / 4
    if target.sum() > 0:
        got = scores.average_precision(target[:, None], prediction[:, None])
        assert got[0] == pytest.approx(slow_precision(target, prediction))
    if 0 < target.sum() < n:
        got = scores.auc(target[:, None], prediction[:, None])
        assert got[0] == pytest.approx(slow_auc(target, prediction))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 12), max_size=5), st.lists(st.integers(0, 12), max_size=5)
)
def test_events_are_matched_one_to_one_as_often_as_can_be(a, b):
    theirs, ours = ([Event("x", 100.0 * s, 100.0 * s + 50) for s in x] for x in (a, b))
    got = events.f_measure({"f": theirs}, {"f": ours}, 200.0)
    right = most(theirs, ours, 200.0)
    if a and b:
        assert got["f_measure"] == pytest.approx(2 * right / (len(a) + len(b)))
        assert got["recall"] == pytest.approx(right / len(a))
    else:
        assert np.isnan(got["f_measure"])


@pytest.mark.parametrize("how", ["xavier_uniform", "xavier_normal"])
def test_fresh_weights_have_the_spread_of_their_gains(how):
    config = mlp.Config(2, 1e-3, how, hidden_dim=400)
    params, _ = mlp.init(jax.random.key(0), config, 300, 90)
    sizes = [(300, 400, 1.0), (400, 400, 2.0), (400, 90, 2.0)]
    for layer, (a, b, gain) in zip(params["layers"], sizes, strict=True):
        weight = np.asarray(layer["weight"])
        assert weight.var() == pytest.approx(gain * 2 / (a + b), rel=0.05)
        assert abs(weight).max() > (3 if how == "xavier_normal" else 1) * weight.std()
        assert abs(np.asarray(layer["bias"])).max() <= 1 / np.sqrt(a)


def test_dropout_leaves_out_one_in_ten_and_keeps_the_mean():
    config = mlp.Config(1, 1e-3, "xavier_normal", hidden_dim=2000)
    params, stats = mlp.init(jax.random.key(0), config, 5, 3)
    params["layers"][0] |= {"gain": 0 * params["layers"][0]["gain"]}
    params["layers"][0]["offset"] += 1.0  # every hidden unit says 1
    params["layers"][1] = {"weight": np.ones((2000, 3)) / 2000, "bias": np.zeros(3)}
    x, counted = np.random.default_rng(0).normal(size=(7, 5)), np.ones(7, bool)
    given = params, stats, jax.numpy.asarray(x), jax.numpy.asarray(counted)
    out, _ = mlp.training_logits(*given, 0.1, jax.random.key(1))
    np.testing.assert_allclose(out, 1, atol=0.04)
    assert np.unique(np.asarray(out)).size > 1


def test_an_epoch_sees_every_item_once_however_batches_fall(monkeypatch):
    monkeypatch.setattr(mlp, "BATCH", 4)
    rows, counted = mlp._batches(jax.random.key(0), 10)
    assert rows.shape == (3, 4)
    assert sorted(np.asarray(rows)[np.asarray(counted)].tolist()) == [*range(10)]


def test_a_class_without_positives_is_counted_and_not_dropped():
    target = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    prediction = np.array([[0.9, 0.2, 0.1], [0.2, 0.1, 0.3], [0.8, 0.3, 0.2]])
    told = scores.undefined(target, prediction)
    assert told == {"without_positives": 1, "without_auc": 1, "infinite_d_prime": 2}
    assert scores.score("mAP", target, prediction) == pytest.approx((1 + 1 / 3) / 3)
    assert np.isnan(scores.score("aucroc", target, prediction))


# ---- folders


def edit(name, **values):
    def change(folder):
        told = json.loads((folder / name).read_text())
        told.update(values)
        (folder / name).write_text(json.dumps(told))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: (f / "task_metadata.json").unlink(),
            "task_metadata.json is missing",
        ),
        (
            lambda f: (f / "labelvocabulary.csv").unlink(),
            "labelvocabulary.csv is missing",
        ),
        (lambda f: (f / "valid.json").unlink(), "valid.json is missing"),
        (
            lambda f: (f / "valid.json").write_text("{"),
            "valid.json is missing or damaged",
        ),
        (edit("task_metadata.json", embedding_type="sequence"), "'sequence'"),
        (edit("task_metadata.json", splits=["train", "test"]), "train, valid and test"),
        (edit("test.json", **{"new.wav": ["d"]}), "new.wav has the label 'd'"),
        (edit("test.json", **{"new.wav": ["a", "b"]}), "new.wav has 2 labels"),
        (edit("test.json", **{"new.wav": 3}), "new.wav has the label '3'"),
    ],
)
def test_a_damaged_task_folder_is_one_sentence(tmp_path, change, words):
    folder = scenes(tmp_path / "task")
    change(folder)
    with pytest.raises(NeuroFMError, match=words):
        tasks.tasks(folder)


def test_a_class_that_only_the_test_holds_is_refused(tmp_path):
    folder = scenes(tmp_path / "task")
    rows = (folder / "labelvocabulary.csv").read_text()
    (folder / "labelvocabulary.csv").write_text(f"{rows}\n3,d")
    edit("test.json", **{"test0.wav": ["d"]})(folder)
    with pytest.raises(NeuroFMError, match=r"'d' \(1 item in all\) is tested in test"):
        tasks.read(folder)


def test_sound_that_is_missing_is_told_with_the_rates_there_are(tmp_path):
    task = tasks.read(scenes(tmp_path / "task", seconds=0.1))
    (tmp_path / "task/16000 old").mkdir()
    assert task.audio("test", "test0.wav", 32000).parts[-3] == "16000"
    (tmp_path / "task/16000/test/test0.wav").unlink()
    with pytest.raises(
        NeuroFMError, match=r"lacks the sound of test/test0.wav .*16000"
    ):
        task.audio("test", "test0.wav", 16000)


@given(st.integers(3, 9))
def test_every_fold_is_tested_once_and_the_next_one_chosen_on(n):
    names = [f"fold{i}" for i in range(n)]
    made = tasks.folds(Path("task"), "new_split_kfold", names)
    assert [fold.test[0] for fold in made] == names
    assert [fold.valid[0] for fold in made] == [*names[1:], names[0]]
    for fold in made:
        assert sorted([*fold.train, *fold.valid, *fold.test]) == names
