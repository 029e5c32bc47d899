"""What a run says of itself: rows in `metrics.jsonl`, and lines on stderr.

A row is one JSON object a line, with `step` and numbers under names with slashes.
Numbers that are not finite, for which JSON has no word, are the strings "NaN",
"Infinity" and "-Infinity": every JSON reader takes the file, and `float()` takes them.
"""

import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from numbers import Integral
from os import PathLike
from typing import TYPE_CHECKING, Any, TextIO

from neurofm.files import Journal
from neurofm.run.clock import duration
from neurofm.stores import Place, place

if TYPE_CHECKING:
    from rich.progress import TaskID

Row = dict[str, float]

log = logging.getLogger(__name__)


class MetricsLog:
    """Appends rows to a JSONL file, each of them safe on disk before the next.

    `mirrors` are called with every row that was written.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = place(path)
        self.journal = Journal(path)
        self.mirrors: Sequence[Callable[[dict[str, Any]], None]] = ()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; it holds `step`, and numbers of any kind."""
        plain = {"step": int(row["step"])}
        plain |= {name: _plain(x) for name, x in row.items() if name != "step"}
        self.journal.write_line(json.dumps(plain, allow_nan=False))
        for mirror in self.mirrors:
            mirror(plain)

    def cut_back(self, step: int) -> None:
        """Drop the rows of steps after `step`, and what a kill left half written.

        Args:
          step: completed steps of the state that the run goes on from; -1 for a run
            that begins anew.
        """
        if not self.path.exists():
            return
        lines = _lines(self.path)
        rows = [(line, _parsed(line)) for line in lines]
        kept = [line for line, row in rows if row is not None and row["step"] <= step]
        if len(kept) == len(lines):
            return
        broken = sum(row is None for _, row in rows)
        self.journal.replace("".join(kept))
        log.info(
            "%s: cut back to step %d, dropping %d later rows and %d broken lines",
            self.path.name,
            max(step, 0),
            len(lines) - len(kept) - broken,
            broken,
        )


def read_rows(path: str | PathLike[str]) -> list[Row]:
    """All whole rows of a `metrics.jsonl`, numbers that are not finite included.

    A line that a kill left half written is left out with a word.
    """
    path = place(path)
    if not path.exists():
        return []
    lines = _lines(path)
    rows = [row for line in lines if (row := _parsed(line)) is not None]
    if len(rows) < len(lines):
        log.warning("%s: left out %d broken lines", path, len(lines) - len(rows))
    return rows


def _lines(path: Place) -> list[str]:
    return path.read_bytes().decode(errors="replace").splitlines(keepends=True)


def _plain(x: Any) -> int | float | str:
    if isinstance(x, Integral):
        return int(x)
    x = float(x)
    if math.isfinite(x):
        return x
    return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


def _parsed(line: str) -> Row | None:
    """The row of a line, or None where it is not whole."""
    if not line.endswith("\n"):
        return None
    try:
        row = json.loads(line)
        return {k: float(v) for k, v in row.items()} | {"step": int(row["step"])}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


class Progress:
    """Shows a run's rows on stderr: one line kept up on a terminal, else plain ones.

    Stdout stays free for `--json`.
    """

    def __init__(self, steps: int, stream: TextIO | None = None):
        self.steps = steps
        self.stream = stream or sys.stderr
        self._live = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Progress":
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import Progress as Live
            from rich.progress import SpinnerColumn, TextColumn
            from rich.table import Column

            wrapped = Column(no_wrap=False)
            self._live = Live(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False, table_column=wrapped),
                console=Console(file=self.stream),
            )
            self._task = self._live.add_task(f"step 0/{self.steps}", total=self.steps)
            self._live.start()
            self._log_to(sys.stderr)  # which is now another, to write above it
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._log_to(self.stream)

    def _log_to(self, stream: Any) -> None:
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(stream)

    def show(self, step: int, row: Row) -> None:
        """Show a row of the log: training, held-out, or both."""
        line = describe(step, self.steps, row)
        if self._live is None or self._task is None:
            print(line, file=self.stream, flush=True)
        elif "train/loss" in row:
            self._live.update(self._task, completed=step, description=line)
        else:
            self._live.console.print(line, markup=False, highlight=False)


def describe(step: int, steps: int, row: Row) -> str:
    """One line: step, losses, ETA, rates, share of time spent waiting for data."""
    parts = [f"step {step}/{steps}"]
    for name in ("train/loss", "eval/loss"):
        if name in row:
            words = "held-out loss" if name == "eval/loss" else "loss"
            parts.append(f"{words} {row[name]:.4f}")
    if "time/pace_s" in row:
        parts.append(f"ETA {duration((steps - step) * row['time/pace_s'])}")
    for name, words in (
        ("throughput/examples_per_s", "{:,.1f} examples/s"),
        ("throughput/hours_per_s", "{:.3g} h of signal/s"),
        ("time/data_wait", "data wait {:.0%}"),
    ):
        if name in row:
            parts.append(words.format(row[name]))
    return "  ".join(parts)
