"""The files that a dataset is prepared from."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.label_columns import Note
from neurofm.errors import NeuroFMError

# Control characters would break the tables, bytes that are no text have no name.
_UNKEEPABLE = re.compile(r"[\x00-\x1f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files to prepare.

    Attributes:
      root: the folder they are relative to, or its address.
      files: sorted, with forward slashes; a folder may stand for a recording.
      unnamed: those whose names cannot be kept, with the reason.
      beside: further files that a recording is made of, or is read with.
      objects: in a store, bytes and version of each file.
    """

    root: Path | str
    files: tuple[str, ...]
    unnamed: tuple[Note, ...] = ()
    beside: tuple[str, ...] = ()
    objects: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def stat(self, file: str) -> tuple[int, int | str]:
        """Bytes and time of change, or version, of a file or of a folder's files."""
        if isinstance(self.root, str):
            return self.objects[file]
        return _stat(self.root / file)

    @property
    def n_files(self) -> int:
        return len(self.files) + len(self.unnamed)


def source(
    root: Path | str,
    files: Sequence[str],
    beside: Sequence[str] = (),
    objects: Mapping[str, tuple[int, str]] | None = None,
) -> Source:
    """Files whose names can be kept; NeuroFMError where there are none."""
    good = tuple(file for file in files if not _UNKEEPABLE.search(file))
    bad = tuple(
        (ascii(file)[1:-1], "its name holds characters that cannot be kept")
        for file in files
        if _UNKEEPABLE.search(file)
    )
    if not good:
        raise NeuroFMError(f"no file in {root} can be used: {bad[0][0]}, {bad[0][1]}")
    return Source(
        root=root,
        files=good,
        unnamed=bad,
        beside=tuple(beside),
        objects=objects or {},
    )


def settings_of(
    found: Source,
    settings: Mapping[str, Any],
    labels: str | os.PathLike | None,
    pattern: str | None,
    subdirs: str | None,
    licence: str,
) -> dict[str, Any]:
    """What a repeated call must share: its settings, files, labels and licence."""
    return {
        **settings,
        "sources": _fingerprint(found),
        "labels": labels and hashlib.sha256(Path(labels).read_bytes()).hexdigest(),
        "pattern": pattern,
        "subdirs": subdirs,
        "licence": licence,
    }


def n_bytes(path: Path) -> int:
    """Size of a file, or of all that a folder holds."""
    return _stat(path)[0]


def _stat(path: Path) -> tuple[int, int]:
    """Bytes and time of change of a file, or of all that a folder holds."""
    if not path.is_dir():
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns
    stats = [file.stat() for file in path.rglob("*") if file.is_file()]
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return sum(stat.st_size for stat in stats), newest


def _fingerprint(found: Source) -> str:
    """A digest of the names, sizes and times of the files."""
    digest = hashlib.sha256()
    for file in (*found.files, *found.beside):
        digest.update(json.dumps([file, *found.stat(file)]).encode())
    return digest.hexdigest()
