"""Evaluations of one split, paired example by example."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from neurofm.errors import NeuroFMError
from neurofm.eval import answers, by_example, resampling
from neurofm.eval.precision import average_precision, mean_over_tags
from neurofm.eval.stats import sign_flip_p
from neurofm.report.page import render


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_precisions_of_resamples_are_those_of_their_rows(data):
    n = data.draw(st.integers(2, 9))
    score = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    truth = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    rows = [np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1)))] * 3
    counts = np.array([np.bincount(r, minlength=n) for r in rows], float)
    found = average_precision(score.astype(float), truth, counts)
    for r, one in zip(rows, found, strict=True):
        if truth[r].any():
            assert one == pytest.approx(average_precision_score(truth[r], score[r]))
        else:
            assert np.isnan(one)


def test_counts_are_how_often_groups_were_drawn():
    group = np.array([3, 1, 3, 7, 1, 3])
    drawn = resampling.drawn_groups(group, 20, seed=2)
    held = resampling.counts(group, 20, seed=2)
    for names, row in zip(drawn, held, strict=True):
        assert row.tolist() == [np.sum(names == g) for g in group]


def test_the_interval_of_tags_is_that_of_resampled_rows():
    rng = np.random.default_rng(0)
    truth = (rng.random((40, 3)) < 0.3).astype(int)
    made = truth + rng.normal(0, 1, (40, 3))
    group = np.arange(40) // 4
    found = answers.score("tags", made, truth, group, ["a", "b", "c"], ())

    def slow(rows):
        each = [
            average_precision_score(truth[rows, k], made[rows, k])
            for k in range(3)
            if truth[rows, k].any()
        ]
        return np.mean(each)

    drawn = resampling.drawn_groups(group, 500)
    slow_scores = resampling.bootstrap(slow, group, drawn)
    cell = found["scores"]["model"]
    assert cell["mean"] == pytest.approx(slow(np.arange(40)))
    np.testing.assert_allclose(
        [cell["low"], cell["high"]], np.quantile(slow_scores, [0.025, 0.975])
    )


def test_all_exchanges_of_a_few_groups_are_counted():
    rng = np.random.default_rng(0)
    difference, group = rng.normal(0.4, 1, 15), np.arange(15) % 5
    sums = [difference[group == g].sum() for g in range(5)]
    null = [np.dot(signs, sums) for signs in itertools.product([-1, 1], repeat=5)]
    expected = np.mean(np.abs(null) >= abs(sum(sums)) - 1e-12)
    assert sign_flip_p(difference, group) == pytest.approx(expected)
    assert sign_flip_p(np.ones(15), group) == pytest.approx(2 / 2**5)


def test_no_difference_is_called_one_about_as_often_as_said():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(20), 3)
    ps = [
        sign_flip_p(
            rng.normal(0, 1, 60) + rng.normal(0, 2, 20)[group], group, n_draws=400
        )
        for _ in range(300)
    ]
    assert 0.02 < np.mean(np.array(ps) <= 0.05) < 0.085


def rows(score, weight=None, cluster=None, **more):
    n = len(score)
    names = np.array([f"r{i}" for i in range(n)])
    cluster = np.arange(n) // 2 if cluster is None else cluster
    return by_example.table(
        np.full(n, "test"), names, cluster, {"model": score}, weight, **more
    )


def test_two_models_are_paired_whatever_the_order_of_rows():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2, 20).astype(float) for _ in range(2))
    one, other = rows(a, np.ones(20)), rows(b, np.ones(20))
    gap, p = by_example.difference(one, other)
    moved = other.take(rng.permutation(20).tolist())
    assert by_example.difference(one, moved) == (gap, p)
    assert gap.value == pytest.approx(np.mean(a - b))
    assert gap.low < gap.value < gap.high
    assert gap.n_groups == 10
    back, same_p = by_example.difference(other, one)
    assert back.value == pytest.approx(-gap.value)
    assert same_p == p


def test_other_examples_or_weights_are_not_paired():
    ones = np.ones(6)
    assert by_example.difference(rows(ones, ones), rows(ones[:5], ones[:5])) is None
    assert by_example.difference(rows(ones, ones), rows(ones, 2 * ones)) is None
    tags = np.eye(6, dtype=int)
    assert (
        by_example.difference(rows(ones, ones), rows(ones * tags, truth=tags)) is None
    )
    turned = rows(1.0 * tags, truth=tags[::-1])  # its tags in another order
    assert by_example.difference(rows(1.0 * tags, truth=tags), turned) is None


def test_tags_are_paired_by_their_mean_precision():
    rng = np.random.default_rng(0)
    truth = (rng.random((40, 4)) < 0.4).astype(int)
    good = truth + rng.normal(0, 0.4, truth.shape)
    poor = truth + rng.normal(0, 3.0, truth.shape)
    gap, p = by_example.difference(rows(good, truth=truth), rows(poor, truth=truth))
    whole = np.ones((1, 40))
    expected = mean_over_tags(good, truth, whole) - mean_over_tags(poor, truth, whole)
    assert gap.value == pytest.approx(expected[0])
    assert gap.low > 0
    assert p < 0.01
    same, p = by_example.difference(rows(good, truth=truth), rows(good, truth=truth))
    assert (same.value, same.low, same.high, p) == (0, 0, 0, 1)


@pytest.mark.parametrize("answer", ["classes", "numbers"])
def test_points_and_weights_give_the_score(answer):
    rng = np.random.default_rng(0)
    if answer == "classes":
        truth, made = rng.integers(0, 3, 30), rng.normal(size=(30, 3))
    else:
        truth = rng.normal(size=(30, 2)).astype(float)
        made = truth + rng.normal(0, 0.5, truth.shape)
        truth[:4, 1] = np.nan
    whole = answers.score(
        answer, made, truth, np.arange(30), ["a", "b", "c"][: made.shape[1]], (0.0, 0.0)
    )
    points, weight, _ = answers.of_each(answer, made, truth)
    found = points["model"].sum() / weight.sum()
    assert found == pytest.approx(whole["scores"]["model"]["mean"])


def folder(path, score, split="feed", metric="accuracy"):
    path.mkdir()
    by_example.write(path / by_example.NAME, rows(score, np.ones(len(score))))
    told = {"suite": "probe", "target": "word", "metric": metric, "over": "groups"}
    cell = {"mean": float(score.mean()), "n": len(score)}
    told |= {"split_sha256": split, "scores": {"model": cell}}
    (path / "scores.json").write_text(json.dumps(told))
    return path


def test_a_report_pairs_the_folders_that_share_a_split(tmp_path):
    rng = np.random.default_rng(0)
    good, poor = np.ones(20), rng.integers(0, 2, 20).astype(float)
    given = [
        folder(tmp_path / "good", good),
        folder(tmp_path / "poor", poor),
        folder(tmp_path / "other", poor, split="beef"),
        folder(tmp_path / "metric", poor, metric="r2"),
    ]
    text = render(given, tmp_path / "r.md").read_text()
    (line,) = (x for x in text.splitlines() if x.startswith("| good - poor"))
    assert f"{1 - poor.mean():+.3f}" in line
    assert "10 groups" in line
    assert "- other" not in text
    assert "- metric" not in text
    page = render(given, tmp_path / "r.html").read_text()
    assert "good - poor, word, accuracy" in page
    wrong = [
        folder(tmp_path / name, score, metric="error_rate")
        for name, score in (("one", 1 - good), ("two", 1 - poor))
    ]
    text = render(wrong, tmp_path / "r.md").read_text()
    assert "| one - two, word, error\\_rate (less is better) |" in text
    (tmp_path / "poor" / by_example.NAME).write_bytes(b"PAR1")
    with pytest.raises(NeuroFMError, match=r"examples\.parquet cannot be read"):
        render(given, tmp_path / "r.md")
