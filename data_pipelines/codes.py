"""Codes of a dataset of EEG and MEG, made once: `neurofm prepare codes`.

A frozen tokenizer reads every segment that a run could be shown, whatever its split, so
that training on codes never runs it. Shards are finished one by one, see `remade`; each
holds segments of one width of sensors.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines import remade
from data_pipelines.shards import Progress, refuse_other
from data_pipelines.summary import Summary, summarise
from neurofm.data import codes, meeg, writer
from neurofm.data.buckets import widths
from neurofm.data.crops import Crop
from neurofm.data.records import Dataset, Recording, open_dataset
from neurofm.errors import NeuroFMError
from neurofm.model import Model, load_frozen
from neurofm.models.brainomni import BrainOmni
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.parallel.mesh import BATCH_AXES
from neurofm.task import Batch, Tree


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    tokenizer: str | os.PathLike,
    segment_s: float = 30.0,
    overlap: float = 0.25,
    buckets: int = 4,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Summary:
    """Codes of all segments of a dataset of kind `meeg`, for `task.train_on=codes`.

    Args:
      src: the dataset, or its address.
      out: the dataset to make.
      tokenizer: the MODEL that training names as `init.frozen.tokenizer`.
      segment_s: seconds of a segment, `task.segment_samples` in samples.
      overlap: share of a window that the next one sees again, `task.overlap`.
      buckets: widths of sensors at most, one program each.
      batch_size: segments at once.

    Raises:
      NeuroFMError: a dataset the tokenizer cannot take, another model, nothing usable,
        or `out` holds something else.
    """
    started, out = time.monotonic(), Path(out)
    model, variables, digest = load_frozen("tokenizer", tokenizer)
    task = _task(model, tokenizer, segment_s, overlap)
    dataset = open_dataset(src)
    contract = replace(task, train_on="signals").batch_spec("train").contract
    stretches = meeg.every(dataset, contract)
    crops = stretches.segments()
    if not crops:
        raise NeuroFMError(
            f"no recording of {dataset.path} has a window of "
            f"{contract.receptive_samples} samples without bad marks, so there is "
            "nothing to make codes of"
        )
    places = [(c.item, c.start, c.stop) for c in crops]
    made = {
        "made_by": {"tokenizer": digest},
        "dataset": dataset.hash,
        "segments": hashlib.sha256(json.dumps(places).encode()).hexdigest(),
    }
    settings = {"reader": "codes", **made, "segment_s": segment_s, "overlap": overlap}
    spec = task.batch_spec("train")
    licence = dataset.info.licence
    info = codes.store_info(spec, made, licence=licence, prepared=settings)
    if (out / "dataset.json").is_file():
        refuse_other(out, open_dataset(out).info.prepared, settings)
        return summarise(out, len(dataset), "already prepared", started)
    writer.refuse_occupied(out)
    partial = out.with_name(out.name + ".partial")
    resumed = remade.begin(partial, settings)
    encode = _encoder(model, variables, task, dataset, batch_size)
    parts, done = list(_shards(dataset, crops, buckets)), 0
    for number, (width, part) in enumerate(parts):
        if not remade.is_finished(partial, number):
            made_here = _recordings(dataset, part, encode(part, width))
            remade.write_shard(partial, number, info, made_here)
        done += len(part)
        if progress:
            progress(done, len(crops), done * segment_s)
    used = set(stretches.items.tolist())
    names = dataset.items["item"].to_pylist()
    why = "no window is free of bad marks"
    left_out = [(name, why) for i, name in enumerate(names) if i not in used]
    remade.finish(partial, out, info, len(parts), left_out)
    status = "resumed" if resumed else "prepared"
    return summarise(out, len(dataset), status, started)


def _task(
    model: Model, path: str | os.PathLike, segment_s: float, overlap: float
) -> BrainOmni:
    """The second stage as far as segments go."""
    first = model.task
    if not isinstance(first, BrainTokenizer):
        raise NeuroFMError(
            f"--tokenizer {path} is a model of {first.name}: give one of "
            f"{BrainTokenizer.name}"
        )
    return BrainOmni(
        tokenizer=first,
        segment_samples=max(round(segment_s * first.sfreq), first.window_samples),
        overlap=overlap,
        n_quantizers_used=first.n_quantizers,
        train_on="codes",
    )


def _shards(
    dataset: Dataset, crops: Sequence[Crop], buckets: int
) -> Iterator[tuple[int, list[Crop]]]:
    """Width and segments of each shard."""
    n_chans = dataset.n_chans[[c.item for c in crops]]
    sizes = widths(n_chans, np.ones_like(n_chans), buckets)
    place = np.searchsorted(sizes, n_chans)
    for k, width in enumerate(sizes):
        mine = [crop for crop, at in zip(crops, place, strict=True) if at == k]
        for first in range(0, len(mine), writer.ITEMS_PER_SHARD):
            yield width, mine[first : first + writer.ITEMS_PER_SHARD]


def _encoder(
    model: Model, variables: Tree, task: BrainOmni, dataset: Dataset, batch_size: int
) -> Callable[[Sequence[Crop], int], Iterator[np.ndarray]]:
    """What gives codes [S, W, Q] of segments, on all devices of this process."""
    devices = model.mesh.devices.size
    n_rows = -(-batch_size // devices) * devices
    by_row = NamedSharding(model.mesh, PartitionSpec(BATCH_AXES))
    whole = NamedSharding(model.mesh, PartitionSpec())
    frozen = jax.device_put(variables, whole)
    spec = replace(task, train_on="signals").batch_spec("train")

    @jax.jit
    def run(frozen: Tree, batch: Batch) -> jax.Array:
        return task.tokenizer.tokenize(frozen, batch, task.overlap)[1]

    def encode(crops: Sequence[Crop], width: int) -> Iterator[np.ndarray]:
        fill = meeg.filler([dataset], (width,))
        running: list[tuple[int, jax.Array]] = []
        for first in range(0, len(crops), n_rows):
            batch = list(crops[first : first + n_rows])
            padded = batch + batch[-1:] * (n_rows - len(batch))
            placed = jax.device_put(fill(padded, spec), by_row)
            with jax.set_mesh(model.mesh):
                running.append((len(batch), run(frozen, placed)))
            if len(running) > 1:  # the next batch is read meanwhile
                n, found = running.pop(0)
                yield from np.asarray(found)[:n]
        for n, found in running:
            yield from np.asarray(found)[:n]

    return encode


def _recordings(
    dataset: Dataset, crops: Sequence[Crop], found: Iterator[np.ndarray]
) -> Iterator[Recording]:
    for crop, mine in zip(crops, found, strict=True):
        name, told = remade.told_of(dataset, crop)
        yield Recording(
            item=f"{name}@{crop.start}",
            samples=codes.as_stored(mine),
            meta={**told, "n_recorded": crop.stop - crop.start},
        )
