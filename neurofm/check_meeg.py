"""What `neurofm check` says of EEG and MEG: files, folders, BIDS trees, stores."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.findings import Findings
from neurofm.signals.meeg import KINDS

if TYPE_CHECKING:
    from data_pipelines.meeg.prepare import ReadMeeg
    from neurofm.data.records import Dataset

# Source bytes that are read and filtered; what lies beyond is judged by its header.
_READ_BYTES = 2**26
_ABOUT_LINE = "its line frequency is not known"  # counted instead of listed


def named(path: Path) -> tuple[Path, list[str], Mapping[str, int]] | None:
    """Root, recordings and other files of a path, or None where there is no recording.

    A folder that holds more sound files is one of sound.
    """
    from data_pipelines import soundfiles
    from data_pipelines.meeg import files

    suffix = files.suffix(path.name)
    if suffix in files.FOLDERS or (path.is_file() and suffix in files.FORMATS):
        return path.parent, [path.name], {}
    if not path.is_dir():
        return None
    found, others = files.find(path)
    if not found or len(soundfiles.find(path)[0]) > len(found):
        return None
    return path, found, others


def check_meeg(
    root: Path, files: Sequence[str], others: Mapping[str, int], path: Path
) -> Findings:
    """Count recordings by format, sensors and hours, and try to prepare them.

    Args:
      root: the folder that `files` are relative to.
      files: recordings.
      others: suffix -> count of the other files there.
      path: what the user named.
    """
    from data_pipelines.meeg import bids
    from data_pipelines.meeg.files import require_mne
    from data_pipelines.meeg.prepare import ReadMeeg
    from data_pipelines.meeg.settings import Settings

    require_mne()
    in_tree = [file for file in files if bids.is_recording(file)]
    kind = "bids" if in_tree and path == root else "meeg"
    read = (bids.ReadBids if kind == "bids" else ReadMeeg)(Settings())
    looked = _look(root, in_tree if kind == "bids" else list(files), read)
    seconds = [row["seconds"] for row in looked.rows]
    n_files = len(in_tree if kind == "bids" else files)
    facts = {
        "layout": {"bids": "a BIDS tree", "meeg": "files"}[kind],
        "n_files": n_files,
        "n_readable": len(looked.rows),
        "n_read": looked.n_read,
        "hours": sum(seconds) / 3600,
        "shortest_s": min(seconds, default=0.0),
        "longest_s": max(seconds, default=0.0),
        "formats": _formats(looked.rows),
        "sensors": dict(sum((row["sensors"] for row in looked.rows), Counter())),
        "sensors_without_position": sum(row["unplaced"] for row in looked.rows),
        "line_frequencies": dict(Counter(row["line_freq"] for row in looked.rows)),
        "implausible_units": sum("give --unit" in what for _, what in looked.problems),
        "other_files": {k or "no suffix": n for k, n in sorted(others.items())},
    }
    if kind == "bids":
        facts["outside_the_tree"] = len(files) - len(in_tree)
    out = shlex.quote(path.stem if path.is_file() else path.resolve().name)
    command = f"neurofm prepare {kind} {shlex.quote(str(path))} --out {out}-records"
    problems = _shared(looked.problems)
    if n_lost := sum(row["line_freq"] == "unknown" for row in looked.rows):
        what = f"in {n_lost} files: give --line-freq, or --notch, to take out hum"
        problems.append(("line frequency unknown", what))
    return Findings(
        path=str(path),
        kind="recordings",
        facts=facts,
        problems=tuple(problems),
        next=(command,) if looked.rows else (),
    )


@dataclass
class _Looked:
    """What was found out about files, one by one."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    n_read: int = 0


def _look(root: Path, names: Sequence[str], read: "ReadMeeg") -> _Looked:
    from data_pipelines.sources import n_bytes
    from data_pipelines.unreadable import Unreadable

    out = _Looked()
    budget = _READ_BYTES
    for name in names:
        notes: list[str] = []
        size = n_bytes(root / name)
        try:
            row = _header(root, name, read, notes)
            if size <= budget:
                budget -= size
                notes = []  # the same sentences again, and those on the signals
                read(root, name, notes)
                out.n_read += 1
            out.rows.append(row)
        except Unreadable as error:
            out.problems.append((name, f"skipped: {error.reason}"))
            continue
        out.problems += [(name, n) for n in notes if not n.startswith(_ABOUT_LINE)]
    return out


def _header(
    root: Path, name: str, read: "ReadMeeg", notes: list[str]
) -> dict[str, Any]:
    """What a recording says of itself, and where its sensors are."""
    from data_pipelines.meeg import files
    from data_pipelines.meeg.sensors import choose, place

    opened = read.open(root, name, notes)
    info = opened.raw.info
    channels = choose(opened.raw, read.settings.picks, notes)
    sensors = place(opened.raw, channels, opened.given, read.settings, notes).sensors
    formats = files.FORMATS | files.FOLDERS
    return {
        "format": formats.get(files.suffix(name), "other"),
        "sfreq": float(info["sfreq"]),
        "seconds": opened.raw.n_times / info["sfreq"],
        "line_freq": f"{info['line_freq']:g} Hz" if info["line_freq"] else "unknown",
        "sensors": Counter(KINDS[kind] for kind in sensors.kind),
        "unplaced": len(channels) - len(sensors),
    }


def _formats(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        counts = tuple(row["sensors"].get(kind, 0) for kind in KINDS)
        key = (row["format"], row["sfreq"], *counts)
        groups.setdefault(key, []).append(row["seconds"])
    names = ("format", "sfreq", *(f"n_{kind}" for kind in KINDS), "n_files", "hours")
    return [
        dict(zip(names, (*key, len(found), sum(found) / 3600), strict=True))
        for key, found in sorted(groups.items())
    ]


def _shared(problems: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each sentence once, with the first file and the number of others."""
    files: dict[str, list[str]] = {}
    for file, what in problems:
        files.setdefault(what, []).append(file)
    return [
        (names[0] + (f" and {len(names) - 1} more" if names[1:] else ""), what)
        for what, names in files.items()
    ]


def store_facts(dataset: "Dataset") -> dict[str, Any]:
    """Sensors, line frequencies and filters of a store of EEG and MEG."""
    layouts = dataset.items["layout"].to_pylist()
    first = {layout: row for row, layout in reversed(list(enumerate(layouts)))}
    sensors = Counter()
    for layout, n_items in Counter(layouts).items():
        kinds = Counter(KINDS[kind] for kind in dataset.sensors(first[layout]).kind)
        sensors.update({kind: n * n_items for kind, n in kinds.items()})
    facts: dict[str, Any] = {
        "layouts": len(first),
        "fewest_sensors": int(np.min(dataset.n_chans)),
        "most_sensors": int(np.max(dataset.n_chans)),
        "sensors": dict(sensors),
        "frames": sorted({dataset.sensors(row).frame for row in first.values()}),
        "processing": dataset.info.processing,
    }
    if "line_freq" in dataset.items.column_names:
        lines = dataset.items["line_freq"].to_pylist()
        known = (f"{f:g} Hz" if f and not math.isnan(f) else "unknown" for f in lines)
        facts["line_frequencies"] = dict(Counter(known))
    return facts
