"""Cluster bootstrap: known answers and coverage."""

import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.eval.stats import interval, paired

ONES = np.ones(200)


def test_the_value_is_the_ratio_of_the_sums():
    points, weights = np.array([1.0, 0.0, 2.0]), np.array([1.0, 1.0, 3.0])
    assert interval(points, weights, np.arange(3)).value == pytest.approx(3 / 5)


def test_single_items_give_the_normal_interval_of_a_proportion():
    points = np.repeat([1.0, 0.0], [120, 80])
    found = interval(points, ONES, np.arange(200))
    half = 1.96 * np.sqrt(0.6 * 0.4 / 200)
    assert found.low == pytest.approx(0.6 - half, abs=0.008)
    assert found.high == pytest.approx(0.6 + half, abs=0.008)


def test_copies_of_an_item_in_one_group_do_not_narrow_the_interval():
    points = np.random.default_rng(0).random(40)
    alone = interval(points, np.ones(40), np.arange(40))
    copied = interval(np.repeat(points, 5), ONES, np.repeat(np.arange(40), 5))
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))


def test_a_95_percent_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        group = np.repeat(np.arange(40), rng.integers(1, 9, 40))
        points = rng.normal(0.5, 0.1, 40)[group] + rng.normal(0, 0.2, len(group))
        found = interval(points, np.ones(len(group)), group, n_resamples=300)
        hits += found.low <= 0.5 <= found.high
    assert 0.90 < hits / 300 < 0.98


def test_a_constant_gain_is_certain_when_paired_and_not_when_apart():
    other = np.random.default_rng(3).random(200)
    found = paired(other + 0.1, other, ONES, np.arange(200))
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    alone = interval(other, ONES, np.arange(200))
    assert alone.high - alone.low > 0.05


def test_seeds_are_averaged_item_by_item():
    points = np.random.default_rng(4).random((3, 200))
    groups = np.repeat(np.arange(20), 10)
    assert interval(points, ONES, groups) == interval(points.mean(0), ONES, groups)


def test_equal_calls_give_equal_intervals_whatever_the_names_of_groups():
    points = np.random.default_rng(5).random(200)
    groups = np.repeat(np.arange(20), 10)
    words = np.array([f"speaker {g:02d}" for g in groups])
    assert interval(points, ONES, groups) == interval(points, ONES, words)


def test_one_group_is_refused():
    with pytest.raises(NeuroFMError, match="over 1 group"):
        interval(ONES, ONES, np.zeros(200))
