"""HEAR's folders, scores, events and network against the official kit."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import ROOT, each, find, load

from neurofm.analysis.hear import events, mlp, scores, search, tasks

SCORED = ("*::target", "*::score::mAP")


def same(ours, reference):
    np.testing.assert_allclose(ours, reference, rtol=1e-8, atol=1e-10)


def under(f, prefix):
    return {k[len(prefix) :]: v for k, v in f.items() if k.startswith(prefix)}


def told():
    """The JSON files that hold what the kit made of the folders, with their tasks."""
    for path in sorted((ROOT / "analysis").rglob("*.json")):
        value = json.loads(path.read_text())
        if "grid_points_seed42" in value:
            found = [
                t for p in path.parent.iterdir() if p.is_dir() for t in tasks.tasks(p)
            ]
            yield value, found


@each("analysis", keys=SCORED)
def test_scene_scores_are_those_of_the_kit(path):
    f = load(path)
    n = 0
    for key in f:
        case, _, name = key.partition("::score::")
        if name in scores.SCENE:
            got = scores.score(name, f[f"{case}::target"], f[f"{case}::prediction"])
            same(got, f[key])
            n += 1
    assert n


@each("analysis", keys=(*SCORED, "*::aggregated::*"))
def test_folds_are_aggregated_as_by_the_kit(path):
    f = load(path)
    for case in {k.partition("::aggregated::")[0] for k in f if "::aggregated::" in k}:
        by_fold: dict[str, dict[str, float]] = {}
        for key, value in f.items():
            if found := re.fullmatch(rf"{case}::(fold\w+)::score::(.+)", key):
                by_fold.setdefault(found[1], {})[f"test_{found[2]}"] = float(value)
        got = scores.aggregated([by_fold[name] for name in sorted(by_fold)])
        expected = under(f, f"{case}::aggregated::")
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            same(got[name], value)


@each("analysis", keys=("events_hop*::timestamp_ms", "events_hop*::frame_labels"))
def test_events_and_their_scores_are_those_of_the_kit(path):
    f = load(path)
    for expected, found in told():
        for case in expected["events"]:
            check_events(f, case, expected["events"][case], found)


def check_events(f, case, expected, found):
    chosen = {}
    for split in [s for s in expected if not s.startswith("selected")]:
        part = under(f, f"{case}::{split}::")
        size = part["frame_labels"].shape[1], len(np.unique(part["file_index"]))
        (task,) = (
            t
            for t in found
            if t.kind == "event" and size == (len(t.labels), len(t.answers[split]))
        )
        truth, rows = task.answers[split], part["file_index"]
        frames = {
            file: (part["prediction"][rows == i], part["timestamp_ms"][rows == i])
            for i, file in enumerate(truth)
        }
        for i, file in enumerate(truth):
            on = events.frame_labels(truth[file], frames[file][1], task.labels)
            np.testing.assert_array_equal(on, part["frame_labels"][rows == i])
        predicted = {}
        for words, of in expected[split].items():
            median, shortest = (float(w.partition("=")[2]) for w in words.split(","))
            predicted[shortest] = {
                file: events.from_frames(*given, task.labels, shortest, median)
                for file, given in frames.items()
            }
            for file, given in of["predicted_events"].items():
                assert [e._asdict() for e in predicted[shortest][file]] == given
            got: dict[str, float] = {}
            for name in task.scores:
                got |= events.score(name, truth, predicted[shortest])
            reference = under(part, f"{words}::score::")
            assert got.keys() == reference.keys()
            for name, value in reference.items():
                same(got[name], value)
        chosen[split] = events.best_duration(task.scores[0], truth, predicted)
    assert chosen["valid"] == f[f"{case}::selected_min_duration"]


@each("analysis", keys=("events_nothing_predicted::score::*",))
def test_without_predictions_a_score_is_undefined_as_in_the_kit(path):
    reference = under(load(path), "events_nothing_predicted::score::")
    truth = {"a": [events.Event("x", 30.0, 520.0)]}
    for name in reference:
        if re.fullmatch(r".*_fms|segment_\d+s_er", name):
            for part, value in events.score(name, truth, {"a": []}).items():
                same(value, reference[part])


def test_folders_are_split_and_searched_as_by_the_kit():
    n = 0
    for expected, found in told():
        grid = [config._asdict() for config in search.GRID]
        assert grid == expected["grid_points_seed42"]
        for key, value in expected.items():
            if isinstance(value, dict) and "data_splits" in value:
                splits = [
                    {name: list(part) for name, part in fold._asdict().items()}
                    for task in found
                    if set(task.splits) == set(value["per_fold"])
                    for fold in task.folds
                ]
                assert splits == value["data_splits"], key
                n += 1
    assert n or not find("analysis", ("mlp_*::x",))


NETWORK = ("mlp_*::x", "mlp_*::param::projection.weight")


@each("analysis", keys=NETWORK)
@pytest.mark.parametrize("x64", [True, False])
def test_the_network_computes_what_that_of_the_kit_computes(path, x64):
    f = load(path)
    for case in {k.partition("::")[0] for k in f if re.match(r"mlp_.*::x$", k)}:
        with jax.enable_x64(x64):
            check_network(under(f, f"{case}::"), "multilabel" in case, x64)


def check_network(f, multilabel, exact):
    tolerance = {"rtol": 1e-8, "atol": 1e-10} if exact else {"rtol": 1e-4, "atol": 1e-5}

    def close(ours, reference):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, reference
        )

    params = ours(under(f, "param::"))
    stats = running(under(f, "param::"))
    x, y = jnp.asarray(f["x"]), jnp.asarray(f["y"])
    out = mlp.logits(params, stats, x)
    close(out, f["eval_logits"])
    close(mlp.probabilities(out, multilabel), f["eval_prediction"])
    # Padding changes nothing.
    x, y = (jnp.concatenate([a, 7 * a[:3]]) for a in (x, y))
    counted = jnp.arange(len(x)) < len(f["x"])

    def objective(params):
        out, moved = mlp.training_logits(params, stats, x, counted)
        return mlp.loss(out, y, counted, multilabel), moved

    (value, moved), grads = jax.value_and_grad(objective, has_aux=True)(params)
    close(value, f["train_loss_no_dropout"])
    close(grads, ours(under(f, "grad::")))
    close(moved, running(under(f, "buffer_after_one_step::")))


def ours(official):
    """Official names in our layout."""
    numbers = {int(k.split(".")[1]) for k in official if k.startswith("hidden.")}
    layers = []
    for n in sorted(n for n in numbers if official[f"hidden.{n}.weight"].ndim == 2):
        layer = {
            "weight": jnp.asarray(official[f"hidden.{n}.weight"].T),
            "bias": jnp.asarray(official[f"hidden.{n}.bias"]),
            "gain": jnp.asarray(official[f"hidden.{n + 1}.weight"]),
            "offset": jnp.asarray(official[f"hidden.{n + 1}.bias"]),
        }
        layers.append(layer)
    last = {
        "weight": jnp.asarray(official["projection.weight"].T),
        "bias": jnp.asarray(official["projection.bias"]),
    }
    return {"layers": [*layers, last]}


def running(official):
    names = sorted(k for k in official if k.endswith("running_mean"))
    return [
        {
            "mean": jnp.asarray(official[name]),
            "var": jnp.asarray(official[name.replace("_mean", "_var")]),
        }
        for name in names
    ]
