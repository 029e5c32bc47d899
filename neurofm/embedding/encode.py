"""A model over recordings of any length: windows cut, batched, read, laid end to end.

Axis letters: B windows of a batch, C channels, N samples of a recording, T tokens, D
features.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Float32, Float64

from neurofm.embedding import inputs, windows
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.parallel.mesh import BATCH_AXES, platform
from neurofm.task import Task

N_SIZES = 4  # of a batch's windows: the model's own, its half, quarter and eighth

Layers = Sequence[str | int] | str
Wave = Float32[np.ndarray, "C _"]  # many of them differ in length


@dataclass(frozen=True)
class Reading:
    """What a model says of one recording; a `task.Reading` without its padding.

    Attributes:
      values: layer -> (T, D).
      times_s: seconds from the start of the recording; token centres unless asked for
        otherwise.
      mask: True, as no token here is padding.
    """

    values: dict[str, Float[np.ndarray, "T D"]]
    times_s: Float64[np.ndarray, " T"]
    mask: Bool[np.ndarray, " T"]


class _Window(NamedTuple):
    """One row of a batch."""

    name: Any
    starts: list[int]  # of all windows of its recording
    k: int  # which of them this one is
    n_samples: int  # of the recording
    wave: Float32[np.ndarray, "C _"]  # not padded yet


def embed_sounds(
    model: Model, given: list[Any], sfreq: float | None, **options: Any
) -> list[Reading]:
    """Read recordings given as arrays, files or Raws; see `Model.embed`."""
    converted: list[tuple[str, list[inputs.Difference]]] = []

    def waves() -> Iterator[tuple[int, Wave]]:
        for i, one in enumerate(given):
            wave, found = inputs.take(model.contract, one, sfreq)
            converted.append((f"input {i}", found))
            yield i, wave

    readings = [reading for _, reading in embed_waves(model, waves(), **options)]
    inputs.announce(converted)
    for i, reading in enumerate(readings):
        if not len(reading.times_s):
            raise NeuroFMError(
                f"input {i} is shorter than one token of this model, which sees "
                f"{model.contract.receptive_samples} samples at "
                f"{model.contract.sfreq:g} Hz: give a longer sound"
            )
    return readings


def embed_waves(
    model: Model,
    waves: Iterable[tuple[Any, Wave]],
    *,
    layers: Layers = ("last",),
    pool: str = "none",
    window_s: float | None = None,
    overlap_s: float = 0.0,
    times: str = "centers",
    batch_size: int = 16,
) -> Iterator[tuple[Any, Reading]]:
    """Read recordings window by window; each comes out whole, in the order given.

    Windows of several recordings share a batch, short ones with short ones, of a few
    static sizes; a window's embedding does not depend on its batch. A recording without
    a single token comes out with T = 0.

    Args:
      waves: (name, sound as the model takes it, see `inputs.conform`).
      layers, pool, window_s, overlap_s, times, batch_size: see `Model.embed`.

    Yields:
      (name, Reading of numpy arrays: values (T, D) a layer, times_s (T,), mask (T,)).
    """
    if pool not in ("none", "mean"):
        raise NeuroFMError(f"pool={pool!r} is unknown: use 'none' or 'mean'")
    if times not in ("centers", "released"):
        raise NeuroFMError(f"times={times!r} is unknown: use 'centers' or 'released'")
    if batch_size < 1:
        raise NeuroFMError(f"batch_size is {batch_size}: give 1 or more")
    names = layer_names(model, layers)
    plan = windows.plan(model.contract, window_s, overlap_s)
    return _embed(model, waves, names, pool, plan, times, batch_size)


def _embed(
    model: Model,
    waves: Iterable[tuple[Any, Wave]],
    layers: tuple[str, ...],
    pool: str,
    plan: windows.Windows,
    times: str,
    batch_size: int,
) -> Iterator[tuple[Any, Reading]]:
    sfreq = model.contract.sfreq
    parts: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    for row, values, at, mask in _read(model, _cut(plan, waves), layers, batch_size):
        at = row.starts[row.k] / sfreq + at.astype(np.float64)
        kept = mask & plan.owned(at * sfreq, row.starts, row.k)
        parts.append(({name: x[kept] for name, x in values.items()}, at[kept]))
        if row.k + 1 == len(row.starts):
            yield row.name, _joined(parts, row.n_samples / sfreq, pool, times)
            parts = []


def _joined(
    parts: list[tuple[dict[str, np.ndarray], np.ndarray]],
    duration_s: float,
    pool: str,
    times: str,
) -> Reading:
    values = {
        name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]
    }
    at = np.concatenate([centers for _, centers in parts])
    if times == "released":  # T left edges, spread evenly over the recording
        at = np.arange(len(at)) * (duration_s / max(1, len(at)))
    reading = Reading(values, at, np.ones(len(at), bool))
    return mean_over(reading, slice(None)) if pool == "mean" and len(at) else reading


def mean_over(reading: Reading, tokens: Any) -> Reading:
    """The mean of some of a recording's tokens, as a Reading of one token."""
    values = {
        name: x[tokens].mean(0, keepdims=True, dtype=np.float64).astype(x.dtype)
        for name, x in reading.values.items()
    }
    at = reading.times_s[tokens].mean(keepdims=True)
    return Reading(values, at, np.ones(1, bool))


def _cut(plan: windows.Windows, waves: Iterable[tuple[Any, Wave]]) -> Iterator[_Window]:
    for name, wave in waves:
        starts = plan.starts(wave.shape[-1])
        for k, start in enumerate(starts):
            yield _Window(name, starts, k, wave.shape[-1], plan.cut(wave, start))


def _read(
    model: Model, rows: Iterator[_Window], layers: tuple[str, ...], batch_size: int
) -> Iterator[tuple[_Window, dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """Each window with its values, times and mask; the next batch runs meanwhile."""
    devices = len(jax.local_devices())
    most = -(-batch_size // devices) * devices
    tasks = _shortened(model.task)
    batches = _batches(enumerate(rows), most)
    running: list[tuple[list[tuple[int, _Window]], Any]] = []
    early: dict[int, Any] = {}  # read before their turn
    turn = 0
    while True:
        if batch := next(batches, []):
            n_rows = _batch_rows(len(batch), most, devices)
            windows = [row for _, row in batch]
            running.append((batch, _run(model, tasks, windows, layers, n_rows)))
        if len(running) > bool(batch):
            done, results = running.pop(0)
            values, times, mask = jax.device_get(results)
            for i, (place, row) in enumerate(done):
                own = {name: x[i] for name, x in values.items()}
                early[place] = row, own, times[i], mask[i]
            while turn in early:
                yield early.pop(turn)
                turn += 1
        if not batch:
            return


def _shortened(task: Task) -> dict[int, Task]:
    """The task for windows of a few sizes: samples, from short to long -> task."""
    most = task.batch_spec("features").contract.window_samples
    sizes = [-(-most // 2**halvings) for halvings in range(N_SIZES)]
    tasks = [task.shortened(size) for size in reversed(sizes)]
    return {t.batch_spec("features").contract.window_samples: t for t in tasks}


def _batches(
    rows: Iterator[tuple[int, _Window]], most: int
) -> Iterator[list[tuple[int, _Window]]]:
    """Numbered windows, those of like length together.

    Of each few batches the short windows come first, so that what waits for its turn
    is small. All batches but the very last are full.
    """
    while pool := list(itertools.islice(rows, N_SIZES * most)):
        pool.sort(key=lambda row: row[1].wave.shape[-1])
        yield from (pool[i : i + most] for i in range(0, len(pool), most))


def _batch_rows(n: int, most: int, devices: int) -> int:
    """The rows of a batch for `n` windows: few sizes, each compiled once."""
    rows = devices
    while rows < n:
        rows *= 2
    return min(rows, most)


def _run(
    model: Model,
    tasks: dict[int, Task],
    batch: list[_Window],
    layers: tuple[str, ...],
    n_rows: int,
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    lengths = [row.wave.shape[-1] for row in batch]
    size = next(size for size in tasks if size >= max(lengths))
    wave = np.zeros((n_rows, len(batch[0].wave), size), np.float32)
    for padded, row, n in zip(wave, batch, lengths, strict=False):
        padded[:, :n] = row.wave
    n_valid = lengths + [size] * (n_rows - len(batch))
    arrays = {
        "audio/wave": wave,
        "audio/span": np.array([(0, n) for n in n_valid], np.int32),
        "index": np.arange(n_rows, dtype=np.int32),
        "valid": np.arange(n_rows) < len(batch),
    }
    by_row = NamedSharding(model.mesh, PartitionSpec(BATCH_AXES))
    arrays = jax.device_put(arrays, by_row)
    with jax.set_mesh(model.mesh):
        return _read_layers(tasks[size], layers, model.inference, arrays)


@functools.partial(jax.jit, static_argnames=("task", "layers"))
def _read_layers(task: Task, layers: tuple[str, ...], variables, batch):
    # TensorFloat-32 and bfloat16 passes are for accelerators alone, and for the models
    # that ask for them.
    precision = "highest" if platform() == "cpu" else None
    with jax.default_matmul_precision(precision):
        reading = task.read(variables, batch)
    values = {name: reading.values[name] for name in layers}
    return values, reading.times_s, reading.mask


def layer_names(model: Model, asked: Layers) -> tuple[str, ...]:
    """The layers meant by names, numbers (6 is `layer_06`) or `all`.

    Raises:
      NeuroFMError: the model has no such layer.
    """
    if asked == "all":
        return model.layers
    names = []
    for one in asked.split(",") if isinstance(asked, str) else asked:
        name = f"layer_{int(one):02d}" if str(one).isdecimal() else str(one)
        if name not in model.layers:
            raise NeuroFMError(
                f"the model has no layer {one!r}: it has {', '.join(model.layers)}; "
                "give names, numbers or 'all'"
            )
        names.append(name)
    return tuple(dict.fromkeys(names))
