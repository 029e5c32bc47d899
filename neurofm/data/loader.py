"""Batches: from a plan to arrays on the devices, one batch ahead of the step."""

import time
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int

from neurofm.contract import BatchSpec
from neurofm.data import scenes
from neurofm.data.crops import Crop
from neurofm.data.plan import Plan
from neurofm.errors import NeuroFMError
from neurofm.signals.audio import rms_gain

LEVEL_DBFS = -14.0  # WavJEPA (arXiv 2509.23238), released data preparation
_ENDLESS_STEPS = 2**40
_FIELDS = {"audio/wave", "audio/span"}


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

    A batch holds

        audio/wave  float32 [b, C, T]  the clip at -14 dBFS by the manifest's rms
        audio/span  int32 [b, 2]       first and past-last sample; zeros lie outside
        index       int32 [b]          place in the step; of a finite plan, in the plan
        valid       bool [b]           False for a filler
        redraws     int32 [b]          silent draws; `device_batches` takes it off

    To simulate scenes `audio/wave` is the whole clip, [b, 1, N], and the batch holds
    the fields `scene/...` that the task asks for as well.

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
    made = _FIELDS | (scenes.FIELDS if plan.scenery else set())
    if fields != made:
        raise NeuroFMError(
            f"the task asks for batches of {sorted(fields)}, this loader makes "
            f"{sorted(made)}: give it a task on sound"
        )
    n_steps = _ENDLESS_STEPS
    if plan.n_crops is not None:
        n_steps = -(-plan.n_crops // batch_size)
    n_chans, window = spec.contract.n_chans, spec.contract.window_samples

    gains = [
        rms_gain(d.items["rms"].to_numpy(), LEVEL_DBFS).astype(np.float32)
        for d in plan.datasets
    ]

    def read_clip(crop: Crop) -> np.ndarray:
        assert crop.scene is not None
        dataset = plan.datasets[crop.dataset]
        end = int(dataset.items["n_samples"][crop.item].as_py())
        stop = min(crop.scene.start + crop.scene.n_samples, end)
        x = dataset.read(crop.item, crop.scene.start, stop)
        return np.multiply(x, gains[crop.dataset][crop.item], out=x)

    def read_windows(crops: list[Crop]) -> dict[str, np.ndarray]:
        waves = np.zeros((len(crops), n_chans, window), np.float32)
        for wave, crop, x in zip(waves, crops, _read(plan, crops), strict=True):
            at, n = crop.span[0], crop.stop - crop.start
            gain = gains[crop.dataset][crop.item]
            np.multiply(x, gain, out=wave[:, at : at + n])
        return {"audio/wave": waves}

    def read(step: int) -> dict[str, np.ndarray]:
        numbers = step * batch_size + rows
        crops = [plan.crop(int(number)) for number in numbers]
        if plan.scenery:
            sound = scenes.batch_rows(plan.scenery, crops, read_clip, spec)
        else:
            sound = read_windows(crops)
        index = rows if plan.n_crops is None else numbers
        return {
            **sound,
            "audio/span": np.array([crop.span for crop in crops], np.int32),
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


def _read(plan: Plan, crops: Sequence[Crop]) -> list[np.ndarray]:
    """The samples of crops in their order, those of a dataset read together."""
    sounds: dict[int, np.ndarray] = {}
    for number, dataset in enumerate(plan.datasets):
        mine = [i for i, crop in enumerate(crops) if crop.dataset == number]
        spans = [(crops[i].item, crops[i].start, crops[i].stop) for i in mine]
        sounds |= zip(mine, dataset.read_many(spans), strict=True)
    return [sounds[i] for i in range(len(crops))]


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
