"""Embeddings on disk: shards of arrays, and one table that says where each lies.

    index.parquet                 a row an embedding: embedding (its name), item, file,
                                  shard, n_tokens, dim, layers, first_s, last_s, then
                                  labels (`label_<name>` where a name is taken)
    embeddings-00000.safetensors  `<embedding>/<layer>` (T, D) float32 (codes int32) and
                                  `<embedding>/times_s` (T,) float64; or .npz, or .h5
    embeddings.json               what made them
    skipped.tsv                   what gave none, and why

While they are made they lie in `<out>.partial`, with a table `rows-*.parquet` beside
each finished shard; an interrupted run goes on behind the last one.
"""

import contextlib
import csv
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy
from jaxtyping import Float, Num

from neurofm.errors import NeuroFMError

# name, layer -> (T, D), times in seconds (T,), columns of the index
Row = tuple[str, Mapping[str, np.ndarray], np.ndarray, Mapping[str, Any]]
SUFFIXES = {"safetensors": ".safetensors", "npz": ".npz", "hdf5": ".h5"}
VERSION = 1
_DAMAGE = (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile)
_DAMAGE += (safetensors.SafetensorError,)

# A shard is closed by what it holds, never by the clock: the same inputs give the same
# shards. An hour of signal is what a restart may have to repeat.
SHARD_BYTES = 64 * 2**20
SHARD_SECONDS = 3600.0
SHARD_ITEMS = 1024


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A finished folder of embeddings.

    Attributes:
      info: what `embeddings.json` says: request, contract, counts.
      index: a row an embedding.
    """

    path: Path
    info: dict[str, Any]
    index: pa.Table
    _open: dict[str, Any] = field(default_factory=dict, repr=False)  # the last shard

    def read(self, row: int, layer: str = "last") -> Num[np.ndarray, "T D"]:
        """One embedding of one layer."""
        return self._array(row, layer)

    def times(self, row: int) -> Float[np.ndarray, " T"]:
        """Its times in seconds."""
        return self._array(row, "times_s")

    def _array(self, row: int, name: str) -> np.ndarray:
        layers = self.index["layers"][row].as_py()
        if name not in (*layers, "times_s"):
            raise NeuroFMError(
                f"{self.path} holds no layer {name!r}: it holds {', '.join(layers)}"
            )
        shard = self.index["shard"][row].as_py()
        try:
            if shard not in self._open:
                self._open.clear()
                self._open[shard] = open_arrays(self.path / shard)
            return self._open[shard](f"{self.index['embedding'][row].as_py()}/{name}")
        except _DAMAGE as error:
            raise NeuroFMError(
                f"{self.path / shard} is damaged or gone ({error}): embed again"
            ) from error


def open_embeddings(path: str | os.PathLike) -> Embeddings:
    """Open a folder that `neurofm embed` wrote.

    Raises:
      NeuroFMError: it is none, unfinished, or of another version.
    """
    path = Path(path)
    if not (path / "embeddings.json").is_file():
        unfinished = path.with_name(path.name + ".partial").is_dir()
        raise NeuroFMError(
            f"{path} is not finished: run the same `neurofm embed` again, it goes on"
            if unfinished
            else f"{path} holds no embeddings: make them with `neurofm embed`"
        )
    try:
        info = json.loads((path / "embeddings.json").read_text())
        if (version := info.get("version")) == VERSION:
            return Embeddings(path, info, pq.read_table(path / "index.parquet"))
    except (*_DAMAGE, AttributeError, pa.ArrowException) as error:
        raise NeuroFMError(
            f"the embeddings {path} are damaged ({error}): embed again"
        ) from error
    raise NeuroFMError(
        f"{path} has layout version {version!r}, this neurofm reads version "
        f"{VERSION}: embed again"
    )


class Writer:
    """Collects embeddings into shards; what was finished before is kept and reused."""

    def __init__(self, out: str | os.PathLike, request: Mapping[str, Any]):
        """Start in `<out>.partial`, or go on there.

        Args:
          request: JSON that says which embeddings these are; its `format` is a key of
            `SUFFIXES`.

        Raises:
          NeuroFMError: `out` is taken, or the unfinished part is of another request.
        """
        self.out, self.request = Path(out), dict(request)
        self.partial = self.out.with_name(self.out.name + ".partial")
        taken = self.out.exists() and not self.out.is_dir()
        if taken or (self.out.is_dir() and any(self.out.iterdir())):
            raise NeuroFMError(
                f"{self.out} exists and is not empty: choose another --out"
            )
        file = self.partial / "request.json"
        tables = sorted(self.partial.glob("rows-*.parquet"))
        if tables:
            require_same(self.partial, json.loads(file.read_text()), self.request)
        self.partial.mkdir(parents=True, exist_ok=True)
        for draft in self.partial.glob("draft-*"):
            draft.unlink()
        _write_whole(file, lambda draft: draft.write_text(json.dumps(self.request)))
        self.rows = [row for t in tables for row in pq.read_table(t).to_pylist()]
        self.done = {row["item"] for row in self.rows}
        self._start_shard(len(tables))

    def _start_shard(self, number: int) -> None:
        self._number, self._first_row = number, len(self.rows)
        self._arrays: dict[str, np.ndarray] = {}
        self._items, self._bytes, self._seconds = 0, 0, 0.0

    def add(self, item: str, rows: Sequence[Row], seconds: float) -> None:
        """Take all embeddings of one item.

        Args:
          seconds: of signal that the item holds.
        """
        shard = f"embeddings-{self._number:05d}{SUFFIXES[self.request['format']]}"
        for name, values, at, columns in rows:
            n_tokens, dim = next(iter(values.values())).shape
            own = {"embedding": name, "item": item, "file": columns["file"]}
            own |= {"shard": shard}
            own |= {"n_tokens": n_tokens, "dim": dim, "layers": list(values)}
            own |= {"first_s": float(at[0]), "last_s": float(at[-1])}
            labels = {f"label_{k}" if k in own else k: columns[k] for k in columns}
            del labels["label_file"]
            self.rows.append({**own, **labels})
            for layer, x in {**values, "times_s": at}.items():
                self._arrays[f"{name}/{layer}"] = x
                self._bytes += x.nbytes
        self._items += 1
        self._seconds += seconds
        if (
            self._bytes >= SHARD_BYTES
            or self._seconds >= SHARD_SECONDS
            or self._items >= SHARD_ITEMS
        ):
            self._flush()

    def _flush(self) -> None:
        rows, arrays = self.rows[self._first_row :], self._arrays
        if rows:
            shard = self.partial / rows[0]["shard"]
            _write_whole(shard, lambda draft: write_arrays(draft, arrays))
            table = self.partial / f"rows-{self._number:05d}.parquet"
            _write_whole(table, lambda draft: pq.write_table(_table(rows), draft))
            self._start_shard(self._number + 1)

    def give_up(self) -> None:
        """Leave nothing behind, as nothing was taken."""
        (self.partial / "request.json").unlink()
        with contextlib.suppress(OSError):  # a folder that held something before
            self.partial.rmdir()

    def finish(self, info: Mapping[str, Any], skipped: list[dict[str, str]]) -> None:
        """Close the last shard and let `out` appear."""
        self._flush()
        pq.write_table(_table(self.rows), self.partial / "index.parquet")
        described = {"version": VERSION, **info, "request": self.request}
        (self.partial / "embeddings.json").write_text(json.dumps(described, indent=1))
        if skipped:
            with (self.partial / "skipped.tsv").open("w", newline="") as f:
                lines = csv.DictWriter(f, ["file", "reason"], delimiter="\t")
                lines.writeheader()
                lines.writerows(skipped)
        if self.out.exists():
            self.out.rmdir()  # empty, or __init__ would have refused
        self.partial.rename(self.out)
        for stale in (*self.out.glob("rows-*"), self.out / "request.json"):
            stale.unlink()


def require_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to mix what two requests made.

    Raises:
      NeuroFMError: the requests differ, naming in what.
    """
    differ = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if differ:
        raise NeuroFMError(
            f"{folder} holds embeddings of another request (other in: "
            f"{', '.join(differ)}): choose another --out, or delete it"
        )


def _write_whole(path: Path, write: Any) -> None:
    draft = path.with_name(f"draft-{path.name}")  # numpy and pyarrow heed the suffix
    write(draft)
    draft.replace(path)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of unlike keys as one table; a column of unlike types becomes text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(v) for v in values if v is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:
            values = [None if v is None else str(v) for v in values]
        columns[name] = values
    return pa.table(columns)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays in the format that the suffix tells."""
    if path.suffix == ".safetensors":
        whole = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
        path.touch()
        mode = path.stat().st_mode
        safetensors.numpy.save_file(whole, path)
        path.chmod(mode)  # as any new file: safetensors would keep it to its owner
    elif path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **arrays)
    else:
        import h5py

        with h5py.File(path, "w") as f:
            for name, x in arrays.items():
                f.create_dataset(name, data=x)


def open_arrays(path: Path) -> Callable[[str], np.ndarray]:
    """Open what `write_arrays` wrote: a function from name to array."""
    if path.suffix == ".safetensors":
        return safetensors.safe_open(path, framework="np").get_tensor
    if path.suffix == ".npz":
        archive = zipfile.ZipFile(path)  # np.load leaves a damaged one open

        def member(name: str) -> np.ndarray:
            with archive.open(f"{name}.npy") as f:
                return np.lib.format.read_array(f, allow_pickle=False)

        return member
    import h5py

    f = h5py.File(path)
    return lambda name: np.asarray(f[name])
