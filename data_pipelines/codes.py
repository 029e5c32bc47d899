"""Codes of a dataset of EEG and MEG, made once: `neurofm prepare codes`.

A frozen tokenizer reads every segment that a run could be shown, whatever its split, so
that training on codes never runs it. Shards are finished one by one in `OUT.partial`,
from where a restart goes on; each holds segments of one width of sensors.

    plan.json       what it was begun with
    00003.parquet   manifest rows of shard 3, which is finished
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.shards import Progress, refuse_other
from data_pipelines.summary import Summary, summarise, write_notes
from neurofm.data import codes, meeg, writer
from neurofm.data.buckets import widths
from neurofm.data.crops import Crop
from neurofm.data.layout import MEASURED
from neurofm.data.records import Dataset, DatasetInfo, Recording, open_dataset
from neurofm.errors import NeuroFMError
from neurofm.files import write_json
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
    resumed = _begin(partial, settings)
    encode = _encoder(model, variables, task, dataset, batch_size)
    done = 0
    rows: list[pa.Table] = []
    for number, (width, part) in enumerate(_shards(dataset, crops, buckets)):
        finished = partial / f"{number:05d}.parquet"
        if not finished.is_file():
            made_here = _recordings(dataset, part, encode(part, width))
            shard = writer.write_shard(partial, number, info, made_here)
            pq.write_table(shard.rows, draft := finished.with_suffix(".tmp"))
            draft.replace(finished)
        rows.append(pq.read_table(finished))
        done += len(part)
        if progress:
            progress(done, len(crops), done * segment_s)
    used = set(stretches.items.tolist())
    names = dataset.items["item"].to_pylist()
    left_out = [name for i, name in enumerate(names) if i not in used]
    _finish(partial, out, info, rows, left_out)
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


def _begin(partial: Path, settings: dict[str, Any]) -> bool:
    """Make the working folder, or see what it was begun with; True if it goes on."""
    plan = partial / "plan.json"
    if plan.is_file():
        refuse_other(partial, json.loads(plan.read_text()), settings)
        return any(partial.glob("*.parquet"))
    writer.refuse_occupied(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_json(plan, settings)
    return False


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
    columns = [c for c in dataset.items.column_names if c not in {*MEASURED, "layout"}]
    items = dataset.items.select([*columns, "item"])
    for crop, mine in zip(crops, found, strict=True):
        (row,) = items.slice(crop.item, 1).to_pylist()
        name, onset = row.pop("item"), row["onset"] or 0.0
        yield Recording(
            item=f"{name}@{crop.start}",
            samples=codes.as_stored(mine),
            meta={
                **row,
                "onset": onset + crop.start / dataset.info.sfreq,
                "n_recorded": crop.stop - crop.start,
            },
        )


def _finish(
    partial: Path,
    out: Path,
    info: DatasetInfo,
    rows: Sequence[pa.Table],
    left_out: Sequence[str],
) -> None:
    manifest = pa.concat_tables(rows, promote_options="permissive")
    why = "no window is free of bad marks"
    write_notes(partial, [(item, why) for item in left_out], ())
    writer.write_tables(partial, info, manifest, pa.table({}))
    for path in (*partial.glob("?????.parquet"), partial / "plan.json"):
        path.unlink()
    os.replace(partial, out)
