"""The record store: a folder of recordings that is read at any sample, in any order.

    *.array_record    segments of about 256 KiB (`neurofm.data.segments`)
    manifest.parquet  a row a segment: where it lies, and all of its recording's columns
    events.parquet    interval events: item, onset, duration, trial_type, others
    sensors.parquet   layouts of sensors, where recordings have their own
    dataset.json      the contract, the shards and the hash (`DatasetInfo`)

An item is one recording. Times are in seconds, samples in the dataset's unit. The
folder may lie in a store (`neurofm.stores`).
"""

import io
import json
import os
import threading
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Float32, Int

from neurofm import stores
from neurofm.data import segments, sensors
from neurofm.data.layout import VERSION, DatasetInfo, dataset_hash
from neurofm.data.remote import RemoteShard
from neurofm.data.sensors import Sensors
from neurofm.data.writer import Recording, write_dataset
from neurofm.errors import NeuroFMError

__all__ = ["Dataset", "DatasetInfo", "Recording", "open_dataset", "write_dataset"]

_MAX_OPEN = 512  # half of the usual limit on open files
_MAX_RECENT = 32  # raw segments of about 256 KiB
_READER = "readahead_buffer_size:0,max_parallelism:0"  # for random access


@dataclass(frozen=True, eq=False)
class Dataset:
    """An open record store; safe to read from many threads, cheap to pickle.

    Attributes:
      path: the folder, or its address.
      info: the contract.
      items: a row a recording, in store order: item, file, sha256, timeline, subject,
        session, run, task, onset and duration (s), split, n_samples, rms (over all
        samples and channels, in `info.unit`), active (bytes, one bit a 50 ms block:
        sound above -80 dB re full scale), layout where recordings have sensors of
        their own, then labels.
      n_chans: channels of every recording.
      events: item, onset and duration (s, from the item's start), trial_type, others.
    """

    path: Path | str
    info: DatasetInfo
    items: pa.Table
    events: pa.Table
    n_chans: Int[np.ndarray, "items"] = field(repr=False)
    _layouts: dict[str, Sensors] = field(repr=False)
    _n_samples: Int[np.ndarray, "items"] = field(repr=False)
    _first: Int[np.ndarray, "items"] = field(repr=False)
    _shard: Int[np.ndarray, "segments"] = field(repr=False)
    _record: Int[np.ndarray, "segments"] = field(repr=False)
    _readers: dict[int, Any] = field(default_factory=dict, repr=False)
    _recent: dict[int, bytes] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def hash(self) -> str:
        return self.info.hash

    def __len__(self) -> int:
        return self.info.n_items

    @property
    def layouts(self) -> list[Sensors]:
        """The layouts of sensors of all recordings that have their own, each once."""
        return list(self._layouts.values())

    def sensors(self, item: int) -> Sensors:
        """The sensors of a recording of row `item`, where it has its own."""
        return self._layouts[self.items["layout"][item].as_py()]

    def __reduce__(self):
        return open_dataset, (self.path,)

    def read(self, item: int, start: int, stop: int) -> Float32[np.ndarray, "C n"]:
        """Samples `start` to `stop` of a recording, in `info.unit`.

        Args:
          item: row of `items`.
          start: first sample, from 0.
          stop: past the last sample, at most the item's `n_samples`.

        Raises:
          IndexError: the span is not inside the recording.
          NeuroFMError: the shard is damaged or gone.
        """
        return self.read_many([(item, start, stop)])[0]

    def read_many(
        self, spans: Sequence[tuple[int, int, int]]
    ) -> list[Float32[np.ndarray, "C _"]]:
        """Several spans, each an (item, start, stop) of `read`.

        From a store their segments are fetched at the same time and each once, so that
        one batch waits for a few requests and not for hundreds in a row.
        """
        for item, start, stop in spans:
            n_samples = int(self._n_samples[item])
            if not 0 <= start <= stop <= n_samples:
                raise IndexError(
                    f"samples {start}:{stop} of item {item} with {n_samples}"
                )
        ahead: dict[int, bytes] = {}
        if isinstance(self.path, str):
            rows = sorted({row for span in spans for row in self._rows(*span)})
            found = stores.parallel().map(self._read_record, rows)
            ahead = dict(zip(rows, found, strict=True))
        return [self._assemble(span, ahead) for span in spans]

    def _rows(self, item: int, start: int, stop: int) -> range:
        """Rows of the manifest that hold a span."""
        size, first = self._segment_samples(item), int(self._first[item])
        return range(first + start // size, first - (-stop // size))

    def _segment_samples(self, item: int) -> int:
        return self.info.segment_samples(int(self.n_chans[item]))

    def _assemble(
        self, span: tuple[int, int, int], ahead: dict[int, bytes]
    ) -> Float32[np.ndarray, "C n"]:
        item, start, stop = span
        out = np.empty((int(self.n_chans[item]), stop - start), np.float32)
        size = self._segment_samples(item)
        for row in self._rows(*span):
            origin = (row - int(self._first[item])) * size
            low, high = max(start, origin), min(stop, origin + size)
            record = ahead[row] if row in ahead else self._read_record(row)
            part = segments.unpack(record, low - origin, high - origin)
            out[:, low - start : high - start] = part
        return out

    def _read_record(self, row: int) -> bytes:
        """One raw segment; crops of one clip share theirs, so a few are kept."""
        with self._lock:
            if row in self._recent:
                return self._recent[row]
        raw = self._read_from_shard(row)
        with self._lock:
            self._recent[row] = raw
            while len(self._recent) > _MAX_RECENT:
                del self._recent[next(iter(self._recent))]
        return raw

    def _read_from_shard(self, row: int) -> bytes:
        shard, record = int(self._shard[row]), int(self._record[row])
        try:
            return self._reader(shard).read([record])[0]
        except (RuntimeError, IndexError) as error:
            raise NeuroFMError(
                f"{self._shard_path(shard)} is damaged at record {record} ({error}); "
                "restore it from a copy or prepare the dataset again"
            ) from error

    def _shard_path(self, shard: int) -> str:
        return f"{self.path}/{list(self.info.shards)[shard]}"

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard not in self._readers:
                path = self._shard_path(shard)
                if isinstance(self.path, str):
                    size = list(self.info.shards.values())[shard]
                    reader = RemoteShard(path, size)
                else:
                    if len(self._readers) >= _MAX_OPEN:
                        del self._readers[next(iter(self._readers))]
                    reader = ArrayRecordReader(path, _READER)
                    if not reader.ok():
                        raise RuntimeError("cannot be opened")
                self._readers[shard] = reader
            return self._readers[shard]


def open_dataset(path: str | os.PathLike) -> Dataset:
    """Open a folder written by `write_dataset` or `neurofm prepare`, or its address.

    Raises:
      NeuroFMError: the folder is no dataset, unfinished, of another version or damaged;
        or its store cannot be used.
    """
    path = stores.address(path)
    found = stores.sizes(path)
    info = _read_info(path, found)
    try:
        manifest = _read_table(path, "manifest.parquet").combine_chunks()
        events = _read_table(path, "events.parquet")
        layouts = {}
        if not info.ch_names:
            layouts = sensors.from_table(_read_table(path, "sensors.parquet"))
        items, first, n_chans = _items(manifest, info, layouts)
        intact = (
            len(items) == info.n_items
            and len(manifest) == info.n_segments
            and dataset_hash(info, items) == info.hash
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its tables cannot be read: {error}") from error
    if not intact:
        raise _damaged(path, "manifest.parquet and dataset.json disagree")
    for name, size in info.shards.items():
        if (there := found.get(name, 0)) != size:
            raise _damaged(path, f"{name} has {there} bytes, {size} were written")
    number = {name: i for i, name in enumerate(info.shards)}
    shards = manifest["shard"].combine_chunks().dictionary_encode()
    lookup = np.asarray([number[name.as_py()] for name in shards.dictionary], int)
    return Dataset(
        path=path,
        info=info,
        items=items,
        events=events,
        n_chans=n_chans,
        _layouts=layouts,
        _n_samples=items["n_samples"].to_numpy(),
        _first=first,
        _shard=lookup[shards.indices.to_numpy()],
        _record=manifest["record"].to_numpy(),
    )


def _read_table(path: Path | str, name: str) -> pa.Table:
    # In this thread alone: one of arrow's that still holds Python's bytes when the
    # interpreter ends aborts it.
    held = io.BytesIO(stores.read_bytes(stores.within(path, name)))
    with pq.ParquetFile(held, pre_buffer=False) as table:
        return table.read(use_threads=False)


def _damaged(path: Path | str, what: str) -> NeuroFMError:
    return NeuroFMError(
        f"the dataset {path} is damaged ({what}); restore it from a copy or prepare it "
        "again"
    )


def _read_info(path: Path | str, found: dict[str, int]) -> DatasetInfo:
    if "dataset.json" not in found:
        if isinstance(path, Path) and path.with_name(path.name + ".partial").is_dir():
            raise NeuroFMError(
                f"the dataset {path} is not finished; run the same `neurofm prepare` "
                "command again, it goes on where it stopped"
            )
        raise NeuroFMError(
            f"{path} is not a dataset (it holds no dataset.json); make one from "
            "recordings with `neurofm prepare`"
        )
    try:
        obj = json.loads(stores.read_bytes(stores.within(path, "dataset.json")))
        version = obj.get("version")
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(path, f"dataset.json cannot be read: {error}") from error
    if version != VERSION:
        raise NeuroFMError(
            f"the dataset {path} has layout version {version!r}, this neurofm reads "
            f"version {VERSION}; prepare it again"
        )
    try:
        if obj["payload"] not in typing.get_args(segments.Payload):
            raise KeyError(obj["payload"])
        return DatasetInfo.from_json(obj)
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"dataset.json: {error}") from error


def _items(
    manifest: pa.Table, info: DatasetInfo, layouts: dict[str, Sensors]
) -> tuple[pa.Table, Int[np.ndarray, "items"], Int[np.ndarray, "items"]]:
    """The manifest with one row an item, each item's first row and its channels."""
    first = np.flatnonzero(manifest["segment"].to_numpy() == 0)
    items = manifest.take(first)
    n_samples = items["n_samples"].to_numpy()
    n_segments = np.diff(np.append(first, len(manifest)))
    n_chans = np.full(len(items), info.n_chans)
    if not info.ch_names:
        n_chans = np.array([len(layouts[n]) for n in items["layout"].to_pylist()])
    size = {int(n): info.segment_samples(int(n)) for n in set(n_chans)}
    sizes = np.array([size[int(n)] for n in n_chans])
    if not np.array_equal(n_segments, -(-n_samples // sizes)):
        raise KeyError("segments are missing from the manifest")
    duration = pa.array(n_samples / info.sfreq)
    items = items.set_column(
        items.schema.get_field_index("duration"), "duration", duration
    ).set_column(
        items.schema.get_field_index("active"), "active", _join(manifest, first)
    )
    return items.drop_columns(["segment", "shard", "record"]), first, n_chans


def _join(manifest: pa.Table, first: Int[np.ndarray, "items"]) -> pa.Array:
    """Each item's activity bits: those of its segments, which lie side by side."""
    bits = manifest["active"].combine_chunks()
    if isinstance(bits, pa.ChunkedArray):
        bits = bits.chunk(0) if bits.num_chunks else pa.array([], pa.binary())
    if bits.offset or not len(bits):
        raise KeyError("the manifest is empty")
    _, offsets, data = bits.buffers()
    ends = np.frombuffer(offsets, np.int32)[np.append(first, len(manifest))]
    return pa.Array.from_buffers(
        pa.binary(), len(first), [None, pa.py_buffer(ends.astype(np.int32)), data]
    )
