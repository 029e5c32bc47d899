"""Partitions, bands, permutation tests and discovery rates against their references."""

import numpy as np
import pytest
from fixtures import each, load

from neurofm.encoding import banded, partition, significance
from neurofm.encoding.scores import correlation, explained


def under(f, prefix):
    return {k[len(prefix) :]: v for k, v in f.items() if k.startswith(prefix)}


def spaces(f, close):
    f = under(f, "partition::")
    names = [k.removesuffix("_train") for k in f if k.endswith("_train")]
    names = [n for n in names if n != "Y" and f"{n}_test" in f]
    return [
        dict(zip(names, close.of(*(f[f"{n}_{part}"] for n in names)), strict=True))
        for part in ("train", "test")
    ]


@each("analysis", keys=("partition::Y_train", "partition::three_*"))
@pytest.mark.parametrize("words", ["", "fixed_alpha10_"])
def test_variance_is_partitioned_as_by_himalaya(path, close, same_penalties, words):
    f = load(path)
    train, test = spaces(f, close)
    f = under(f, "partition::")
    Y, Y_test, grid = close.of(f["Y_train"], f["Y_test"], f["alphas"])
    fold = f["fold_of_train_row"]
    splits = [np.flatnonzero(fold == n) for n in np.unique(fold)]
    if words:
        fixed = float(words.removeprefix("fixed_alpha").rstrip("_"))
        (grid,) = close.of(np.full(1, fixed))
    got = partition.fit(train, Y, test, Y_test, grid, splits)
    for subset in partition.subsets(list(train)):
        name = "".join(subset)
        if not words:
            same_penalties(got.penalties[subset], f[f"best_alpha_{name}"])
            close(got.predictions[subset], f[f"test_prediction_{name}"])
        close(got.r2[subset], f[f"{words}r2_{name}"])
        kind = {1: "unique_{}", len(train): "{}_all"}.get(len(subset), "{}_only")
        close(got.parts[subset], f[f"{words}three_{kind.format(name)}"])
    two = {s: r2 for s, r2 in got.r2.items() if set(s) <= {*list(train)[:2]}}
    for subset, part in partition.parts(two).items():
        kind = "shared" if len(subset) == 2 else f"unique_{subset[0]}"
        close(part, f[f"{words}two_{kind}"])


@each("analysis", keys=("banded::gammas", "banded::*", "partition::Y_train"))
def test_given_bands_have_the_weights_of_himalaya(path, close):
    f = load(path)
    train, test = spaces(f, close)
    bands = np.repeat(np.arange(len(train)), [x.shape[1] for x in train.values()])
    X, X_test = (np.concatenate([*s.values()], 1) for s in (train, test))
    Y, Y_test = close.of(f["partition::Y_train"], f["partition::Y_test"])
    f = under(f, "banded::")
    weights = banded.solve(X, bands, Y, *close.of(f["gammas"], f["alphas"]))
    close(weights, f["weights"])
    close(banded.predict_bands(X_test, bands, weights), f["test_prediction_per_band"])
    close(explained(Y_test, X_test @ weights), f["test_r2_joint"])


@each("analysis", keys=("banded::test_prediction_per_band", "split::*"))
def test_one_joint_model_is_split_as_by_himalaya(path, close):
    f = load(path)
    truth = f["partition::Y_test"]
    truth, by_band = close.of(truth, f["banded::test_prediction_per_band"])
    f = under(f, "split::")
    ours = partition.product_measure(truth, by_band)
    close(ours, f["r2_product_measure_centred_targets"])
    raw = partition.product_measure(truth, by_band, centre=False)
    close(raw, f["r2_product_measure"])
    ours = partition.correlation_parts(truth, by_band)
    close(ours, f["correlation_product_measure"])
    ours = partition.relative_weights(truth, by_band)
    close(ours, f["r2_svd_relative_weights"])


@each("analysis", keys=("test::observed_r", "test::*", "partition::Y_test"))
def test_reordered_predictions_give_the_p_values_of_the_reference(path, close):
    f = load(path)
    widest = max((k for k in f if k.startswith("partition::test_pred")), key=len)
    truth, guess = close.of(f["partition::Y_test"], f[widest])
    f, n_rows = under(f, "test::"), len(truth)
    observed = correlation(truth, guess)
    close(observed, f["observed_r"])
    length = int(f["block_length"])
    drawn = significance.block_orders(n_rows, length, len(f["block_orders"]))
    assert drawn.shape == f["block_orders"].shape
    rows = {
        "block": significance.block_rows(n_rows, length, f["block_orders"]),
        "shift": significance.shifted_rows(n_rows, f["circular_shifts"]),
    }
    for kind, order in rows.items():
        null = significance.null_correlations(truth, guess, order)
        close(null, f[f"{kind}_null_r"])
        if close.exact:
            p = significance.p_values(observed, null)
            np.testing.assert_array_equal(p, f[f"{kind}_p"])
            p = significance.p_values_of_max(observed, null)
            np.testing.assert_array_equal(p, f[f"{kind}_p_max_statistic"])


@each("analysis", keys=("fdr::p", "fdr::*"))
def test_discovery_rates_are_those_of_the_reference(path):
    f = under(load(path), "fdr::")
    for method in ("bh", "by"):
        q = significance.false_discovery_q(f["p"], method)
        np.testing.assert_allclose(q, f[f"{method}_q"], rtol=1e-8)
        np.testing.assert_array_equal(q <= 0.05, f[f"{method}_reject_05"])
    q = significance.false_discovery_q(f["p_with_nan"], "bh")
    np.testing.assert_allclose(q, f["bh_q_with_nan"], rtol=1e-8)
