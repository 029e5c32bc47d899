"""All forms of attention give one result; which is taken follows from static facts.

Run as a script, this file is a process with eight devices, or one that compiles for a
TPU that is not there.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.nn import kernels
from neurofm.nn.attention import KERNEL_FROM, attend, choose, written_out
from neurofm.nn.precision import compute_dtype
from neurofm.parallel import mesh
from neurofm.parallel.sharding import on_shards

F32, BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
HEADS = ("batch", "token", "heads", "kv")


def inputs(batch, tokens, heads=2, width=8, seed=0):
    """Queries, keys, values and a mask that leaves each row one key at least."""
    rng = np.random.default_rng(seed)
    qkv = rng.standard_normal((3, batch, tokens, heads, width)).astype(np.float32)
    visible = rng.random((batch, tokens)) < 0.6
    visible[:, 1] = True
    return *map(jnp.asarray, qkv), jnp.asarray(visible)


def reference(query, key, value, visible):
    """Attention by its formula, a row at a time, in float64."""
    q, k, v, seen = (np.asarray(x, np.float64) for x in (query, key, value, visible))
    out = np.zeros_like(q)
    for b, i, h in np.ndindex(q.shape[:3]):
        scores = k[b, :, h] @ q[b, i, h] / q.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max()) * seen[b]
        out[b, i, h] = weights @ v[b, :, h] / weights.sum()
    return out


SPLASH = partial(kernels.splash, interpret=True)
CUDNN_ARGUMENTS = partial(kernels.cudnn, implementation="xla")
FORMS = {"xla": written_out, "splash": SPLASH, "cudnn": CUDNN_ARGUMENTS}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("tokens", [7, 130])
def test_every_form_gives_the_formula_with_hidden_keys(name, tokens):
    given = inputs(2, tokens)
    np.testing.assert_allclose(FORMS[name](*given), reference(*given), atol=2e-6)


@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_every_form_has_the_gradients_of_the_written_out_one(name):
    *qkv, visible = inputs(2, 9, heads=3)
    weights = inputs(2, 9, heads=3, seed=1)[0]

    def loss(form, qkv):
        return (form(*qkv, visible) * weights).sum()

    got = jax.grad(partial(loss, FORMS[name]))(qkv)
    wanted = jax.grad(partial(loss, written_out))(qkv)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("name", FORMS)
def test_a_row_without_a_visible_key_stays_finite(name):
    query, key, value, visible = inputs(2, 7)
    visible = visible.at[1].set(False)

    def loss(query):
        return jnp.square(FORMS[name](query, key, value, visible)).sum()

    value_and_grad = jax.value_and_grad(loss)(query)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(value_and_grad))


def test_hidden_keys_change_nothing():
    query, key, value, visible = inputs(2, 7)
    hidden = ~visible[..., None, None]
    other = attend(query, key + 9.0 * hidden, value - 7.0 * hidden, visible)
    np.testing.assert_array_equal(other, attend(query, key, value, visible))


# ---- the choice ----


@pytest.mark.parametrize(
    ("target", "dtype", "tokens", "form"),
    [
        ("cpu", F32, KERNEL_FROM, "xla"),
        ("tpu", BF16, KERNEL_FROM - 1, "xla"),
        ("tpu", BF16, KERNEL_FROM, "splash"),
        ("tpu", F32, KERNEL_FROM, "splash"),
        ("gpu", BF16, KERNEL_FROM - 2, "xla"),
        ("gpu", BF16, KERNEL_FROM, "cudnn"),
        ("gpu", F32, KERNEL_FROM, "xla"),
        ("gpu", BF16, KERNEL_FROM + 1, "xla"),
    ],
)
def test_auto_takes_the_kernel_of_the_platform_for_long_inputs(
    target, dtype, tokens, form
):
    assert choose("auto", target, dtype, tokens, 64) == form


@pytest.mark.parametrize(
    ("setting", "target", "dtype", "tokens", "width", "message"),
    [
        ("splash", "cpu", BF16, 200, 64, "attention=splash .* this program is for cpu"),
        ("cudnn", "tpu", BF16, 200, 64, "for NVIDIA GPUs and this program is for tpu"),
        ("cudnn", "gpu", F32, 200, 64, "16-bit queries and these are float32"),
        ("cudnn", "gpu", BF16, 201, 64, "an even number of tokens and these are 201"),
        ("cudnn", "gpu", BF16, 200, 136, "these are 136 wide; set task.attention=auto"),
    ],
)
def test_a_kernel_that_cannot_be_had_is_refused(
    setting, target, dtype, tokens, width, message
):
    with pytest.raises(NeuroFMError, match=message):
        choose(setting, target, dtype, tokens, width)


def test_dropped_weights_are_written_out_and_no_kernel_by_name():
    assert choose("auto", "tpu", BF16, KERNEL_FROM, 64, dropout=True) == "xla"
    with pytest.raises(
        NeuroFMError, match=r"drops no attention weights, as task\.drop"
    ):
        choose("splash", "tpu", BF16, KERNEL_FROM, 64, dropout=True)


def test_a_dropped_key_is_as_a_hidden_one_but_for_the_scale():
    query, key, value, _ = inputs(2, 7)
    every = jnp.ones((2, 7), bool)
    got = attend(query, key, value, every, drop=lambda w: w.at[..., 3].set(0))
    weights = jax.nn.softmax(
        jnp.einsum("bqhk,bshk->bhqs", query, key) * 8**-0.5, axis=-1
    )
    kept = 1 - weights[..., 3].swapaxes(1, 2)[..., None]
    wanted = reference(query, key, value, every.at[:, 3].set(False)) * kept
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_asking_for_splash_on_cpu_is_an_error_and_not_another_form():
    with pytest.raises(NeuroFMError, match=r"task\.attention=splash cannot be used"):
        attend(*inputs(1, 7), setting="splash")


def test_the_form_stands_in_the_log_once(caplog):
    caplog.set_level("INFO", logger="neurofm")
    for seed in (0, 1):
        attend(*inputs(1, 11, seed=seed))
    told = [r.message for r in caplog.records]
    assert told == ["attention over 11 tokens, float32 on cpu: xla"]


# ---- on a mesh, and for a platform that is not there ----


def run(name, platform="cpu"):
    done = subprocess.run(
        [sys.executable, __file__, name],
        env=os.environ
        | {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "JAX_PLATFORMS": platform,
            "TPU_SKIP_MDS_QUERY": "1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def splash_on_eight_devices():
    from jax.sharding import NamedSharding, PartitionSpec

    from neurofm.config import Mesh
    from neurofm.parallel import distributed

    distributed.initialise(devices=8)
    devices = mesh.make(Mesh(data=2, fsdp=2, tensor=2))
    *qkv, visible = inputs(4, 5, heads=4)

    def loss(form, qkv, visible):
        return jnp.square(form(*qkv, visible)).sum()

    spread = on_shards(SPLASH, HEADS, HEADS, HEADS, ("batch", "token"))
    wanted = jax.value_and_grad(partial(loss, written_out))(qkv, visible)
    rows = NamedSharding(devices, PartitionSpec(mesh.BATCH_AXES))
    split = NamedSharding(devices, PartitionSpec(mesh.BATCH_AXES, None, "tensor"))
    with jax.set_mesh(devices):
        placed = jax.device_put(qkv, split), jax.device_put(visible, rows)
        step = jax.jit(jax.value_and_grad(partial(loss, spread)))
        compiled = step.lower(*placed).compile()
        got = compiled(*placed)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    from neurofm.parallel.collectives import collectives

    found = collectives(compiled.as_text(), devices.shape)
    return {"large": [c.bytes for c in found if c.bytes > 4]}


def test_splash_runs_on_the_heads_and_rows_that_each_device_holds():
    assert run("splash_on_eight_devices") == {"large": []}


def for_a_tpu():
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec

    from neurofm.config import Mesh

    chips = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
    devices = mesh.make(Mesh(data=2, tensor=2), chips)
    told = {"outside": [mesh.platform(), str(compute_dtype("auto"))]}

    def tokens(n, setting):
        def place(*spec):
            return NamedSharding(devices, PartitionSpec(*spec))

        x = jax.ShapeDtypeStruct(
            (2, n, 2, 64), BF16, sharding=place("data", None, "tensor")
        )
        seen = jax.ShapeDtypeStruct((2, n), bool, sharding=place("data"))

        def loss(q, k, v, seen):
            return attend(q, k, v, seen, setting).astype(F32).sum()

        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        return step.lower(x, x, x, seen).compile().as_text()

    with jax.set_mesh(devices):
        told["inside"] = [mesh.platform(), str(compute_dtype("auto"))]
        for name, text in {
            "long": tokens(KERNEL_FROM, "auto"),
            "short": tokens(200, "auto"),
            "asked": tokens(200, "splash"),
        }.items():
            told[name] = text.count('custom_call_target="tpu_custom_call"')
    return told


@pytest.mark.skipif(not find_spec("libtpu"), reason="libtpu is for Linux x86-64")
def test_a_program_for_a_tpu_is_a_tpus_in_a_process_that_has_none():
    told = run("for_a_tpu")
    assert told["outside"] == ["cpu", "float32"]
    assert told["inside"] == ["tpu", "bfloat16"]
    kernels_of_splash = 3  # forward, gradients of queries, of keys and values
    assert told["long"] == told["asked"] == kernels_of_splash
    assert told["short"] == 0


def cudnn_on_a_gpu():
    *qkv, visible = inputs(2, 256, heads=4, width=64)
    qkv = [x.astype(BF16) for x in qkv]

    def loss(form, qkv):
        mixed = form(*qkv).astype(F32)
        return jnp.square(mixed).sum(), mixed

    asked = partial(attend, visible=visible, setting="cudnn")
    plain = partial(written_out, visible=visible)
    got, wanted = (
        jax.grad(partial(loss, form), has_aux=True)(qkv) for form in (asked, plain)
    )
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    return [float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs]


@pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="there is no GPU")
def test_cudnn_gives_what_is_written_out_and_its_gradients():
    assert max(run("cudnn_on_a_gpu", platform="cuda")) < 0.03


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
