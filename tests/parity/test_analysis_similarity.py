"""CKA, CCA, unit and neighbour similarity against published code and enumeration."""

import re

import numpy as np
import pytest
from fixtures import each, load

from neurofm.analysis import cca, cka, heldout_cca, neighbours, speech, units

similarity = each("analysis", keys=("X0", "X1", "cka_linear", "cca::mean"))


def same(ours, reference):
    np.testing.assert_allclose(ours, reference, rtol=1e-8, atol=1e-10)


def views(f):
    return [f[f"X{i}"] for i in range(sum(bool(re.fullmatch(r"X\d+", k)) for k in f))]


def table(measure, given):
    return [[measure(a, b) for b in given] for a in given]


@similarity
def test_kernel_alignment_is_that_of_published_code(path):
    f = load(path)
    X = views(f)
    linear = [cka.linear_kernel(x) for x in X]
    same(table(cka.linear, X), f["cka_linear"])
    same(table(cka.biased, linear), f["cka_linear"])
    same(table(cka.hsic1, linear), f["hsic1_linear"])
    same(table(cka.unbiased, linear), f["cka_unbiased"])
    distances = [np.median(cka.squared_distances(x)) for x in X]
    same(distances, f["rbf_median_sq_distance"])
    for key in f:
        if found := re.fullmatch(r"cka_rbf_t([\d.]+)(_unbiased)?", key):
            kernels = [cka.rbf_kernel(x, float(found[1])) for x in X]
            same(table(cka.unbiased if found[2] else cka.biased, kernels), f[key])


@similarity
def test_batches_add_up_to_the_alignment_of_published_code(path):
    f = load(path)
    batch = f["minibatch::batch_of_row"]

    def measure(x, y):
        parts = ((x[batch == n], y[batch == n]) for n in np.unique(batch))
        return cka.minibatch(parts)

    same(table(measure, views(f)), f["minibatch::cka"])


@similarity
def test_canonical_correlations_are_cosines_between_subspaces(path):
    f = load(path)
    X = views(f)
    assert [cca.basis(x).shape[1] for x in X] == f["rank"].tolist()
    same(table(cca.mean_cca, X), f["cca::mean"])
    for key in f:
        if found := re.fullmatch(r"cca::rho_(\d)(\d)(?:_eps(.+))?", key):
            x, y = (X[int(i)] for i in found.groups()[:2])
            if found[3]:
                rho = cca.directions(x, y, (float(found[3]),) * 2).rho
            else:
                rho = cca.canonical(x, y).rho
            same(rho, f[key])
        if found := re.fullmatch(r"cca::released_trimmed_mean_(\d)(\d)", key):
            rho = cca.canonical(*(X[int(i)] for i in found.groups())).rho
            same(cca.leading_mean(rho), f[key])


@similarity
def test_projection_weighted_correlations_are_those_of_the_definition(path):
    f = load(path)
    X = views(f)
    for side, name in (("first", "directed"), ("both", "symmetric")):
        same(table(lambda x, y, s=side: cca.pwcca(x, y, s), X), f[f"pwcca::{name}"])
    same(table(cca.pwcca, X), f["pwcca::smaller_view"])
    for key in f:
        if found := re.fullmatch(r"pwcca::weights_(\d)(\d)", key):
            x, y = (X[int(i)] for i in found.groups())
            first = cca.canonical(x, y).first
            same(cca.projection_weights(first, cca.centred(x)), f[key])


@similarity
def test_correlations_of_leading_components_are_those_of_the_definition(path):
    f = load(path)
    X = views(f)
    assert [cca.reduced(x).shape[1] for x in X] == f["svcca::kept"].tolist()
    same(table(cca.svcca, X), f["svcca::mean_rho"])


@similarity
def test_released_variants_give_what_public_code_gives(path):
    f = load(path)
    X = views(f)
    for key in f:
        if found := re.fullmatch(r"pwcca::released_svcca_repo_(\d)(\d)", key):
            x, y = (X[int(i)] for i in found.groups())
            same(cca.pwcca(x, y, released="google"), f[key])
            assert abs(cca.pwcca(x, y) - f[key]) > 1e-6
        if found := re.fullmatch(r"(pw|sv)cca::released_contextual_(\d+)", key):
            given = [X[int(i)] for i in found[2]]

            def measure(x, y, kind=found[1]):
                if kind == "sv":
                    return cca.svcca(x, y, released="contextual")
                return cca.pwcca(x, y, "first", released="contextual")

            same(table(measure, given), f[key])


@similarity
@pytest.mark.parametrize(
    ("side", "words"),
    [("smaller", ""), ("both", "symmetric_"), ("released", "released_")],
)
def test_held_out_rows_score_as_in_the_layer_wise_protocol(path, side, words):
    f = load(path)
    x, y, *_ = views(f)
    parts = [f[f"heldout::{part}_rows"] for part in ("train", "dev", "test")]
    eps = [tuple(pair) for pair in f["heldout::eps"]]
    found = heldout_cca.fit_and_score(x, y, parts, eps, side)
    same(found.scores, f[f"heldout::pwcca_{words}train_dev_test"])
    if side == "smaller":
        assert found.selected == f["heldout::selected"]
        same(found.score, f["heldout::test_score"])
        train = parts[0]
        kept = [
            [k.sum() for k in cca.directions(x[train], y[train], pair).kept]
            for pair in eps
        ]
        np.testing.assert_array_equal(kept, f["heldout::kept_columns"])


@similarity
def test_units_match_their_likes_as_in_published_code(path):
    f = load(path)
    X = views(f)
    for i, x in enumerate(X):
        others = [y for j, y in enumerate(X) if j != i]
        best = [units.max_correlation(x, y) for y in others]
        same(best, f[f"neuron::maxcorr_X{i}"])
        same([b.mean() for b in best], f["neuron::maxcorr_layer_mean"][i])
        which = [units.correlations(x, y).argmax(1) for y in others]
        np.testing.assert_array_equal(which, f[f"neuron::maxcorr_best_other_unit_X{i}"])
        same(units.min_correlation(x, others), f[f"neuron::mincorr_X{i}"])
        same([units.linear_fit(x, y) for y in others], f[f"neuron::linreg_X{i}"])


@similarity
@pytest.mark.parametrize(
    ("clip", "words"), [("exact", "global_quantile"), ("rows", "mean_of_row_quantiles")]
)
def test_mutual_neighbours_are_those_of_published_code(path, clip, words):
    f = load(path)
    X = views(f)
    limits = [neighbours.clip_threshold(x, clip) for x in X]
    same(limits, f[f"mutual_knn::{words}_thresholds"])
    for key in f:
        if found := re.fullmatch(rf"mutual_knn::{words}_k(\d+)", key):
            k = int(found[1])
            got = table(lambda x, y, k=k: neighbours.mutual_knn(x, y, k, clip), X)
            same(got, f[key])


@similarity
def test_clusters_words_and_attention_are_those_of_the_references(path):
    f = load(path)
    cluster = speech.nearest_cluster(f["mi::heldout_features"], f["mi::centroids"])
    np.testing.assert_array_equal(cluster, f["mi::heldout_clusters"])
    shared, share = speech.mutual_information(cluster, f["mi::heldout_labels"])
    same([shared, share], [f["mi::mi_nats"], f["mi::normalised"]])
    precision = speech.word_discrimination(f["awd::embeddings"], f["awd::words"])
    same(precision, f["awd::average_precision"])
    a, b = f["attention::A"], f["attention::B"]
    same(units.attention_divergence(a, b), f["attention::js_nats"])
    best = f["attention::best_similarity_per_head_of_A"]
    same(units.attention_similarity(a, b), best)
