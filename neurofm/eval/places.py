"""Where examples come from: what a split must not put on two sides.

Axis letters: N examples.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped

from neurofm.data.meeg import BAD
from neurofm.data.records import Dataset


@dataclass(frozen=True, eq=False)
class Places:
    """Names and places of examples.

    Attributes:
      name: of each, unlike any other's: its recording, or `item@onset+duration`.
      item: name of its recording.
      timeline, sha256: of its recording; recordings that share one are parts or copies
        of one recording.
      span: beginning and end on the timeline, in seconds.
      extent: beginning and end of all of the timeline, in seconds.
      known: every name that the dataset has, of recordings and of their events.
    """

    name: Shaped[np.ndarray, " N"]
    item: Shaped[np.ndarray, " N"]
    timeline: Shaped[np.ndarray, " N"]
    sha256: Shaped[np.ndarray, " N"]
    span: Float[np.ndarray, "N 2"]
    extent: Float[np.ndarray, "N 2"]
    known: frozenset[str]


def places(
    dataset: Dataset,
    row: Int[np.ndarray, " N"],
    span: Float[np.ndarray, "N 2"] | None,
    name: Shaped[np.ndarray, " N"] | None,
) -> Places:
    """Of recordings by their rows, or of spans of them.

    Args:
      row: of the recording in the dataset.
      span: seconds from the start of the recording; None is all of it.
      name: of events, see `event_names`; None takes those of the recordings.
    """
    items = dataset.items
    told = {
        column: np.array(items[column].to_pylist(), str)
        for column in ("item", "timeline", "sha256")
    }
    onset = np.array([x or 0.0 for x in items["onset"].to_pylist()], float)
    end = onset + items["n_samples"].to_numpy() / dataset.info.sfreq
    _, whose = np.unique(told["timeline"], return_inverse=True)
    first, last = np.full(len(items), np.inf), np.full(len(items), -np.inf)
    np.minimum.at(first, whose, onset)
    np.maximum.at(last, whose, end)
    if span is None:
        span = np.stack([np.zeros(len(row)), (end - onset)[row]], 1)
    events = usable_events(dataset)
    return Places(
        told["item"][row] if name is None else name,
        told["item"][row],
        told["timeline"][row],
        told["sha256"][row],
        onset[row, None] + span,
        np.stack([first, last], 1)[whose[row]],
        frozenset(told["item"].tolist()) | frozenset(event_names(events).tolist()),
    )


def usable_events(dataset: Dataset) -> pa.Table:
    """Events that are no marks of bad stretches."""
    events = dataset.events
    if not len(events):
        return events
    kinds = [str(kind or "").upper() for kind in events["trial_type"].to_pylist()]
    return events.filter(pa.array([not kind.startswith(BAD) for kind in kinds]))


def event_names(events: pa.Table) -> Shaped[np.ndarray, " N"]:
    """`item@onset+duration`; of equal ones the later get `/2`, `/3` and so on."""
    if not len(events):
        return np.array([], str)
    columns: Sequence[list] = [
        events[name].to_pylist() for name in ("item", "onset", "duration")
    ]
    times: dict[str, int] = {}
    names = []
    for item, onset, duration in zip(*columns, strict=True):
        name = f"{item}@{onset:.6g}+{duration or 0:.6g}"
        times[name] = times.get(name, 0) + 1
        names.append(name if times[name] == 1 else f"{name}/{times[name]}")
    return np.array(names, str)


def joined(parts: Sequence[Places]) -> Places:
    """Places of several lots of examples, one after the other."""
    made = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Places)
        if field.name != "known"
    }
    return Places(**made, known=frozenset().union(*(part.known for part in parts)))
