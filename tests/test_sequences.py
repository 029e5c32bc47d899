"""CTC against all paths, the plain decoding and edit distances against slow ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.eval.answers import distance
from neurofm.objectives import sequences

T, K = 5, 3


def collapsed(path):
    """Repeats joined, then blanks (0) left out."""
    joined = [k for k, _ in itertools.groupby(path)]
    return tuple(k - 1 for k in joined if k)


def likelihood(outputs, n_tokens, label):
    """Sum over all paths that give the sequence."""
    p = np.exp(outputs - np.log(np.exp(outputs).sum(-1, keepdims=True)))
    paths = itertools.product(range(K + 1), repeat=n_tokens)
    return sum(
        np.prod([p[t, k] for t, k in enumerate(path)])
        for path in paths
        if collapsed(path) == label
    )


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    outputs = rng.normal(0, 1.5, (6, T, K + 1))
    labels = [(0, 1), (2, 2), (1,), (), (0, 0, 0), (2, 0, 1)]
    n_tokens = [5, 4, 3, 5, 4, 3]
    label = np.full((6, 4), -1, np.int32)
    for row, own in zip(label, labels, strict=True):
        row[: len(own)] = own
    mask = np.arange(T) < np.array(n_tokens)[:, None]
    return outputs, mask, label, labels, n_tokens


def test_the_loss_sums_all_paths_and_leaves_out_what_has_none():
    outputs, mask, label, labels, n_tokens = drawn()
    valid = np.array([True, True, True, True, True, False])
    arrays = (jnp.asarray(outputs, jnp.float32), *map(jnp.asarray, (mask, label)))
    (total, weight), sums = jax.jit(sequences.ctc)(*arrays, jnp.asarray(valid))
    each = [
        -np.log(likelihood(o, n, own))
        for o, n, own in zip(outputs[:4], n_tokens, labels, strict=False)
    ]
    np.testing.assert_allclose(total, sum(each), rtol=1e-4)
    assert weight == 4  # three alike need five tokens and have four
    assert sums["impossible"][0] == 1
    rest = (*arrays[1:], jnp.asarray(valid))
    slope = jax.jit(jax.grad(lambda x: sequences.ctc(x, *rest)[0][0]))(arrays[0])
    assert np.isfinite(slope).all()
    assert not np.asarray(slope[4:]).any()


def test_edits_are_counted_from_the_plain_decoding():
    outputs, mask, label, labels, n_tokens = drawn(1)
    best = outputs.argmax(-1)
    made = [collapsed(row[:n]) for row, n in zip(best, n_tokens, strict=True)]
    found = jax.jit(sequences.distances)(*map(jnp.asarray, (best, mask, label)))
    wanted = [slow(a, b) for a, b in zip(made, labels, strict=True)]
    np.testing.assert_array_equal(found, wanted)
    assert len(set(wanted)) > 2
    symbols, kept = sequences.emitted(jnp.asarray(best), jnp.asarray(mask))
    told = [tuple(s[k].tolist()) for s, k in zip(symbols, kept, strict=True)]
    assert told == made
    pairs = zip(made, labels, strict=True)
    again = [distance(np.array(a, int), np.array(b, int)) for a, b in pairs]
    assert again == wanted
    *_, sums = jax.jit(sequences.ctc)(
        *map(jnp.asarray, (outputs, mask, label, mask[:, 0]))
    )
    rate = sum(wanted) / sum(map(len, labels))
    accuracy = sequences.summary(sums)["symbol_accuracy"]
    np.testing.assert_allclose(accuracy, 1 - rate, rtol=1e-6)


def slow(a, b):
    """Edit distance by trying the three ways out of the first symbols."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return slow(a[1:], b[1:])
    return 1 + min(slow(a[1:], b), slow(a, b[1:]), slow(a[1:], b[1:]))


@pytest.mark.parametrize("seed", range(3))
def test_long_sequences_have_the_distance_of_the_slow_way(seed):
    rng = np.random.default_rng(seed)
    best = rng.integers(0, 4, (4, 7))
    mask = np.arange(7) < rng.integers(3, 8, (4, 1))
    label = rng.integers(0, 3, (4, 5))
    label[np.arange(5) >= rng.integers(1, 6, (4, 1))] = -1
    found = jax.jit(sequences.distances)(*map(jnp.asarray, (best, mask, label)))
    for row in range(4):
        a = collapsed(best[row][mask[row]])
        b = tuple(label[row][label[row] >= 0].tolist())
        assert found[row] == slow(a, b)
