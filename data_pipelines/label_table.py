"""Labels from a tab-separated table: one row a file, or one row an interval."""

import math
import os
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.label_columns import Labels, counted, settable
from neurofm.errors import NeuroFMError

_ONSETS = ("onset_s", "onset")
_ENDS = ("offset_s", "duration")
_MISSING = ("", "n/a")

Placed = Mapping[str, list[tuple[int, dict[str, str]]]]  # file -> (line, row)


def from_table(
    table: Path, src: Path | str, files: Iterable[str], only: str | None = None
) -> Labels:
    """Labels from a tab-separated table with a column `file`.

    `file` is relative to `src` or to the table. With a column `onset_s` (or BIDS
    `onset`) and `offset_s` or `duration`, in seconds, each row is an interval, named by
    its column `trial_type` or `label`; otherwise a file has one row. Empty fields and
    `n/a` are missing values. Where the table has no column `file`, all rows are of
    `only`, if it is given.

    Raises:
      NeuroFMError: the table cannot be read, matches no file, or contradicts itself.
    """
    rows = _rows(table, only)
    names = list(rows[0][1])
    onset = next((n for n in _ONSETS if n in names), None)
    end = next((n for n in _ENDS if n in names), None)
    if onset and not end:
        raise NeuroFMError(
            f"{table} has a column {onset!r} but neither 'offset_s' nor 'duration': "
            "add one, in seconds, or rename it if it does not mark intervals"
        )
    files = list(files)
    known = set(files)
    placed: dict[str, list[tuple[int, dict[str, str]]]] = {}
    unknown = []
    for line, row in rows:
        file = _resolve(row.pop("file", only or ""), table, src, known)
        if file is None:
            unknown.append(f"line {line}")
        else:
            placed.setdefault(file, []).append((line, row))
    if not placed:
        raise NeuroFMError(
            f"none of the {len(rows)} rows of {table} names a sound file in {src}; "
            f"'file' must be relative to {src} or to the table"
        )
    where = table.name
    notes = counted(where, unknown, len(rows), "rows name no sound file that is there")
    bare = [file for file in files if file not in placed]
    notes += counted(where, bare, len(files), "files have no row, and so no labels")
    if onset and end:
        labels = _intervals(table, placed, onset, end)
    else:
        labels = _one_row_a_file(table, placed)
    return Labels(labels.columns, labels.events, (*notes, *labels.notes))


def from_words(table: Path, src: Path | str, files: Iterable[str]) -> Labels:
    """Words as intervals, from a table as `from_table` takes it.

    Where there is one recording, the table needs no column `file`. Words whose row does
    not tell a `trial_type` or `label` have `word`.

    Raises:
      NeuroFMError: as `from_table`; or the table has no onsets.
    """
    files = list(files)
    found = from_table(table, src, files, only=files[0] if len(files) == 1 else None)
    if not found.events:
        raise NeuroFMError(
            f"the word table {table} has no column 'onset': expected onset, duration, "
            "word and any others, in seconds"
        )
    events = {
        file: [row | {"trial_type": row["trial_type"] or "word"} for row in rows]
        for file, rows in found.events.items()
    }
    return Labels(found.columns, events, found.notes)


def _rows(table: Path, only: str | None) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a table with a header; `only` may stand for `file`."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise NeuroFMError(
            f"the label table {table} cannot be read: {error}"
        ) from error
    lines = [[cell.strip() for cell in line.split("\t")] for line in text.split("\n")]
    names = lines[0]
    if "file" not in names and only is None:
        raise NeuroFMError(
            f"{table} has no column 'file' (its columns are {names}); expected a "
            "tab-separated table with a header"
        )
    if len(set(names)) < len(names) or "" in names:
        raise NeuroFMError(f"{table} has an unnamed or repeated column: {names}")
    rows = []
    for line, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        if len(cells) != len(names):
            raise NeuroFMError(
                f"line {line} of {table} has {len(cells)} fields, the header has "
                f"{len(names)}"
            )
        rows.append((line, dict(zip(names, cells, strict=True))))
    if not rows:
        raise NeuroFMError(f"{table} has a header and no rows")
    return rows


def _resolve(name: str, table: Path, src: Path | str, known: set[str]) -> str | None:
    beside = os.path.relpath(os.path.join(table.parent, name), src)
    for path in (posixpath.normpath(name), Path(beside).as_posix()):
        if path in known:
            return path
    return None


def _one_row_a_file(table: Path, placed: Placed) -> Labels:
    columns: dict[str, dict[str, str]] = {}
    repeated = []
    for file, rows in placed.items():
        first_line, row = rows[0]
        for line, other in rows[1:]:
            if other != row:
                raise NeuroFMError(
                    f"{table} describes {file} twice and differently (lines "
                    f"{first_line} and {line}); keep one row a file, or mark intervals "
                    "with 'onset_s' and 'offset_s'"
                )
            repeated.append(f"line {line}")
        for name, value in row.items():
            columns.setdefault(name, {})
            if value not in _MISSING:
                columns[name][file] = value
    total = sum(map(len, placed.values()))
    notes = counted(table.name, repeated, total, "rows repeat another one")
    labels = settable(columns, table.name)
    return Labels(labels.columns, notes=(*notes, *labels.notes))


def _intervals(table: Path, placed: Placed, onset: str, end: str) -> Labels:
    events: dict[str, list[dict[str, Any]]] = {}
    split: dict[str, str] = {}
    repeated = []
    for file, rows in placed.items():
        seen: set[tuple[str, ...]] = set()
        found = []
        for line, row in rows:
            if tuple(row.values()) in seen:
                repeated.append(f"line {line}")
                continue
            seen.add(tuple(row.values()))
            event = _event(row, onset, end, line, table)
            part = event.pop("split", "")
            if split.setdefault(file, part) != part:
                raise NeuroFMError(
                    f"{table} puts {file} into two splits (line {line}); a split holds "
                    "whole recordings"
                )
            found.append(event)
        events[file] = sorted(found, key=lambda e: (e["onset"], e["duration"]))
    total = sum(map(len, placed.values()))
    notes = counted(table.name, repeated, total, "rows repeat another one")
    return Labels({"split": split} if any(split.values()) else {}, events, notes)


def _event(
    row: Mapping[str, str], onset_name: str, end_name: str, line: int, table: Path
) -> dict[str, Any]:
    row = {name: value for name, value in row.items() if value not in _MISSING}
    row.pop("item", None)
    onset = _seconds(row.pop(onset_name, ""), onset_name, line, table)
    end = _seconds(row.pop(end_name, ""), end_name, line, table)
    duration = end - onset if end_name == "offset_s" else end
    if onset < 0 or duration < 0:
        raise NeuroFMError(
            f"line {line} of {table} marks an interval from {onset:g} s that lasts "
            f"{duration:g} s; expected neither to be negative"
        )
    name = "trial_type" if "trial_type" in row else "label"
    trial_type = row.pop(name, None)
    return {**row, "onset": onset, "duration": duration, "trial_type": trial_type}


def _seconds(text: str, column: str, line: int, table: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise NeuroFMError(
            f"line {line} of {table} has {column} = {text!r}; expected seconds"
        )
    return value
