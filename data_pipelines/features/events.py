"""The events table: what happened when, on the clock of a stimulus.

A tab-separated table with a row an event and the columns

    type       what it is: sound, video, word, array, or any other word
    onset      seconds on the clock of its timeline
    duration   seconds; may be empty where a file tells it
    timeline   the film, story or part of one that it belongs to
    subject, session, run    who saw it when, where that matters; may be left out
    text       of a word
    file       of a sound, a video or an array, relative to the table

Runs of fMRI name the same timeline. A stimulus that several people saw may be listed
once, or once for each of them in the same words.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from neurofm.errors import NeuroFMError

NEEDED = ("type", "onset", "timeline")
_MISSING = ("", "n/a")
_SEEN_BY = ("subject", "session", "run")


class Event(NamedTuple):
    """A row of the table; `line` is where it stands there, from 1."""

    type: str
    onset: float
    duration: float | None
    timeline: str
    text: str
    file: str
    seen_by: tuple[str, str, str]
    line: int


class Stretch(NamedTuple):
    """What features are made of at once: a file, or all words of a timeline.

    Attributes:
      timeline: it is part of.
      onset: of the first event, on the timeline's clock.
      events: one with a file, or any number without, in order.
    """

    timeline: str
    onset: float
    events: tuple[Event, ...]

    @property
    def name(self) -> str:
        """Unique among the stretches of one type of event."""
        return f"{self.timeline}@{self.onset}"


def read(table: Path) -> list[Event]:
    """The events of a table, in its order.

    Raises:
      NeuroFMError: it cannot be read, lacks a column, has times that are no numbers, or
        events of a timeline that are out of order.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NeuroFMError(
            f"the events table {table} cannot be read: {error}"
        ) from error
    if not rows:
        raise NeuroFMError(f"the events table {table} has no rows below its header")
    if missing := [name for name in NEEDED if name not in rows[0]]:
        raise NeuroFMError(
            f"the events table {table} has no column {missing[0]!r}; expected a "
            f"tab-separated table with {', '.join(NEEDED)}, duration, text and file"
        )
    events = [_event(table, line, row) for line, row in enumerate(rows, 2)]
    _refuse_disorder(table, events)
    return events


def _event(table: Path, line: int, row: dict[str, str]) -> Event:
    cells = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
    onset = _seconds(table, line, "onset", cells["onset"])
    if onset is None:
        raise NeuroFMError(f"{table}, line {line}: there is no onset; give seconds")
    duration = _seconds(table, line, "duration", cells.get("duration", ""))
    if duration is not None and duration < 0:
        raise NeuroFMError(
            f"{table}, line {line}: the duration {duration:g} s is below 0"
        )
    for name in ("type", "timeline"):
        if cells[name] in _MISSING:
            raise NeuroFMError(f"{table}, line {line}: there is no {name}")
    subject, session, run = (cells.get(name, "") for name in _SEEN_BY)
    text, file = (cells.get(name, "") for name in ("text", "file"))
    return Event(
        cells["type"],
        onset,
        duration,
        cells["timeline"],
        text if text != "n/a" else "",
        file if file != "n/a" else "",
        (subject, session, run),
        line,
    )


def _seconds(table: Path, line: int, name: str, cell: str) -> float | None:
    if cell in _MISSING:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise NeuroFMError(
            f"{table}, line {line}: the {name} {cell!r} is no number of seconds"
        )
    return value


def _refuse_disorder(table: Path, events: Sequence[Event]) -> None:
    last: dict[tuple, Event] = {}
    for event in events:
        key = (event.type, event.timeline, event.seen_by)
        before = last.get(key)
        if before and event.onset < before.onset:
            raise NeuroFMError(
                f"{table}: the {event.type} of line {event.line} begins at "
                f"{event.onset:g} s of {event.timeline!r}, before that of line "
                f"{before.line} ({before.onset:g} s): sort each timeline's events by "
                "their onset"
            )
        last[key] = event


def stretches(table: Path, events: Sequence[Event], kind: str) -> list[Stretch]:
    """What there is of one type of event, each timeline's once.

    Raises:
      NeuroFMError: there is none; or people saw other events on one timeline.
    """
    by_viewer: dict[str, dict[tuple, list[Event]]] = {}
    for event in events:
        if event.type == kind:
            viewers = by_viewer.setdefault(event.timeline, {})
            viewers.setdefault(event.seen_by, []).append(event)
    if not by_viewer:
        known = ", ".join(sorted({event.type for event in events}))
        raise NeuroFMError(
            f"{table} has no events of type {kind!r}, which the extractor takes; there "
            f"are {known}"
        )
    out: list[Stretch] = []
    for timeline, viewers in by_viewer.items():
        first, *others = viewers.values()
        for other in others:
            _refuse_other(table, timeline, first, other)
        if any(event.file for event in first):
            out += [Stretch(timeline, e.onset, (e,)) for e in first]
        else:
            out.append(Stretch(timeline, first[0].onset, tuple(first)))
    names = [stretch.name for stretch in out]
    if twice := [name for name in names if names.count(name) > 1]:
        raise NeuroFMError(
            f"{table}: two {kind} events begin at once, at {twice[0]}: give one"
        )
    return out


def _refuse_other(
    table: Path, timeline: str, first: Sequence[Event], other: Sequence[Event]
) -> None:
    said = [[e[1:6] for e in some] for some in (first, other)]
    if said[0] != said[1]:
        where = next(
            (b.line for a, b in zip(first, other, strict=False) if a[1:6] != b[1:6]),
            other[-1].line,
        )
        raise NeuroFMError(
            f"{table}: {timeline!r} has other events for {_who(other)} than for "
            f"{_who(first)} (line {where}): a timeline is one stimulus; give each its "
            "own name"
        )


def _who(events: Sequence[Event]) -> str:
    return "/".join(word for word in events[0].seen_by if word) or "nobody"
