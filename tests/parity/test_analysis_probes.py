"""Nested probes and resampling against scikit-learn and slow loops."""

import numpy as np
import pytest
from fixtures import each, load

from neurofm.encoding.scores import correlation, explained
from neurofm.eval import nested, resampling
from neurofm.eval.splits import Fold

probes = each("analysis", keys=("X", "y", "logistic::probabilities", "knn::votes"))


def same(ours, reference, atol=1e-10):
    np.testing.assert_allclose(ours, reference, rtol=1e-8, atol=atol)


def folds(f):
    """Outer folds with their inner ones."""
    outer = f["outer_fold_of_group"][f["group"]]
    made = []
    for n, of_group in enumerate(f["inner_fold_of_group"]):
        inner = of_group[f["group"]]
        within = [
            Fold(
                train=np.flatnonzero((inner >= 0) & (inner != i)),
                test=np.flatnonzero(inner == i),
            )
            for i in np.unique(inner[inner >= 0])
        ]
        out = Fold(train=np.flatnonzero(outer != n), test=np.flatnonzero(outer == n))
        made.append((out, within))
    return made


@probes
def test_logistic_probes_are_those_of_scikit_learn(path):
    f = load(path)
    found = nested.nested("logistic", f["X"], f["y"], folds(f), f["C_grid"].tolist())
    same(found.inner, f["logistic::inner_scores"])
    same(found.chosen, f["logistic::selected_C"])
    same(found.outputs, f["logistic::probabilities"], atol=1e-5)
    np.testing.assert_array_equal(found.outputs.argmax(1), f["logistic::predicted"])
    told = nested.classification(f["y"], found.outputs)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc_ovr"):
        same(told[name], f[f"logistic::{name}"], atol=1e-5)
    train = folds(f)[0][0].train
    fitted = nested.logistic(f["X"][train], f["y"][train], 1.0, int(f["y"].max()) + 1)
    same(fitted.weights.T, f["logistic::coef_fold0_C1"], atol=1e-5)
    same(fitted.bias, f["logistic::intercept_fold0_C1"], atol=1e-5)


@probes
def test_neighbour_probes_are_those_of_the_reference(path):
    f = load(path)
    found = nested.nested("knn", f["X"], f["y"], folds(f), f["k_grid"].tolist())
    same(found.inner, f["knn::inner_scores"])
    same(found.chosen, f["knn::selected_k"])
    same(found.outputs, f["knn::votes"])
    np.testing.assert_array_equal(found.outputs.argmax(1), f["knn::predicted"])


@probes
def test_ridge_probes_are_those_of_scikit_learn(path):
    f = load(path)
    found = nested.nested(
        "ridge", f["X"], f["Y"], folds(f), f["lambda_grid"][::-1].tolist()
    )
    same(found.inner[:, ::-1], f["ridge::inner_negative_mse"])
    same(found.chosen, f["ridge::selected_lambda"])
    same(found.outputs, f["ridge::predicted"])
    same(explained(f["Y"], found.outputs), f["ridge::r2_per_output"])
    same(correlation(f["Y"], found.outputs), f["ridge::pearson_per_output"])
    r2 = nested.explained_beyond_training(f["Y"], found.outputs, folds(f))
    same(r2, f["ridge::r2_against_training_mean"])


@probes
def test_intervals_and_tests_replay_those_of_the_reference(path):
    f = load(path)
    group, drawn = f["group"], f["bootstrap::group_indices"]
    assert resampling.drawn_groups(group, 3).shape == (3, drawn.shape[1])
    right = (f["logistic::predicted"] == f["y"]).astype(float)
    beyond = right - (f["knn::predicted"] == f["y"])

    def replay(score):
        return resampling.bootstrap(score, group, drawn)

    scores = replay(lambda rows: right[rows].mean())
    same(scores, f["bootstrap::logistic_accuracy"])
    interval = resampling.percentiles(scores)
    same(interval, f["bootstrap::logistic_accuracy_interval"])
    scores = replay(lambda rows: beyond[rows].mean())
    same(scores, f["bootstrap::accuracy_difference_logistic_knn"])
    same(resampling.percentiles(scores), f["bootstrap::accuracy_difference_interval"])
    guess = f["ridge::predicted"]
    scores = replay(lambda rows: explained(f["Y"][rows], guess[rows]))
    same(scores, f["bootstrap::ridge_r2"])
    same(resampling.percentiles(scores), f["bootstrap::ridge_r2_interval"])
    means = resampling.group_means(beyond, group)
    same(means, f["paired::group_difference"])
    null = resampling.sign_flips(means, f["paired::signs"])
    same(null, f["paired::null"])
    same(means.mean(), f["paired::statistic"])
    for two, name in ((True, "two"), (False, "one")):
        p = resampling.p_value(means.mean(), null, two)
        assert p == pytest.approx(f[f"paired::p_{name}_sided"], rel=1e-12)
    orders, predicted = f["label_permutation::orders"], f["logistic::predicted"]
    null = np.array([np.mean(predicted == f["y"][order]) for order in orders])
    same(null, f["label_permutation::null_accuracy"])
    p = resampling.p_value(right.mean(), null)
    assert p == pytest.approx(f["label_permutation::p"], rel=1e-12)
