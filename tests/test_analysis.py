"""Similarity, RSA and resampling: what must hold whatever the numbers are."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group

from neurofm.analysis import (
    cca,
    cka,
    heldout_cca,
    neighbours,
    rdm,
    retrieval,
    rsa,
    trsa,
)
from neurofm.errors import NeuroFMError
from neurofm.eval import nested, resampling
from neurofm.objectives.contrastive import match_loss


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_turning_and_scaling_units_changes_no_alignment(rng):
    x = rng.normal(size=(31, 6))
    turned = 3 * x @ special_ortho_group.rvs(6, random_state=0)
    assert cka.linear(x, turned) == pytest.approx(1)
    assert neighbours.mutual_knn(x, 5 * x, 4) == 1


def test_mixing_units_changes_alignment_and_no_canonical_correlation(rng):
    x = rng.normal(size=(31, 6))
    mixed = x @ (rng.normal(size=(6, 6)) + np.diag([9, 1, 1, 1, 1, 1]))
    assert cca.pwcca(x, mixed) == pytest.approx(1)
    assert cka.linear(x, mixed) < 0.9


def test_noise_of_many_units_is_alike_by_the_biased_estimate_only(rng):
    x, y = rng.normal(size=(2, 60, 30))
    assert cka.linear(x, y) > 0.25
    assert abs(cka.unbiased(cka.linear_kernel(x), cka.linear_kernel(y))) < 0.1


def test_kernels_and_features_give_one_alignment(rng):
    for p, q in ((5, 7), (50, 7), (50, 60)):
        x, y = rng.normal(size=(23, p)), rng.normal(size=(23, q))
        kernels = cka.linear_kernel(x), cka.linear_kernel(y)
        assert cka.linear(x, y) == pytest.approx(cka.biased(*kernels))


def test_batches_of_fewer_than_four_rows_are_left_out(rng):
    x, y = rng.normal(size=(2, 13, 5))
    parts = [(x[:10], y[:10]), (x[10:], y[10:])]
    assert cka.minibatch(parts) == cka.minibatch(parts[:1])
    with pytest.raises(NeuroFMError, match="needs 4 rows or more"):
        cka.hsic1(np.eye(3), np.eye(3))


def test_held_out_correlation_finds_what_is_shared_and_not_noise(rng):
    shared = rng.normal(size=(200, 3))
    x = np.hstack([shared, rng.normal(size=(200, 2))])
    y = shared @ rng.normal(size=(3, 7)) + 0.1 * rng.normal(size=(200, 7))
    found = heldout_cca.cross_validated(x, y, labels=np.arange(200) % 4)
    assert found > heldout_cca.cross_validated(x, rng.permutation(y)) + 0.3
    with pytest.raises(NeuroFMError, match="cannot be cut in 10 parts"):
        heldout_cca.cross_validated(x[:19], y[:19])
    with pytest.raises(NeuroFMError, match="cannot be scored on 4 rows"):
        heldout_cca.cross_validated(x[:40], y[:40])


def test_every_part_gets_its_share_of_every_class(rng):
    labels = np.repeat([0, 1], [70, 30])
    part = heldout_cca._parts(100, labels, rng)
    for n in range(10):
        assert np.bincount(labels[part == n]).tolist() == [7, 3]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_topology_heeds_ranks_alone(seed):
    d = np.random.default_rng(seed).uniform(0.1, 2, 28)
    warped = np.exp(3 * d)
    transforms = (trsa.geo_topological, trsa.geodesic, trsa.geodesic_of_topology)
    for transform in transforms:
        np.testing.assert_allclose(transform(d), transform(warped))
    geometry = trsa.geo_topological(d, 0, 1)
    np.testing.assert_allclose(geometry, trsa.scaled_ranks(d))


def test_nearest_pairs_do_not_depend_on_the_order_of_stimuli(rng):
    d = rng.uniform(size=45)
    order = rng.permutation(10)
    moved = rdm.upper(rdm.square(d)[np.ix_(order, order)])
    for released in (False, True):
        paths = trsa.geodesic_of_nearest(d, 2, released)
        again = trsa.geodesic_of_nearest(moved, 2, released)
        expected = rdm.upper(rdm.square(paths)[np.ix_(order, order)])
        assert np.allclose(expected, again) is not released


def test_drawn_subjects_bring_all_their_regions(rng):
    subject = np.repeat(["a", "b", "c"], 4)
    for _ in range(5):
        rows = trsa.drawn_subjects(subject, rng)
        names, counts = np.unique(subject[rows], return_counts=True)
        assert counts.sum() == 12
        assert (counts % 4 == 0).all()
        for name in names:
            assert {*np.flatnonzero(subject == name)} <= {*rows}


def test_crossvalidated_distances_of_noise_are_zero_on_average(rng):
    x = rng.normal(size=(4, 20, 9))
    found = rdm.crossnobis(x, np.eye(9))
    assert abs(found.mean()) < 0.3 < rdm.euclidean(x[0]).mean()
    assert found.min() < 0
    with pytest.raises(NeuroFMError, match="two partitions"):
        rdm.crossnobis(x[:1], np.eye(9))


def test_a_shared_cause_is_taken_out_by_a_control(rng):
    cause = rng.normal(size=300)
    a, b = (cause + 0.3 * rng.normal(size=300) for _ in range(2))
    assert rsa.compare(a, b, "pearson") > 0.8
    assert abs(rsa.partial(a, b, cause[None])) < 0.15


def test_what_is_no_number_is_never_found():
    similarity = np.array([[np.nan, 0.1, 0.2], [0.9, np.nan, 0.2]])
    assert retrieval.ranks(similarity, np.array([0, 0])).tolist() == [3, 2]


def test_labels_are_shuffled_within_their_group_alone(rng):
    group = np.array([0, 1, 0, 1, 1, 2, 0, 2])
    orders = [resampling.shuffled_within(group, rng) for _ in range(9)]
    for order in orders:
        assert sorted(order) == [*range(8)]
        np.testing.assert_array_equal(group[order], group)
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("n_features", [3, 60])
def test_two_classes_have_a_weight_each(rng, n_features):
    """At the optimum the gradient is nought: C Σ (p - y) z + W."""
    x, y = rng.normal(size=(40, n_features)), np.arange(40) % 2
    fitted = nested.logistic(x, y, 0.5, 2)
    z = (x - x.mean(0)) / x.std(0)
    e = np.exp(z @ fitted.weights + fitted.bias)
    error = e / e.sum(1, keepdims=True) - np.eye(2)[y]
    np.testing.assert_allclose(0.5 * z.T @ error + fitted.weights, 0, atol=1e-6)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-6)


def test_a_probe_of_one_class_is_refused(rng):
    with pytest.raises(NeuroFMError, match="of one class only"):
        nested.logistic(rng.normal(size=(7, 3)), np.zeros(7, int), 1.0, 2)


def test_a_silent_query_leaves_the_slopes_of_matching_finite(rng):
    query, other = rng.normal(size=(2, 5, 3)).astype(np.float32)
    query[2] = 0
    slopes = jax.grad(lambda a, b: match_loss(a, b).mean(), (0, 1))(query, other)
    assert all(np.isfinite(slope).all() for slope in slopes)
