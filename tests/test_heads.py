"""Heads, answers and changes of signals, each against a slow reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.eval import answers as scoring
from neurofm.eval.stats import resampled
from neurofm.nn.heads import Head
from neurofm.objectives import answers
from neurofm.signals.augment import Augment

B, T, D, K = 2, 7, 5, 3


def tokens(n_layers=1):
    rng = np.random.default_rng(0)
    layers = [rng.normal(0, 1, (B, T, D)).astype(np.float32) for _ in range(n_layers)]
    mask = np.arange(T) < np.array([[4], [7]])
    return layers, mask


def on_device(*arrays):
    return [jnp.asarray(x) for x in arrays]


def random_like(params):
    rng = np.random.default_rng(1)
    return {
        name: jnp.array(rng.normal(0, 1, x.shape), jnp.float32)
        for name, x in params.items()
    }


def test_attention_and_mixing_are_weighted_means():
    layers, mask = tokens(3)
    head = Head("linear", "attention", mixed=True, hidden=0)
    params = random_like(head.start(jax.random.key(0), 3, (T, D), K))
    got = head.outputs(params, on_device(*layers), jnp.asarray(mask))
    p = {name: np.array(x, np.float64) for name, x in params.items()}
    share = np.exp(p["mix"]) / np.exp(p["mix"]).sum()
    for b in range(B):
        x = sum(w * t[b] for w, t in zip(share, layers, strict=True))[mask[b]]
        weight = np.exp(x @ p["query"] / np.sqrt(D))
        pooled = (x * (weight / weight.sum())[:, None]).sum(0)
        np.testing.assert_allclose(got[b], pooled @ p["kernel"] + p["bias"], rtol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_fresh_pooling_is_the_mean_of_what_is_there(pool):
    (x,), mask = tokens()
    head = Head("linear", pool, mixed=False, hidden=0)
    params = head.start(jax.random.key(0), 1, (T, D), K)
    params["kernel"] = jnp.eye(D, K)
    mean = np.stack([x[b][mask[b]].mean(0) for b in range(B)])
    np.testing.assert_allclose(
        head.outputs(params, on_device(x), jnp.asarray(mask)), mean[:, :K], rtol=1e-5
    )
    nothing = head.outputs(params, on_device(x), jnp.zeros((B, T), bool))
    np.testing.assert_array_equal(nothing, np.zeros((B, K)))


def test_bins_are_means_of_equal_shares_of_what_is_there():
    (x,), mask = tokens()
    head = Head("linear", "bins", mixed=False, hidden=0, n_parts=3)
    params = head.start(jax.random.key(0), 1, (T, D), K)
    assert params["kernel"].shape == (3 * D, K)
    params["kernel"] = jnp.eye(3 * D)
    params["bias"] = jnp.zeros(3 * D)
    got = head.outputs(params, on_device(x), jnp.asarray(mask))
    for b in range(B):
        means = [part.mean(0) for part in np.array_split(x[b][mask[b]], 3)]
        np.testing.assert_allclose(got[b], np.concatenate(means), rtol=1e-5)
    nothing = head.outputs(params, on_device(x), jnp.zeros((B, T), bool))
    np.testing.assert_array_equal(nothing, np.zeros((B, 3 * D)))


@pytest.mark.parametrize("pool", ["mean", "bins", "none"])
def test_usual_features_have_mean_0_and_deviation_1_over_valid_items(pool):
    rng = np.random.default_rng(0)
    x = (7 + 0.1 * rng.normal(0, 1, (6, T, D))).astype(np.float32)
    mask, valid = np.ones((6, T), bool), np.arange(6) < 5
    mask[1, 4:] = False
    head = Head("linear", pool, mixed=False, hidden=0, n_parts=2)
    params = head.start(jax.random.key(0), 1, (T, D), K)
    width = head.n_features((T, D))
    params |= {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    given = (params, on_device(x), jnp.asarray(mask))
    usual = head.usual(*given, jnp.asarray(valid))
    got = np.array(head.outputs(*given, usual=usual))
    got = got[mask & valid[:, None]] if pool == "none" else got[valid]
    np.testing.assert_allclose(got.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(got.std(0), 1, rtol=2e-3)


def test_rare_classes_weigh_what_they_are_given():
    logits = np.array([[1.0, -2, 0], [0, 1, 3], [2, 0, 1], [0, 0, 0]], np.float32)
    label, weight = np.array([0, 2, 1, 1]), np.array([0.5, 2.0, 1.0], np.float32)
    valid = np.array([True, True, True, False])
    of = np.eye(3, dtype=np.float32)[label]
    (total, n), _ = answers.classes(*on_device(logits, of, valid, weight))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    each = [-weight[k] * log_p[i, k] for i, k in enumerate(label[:3])]
    np.testing.assert_allclose(total, sum(each), rtol=1e-5)
    np.testing.assert_allclose(n, weight[label[:3]].sum())


def test_tags_are_told_one_by_one():
    logits = np.array([[1.0, -2, 3], [-1, 1, 2], [9, 9, 9]], np.float32)
    label = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    valid, weight = np.array([True, True, False]), np.array([3.0, 1, 2], np.float32)
    (total, n), sums = answers.tags(*on_device(logits, label, valid, weight))
    p = 1 / (1 + np.exp(-logits[:2].astype(float)))
    each = np.where(label[:2] > 0, -weight * np.log(p), -np.log(1 - p))
    np.testing.assert_allclose(total, each.sum(), rtol=1e-5)
    np.testing.assert_allclose(n, 3 + 3 + 1 + 1 + 1 + 2)  # what is there, or is not
    # Tag 0: one of two found; tag 1: found; tag 2: found, and once too often.
    f1 = [2 / 3, 1, 2 / 3]
    np.testing.assert_allclose(answers.summary("tags", sums)["f1"], np.mean(f1))


def test_numbers_that_are_not_known_weigh_nothing():
    rng = np.random.default_rng(2)
    guess, truth = rng.normal(0, 1, (2, 9, K)).astype(np.float32)
    truth[:4, 0] = np.nan
    valid = np.arange(9) < 8
    (total, n), sums = answers.numbers(*on_device(guess, truth, valid))
    known = np.isfinite(truth) & valid[:, None]
    np.testing.assert_allclose(total, ((guess - truth)[known] ** 2).sum(), rtol=1e-5)
    assert n == known.sum() == 20
    r2 = []
    for k in range(K):
        y, made = truth[known[:, k], k], guess[known[:, k], k]
        r2.append(1 - ((y - made) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    found = answers.summary("numbers", sums)["r2"]
    np.testing.assert_allclose(found, np.mean(r2), rtol=1e-4)


def test_a_number_that_is_one_everywhere_has_no_share_in_r2():
    rng = np.random.default_rng(6)
    truth = rng.normal(0, 1, (9, 2)).astype(np.float32)
    truth[:, 1] = 0.7
    guess = truth + 0.1
    _, sums = answers.numbers(*on_device(guess, truth, np.ones(9, bool)))
    found = answers.summary("numbers", sums)["r2"]
    wanted = 1 - 0.01 / truth[:, 0].var()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_scores_of_tags_and_numbers_follow_their_definitions():
    rng = np.random.default_rng(3)
    truth = (rng.random((40, 4)) < 0.3).astype(np.float32)
    truth[:, 2] = 0  # never there: left out
    made = truth + rng.normal(0, 0.7, truth.shape)
    groups = np.arange(40) // 2
    found = scoring.score("tags", made, truth, groups, tuple("wxyz"), ())
    each = []
    for k in (0, 1, 3):
        order = np.argsort(-made[:, k])
        hits = truth[order, k]
        precision = np.cumsum(hits) / (np.arange(40) + 1)
        each.append((precision * hits).sum() / hits.sum())
    assert found["tags_left_out"] == 1
    np.testing.assert_allclose(found["scores"]["model"]["mean"], np.mean(each))
    np.testing.assert_allclose([*found["by_tag"].values()], each)
    model = found["scores"]["model"]
    assert model["low"] < model["mean"] < model["high"]
    y = rng.normal(5, 2, (40, 2))
    y[:9, 1] = np.nan
    made = np.nan_to_num(y, nan=0.0) + rng.normal(0, 1, y.shape)
    found = scoring.score("numbers", made, y, groups, ("a", "b"), (5.0, 5.0))
    for k, name in enumerate("ab"):
        known = np.isfinite(y[:, k])
        error = ((y - made)[known, k] ** 2).mean()
        np.testing.assert_allclose(
            found["by_number"][name], 1 - error / y[known, k].var()
        )
    assert found["scores"]["chance"]["mean"] < 0.05 < found["scores"]["model"]["low"]


def test_scores_of_sequences_and_responses_follow_their_definitions():
    made = np.array([[0, 1, -1], [2, -1, -1], [-1, -1, -1], [0, 0, 0]])
    truth = np.array([[0, 1], [1, 2], [1, -1], [0, 0]])
    found = scoring.score("sequence", made, truth, np.arange(4), tuple("abc"), ())
    # Right; one left out; nothing told of one symbol; one too many: 3 edits of 7.
    np.testing.assert_allclose(found["scores"]["model"]["mean"], 3 / 7)
    assert found["scores"]["model"]["all_right"] == 0.25
    rng = np.random.default_rng(4)
    y = rng.normal(0, 1, (30, 3))
    y[:9, 1] = np.nan
    y[:, 2] = np.nan  # a region that nobody has
    made = np.nan_to_num(y) + rng.normal(0, 1, y.shape)
    found = scoring.score("responses", made, y, np.arange(30) // 3, tuple("xyz"), ())
    each = [
        np.corrcoef(made[:, 0], y[:, 0])[0, 1],
        np.corrcoef(made[9:, 1], y[9:, 1])[0, 1],
    ]
    np.testing.assert_allclose([*found["by_region"].values()], each)
    model = found["scores"]["model"]
    np.testing.assert_allclose(model["mean"], np.mean(each))
    assert model["low"] < model["mean"] < model["high"]
    assert found["regions_left_out"] == 1
    made[:, 1] = 0.5  # tells nothing of a region that changes
    found = scoring.score("responses", made, y, np.arange(30) // 3, tuple("xyz"), ())
    assert found["by_region"] == {"x": pytest.approx(each[0]), "y": 0.0}
    label, valid = y.astype(np.float32), np.ones(30, bool)
    _, sums = answers.responses(*on_device(made.astype(np.float32), label, valid))
    told = answers.summary("responses", sums)["correlation"]
    np.testing.assert_allclose(told, each[0] / 2, rtol=1e-5)


def test_the_true_class_is_counted_among_the_best_five():
    rng = np.random.default_rng(7)
    made, truth = rng.normal(0, 1, (50, 7)), rng.integers(0, 7, 50)
    rank = (made > made[np.arange(50), truth][:, None]).sum(1)
    found = scoring.score("classes", made, truth, np.arange(50), tuple("abcdefg"), ())
    assert found["scores"]["model"]["accuracy"] == (rank == 0).mean()
    assert found["scores"]["model"]["top5"] == (rank < 5).mean()
    few = scoring.score("classes", made[:, :5], truth % 5, np.arange(50), "abcde", ())
    assert "top5" not in few["scores"]["model"]


def test_numbers_that_tell_no_example_from_another_are_not_scored():
    rng = np.random.default_rng(4)
    y = np.stack([rng.normal(5, 2, 30), np.full(30, 3.0), np.full(30, np.nan)], 1)
    made = rng.normal(5, 2, y.shape)
    groups, names, centre = np.arange(30) // 2, ("a", "b", "c"), (5.0, 5.0, 5.0)
    found = scoring.score("numbers", made, y, groups, names, centre)
    assert found["numbers_left_out"] == 2
    assert list(found["by_number"]) == ["a"]
    alone = scoring.score("numbers", made[:, :1], y[:, :1], groups, ("a",), (5.0,))
    assert found["scores"]["model"] == alone["scores"]["model"]
    with pytest.raises(NeuroFMError, match="no number differs between the examples"):
        scoring.score("numbers", made[:, 1:], y[:, 1:], groups, names[1:], centre[1:])
    with pytest.raises(NeuroFMError, match="no tag differs between the examples"):
        scoring.score("tags", made, np.ones((30, 3)), groups, names, ())


def test_a_number_that_few_know_does_not_make_the_interval():
    """A resample in which the three who have it are one has no R2 of it."""
    rng = np.random.default_rng(5)
    y = rng.normal(0, 1, (40, 2))
    y[3:, 1] = np.nan
    made = np.nan_to_num(y) + rng.normal(0, 0.3, y.shape)
    found = scoring.score("numbers", made, y, np.arange(40), ("a", "b"), (0.0, 0.0))
    assert found["scores"]["model"]["low"] > -1e3


def test_resampling_a_mean_agrees_with_its_standard_error():
    x = np.random.default_rng(4).normal(0, 1, 400)
    found = resampled(lambda rows: float(x[rows].mean()), np.arange(400), seed=1)
    half = (found.high - found.low) / 2
    np.testing.assert_allclose(half, 1.96 * x.std() / 20, rtol=0.1)
    assert found.value == x.mean()


def changed(x, seed=0, **settings):
    keys = jax.vmap(jax.random.key)(jnp.arange(len(x)) + 10 * seed)
    batch = {"audio/wave": jnp.asarray(x)}
    made = Augment(**settings).changed(batch, jax.random.key_data(keys))
    return np.asarray(made["audio/wave"])


def wave(n=400):
    return np.random.default_rng(5).normal(0, 1, (3, 2, n)).astype(np.float32)


def test_changes_do_what_they_say():
    x = wave()
    ratio = changed(x, gain_db=6.0) / x
    assert np.ptp(ratio, axis=(1, 2)).max() < 1e-5
    assert (abs(20 * np.log10(ratio)) < 6.001).all()
    assert len(np.unique(ratio.round(4))) >= 3
    np.testing.assert_array_equal(changed(x, flip=1.0), -x)
    noise = changed(x, noise_db=10.0) - x
    snr = 10 * np.log10((x**2).mean(-1) / (noise**2).mean(-1))
    assert ((snr > 9) & (snr < 41)).all()
    silent = changed(x, time_masks=2, time_share=0.2) == 0
    assert silent.any()
    assert silent.mean() <= 0.4
    np.testing.assert_array_equal(silent[:, 0], silent[:, 1])
    kept = np.fft.rfft(changed(x, band_masks=1, band_share=0.5))
    gone = abs(kept) < 1e-3
    assert 0 < gone.mean() < 0.55
    whole = np.fft.rfft(x)
    np.testing.assert_allclose(kept[~gone], whole[~gone], atol=1e-3)


def test_a_shift_moves_all_channels_alike_and_leaves_zeros():
    x = np.arange(1, 2 * 7 + 1, dtype=np.float32).reshape(1, 2, 7).repeat(300, 0)
    made, by = changed(x, shift_samples=3), []
    for one, before in zip(made, x, strict=True):
        (k,) = (
            k
            for k in range(-3, 4)
            if np.array_equal(np.pad(before, ((0, 0), (3, 3)))[:, 3 + k : 10 + k], one)
        )
        by.append(k)
    counts = np.bincount(np.array(by) + 3, minlength=7)
    assert (counts > 20).all()
    assert abs(made).sum((1, 2)).min() > 0


def test_changes_of_an_item_do_not_depend_on_the_batch():
    x = wave()
    settings = {"gain_db": 6.0, "noise_db": 5.0, "time_masks": 1, "band_masks": 1}
    np.testing.assert_allclose(
        changed(x[:2], **settings), changed(x, **settings)[:2], atol=1e-5
    )
    assert not np.allclose(changed(x, **settings), changed(x, 1, **settings))


def test_dropped_sensors_are_masked_and_never_all():
    mask = jnp.array([[True] * 5, [True, False, False, False, False]])
    keys = jax.random.key_data(jax.vmap(jax.random.key)(jnp.arange(2)))
    made = Augment(drop_chans=0.5).changed({"meeg/sensor_mask": mask}, keys)
    left = np.asarray(made["meeg/sensor_mask"])
    assert 0 < left[0].sum() < 5
    np.testing.assert_array_equal(left[1], mask[1])
    whole = Augment(drop_chans=1.0).changed({"meeg/sensor_mask": mask}, keys)
    np.testing.assert_array_equal(whole["meeg/sensor_mask"], mask)


def test_no_change_is_no_change():
    assert Augment().changed({"audio/wave": jnp.asarray(wave())}, jnp.zeros(0)) == {}
    with pytest.raises(NeuroFMError, match=r"task.augment.flip is 2: give 0 or more"):
        Augment(flip=2)


@pytest.mark.parametrize(
    ("field", "settings", "message"),
    [
        ("fmri/bold", {"gain_db": 3.0}, "takes none of them: leave task.augment out"),
        ("audio/wave", {"drop_chans": 0.5}, "drop_chans leaves out sensors of EEG"),
    ],
)
def test_a_change_that_nothing_would_follow_is_refused(field, settings, message):
    keys = jax.random.key_data(jax.vmap(jax.random.key)(jnp.arange(3)))
    with pytest.raises(NeuroFMError, match=message):
        Augment(**settings).changed({field: jnp.asarray(wave())}, keys)
