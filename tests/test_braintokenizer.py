"""BrainTokenizer: what must not matter, what the switches do, what it reads."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import scipy.signal
from tiny_meeg import TOKENIZER, loud_outside, meeg_batch, sized, wider

from neurofm.config import Mesh
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_variables
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.nn.sensors import FromSources, SensorEmbedding, ToSources
from neurofm.parallel.mesh import make
from neurofm.parallel.sharding import param_shardings
from neurofm.step import draw_key, loss_and_grads

BATCH = meeg_batch(TOKENIZER)
BOTH = replace(TOKENIZER, target="both")


@functools.cache
def fresh(task=TOKENIZER):
    run = quick.jit(lambda k, b: task.init(k, b, {}))
    return jax.device_get(run(jax.random.key(0), BATCH))


@functools.cache
def draw(task=TOKENIZER):
    run = quick.jit(
        lambda b: task.draw(b, draw_key(1, jnp.int32(2), "train"), jnp.int32(2), True)
    )
    return jax.device_get(run(BATCH))


@functools.cache
def program(task, slopes=True):
    """Means, gradients and sums, and codebooks after; or the loss alone."""

    def run(variables, batch, draws):
        others, step = {**variables, "frozen": {}}, jnp.int32(0)
        if not slopes:
            return task.loss(others, batch, draws, step, True)
        params = others.pop("params")
        found = loss_and_grads(task, params, others, batch, draws, step, 1)
        return found, task.update_buffers(variables["buffers"], found[2], step)

    return quick.jit(run)


def measured(batch=BATCH):
    return jax.device_get(program(TOKENIZER)(fresh(), batch, draw()))


def assert_same(got, wanted, share=5e-4):  # slopes of phases are steep
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, b), a in zip(
        jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(got), strict=True
    ):
        size = max(np.abs(b).max(), 1e-3)
        np.testing.assert_allclose(
            a / size, b / size, atol=share, err_msg=jax.tree_util.keystr(path)
        )


# ---- what must not matter ------------------------------------------------------------


def test_places_for_more_sensors_and_samples_change_nothing():
    batch = wider(BATCH, sensors=3, samples=11)
    task = sized(BOTH, batch)
    windows = -(-task.segment_samples // 16) - draw()["noise"].shape[2]
    shown = int(task.n_shown(task.n_sensors)) - draw()["shown"].shape[1]
    assert (windows, shown) == (1, 2)
    draws = dict(draw())
    draws["shown"] = np.pad(draws["shown"], ((0, 0), (0, shown)), constant_values=8)
    wide = ((0, 0), (0, shown), (0, windows), (0, 0))
    draws["noise"] = np.pad(draws["noise"], wide, constant_values=3.0)
    draws["step"] = {"picks": moved_picks(draws, windows)}
    got, sums = jax.device_get(program(task, slopes=False)(fresh(BOTH), batch, draws))
    run = program(BOTH, slopes=False)
    wanted, sums_before = jax.device_get(run(fresh(BOTH), BATCH, draw()))
    assert len(got) == 6
    for name, (total, weight) in got.items():
        np.testing.assert_allclose(weight, wanted[name][1], err_msg=name)
        np.testing.assert_allclose(total, wanted[name][0], rtol=1e-4, atol=1e-4)
    assert_same(sums, sums_before)


def moved_picks(draws, windows):
    """Places of the same vectors where every source has two more tokens a window."""
    w, s = draws["noise"].shape[2] - windows, TOKENIZER.n_sources
    old = 2 * w
    row, rest = np.divmod(draws["step"]["picks"], s * old)
    source, token = np.divmod(rest, old)
    new = old + 2 * windows
    return (row * s * new + source * new + token).astype(np.int32)


def test_what_is_not_recorded_changes_nothing():
    assert_same(measured(batch=loud_outside(BATCH)), measured())


def test_what_a_filler_row_holds_changes_nothing():
    filler = ~BATCH["valid"]
    changed = {
        k: np.where(filler.reshape(-1, *[1] * (v.ndim - 1)), v[[0]], v)
        for k, v in BATCH.items()
        if k not in ("index", "valid")
    }
    assert_same(measured(batch={**BATCH, **changed}), measured())


@pytest.mark.parametrize("normalise", ["kept", "all"])
def test_only_from_all_sensors_does_the_view_see_those_it_must_rebuild(normalise):
    task = replace(TOKENIZER, normalise=normalise)
    params, drawn = fresh()["params"], draw()

    def latents(signal):
        own = params, {**BATCH, "meeg/signal": signal}, drawn
        return task._training_view(*jax.tree.map(jnp.asarray, own))[0][0]

    louder = BATCH["meeg/signal"].copy()
    hidden = sorted(set(range(7)) - set(draw()["shown"][0].tolist()))
    kinds = BATCH["meeg/sensor_type"][0]
    assert BATCH["meeg/sensor_mask"][0].all()
    assert set(kinds[hidden]) & set(kinds[draw()["shown"][0]])
    louder[0, hidden] *= 5
    one, other = (quick.jit(latents)(x) for x in (BATCH["meeg/signal"], louder))
    if normalise == "kept":
        np.testing.assert_array_equal(one, other)
    else:
        assert np.abs(one - other).max() > 1e-3


# ---- draws ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4, 7, 8, 9, 128])
def test_a_quarter_of_the_sensors_is_hidden_and_at_least_one(n):
    shown = 1 if n == 1 else n - max(int(0.25 * n), 1)
    assert int(TOKENIZER.n_shown(n)) == shown
    assert int(TOKENIZER.n_shown(jnp.asarray(n))) == shown


def test_only_sensors_that_are_there_are_shown_each_once():
    for row, order in enumerate(draw()["shown"]):
        there = BATCH["meeg/sensor_mask"][row]
        real = order[: int(TOKENIZER.n_shown(there.sum()))]
        assert there[real].all()
        assert len(set(real.tolist())) == len(real)


def test_draws_follow_the_row_and_not_the_batch_or_its_padding():
    batch = wider(BATCH, sensors=3, samples=0)
    rows = {k: v[3:6] for k, v in batch.items()}
    key = draw_key(1, jnp.int32(2), "train")
    rows = jax.tree.map(jnp.asarray, rows)
    got = sized(TOKENIZER, batch).draw(rows, key, jnp.int32(2), True)
    for i, row in enumerate(range(3, 6)):
        n = int(TOKENIZER.n_shown(BATCH["meeg/sensor_mask"][row].sum()))
        np.testing.assert_array_equal(got["shown"][i, :n], draw()["shown"][row, :n])
        noise = draw()["noise"][row, :n]
        np.testing.assert_allclose(got["noise"][i, :n], noise, atol=1e-5)


# ---- log-spectra ---------------------------------------------------------------------


def test_the_log_spectrum_is_that_of_every_recorded_frame_around_a_sensor():
    """The head says 0.3 everywhere; the target is made by SciPy, sensor by sensor."""
    variables = fresh(BOTH)
    head = variables["params"]["spectrum"]
    assert head["kernel"].shape == (8, 5)
    said = {"kernel": 0 * head["kernel"], "bias": np.full(5, 0.3, np.float32)}
    params = {**variables["params"], "spectrum": said}
    run = program(BOTH, slopes=False)
    terms, _ = run({**variables, "params": params}, BATCH, draw())
    errors = []
    for row in np.flatnonzero(BATCH["valid"]):
        errors += row_errors(row)
    np.testing.assert_allclose(terms["logspec"][1], len(errors))
    np.testing.assert_allclose(terms["logspec"][0], np.sum(errors), rtol=1e-3)


def row_errors(row):
    """Of every sensor and token of one recording: (0.3 - target)^2, the mean of bins.

    Windows of 16 samples at 40 Hz hold two tokens, 8 apart; frames are of 10 samples.
    """
    there, kinds, pos, signal, n = (
        BATCH[f"meeg/{k}"][row]
        for k in ("sensor_mask", "sensor_type", "pos", "signal", "length")
    )
    shown = draw()["shown"][row][: int(TOKENIZER.n_shown(there.sum()))]
    x, places = np.zeros((7, 48)), np.zeros((7, 3))
    for kind, eps in enumerate((1e-5, 1e-13, 1e-13)):
        mine, seen = kinds == kind, [c for c in shown if kinds[c] == kind]
        if seen:
            own = signal[:, :n] - signal[seen, :n].mean(0)
            x[mine, :n] = (own / (own[seen].std() + eps))[mine]
        else:
            x[mine, :n] = signal[mine, :n] / eps
    for members in (kinds == 0, kinds != 0):
        if (members & there).any():
            xyz = pos[:, :3] - pos[members & there, :3].mean(0)
            size = np.sqrt(3 * np.square(xyz[members & there]).sum(-1).mean())
            places[members] = (xyz / max(size, 1e-30))[members]
    errors = []
    for c in np.flatnonzero(there):
        near = [d for d in np.flatnonzero(there) if kinds[d] == kinds[c]]
        apart = np.linalg.norm(places[near] - places[c], axis=1)
        weight = np.exp(-0.5 * (apart / 0.25) ** 2)
        for window in range(3):
            spectra = []
            for start in (window * 16, window * 16 + 6):
                if start + 10 > n:
                    continue
                _, power = scipy.signal.periodogram(
                    x[near, start : start + 10], window="hann", return_onesided=False
                )
                mean = weight @ power[:, 1:6] / weight.sum()
                spectra.append(np.log(mean + 1e-6))
            if spectra:
                spectra = np.array(spectra) - np.mean(spectra, axis=0)
                errors += np.square(0.3 - spectra).mean(1).tolist()
    return errors


def test_what_is_lowered_is_the_waveforms_error_the_spectrums_or_both():
    means = {"time": 0.5, "pcc": 0.0, "amplitude": 0.25, "phase": 2.0, "logspec": 0.75}
    means = {k: jnp.asarray(v) for k, v in {**means, "commitment": 0.125}.items()}
    wave, spectrum = 0.5 + 1 + 0.25 + 0.5 * 2, 0.75
    for target, wanted in (
        ("waveform", wave),
        ("logspec", spectrum),
        ("both", wave + 2 * spectrum),
    ):
        total = replace(TOKENIZER, target=target).total(means)
        np.testing.assert_allclose(total, wanted + 0.125)


def test_a_tokenizer_of_log_spectra_refuses_to_rebuild_a_waveform():
    task = replace(TOKENIZER, target="logspec")
    assert "decoder" not in abstract_variables(task)["params"]
    with pytest.raises(NeuroFMError, match=r"no waveform.*target=waveform or both"):
        task.read({}, {}, "reconstruction")


# ---- codebooks -----------------------------------------------------------------------


def test_as_released_the_decoder_cannot_tell_sources_apart_and_with_their_keys_it_can():
    rng = np.random.default_rng(3)
    shapes = {"vectors": (1, 3, 2, 8), "sensors": (1, 4, 8), "tags": (3, 8)}
    drawn = {k: jnp.array(rng.normal(0, 1, s), jnp.float32) for k, s in shapes.items()}
    vectors, sensors, tags = drawn.values()
    attention = FromSources(2, "spread")
    run = quick.jit(attention.apply)
    params = quick.jit(attention.init)(jax.random.key(0), vectors, sensors)
    turned = vectors[:, jnp.array([2, 0, 1])]
    told = [np.array(run(params, x, sensors)) for x in (vectors, turned)]
    np.testing.assert_allclose(*told, atol=1e-6)
    told = [np.array(run(params, x, sensors, tags)) for x in (vectors, turned)]
    assert np.abs(told[0] - told[1]).max() > 0.1


@pytest.mark.parametrize("start", ["released", "spread"])
def test_at_the_spread_start_alone_sources_look_at_different_sensors(start):
    rng = np.random.default_rng(4)
    pos = jnp.array(np.pad(rng.normal(0, 0.4, (1, 7, 3)), ((0, 0), (0, 0), (0, 3))))
    x = jnp.array(rng.normal(0, 0.3, (1, 7, 1, 32)), jnp.float32)
    embedding, attention = SensorEmbedding(32, start), ToSources(5, 4, start)
    kinds = jnp.zeros((1, 7), jnp.int32)
    begin = quick.jit(embedding.init_with_output)
    vectors, _ = begin(jax.random.key(0), pos, kinds)
    begin = quick.jit(attention.init_with_output)
    (_, weights), _ = begin(jax.random.key(1), x, vectors, jnp.ones((1, 7), bool))
    between = 7 * np.array(weights)[0, :, 0].std(0).mean()  # of a mean: 0
    assert between > 0.2 if start == "spread" else between < 0.02


def test_codebooks_start_where_the_first_latents_are():
    books = fresh()["buffers"]["codebooks"]
    assert np.linalg.norm(books["embed"][0], axis=-1).max() <= 1 + 1e-5
    assert books["count"].sum(-1).max() <= BATCH["valid"].sum() * 3 * 6 + 6
    scaled = books["count"][..., None] * books["embed"]
    np.testing.assert_allclose(books["total"], scaled, rtol=1e-6)


def test_codebook_health_is_told_from_the_sums():
    (_, _, sums), _ = measured()
    seen = {k: float(v) for k, v in quick.jit(TOKENIZER.summary)(sums).items()}
    count = sums["codebooks"]["count"]
    for q in range(2):
        share = count[q][count[q] > 0] / count[q].sum()
        perplexity = np.exp(-(share * np.log(share)).sum())
        np.testing.assert_allclose(seen[f"perplexity_{q + 1}"], perplexity, rtol=1e-4)
        np.testing.assert_allclose(seen[f"usage_{q + 1}"], (count[q] > 0).mean())
    assert 0 < seen["residual_2"] < seen["residual_1"] < 1
    assert seen["item_var"] > 0


# ---- reading -------------------------------------------------------------------------


def read(want):
    run = quick.jit(lambda v, b: vars(TOKENIZER.read(v, b, want)))
    batch = {**BATCH, "meeg/sensor_shown": BATCH["meeg/sensor_mask"]}
    return jax.device_get(run(fresh(), batch))


def test_features_are_the_sums_of_the_codes_read():
    features, codes = read("features"), read("codes")
    books = fresh()["buffers"]["codebooks"]["embed"]
    index = codes["values"]["codes"].reshape(8, 6, 3, 2)
    wanted = sum(books[q][index[..., q]] for q in range(2))
    np.testing.assert_allclose(
        features["values"]["last"].reshape(wanted.shape), wanted, atol=1e-6
    )
    times = (np.arange(6) * 8 + 4) / 40.0
    np.testing.assert_allclose(features["times_s"], np.tile(times, (8, 1)))
    windows = -(-BATCH["meeg/length"] // 16)
    np.testing.assert_array_equal(features["mask"].sum(1), 2 * windows)


def test_sources_look_at_the_sensors_that_are_there_and_are_quantised_next():
    got = read("sources")["values"]
    weights = got["topography"].reshape(8, 6, 3, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    gone = ~BATCH["meeg/sensor_mask"]
    assert not weights.swapaxes(1, 3)[gone].any()
    latents = got["sources"].reshape(8, 6, 3, 8)
    np.testing.assert_allclose(np.linalg.norm(latents, axis=-1), 1, rtol=1e-4)
    first = fresh()["buffers"]["codebooks"]["embed"][0]
    gaps = np.linalg.norm(latents[..., None, :] - first, axis=-1)
    codes = read("codes")["values"]["codes"].reshape(8, 6, 3, 2)
    np.testing.assert_array_equal(gaps.argmin(-1), codes[..., 0])


def test_a_reconstruction_has_every_sample_of_every_sensor():
    got = read("reconstruction")
    assert got["values"]["reconstruction"].shape == (8, 48, 7)
    np.testing.assert_array_equal(got["mask"].sum(1), BATCH["meeg/length"])
    window = got["values"]["signal"][0, :16, 0]
    np.testing.assert_allclose(window.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(window.std(ddof=1), 1, rtol=1e-3)


# ---- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "task.width is 256: .* task.heads"),
        ({"window_samples": 100}, r"task.window_samples is 100: .* \(64\)"),
        ({"segment_samples": 100}, "task.segment_samples is 100: .* is 512"),
        ({"drop_share": 1.0}, "task.drop_share is 1.0"),
        (
            {"sfreq": 4000.0, "target": "both"},
            "task.window_samples is 512: .* of 250 ms",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(NeuroFMError, match=message):
        BrainTokenizer(**fields)


def test_the_published_sizes_hold_what_the_paper_says():
    shapes = abstract_variables(BrainTokenizer())
    assert shapes["params"]["to_sources"]["sources"].shape == (16, 256)
    assert shapes["buffers"]["codebooks"]["embed"].shape == (4, 512, 256)


def test_every_parameter_has_a_place_on_a_mesh_whatever_is_decoded():
    mesh = make(Mesh(), jax.devices())
    params = fresh(BOTH)["params"]
    param_shardings(params, mesh, BOTH.rules())
    below = {"frozen": {"task": {"frozen": {"tokenizer": {"params": params}}}}}
    param_shardings(below, mesh, BOTH.rules())  # of a model that leans on it
