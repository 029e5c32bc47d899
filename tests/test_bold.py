"""Scaling and resampling of BOLD against known answers."""

import numpy as np
import pytest

from neurofm.signals import bold


def test_regions_are_scaled_by_the_deviation_of_a_sample():
    x = np.random.default_rng(0).normal(9500, 30, (3, 11)).astype(np.float32)
    ours = bold.prepared(x)
    np.testing.assert_allclose(ours.mean(1), 0, atol=1e-9)
    np.testing.assert_allclose(np.var(ours, axis=1) * 11 / 10, 1)
    plain = bold.prepared(x, scale="none")
    np.testing.assert_array_equal(plain, x.astype(np.float64))


@pytest.mark.parametrize("kind", ["constant", "linear"])
def test_a_trend_is_taken_out(kind):
    t = np.arange(13.0)
    wave = np.array([0.0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1, -1, 0])
    x = np.stack([wave + 5 + 3 * t, wave - 2 * t])
    design = np.stack([np.ones(13), t][: 1 + (kind == "linear")], 1)
    left = x - (design @ np.linalg.lstsq(design, x.T, rcond=None)[0]).T
    np.testing.assert_allclose(bold.prepared(x, kind, "none"), left, atol=1e-9)


def test_missing_and_constant_regions_stay_missing():
    x = np.random.default_rng(1).normal(size=(5, 9))
    x[1, 3], x[2], x[4] = np.nan, 7.0, np.inf
    np.testing.assert_array_equal(bold.usable(x), [True, False, False, True, False])
    ours = bold.prepared(x, "linear")
    np.testing.assert_array_equal(np.isnan(ours).all(1), ~bold.usable(x))
    np.testing.assert_array_equal(np.isnan(ours).any(1), ~bold.usable(x))
    again = bold.at_tr(ours, 2.0, 1.5)
    np.testing.assert_array_equal(np.isnan(again).any(1), ~bold.usable(x))


@pytest.mark.parametrize(("tr", "new", "n", "m"), [(2, 1.49, 30, 40), (0.72, 1, 11, 8)])
def test_a_straight_line_keeps_its_times_at_another_tr(tr, new, n, m):
    middles = (np.arange(n) + 0.5) * tr
    ours = bold.at_tr(np.stack([middles, 2 * middles]), tr, new)
    assert ours.shape == (2, m)
    expected = np.clip((np.arange(m) + 0.5) * new, middles[0], middles[-1])
    np.testing.assert_allclose(ours, [expected, 2 * expected])


def test_the_same_tr_changes_nothing_and_one_volume_is_held():
    x = np.random.default_rng(2).normal(size=(2, 7))
    np.testing.assert_array_equal(bold.at_tr(x, 1.3, 1.3), x)
    np.testing.assert_array_equal(bold.at_tr(x[:, :1], 2.0, 0.5), x[:, [0, 0, 0, 0]])


def test_a_tail_without_values_is_no_part_of_a_run():
    x = np.ones((3, 9))
    x[:, 6:] = np.nan
    x[1] = np.nan
    assert bold.recorded(x) == 6
    assert bold.recorded(np.full((2, 4), np.nan)) == 0


def test_a_filter_keeps_what_lies_in_its_band():
    at = 2.0 * np.arange(400)
    slow, within, fast = (np.sin(2 * np.pi * f * at) for f in (0.002, 0.05, 0.2))
    x = np.stack([slow + within + fast, np.full(400, np.nan)])
    got = bold.bandpassed(x, 2.0, 0.01, 0.1)
    assert np.isnan(got[1]).all()
    np.testing.assert_allclose(got[0, 60:-60], within[60:-60], atol=0.05)


def test_a_line_goes_on_beyond_the_last_volume_where_first_volumes_meet():
    line = np.array([[0.0, 2.0, 4.0]])
    got = bold.at_tr(line, 2.0, 0.75, "first")
    np.testing.assert_allclose(got, 0.75 * np.arange(8)[None])
    line[0, 2] = np.nan
    assert np.isfinite(bold.at_tr(line, 2.0, 1.0, "first")[0]).tolist() == [
        *[True] * 3,
        *[False] * 3,
    ]
