"""Write recordings into a record store; `neurofm.data.records` reads them back."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32

from neurofm.data import segments
from neurofm.data import sensors as sensor_tables
from neurofm.data.layout import (
    EVENTS,
    MANIFEST,
    MEASURED,
    SPLITS,
    DatasetInfo,
    dataset_hash,
)
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError

_WRITER = "group_size:1,uncompressed"  # each record is read alone
ITEMS_PER_SHARD = 1024


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One item to write.

    Attributes:
      item: its name, unique in the dataset.
      samples: `[C, N]` in the dataset's unit, or consecutive blocks `[C, n]` of them;
        of fMRI, a region that this run lacks is NaN in all of it.
      sensors: its own, where the dataset gives no channel names.
      meta: manifest columns: those of `layout.GIVEN` and any labels.
      events: interval events, each with onset and duration (s from the item's start),
        trial_type and any other columns.
    """

    item: str
    samples: Float32[np.ndarray, "C N"] | Iterable[Float32[np.ndarray, "C n"]]
    meta: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    sensors: Sensors | None = None


class Shard(NamedTuple):
    """What was written into a shard: its manifest rows, and layouts of sensors."""

    rows: pa.Table
    sensors: pa.Table


def write_dataset(
    out: str | os.PathLike, info: DatasetInfo, recordings: Iterable[Recording]
) -> DatasetInfo:
    """Write a whole dataset; `out` appears complete or not at all.

    Args:
      out: folder to make; it must not exist (an empty one may).
      info: the contract; counts, shards and hash are filled in here.
      recordings: in the order they are to be stored; read once.

    Returns:
      `info` with the counts, the shards and the hash of what was written.
    """
    out = Path(out)
    refuse_occupied(out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shards: list[Shard] = []
    events: list[Mapping[str, Any]] = []

    def remembered() -> Iterator[Recording]:
        for recording in recordings:
            events.extend({"item": recording.item, **e} for e in recording.events)
            yield recording

    rest = remembered()
    while len((shard := write_shard(partial, len(shards), info, rest)).rows):
        shards.append(shard)
    if not shards:
        raise NeuroFMError(f"no recording was given to write into {out}")
    rows = pa.concat_tables([s.rows for s in shards], promote_options="permissive")
    found = pa.Table.from_pylist(events)
    info = write_tables(partial, info, rows, found, [s.sensors for s in shards])
    os.replace(partial, out)
    return info


def refuse_occupied(out: Path) -> None:
    """Raise NeuroFMError where `out` holds anything already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise NeuroFMError(
            f"{out} exists already; give another --out, or delete it first"
        )


def write_shard(
    folder: Path, number: int, info: DatasetInfo, recordings: Iterable[Recording]
) -> Shard:
    """Write at most 1,024 recordings into one shard; nothing where there are none."""
    name = f"{number:05d}.array_record"
    temporary = folder / f"{name}.tmp"
    rows: list[dict[str, Any]] = []
    layouts: list[Sensors] = []
    writer = ArrayRecordWriter(str(temporary), _WRITER)
    try:
        for recording in islice(recordings, ITEMS_PER_SHARD):
            rows += _write_recording(writer, info, recording, name, len(rows))
            layouts += [recording.sensors] if recording.sensors else []
    finally:
        writer.close()
    if rows:
        os.replace(temporary, folder / name)
    else:
        temporary.unlink()
    return Shard(_table(rows), sensor_tables.to_table(layouts))


def _write_recording(
    writer: Any, info: DatasetInfo, recording: Recording, shard: str, record: int
) -> list[dict[str, Any]]:
    item, meta = recording.item, dict(recording.meta)
    if taken := sorted(set(meta) & set(MEASURED)):
        raise NeuroFMError(
            f"recording {item!r} brings the columns {taken}, measured by the writer; "
            "rename them"
        )
    if meta.setdefault("split", "") not in SPLITS:
        raise NeuroFMError(
            f"recording {item!r} has split {meta['split']!r}; expected one of train, "
            "valid and test, or nothing"
        )
    if (recording.sensors is None) != bool(info.ch_names):
        raise NeuroFMError(
            f"recording {item!r} {'has' if recording.sensors else 'lacks'} sensors of "
            "its own: give them where the dataset has no channel names, and only there"
        )
    n_chans = info.n_chans
    if recording.sensors is not None:
        n_chans = len(recording.sensors)
        meta["layout"] = recording.sensors.layout
    blocks = recording.samples
    if isinstance(blocks, np.ndarray):
        blocks = [blocks]
    floor = segments.FULL_SCALE_FLOOR if info.unit == "full_scale" else 0.0
    digest = None if meta.get("sha256") else hashlib.sha256()
    n_samples, power = 0, 0.0
    rows: list[dict[str, Any]] = []
    for x in segments.regroup(blocks, info.segment_samples(n_chans)):
        _refuse_wrong(x, item, info, n_chans)
        writer.write(segments.pack(x, info.payload))
        if digest:
            digest.update(x.T.astype("<f4").tobytes())
        onset = float(meta.get("onset") or 0.0) + n_samples / info.sfreq
        rows.append(
            {
                **meta,
                "item": item,
                "segment": len(rows),
                "shard": shard,
                "record": record + len(rows),
                "onset": onset,
                "duration": x.shape[1] / info.sfreq,
                "active": segments.active_bits(x, info.sfreq, floor),
            }
        )
        n_samples += x.shape[1]
        power += float(np.nansum(np.square(x, dtype=np.float64)))
    if not rows:
        raise NeuroFMError(f"recording {item!r} holds no samples; leave it out")
    whole = {
        "n_samples": n_samples,
        "rms": (power / (n_samples * n_chans)) ** 0.5,
        "timeline": meta.get("timeline") or item,
        "sha256": digest.hexdigest() if digest else meta["sha256"],
    }
    return [row | whole for row in rows]


def _refuse_wrong(x: np.ndarray, item: str, info: DatasetInfo, n_chans: int) -> None:
    if x.shape[0] != n_chans:
        owner = "dataset" if info.ch_names else "recording's sensors"
        names = f" ({', '.join(info.ch_names)})" if info.ch_names else ""
        raise NeuroFMError(
            f"recording {item!r} has {x.shape[0]} channels, the {owner} "
            f"{n_chans}{names}; select the same channels"
        )
    absent = np.isnan(x).all(axis=1) if info.kind == "fmri" else np.zeros(len(x), bool)
    if not np.isfinite(x[~absent]).all():
        raise NeuroFMError(
            f"recording {item!r} holds NaN or infinite samples; mend it or leave it out"
        )


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table, labels after the columns of `MANIFEST`."""
    columns = {}
    for column in MANIFEST:
        blank = 0.0 if pa.types.is_floating(column.type) else ""
        values = [row.get(column.name, blank) for row in rows]
        columns[column.name] = pa.array(values, column.type)
    labels = dict.fromkeys(name for row in rows for name in row)
    for name in labels:
        if name not in columns:
            columns[name] = pa.array([row.get(name) for row in rows])
    return pa.table(columns)


def write_tables(
    folder: Path,
    info: DatasetInfo,
    manifest: pa.Table,
    events: pa.Table,
    sensors: Iterable[pa.Table] = (),
    sizes: Mapping[str, int] | None = None,
) -> DatasetInfo:
    """Write manifest, events and dataset.json beside the shards; see `write_dataset`.

    Args:
      manifest: rows of `write_shard`, in store order.
      events: columns of `layout.EVENTS` and others; may be empty.
      sensors: of the shards, where the recordings have sensors of their own.
      sizes: bytes of the shards, where they lie elsewhere.
    """
    items = manifest.take(np.flatnonzero(manifest["segment"].to_numpy() == 0))
    if len(items) != len(items["item"].unique()):
        counts = items["item"].value_counts().to_pylist()
        twice = next(c["values"] for c in counts if c["counts"] > 1)
        raise NeuroFMError(
            f"two recordings are named {twice!r}; give each its own item name"
        )
    for column in EVENTS:
        if column.name in events.column_names:
            where = events.schema.get_field_index(column.name)
            cells = events[column.name].cast(column.type)
            events = events.set_column(where, column, cells)
        else:
            events = events.append_column(column, pa.nulls(len(events), column.type))
    pq.write_table(manifest, folder / "manifest.parquet")
    pq.write_table(events, folder / "events.parquet")
    if not info.ch_names:
        layouts = [s for t in sensors for s in sensor_tables.from_table(t).values()]
        pq.write_table(sensor_tables.to_table(layouts), folder / "sensors.parquet")
    shards = manifest["shard"].unique().to_pylist()
    if sizes is None:
        sizes = {name: (folder / name).stat().st_size for name in shards}
    info = dataclasses.replace(
        info,
        n_items=len(items),
        n_segments=len(manifest),
        shards={name: sizes[name] for name in shards},
        hash=dataset_hash(info, items),
    )
    text = json.dumps(info.to_json(), indent=1)
    (folder / "dataset.json").write_text(text + "\n")
    return info
