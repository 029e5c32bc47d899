"""What can be a labelled example: recordings, or events in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.eval.places import event_names, usable_events
from neurofm.registry import suggest

if TYPE_CHECKING:
    from neurofm.config import Data


class Candidate(NamedTuple):
    """A recording or an event: its samples, its seconds, its name and its label."""

    item: int
    start: int
    stop: int
    span: tuple[float, float]
    name: str
    label: tuple[Any, ...]


def candidates(dataset: Dataset, data: Data) -> list[Candidate]:
    """Every recording or event, in order.

    Raises:
      NeuroFMError: a target that is no column, or `around` of whole recordings.
    """
    lengths = dataset.items["n_samples"].to_pylist()
    names = [name.strip() for name in data.target.split(",")]
    if set(names) <= set(dataset.items.column_names):
        if data.around is not None:
            raise NeuroFMError(
                f"data.around is given, but data.target={data.target} is a column of "
                "whole recordings: leave it out, or name a column of the events"
            )
        labels = zip(*(dataset.items[name].to_pylist() for name in names), strict=True)
        made = zip(dataset.items["item"].to_pylist(), lengths, labels, strict=True)
        sfreq = dataset.info.sfreq
        return [
            Candidate(item, 0, n, (0.0, n / sfreq), name, label)
            for item, (name, n, label) in enumerate(made)
        ]
    events = dataset.events.column_names if len(dataset.events) else []
    known = [*dataset.items.column_names, *events]
    if unknown := [name for name in names if name not in known]:
        raise NeuroFMError(
            f"data.target {unknown[0]!r} is no column of {dataset.path}: "
            f"{suggest(unknown[0], known)}"
        )
    if not set(names) <= set(events):
        raise NeuroFMError(
            f"data.target {data.target!r} names columns of recordings and of events "
            "together: take those of one kind"
        )
    row = {name: i for i, name in enumerate(dataset.items["item"].to_pylist())}
    usable = usable_events(dataset)
    columns = [
        usable[name].to_pylist() for name in ("item", "onset", "duration", *names)
    ]
    own, out = event_names(usable).tolist(), []
    for event, name, onset, duration, *label in zip(own, *columns, strict=True):
        low, high = data.around or (0.0, duration or 0.0)
        sfreq, n = dataset.info.sfreq, lengths[row[name]]
        start = round((onset + low) * sfreq)
        stop = start + round((high - low) * sfreq)
        # One that begins before its recording or ends after it is too short.
        whole = start >= 0 and stop <= n
        span = (onset + low, onset + high)
        stop = stop if whole else 0
        out.append(Candidate(row[name], max(start, 0), stop, span, event, tuple(label)))
    return out
