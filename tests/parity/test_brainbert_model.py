"""BrainBERT against the released implementation: spectrograms, stripes, the model."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
from fixtures import each, load

from neurofm.models.brainbert import BrainBERT
from neurofm.models.brainbert_weights import convert
from neurofm.models.finetune import Finetune
from neurofm.objectives.spectrogram import content_aware
from neurofm.objectives.stripes import (
    COPIED,
    LEFT,
    Adaptive,
    Static,
    Uniform,
    applied,
)
from neurofm.signals import superlets

MODEL = ("w/input_encoding.in_proj.weight", "config_json", "masked_input")
FRONT = ("wav", "stft_mag40", "stft_zscored")
ASKED = ("target", "mask_label")
MASKING = ("data", "fixed_*", "variable_*")


def close(ours, theirs, atol=1e-5, rtol=1e-4, name=""):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=name)


def part(f, prefix):
    return {k.removeprefix(prefix): x for k, x in f.items() if k.startswith(prefix)}


# ---- spectrograms --------------------------------------------------------------------


def stft_task(f, **fields):
    rest = {"window_samples": f["wav"].size, "n_freqs": len(f["stft_mag40"])}
    return BrainBERT(**{**rest, **fields})


def of_trace(task, wave):
    n = np.full(len(wave), wave.shape[-1], np.int32)
    batch = {"ieeg/signal": jnp.asarray(wave)[:, None], "ieeg/length": jnp.asarray(n)}
    return jax.device_get(task.spectra(batch))


@each("brainbert", keys=FRONT)
def test_the_spectrogram_is_the_released_one(path):
    f = load(path)
    task = stft_task(f)
    whole = np.stack([f["wav"], np.full_like(f["wav"], 3.0)])
    x, recorded = of_trace(task, whole)
    assert recorded.all()
    close(x[0], f["stft_zscored"])
    close(x[1], f["stft_constant_wav"])


@each("brainbert", keys=FRONT)
def test_the_notebook_leaves_out_five_frames_before_it_scores(path):
    f = load(path)
    inner = f["stft_mag40"][:, 5:-5].T.astype(float)
    wanted = (inner - inner.mean(0)) / inner.std(0)
    task = stft_task(f, scores="inner_frames", edge_frames=5)
    close(of_trace(task, f["wav"][None])[0][0], wanted)


@each("brainbert", keys=("superlet_wav", "superlet_cfg"))
def test_superlets_are_the_released_ones(path):
    f = load(path)
    cfg = json.loads(str(f["superlet_cfg"]))
    how = superlets.Superlets(
        cycles=cfg["c1"],
        orders=(cfg["order_min"], cfg["order_max"]),
        range_hz=(cfg["min_f"], cfg["max_f"]),
        n_freqs=cfg["n_f_steps"],
        decimation=cfg["decim"],
    )
    close(how.fractional_orders, f["superlet_orders"])
    found = superlets.amplitude(f["superlet_wav"], how)[:, :: how.decimation]
    close(found, f["superlet_amplitude_decimated"], atol=0)
    found = superlets.scored(f["superlet_wav"], how)
    close(found, f["superlet_zscored"], 1e-4, 0)


# ---- stripes -------------------------------------------------------------------------


class Tape:
    """Recorded draws in the order of the released calls, as numbers a start each."""

    def __init__(self, f, kind):
        self.uniform = list(f[f"{kind}_uniform_draws"])
        self.whole = list(f[f"{kind}_randint_draws"])

    def next(self, n=1):
        taken, self.uniform = self.uniform[:n], self.uniform[n:]
        assert len(taken) == n
        return np.array(taken)

    def next_whole(self):
        low, high, value = self.whole.pop(0)
        return (value - low + 0.5) / (high - low + 1)

    def axis(self, n, starts, wanted, reach=None, lengths=None):
        """One axis of `n` places; lengths are drawn where `lengths` counts them."""
        accept = self.next(starts)
        length, fate, source = (np.zeros(starts) for _ in range(3))
        taken, blocked = [], -1
        for s in np.flatnonzero(accept < wanted):
            if reach is not None and s <= blocked:
                continue
            taken.append(s)
            if lengths is not None:
                low, most = lengths
                length[s] = self.next_whole()
                blocked = s + low + int(length[s] * (most - low + 1))
            elif reach is not None:
                blocked = s + reach
        for s in taken:
            fate[s] = self.next()[0]
            if LEFT <= fate[s] < COPIED:
                source[s] = self.next_whole()
        numbers = (accept, length, fate, source)
        padded = (np.pad(x, (0, n - starts)) for x in numbers)
        return Uniform(*(jnp.asarray(x, jnp.float32) for x in padded)), taken

    def done(self):
        return not self.uniform and not self.whole


def spans(taken, length):
    return np.array([(s, s + length[s]) for s in taken], int).reshape(-1, 2)


@each("brainbert", keys=MASKING)
def test_static_stripes_follow_from_the_recorded_draws(path):
    f = load(path)
    cfg, (t, n) = json.loads(str(f["fixed_cfg"])), f["data"].shape
    edges = ("min", "max")
    masker = Static(
        share_time=cfg["time_mask_p"],
        share_freq=cfg["freq_mask_p"],
        frames=tuple(cfg[f"time_mask_consecutive_{e}"] for e in edges),
        freqs=tuple(cfg[f"freq_mask_consecutive_{e}"] for e in edges),
    )
    tape, drawn = Tape(f, "fixed"), []
    axes = (
        (t, masker.share_time, masker.frames, "time"),
        (n, masker.share_freq, masker.freqs, "freq"),
    )
    hidden = {}
    for size, share, widths, name in axes:
        low, high = widths
        u, taken = tape.axis(size, size - high, share, 0, widths)
        drawn.append(u)
        np.testing.assert_array_equal(
            spans(taken, low + np.floor(u.length * (high - low + 1))),
            f[f"fixed_{name}_intervals"],
        )
        hidden[name] = np.zeros(size, bool)
        for first, past in f[f"fixed_{name}_intervals"]:
            hidden[name][first:past] = True
    assert tape.done()
    stripes = masker.stripes(*drawn, t, n)
    union = hidden["time"][:, None] | hidden["freq"]
    np.testing.assert_array_equal(stripes.label, union)
    released = replace(masker, label="released").stripes(*drawn, t, n)
    np.testing.assert_array_equal(released.label, f["fixed_label"] > 0)
    for found in (stripes, released):
        np.testing.assert_array_equal(seen(f, found, masker), f["fixed_masked"])


def seen(f, stripes, masker):
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], (f["data"], stripes))
    return applied(*batch, masker.clean_copies)[0]


@each("brainbert", keys=MASKING)
def test_adaptive_stripes_follow_from_the_recorded_draws(path):
    f = load(path)
    cfg, (t, n) = json.loads(str(f["variable_cfg"])), f["data"].shape
    assert cfg["n_freq_steps"] == n
    masker = Adaptive(share=cfg["mask_p"], range_hz=(cfg["min_f"], cfg["max_f"]))
    tape = Tape(f, "variable")
    least = 1 + int(2 * tape.next_whole())
    w, wide = int(masker.half(1, n).max()), int(masker.widths(n).max())
    time, _ = tape.axis(t, t - 2 * w, masker.share, 2 * w + 1)
    freq, _ = tape.axis(n, n - wide, masker.share)
    assert tape.done()
    stripes = masker.stripes(time, freq, jnp.int32(least), t, n)
    np.testing.assert_array_equal(stripes.label, f["variable_label"] > 0)
    np.testing.assert_array_equal(seen(f, stripes, masker), f["variable_masked"])


# ---- the model -----------------------------------------------------------------------


def of_file(f, **fields):
    tensors, config = part(f, "w/"), json.loads(str(f["config_json"]))
    found = BrainBERT.from_official(tensors, config)
    assert not found.missing
    assert set(tensors) == found.used | set(found.ignored)
    frames = f["target"].shape[1]
    given = {"spectrogram": "superlets", "window_frames": frames}
    task = replace(found.task, **given, **fields)
    return task, jax.tree.map(jnp.asarray, found.variables)


def batch_of(f):
    n = len(f["target"])
    return {
        "ieeg/superlets": jnp.asarray(f["target"]),
        "ieeg/length": jnp.asarray((~f["pad_mask"]).sum(1), jnp.int32),
        "index": jnp.arange(n),
        "valid": jnp.ones(n, bool),
    }


def means_of(task, params, f):
    visible = jnp.asarray(~f["pad_mask"])
    last = task.layers(params, jnp.asarray(f["masked_input"]), visible)[-1]
    terms = content_aware(
        task.predicted(params, last), *(jnp.asarray(f[k]) for k in ASKED)
    )
    return {name: total / weight for name, (total, weight) in terms.items()}


@each("brainbert", keys=MODEL)
def test_every_activation_and_the_loss_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(f)

    @quick.jit
    def run(params):
        x, visible = jnp.asarray(f["masked_input"]), jnp.asarray(~f["pad_mask"])
        layers = task.layers(params, x, visible)
        means = means_of(task, params, f)
        found = {
            "input_encoding": task.embedded(params, x),
            "features": layers[-1],
            "prediction": task.predicted(params, layers[-1]),
            "l1_loss": means["l1"],
            "content_l1": means["content"],
            "content_aware_loss": task.content_weight * means["content"],
            "loss": task.total(means),
        }
        return found | {f"layer_{i:02d}": y for i, y in enumerate(layers)}

    found = jax.device_get(run(variables["params"]))
    assert {k for k in f if k.startswith("layer_")} <= set(found)
    for name, x in found.items():
        close(x, f[name], name=name)


@pytest.mark.parametrize("gradient", ["plain", "released"])
@each("brainbert", keys=MODEL)
def test_gradients_are_the_released_ones(path, gradient):
    f = load(path)
    task, variables = of_file(f, gradient=gradient)
    loss = quick.jit(jax.value_and_grad(lambda p: task.total(means_of(task, p, f))))
    value, grads = jax.device_get(loss(variables["params"]))
    close(value, f["loss"])
    theirs = convert(task, part(f, "grad/"))
    assert not theirs.missing
    # The released training step scales them by the loss.
    scale = f["loss"] if gradient == "released" else 1.0
    theirs = jax.tree.map(lambda g: scale * g, theirs.variables["params"])
    for (name, g), wanted in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(theirs), strict=True
    ):
        close(g, wanted, 1e-5 * scale, 1e-4, jax.tree_util.keystr(name))


@each("brainbert", keys=(*MODEL, "ft_logits"))
def test_the_read_out_is_the_released_one(path):
    f = load(path)
    task, variables = of_file(f)
    batch = batch_of(f)
    head = {
        "kernel": jnp.stack([jnp.zeros(task.width), f["ft_weight"][0]], axis=1),
        "bias": jnp.asarray([0.0, *f["ft_bias"]]),
    }
    tuned = Finetune(task=task, center_tokens=10, regime="probe")
    whole = {"params": {"task": {}, "head": head}, "buffers": {}}
    whole |= {"frozen": {"task": variables}}
    read = quick.jit(lambda v, b: tuned.read(v, b, "prediction").values["prediction"])
    scores = read(whole, batch)[:, 0]
    full = ~f["pad_mask"].any(1)
    assert full.any()
    logits = scores[:, 1] - scores[:, 0]
    close(logits[full], f["ft_logits"][full, 0])

    @quick.jit
    def released(params):  # reads frames of padding too
        visible = jnp.asarray(~f["pad_mask"])
        last = task.layers(params, jnp.asarray(f["target"]), visible)[-1]
        first = last.shape[1] // 2 - 5
        return last[:, first : first + 10].mean(1) @ f["ft_weight"].T + f["ft_bias"]

    logits = released(variables["params"])
    close(logits, f["ft_logits"])
    bce = optax.sigmoid_binary_cross_entropy(logits[:, 0], f["ft_labels"]).mean()
    close(bce, f["ft_bce"])


@each("brainbert", keys=(*MODEL, "pe_first_rows"))
def test_positions_are_the_released_ones(path):
    f = load(path)
    task, variables = of_file(f)
    zero = jnp.zeros_like(jnp.asarray(f["target"][:1]))
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    params["norm"] = {"scale": jnp.ones(task.width), "bias": jnp.zeros(task.width)}
    pe = f["pe_first_rows"]
    wanted = (pe - pe.mean(1, keepdims=True)) / np.sqrt(pe.var(1) + 1e-5)[:, None]
    close(task.embedded(params, zero)[0], wanted)
