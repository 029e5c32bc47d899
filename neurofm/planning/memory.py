"""The memory of one device in a training step: estimated, compiled, and made to do."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from neurofm import config
from neurofm.config import Experiment
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_batch, abstract_frozen
from neurofm.parallel import mesh
from neurofm.planning.aot import Compiled
from neurofm.planning.liveness import peak_bytes
from neurofm.step import State, abstract_state, loss_and_grads

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device.

    Attributes:
      held: the state by part (params, slow, buffers, opt), counted by its layout.
      temporaries: what a step needs besides, as compiled or estimated.
      needs: all of it at the fullest moment.
      limit: what there is.
      compiled: the compiler says so; otherwise it is an estimate.
    """

    held: dict[str, int]
    temporaries: int
    needs: int
    limit: int
    compiled: bool

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needs <= self.limit


def layout_of(exp: Experiment, n_devices: int, slices: int) -> AbstractMesh:
    layout = mesh.abstract(exp.mesh, n_devices, slices)
    mesh.check_batch(layout, exp.train.batch_size, exp.train.accumulate)
    return layout


def estimate(
    exp: Experiment, layout: AbstractMesh, hbm_gib: float
) -> tuple[State, Memory]:
    """The state as it would lie, and the memory told from shapes alone.

    Temporaries are those of loss and gradients for one device's rows, with gradients
    laid out as their parameters.
    """
    task, train = exp.task, exp.train
    shards = math.prod(layout.shape[axis] for axis in mesh.BATCH_AXES)
    batch = abstract_batch(task, train.batch_size // shards, "train")
    frozen = abstract_frozen(task)
    state, _ = abstract_state(task, exp.optim, train.steps, batch, layout, frozen)
    held = {name: _bytes_here(state[name]) for name in state if name != "step"}
    if frozen:  # counted whole: it has no gradients and no moments
        sizes = [math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(frozen)]
        held["frozen"] = sum(sizes)

    def gradients(params, others, batch):
        step = jnp.zeros((), jnp.int32)
        draws = task.draw(batch, jax.random.key(0), step, train=True)
        return loss_and_grads(
            task, params, others, batch, draws, step, train.accumulate
        )

    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    others = {"slow": plain["slow"], "buffers": plain["buffers"], "frozen": frozen}
    program = jax.make_jaxpr(gradients)(plain["params"], others, batch)
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state["params"]))
    temporaries = peak_bytes(program) - whole + held["params"]
    return state, Memory(
        held=held,
        temporaries=temporaries,
        needs=sum(held.values()) + temporaries,
        limit=round(hbm_gib * GIB),
        compiled=False,
    )


def as_compiled(estimate: Memory, verdict: Compiled) -> Memory:
    held = sum(estimate.held.values())
    needs, temporaries = verdict.needs, verdict.temporaries
    if not verdict.fits and temporaries:  # the compiler gave up on these alone
        needs = held + temporaries
    return Memory(
        held=estimate.held,
        temporaries=temporaries or needs - held,
        needs=needs,
        limit=verdict.limit or estimate.limit,
        compiled=True,
    )


def _bytes_here(tree: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def largest_batch(exp: Experiment, layout: AbstractMesh, memory: Memory) -> int:
    """The batch at which temporaries that grow with it fill what is left.

    What does not grow is taken to be the gradients, which is the least it can be, so
    the estimate errs to the small side.
    """
    fixed = memory.held["params"]
    left = memory.limit - sum(memory.held.values()) - fixed
    growing = max(memory.temporaries - fixed, 1)
    unit = exp.train.accumulate
    unit *= math.prod(layout.shape[axis] for axis in mesh.BATCH_AXES)
    return max(0, int(left / growing * exp.train.batch_size) // unit * unit)


def mend(
    exp: Experiment, n_devices: int, slices: int, room: float, hbm_gib: float
) -> tuple[tuple[str, ...], Memory | None]:
    """The mildest change whose estimate keeps to `room` bytes, if there is one."""
    for change in _changes(exp, n_devices // slices):
        try:
            mended = config.override(exp, change).resolved()
            layout = layout_of(mended, n_devices, slices)
        except NeuroFMError:
            continue  # this mesh or these microbatches do not divide
        _, memory = estimate(mended, layout, hbm_gib)
        if memory.needs <= room:
            return change, memory
    return (), None


def _changes(exp: Experiment, n_devices: int) -> Iterator[tuple[str, ...]]:
    """Settings that save memory, mildest first: the same run, then a smaller batch."""
    remat: list[tuple[str, ...]] = [()]
    remat += [(saving,) for saving in exp.task.savings()]
    spread: list[tuple[str, ...]] = [()]
    if exp.mesh.fsdp == 1 and n_devices > 1:
        spread.append((f"mesh.fsdp={n_devices}",))
    pairs = [(*r, *s) for s in spread for r in remat]
    yield from pairs[1:]
    for pieces in (2, 4, 8, 16, 32):
        if not exp.task.batch_coupled:
            yield (*pairs[-1], f"train.accumulate={exp.train.accumulate * pieces}")
    for part in (2, 4, 8, 16, 32):
        fewer = exp.train.batch_size // part
        fewer -= fewer % (n_devices * exp.train.accumulate)
        if fewer:
            yield (*pairs[-1], f"train.batch_size={fewer}")
