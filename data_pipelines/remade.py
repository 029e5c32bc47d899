"""A dataset that is made of another one, shard by shard in `OUT.partial`.

A restart goes on from the shards that are finished:

    plan.json       what it was begun with
    00003.parquet   manifest rows of shard 3, which is finished
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.shards import refuse_other
from data_pipelines.summary import write_notes
from neurofm.data import writer
from neurofm.data.crops import Crop
from neurofm.data.layout import MEASURED
from neurofm.data.records import Dataset, DatasetInfo, Recording
from neurofm.files import write_json


def begin(partial: Path, settings: dict[str, Any]) -> bool:
    """Make the working folder, or see what it was begun with; True if it goes on."""
    plan = partial / "plan.json"
    if plan.is_file():
        refuse_other(partial, json.loads(plan.read_text()), settings)
        return any(partial.glob("*.parquet"))
    writer.refuse_occupied(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_json(plan, settings)
    return False


def is_finished(partial: Path, number: int) -> bool:
    """Whether a shard is there, with its rows."""
    return (partial / f"{number:05d}.parquet").is_file()


def write_shard(
    partial: Path, number: int, info: DatasetInfo, recordings: Iterable[Recording]
) -> None:
    """Write a shard, and then its rows."""
    shard = writer.write_shard(partial, number, info, recordings)
    finished = partial / f"{number:05d}.parquet"
    pq.write_table(shard.rows, draft := finished.with_suffix(".tmp"))
    draft.replace(finished)


def told_of(dataset: Dataset, crop: Crop) -> tuple[str, dict[str, Any]]:
    """The name of a crop's recording, and what is told of it, from the crop's onset."""
    told = {*MEASURED, "layout"} - {"item"}
    columns = [name for name in dataset.items.column_names if name not in told]
    (row,) = dataset.items.select(columns).slice(crop.item, 1).to_pylist()
    onset = (row["onset"] or 0.0) + crop.start / dataset.info.sfreq
    return row.pop("item"), {**row, "onset": onset}


def finish(
    partial: Path,
    out: Path,
    info: DatasetInfo,
    n_shards: int,
    left_out: Sequence[tuple[str, str]],
) -> None:
    """Write the tables, drop what was kept to go on from, and move it all to `out`.

    Args:
      left_out: names of recordings that are not in it, and why.
    """
    rows = [pq.read_table(partial / f"{i:05d}.parquet") for i in range(n_shards)]
    manifest = pa.concat_tables(rows, promote_options="permissive")
    write_notes(partial, left_out, ())
    writer.write_tables(partial, info, manifest, pa.table({}))
    for path in (*partial.glob("?????.parquet"), partial / "plan.json"):
        path.unlink()
    os.replace(partial, out)
