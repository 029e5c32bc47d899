"""Residual quantisation: codebooks that move, start and come back to life."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from neurofm.nn.quantizers import (
    DEAD_BELOW,
    ResidualQuantizer,
    kmeans,
    rotated,
    sample,
    straight_through,
)

RNG = np.random.default_rng(3)
Z = RNG.normal(0, 1, (37, 5)).astype(np.float32)
VALID = np.arange(37) % 9 != 2
PLAIN = ResidualQuantizer(width=5, n_levels=3, n_codes=7, code_width=5)
PROJECTED = replace(PLAIN, code_width=2)
SIMVQ = replace(PLAIN, method="simvq", code_width=4)
PLACES = np.arange(37, dtype=np.int32) + 100


def started(quantizer, z=Z, valid=VALID, seed=0):
    params = quantizer.init_params(jax.random.key(seed))
    start = quick.jit(quantizer.start_buffers)
    return params, start(jax.random.key(1), params, z, valid)


def quantized(quantizer, params, books, train, z=Z, valid=VALID, **revival):
    run = quick.jit(quantizer, static_argnums=4)
    return run(params, books, z, valid, train, **revival)


def slow_levels(quantizer, params, books, z):
    """Level after level, vector after vector, in float64."""
    residual, codes, outs = z.astype(float), [], []
    for q in range(quantizer.n_levels):
        own = jax.tree.map(lambda x, q=q: np.asarray(x[q], float), params)
        book = {k: np.asarray(v[q], float) for k, v in books.items()}
        h = residual
        if quantizer.method == "simvq":
            t = book["frozen_codebook"] @ own["linear"]["kernel"]
            t = t + own["linear"]["bias"]
            selu = np.asarray(jax.nn.selu(t), float)
            table = t + selu @ own["residual"]["kernel"] + own["residual"]["bias"]
        else:
            table = book["embed"]
        if quantizer.projects:
            h = h @ own["project_in"]["kernel"] + own["project_in"]["bias"]
        distance = np.array([[np.linalg.norm(a - b) for b in table] for a in h])
        index = distance.argmin(-1)
        out = table[index]
        if quantizer.projects:
            out = out @ own["project_out"]["kernel"] + own["project_out"]["bias"]
        residual = residual - out
        codes.append(index)
        outs.append(out)
    return np.array(codes).T, np.array(outs)


@pytest.mark.parametrize("quantizer", [PLAIN, PROJECTED, SIMVQ])
@pytest.mark.parametrize("train", [False, True])
def test_levels_are_those_of_a_plain_search(quantizer, train):
    params, books = started(quantizer)
    params = jax.tree.map(lambda x: x + 0.3, params)
    found = quantized(quantizer, params, books, train)
    codes, outs = slow_levels(quantizer, params, books, Z)
    np.testing.assert_array_equal(found.indices, codes)
    np.testing.assert_allclose(found.levels, outs, atol=1e-5)
    again = quick.jit(quantizer.vectors)(params, books, found.indices)
    np.testing.assert_allclose(again, outs, atol=1e-5)
    counts = [np.bincount(codes[VALID, q], minlength=7) for q in range(3)]
    np.testing.assert_array_equal(found.sums["count"], counts)
    left = Z - np.cumsum(outs, 0)
    energy = np.square(left[:, VALID]).sum((1, 2))
    np.testing.assert_allclose(found.sums["energy"], energy, rtol=1e-4)


def test_of_equally_near_codes_the_first_is_taken():
    books = {"embed": jnp.zeros((3, 7, 5))}
    found = quantized(PLAIN, {}, books, False)
    assert (np.asarray(found.indices) == 0).all()


# ---- gradients -----------------------------------------------------------------------


def test_a_rotated_code_is_the_code_and_turns_gradients_as_it_turned_the_vector():
    h, e = (jnp.asarray(RNG.normal(0, s, (4, 5)), jnp.float32) for s in (1, 3))
    value, pull = jax.vjp(lambda h: rotated(h, e), h)
    np.testing.assert_allclose(value, e, atol=1e-5)
    scale = np.linalg.norm(e, axis=-1) / np.linalg.norm(h, axis=-1)
    (back,) = pull(e)  # the transpose turns e back to h, and scales again
    np.testing.assert_allclose(back, scale[:, None] ** 2 * h, rtol=1e-4)
    g = jnp.asarray(RNG.normal(0, 1, (4, 5)), jnp.float32)
    length = np.linalg.norm(pull(g)[0], axis=-1)
    np.testing.assert_allclose(length, scale * np.linalg.norm(g, axis=-1), rtol=1e-4)


def test_zero_vectors_and_zero_codes_give_finite_gradients():
    h = jnp.zeros((2, 5))
    grads = jax.grad(lambda h: (rotated(h, jnp.zeros((2, 5))) ** 2).sum())(h)
    assert np.isfinite(grads).all()


def test_straight_through_is_the_code_with_the_gradient_of_the_vector():
    h, e = jnp.asarray(Z[:3]), jnp.asarray(Z[3:6])
    value, pull = jax.vjp(lambda h: straight_through(h, e), h)
    np.testing.assert_allclose(value, e, atol=1e-6)
    np.testing.assert_array_equal(pull(h)[0], h)


# ---- moving averages -----------------------------------------------------------------


def sums_of(quantizer, books, params, z, valid, picks=None, place=PLACES):
    revival = {} if picks is None else {"picks": picks, "place": place}
    return quantized(quantizer, params, books, True, z, valid, **revival).sums


@pytest.mark.parametrize("quantizer", [PLAIN, PROJECTED])
def test_codebooks_move_by_the_published_averages(quantizer):
    quantizer = replace(quantizer, revival="released", decay=0.9)
    params, books = started(quantizer)
    sums = sums_of(quantizer, books, params, Z, VALID)
    moved = quantizer.moved(books, sums)
    for q in range(3):
        n = 0.9 * books["count"][q] + 0.1 * np.asarray(sums["count"][q])
        m = 0.9 * books["total"][q] + 0.1 * np.asarray(sums["total"][q])
        smooth = (n + 1e-6) / (n.sum() + 7e-6) * n.sum()
        np.testing.assert_allclose(moved["embed"][q], m / smooth[:, None], rtol=1e-5)
        np.testing.assert_allclose(moved["count"][q], n, rtol=1e-6)


def test_sums_of_pieces_are_the_sums_of_the_whole():
    params, books = started(PLAIN)
    picks = RNG.integers(100, 137, (3, 7))
    whole = sums_of(PLAIN, books, params, Z, VALID, picks)
    parts = [
        sums_of(PLAIN, books, params, Z[p], VALID[p], picks, PLACES[p])
        for p in (slice(0, 20), slice(20, 37))
    ]
    added = jax.tree.map(jnp.add, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), added, whole)


def test_dead_codes_become_vectors_of_the_batch():
    params, books = started(PLAIN)
    picks = np.tile(np.array([103, 104, 105, 106, 107, 108, 102]), (3, 1))
    sums = sums_of(PLAIN, books, params, Z, VALID, picks)
    books = {**books, "count": books["count"].at[:, 2:].set(0.01)}
    kept = replace(PLAIN, revival="released").moved(books, sums)
    moved = PLAIN.moved(books, sums)
    dead = np.asarray(kept["count"]) < DEAD_BELOW
    assert dead[:, 2:].any()
    assert not VALID[2]  # the place 102, which code 6 would take
    revived = dead & (np.arange(7) < 6)
    np.testing.assert_array_equal(
        np.asarray(moved["embed"])[0, revived[0]], Z[3:9][revived[0, :6]]
    )
    np.testing.assert_array_equal(moved["count"][revived], DEAD_BELOW)
    again = moved["total"] / moved["count"][..., None]
    np.testing.assert_allclose(again[revived], moved["embed"][revived], rtol=1e-6)
    for name in ("embed", "count", "total"):
        np.testing.assert_array_equal(moved[name][~revived], kept[name][~revived])


def test_averages_in_bfloat16_are_rounded_to_it():
    params, books = started(PLAIN)
    released = replace(PLAIN, revival="released")
    sums = sums_of(released, books, params, Z, VALID)
    rounded = replace(released, precision="bfloat16").moved(books, sums)
    exact = released.moved(books, sums)
    for name, x in exact.items():
        np.testing.assert_array_equal(
            rounded[name], x.astype(jnp.bfloat16).astype(jnp.float32)
        )


# ---- the start -----------------------------------------------------------------------


def test_k_means_leaves_empty_clusters_where_they_are():
    samples = jnp.asarray([[0.0, 0], [0, 1], [9, 9], [9, 8]])
    start = jnp.asarray([[0.0, 0], [9, 9], [-50, -50]])
    centers, bins = kmeans(samples, jnp.ones(4), start)
    np.testing.assert_array_equal(centers, [[0, 0.5], [9, 8.5], [-50, -50]])
    np.testing.assert_array_equal(bins, [2, 2, 1])


def test_vectors_that_do_not_count_move_no_centre():
    samples = jnp.asarray([[0.0], [1], [50]])
    centers, bins = kmeans(samples, jnp.asarray([1.0, 1, 0]), jnp.asarray([[0.0]]))
    np.testing.assert_array_equal(centers, [[0.5]])
    np.testing.assert_array_equal(bins, [2])


def test_samples_are_distinct_valid_vectors_in_random_order():
    one, weight = sample(jax.random.key(0), jnp.asarray(Z), jnp.asarray(VALID), 7)
    assert weight.sum() == VALID.sum()
    chosen = np.asarray(one)[np.asarray(weight) > 0]
    assert {tuple(r) for r in chosen} == {tuple(r) for r in Z[VALID]}
    other, _ = sample(jax.random.key(1), jnp.asarray(Z), jnp.asarray(VALID), 7)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("n", [3, 37])
def test_noise_makes_up_for_missing_vectors(n):
    valid = jnp.arange(n) < 3
    vectors, weight = sample(jax.random.key(0), jnp.asarray(Z[:n]), valid, 7)
    assert weight.sum() == 7
    assert {tuple(r) for r in np.asarray(vectors)[:3]} == {tuple(r) for r in Z[:3]}
    made_up = np.asarray(vectors)[3:7]
    assert len({tuple(r) for r in made_up}) == 4
    assert np.abs(made_up).max() < 5


@pytest.mark.parametrize("start", ["consistent", "released"])
def test_only_consistent_sums_keep_the_size_of_codes_at_the_first_step(start):
    z = np.repeat(Z, 8, axis=0) / np.linalg.norm(np.repeat(Z, 8, 0), axis=-1)[:, None]
    quantizer = replace(PLAIN, start=start, revival="released", n_levels=1)
    params, books = started(quantizer, z, np.ones(len(z), bool))
    sums = sums_of(quantizer, books, params, z, np.ones(len(z), bool))
    moved = quantizer.moved(books, sums)
    norm = lambda x: np.linalg.norm(x["embed"], axis=-1)  # noqa: E731
    shrunk = norm(moved) / norm(books)
    if start == "consistent":
        np.testing.assert_allclose(shrunk, 1, atol=0.02)
    else:
        assert shrunk.max() < 0.3
