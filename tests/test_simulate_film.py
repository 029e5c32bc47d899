"""Simulated films and brains against their own truth."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from neurofm.quickstart import films
from neurofm.simulate import film, film_brains
from neurofm.simulate.film_brains import SHARES, TR_S

SEED, SHOWN_S = 100, 12_000.0


@pytest.fixture(scope="module")
def world():
    return film.world(SEED)


@pytest.fixture(scope="module")
def who(world):
    return film_brains.brains(world, SEED, n_subjects=2, n_parcels=60)


@pytest.fixture(scope="module")
def long(world):
    return film.film(world, SEED, 1, SHOWN_S)


def correlations(x, y):
    x, y = (a - a.mean(1, keepdims=True) for a in (x, y))
    return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))


# ---- films ---------------------------------------------------------------------------


def test_latents_forget_within_1_to_20_s():
    x = film.latents(np.random.default_rng(SEED), 4, 200_000)
    np.testing.assert_allclose(x.var(1), 1, atol=0.05)
    lag = np.array([2, 5, 15, 40])  # steps; near each time constant
    kept = [np.mean(a[:-n] * a[n:]) for a, n in zip(x, lag, strict=True)]
    constants = np.array([1.0, 20 ** (1 / 3), 20 ** (2 / 3), 20.0])
    np.testing.assert_allclose(kept, np.exp(-lag / 2 / constants), atol=0.06)


def test_read_outs_are_linear_in_their_own_features_and_half_in_those_of_others(long):
    for m, own in enumerate(long.read_outs):
        left = []
        for features in long.features:
            weights = np.linalg.lstsq(features.T, own.T, rcond=None)[0]
            left.append(np.var(own.T - features.T @ weights) / own.var())
        others = np.delete(left, m)
        assert left[m] < 0.1
        assert (others > 0.4).all()
        assert (others < 0.7).all()


def test_a_film_depends_on_its_number_and_seed_alone(world):
    one = film.film(world, SEED, 7, 20.0)
    np.testing.assert_array_equal(
        one.features, film.film(world, SEED, 7, 20.0).features
    )
    for other in (film.film(world, SEED, 8, 20.0), film.film(world, 101, 7, 20.0)):
        assert np.abs(np.corrcoef(one.features[0, 0], other.features[0, 0])[0, 1]) < 0.7


def test_nobody_trains_on_a_film_of_others_nor_of_the_test():
    runs = films.showings(films.FORTY_MINUTES)
    of = {
        split: [run for run in runs if run.split == split]
        for split in ("train", "valid", "test")
    }
    trained = [run.film for run in of["train"]]
    assert len(set(trained)) == len(trained) == 6 * 8
    later = {run.film for run in of["valid"] + of["test"]}
    assert not set(trained) & later
    for subject in range(6):
        mine = [run for run in of["train"] if run.subject == subject]
        assert len(mine) * films.FORTY_MINUTES.film_s == 40 * 60
        tested = [
            (run.film, run.repeat) for run in of["test"] if run.subject == subject
        ]
        assert tested == [(20_000 + f, r) for f in range(3) for r in range(3)]


# ---- brains --------------------------------------------------------------------------


def test_kinds_have_their_shares(world):
    drawn = film_brains.brains(world, SEED, 1, 100)
    counts = {kind: int((drawn.kind == kind).sum()) for kind in SHARES}
    told = {"product": 20, "compressive": 10, "memory": 10, "null": 15, "linear": 45}
    assert counts == told
    linear = np.bincount(drawn.modality[drawn.kind == "linear"], minlength=3)
    assert linear.min() >= 10


def test_the_ceiling_is_the_share_of_variance_that_follows_the_film(who, long):
    signal = film_brains.response(who, long, 0)
    measured = film_brains.recorded(who, long, 0, SEED, 3)
    there = who.kind != "null"
    np.testing.assert_allclose(measured.var(1), 1, atol=0.35)
    shared = correlations(signal[there], measured[there]) ** 2
    np.testing.assert_allclose(shared, who.ceiling[there], atol=0.12)
    assert abs(np.mean(shared - who.ceiling[there])) < 0.02
    assert (who.ceiling[there] >= 0.1).all()
    assert (who.ceiling[there] <= 0.7).all()


def test_null_parcels_follow_nothing(who, long, monkeypatch):
    monkeypatch.setattr(film_brains, "DRIFT_POWER", 0.0)  # alike by chance
    null = who.kind == "null"
    assert null.sum() == 9
    assert not film_brains.response(who, long, 1)[null].any()
    assert not who.ceiling[null].any()
    first, second = (film_brains.recorded(who, long, 1, SEED, r)[null] for r in (0, 1))
    assert np.abs(correlations(first, second)).max() < 0.06


def test_noise_remembers_a_volume_by_four_tenths(monkeypatch):
    monkeypatch.setattr(film_brains, "DRIFT_POWER", 0.0)
    monkeypatch.setattr(film_brains, "GLOBAL_POWER", 0.0)
    x = film_brains.noise(np.random.default_rng(SEED), 5, 50_000)
    np.testing.assert_allclose(x.var(1), 1, atol=0.05)
    kept = [np.mean(x[:, :-n] * x[:, n:]) for n in (1, 2, 3)]
    np.testing.assert_allclose(kept, [0.4, 0.16, 0.064], atol=0.02)
    apart = np.corrcoef(x)[np.triu_indices(5, 1)]
    np.testing.assert_allclose(apart, 0, atol=0.03)


def test_drift_is_slow_and_one_signal_is_in_all_parcels():
    x = film_brains.noise(np.random.default_rng(SEED), 400, 3000)
    power = np.abs(np.fft.rfft(x)) ** 2
    slow = power[:, 1:3].sum(1) / power[:, 1:].sum(1)  # at most two cycles a run
    assert 0.05 < slow.mean() < 0.2
    apart = np.corrcoef(x - x.mean(1, keepdims=True))[np.triu_indices(400, 1)]
    assert 0.05 < apart.mean() < 0.2


def test_responses_peak_4_to_7_s_after_a_moment(who):
    assert (who.peak_s >= 4).all()
    assert (who.peak_s <= 7).all()
    kernels = film_brains.haemodynamic(who.peak_s[0])
    np.testing.assert_allclose(kernels.argmax(1) / 2, who.peak_s[0], atol=0.26)


def test_volumes_are_told_at_their_middles(who, long):
    driven = film_brains.drive(who, long, 0)
    p = int(np.flatnonzero(who.kind == "linear")[0])
    kernel = film_brains.haemodynamic(who.peak_s[0, [p]])[0]
    flow = fftconvolve(driven[p], kernel)[: driven.shape[1]] * who.scale[0, p]
    steps_s = (np.arange(len(flow)) + 0.5) / 2
    middles = (np.arange(round(SHOWN_S / TR_S)) + 0.5) * TR_S
    expected = np.interp(middles, steps_s, flow)
    np.testing.assert_allclose(
        film_brains.response(who, long, 0)[p], expected, rtol=1e-6, atol=1e-6
    )


def test_a_product_has_no_linear_part_and_a_linear_parcel_no_other(who, long):
    driven = film_brains.drive(who, long, 0)
    seen = long.read_outs.reshape(6, -1)
    beside = np.concatenate([np.roll(seen, lag, 1) for lag in (0, 1, 4, 10)])
    guess = np.linalg.lstsq(beside.T, driven.T, rcond=None)[0].T @ beside
    left = (driven - driven.mean(1, keepdims=True) - guess).var(1)
    share = 1 - left / np.maximum(driven.var(1), 1e-9)
    assert (share[who.kind == "linear"] > 0.999).all()
    assert (share[who.kind == "product"] < 0.05).all()
    for kind in ("compressive", "memory"):
        assert (share[who.kind == kind] > 0.7).all(), kind
        assert (share[who.kind == kind] < 0.97).all(), kind


def test_adapting_divides_by_the_mean_size_of_the_last_seconds():
    x = np.random.default_rng(SEED).standard_normal(60)
    slow = []
    for t in range(60):
        before = [abs(x[i]) for i in range(t - 22, t) if i >= 0]  # 11 s
        slow.append(x[t] / (0.1 + sum(before) / 22))
    np.testing.assert_allclose(film_brains.adapted(x, 11.0), slow)


def test_people_agree_on_what_a_parcel_follows_but_not_wholly(who):
    alike = (who.weights[0] * who.weights[1]).sum(1)
    assert np.median(alike) > 0.8
    assert alike.max() < 1
