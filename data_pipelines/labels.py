"""Labels of recordings, from a table, the file names or the folders they lie in.

Files are named by their path relative to the source folder, with forward slashes.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.label_columns import (
    Labels,
    Note,
    attach,
    counted,
    settable,
    with_events,
)
from data_pipelines.label_table import from_table, from_words
from neurofm.data.layout import SPLITS
from neurofm.errors import NeuroFMError

__all__ = ["Labels", "attach", "from_pattern", "from_subdirs", "from_table", "gather"]
__all__ += ["from_words", "with_events"]


def gather(
    src: Path | str,
    files: Sequence[str],
    table: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    words: str | os.PathLike | None = None,
) -> Labels:
    """Labels from every source that is given; a column comes from one of them only.

    Args:
      src: the folder that `files` are relative to, or its address.
      files: all files there are.
      table: see `from_table`.
      pattern: see `from_pattern`.
      subdirs: see `from_subdirs`.
      words: see `from_words`.
    """
    sources = []
    if table is not None:
        sources.append((f"{table}", from_table(Path(table), src, files)))
    if pattern is not None:
        sources.append((f"pattern {pattern!r}", from_pattern(pattern, files)))
    if subdirs is not None:
        sources.append((f"sub-folders {subdirs!r}", from_subdirs(subdirs, files)))
    if words is not None:
        sources.append((f"{words}", from_words(Path(words), src, files)))
    columns: dict[str, dict[str, str]] = {}
    origin: dict[str, str] = {}
    events: dict[str, list[dict[str, Any]]] = {}
    notes: list[Note] = []
    for name, labels in sources:
        for column in labels.columns:
            if column in columns:
                raise NeuroFMError(
                    f"the column {column!r} is given by {origin[column]} and by "
                    f"{name}; rename one of them"
                )
            origin[column] = name
        columns |= labels.columns
        events = with_events(Labels(events=events), labels.events).events
        notes += labels.notes
    _check_split(columns.get("split", {}))
    for column, values in columns.items():
        if column != "split" and {"test"} < set(values.values()) <= set(SPLITS):
            what = (
                f"the column {column!r} looks like a split, but only one named 'split' "
                "keeps recordings out of pretraining: rename it, or pretrain with "
                f"data.hold_out={column}=test"
            )
            notes.append((origin[column], what))
    return Labels(columns, events, tuple(notes))


def _check_split(split: Mapping[str, str]) -> None:
    for file, value in split.items():
        if value not in SPLITS:
            raise NeuroFMError(
                f"the split of {file} is {value!r}; expected train, valid or test, or "
                "nothing: rename the values, or the column if it means something else"
            )


def from_pattern(pattern: str, files: Iterable[str]) -> Labels:
    """Columns from the named groups of a regular expression searched in each path."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise NeuroFMError(
            f"the pattern {pattern!r} is no regular expression: {error}"
        ) from error
    if not regex.groupindex:
        raise NeuroFMError(
            f"the pattern {pattern!r} has no named group; write for example "
            r"'(?P<speaker>[a-z]+)_(?P<take>\d+)'"
        )
    columns: dict[str, dict[str, str]] = {name: {} for name in regex.groupindex}
    unmatched = []
    files = list(files)
    for file in files:
        match = regex.search(file)
        if not match:
            unmatched.append(file)
            continue
        for name, value in match.groupdict().items():
            if value is not None:
                columns[name][file] = value
    if len(unmatched) == len(files):
        raise NeuroFMError(
            f"the pattern {pattern!r} matches none of the {len(files)} files; the "
            f"first is {files[0]!r}"
        )
    notes = counted("pattern", unmatched, len(files), "do not match and have no labels")
    labels = settable(columns, "pattern")
    return Labels(labels.columns, notes=(*notes, *labels.notes))


def from_subdirs(names: str, files: Iterable[str]) -> Labels:
    """Columns from the folders a file lies in, the outermost first.

    Args:
      names: one column name a level, joined by slashes: `class` or `speaker/chapter`.
      files: paths relative to the source folder.
    """
    columns: dict[str, dict[str, str]] = {name: {} for name in names.split("/")}
    if "" in columns or len(columns) != names.count("/") + 1:
        raise NeuroFMError(
            f"sub-folder names {names!r}: expected one column name a level, such as "
            "'class' or 'speaker/chapter'"
        )
    shallow = []
    files = list(files)
    for file in files:
        folders = file.split("/")[:-1]
        if len(folders) < len(columns):
            shallow.append(file)
        for name, folder in zip(columns, folders, strict=False):
            columns[name][file] = folder
    if len(shallow) == len(files):
        raise NeuroFMError(
            f"no file lies {len(columns)} sub-folder(s) deep, as {names!r} needs; the "
            f"first is {files[0]!r}"
        )
    notes = counted("sub-folders", shallow, len(files), "lie in too few sub-folders")
    labels = settable(columns, "sub-folders")
    return Labels(labels.columns, notes=(*notes, *labels.notes))
