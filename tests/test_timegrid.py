"""Steps of grids that meet: against a search over all steps, and by what must hold."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.errors import NeuroFMError
from neurofm.signals import timegrid
from neurofm.signals.timegrid import Grid

# Eighths of a second and powers of two: sums and products are exact in floating point.
times = st.integers(-400, 400).map(lambda n: n / 8)
rates = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])


def half_even(x: Fraction) -> int:
    low = x.numerator // x.denominator
    rest = x - low
    return low + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2))


@given(times, times, rates, st.integers(1, 90), st.integers(1, 90))
def test_spans_follow_the_rule_in_exact_arithmetic(a, b, rate, n, m):
    source, window = Grid(a, rate, n), Grid(b, rate, m)
    a, b, f = Fraction(a), Fraction(b), Fraction(rate)
    low, high = max(a, b), min(a + n / f, b + m / f)
    met = timegrid.meeting(source, window)
    if high <= low:
        assert met is None
        return
    count = max(1, half_even(f * (high - low)))
    firsts = [
        min(half_even(f * (low - start)), size - count)
        for start, size in ((a, n), (b, m))
    ]
    assert met == tuple(slice(first, first + count) for first in firsts)


@given(times, rates, st.integers(1, 40), st.floats(-60, 60), st.integers(1, 40))
def test_slices_lie_within_both_and_are_of_one_length(a, rate, n, b, m):
    for sfreq in (rate, rate * (1 + 0.3 / m)):
        met = timegrid.meeting(Grid(a, sfreq, n), Grid(b, rate, m))
        if met is None:
            continue
        taken, given_ = met
        assert 0 <= taken.start < taken.stop <= n
        assert 0 <= given_.start < given_.stop <= m
        assert taken.stop - taken.start == given_.stop - given_.start


@given(st.integers(-30, 30), st.integers(1, 29), st.integers(2, 40))
def test_a_signal_in_two_pieces_is_the_whole(shift, cut, n):
    x = np.arange(1.0, 31)[None]
    window = Grid(shift / 2, 2.0, n)
    whole = timegrid.signal_on_grid(window, [(0.0, 2.0, x)])
    pieces = [(0.0, 2.0, x[:, :cut]), (cut / 2, 2.0, x[:, cut:])]
    np.testing.assert_array_equal(timegrid.signal_on_grid(window, pieces), whole)
    expected = [t + 1 if 0 <= t < 30 else 0 for t in range(shift, shift + n)]
    np.testing.assert_array_equal(whole[0], expected)


def test_words_on_one_step_add_up_and_the_shortest_fills_one():
    vectors = np.array([[1.0, 10], [2, 20], [4, 40], [8, 80]])
    window = Grid(0.0, 2.0, 5)
    # The last begins where the window ends.
    onsets, durations = [0.0, 0.4, 1.02, 2.5], [1.0, 0.01, 0.02, 1.0]
    grid = timegrid.words_on_grid(window, vectors, onsets, durations)
    np.testing.assert_array_equal(grid, [[1, 3, 4, 0, 0], [10, 30, 40, 0, 0]])


def test_a_signal_of_another_rate_is_refused_in_words():
    with pytest.raises(NeuroFMError, match=r"2\.1 Hz .* 2 Hz, which is 1 steps away"):
        timegrid.meeting(Grid(0.0, 2.1, 30), Grid(0.0, 2.0, 20))
    timegrid.meeting(Grid(0.0, 2.02, 30), Grid(0.0, 2.0, 20))


def test_windows_lie_side_by_side_and_the_last_is_kept():
    starts = timegrid.window_starts(-4.47, 189.23, 149)
    np.testing.assert_allclose(starts, [-4.47, 144.53])
    exact = timegrid.window_starts(0.3, 0.3 + 3 * 1.1, 1.1)  # 3.5999999999999996 / 1.1
    assert len(exact) == 3
    assert len(timegrid.window_starts(0.0, 10.0, 4.0, stride_s=2.0)) == 5
