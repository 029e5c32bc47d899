"""Encoding models on any number of devices, on runs, and on what cannot be fitted.

Run as a script, this file is the process that has eight devices.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neurofm.encoding import bootstrap, delays, folds, ridge
from neurofm.encoding.targets import Devices
from neurofm.errors import NeuroFMError

GRID = np.array([0.1, 10, 1000], np.float32)


def problem(n_rows=60, n_features=7, n_targets=13, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_features)).astype(np.float32)
    noise = rng.standard_normal((n_rows, n_targets)) * np.linspace(0.2, 9, n_targets)
    Y = X @ rng.standard_normal((n_features, n_targets)) + noise
    return X, ((Y - Y.mean(0)) / Y.std(0)).astype(np.float32)


def eight_devices_fit_as_one():
    from neurofm.parallel import distributed

    distributed.initialise(devices=8)
    X, Y = problem()
    runs = np.repeat([0, 1, 2], [11, 20, 29])
    eight, one = Devices(batch=8), Devices(1)
    assert (eight.count, one.count) == (8, 1)
    _, (y,) = next(eight.batches(Y))
    assert {shard.data.shape for shard in y.addressable_shards} == {(60, 1)}
    for splits in (folds.by_run(runs), "leave_one_out"):
        a, b = (ridge.fit(X, Y, GRID, splits, place=p) for p in (eight, one))
        np.testing.assert_array_equal(a.penalties, b.penalties)
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a.weights, b.weights, rtol=1e-5, atol=1e-6)


def test_eight_devices_fit_as_one():
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(("n_rows", "n_features"), [(60, 7), (24, 40)])
def test_runs_of_any_length_score_as_a_slow_loop(n_rows, n_features):
    X, Y = problem(n_rows, n_features, 3)
    runs = np.repeat([4, 1, 9], [n_rows // 6, n_rows // 2, n_rows // 3])
    slow = []
    for run in (1, 4, 9):
        x, y = X[runs != run].astype(float), Y[runs != run].astype(float)
        weights = [
            np.linalg.solve(x.T @ x + a * np.eye(n_features), x.T @ y) for a in GRID
        ]
        held = X[runs == run], Y[runs == run]
        slow.append([-((held[0] @ w - held[1]) ** 2).mean(0) for w in weights])
    ours = ridge.cross_validate(X, Y, GRID, folds.by_run(runs))
    np.testing.assert_allclose(ours, np.mean(slow, 0), rtol=1e-3)


def test_what_is_held_out_cannot_reach_the_fit():
    X, Y = problem(24, 40, 3)  # more features than rows: singular values of zero
    splits = folds.by_run(np.repeat([0, 1], 12))
    grid = np.full(3, 1e-3, np.float32)
    first = ridge.out_of_fold(X, Y, grid, splits)
    changed = Y.copy()
    changed[:12] += 100
    other = ridge.out_of_fold(X, changed, grid, splits)
    np.testing.assert_array_equal(first[:12], other[:12])
    assert not np.allclose(first[12:], other[12:])


def test_a_target_with_a_gap_is_nan_and_spoils_no_other():
    X, Y = problem()
    whole = bootstrap.fit(X, Y, folds.chunks(60, 5), GRID, single_alpha=False)
    Y[3, 2] = np.nan
    fitted = bootstrap.fit(X, Y, folds.chunks(60, 5), GRID, single_alpha=False)
    others = np.arange(13) != 2
    assert np.isnan(fitted.penalties[2])
    assert np.isnan(fitted.weights[:, 2]).all()
    np.testing.assert_array_equal(fitted.penalties[others], whole.penalties[others])
    np.testing.assert_allclose(
        fitted.weights[:, others], whole.weights[:, others], rtol=1e-5, atol=1e-6
    )


def test_no_run_sees_the_end_of_the_one_before():
    X = np.arange(1.0, 7)[:, None]
    runs = np.array([7, 7, 7, 2, 2, 2])
    delayed = delays.fir(X, (0, 1, -1), runs)
    np.testing.assert_array_equal(delayed[:, 1], [0, 1, 2, 0, 4, 5])
    np.testing.assert_array_equal(delayed[:, 2], [2, 3, 0, 5, 6, 0])
    np.testing.assert_array_equal(delays.fir(X, (1,), None)[:, 0], [0, 1, 2, 3, 4, 5])


def test_chunks_are_whole_and_never_twice_in_a_boot():
    boots = folds.chunks(47, chunk=5, n_chunks=4, n_boots=6, seed=3)
    assert len({tuple(rows) for rows in boots}) > 1
    for rows in boots:
        pieces = rows.reshape(4, 5)
        assert (np.diff(pieces) == 1).all()
        assert (pieces[:, 0] % 5 == 0).all()
        assert len(np.unique(rows)) == 20
        assert rows.max() < 45


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda X, Y: ridge.fit(X, Y, 0 * GRID, "leave_one_out"), "above 0"),
        (lambda X, Y: ridge.fit(X, Y, GRID, "leave_one_out", "r2"), "no score 'r2'"),
        (lambda X, Y: ridge.fit(X / 0, Y, GRID, "leave_one_out"), "7 features hold"),
        (lambda X, Y: ridge.fit(X, Y, GRID, [np.arange(60)]), "holds out 60 of 60"),
        (lambda X, Y: folds.by_run(np.zeros(9)), "two runs but there is 1"),
        (lambda X, Y: folds.contiguous(3, 4), "4 folds of 3 rows"),
        (lambda X, Y: folds.chunks(30, 20), "1 chunks of 20 rows"),
        (lambda X, Y: delays.fir(X[:3], (1,), np.array([0, 1, 0])), "in 3 pieces"),
        (lambda X, Y: delays.lanczos(X, np.arange(60.0), np.ones(2)), "later than"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_cannot_be_fitted_is_refused(attempt, message):
    with pytest.raises(NeuroFMError, match=message):
        attempt(*problem())


if __name__ == "__main__":
    eight_devices_fit_as_one()
