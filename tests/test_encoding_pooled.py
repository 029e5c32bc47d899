"""Pooled ridge with residuals of each person, against ridges fitted by hand."""

import numpy as np

from neurofm.encoding import pooled

PENALTIES = np.array([1.0, 30.0, 1e3])


def simulated(seed, apart):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((90, 4)).astype(np.float32)
    people, runs = np.arange(90) // 45, np.arange(90) % 45 // 15
    common = rng.standard_normal((4, 3))
    own = common + apart * rng.standard_normal((2, 4, 3))
    Y = np.einsum("tf,tfv->tv", X, own[people]) + rng.standard_normal((90, 3))
    return X, Y.astype(np.float32), people, runs


def slow(X, Y, runs):
    """A ridge of one target after another, its penalty by leaving runs out."""
    out = []
    for y in Y.T:
        errors = []
        for penalty in PENALTIES:
            missed = []
            for run in np.unique(runs):
                kept = runs != run
                gram = X[kept].T @ X[kept] + penalty * np.eye(X.shape[1])
                guess = X[~kept] @ np.linalg.solve(gram, X[kept].T @ y[kept])
                missed.append(np.mean((y[~kept] - guess) ** 2))
            errors.append(np.mean(missed))
        gram = X.T @ X + PENALTIES[np.argmin(errors)] * np.eye(X.shape[1])
        out.append(np.linalg.solve(gram, X.T @ y))
    return np.array(out).T


def test_everybody_first_and_then_what_is_left_of_each_person():
    X, Y, people, runs = simulated(0, apart=0.5)
    fitted = pooled.fit(X, Y, people, runs, PENALTIES)
    wide = X.astype(float)
    shared = slow(wide, Y, runs)
    np.testing.assert_allclose(fitted.shared, shared, rtol=1e-3, atol=1e-4)
    predicted = pooled.predict(X, people, fitted)
    for person in range(2):
        mine = people == person
        left = Y[mine] - wide[mine] @ shared
        own = slow(wide[mine], left, runs[mine])
        np.testing.assert_allclose(fitted.own[person], own, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            predicted[mine], wide[mine] @ (shared + own), rtol=1e-3, atol=1e-3
        )


def test_people_who_are_alike_get_next_to_nothing_of_their_own():
    size = {}
    for apart in (0.0, 1.0):
        fitted = pooled.fit(*simulated(1, apart), PENALTIES)
        size[apart] = np.linalg.norm(fitted.own) / np.linalg.norm(fitted.shared)
    assert size[0.0] < 0.2
    assert size[1.0] > 0.5
