"""Ridge, delays and downsampling against scikit-learn, himalaya and released code."""

import numpy as np
from fixtures import each, load

from neurofm.encoding import bootstrap, delays, folds, ridge, scores
from neurofm.encoding.targets import Devices


@each("encoding_models", keys=("ridge::X_train", "ridge::coef_fixed_*"))
def test_a_penalty_for_each_target_gives_the_weights_of_scikit_learn(path, close):
    f = load(path)
    X, Y, given = close.of(
        f["ridge::X_train"],
        f["ridge::Y_train"],
        f["ridge::coef_fixed_alpha_per_target_alphas"],
    )
    reference = f["ridge::coef_fixed_alpha_per_target"]
    close(ridge.solve(X, Y, given), reference)
    close(ridge.solve(X, Y, given, place=Devices(batch=5)), reference)


@each("encoding_models", keys=("ridge::X_train", "sk_loo::*"))
def test_leave_one_out_chooses_as_scikit_learn(path, close, same_penalties):
    f = load(path)
    X, Y, grid = close.of(*(f[f"ridge::{k}"] for k in ("X_train", "Y_train", "alphas")))
    fitted = ridge.fit(X, Y, grid, "leave_one_out")
    same_penalties(fitted.penalties, f["sk_loo::best_alphas"])
    (best,) = close.of(f["sk_loo::best_alphas"])
    close(ridge.solve(X, Y, best), f["sk_loo::coef"])


@each("encoding_models", keys=("ridge::X_train", "himalaya_kfold_r2::*", "kfold::*"))
def test_contiguous_folds_choose_as_himalaya(path, close, same_penalties):
    f = load(path)
    X, Y, grid = close.of(*(f[f"ridge::{k}"] for k in ("X_train", "Y_train", "alphas")))
    fold = f["kfold::fold_of_sample"]
    splits = folds.contiguous(len(X), int(fold.max()) + 1)
    assert all((fold[rows] == n).all() for n, rows in enumerate(splits))
    fitted = ridge.fit(X, Y, grid, splits)
    of = {k.split("::")[1]: v for k, v in f.items() if k.startswith("himalaya_kfold")}
    same_penalties(fitted.penalties, of["best_alphas"])
    close(fitted.scores.max(0), of["cv_scores"])
    (best,) = close.of(of["best_alphas"])
    weights = ridge.solve(X, Y, best)
    close(weights, of["coef"])
    X, Y = close.of(f["ridge::X_test"], f["ridge::Y_test"])
    predicted = ridge.predict(X, weights)
    close(scores.correlation(Y, predicted), of["test_pearson"])
    close(scores.explained(Y, predicted), of["test_r2"])


@each("encoding_models", keys=("ridge::X_train", "boot::*"))
def test_the_chunk_bootstrap_chooses_by_correlation_as_released(
    path, close, same_penalties
):
    f = load(path)
    X, Y, alphas = close.of(f["ridge::X_train"], f["ridge::Y_train"], f["boot::alphas"])
    held = f["boot::held_out_indices"]
    drawn = folds.chunks(
        len(X), int(f["boot::chunk_len"]), int(f["boot::n_chunks"]), len(held)
    )
    assert [len(rows) for rows in drawn] == [len(rows) for rows in held]
    for n, rows in enumerate(held):
        of_boot = ridge.cross_validate(X, Y, alphas**2, [rows], "pearson")
        close(of_boot, f["boot::bootstrap_corrs"][:, :, n])
    fitted = bootstrap.fit(X, Y, list(held), alphas, use_corr=True)
    selected = f["boot::selected_alphas"]
    same_penalties(fitted.penalties, selected**2)
    weights = ridge.solve(X, Y, *close.of(selected**2))
    close(weights, f["boot::weights"])
    X, Y = close.of(f["ridge::X_test"], f["ridge::Y_test"])
    close(scores.correlation(Y, ridge.predict(X, weights)), f["boot::test_corrs"])


@each("encoding_models", keys=("ridge::X_train", "boot::weights_alpha*"))
def test_released_penalties_are_squared_and_scaled(path, close):
    f = load(path)
    X, Y = close.of(f["ridge::X_train"], f["ridge::Y_train"])
    (one,) = close.of(np.ones(Y.shape[1]))
    close(ridge.solve(X, Y, 10**2 * one), f["boot::weights_alpha10"])
    scaled = ridge.solve(X, Y, one / 4, relative=True)
    close(scaled, f["boot::weights_alpha0.5_normalpha"])
    half = np.full(1, 0.5, X.dtype)
    rows = [np.arange(20)]
    close(bootstrap.fit(X, Y, rows, half, normalpha=True).weights, scaled)


@each("encoding_models", keys=("ridge::X_train", "boot_single_r2::*"))
def test_the_chunk_bootstrap_chooses_one_penalty_as_released(path, close):
    f = load(path)
    X, Y, alphas = close.of(f["ridge::X_train"], f["ridge::Y_train"], f["boot::alphas"])
    held = f["boot_single_r2::held_out_indices"]
    for n, rows in enumerate(held):
        of_boot = ridge.cross_validate(X, Y, alphas**2, [rows], "signed_root_r2")
        close(of_boot, f["boot_single_r2::bootstrap_scores"][:, :, n])
    fitted = bootstrap.fit(X, Y, list(held), alphas, single_alpha=True)
    selected = f["boot_single_r2::selected_alphas"]
    np.testing.assert_allclose(fitted.penalties, selected**2, rtol=1e-6)
    X, Y = close.of(f["ridge::X_test"], f["ridge::Y_test"])
    predicted = ridge.predict(X, fitted.weights)
    close(scores.explained_signed_root(Y, predicted), f["boot_single_r2::test_scores"])


@each("encoding_models", keys=("delay::in", "delay::*"))
def test_delayed_features_are_the_released_ones(path):
    f = load(path)
    X = f["delay::in"]
    for runs in (None, np.zeros(len(X), int)):
        ours = delays.fir(X, (1, 2, 3, 4), runs)
        np.testing.assert_array_equal(ours, f["delay::1234"])
        np.testing.assert_array_equal(
            delays.fir(X, (-2, 0, 3), runs), f["delay::m2_0_3"]
        )


@each("encoding_models", keys=("lanczos::*",))
def test_downsampling_is_the_released_one(path):
    f = {key.split("::")[1]: value for key, value in load(path).items()}
    for lobes in (3, 1):
        ours = delays.lanczos(f["data"], f["old_times"], f["new_times"], lobes)
        np.testing.assert_allclose(ours, f[f"out_window{lobes}"], rtol=1e-8, atol=1e-12)
