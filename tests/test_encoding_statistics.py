"""Bands, stacks, ceilings, partitions and significance against slow references."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

from neurofm.encoding import banded, ceiling, folds, partition, ridge, significance
from neurofm.encoding.scores import correlation, explained
from neurofm.encoding.targets import Devices
from neurofm.errors import NeuroFMError


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def noisy(rng, n_rows=90, n_features=7, n_targets=5):
    X = rng.standard_normal((n_rows, n_features))
    W = rng.standard_normal((n_features, n_targets))
    return X, X @ W + rng.standard_normal((n_rows, n_targets))


def test_equal_shares_are_ordinary_ridge():
    X, Y = noisy(np.random.default_rng(0))
    bands = np.array([0, 0, 1, 1, 1, 1, 1])
    shares, penalties = np.full((2, 5), 0.5), np.logspace(0, 2, 5)
    ours = banded.solve(X, bands, Y, shares, penalties)
    np.testing.assert_allclose(ours, ridge.solve(X, Y, 2 * penalties))


def test_bands_solve_the_normal_equations_with_a_penalty_a_space():
    X, Y = noisy(np.random.default_rng(1))
    bands = np.array([0, 1, 0, 2, 1, 2, 1])
    shares = np.random.default_rng(2).dirichlet(np.ones(3), 5).T
    shares[:, 3] = shares[:, 1]
    penalties = np.logspace(-1, 3, 5)
    ours = banded.solve(X, bands, Y, shares, penalties)
    for v in range(5):
        each = np.diag(penalties[v] / shares[bands, v])
        slow = np.linalg.solve(X.T @ X + each, X.T @ Y[:, v])
        np.testing.assert_allclose(ours[:, v], slow)


def test_the_search_finds_the_space_that_matters_and_the_same_again():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((120, 40))
    bands = np.repeat([0, 1], 20)
    Y = np.stack([X[:, :20].sum(1), X[:, 20:].sum(1)], 1)
    Y = Y + 4 * rng.standard_normal((120, 2))
    splits, grid = folds.contiguous(120, 4), np.logspace(-1, 4, 11)
    fitted = banded.fit(X, bands, Y, grid, splits, 12, seed=5)
    assert fitted.shares[0, 0] > 0.9
    assert fitted.shares[1, 1] > 0.9
    equal = ridge.cross_validate(X, Y, grid, splits).max(0)
    assert (fitted.scores > equal).all()
    again = banded.fit(X, bands, Y, grid, splits, 12, seed=5)
    np.testing.assert_array_equal(again.weights, fitted.weights)
    other = banded.candidates(2, 12, seed=6)
    assert not np.array_equal(other, banded.candidates(2, 12, seed=5))
    np.testing.assert_allclose(other.sum(1), 1)


def test_a_target_that_is_not_finite_stays_out_of_the_search():
    X, Y = noisy(np.random.default_rng(4))
    Y[3, 2] = np.nan
    bands = np.array([0, 0, 0, 1, 1, 1, 1])
    fitted = banded.fit(X, bands, Y, np.logspace(0, 2, 3), folds.contiguous(90), 3)
    assert np.isnan(fitted.weights).all(0).tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert np.isnan(fitted.penalties).sum() == np.isnan(fitted.scores).sum() == 1


def test_stacked_weights_are_the_least_squares_on_the_simplex():
    rng = np.random.default_rng(5)
    truth = rng.standard_normal((60, 6))
    guesses = np.stack([truth + s * rng.standard_normal((60, 6)) for s in (1, 2, 3, 9)])
    guesses[1] += guesses[0]
    ours = banded.stack(truth, guesses)
    assert (ours >= 0).all()
    np.testing.assert_allclose(ours.sum(0), 1)
    for v in range(6):

        def loss(w, v=v):
            return ((truth[:, v] - w @ guesses[:, :, v]) ** 2).sum()

        slow = minimize(
            loss,
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-12},
        )
        np.testing.assert_allclose(ours[:, v], slow.x, atol=1e-4)
        assert loss(ours[:, v]) <= slow.fun + 1e-9


def test_equal_and_perfect_predictions_can_be_stacked():
    truth = np.random.default_rng(6).standard_normal((20, 2))
    same = np.stack([truth, truth, 0 * truth])
    ours = banded.stack(truth, same)
    np.testing.assert_allclose(np.einsum("mv,mtv->tv", ours, same), truth)
    with pytest.raises(NeuroFMError, match="11 models to stack"):
        banded.stack(truth, np.stack([truth] * 11))


def test_no_signal_power_is_undefined_and_not_clipped():
    rng = np.random.default_rng(7)
    signal = rng.standard_normal((80, 3)) * [1.0, 0.5, 0.0]
    repeats = signal + rng.standard_normal((4, 80, 3))
    repeats[:, :, 2] -= repeats[:, :, 2].mean(0)  # repeats that cancel: no power
    assert (ceiling.signal_power(repeats) > 0).tolist() == [True, True, False]
    for found in (
        ceiling.cc_max(repeats),
        ceiling.cc_norm(signal, repeats),
        ceiling.signal_power_explained(signal + 1e-9 * repeats[0], repeats),
    ):
        assert np.isnan(found).tolist() == [False, False, True]
    floored = ceiling.cc_max(repeats, floor=0.8)
    assert np.isnan(floored).tolist() == [False, True, True]


def test_ceilings_find_the_truth_of_many_rows():
    rng = np.random.default_rng(8)
    signal = rng.standard_normal((40_000, 1))
    repeats = signal + 2 * rng.standard_normal((4, 40_000, 1))
    near = {"rtol": 0.03}
    np.testing.assert_allclose(ceiling.signal_power(repeats), 1, **near)
    np.testing.assert_allclose(ceiling.explainable_variance(repeats), 1 / 5, **near)
    np.testing.assert_allclose(ceiling.cc_max(repeats), (1 / 2) ** 0.5, **near)
    half = ceiling.split_half_r(repeats)
    np.testing.assert_allclose(half, 1 / 3, **near)
    np.testing.assert_allclose(ceiling.spearman_brown(half), 1 / 2, **near)
    r = ceiling.leave_one_out_r(repeats)
    np.testing.assert_allclose(r, 1 / (5 * (1 + 4 / 3)) ** 0.5, **near)
    np.testing.assert_allclose(ceiling.cc_norm(signal, repeats), 1, **near)
    np.testing.assert_allclose(
        ceiling.signal_power_explained(signal, repeats), 1, **near
    )
    with pytest.raises(NeuroFMError, match="there is 1"):
        ceiling.cc_max(repeats[:1])


def test_parts_of_any_number_of_spaces_sum_to_the_whole():
    rng = np.random.default_rng(9)
    r2 = {s: rng.random(3) for s in partition.subsets(["A", "B", "C", "D"])}
    parts = partition.parts(r2)
    assert len(parts) == 15
    np.testing.assert_allclose(sum(parts.values()), r2["A", "B", "C", "D"])
    for name in "ABCD":  # what holds a space sums to what it explains alone
        held = sum(v for part, v in parts.items() if name in part)
        np.testing.assert_allclose(held, r2[(name,)])


def test_splits_of_a_joint_model_sum_to_its_score():
    rng = np.random.default_rng(10)
    truth = rng.standard_normal((50, 4)) + 1
    by_band = rng.standard_normal((3, 50, 4)) + truth / 4
    by_band[1, :, 2] = 0
    whole = by_band.sum(0)
    centred = truth - truth.mean(0)
    for parts, total in (
        (partition.product_measure(truth, by_band), explained(centred, whole)),
        (partition.correlation_parts(truth, by_band), correlation(truth, whole)),
        (partition.relative_weights(truth, by_band), explained(truth, whole)),
    ):
        np.testing.assert_allclose(parts.sum(0), total)
        assert abs(parts[1, 2]) < 1e-12


def test_one_space_is_not_partitioned():
    X, Y = noisy(np.random.default_rng(11))
    with pytest.raises(NeuroFMError, match="two feature spaces"):
        partition.fit({"A": X}, Y, {"A": X}, Y, np.ones(1), folds.contiguous(90))


def test_reordered_rows_are_those_of_numpy():
    order = significance.block_orders(11, 4, 30, seed=1)
    rows = significance.block_rows(11, 4, order)
    assert (np.sort(rows, 1) == np.arange(11)).all()
    blocks = np.split(np.arange(11), [4, 8])
    slow = [np.concatenate([blocks[i] for i in o]) for o in order]
    np.testing.assert_array_equal(rows, slow)
    shifts = significance.random_shifts(11, 3, 200, seed=1)
    assert (shifts.min(), shifts.max()) == (3, 8)
    x = np.arange(11.0)
    for row, s in zip(significance.shifted_rows(11, shifts), shifts, strict=True):
        np.testing.assert_array_equal(x[row], np.roll(x, s))
    with pytest.raises(NeuroFMError, match="use shorter blocks"):
        significance.block_orders(11, 11, 5)
    with pytest.raises(NeuroFMError, match="use shorter blocks"):
        significance.random_shifts(11, 6, 5)


def test_the_null_of_slow_signals_keeps_false_alarms_at_their_rate():
    rng = np.random.default_rng(12)
    kernel = np.ones(8) / 8
    truth, guess = (
        np.stack(
            [np.convolve(x, kernel, "same") for x in rng.standard_normal((300, 400))]
        )
        for _ in range(2)
    )
    truth, guess = truth.T, guess.T  # 400 rows, 300 targets that are unrelated
    order = significance.block_orders(400, 25, 199)
    rows = significance.block_rows(400, 25, order)
    null = significance.null_correlations(truth, guess, rows, Devices(batch=128))
    p = significance.p_values(correlation(truth, guess), null)
    assert 0.01 < (p <= 0.05).mean() < 0.10
    guess[:, 0] += 2 * truth[:, 0]
    null = significance.null_correlations(truth, guess, rows)
    highest = significance.p_values_of_max(correlation(truth, guess), null)
    assert highest[0] == 1 / 200
    assert (highest[1:] <= 0.05).mean() < 0.02


def test_constant_targets_have_no_p_value_and_spoil_none():
    rng = np.random.default_rng(13)
    truth, guess = rng.standard_normal((2, 40, 3))
    truth[:, 1] = 2
    rows = significance.shifted_rows(40, significance.random_shifts(40, 5, 19))
    null = significance.null_correlations(truth, guess, rows)
    observed = correlation(truth, guess)
    for p in (
        significance.p_values(observed, null),
        significance.p_values_of_max(observed, null),
    ):
        assert np.isnan(p).tolist() == [False, True, False]
        assert np.isnan(significance.false_discovery_q(p)).sum() == 1
