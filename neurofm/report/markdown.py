"""The tables of a report as Markdown, to be put into a paper's notes or an issue."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neurofm.report.pairs import CAPTION, COLUMNS


def tables(
    names: Sequence[str],
    scores: Sequence[Mapping[str, Any]],
    beside: Sequence[tuple[str, Sequence[str]]],
    about: Sequence[tuple[str, Iterable[tuple[str, Sequence[str]]]]],
) -> str:
    """Scores, then tables of what else is known, a column a folder.

    Args:
      names: of the folders.
      scores: see `report.tables.score_tables`.
      beside: see `report.pairs.pairs`.
      about: caption, and rows of a name and a cell a folder.
    """
    parts = []
    for table in scores:
        over = f", [95% interval over {table['over']}]" if table["over"] else ""
        caption = f"{table['caption']}: mean ± standard deviation over folds{over}"
        parts.append(_table(caption, names, table["rows"].items()))
    if beside:
        parts.append(_table(CAPTION, COLUMNS, beside))
    parts += [_table(caption, names, rows) for caption, rows in about if rows]
    return "\n".join(parts)


def _table(
    caption: str, names: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]
) -> str:
    lines = [
        f"{_text(caption)}\n",
        _row(["", *names]),
        _row(["---"] * (1 + len(names))),
    ]
    lines += [_row([name, *cells]) for name, cells in rows]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_text, cells)) + " |"


def _text(words: str) -> str:
    """In one line, without what Markdown or HTML would take for markup."""
    line = " ".join(words.split())
    for mark in "\\`*_|":
        line = line.replace(mark, f"\\{mark}")
    return line.replace("&", "&amp;").replace("<", "&lt;")
