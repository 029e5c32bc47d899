"""Labels of recordings as columns and events of a dataset.

Files are named by their path relative to the source folder, with forward slashes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from neurofm.data.layout import EVENTS, MANIFEST

# Manifest columns that a user may set; the others are measured or mean the file itself.
SETTABLE = ("timeline", "subject", "session", "run", "task", "split")
_INT = re.compile(r"-?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?")

Note = tuple[str, str]  # where, and what was left out or changed there


@dataclass(frozen=True)
class Labels:
    """What is known about files.

    Attributes:
      columns: column -> file -> text; a file may be missing.
      events: file -> its intervals, in order of onset: onset and duration in seconds,
        trial_type and other columns as text.
      notes: what was left out, or changed.
    """

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


def settable(columns: Mapping[str, dict[str, str]], where: str) -> Labels:
    """The columns a user may set; a note names those that are measured instead."""
    taken = sorted((set(columns) & set(MANIFEST.names)) - set(SETTABLE))
    kept = {name: values for name, values in columns.items() if name not in taken}
    what = f"left out, as these are measured here: {', '.join(taken)}"
    return Labels(kept, notes=((where, what),) if taken else ())


def with_events(labels: Labels, more: Mapping[str, list[dict[str, Any]]]) -> Labels:
    """Labels with further events of files, such as those that recordings hold."""
    events = dict(labels.events)
    for file, found in more.items():
        both = [*events.get(file, ()), *found]
        events[file] = sorted(both, key=lambda e: (e["onset"], e["duration"]))
    return Labels(labels.columns, events, labels.notes)


def counted(
    where: str, names: Sequence[str], total: int, what: str
) -> tuple[Note, ...]:
    """One note with the count and the first of `names`; none where there are none."""
    if not names:
        return ()
    return ((where, f"{len(names)} of {total} {what} (first: {names[0]})"),)


def attach(
    manifest: pa.Table, labels: Labels
) -> tuple[pa.Table, pa.Table, tuple[Note, ...]]:
    """Add labels to a manifest whose column `file` names the files.

    Returns:
      The manifest with the label columns, the table of events, and notes on intervals
      that do not lie inside their recording: those that begin past its end are left
      out, those that end past it are cut there; and on columns that take the place of
      others.
    """
    files = manifest["file"].to_pylist()
    replaced = [n for n in labels.columns if n in manifest.column_names]
    replaced = [n for n in replaced if n not in SETTABLE]
    manifest = manifest.drop_columns(replaced)
    for name, values in labels.columns.items():
        if name in SETTABLE:
            where = manifest.schema.get_field_index(name)
            old = zip(files, manifest[name].to_pylist(), strict=True)
            cells = pa.array([values.get(f, v) for f, v in old], pa.string())
            manifest = manifest.set_column(where, name, cells)
        else:
            cells = typed([values.get(file) for file in files])
            manifest = manifest.append_column(name, cells)
    events, notes = _events(manifest, labels)
    told = "takes the place of what the recordings tell under that name"
    return manifest, events, (*notes, *((f"column {n}", told) for n in replaced))


def typed(values: Sequence[str | None]) -> pa.Array:
    """Texts as whole numbers or floats where all of them are plain numbers.

    `007` is a name and keeps its column text. None stays missing.
    """
    present = [value for value in values if value is not None]
    if present and all(map(_INT.fullmatch, present)):
        return pa.array([None if v is None else int(v) for v in values], pa.int64())
    if present and all(map(_FLOAT.fullmatch, present)):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array(values, pa.string())


def _events(manifest: pa.Table, labels: Labels) -> tuple[pa.Table, tuple[Note, ...]]:
    recordings: dict[str, tuple[str, float]] = {}
    for row in manifest.select(["file", "item", "duration"]).to_pylist():
        _, before = recordings.get(row["file"], ("", 0.0))
        recordings[row["file"]] = row["item"], before + row["duration"]
    rows, outside, cut = [], [], []
    for file, (item, duration) in recordings.items():
        for event in labels.events.get(file, ()):
            if event["onset"] >= duration:
                outside.append(file)
                continue
            rest = duration - event["onset"]
            # Times in tables are rounded: a millisecond past the end is not news.
            if event["duration"] > rest + 1e-3:
                cut.append(file)
            inside = min(event["duration"], rest)
            rows.append({"item": item, **event, "duration": inside})
    total = sum(map(len, labels.events.values()))
    notes = counted("intervals", outside, total, "begin past the end and are left out")
    notes += counted("intervals", cut, total, "end past the end and are cut there")
    names = dict.fromkeys(EVENTS.names) | dict.fromkeys(n for row in rows for n in row)
    table = {}
    for name in names:
        values = [row.get(name) for row in rows]
        fixed = EVENTS.field(name).type if name in EVENTS.names else None
        table[name] = pa.array(values, fixed) if fixed else typed(values)
    return pa.table(table), notes
