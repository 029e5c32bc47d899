"""Collectives read from compiled programs whose answer is known by hand.

Run as a script with `cpu` or `tpu`, this file compiles the programs for eight devices
and prints their texts.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from neurofm.parallel import hlo
from neurofm.parallel.collectives import collectives

MESH = {"replica": 1, "data": 2, "fsdp": 2, "tensor": 2}
LAYERS = 5
BLOCKS, HEADS, WIDTH = 2, 6, 384
MESH_OF_BLOCKS = {"replica": 1, "data": 2, "fsdp": 4, "tensor": 1}


def programs():
    """Name -> function and the specs of its (64, 256) float32 argument, in and out."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec as P

    over = lambda f, i, o: (jax.shard_map(f, in_specs=i, out_specs=o), i, o)  # noqa: E731
    lax = jax.lax

    def gather(x):
        return lax.all_gather(x, "fsdp", tiled=True)

    def again(x, _=None):
        whole = gather(x)
        return jnp.tanh(whole.reshape(2, -1, 256).sum(0) + x), None

    def nested(x):
        inner = lambda x, _: lax.scan(again, x, None, length=3)  # noqa: E731
        return lax.scan(inner, x, None, length=4)[0]

    def counted(x):
        n = 2 + (x.sum() > 0)  # known to the device alone
        body = lambda c: (c[0] + 1, again(c[1])[0])  # noqa: E731
        return lax.while_loop(lambda c: c[0] < n, body, (0, x))[1]

    def chosen(x):
        branches = [lambda x: x, lambda x: again(x)[0], lambda x: nested(x)]
        return lax.switch((lax.psum(x[0, 0], "fsdp") > 0).astype(int), branches, x)

    both = ("fsdp", "tensor")
    psum = lambda axes: lambda x: lax.psum(x, axes)  # noqa: E731
    scatter = lambda x: lax.psum_scatter(x, "fsdp", tiled=True)  # noqa: E731
    turn = lambda x: lax.ppermute(x, "tensor", [(0, 1), (1, 0)])  # noqa: E731
    swap = lambda x: lax.all_to_all(x, "tensor", 1, 0, tiled=True)  # noqa: E731
    return {
        "none": (lambda x: x + 1, P("fsdp"), P("fsdp")),
        "gather": (lambda x: x, P("fsdp"), P()),
        "gather_two_axes": (lambda x: x, P(("data", "fsdp")), P()),
        "sum_over_fsdp": over(psum("fsdp"), P("fsdp"), P()),
        "sum_over_tensor": over(psum("tensor"), P("tensor"), P()),
        "sum_over_both": over(psum(both), P(both), P()),
        "scatter": over(scatter, P("fsdp"), P("fsdp")),
        "turn": over(turn, P("tensor"), P("tensor")),
        "swap": over(swap, P("tensor"), P(None, "tensor")),
        "nested": over(nested, P("fsdp"), P("fsdp")),
        "counted": over(counted, P("fsdp"), P("fsdp")),
        "chosen": over(chosen, P("fsdp"), P("fsdp")),
    }


def compiled_texts(platform):
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from neurofm.config import Mesh
    from neurofm.parallel import distributed, mesh

    if platform == "cpu":
        distributed.initialise(devices=8)
        devices = jax.devices()
    else:
        from jax.experimental import topologies

        devices = topologies.get_topology_desc("v5e:2x4", platform="tpu").devices
    devices = mesh.make(Mesh(data=2, fsdp=2, tensor=2), devices)

    def placed(shape, spec, dtype=jnp.float32):
        sharding = NamedSharding(devices, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def text(function, args, out):
        with jax.set_mesh(devices):
            step = jax.jit(function, out_shardings=NamedSharding(devices, out))
            return step.lower(*args).compile().as_text()

    texts = {
        name: text(f, (placed((64, 256), i),), o)
        for name, (f, i, o) in programs().items()
    }

    def layer(x, w):
        w = jax.lax.with_sharding_constraint(w.astype(x.dtype), P())
        return jax.nn.gelu(x @ w) @ w.T + x, None

    def loss(w, x):
        return jnp.square(jax.lax.scan(layer, x, w)[0].astype(jnp.float32)).sum()

    weights = placed((LAYERS, 512, 1024), P(None, "fsdp"))
    rows = placed((4096, 512), P(("data", "fsdp")), jnp.bfloat16)
    texts["layers"] = text(jax.grad(loss), (weights, rows), P(None, "fsdp"))
    if platform == "tpu":
        blocks = mesh.make(Mesh(**MESH_OF_BLOCKS), devices.devices.flatten())
        texts["blocks"] = blocks_text(blocks)
    return texts


def blocks_text(devices):
    """Value and gradient of transformer blocks whose parameters lie as in training."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from neurofm.nn.blocks import Transformer
    from neurofm.parallel import sharding

    model = Transformer(BLOCKS, HEADS, remat="selective", dtype=jnp.dtype("bfloat16"))

    def loss(params, x):
        return jnp.square(model.apply({"params": params}, x, None)[0]).mean()

    shape = jax.ShapeDtypeStruct((16, 39, WIDTH), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model.init, key, shape, None)["params"]
    where, _ = sharding.param_shardings(params, devices)
    placed = lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)  # noqa: E731
    args = (
        jax.tree.map(placed, params, where),
        placed(shape, sharding.batch_sharding(devices)),
    )
    out = (NamedSharding(devices, P()), where)
    with jax.set_mesh(devices):
        step = jax.jit(jax.value_and_grad(loss), out_shardings=out)
        return step.lower(*args).compile().as_text()


@pytest.fixture(scope="module", params=["cpu", "tpu"])
def found(request):
    """Name of a program -> its collectives, by two compilers."""
    if request.param == "tpu" and not find_spec("libtpu"):
        pytest.skip("libtpu compiles for TPU; Linux x86-64 only")
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, __file__, request.param],
        env=os.environ
        | {
            "PYTHONPATH": root,
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    texts = json.loads(done.stdout.splitlines()[-1])
    meshes = {"blocks": MESH_OF_BLOCKS}
    return {n: collectives(text, meshes.get(n, MESH)) for n, text in texts.items()}


WHOLE = 64 * 256 * 4


@pytest.mark.parametrize(
    ("name", "kind", "size", "axes", "sent"),
    [
        ("gather", "all-gather", WHOLE, ("fsdp",), WHOLE / 2),
        ("gather_two_axes", "all-gather", WHOLE, ("data", "fsdp"), WHOLE * 3 / 4),
        ("sum_over_fsdp", "all-reduce", WHOLE / 2, ("fsdp",), WHOLE / 2),
        ("sum_over_tensor", "all-reduce", WHOLE / 2, ("tensor",), WHOLE / 2),
        ("sum_over_both", "all-reduce", WHOLE / 4, ("fsdp", "tensor"), WHOLE * 3 / 8),
        ("scatter", "reduce-scatter", WHOLE / 2, ("fsdp",), WHOLE / 4),
        ("turn", "collective-permute", WHOLE / 2, ("tensor",), WHOLE / 2),
        ("swap", "all-to-all", WHOLE / 2, ("tensor",), WHOLE / 4),
    ],
)
def test_kind_size_and_axes_are_those_of_the_program(
    found, name, kind, size, axes, sent
):
    (one,) = found[name]
    told = (one.kind, one.bytes, one.axes, one.trips, one.sent)
    assert told == (kind, size, axes, 1, sent)


def test_a_program_without_communication_has_no_collectives(found):
    assert found["none"] == []


def test_the_rounds_of_nested_loops_multiply(found):
    (one,) = found["nested"]
    assert (one.kind, one.bytes, one.axes, one.trips) == (
        ("all-gather", WHOLE, ("fsdp",), 12)
    )


def test_a_loop_whose_end_the_device_decides_has_unknown_rounds(found):
    (one,) = [c for c in found["counted"] if c.shapes == ((64, 256),)]
    assert one.trips is None


def test_of_several_branches_the_one_that_moves_most_counts(found):
    assert [c.trips for c in found["chosen"] if c.kind == "all-gather"] == [12]


def test_layers_gather_their_weights_each_round_and_sum_gradients_over_the_rows(found):
    gathers = [c for c in found["layers"] if c.kind == "all-gather"]
    assert {(c.axes, c.trips) for c in gathers} == {(("fsdp",), LAYERS)}
    weight = 512 * 1024
    assert all(c.bytes in (2 * weight, 4 * weight) for c in gathers)
    assert 1 <= len(gathers) <= 3  # forward, and again in the backward pass
    sums = [c for c in found["layers"] if c.kind != "all-gather"]
    assert {c.kind for c in sums} <= {"all-reduce", "reduce-scatter"}
    assert {axis for c in sums for axis in c.axes} == {"data", "fsdp"}
    assert {c.trips for c in sums} == {LAYERS}


def test_gradients_of_all_weights_of_a_block_are_scattered_and_none_is_summed_whole(
    found,
):
    if "blocks" not in found:
        pytest.skip("the CPU's compiler does not make reduce-scatters")
    over_fsdp = [c for c in found["blocks"] if "fsdp" in c.axes]
    scattered = [c for c in over_fsdp if c.kind == "reduce-scatter"]
    size = sum(c.bytes * (c.trips or 0) for c in scattered)
    assert size == BLOCKS * 12 * WIDTH * WIDTH * 2  # bytes of a bfloat16
    whole = [c for c in over_fsdp if c.kind == "all-reduce"]
    sizes = [np.prod(shape) for c in whole for shape in c.shapes]
    assert max(sizes) <= 4 * WIDTH  # biases and norms


# ---- parts of the text, by hand ----


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[8]", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (
            "replica_groups=[4,2]<=[2,2,2]T(0,2,1)",
            [[0, 2], [1, 3], [4, 6], [5, 7]],
        ),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (
            "replica_groups=mesh['a'=2,'b'=4] {'a'}",
            [[0, 4], [1, 5], [2, 6], [3, 7]],
        ),
        (
            "replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([2,2,2]T(1,0,2)) "
            "{'a'}, dimensions={0}",
            [[0, 2], [1, 3], [4, 6], [5, 7]],
        ),
        (
            "replica_groups=mesh['b'=8] {'b':(2)2}",
            [[0, 2], [1, 3], [4, 6], [5, 7]],
        ),
        (
            "replica_groups=mesh['b'=8] {'b':(1)2,'b':(4)2}",
            [[0, 1, 4, 5], [2, 3, 6, 7]],
        ),
        ("source_target_pairs={{0,1},{1,0},{2,2}}", [[0, 1], [1, 0], [2]]),
    ],
)
def test_groups_in_all_their_forms(text, groups):
    instruction = hlo.Instruction("x", "all-gather", (), "", f", channel_id=1, {text}")
    assert hlo.groups(instruction, 8) == groups


def test_unknown_groups_are_refused():
    instruction = hlo.Instruction("x", "all-gather", (), "", ", replica_groups=<new>")
    with pytest.raises(
        ValueError, match=r"groups of x are in an unknown form: .*<new>"
    ):
        hlo.groups(instruction, 8)


ASYNC = """HloModule m

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%wrapped (p.1: f32[8,6]) -> f32[2,6] {
  %p.1 = f32[8,6]{1,0} parameter(0)
  ROOT %rs = f32[2,6]{1,0} reduce-scatter(%p.1), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
}

ENTRY %main (p: f32[2,6]) -> f32[2,6] {
  %p = f32[2,6]{1,0:T(8,128)} parameter(0)
  %ag = ((f32[2,6]{1,0}, bf16[3]{0}), (f32[8,6]{1,0}, bf16[12]{0})) all-gather-start(%p, %q), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %agd = (f32[8,6]{1,0}, bf16[12]{0}) all-gather-done(%ag)
  %cp = (f32[2,6]{1,0}, f32[2,6]{1,0}, u32[], /*index=3*/u32[]) collective-permute-start(%p), channel_id=2, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %cpd = f32[2,6]{1,0} collective-permute-done(%cp)
  %ar = f32[7]{0} all-reduce-start(%x), channel_id=4, replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %begin = ((f32[8,6]{1,0}), f32[2,6]{1,0}, s32[]) async-start(%agd), calls=%wrapped
  ROOT %end = f32[2,6]{1,0} async-done(%begin), calls=%wrapped
}
"""  # noqa: E501


def test_what_starts_and_ends_apart_counts_once_with_its_results_only():
    gather, permute, scatter = collectives(ASYNC, {"fsdp": 4})
    assert (gather.kind, gather.bytes) == ("all-gather", 8 * 6 * 4 + 12 * 2)
    assert gather.shapes == ((8, 6), (12,))
    assert (permute.kind, permute.bytes, permute.group) == (
        ("collective-permute", 2 * 6 * 4, 2)
    )
    assert (scatter.kind, scatter.bytes) == ("reduce-scatter", 8 * 6 * 4)
    assert scatter.sent == 8 * 6 * 4 * 3 / 4


# As a TPU prints a large layer: it gathers while it computes, and scatters in a fusion.
FUSED = """HloModule m

%begin (p: bf16[4,16]) -> (bf16[4,16], bf16[8,16]) {
  %p = bf16[4,16]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[4,16]{1,0:T(8,128)}, bf16[8,16]{1,0:T(8,128)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (p.2: bf16[4,16], q: f32[3]) -> (bf16[8,16], f32[3]) {
  %p.2 = bf16[4,16]{1,0} parameter(0)
  %q = f32[3]{0} parameter(1)
  %sine = f32[3]{0} sine(%q)
  %all-gather.2 = bf16[8,16]{1,0:T(8,128)} all-gather(%p.2), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, dimensions={0}
  ROOT %tuple.2 = (bf16[8,16]{1,0}, f32[3]{0}) tuple(%all-gather.2, %sine)
}

%end (p.3: bf16[4,16]) -> bf16[8,16] {
  %p.3 = bf16[4,16]{1,0} parameter(0)
  %all-gather.3 = bf16[8,16]{1,0} all-gather(%p.3), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, dimensions={0}
  ROOT %custom-call.3 = bf16[8,16]{1,0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}

%scatter (input: bf16[8,16]) -> bf16[4,16] {
  %input = bf16[8,16]{1,0} parameter(0)
  %all-reduce.1 = bf16[8,16]{1,0} all-reduce(%input), channel_id=1, replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%add
  %at = u32[] partition-id()
  ROOT %dynamic-slice.1 = bf16[4,16]{1,0} dynamic-slice(%all-reduce.1, %at, %at), dynamic_slice_sizes={4,16}
}

%body (c: (s32[], bf16[4,16])) -> (s32[], bf16[4,16]) {
  %c = (s32[], bf16[4,16]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %w = bf16[4,16]{1,0} get-tuple-element(%c), index=1
  %start = (bf16[4,16]{1,0}, bf16[8,16]{1,0}) fusion(%w), kind=kCustom, calls=%begin
  %work = (bf16[8,16]{1,0}, f32[3]{0}) fusion(%start), kind=kLoop, calls=%meanwhile
  %done = bf16[8,16]{1,0} fusion(%work), kind=kCustom, calls=%end
  %kept = bf16[4,16]{1,0} fusion(%done), kind=kCustom, calls=%scatter
  ROOT %carry = (s32[], bf16[4,16]{1,0}) tuple(%next, %kept)
}

%condition (c.2: (s32[], bf16[4,16])) -> pred[] {
  %c.2 = (s32[], bf16[4,16]{1,0}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%c.2), index=0
  %last = s32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%i.2, %last), direction=LT
}

ENTRY %main (x: bf16[4,16]) -> bf16[4,16] {
  %x = bf16[4,16]{1,0} parameter(0)
  %first = s32[]{:T(128)} constant(1)
  %first.copy = s32[]{:T(128)} copy(%first)
  %in = (s32[], bf16[4,16]{1,0}) tuple(%first.copy, %x)
  %loop = (s32[], bf16[4,16]{1,0}) while(%in), condition=%condition, body=%body
  ROOT %out = bf16[4,16]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_what_a_tpu_hides_in_fusions_counts_once_as_what_it_is():
    gather, scatter = collectives(FUSED, {"data": 2, "fsdp": 2})
    size, rounds = 8 * 16 * 2, 6  # 1, 3, 5, 7, 9, 11
    for one in (gather, scatter):
        assert (one.bytes, one.axes, one.trips) == (size, ("fsdp",), rounds)
    assert (gather.kind, scatter.kind) == ("all-gather", "reduce-scatter")


def test_sizes_of_odd_types():
    sizes = [("pred", (3,)), ("s4", (3,)), ("f8e4m3fn", (3,)), ("c64", (3,))]
    assert [hlo.n_bytes(s) for s in [*sizes, ("token", ())]] == [3, 2, 3, 24, 0]


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        collectives("HloModule nothing", MESH)


if __name__ == "__main__":
    assert np.prod(list(MESH.values())) == 8
    print(json.dumps(compiled_texts(sys.argv[1])))
