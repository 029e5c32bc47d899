"""Meshes and shardings on eight simulated devices, and two real processes.

Run as a script, this file is the process that has the devices: the tests below start it
with the name of a function.
"""

import json
import math
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from neurofm.config import Data, Mesh
from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.data import audio, loader
from neurofm.data.records import (
    Dataset,
    DatasetInfo,
    Recording,
    open_dataset,
    write_dataset,
)
from neurofm.errors import NeuroFMError
from neurofm.models.wavjepa import WavJEPA
from neurofm.parallel import distributed, mesh, sharding

BLOCK = {
    "norm_attn": {"scale": (2, 16), "bias": (2, 16)},
    "attn": {
        "query": {"kernel": (2, 16, 4, 4), "bias": (2, 4, 4)},
        "out": {"kernel": (2, 4, 4, 16), "bias": (2, 16)},
    },
    "mlp_in": {"kernel": (2, 16, 64), "bias": (2, 64)},
    "mlp_out": {"kernel": (2, 64, 16), "bias": (2, 16)},
}
SHAPES = {
    "stem_0": {"conv_0": (5, 1, 8), "norm": {"scale": (8,)}},
    "project": {"kernel": (8, 16), "bias": (16,)},
    "encoder": {"blocks": BLOCK, "norm": {"scale": (16,)}},
    "mask_token": (16,),
    "log_scale": (),
}


def params():
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), SHAPES, is_leaf=is_shape
    )


def one_device_mesh():
    return mesh.make(Mesh(), jax.devices()[:1])


# ---- with one device ----


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (Mesh(), (1, 8, 1, 1)),
        (Mesh(fsdp=-1, data=2), (1, 2, 4, 1)),
        (Mesh(replica=2, data=1, fsdp=2, tensor=2), (2, 1, 2, 2)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(sizes, shape):
    assert mesh.shape_of(sizes, 8) == shape


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (Mesh(), (2, 4, 1, 1)),
        (Mesh(replica=4), (4, 2, 1, 1)),
        (Mesh(replica=-1, data=1, fsdp=-1), (2, 1, 4, 1)),
    ],
)
def test_the_replicas_go_over_the_slices(sizes, shape):
    assert mesh.shape_of(sizes, 8, n_slices=2) == shape


def test_a_slice_does_not_lie_across_replicas():
    with pytest.raises(NeuroFMError, match=r"mesh.replica=1.* 2 slices: .* or -1"):
        mesh.shape_of(Mesh(replica=1), 8, n_slices=2)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Mesh(fsdp=2), "mesh.fsdp=2.* a multiple of 2 devices but there are 1"),
        (Mesh(data=4), "asks for 4 devices but there are 1"),
        (Mesh(fsdp=-1), "at most one axis"),
        (Mesh(data=0), "sizes of 1 or more"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, message):
    with pytest.raises(NeuroFMError, match=message):
        mesh.make(sizes)


def test_a_batch_that_does_not_split_is_refused_with_those_that_do():
    mesh.check_batch(one_device_mesh(), 6, accumulate=3)
    with pytest.raises(NeuroFMError, match=r"1 batch shards x 4 .*: use 4 or 8"):
        mesh.check_batch(one_device_mesh(), 6, accumulate=4)


def test_a_parameter_without_a_rule_is_an_error_until_the_task_brings_one():
    tree = {"adapter": {"down": jnp.zeros((4, 2))}}
    with pytest.raises(NeuroFMError, match="adapter/down"):
        sharding.param_shardings(tree, one_device_mesh())
    rules = ((r"adapter/down$", ("embed", None)),)
    sharding.param_shardings(tree, one_device_mesh(), rules)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (("embed",), r"names 1 axes .* w has shape \[4, 2\]"),
        (("embed", "channel"), "'embed' and 'channel' .* both lie on .* 'fsdp'"),
        (("embed", "hedas"), "'hedas' is unknown: use one of .*heads"),
    ],
)
def test_a_wrong_rule_is_refused(axes, message):
    with pytest.raises(NeuroFMError, match=message):
        sharding.param_shardings(
            {"w": jnp.zeros((4, 2))}, one_device_mesh(), (("w", axes),)
        )


@pytest.mark.parametrize("n_chans", [1, 2])
def test_nearly_all_of_a_published_model_and_its_state_is_sharded(n_chans):
    task = WavJEPA(n_chans=n_chans)
    batch = {"audio/wave": jnp.zeros((1, n_chans, task.window_samples))}
    state = jax.eval_shape(lambda key: task.init(key, batch, {}), jax.random.key(0))
    state["opt"] = jax.eval_shape(optax.adamw(1e-3).init, state["params"])
    eight = jax.sharding.AbstractMesh(
        (1, 1, 8, 1), mesh.AXES, (jax.sharding.AxisType.Auto,) * 4
    )
    placed, notes = sharding.state_shardings(
        state, state["params"], eight, task.rules()
    )
    assert notes == []
    whole = sum(x.size for x in jax.tree.leaves(state))
    stored = jax.tree.map(lambda s, x: math.prod(s.shard_shape(x.shape)), placed, state)
    share_on_one = sum(jax.tree.leaves(stored)) / whole
    assert share_on_one < 1 / 8 + 0.05 * 7 / 8  # at least 95% is cut in eight


def test_constrain_does_nothing_without_a_mesh():
    x = jnp.ones((3, 5))
    assert sharding.constrain(x, "batch", "embed") is x
    jaxpr = jax.make_jaxpr(lambda x: sharding.constrain(x, "batch", "embed"))(x)
    assert not jaxpr.eqns
    with jax.set_mesh(one_device_mesh()):
        jaxpr = jax.make_jaxpr(lambda x: sharding.constrain(x, "batch", "embed"))(x)
    assert [e.primitive.name for e in jaxpr.eqns] == ["sharding_constraint"]


def test_alone_a_process_agrees_with_itself_at_once():
    agree = distributed.agreement(one_device_mesh())
    assert [agree(False), agree(True), agree(False)] == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "host:1"}, "--num-processes and --process-id not given"),
        (
            {"coordinator": "host:1", "num_processes": 2, "process_id": 2},
            "--process-id 2 is not one of 0 to 1",
        ),
        (
            {"coordinator": "host", "num_processes": 2, "process_id": 0},
            "'host' has no port",
        ),
        ({"devices": 0}, "--devices 0"),
        ({"devices": 8}, "once jax is at work"),
    ],
)
def test_impossible_start_ups_are_refused(arguments, message):
    jax.devices()
    with pytest.raises(NeuroFMError, match=message):
        distributed.initialise(**arguments)


# ---- with eight devices, in a process of their own ----


def shard_shapes(sizes):
    """What one device stores of each parameter, and the notes."""
    placed, notes = sharding.param_shardings(params(), mesh.make(sizes))
    shapes = jax.tree.map(lambda s, p: s.shard_shape(p.shape), placed, params())
    return shapes, notes


def parameters_lie_as_the_rules_say():
    got, notes = shard_shapes(Mesh(fsdp=8, data=1))
    blocks = got["encoder"]["blocks"]
    assert blocks["attn"]["query"]["kernel"] == (2, 2, 4, 4)
    assert blocks["attn"]["out"]["kernel"] == (2, 4, 4, 2)
    assert blocks["mlp_in"]["kernel"] == (2, 2, 64)
    assert blocks["mlp_out"]["kernel"] == (2, 64, 2)
    assert blocks["norm_attn"]["scale"] == (2, 16)
    assert got["stem_0"]["conv_0"] == (5, 1, 1)
    assert got["project"]["kernel"] == (8, 2)
    assert got["encoder"]["norm"]["scale"] == got["mask_token"] == (16,)
    assert got["log_scale"] == ()
    assert notes == []

    got, notes = shard_shapes(Mesh(data=1, tensor=8))
    blocks = got["encoder"]["blocks"]
    assert blocks["mlp_in"]["kernel"] == (2, 16, 8)
    assert blocks["mlp_out"]["kernel"] == (2, 8, 16)
    assert blocks["attn"]["query"]["kernel"] == (2, 16, 4, 4)  # 4 heads, 8 devices
    assert notes == [
        f"encoder/blocks/attn/{name}/kernel {shape}: heads=4 stays whole, 8 does not "
        "divide it"
        for name, shape in (("out", [2, 4, 4, 16]), ("query", [2, 16, 4, 4]))
    ]

    got, notes = shard_shapes(Mesh(data=2, fsdp=2, tensor=2))
    blocks = got["encoder"]["blocks"]
    assert blocks["attn"]["query"]["kernel"] == (2, 8, 2, 4)
    assert blocks["mlp_out"]["kernel"] == (2, 32, 8)
    assert notes == []


def states_mirror_their_parameters():
    tree = params()
    adam = jax.eval_shape(optax.adam(1e-3).init, tree)
    factored = {
        "v_row": {"encoder": {"blocks": {"mlp_in": {"kernel": tree["project"]}}}}
    }
    factored["v_row"]["encoder"]["blocks"]["mlp_in"]["kernel"] = jax.ShapeDtypeStruct(
        (2, 16), jnp.float32
    )
    state = {
        "params": tree,
        "opt": (adam, factored),
        "slow": {"teacher": tree["encoder"]},
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    device_mesh = mesh.make(Mesh(data=2, fsdp=2, tensor=2))
    rules = ((r"^project/kernel$", ("embed", None)),)  # seen from the parameters' root
    placed, notes = sharding.state_shardings(state, tree, device_mesh, rules)
    wanted, _ = sharding.param_shardings(tree, device_mesh, rules)
    assert placed["params"] == wanted
    moments = placed["opt"][0][0]
    assert moments.mu == moments.nu == wanted
    assert moments.count.is_fully_replicated
    assert placed["step"].is_fully_replicated
    assert placed["slow"]["teacher"] == wanted["encoder"]
    name = "encoder/blocks/mlp_in/kernel"
    assert notes == [f"opt/1/v_row/{name} [2, 16] stays whole, unlike {name}"]


def sharded_losses_and_gradients_equal_those_of_one_device():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)  # noqa: E731
    tree = {
        "blocks": {
            "attn": {
                "query": {"kernel": draw(3, 16, 4, 4)},
                "out": {"kernel": draw(3, 4, 4, 16)},
            },
            "mlp_in": {"kernel": draw(3, 16, 32)},
            "mlp_out": {"kernel": draw(3, 32, 16)},
        }
    }
    batch = {"x": draw(8, 7, 16), "weight": rng.uniform(size=8).astype(np.float32)}

    def block(x, p):
        x = sharding.constrain(x, "batch", "token", "embed")
        query = sharding.constrain(p["attn"]["query"]["kernel"], "embed", "heads", "kv")
        heads = jnp.einsum("btd,dhk->bthk", x, query)
        heads = sharding.constrain(heads, "batch", "token", "heads", "kv")
        scores = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", heads, heads))
        mixed = jnp.einsum("bhts,bshk->bthk", scores, heads)
        x += jnp.einsum("bthk,hkd->btd", mixed, p["attn"]["out"]["kernel"])
        hidden = jax.nn.gelu(x @ p["mlp_in"]["kernel"])
        hidden = sharding.constrain(hidden, "batch", "token", "mlp")
        return x + hidden @ p["mlp_out"]["kernel"], None

    def loss(tree, batch):
        x, _ = jax.lax.scan(block, batch["x"], tree["blocks"])
        errors = jnp.square(x).mean((1, 2)) * batch["weight"]
        return errors.sum() / batch["weight"].sum()

    step = jax.jit(jax.value_and_grad(loss))
    value, grads = step(tree, batch)
    for sizes in (Mesh(fsdp=8, data=1), Mesh(replica=2, data=1, fsdp=2, tensor=2)):
        device_mesh = mesh.make(sizes)
        placed, _ = sharding.param_shardings(tree, device_mesh)
        rows = sharding.batch_sharding(device_mesh)
        with jax.set_mesh(device_mesh):
            got, got_grads = step(
                jax.device_put(tree, placed), jax.device_put(batch, rows)
            )
        np.testing.assert_allclose(got, value, rtol=1e-5)
        for a, b in zip(
            jax.tree.leaves(got_grads), jax.tree.leaves(grads), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def gathered_weights_are_whole_and_stored_ones_are_not():
    device_mesh = mesh.make(Mesh(fsdp=8, data=1))
    stored = {"mlp_in": {"kernel": np.ones((16, 64), np.float32)}}
    rules = ((r"mlp_in/kernel$", ("embed", "mlp")),)
    placed, _ = sharding.param_shardings(stored, device_mesh, rules)
    kernel = jax.device_put(stored, placed)["mlp_in"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 64)
    with jax.set_mesh(device_mesh):
        gather = jax.jit(lambda w: sharding.constrain(w, "embed", "mlp"))
        assert gather(kernel).addressable_shards[0].data.shape == (16, 64)
        rows = jax.jit(lambda x: sharding.constrain(x, "batch", "embed"))
        assert rows(kernel).addressable_shards[0].data.shape == (2, 64)
        odd = jax.jit(lambda x: sharding.constrain(x, "batch", "embed"))(kernel[:7])
        assert odd.addressable_shards[0].data.shape == (7, 64)


ON_EIGHT_DEVICES = {
    function.__name__: function
    for function in (
        parameters_lie_as_the_rules_say,
        states_mirror_their_parameters,
        sharded_losses_and_gradients_equal_those_of_one_device,
        gathered_weights_are_whole_and_stored_ones_are_not,
    )
}


@pytest.fixture(scope="module")
def outcomes():
    """Name -> traceback, empty where the function returned."""
    return json.loads(finish(start("on_eight_devices")).splitlines()[-1])


def on_eight_devices():
    distributed.initialise(devices=8)
    told = {}
    for name, function in ON_EIGHT_DEVICES.items():
        try:
            function()
            told[name] = ""
        except Exception:
            told[name] = traceback.format_exc()
    print(json.dumps(told))


@pytest.mark.parametrize("name", ON_EIGHT_DEVICES)
def test_on_eight_devices(outcomes, name):
    assert not outcomes[name], outcomes[name]


# ---- two processes ----

BATCH, STEPS = 8, 3


def a_process_reads_its_own_rows(number: str, port: str, folder: str):
    distributed.initialise(f"localhost:{port}", 2, int(number), devices=2)
    dataset, reads, read = open_dataset(folder), [], Dataset.read_many

    def spied(self, spans):
        reads.extend(spans)
        return read(self, spans)

    Dataset.read_many = spied
    fields = {
        "audio/wave": Field(shape=(1, 200), axes=("chan", "sample")),
        "audio/span": Field(shape=(2,), axes=("edge",), dtype="int32"),
    }
    contract = InputContract(
        kind="audio",
        sfreq=1000.0,
        unit="full_scale",
        n_chans=1,
        window_samples=200,
        hop_samples=10,
        receptive_samples=15,
    )
    spec = BatchSpec(fields=fields, contract=contract)
    made = audio.training([dataset], contract, Data(crops_per_clip=1), seed=0)

    def global_batches(sizes):
        device_mesh = mesh.make(sizes)
        placed = sharding.batch_sharding(device_mesh)
        rows = distributed.rows_of_this_process(placed, BATCH)
        local = loader.batches(made, spec, BATCH, rows, workers=0)
        deliveries = loader.device_batches(local, placed, BATCH, rows)
        batches = [next(deliveries).batch for _ in range(STEPS)]
        deliveries.close()
        return rows, batches

    alone = loader.batches(made, spec, BATCH, np.arange(BATCH), workers=0)
    whole = [batch for batch, _ in zip(alone, range(STEPS), strict=False)]
    reads.clear()
    rows, batches = global_batches(Mesh())
    assert rows.tolist() == [list(range(4)), list(range(4, 8))][int(number)]
    mine = {made.crop(s * BATCH + row)[1:4] for s in range(STEPS) for row in rows}
    assert set(reads[: STEPS * len(rows)]) == mine
    for batch, wanted in zip(batches, whole, strict=True):
        for name, value in batch.items():
            assert value.shape == wanted[name].shape
            for shard in value.addressable_shards:
                np.testing.assert_array_equal(shard.data, wanted[name][shard.index])
    total = jax.jit(lambda batch: batch["audio/wave"].astype(float).sum())(batches[0])
    np.testing.assert_allclose(total, whole[0]["audio/wave"].sum(), rtol=1e-4)

    # Both processes hold the same rows where only `tensor` runs across them.
    rows, batches = global_batches(Mesh(data=1, tensor=4))
    assert rows.tolist() == list(range(BATCH))
    for name, value in batches[0].items():
        np.testing.assert_array_equal(value, whole[0][name])

    agree = distributed.agreement(mesh.make(Mesh()))
    flags = [False, number == "1", False, False]
    assert [agree(flag) for flag in flags] == [False, False, True, False]


def test_two_processes_make_the_batch_of_one_each_reading_its_own_rows(tmp_path):
    rng = np.random.default_rng(0)
    info = DatasetInfo(
        kind="audio", sfreq=1000.0, unit="full_scale", ch_names=("mono",)
    )
    waves = rng.uniform(-0.3, 0.3, (20, 1, 300)).astype(np.float32)
    write_dataset(
        tmp_path / "store",
        info,
        [Recording(item=f"item{i}", samples=w) for i, w in enumerate(waves)],
    )
    name, port = a_process_reads_its_own_rows.__name__, free_port()
    both = [start(name, str(n), str(port), str(tmp_path / "store")) for n in (0, 1)]
    try:
        for process in both:
            finish(process)
    finally:
        for process in both:
            process.kill()


def a_process_whose_others_never_come(port: str):
    distributed.PATIENCE_S = 1  # after twice that jax ends the process
    with pytest.raises(NeuroFMError, match=r"one of 2 processes.*did not meet"):
        distributed.initialise(f"localhost:{port}", 2, 0)


def test_a_process_whose_others_never_come_says_so():
    finish(start(a_process_whose_others_never_come.__name__, str(free_port())))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(*arguments: str) -> subprocess.Popen:
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


if __name__ == "__main__":
    function, *arguments = sys.argv[1:]
    globals()[function](*arguments)
