"""Probes that are chosen within, and probes of few labels."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from neurofm.errors import NeuroFMError
from neurofm.eval import nested
from neurofm.eval.examples import Examples
from neurofm.eval.label_counts import curves, few
from neurofm.eval.splits import Fold, inner_folds


def blobs(n=60, noise=1.0, seed=0):
    """Three classes of unlike size, and features that tell them."""
    rng = np.random.default_rng(seed)
    target = np.sort(np.r_[np.arange(n) % 3, np.zeros(n // 3, int)])
    target = np.array(["a", "b", "c"])[rng.permutation(target)]
    told = np.eye(3)[np.searchsorted(["a", "b", "c"], target)]
    x = told @ rng.normal(size=(3, 5)) + noise * rng.normal(size=(len(target), 5))
    rows = np.arange(len(target))
    fold = Fold(train=rows[rows % 4 > 1], valid=rows[rows % 4 == 1], test=rows[::4])
    return target, x, fold


def test_a_logistic_probe_is_chosen_on_validation_and_fitted_on_all_known():
    target, x, fold = blobs()
    noise = np.random.default_rng(1).normal(size=x.shape)
    found = nested.fit("logistic", {"noise": noise, "x": x}, target, fold)
    assert found.choice.candidate == "x"

    def accuracy(train, test, c):
        scale = StandardScaler().fit(x[train])
        model = LogisticRegression(C=c, solver="newton-cg", tol=1e-8)
        model.fit(scale.transform(x[train]), target[train])
        return model, np.mean(model.predict(scale.transform(x[test])) == target[test])

    grid = nested.GRIDS["logistic"]
    by_setting = [accuracy(fold.train, fold.valid, c)[1] for c in grid]
    assert found.choice.score == pytest.approx(max(by_setting))
    assert found.choice.setting == grid[int(np.argmax(by_setting))]
    known = np.concatenate([fold.train, fold.valid])
    model, score = accuracy(known, fold.test, found.choice.setting)
    assert found.score == pytest.approx(score)
    scale = StandardScaler().fit(x[known])
    expected = model.predict(scale.transform(x[fold.test]))
    assert found.prediction.tolist() == expected.tolist()


def test_test_rows_change_no_choice():
    target, x, fold = blobs()
    fold = Fold(train=np.concatenate([fold.train, fold.valid]), test=fold.test)
    moved = x.copy()
    moved[fold.test] += 9
    for kind in ("logistic", "knn"):
        one, other = (nested.fit(kind, {"x": z}, target, fold) for z in (x, moved))
        assert one.choice == other.choice


def test_ridge_of_numbers_is_chosen_by_inner_folds_of_groups():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    y = x @ rng.normal(size=6) + rng.normal(size=40)
    groups = np.arange(40) // 5
    fold = Fold(train=np.arange(30), test=np.arange(30, 40))
    found = nested.fit("ridge", {"x": x}, y, fold, groups)
    errors = []
    for penalty in nested.GRIDS["ridge"]:
        each = []
        for inner in inner_folds(fold.train, groups):
            fitted = nested.ridge(x[inner.train], y[inner.train][:, None], penalty)
            guess = fitted.outputs(x[inner.test])[:, 0]
            each.append(np.mean((guess - y[inner.test]) ** 2))
        errors.append(np.mean(each))
    assert found.choice.setting == nested.GRIDS["ridge"][int(np.argmin(errors))]
    assert found.score > 0.5


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_a_probe_of_another_kind_of_target_is_refused(kind):
    target, x, fold = blobs()
    numbers = np.arange(len(x), dtype=float)
    with pytest.raises(NeuroFMError, match="and the target holds others"):
        nested.fit(kind, {"x": x}, target if kind == "ridge" else numbers, fold)


def test_few_labels_are_so_many_a_class_and_part_of_more():
    target, _, fold = blobs()
    known = {*fold.train.tolist(), *fold.valid.tolist()}
    small, large = (few(fold, target, n, seed=3) for n in (4, 9))
    assert {*small.train.tolist()} < {*large.train.tolist()} < known
    assert np.unique(target[small.train], return_counts=True)[1].tolist() == [4, 4, 4]
    assert not len(small.valid)
    assert small.test is fold.test
    assert few(fold, target, 4, seed=4).train.tolist() != small.train.tolist()
    numbers = few(fold, np.arange(len(target), dtype=float), 7, seed=0)
    assert len(numbers.train) == 7


def test_more_labels_tell_more_and_chance_stays(caplog):
    target, x, fold = blobs(n=240, noise=1.0)
    every = np.arange(len(target))
    examples = Examples(every, None, target, None, every, [fold], {})
    found = curves({"model": [{"x": x}]}, {"base": x[:, :1]}, examples, [2, 40, 900], 3)
    assert "label counts 900 are more than" in caplog.text
    first, last = found["model"]
    assert (first["labels"], last["labels"]) == (2, 40)
    assert last["mean"] > first["mean"] + 0.05
    assert last["low"] < last["mean"] < last["high"]
    assert set(found) == {"model", "base", "baseline", "chance"}
    with pytest.raises(NeuroFMError, match="label counts 900 are more"):
        curves({"model": [{"x": x}]}, {}, examples, [900], 1)
