"""BrainBERT beside what fixtures hold: sizes, padding, draws, starts, the optimizer."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from scipy import signal, stats
from tiny_ieeg import BERT, electrode_batch

from neurofm import config
from neurofm.errors import NeuroFMError
from neurofm.lamb import by_trust_ratio
from neurofm.model import abstract_variables
from neurofm.models.brainbert import BrainBERT
from neurofm.objectives.spectrogram import content_aware
from neurofm.objectives.stripes import (
    EMPTY,
    KEPT,
    Adaptive,
    Banded,
    Static,
    Stripes,
    applied,
)
from neurofm.optim import Optim
from neurofm.signals import stft
from neurofm.signals.superlets import Superlets, morlet, scored

SIZES = {"small": 4_728_760, "base": 21_919_528, "large": 43_183_144}


def variables_of(task, seed=2):
    rng = np.random.default_rng(seed)
    random = lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(random, abstract_variables(task))


def of_arrays(batch):
    return jax.tree.map(jnp.asarray, batch)


# ---- sizes and starts ----------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_the_sizes_are_the_published_ones(name, size):
    params = abstract_variables(config.load(f"brainbert/{name}").task)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == size


def test_five_seconds_without_a_sample_are_186_frames_24_ms_apart():
    task = BrainBERT()
    times = task.frame_times()
    assert task.n_frames == len(times) == 186
    np.testing.assert_allclose(np.diff(times), 50 / 2048, rtol=1e-4)
    assert times[0] == pytest.approx(10 * 50 / 2048)


@pytest.mark.parametrize(("form", "bias"), [("zero", 0), ("released", 1)])
def test_biases_start_at_zero_but_those_of_norms_as_asked(form, bias):
    task = replace(BERT, norm_bias=form)
    batch = of_arrays(electrode_batch(task))
    start = quick.jit(lambda key: task.init(key, batch, {})["params"])
    params = start(jax.random.key(0))
    seen = {True: 0, False: 0}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("bias"):
            of_norm = "norm" in name
            np.testing.assert_array_equal(x, bias if of_norm else 0)
            seen[of_norm] += 1
        if name.endswith("scale"):
            np.testing.assert_array_equal(x, 1)
    assert seen == {True: 4, False: 9}


# ---- spectrograms --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "hop", "n"), [(20, 5, 119), (18, 7, 60), (20, 8, 40)]
)
def test_the_spectrogram_is_that_of_scipy(width, hop, n):
    x = np.random.default_rng(0).normal(0, 1, (2, n)).astype(np.float32)
    _, _, wanted = signal.stft(
        x.astype(float), nperseg=width, noverlap=width - hop, boundary="zeros"
    )
    got = stft.magnitude(jnp.asarray(x), width, hop, 6)
    assert got.shape[1] == stft.n_frames(n, hop)
    np.testing.assert_allclose(got, np.abs(wanted[:, :6]).swapaxes(1, 2), atol=1e-6)


def test_a_short_window_is_read_as_a_window_of_its_own_length():
    batch = of_arrays(electrode_batch(BERT))
    variables = variables_of(BERT)
    run = lambda task: quick.jit(lambda b: task.read(variables, b).values["last"])  # noqa: E731
    last = run(BERT)(batch)
    short = BERT.shortened(66)
    cut = {**batch, "ieeg/signal": batch["ieeg/signal"][..., :66]}
    cut["ieeg/length"] = jnp.minimum(batch["ieeg/length"], 66)
    np.testing.assert_allclose(last[4, : short.n_frames], run(short)(cut)[4], atol=1e-5)
    assert not BERT.spectra(batch)[1][4, short.n_frames :].any()


def test_a_silent_trace_is_all_ones_as_released():
    batch = of_arrays(electrode_batch(BERT))
    batch["ieeg/signal"] = batch["ieeg/signal"].at[1].set(0)
    x, recorded = BERT.spectra(batch)
    np.testing.assert_array_equal(x[1], 1)
    assert recorded[1].all()
    assert np.isfinite(x).all()


def test_superlets_find_a_tone_in_its_frequency_and_its_time():
    how = Superlets(sfreq=500.0, orders=(3, 6), range_hz=(10, 90), n_freqs=9)
    how = replace(how, decimation=10, edge_frames=4)
    t = np.arange(2000) / how.sfreq
    x = np.sin(2 * np.pi * 50 * t) * np.exp(-0.5 * ((t - 2.5) / 0.05) ** 2)
    found = scored(x, how)
    peak = found[:, 4]
    assert (how.frequencies[4], abs(peak.argmax() + 4 - 2.5 * 50) <= 1) == (50, True)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-4)


def test_a_wavelet_spans_four_deviations_to_each_side():
    wave = np.abs(morlet(10.0, 4.0, 1000.0))
    assert wave.argmax() == len(wave) // 2
    edge = wave[0] / wave.max()
    assert edge == pytest.approx(np.exp(-0.5 * 4**2), rel=0.15)


# ---- stripes -------------------------------------------------------------------------


def many(masker, n=400, t=30, f=12):
    draw = lambda key: masker.draw(key, t, f)  # noqa: E731
    return jax.vmap(draw)(jax.random.split(jax.random.key(3), n))


def test_static_stripes_have_the_drawn_widths_and_do_not_touch():
    found = many(Static(share_time=0.2, share_freq=0.0, frames=(2, 4)))
    rows = np.asarray(found.reached[:, :, 0])
    assert (rows == found.label.any(-1)).all()
    edges = np.diff(np.pad(rows, ((0, 0), (1, 1))).astype(int), axis=1)
    first, past = np.nonzero(edges == 1), np.nonzero(edges == -1)
    widths = past[1] - first[1]
    assert set(widths) == {2, 3, 4}
    assert stats.chisquare(np.bincount(widths)[2:]).pvalue > 1e-3
    assert past[1].max() < rows.shape[1]  # the last frame is never in a stripe


@pytest.mark.parametrize("masker", [Static(), Adaptive()])
def test_a_tenth_of_the_stripes_is_left_and_a_tenth_is_copied(masker):
    found = many(masker, t=60)
    starts = np.diff(np.asarray(found.freqs), prepend=KEPT) != 0
    hidden = np.asarray(found.label.all(1))
    empty = (np.asarray(found.freqs) == EMPTY) & hidden
    copied = (np.asarray(found.freqs) >= 0) & hidden
    assert starts.any()
    share = np.array([empty.sum(), copied.sum(), hidden.sum()]) / hidden.sum()
    np.testing.assert_allclose(share[:2], [0.8, 0.1], atol=0.04)


def test_banded_stripes_hide_one_band_at_a_time_and_leave_the_others():
    found = many(Banded(share=0.2, frames=(3, 6), edges=(2, 5)), t=60, f=7)
    label = np.asarray(found.label)
    in_time = label.any(2)
    runs, bands = [], []
    for row, hidden in zip(label, in_time, strict=True):
        edges = np.flatnonzero(np.diff(hidden.astype(int), prepend=0, append=0))
        for start, stop in edges.reshape(-1, 2):
            assert (row[start:stop] == row[start]).all()
            bands.append(tuple(np.flatnonzero(row[start])))
            runs.append(stop - start)
    assert set(runs) == {3, 4, 5, 6}
    assert stats.chisquare(np.bincount(runs)[3:]).pvalue > 1e-3
    assert set(bands) == {(0, 1), (2, 3, 4), (5, 6)}
    counts = [bands.count(band) for band in sorted(set(bands))]
    assert stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_array_equal(found.freqs, KEPT)
    x = jax.random.normal(jax.random.key(0), label.shape)
    seen = np.asarray(applied(x, found, Banded.clean_copies))
    np.testing.assert_array_equal(seen[~label], np.asarray(x)[~label])
    empty = label & (np.asarray(found.frames) == EMPTY)[..., None]
    assert (seen[empty] == 0).all()
    np.testing.assert_allclose(empty.sum() / label.sum(), 0.8, atol=0.04)


def test_the_numbers_of_stripes_say_what_stands_there():
    x = jnp.arange(2 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 3) + 1
    frames = jnp.array([[KEPT, EMPTY, 3, KEPT], [KEPT] * 4])
    freqs = jnp.array([[KEPT, 0, KEPT], [EMPTY, KEPT, KEPT]])
    reached = jnp.ones((2, 4, 3), bool).at[0, 2, 0].set(False)
    stripes = Stripes(frames, freqs, reached, reached)
    wanted = np.array(x)
    wanted[0, 1] = 0
    wanted[0, 2, 1:] = x[0, 3, 1:]
    wanted[1, :, 0] = 0
    for clean, column in ((True, x[0, :, 0]), (False, wanted[0, :, 0].copy())):
        wanted[0, :, 1] = column
        np.testing.assert_array_equal(applied(x, stripes, clean), wanted)


def test_entries_without_a_loud_one_have_no_second_term():
    y = jnp.full((1, 3, 2), 0.5)
    terms = content_aware(y + 0.25, y, jnp.ones((1, 3, 2), bool))
    assert tuple(map(float, terms["l1"])) == (1.5, 6.0)
    assert tuple(map(float, terms["content"])) == (0.0, 0.0)


def test_dropout_acts_in_training_alone_and_by_example():
    batch, variables = of_arrays(electrode_batch(BERT)), variables_of(BERT)
    draws = BERT.draw(batch, jax.random.key(0), jnp.int32(0), True)

    @quick.jit
    def run(batch, draws):
        def read(train):
            return BERT.features(variables, batch, draws, train).values["last"]

        return read(True), read(False), BERT.read(variables, batch).values["last"]

    dropped, plain, read = run(batch, draws)
    np.testing.assert_array_equal(plain, read)
    assert (np.abs(dropped - plain) > 1e-3).mean() > 0.9
    half = {k: x[3:5] for k, x in batch.items()}
    again = run(half, jax.tree.map(lambda x: x[3:5], draws))[0]
    np.testing.assert_allclose(again, dropped[3:5], atol=1e-5)


# ---- the optimizer -------------------------------------------------------------------


def test_lamb_is_the_released_form_tensor_by_tensor():
    rng = np.random.default_rng(0)
    params = {
        "blocks": {
            "attn": {
                n: {"kernel": rng.normal(0, s, (2, 3, 2, 2))}
                for n, s in (("query", 1.0), ("key", 2.0), ("value", 0.1))
            },
            "norm": {"scale": 20 * np.ones((2, 5)), "bias": np.zeros((2, 5))},
        },
        "out": {"kernel": rng.normal(0, 1, (4, 3))},
    }
    params = jax.tree.map(jnp.float32, params)
    optim = Optim(
        algorithm="lamb", lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.0
    )
    optim = replace(optim, warmup=0.0, schedule="stairs", clip_norm=0.0)
    optimizer = optim.build(200)
    state, moved = optimizer.init(params), params
    theirs = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in torch(params)}
    wanted = dict(torch(params))
    for i in range(3):
        grads = jax.tree.map(lambda p, i=i: jnp.cos(3 * p + i), moved)
        steps, state = optimizer.update(grads, state, moved)
        moved = jax.tree.map(jnp.add, moved, steps)
        for name, g in torch(grads):
            m, v = theirs[name]
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            theirs[name] = m, v
            step = m / (np.sqrt(v) + 1e-6)
            norm = min(np.linalg.norm(wanted[name]), 10)
            ratio = norm / np.linalg.norm(step) if norm else 1.0
            rate = 0.1 * 0.99 ** (i // 2)
            wanted[name] = wanted[name] - rate * ratio * step
        for name, w in torch(moved):
            np.testing.assert_allclose(w, wanted[name], rtol=2e-4, atol=1e-5)


def torch(params):
    """Every tensor as torch holds it, by name."""
    attn, norm = params["blocks"]["attn"], params["blocks"]["norm"]
    for i in range(2):
        qkv = [
            np.asarray(attn[n]["kernel"][i], float) for n in ("query", "key", "value")
        ]
        yield f"{i}.qkv", np.stack(qkv)
        for name in ("scale", "bias"):
            yield f"{i}.{name}", np.asarray(norm[name][i], float)
    yield "out", np.asarray(params["out"]["kernel"], float)


def test_a_tensor_that_is_zero_moves_by_the_step_itself():
    steps = {"w": jnp.array([3.0, 4.0]), "v": jnp.zeros(2)}
    params = {"w": jnp.zeros(2), "v": jnp.ones(2)}
    found, _ = by_trust_ratio().update(steps, by_trust_ratio().init(params), params)
    np.testing.assert_array_equal(found["w"], steps["w"])
    np.testing.assert_array_equal(found["v"], 0)


def test_the_rate_climbs_and_then_goes_down_a_hundred_stairs():
    exp = config.load("brainbert/large")
    rate = lambda t: float(exp.optim.learning_rate(jnp.int32(t), 500_000)) / 1e-4  # noqa: E731
    assert (rate(0), rate(6_250)) == pytest.approx((0, 0.5))
    assert (rate(12_500), rate(12_500 + 4_874)) == pytest.approx((1, 1))
    assert rate(12_500 + 4_875) == pytest.approx(0.99)
    assert rate(12_500 + 50 * 4_875) == pytest.approx(0.99**50)
    assert rate(499_999) == pytest.approx(0.99**99, rel=1e-5)


def test_lamb_does_not_cycle():
    with pytest.raises(NeuroFMError, match=r"optim\.algorithm=lamb has no moment"):
        Optim(algorithm="lamb", schedule="onecycle")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 13}, "task.width is 13"),
        ({"window_samples": 15}, "task.window_samples is 15"),
        ({"hop_samples": 21}, "task.hop_samples is 21"),
        ({"n_freqs": 12}, "task.n_freqs is 12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(NeuroFMError, match=message):
        replace(BERT, **fields)
