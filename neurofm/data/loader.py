"""Batches: from a plan to arrays on the devices, one batch ahead of the step."""

import time
from collections.abc import Generator
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int

from neurofm.contract import BatchSpec
from neurofm.data.rows import Plan
from neurofm.errors import NeuroFMError

_ENDLESS_STEPS = 2**40


class Delivery(NamedTuple):
    """One step's data.

    Attributes:
      batch: global arrays, by the names of the task's `batch_spec`.
      wait_s: seconds that the caller waited for it.
      redraws: silent crops drawn again for this process's rows.
    """

    batch: dict[str, jax.Array]
    wait_s: float
    redraws: int


def batches(
    plan: Plan,
    spec: BatchSpec,
    batch_size: int,
    rows: Int[np.ndarray, " b"],
    start_step: int = 0,
    workers: int = 4,
) -> grain.IterDataset:
    """This process's rows of every batch from `start_step` on, as numpy dicts.

    A batch holds what the plan fills in (see `audio`, `meeg`), and

        index    int32 [b]  place in the step; of a finite plan, in the plan
        valid    bool [b]   False for a filler
        redraws  int32 [b]  silent draws; `device_batches` takes it off

    Args:
      plan: what each row is.
      spec: the task's `batch_spec()`.
      batch_size: rows of a whole batch, over all processes.
      rows: this process's row numbers within a batch.
      start_step: first batch wanted; nothing before it is touched.
      workers: threads, each of which makes whole batches; 0 reads in the caller's.

    Raises:
      NeuroFMError: the task wants other fields than these.
    """
    fields = set(spec.fields)
    if fields != plan.fields:
        raise NeuroFMError(
            f"the task asks for batches of {sorted(fields)}, this data makes "
            f"{sorted(plan.fields)}: give it a task made for it"
        )
    n_steps = _ENDLESS_STEPS
    if plan.n_crops is not None:
        n_steps = -(-plan.n_crops // batch_size)

    def read(step: int) -> dict[str, np.ndarray]:
        numbers = step * batch_size + rows
        crops = [plan.crop(int(number)) for number in numbers]
        index = rows if plan.n_crops is None else numbers
        return {
            **plan.fill(crops, spec),
            "index": index.astype(np.int32),
            "valid": np.array([crop.valid for crop in crops]),
            "redraws": np.array([crop.redraws for crop in crops], np.int32),
        }

    # An element is a whole batch: rows batched afterwards are copied once more.
    steps = grain.MapDataset.range(start_step, n_steps).map(read)
    options = grain.ReadOptions(
        num_threads=workers, prefetch_buffer_size=workers + bool(workers)
    )
    return steps.to_iter_dataset(options)


def device_batches(
    local: grain.IterDataset,
    sharding: NamedSharding,
    batch_size: int,
    rows: Int[np.ndarray, " b"],
) -> Generator[Delivery, None, None]:
    """Global arrays laid out by `sharding`, made by a thread one batch ahead.

    Args:
      local: what `batches` returns.
      sharding: of the batch axis, `parallel.sharding.batch_sharding(mesh)`.
      batch_size: rows of a whole batch.
      rows: the row numbers in `local`, ascending.
    """

    def place(value: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            first, past, _ = index[0].indices(batch_size)
            return value[slice(*np.searchsorted(rows, (first, past)))]

        return jax.make_array_from_callback(
            (batch_size, *value.shape[1:]), sharding, part
        )

    def to_devices(batch: dict[str, np.ndarray]) -> tuple[dict[str, jax.Array], int]:
        redraws = int(batch["redraws"].sum())
        arrays = {k: place(v) for k, v in batch.items() if k != "redraws"}
        return arrays, redraws

    ahead = grain.experimental.ThreadPrefetchIterDataset(
        local.map(to_devices), prefetch_buffer_size=1
    )
    iterator = iter(ahead)
    try:
        while True:
            asked = time.perf_counter()
            try:
                batch, redraws = next(iterator)
            except StopIteration:
                return
            yield Delivery(batch, time.perf_counter() - asked, redraws)
    finally:
        iterator.close()
