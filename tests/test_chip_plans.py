"""Plans without a compiler: memory from shapes, traffic from layouts, words."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from click.testing import CliRunner
from jax.sharding import NamedSharding, PartitionSpec
from tiny_models import TINY

from neurofm.cli import cli
from neurofm.config import Experiment, Mesh, Train, to_json
from neurofm.errors import NeuroFMError
from neurofm.parallel import mesh
from neurofm.parallel.gpus import gpus
from neurofm.planning import aot
from neurofm.planning.liveness import peak_bytes
from neurofm.planning.memory import GIB
from neurofm.planning.plan import plan
from neurofm.planning.traffic import least_traffic
from neurofm.planning.words import as_json, as_rows

EXP = Experiment(task=TINY, train=Train(steps=50, batch_size=24))

# ---- memory from a jaxpr ----

KB = jax.ShapeDtypeStruct((256,), jnp.float32)  # 1 KiB


def kib(function, *args) -> float:
    return peak_bytes(jax.make_jaxpr(function)(*args)) / 1024


def test_a_value_lives_until_its_last_use():
    # b is made beside a, then a goes; inputs are not counted.
    assert kib(lambda x: jnp.sin(jnp.cos(jnp.exp(x))), KB) == 2
    # three cosines wait for the sum that needs them
    assert kib(lambda x: (jnp.sin(x) * jnp.cos(x)) * jnp.exp(x), KB) == 3


def test_a_scan_holds_its_stacked_outputs_and_one_round():
    def function(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=7)

    assert kib(function, KB) == 1 + 7 + 1


def test_recomputing_blocks_takes_less_and_the_estimate_sees_it():
    def deep(block):
        def loss(w, x):
            out, _ = jax.lax.scan(lambda c, w: (block(w, c), None), x, w)
            return out.sum()

        w = jax.ShapeDtypeStruct((9, 16, 16), jnp.float32)
        x = jax.ShapeDtypeStruct((4000, 16), jnp.float32)
        return kib(jax.grad(loss), w, x)

    def block(w, x):
        return jnp.tanh(jnp.tanh(jnp.tanh(x @ w)) @ w)

    plain, recomputed = deep(block), deep(jax.checkpoint(block))
    one = 4000 * 16 * 4 / 1024
    assert plain > 9 * 3 * one  # what every tanh needs of its output
    assert 9 * one < recomputed < 20 * one  # inputs of blocks, and one block inside


# ---- traffic from a layout ----


def test_the_least_traffic_is_what_one_works_out_by_hand():
    layout = mesh.abstract(Mesh(replica=2, data=2, fsdp=4), 16)

    def leaf(*spec):
        sharding = NamedSharding(layout, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct((8, 10), jnp.float32, sharding=sharding)

    state = {"params": {"a": leaf("fsdp"), "b": leaf()}, "slow": {"t": leaf("fsdp")}}
    whole = 80 * 2  # bytes in bfloat16
    assert least_traffic(state, layout) == {
        # two gathers and one reduction of a, one gather of t
        "fsdp": whole * 3 * 3 // 4 + whole * 3 // 4,
        # a quarter of a's gradient over 4 copies, all-reduced
        "replica+data": 2 * whole // 4 * 3 // 4,
        # all of b's over 16
        "replica+data+fsdp": 2 * whole * 15 // 16,
    }


# ---- the compiler's words ----


@pytest.mark.parametrize(
    ("message", "needs", "limit", "largest"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 31.50G of "
            "15.75G hbm. Exceeded hbm capacity by 15.75G.\n\n  1. Size: 12.00G\n"
            "     Operator: op_name=...\n     Shape: f32[1024,3145728]{1,0:T(8,128)}\n"
            "     Unpadded size: 12.00G\n\n  2. Size: 96.0M\n     Shape: bf16[48]{0}\n",
            31.5,
            15.75,
            ("12.00G f32[1024,3145728]", "96.0M bf16[48]"),
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, "
            "the total memory required for HLO temporaries (253.72G) exceeds available "
            "HBM (15.75G). HLO module: jit_step.",
            253.72,
            15.75,
            (),
        ),
    ],
)
def test_the_compilers_verdict_is_read(message, needs, limit, largest):
    verdict = aot.verdict(message)
    assert verdict is not None
    assert not verdict.fits
    assert verdict.needs == pytest.approx(needs * GIB)
    assert verdict.limit == pytest.approx(limit * GIB)
    assert verdict.largest == largest


def test_other_failures_of_the_compiler_are_no_verdict():
    assert aot.verdict("INTERNAL: Mosaic failed to compile TPU kernel") is None


# ---- plans for GPUs ----


def test_a_gpu_plan_says_that_nothing_was_compiled_and_what_it_assumed(tmp_path):
    config = tmp_path / "small.json"
    config.write_text(json.dumps(to_json(EXP)))
    run = CliRunner()
    args = ["plan", str(config), "--on", "h100:8", "--mfu", "0.25"]
    asked = run.invoke(cli, [*args, "--json"])
    assert asked.exit_code == 0, asked.output
    found = json.loads(asked.stdout)
    assert found["fits"]
    assert not found["hbm_compiled"]
    assert found["compile_s"] is None
    assert found["hbm_gib_limit"] == 80
    assert found["chips"] == 8
    assert found["step_s"] == pytest.approx(TINY.flops(24) / (8 * 989e12 * 0.25))
    assert found["days"] == pytest.approx(50 * found["step_s"] / 86_400)
    words = run.invoke(cli, args).output
    assert "estimated, nothing was compiled" in words
    assert "at 25% of the peak (assumed)" in words


def test_the_state_is_counted_as_it_lies():
    whole = plan(EXP, "a100-80:4").memory.held
    parts = plan(dataclasses.replace(EXP, mesh=Mesh(fsdp=4)), "a100-80:4").memory.held
    n_params = whole["params"]
    assert whole["opt"] == pytest.approx(2 * n_params, rel=0.01)
    assert parts["params"] < n_params  # most dimensions here do not divide
    assert parts["opt"] == pytest.approx(2 * parts["params"], rel=0.02)


def test_the_largest_batch_fits_and_a_batch_beyond_it_is_mended(monkeypatch):
    from neurofm.parallel import gpus as table

    monkeypatch.setitem(table.KINDS, "l4", (0.005, 121e12, None))  # 5 MiB
    first = plan(EXP, "l4:2")
    assert first.memory.fits

    def with_batch(n):
        train = Train(steps=50, batch_size=n)
        return plan(dataclasses.replace(EXP, train=train), "l4:2")

    most = first.largest_batch
    assert most > 24
    assert with_batch(most // 2 * 2).memory.fits
    beyond = with_batch(most * 3 // 2 * 2)
    assert not beyond.memory.fits
    assert beyond.changed is not None
    assert beyond.changed.fits
    assert " ".join(beyond.change) in as_rows(beyond)["to make it fit"]
    assert as_json(beyond)["change_fits"]


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("h100:none", "does not say how many: give h100:8"),
        ("v5e:3x3", "no v5e slice of topology 3x3"),
        ("potato", "not a TPU slice|no TPU type"),
    ],
)
def test_an_accelerator_that_is_not_there_is_one_sentence(on, message):
    with pytest.raises(NeuroFMError, match=message):
        plan(EXP, on)


def test_one_gpu_is_meant_where_no_number_is_given():
    found = gpus("H100")
    assert found is not None
    assert (found.chips, str(found)) == (1, "h100:1")


@pytest.mark.parametrize(
    ("kwargs", "message"), [({"mfu": 1.5}, "share above 0"), ({"slices": 2}, "h100:16")]
)
def test_impossible_wishes_are_one_sentence(kwargs, message):
    with pytest.raises(NeuroFMError, match=message):
        plan(EXP, "h100:8", **kwargs)
