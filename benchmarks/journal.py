"""Rows of measurements in a file of JSON lines, each made once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def row(journal: Path, key: Row, make: Callable[[], Row]) -> Row:
    """The row that has `key`; where there is none, `make` gives the rest of it."""
    text = journal.read_text() if journal.is_file() else ""
    for found in map(json.loads, text.splitlines()):
        if found.items() >= key.items():
            return found
    found = key | make()
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a") as file:
        file.write(json.dumps(found) + "\n")
    return found
