"""The layout of a dataset folder: its tables, its contract and its hash."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from neurofm.data import segments

VERSION = 1
SPLITS = ("", "train", "valid", "test")

MANIFEST = pa.schema(
    [
        ("item", pa.string()),
        ("segment", pa.int32()),
        ("shard", pa.string()),
        ("record", pa.int64()),
        ("file", pa.string()),
        ("sha256", pa.string()),
        ("timeline", pa.string()),
        ("subject", pa.string()),
        ("session", pa.string()),
        ("run", pa.string()),
        ("task", pa.string()),
        ("onset", pa.float64()),
        ("duration", pa.float64()),
        ("split", pa.string()),
        ("n_samples", pa.int64()),
        ("rms", pa.float64()),
        ("active", pa.binary()),
    ]
)
# What a recording may bring; the other columns are measured. Further names are labels.
GIVEN = ("file", "sha256", "timeline", "subject", "session", "run", "task", "onset")
GIVEN += ("split",)
MEASURED = tuple(name for name in MANIFEST.names if name not in GIVEN)
EVENTS = pa.schema(
    [
        ("item", pa.string()),
        ("onset", pa.float64()),
        ("duration", pa.float64()),
        ("trial_type", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The contract of a dataset, and what its folder holds.

    Attributes:
      kind: `audio`, `meeg`, `ieeg`, `fmri`, `features`, `codes` or `superlets`.
      sfreq: sampling rate in Hz.
      unit: unit of the samples (`full_scale` for sound in [-1, 1]).
      ch_names: channel names, in order; empty where every recording has sensors of
        its own, see `data.sensors`.
      payload: how samples are stored, `int16`, `float16` or `float32`.
      licence: terms of the recordings.
      processing: what was done to the signals, where that is not told by the rest.
      version: of this layout.
      n_items: recordings.
      n_segments: rows of the manifest.
      hash: see `dataset_hash`.
      shards: file name -> size in bytes.
      prepared: the settings that made it, compared on a repeated `prepare`.
    """

    kind: str
    sfreq: float
    unit: str
    ch_names: tuple[str, ...]
    payload: segments.Payload = "int16"
    licence: str = ""
    processing: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION
    n_items: int = 0
    n_segments: int = 0
    hash: str = ""
    shards: dict[str, int] = field(default_factory=dict)
    prepared: dict[str, Any] = field(default_factory=dict)

    @property
    def n_chans(self) -> int:
        """Channels of every recording; 0 where each has its own."""
        return len(self.ch_names)

    def segment_samples(self, n_chans: int) -> int:
        """Samples in every segment of an item of `n_chans` channels but its last."""
        return segments.segment_samples(n_chans, self.sfreq, self.payload)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"ch_names": list(self.ch_names)}

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> "DatasetInfo":
        return cls(**{**obj, "ch_names": tuple(obj["ch_names"])})


def dataset_hash(info: DatasetInfo, items: pa.Table) -> str:
    """sha256 over the contract and each item's (sha256, split, n_samples), in order.

    Where recordings have sensors of their own, their layouts are counted as well; of
    fMRI and features, whose they are and where they lie on which timeline. It says what
    a batch drawn by (hash, seed, step) holds, so it does not depend on labels, file
    names, shards or the number of workers.
    """
    names = ("version", "kind", "sfreq", "unit", "ch_names", "payload")
    contract = {name: getattr(info, name) for name in names}
    if info.processing:
        contract["processing"] = info.processing
    digest = hashlib.sha256(json.dumps(contract, sort_keys=True).encode())
    columns = ["sha256", "split", "n_samples"]
    columns += [] if info.ch_names else ["layout"]
    if info.kind in ("fmri", "features"):
        columns += ["timeline", "subject", "onset"]
    columns = items.select(columns).to_pydict()
    for row in zip(*columns.values(), strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
