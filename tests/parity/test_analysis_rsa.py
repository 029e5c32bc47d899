"""RDMs, their comparison and topological RSA against rsatoolbox and released code."""

import numpy as np
import pytest
from fixtures import each, load

from neurofm.analysis import rdm, rsa, trsa
from neurofm.eval.resampling import p_value

NAMES = {"tau_b": "kendall_tau_b", "tau_a": "kendall_tau_a"}


def same(ours, reference):
    np.testing.assert_allclose(ours, reference, rtol=1e-8, atol=1e-10)


@each("analysis", keys=("measurements", "noise::*", "rdm::correlation"))
def test_distances_and_noise_are_those_of_rsatoolbox(path):
    f = load(path)
    for shrinkage, name in (("diag", "shrinkage_diag"), ("eye", "shrinkage_eye")):
        covariance = rdm.noise_covariance(f["residuals"], shrinkage)
        same(covariance, f[f"noise::cov_{name}"])
        same(np.linalg.inv(covariance), f[f"noise::prec_{name}"])
    full = rdm.noise_covariance(f["residuals"], None)
    same(full, f["noise::cov_full"])
    same(np.diag(np.diag(full)), f["noise::cov_diag"])
    x, precision = f["measurements"], f["noise::prec_shrinkage_diag"]
    mean, plain = x.mean(0), np.eye(x.shape[2])
    same(rdm.correlation(mean), f["rdm::correlation"])
    same(rdm.euclidean(mean), f["rdm::euclidean_sq_per_channel"])
    same(rdm.mahalanobis(mean, precision), f["rdm::mahalanobis_sq_per_channel"])
    same(rdm.crossnobis(x, precision), f["rdm::crossnobis"])
    same(rdm.crossnobis(x, plain), f["rdm::crossnobis_identity"])


@each("analysis", keys=("compare::data_rdms", "compare::cosine"))
@pytest.mark.parametrize("measure", rsa.MEASURES)
def test_comparisons_are_those_of_rsatoolbox(path, measure):
    f = load(path)
    models = f["compare::model_rdms"]
    got = [
        [rsa.compare(a, b, measure) for b in models] for a in f["compare::data_rdms"]
    ]
    same(got, f[f"compare::{NAMES.get(measure, measure)}"])


@each("analysis", keys=("ceiling::subject_rdms", "ceiling::*_lower_upper"))
def test_noise_ceilings_are_those_of_rsatoolbox(path):
    f = load(path)
    for measure in rsa.MEASURES:
        key = f"ceiling::{NAMES.get(measure, measure)}_lower_upper"
        if key in f:
            same(rsa.noise_ceiling(f["ceiling::subject_rdms"], measure), f[key])


@each("analysis", keys=("partial::x", "bootstrap::rdm_a", "permutation::orders"))
def test_controls_resampling_and_permutation_are_those_of_the_reference(path):
    f = load(path)
    for measure in ("pearson", "spearman"):
        given = f["partial::x"], f["partial::y"], f["partial::controls"]
        same(rsa.partial(*given, measure), f[f"partial::{measure}"])
    a, b, drawn = (
        f[f"bootstrap::{name}"] for name in ("rdm_a", "rdm_b", "stimulus_indices")
    )
    for measure in ("pearson", "spearman", "cosine"):
        same(rsa.bootstrap(a, b, drawn, measure), f[f"bootstrap::{measure}"])
    n = [len(rsa.resampled(a, stimuli)) for stimuli in drawn]
    np.testing.assert_array_equal(n, f["bootstrap::n_pairs"])
    null = rsa.permuted(a, b, f["permutation::orders"], "pearson")
    same(null, f["permutation::null"])
    observed = rsa.compare(a, b, "pearson")
    same(observed, f["permutation::observed_pearson"])
    assert p_value(observed, null) == f["permutation::p_one_sided"]


topology = each("analysis", keys=("distances", "lu", "rgtm::lu", "geodesic::*"))


@topology
def test_topological_transforms_are_repaired_and_released(path):
    f = load(path)
    for released, name in ((False, "lu"), (True, "released")):
        got = [
            [trsa.geo_topological(d, low, high, released) for low, high in f["lu"]]
            for d in f["distances"]
        ]
        same(got, f[f"rgtm::{name}"])
    same(trsa.sigmoid(f["distances"]), f["rgtm::sigmoid"])
    same(trsa.sigmoid(f["distances"], 5, 0.3), f["rgtm::sigmoid_a5_b0.3"])


@topology
@pytest.mark.parametrize(
    ("paths", "name", "settings"),
    [
        (trsa.geodesic, "p_shortest", "p"),
        (trsa.geodesic_of_nearest, "k_nearest", "k"),
        (trsa.geodesic_of_topology, "twostep", "lu"),
    ],
)
def test_shortest_paths_are_repaired_and_released(path, paths, name, settings):
    f = load(path)
    grid = f[f"geodesic::{name}_{settings}"].reshape(-1, 2 if settings == "lu" else 1)
    grid = grid.tolist()

    def raw(released):
        return [[paths(d, *s, released=released) for s in grid] for d in f["distances"]]

    same(raw(True), f[f"geodesic::{name}_released_raw"])
    ours = np.array(raw(False))
    same(ours, f[f"geodesic::{name}_raw"])
    np.testing.assert_array_equal(
        trsa.ranked_paths(ours), f[f"geodesic::{name}_ranked"]
    )
    if name == "p_shortest":
        key = "geodesic::p_shortest_raw_inf_to_finite_max"
        same(trsa.finite_paths(ours[0]), f[key])


@each("analysis", keys=("identify::rdms", "identify::lu", "identify::predicted_region"))
def test_regions_are_identified_as_by_released_code(path):
    f = {k.removeprefix("identify::"): v for k, v in load(path).items()}
    subject, region = f["subject"], f["region"]
    for i, (low, high) in enumerate(f["lu"]):
        transformed = trsa.geo_topological(f["rdms"], low, high)
        found = trsa.identified(transformed, subject, region)
        np.testing.assert_array_equal(found, f["predicted_region"][i])
        same(np.mean(found == region), f["accuracy"][i])
    draws = [
        *zip(f["bootstrap_row_indices"], f["bootstrap_stimulus_indices"], strict=True)
    ]
    (key,) = (k for k in f if k.startswith("bootstrap_accuracy_lu_"))
    low, high = map(float, key.split("_")[-2:])
    got = trsa.bootstrap(f["rdms"], subject, region, draws, low, high, released=True)
    same(got, f[key])
