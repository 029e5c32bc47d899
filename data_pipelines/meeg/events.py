"""Interval events that recordings hold: annotations, and codes on trigger channels."""

from collections.abc import Sequence
from typing import Any

from data_pipelines.meeg.files import Raw, told

Event = dict[str, Any]  # onset, duration (s), trial_type, and texts

_TRIGGERS = ("STI101", "STI 014", "STI014", "UPPT001", "Status")
_BREAKS = ("boundary", "edge boundary", "edge")  # where pieces were joined


def annotations(raw: Raw) -> list[Event]:
    """Annotations, with seconds from the first sample.

    Those named BAD... keep their names; where pieces were joined is `BAD_boundary`.
    """
    rows = []
    for one in raw.annotations:
        name = str(one["description"])
        if name.lower() in _BREAKS:
            name = "BAD_boundary"
        elif name.lower().startswith("bad"):
            name = "BAD" + name[3:]
        duration = max(0.0, float(one["duration"]))
        onset = float(one["onset"]) - raw.first_time
        if onset < 0:  # it began before what is stored of the recording
            onset, duration = 0.0, duration + onset
        if duration >= 0:
            rows.append(event(onset, duration, name))
    return rows


def event(onset: float, duration: float, name: str, **more: str) -> Event:
    """One row of the table of events."""
    return {"onset": onset, "duration": duration, "trial_type": name, **more}


def is_bad(row: Event) -> bool:
    """Whether an event marks a stretch that training avoids."""
    return str(row["trial_type"]).upper().startswith("BAD")


def triggers(raw: Raw, notes: list[str]) -> list[Event]:
    """Codes of the trigger channel as events named by their number; told in a note."""
    import mne

    types = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    there = [name for name, kind in types.items() if kind == "stim"]
    if not there:
        return []
    channel = next((name for name in _TRIGGERS if name in there), there[0])
    found: list[str] = []
    with told(found):
        try:
            codes = mne.find_events(
                raw, channel, shortest_event=1, verbose="error", initial_event=False
            )
        except (ValueError, RuntimeError, TypeError) as error:
            notes.append(f"no events from {channel}: {' '.join(str(error).split())}")
            return []
    sfreq = raw.info["sfreq"]
    if len(codes):
        notes.append(f"{len(codes)} events from the codes of {channel}")
    return [
        event((sample - raw.first_samp) / sfreq, 0.0, str(code))
        for sample, _, code in codes.tolist()
    ]


def sorted_events(rows: Sequence[Event]) -> list[Event]:
    """In order of onset, duration and name."""
    return sorted(rows, key=lambda e: (e["onset"], e["duration"], e["trial_type"]))
