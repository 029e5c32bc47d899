"""Probes against scikit-learn, known answers and attempted leaks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from neurofm.errors import NeuroFMError
from neurofm.eval import probe
from neurofm.eval.splits import Fold, folds, inner_folds


def toy(n=90, n_features=5, n_classes=3, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % n_classes
    centres = rng.normal(size=(n_classes, n_features))
    return centres[label] + noise * rng.normal(size=(n, n_features)), label


THIRDS = Fold(train=np.arange(30), valid=np.arange(30, 60), test=np.arange(60, 90))


@pytest.fixture
def only(monkeypatch):
    """Restrict the grid to one probe and setting."""

    def restrict(kind, setting):
        monkeypatch.setattr(probe, "SETTINGS", {kind: (setting,)})

    return restrict


@pytest.mark.parametrize("n_features", [5, 150])
@pytest.mark.parametrize("penalty", [0.01, 10.0])
def test_ridge_predicts_what_scikit_learn_predicts(only, n_features, penalty):
    only("ridge", penalty)
    x, label = toy(n_features=n_features)
    found = probe.fit({"a": x}, label, THIRDS)
    scaler = StandardScaler().fit(x[:60])
    model = RidgeClassifier(alpha=60 * penalty).fit(
        scaler.transform(x[:60]), label[:60]
    )
    np.testing.assert_array_equal(
        found.prediction, model.predict(scaler.transform(x[60:]))
    )


@pytest.mark.parametrize("n_features", [5, 150])
def test_ridge_regresses_as_scikit_learn_does(only, n_features):
    only("ridge", 0.3)
    x, _ = toy(n_features=n_features)
    y = x[:, :2] @ np.array([[1.0, 2.0], [-1.0, 0.5]]) + 7
    found = probe.fit({"a": x}, y, THIRDS)
    scaler = StandardScaler().fit(x[:60])
    model = Ridge(alpha=60 * 0.3).fit(scaler.transform(x[:60]), y[:60])
    expected = model.predict(scaler.transform(x[60:]))
    np.testing.assert_allclose(found.prediction, expected, rtol=1e-8)
    assert found.score == pytest.approx(model.score(scaler.transform(x[60:]), y[60:]))


def test_one_neighbour_is_the_most_similar_training_item(only):
    only("knn", 1)
    x, label = toy()
    found = probe.fit({"a": x}, label, THIRDS)
    scaler = StandardScaler().fit(x[:60])
    model = KNeighborsClassifier(1, metric="cosine").fit(
        scaler.transform(x[:60]), label[:60]
    )
    np.testing.assert_array_equal(
        found.prediction, model.predict(scaler.transform(x[60:]))
    )


def test_neighbours_weigh_one_plus_their_cosine(only):
    only("knn", 2)
    corners = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
    x = np.array([*corners, [2.0, 1.0], [-1.0, -2.0]])
    fold = Fold(train=np.arange(4), test=np.array([4, 5]))
    y = np.array([10.0, 20.0, 30.0, 40.0, 0.0, 1.0])
    near, far = 1 + 2 / np.sqrt(5), 1 + 1 / np.sqrt(5)
    expected = [10 * near + 20 * far, 40 * near + 30 * far]
    found = probe.fit({"a": x}, y, fold)
    np.testing.assert_allclose(found.prediction, np.array(expected) / (near + far))


@pytest.mark.parametrize("valid", [True, False])
def test_shuffled_labels_are_predicted_at_chance(valid):
    x, label = toy(n=600, n_features=20)
    label = np.random.default_rng(1).permutation(label)
    train, held, test = np.split(np.arange(600), [200, 400])
    fold = Fold(train=train, valid=held, test=test)
    if not valid:
        fold = Fold(train=np.arange(400), test=test)
    found = probe.fit({"a": x, "b": x**2}, label, fold)
    assert abs(found.score - 1 / 3) < 3 * np.sqrt(2 / 9 / 200)


@pytest.mark.parametrize("valid", [True, False])
def test_a_feature_that_tells_the_label_of_test_items_only_is_not_chosen(valid):
    x, label = toy(noise=1.0)
    leak = np.random.default_rng(2).normal(size=(90, 3))
    leak[60:] = 9 * np.eye(3)[label[60:]]
    fold = THIRDS if valid else Fold(train=np.arange(60), test=np.arange(60, 90))
    found = probe.fit({"leak": leak, "honest": x}, label, fold)
    assert found.choice.candidate == "honest"


def test_changing_test_rows_changes_no_choice_and_no_other_prediction():
    x, label = toy()
    before = probe.fit({"a": x, "b": x[:, :2]}, label, THIRDS)
    changed, other = x.copy(), label.copy()
    changed[75:], other[75:] = 100.0, 0
    after = probe.fit({"a": changed, "b": changed[:, :2]}, other, THIRDS)
    assert after.choice == before.choice
    np.testing.assert_array_equal(after.prediction[:15], before.prediction[:15])


def test_a_problem_without_a_line_between_classes_goes_to_neighbours():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 2))
    label = (x[:, 0] * x[:, 1] > 0).astype(int)
    fold = Fold(train=np.arange(200), test=np.arange(200, 400))
    found = probe.fit({"a": x}, label, fold)
    assert found.choice.kind == "knn"
    assert found.score > 0.9


def test_inner_folds_keep_groups_whole_so_that_memory_of_a_group_does_not_count():
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(30), 10)
    label = group % 3
    mark = np.eye(30)[group] + 0.01 * rng.normal(size=(300, 30))  # names the group
    weak = np.eye(3)[label] + 0.8 * rng.normal(size=(300, 3))
    fold = Fold(train=np.arange(200), test=np.arange(200, 300))
    candidates = {"mark": mark, "weak": weak}
    assert probe.fit(candidates, label, fold, group).choice.candidate == "weak"
    assert probe.fit(candidates, label, fold).choice.candidate == "mark"


def test_constant_features_change_nothing():
    x, label = toy()
    more = np.concatenate([x, np.full((90, 2), 1e6)], 1)
    plain = probe.fit({"a": x}, label, THIRDS)
    padded = probe.fit({"a": more}, label, THIRDS)
    np.testing.assert_array_equal(padded.prediction, plain.prediction)


def test_words_and_numbers_name_the_same_classes():
    x, label = toy()
    words = np.array(["ape", "bee", "cat"])[label]
    found = probe.fit({"a": x}, words, THIRDS).prediction
    expected = probe.fit({"a": x}, label, THIRDS).prediction
    np.testing.assert_array_equal(found, np.array(["ape", "bee", "cat"])[expected])


def test_chance_is_the_commonest_class_of_the_rows_not_tested():
    label = np.array([0, 0, 0, 1, 1, 0, 1, 1])
    fold = Fold(train=np.arange(4), valid=np.array([4]), test=np.arange(5, 8))
    found = probe.chance(label, fold)
    np.testing.assert_array_equal(found.prediction, [0, 0, 0])
    assert found.score == pytest.approx(1 / 3)


def test_chance_in_regression_explains_nothing():
    y = np.random.default_rng(5).normal(size=90)
    assert -0.2 < probe.chance(y, THIRDS).score <= 0


def test_a_test_class_that_training_lacks_is_named():
    x, label = toy()
    words = np.array(["ape", "bee", "cat"])[label]
    words[70] = "dog"
    with pytest.raises(NeuroFMError, match=r"training rows lack \(dog\)"):
        probe.fit({"a": x}, words, THIRDS)


def test_one_class_in_training_is_refused():
    x, _ = toy()
    with pytest.raises(NeuroFMError, match="one class only"):
        probe.fit({"a": x}, np.zeros(90, int), THIRDS)


def test_numbers_that_are_not_finite_are_refused():
    x, _ = toy()
    with pytest.raises(NeuroFMError, match="not finite"):
        probe.fit({"a": x}, np.full(90, np.nan), THIRDS)


def test_test_rows_of_one_number_are_refused():
    x, _ = toy()
    y = np.where(np.arange(90) < 60, np.arange(90.0), 7.0)
    with pytest.raises(NeuroFMError, match="R2 is not defined"):
        probe.fit({"a": x}, y, THIRDS)


def test_pooling_uses_the_masked_tokens_only():
    values = np.arange(14.0).reshape(7, 2)
    mask = np.array([False, True, True, True, True, False, False])
    np.testing.assert_allclose(probe.pool(values, mask, "mean"), [5, 6])
    spread = np.sqrt(5)
    np.testing.assert_allclose(
        probe.pool(values, mask, "mean_std"), [5, 6, spread, spread]
    )
    np.testing.assert_allclose(
        probe.pool(values, mask, "bins4"), [2, 3, 4, 5, 6, 7, 8, 9]
    )


def test_pooling_nothing_is_refused():
    with pytest.raises(NeuroFMError, match="none of 7 tokens"):
        probe.pool(np.ones((7, 2)), np.zeros(7, bool), "mean")


labels = st.lists(st.integers(0, 5), min_size=12, max_size=40).filter(
    lambda g: len(set(g)) > 2
)


@given(labels, st.sampled_from(["logo", "groupkfold:2", "groupkfold:3"]))
def test_folds_test_every_item_once_and_never_part_a_group(group, scheme):
    group = np.array(group)
    made = folds(scheme, np.arange(len(group)), group)
    tested = np.concatenate([fold.test for fold in made])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(group)))
    for fold in made:
        assert not set(group[fold.train]) & set(group[fold.test])
        assert len(fold.train) + len(fold.test) == len(group)


@given(labels)
def test_inner_folds_stay_within_their_rows_and_never_part_a_group(group):
    group = np.array(group)
    rows = np.flatnonzero(group != group[0])
    made = inner_folds(rows, group)
    tested = np.concatenate([fold.test for fold in made])
    np.testing.assert_array_equal(np.sort(tested), rows)
    if len(set(group[rows])) > 1:
        assert all(not set(group[f.train]) & set(group[f.test]) for f in made)


def test_k_folds_of_items_differ_in_size_by_one_at_most():
    sizes = [len(fold.test) for fold in folds("kfold:4", np.arange(11))]
    assert sorted(sizes) == [2, 3, 3, 3]


def test_k_folds_keep_the_intervals_of_a_recording_together():
    recordings = np.repeat(np.arange(6), [1, 5, 2, 3, 1, 4])
    for fold in folds("kfold:3", recordings):
        assert not set(recordings[fold.train]) & set(recordings[fold.test])


def test_folds_of_groups_and_columns_are_named_by_what_is_tested():
    group = np.array(["bob", "ann", "ann", "cy"])
    made = folds("logo", np.arange(4), group)
    assert {f.name: f.test.tolist() for f in made} == {
        "ann": [1, 2],
        "bob": [0],
        "cy": [3],
    }
    assert [f.name for f in folds(np.array([7, 7, 5, 5]), np.arange(4))] == ["5", "7"]


def test_a_column_of_words_makes_one_fold_and_leaves_out_blank_rows():
    column = np.array(["train", "test", "", "valid", "train", "test"])
    (fold,) = folds(column, np.arange(6))
    assert (fold.train.tolist(), fold.valid.tolist()) == ([0, 4], [3])
    assert fold.test.tolist() == [1, 5]


def test_a_column_of_numbers_makes_a_fold_of_each():
    made = folds(np.array([2, 1, 2, 3, 1]), np.arange(5))
    assert [fold.test.tolist() for fold in made] == [[1, 4], [0, 2], [3]]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("loso", "neither a column nor a scheme"),
        ("logo", "needs groups"),
        ("kfold:9", "asks for 9 folds of 6"),
        ("kfold:1", "at least 2 folds"),
        (np.array(["train"] * 6), "0 of test"),
        (np.array(["train", "test", "dev", "dev", "test", "train"]), "dev"),
        (np.full(6, 3), "one value only"),
    ],
)
def test_splits_that_cannot_be_made_say_why(split, message):
    with pytest.raises(NeuroFMError, match=message):
        folds(split, np.arange(6))


def test_a_group_on_both_sides_is_refused_by_name():
    column = np.array(["train", "train", "test", "test"])
    with pytest.raises(NeuroFMError, match=r"1 groups .*\(ann\)"):
        folds(column, np.arange(4), np.array(["bob", "ann", "ann", "cy"]))
