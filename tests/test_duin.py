"""Du-IN beside what fixtures hold: sizes, norms, codes, bands, masks, absent parts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tiny_ieeg import DUIN, VQVAE, group_batch

from neurofm import config
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_variables
from neurofm.nn import batchnorm
from neurofm.nn.conv import strided_conv, transposed_conv
from neurofm.nn.unit_codes import UnitCodes, health
from neurofm.optim import Optim
from neurofm.signals.logpower import counted_tokens, log_power

WAVEFORM = replace(VQVAE, target="waveform")


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def of_arrays(batch):
    return jax.tree.map(jnp.asarray, batch)


def started(task, batch, frozen=None, seed=0):
    start = quick.jit(lambda key: task.init(key, batch, frozen or {}))
    return start(jax.random.key(seed))


# ---- sizes ---------------------------------------------------------------------------


def test_the_sizes_are_the_published_ones():
    first = replace(config.load("duin/vqvae").task, target="waveform")
    params = abstract_variables(first)["params"]
    assert size(params) == 5_801_386
    parts = {"subjects": 176, "channels": 170, "tokenizer": 95_024}
    parts |= {"blocks": 3_465_224 - 8}  # less a constant of every block
    assert {name: size(params[name]) for name in parts} == parts
    ups = {k: x for k, x in params["decoder"].items() if k != "blocks"}
    assert size(ups) + size(params["regress"]) == 461_600
    masked = abstract_variables(config.load("duin/base").task)["params"]
    assert size(masked) + 6_400 + 8 == 3_896_712  # with times and constants


# ---- parts ---------------------------------------------------------------------------


def test_batch_norm_counts_what_is_counted_and_its_statistics_follow():
    rng = np.random.default_rng(0)
    x = rng.normal(50, 2, (5, 3, 4)).astype(np.float32)
    counted = np.array([1, 0, 1, 1, 0], bool)
    params, running = batchnorm.start(4)
    params = {"scale": jnp.arange(1.0, 5.0), "bias": jnp.full(4, 0.5)}
    args = (jnp.asarray(x), params, running)
    y, sums = batchnorm.batch_norm(*args, jnp.asarray(counted))
    seen = x[counted].reshape(-1, 4).astype(float)
    mean, var = seen.mean(0), seen.var(0)
    wanted = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + 0.5
    np.testing.assert_allclose(y, wanted, atol=1e-4)
    moved = batchnorm.moved(running, sums)
    np.testing.assert_allclose(moved["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * seen.var(0, ddof=1), rtol=1e-3)
    plain, none = batchnorm.batch_norm(jnp.asarray(x), params, moved, None)
    by_hand = (x - moved["mean"]) / np.sqrt(moved["var"] + 1e-5) * params["scale"] + 0.5
    np.testing.assert_allclose(plain, by_hand, rtol=1e-4)
    assert none == {}
    _, nothing = batchnorm.batch_norm(*args, jnp.zeros(5, bool))
    jax.tree.map(np.testing.assert_array_equal, batchnorm.moved(moved, nothing), moved)


@pytest.mark.parametrize(("width", "stride"), [(3, 1), (4, 2), (7, 3), (5, 5), (2, 3)])
def test_a_transposed_convolution_is_the_transpose(width, stride):
    rng = np.random.default_rng(1)
    kernel = jnp.asarray(rng.normal(size=(width, 2, 3)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(2, 4, 2)), jnp.float32)
    steps = 3 * stride + width
    y = jnp.asarray(rng.normal(size=(2, steps, 3)), jnp.float32)
    there = strided_conv(y, kernel.swapaxes(1, 2), stride)
    back = transposed_conv(x, kernel, stride)
    assert back.shape == y.shape
    np.testing.assert_allclose((there * x).sum(), (back * y).sum(), rtol=1e-4)


def test_codes_go_to_the_directions_that_chose_them():
    book = UnitCodes(width=3, n_codes=4, code_width=2, decay=0.75)
    embed = jnp.asarray([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    params = book.init_params(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(30, 3)), jnp.float32)
    valid = jnp.arange(30) < 20
    z = np.asarray(book.unit(params, x))
    found = book(params, {"embed": embed}, x, valid)
    np.testing.assert_array_equal(found.indices, (z @ embed.T).argmax(1))
    buffers = {"embed": embed, "count": jnp.full(4, 8.0)}
    moved = book.moved(buffers, found.sums)
    for k, old in enumerate(np.asarray(embed)):
        mine = z[:20][np.asarray(found.indices)[:20] == k]
        mean = mine.mean(0) if len(mine) else old
        mean = mean / np.linalg.norm(mean)
        new = 0.75 * old + 0.25 * mean
        np.testing.assert_allclose(moved["embed"][k], new / np.linalg.norm(new), 1e-4)
        assert moved["count"][k] == pytest.approx(6 + 0.25 * len(mine))


def test_dead_codes_take_drawn_vectors_where_that_is_asked_for():
    book = UnitCodes(width=3, n_codes=3, code_width=2, revival="random")
    buffers = {"embed": jnp.eye(3, 2), "count": jnp.asarray([9.0, 9.0, 0.01])}
    sums = {"count": jnp.asarray([5.0, 5, 0]), "total": jnp.ones((3, 2))}
    sums["candidate"] = jnp.asarray([[0.6, 0.8]] * 3)
    moved = book.moved(buffers, sums)
    np.testing.assert_allclose(moved["embed"][2], [0.6, 0.8])
    assert moved["count"][2] > 5
    assert np.abs(moved["embed"][:2] - sums["candidate"][:2]).min() > 0.01
    plain = replace(book, revival="none").moved(buffers, sums)
    np.testing.assert_array_equal(plain["embed"][2], buffers["embed"][2])


def test_perplexity_and_dead_codes_are_those_of_the_counts():
    found = health({"count": jnp.asarray([4.0, 4.0, 0.0, 0.0])})
    assert float(found["perplexity"]) == pytest.approx(2)
    assert float(found["dead_codes"]) == 0.5


def test_power_is_told_in_its_band_and_at_its_time():
    sfreq, hop = 200.0, 20
    t = np.arange(600) / sfreq
    tone = np.sin(2 * np.pi * 40 * t) * (t > 1.5)
    noise = 0.01 * np.random.default_rng(0).normal(size=600)
    x = jnp.asarray((tone + noise)[None, None], jnp.float32)
    found = log_power(x, sfreq, hop, ((8, 30), (30, 50), (50, 100)))[0, 0]
    assert found.shape == (30, 3)
    loud = np.asarray(found[:, 1] > -3)
    np.testing.assert_array_equal(loud[3:12], False)
    np.testing.assert_array_equal(loud[17:28], True)
    # A tone of amplitude 1 has magnitude 1/2 in the spectrum of scipy, in three bins.
    total = 0.25 * (1 + 2 * 0.25)
    np.testing.assert_allclose(found[18:27, 1], np.log(total), atol=0.05)
    assert (found[18:27, 1:2] - found[18:27] >= 0).all()


def test_tokens_count_whose_frames_are_recorded():
    recorded = jnp.arange(10) < jnp.asarray([[10], [6], [0]])
    found = counted_tokens(recorded, 200.0, 20)  # 50 samples, 25 to each side
    inside = np.arange(10) * 20 + 10
    for row, n in zip(found, (200, 120, 0), strict=True):
        np.testing.assert_array_equal(row, (inside >= 25) & (inside + 25 <= n))


# ---- both stages ---------------------------------------------------------------------


@pytest.mark.parametrize("task", [VQVAE, WAVEFORM])
def test_what_is_absent_changes_neither_losses_nor_codes(task):
    batch = of_arrays(group_batch(task))
    variables = started(task, batch)
    absent = ~batch["ieeg/channel_mask"][..., None]
    t = jnp.arange(batch["ieeg/signal"].shape[-1])
    absent |= (t >= batch["ieeg/length"][:, None])[:, None]
    noise = jax.random.normal(jax.random.key(1), absent.shape)
    loud = {**batch, "ieeg/signal": jnp.where(absent, noise, batch["ieeg/signal"])}
    draws = task.draw(batch, jax.random.key(2), jnp.int32(0), True)

    @quick.jit
    def run(batch):
        terms, sums = task.loss(variables, batch, draws, jnp.int32(0), True)
        return terms, sums, task.codes(variables, batch)[0]

    jax.tree.map(np.testing.assert_array_equal, run(batch), run(loud))


def test_the_codebook_starts_from_the_first_batch_with_unit_vectors():
    batch = of_arrays(group_batch(VQVAE))
    buffers = started(VQVAE, batch)["buffers"]
    book = buffers["codebook"]
    np.testing.assert_allclose(np.linalg.norm(book["embed"], axis=1), 1, rtol=1e-5)
    counted = (batch["ieeg/length"] // 10) * batch["valid"]
    assert book["count"].sum() >= counted.sum()
    louder = {**batch, "valid": jnp.zeros(8, bool).at[0].set(True)}
    other = started(VQVAE, louder)["buffers"]["codebook"]
    assert np.abs(book["embed"] - other["embed"]).max() > 0.01


def test_each_patch_is_told_by_the_view_that_hid_it():
    batch = of_arrays(group_batch(DUIN))
    params = DUIN.init(jax.random.key(0), batch, {})["params"]
    hidden = jnp.asarray(np.random.default_rng(0).random((8, 6)) < 0.5)
    visible = jnp.ones((8, 6), bool)
    tokens = jax.random.normal(jax.random.key(3), (8, 6, DUIN.trunk.width))
    told = quick.jit(lambda x: DUIN.logits(params, x, visible, hidden)[0])
    before = told(tokens)
    # What a hidden patch holds is seen by the others alone.
    moved = tokens.at[0, 2].add(3.0)
    after = told(moved)
    same = np.isclose(before[0], after[0], atol=1e-5).all(-1)
    np.testing.assert_array_equal(same, np.asarray(hidden[0] == hidden[0, 2]))


def test_masks_hide_the_share_asked_for():
    batch = of_arrays(group_batch(DUIN))
    for ratio, n in ((0.5, 3), (0.7, 5)):
        task = replace(DUIN, mask_ratio=ratio)
        hidden = task.draw(batch, jax.random.key(0), jnp.int32(0), True)["hidden"]
        np.testing.assert_array_equal(hidden.sum(1), n)
        assert len({tuple(row) for row in np.asarray(hidden).tolist()}) > 2


def test_a_short_segment_is_read_as_one_of_its_own_length():
    batch = of_arrays(group_batch(DUIN))
    variables = started(DUIN, batch)
    run = lambda task: quick.jit(lambda b: task.read(variables, b).values["last"])  # noqa: E731
    whole = run(DUIN)(batch)
    short = DUIN.shortened(44)
    n = short.trunk.segment_samples
    cut = {**batch, "ieeg/signal": batch["ieeg/signal"][..., :n]}
    cut["ieeg/length"] = jnp.minimum(batch["ieeg/length"], n)
    np.testing.assert_allclose(run(short)(cut)[2, :4], whole[2, :4], atol=1e-5)


def test_a_model_of_log_power_rebuilds_no_waveform():
    with pytest.raises(NeuroFMError, match=r"train one with task\.target=waveform"):
        VQVAE.read({}, {}, "reconstruction")
    with pytest.raises(NeuroFMError, match="codes are the first stage's"):
        DUIN.read({}, {}, "codes")


def test_the_rate_stands_still_within_an_epoch():
    optim = Optim(lr=1.0, warmup=0.2, floor=0.5, epochs=5)
    rates = [float(optim.learning_rate(jnp.int32(t), 40)) for t in range(40)]
    plain = replace(optim, epochs=0)
    starts = [float(plain.learning_rate(jnp.int32(8 * e), 40)) for e in range(5)]
    np.testing.assert_allclose(rates, np.repeat(starts, 8), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(VQVAE.trunk, segment_samples=61), "segment_samples is 61"),
        (lambda: replace(VQVAE.trunk, subjects=()), "trunk.subjects names nobody"),
        (lambda: replace(VQVAE.trunk, convs=((3, 3, 2),)), "15 features of a patch"),
        (lambda: replace(VQVAE, bands_hz=((40, 60),)), "the band 40 to 60 Hz"),
        (lambda: replace(WAVEFORM, ups=((4, 5, 5),)), "make 5 samples of a token"),
        (lambda: replace(DUIN, mask_ratio=1.0), "task.mask_ratio is 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, message):
    with pytest.raises(NeuroFMError, match=message):
        make()
