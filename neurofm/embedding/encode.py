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
from jaxtyping import Bool, Float64, Num

from neurofm.embedding import electrodes, windows
from neurofm.embedding.recorded import Recorded, Samples, arrays, own
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.parallel.mesh import BATCH_AXES, platform
from neurofm.task import Task, Want

N_SIZES = 4  # of a batch's windows: the model's own, its half, quarter and eighth

Layers = Sequence[str | int] | str


@dataclass(frozen=True)
class Reading:
    """What a model says of one recording; a `task.Reading` without its padding.

    Attributes:
      values: layer -> (T, D); codes are whole numbers.
      times_s: seconds from the start of the recording, or from the event that it was
        cut around; token centres unless asked for otherwise.
      mask: True, as no token here is padding.
    """

    values: dict[str, Num[np.ndarray, "T _"]]
    times_s: Float64[np.ndarray, " T"]
    mask: Bool[np.ndarray, " T"]


class _Window(NamedTuple):
    """One row of a batch."""

    name: Any
    starts: list[int]  # of all windows of its recording
    k: int  # which of them this one is
    whole: Recorded
    part: Recorded  # not padded yet

    @property
    def size(self) -> tuple[int, int]:
        """Windows of like size share a batch."""
        return self.part.places, self.part.samples.shape[-1]


def embed_given(
    model: Model, given: Iterable[Recorded], **options: Any
) -> list[Reading]:
    """Read recordings as `inputs.take` gives them; see `Model.embed`."""
    readings = [r for _, r in embed_waves(model, enumerate(given), **options)]
    for i, reading in enumerate(readings):
        if not len(reading.times_s):
            raise NeuroFMError(
                f"input {i} is shorter than one token of this model, which sees "
                f"{model.contract.receptive_samples} samples at "
                f"{model.contract.sfreq:g} Hz: give a longer recording"
            )
    return readings


def embed_waves(
    model: Model,
    waves: Iterable[tuple[Any, Samples | Recorded]],
    *,
    want: Want = "features",
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
    a single token comes out with T = 0. Of a model of one electrode the D values of
    every channel lie side by side.

    Args:
      waves: (name, recording as the model takes it; samples alone where that is all).
      want, layers, pool, window_s, overlap_s, times, batch_size: see `Model.embed`.

    Yields:
      (name, Reading of numpy arrays: values (T, D) a layer, times_s (T,), mask (T,)).
    """
    if pool not in ("none", "mean"):
        raise NeuroFMError(f"pool={pool!r} is unknown: use 'none' or 'mean'")
    if times not in ("centers", "released"):
        raise NeuroFMError(f"times={times!r} is unknown: use 'centers' or 'released'")
    if batch_size < 1:
        raise NeuroFMError(f"batch_size is {batch_size}: give 1 or more")
    if want == "codes" and pool == "mean":
        raise NeuroFMError(
            "codes are names of vectors, so they have no mean: use pool='none'"
        )
    names = layer_names(model, layers, want)
    plan = windows.plan(model.contract, window_s, overlap_s)
    whole = ((name, x if isinstance(x, Recorded) else Recorded(x)) for name, x in waves)
    rest = want, names, pool, plan, times, batch_size
    if not electrodes.apart(model.contract):
        return _embed(model, whole, *rest)
    return _side_by_side(_embed(model, electrodes.one_by_one(whole), *rest))


def _side_by_side(
    readings: Iterable[tuple[tuple[Any, int], Reading]],
) -> Iterator[tuple[Any, Reading]]:
    """Readings of electrodes, as `electrodes.one_by_one` names them: (T, c x D)."""
    held: list[Reading] = []
    for (name, n_left), reading in readings:
        held.append(reading)
        if not n_left:
            values = {
                layer: np.concatenate([one.values[layer] for one in held], axis=1)
                for layer in reading.values
            }
            yield name, Reading(values, reading.times_s, reading.mask)
            held = []


def _embed(
    model: Model,
    whole: Iterable[tuple[Any, Recorded]],
    want: Want,
    layers: tuple[str, ...],
    pool: str,
    plan: windows.Windows,
    times: str,
    batch_size: int,
) -> Iterator[tuple[Any, Reading]]:
    sfreq, delay_s = model.contract.sfreq, _delay_s(model, want)
    parts: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    rows = _cut(plan, whole)
    for row, values, at, mask in _read(model, rows, want, layers, batch_size):
        # A window that ends in padding may have tokens there.
        mask = mask & ((at - delay_s) * sfreq < row.part.samples.shape[-1])
        at = row.starts[row.k] / sfreq + at.astype(np.float64)
        kept = mask & plan.owned((at - delay_s) * sfreq, row.starts, row.k)
        parts.append(({name: x[kept] for name, x in values.items()}, at[kept]))
        if row.k + 1 == len(row.starts):
            yield row.name, _joined(parts, row.whole, sfreq, pool, times)
            parts = []


def _delay_s(model: Model, want: Want) -> float:
    """Seconds by which what is read follows the input: predicted responses do."""
    if want != "prediction":
        return 0.0
    return max(f.delay_s for f in model.task.batch_spec("train").fields.values())


def _joined(
    parts: list[tuple[dict[str, np.ndarray], np.ndarray]],
    whole: Recorded,
    sfreq: float,
    pool: str,
    times: str,
) -> Reading:
    values = {
        name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]
    }
    at = np.concatenate([centers for _, centers in parts])
    if times == "released":  # T left edges, spread evenly over the recording
        duration_s = whole.samples.shape[-1] / sfreq
        at = np.arange(len(at)) * (duration_s / max(1, len(at)))
    reading = Reading(values, at + whole.start_s, np.ones(len(at), bool))
    return mean_over(reading, slice(None)) if pool == "mean" and len(at) else reading


def mean_over(reading: Reading, tokens: Any) -> Reading:
    """The mean of some of a recording's tokens, as a Reading of one token."""
    values = {
        name: x[tokens].mean(0, keepdims=True, dtype=np.float64).astype(x.dtype)
        for name, x in reading.values.items()
    }
    at = reading.times_s[tokens].mean(keepdims=True)
    return Reading(values, at, np.ones(1, bool))


def _cut(
    plan: windows.Windows, whole: Iterable[tuple[Any, Recorded]]
) -> Iterator[_Window]:
    for name, one in whole:
        starts = plan.starts(one.samples.shape[-1])
        for k, start in enumerate(starts):
            yield _Window(name, starts, k, one, one.cut(start, plan.length))


def _read(
    model: Model,
    rows: Iterator[_Window],
    want: Want,
    layers: tuple[str, ...],
    batch_size: int,
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
            windows = [row.part for _, row in batch]
            running.append((batch, _run(model, tasks, windows, want, layers, n_rows)))
        if len(running) > bool(batch):
            done, results = running.pop(0)
            values, times, mask = jax.device_get(results)
            for i, (place, row) in enumerate(done):
                mine = own({name: x[i] for name, x in values.items()}, row.part)
                early[place] = row, mine, times[i], mask[i]
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
    """Numbered windows, those of as many places and of like length together.

    Of each few batches the short windows come first, so that what waits for its turn
    is small. All batches but the very last are full where all have the same places.
    """
    while pool := list(itertools.islice(rows, N_SIZES * most)):
        pool.sort(key=lambda row: row[1].size)
        for _, same in itertools.groupby(pool, key=lambda row: row[1].size[0]):
            alike = list(same)
            yield from (alike[i : i + most] for i in range(0, len(alike), most))


def _batch_rows(n: int, most: int, devices: int) -> int:
    """The rows of a batch for `n` windows: few sizes, each compiled once."""
    rows = devices
    while rows < n:
        rows *= 2
    return min(rows, most)


def _run(
    model: Model,
    tasks: dict[int, Task],
    batch: list[Recorded],
    want: Want,
    layers: tuple[str, ...],
    n_rows: int,
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    longest = max(one.samples.shape[-1] for one in batch)
    size = next(size for size in tasks if size >= longest)
    by_row = NamedSharding(model.mesh, PartitionSpec(BATCH_AXES))
    placed = jax.device_put(arrays(batch, n_rows, size), by_row)
    with jax.set_mesh(model.mesh):
        return _read_layers(tasks[size], want, layers, model.inference, placed)


@functools.partial(jax.jit, static_argnames=("task", "want", "layers"))
def _read_layers(task: Task, want: Want, layers: tuple[str, ...], variables, batch):
    # TensorFloat-32 and bfloat16 passes are for accelerators alone, and for the models
    # that ask for them.
    precision = "highest" if platform() == "cpu" else None
    with jax.default_matmul_precision(precision):
        reading = task.read(variables, batch, want)
    values = {name: reading.values[name] for name in layers}
    return values, reading.times_s, reading.mask


def layer_names(
    model: Model, asked: Layers, want: Want = "features"
) -> tuple[str, ...]:
    """The layers meant by names, numbers (6 is `layer_06`) or `all`.

    Of anything but features there is one set of outputs, which is given whole.

    Raises:
      NeuroFMError: the model has no such layer.
    """
    if asked == "all" or want != "features":
        return model.outputs(want)
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
