"""The training step compiles for TPU slices that are not there."""

import dataclasses
import math

import pytest

from neurofm.config import Experiment, Mesh, Train, load
from neurofm.errors import NeuroFMError
from neurofm.models.wavjepa import WavJEPA
from neurofm.parallel.accelerators import accelerator
from neurofm.planning import aot
from neurofm.planning.memory import GIB
from neurofm.planning.plan import plan
from neurofm.planning.words import as_json

libtpu = pytest.importorskip(
    "libtpu", reason="libtpu compiles for TPU; Linux x86-64 only"
)

SMALL = Experiment(
    task=WavJEPA(
        sfreq=2000,
        window_samples=2019,
        conv_layers=((64, 10, 5), (64, 3, 2), (64, 2, 2)),
        width=128,
        depth=2,
        heads=2,
        predictor_width=128,
        predictor_depth=1,
        predictor_heads=2,
        top_k=2,
        context_caps=(40,),
    ),
    train=Train(steps=100, batch_size=44),
    mesh=Mesh(data=2, fsdp=2),
)


@pytest.fixture(scope="module")
def planned():
    return plan(SMALL, "v5e:2x2")


def test_a_plan_for_four_v5e_chips_is_that_of_the_compiled_step(planned):
    found = as_json(planned)
    assert found["fits"]
    assert found["hbm_compiled"]
    assert found["hbm_gib_limit"] == 16
    held = sum(found["held_gib"].values())
    assert held < found["hbm_gib_per_chip"] < 1
    assert found["compile_s"] > 0
    flops = SMALL.task.flops(44)
    assert found["flops_per_step"] == flops
    assert found["step_s"] == pytest.approx(flops / (4 * 197e12 * 0.4))
    assert found["examples_per_s"] == pytest.approx(44 / found["step_s"])


def test_what_the_layout_needs_is_sent_and_not_much_more(planned):
    sent, least = sum(planned.moved.values()), sum(planned.least.values())
    assert set(planned.least) <= set(planned.moved)
    assert least < 1.05 * sent < 2 * least


def test_no_activation_is_gathered_and_the_weights_of_a_layer_are(planned):
    told = planned.verdict.collectives
    gathers = [c for c in told if c.kind == "all-gather"]
    # 2 student blocks forth and back, 2 of the teacher and 1 of the predictor
    assert {c.trips for c in gathers} == {1, 2}
    assert {c.axes for c in gathers} == {("fsdp",)}
    # 44 items are 11 a chip, and no weight has a multiple of 11 as a dimension.
    assert not [c for c in gathers for shape in c.shapes if _of_items(shape)]
    assert {a for c in told if c not in gathers for a in c.axes} == {"data", "fsdp"}


def _of_items(shape: tuple[int, ...]) -> bool:
    return any(size % 11 == 0 for size in shape)


@pytest.mark.slow
def test_a_misfit_is_told_with_the_change_that_mends_it():
    exp = dataclasses.replace(SMALL, train=Train(steps=100, batch_size=140_000))
    planned = plan(exp, "v5e:2x2")
    assert not planned.memory.fits
    assert planned.memory.limit < 16 * GIB  # as the compiler names it
    assert planned.change
    assert planned.changed is not None
    assert planned.changed.fits


@pytest.mark.slow
def test_two_slices_only_exchange_gradients():
    exp = dataclasses.replace(SMALL, mesh=Mesh(data=1, fsdp=4))
    verdict = aot.compile_step(exp, accelerator("v5e:2x2"), slices=2)
    across = [c for c in verdict.collectives if "replica" in c.axes]
    assert across
    assert {c.kind for c in across} <= {"all-reduce", "reduce-scatter", "all-gather"}
    assert not [c for c in across for shape in c.shapes if _of_items(shape)]
    sent = sum(c.sent for c in across)
    inside = sum(c.sent for c in verdict.collectives if "replica" not in c.axes)
    assert sent < inside / 2


@pytest.mark.slow
@pytest.mark.parametrize("chips", ["v5e:4x4", "v6e:4x4", "v4:2x2x4", "tpu7x:2x2x1"])
@pytest.mark.parametrize("name", ["wavjepa/base", "wavjepa/nat"])
def test_the_base_configs_have_a_plan(name, chips):
    planned = plan(load(name), chips)
    assert planned.memory.fits or planned.change
    assert math.isfinite(planned.hours)


def test_a_step_that_does_not_divide_is_one_sentence():
    exp = dataclasses.replace(SMALL, train=Train(steps=100, batch_size=42))
    with pytest.raises(NeuroFMError, match="use 40 or 44"):
        plan(exp, "v5e:2x2")
