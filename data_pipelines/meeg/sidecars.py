"""What lies beside a recording in BIDS: JSON, channels, electrodes, events, subjects.

A sidecar applies to a recording when it lies in its folder or above, and its name has
no entity that the recording's name has not or has otherwise (inheritance principle).
"""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.label_columns import SETTABLE, Labels, settable
from data_pipelines.meeg.events import Event, event
from data_pipelines.meeg.files import Raw
from data_pipelines.meeg.settings import UNITS, spelt

_MISSING = ("", "n/a", "N/A", "nan")
# BIDS type -> MNE type, where the file may not know better.
_TYPES = {
    "EEG": "eeg",
    "EOG": "eog",
    "HEOG": "eog",
    "VEOG": "eog",
    "ECG": "ecg",
    "EMG": "emg",
    "TRIG": "stim",
    "GSR": "gsr",
    "RESP": "resp",
    "TEMP": "temperature",
    "REF": "misc",
    "MISC": "misc",
    "OTHER": "misc",
    "AUDIO": "misc",
    "EYEGAZE": "misc",
    "PUPIL": "misc",
    "SYSCLOCK": "misc",
    "PPG": "misc",
}
_RETYPED = {*_TYPES.values(), "bio"}
_DATATYPES = ("eeg", "meg", "ieeg")
_SPACE = "space"  # the one entity that electrodes have and recordings have not


class About(NamedTuple):
    """What the JSON sidecar tells; empty or None where it does not."""

    line_freq: float | None
    reference: str
    device: str


def entities(file: str) -> dict[str, str]:
    """Entities of a file's name, its `suffix`, and its folder as `datatype`."""
    parts = file.split("/")
    stem = parts[-1].split(".")[0]
    found = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    last = stem.split("_")[-1]
    if "-" not in last:
        found["suffix"] = last
    folder = next((p for p in reversed(parts[:-1]) if p in _DATATYPES), "")
    return found | ({"datatype": folder} if folder else {})


def _applying(root: Path, file: str, suffix: str, end: str) -> Iterator[Path]:
    """Sidecars of a recording, the farthest and most general first."""
    mine = entities(file)
    folders = [root]
    for part in file.split("/")[:-1]:
        folders.append(folders[-1] / part)
    for folder in folders:
        fitting = []
        for path in (*folder.glob(f"*_{suffix}.{end}"), folder / f"{suffix}.{end}"):
            if not path.is_file():
                continue
            theirs = entities(path.name)
            theirs.pop("suffix", None)
            theirs.pop(_SPACE, None)
            if all(mine.get(key) == value for key, value in theirs.items()):
                fitting.append((len(theirs), path.name, path))
        yield from (path for _, _, path in sorted(fitting))


def beside(root: Path, file: str, suffix: str, end: str) -> Path | None:
    """The sidecar that is nearest to a recording and says most of it in its name."""
    return next(reversed(list(_applying(root, file, suffix, end))), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def merged(root: Path, file: str, suffix: str) -> dict[str, Any]:
    """The JSON sidecars of a recording, the nearer ones over the farther."""
    told: dict[str, Any] = {}
    for path in _applying(root, file, suffix, "json"):
        told |= _json(path)
    return told


def about(root: Path, file: str) -> About:
    """What the JSON sidecars of a recording tell."""
    told = merged(root, file, entities(file).get("suffix", "eeg"))
    line = told.get("PowerLineFrequency")
    if not isinstance(line, int | float) or not 0 < line < 1000:
        line = None
    words = (told.get(k) for k in ("Manufacturer", "ManufacturersModelName"))
    device = " ".join(str(word) for word in words if word not in (None, *_MISSING))
    reference = told.get("EEGReference")
    return About(
        float(line) if line else None,
        "" if reference in (None, *_MISSING) else str(reference),
        device,
    )


def rows(path: Path) -> list[dict[str, str]]:
    """A tab-separated table; cells that are missing are empty."""
    with open(path, encoding="utf-8-sig", newline="", errors="replace") as opened:
        found = list(csv.DictReader(opened, delimiter="\t", restval=""))
    return [
        {
            str(k).strip(): "" if str(v).strip() in _MISSING else str(v).strip()
            for k, v in row.items()
            if k
        }
        for row in found
    ]


def apply_channels(raw: Raw, root: Path, file: str, notes: list[str]) -> None:
    """Types and bad channels of channels.tsv; what contradicts the file is told."""
    path = beside(root, file, "channels", "tsv")
    if path is None:
        return
    types = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    new: dict[str, str] = {}
    units: list[str] = []
    unknown: list[str] = []
    labels = getattr(raw, "_orig_units", None) or {}
    for row in rows(path):
        name = row.get("name", "")
        if name not in types:
            unknown.append(name)
            continue
        kind = _TYPES.get(row.get("type", "").upper())
        if kind and types[name] in _RETYPED and kind != types[name]:
            new[name] = kind
        if row.get("status", "").lower() == "bad" and name not in raw.info["bads"]:
            raw.info["bads"] = [*raw.info["bads"], name]
        told, label = spelt(row.get("units", "")), spelt(str(labels.get(name, "")))
        if told in UNITS and label in UNITS and told != label:
            units.append(f"{name} is in {label} in the file and {told} in the table")
    raw.set_channel_types(new, on_unit_change="ignore", verbose="error")
    where = path.relative_to(root).as_posix()
    if unknown:
        some = ", ".join(unknown[:8])
        notes.append(
            f"{where} names {len(unknown)} channels that are not there: {some}"
        )
    if units:
        notes.append(
            f"{where} contradicts the file, which is believed: {units[0]} "
            f"({len(units)} channels)"
        )


def coordinates(root: Path, file: str, electrodes: Path) -> dict[str, Any]:
    """coordsystem.json of a table of electrodes; empty where there is none."""
    space = entities(electrodes.name).get(_SPACE)
    found = list(_applying(root, file, "coordsystem", "json"))
    same = [path for path in found if entities(path.name).get(_SPACE) == space]
    return _json(same[-1]) if same else {}


def events(root: Path, file: str, notes: list[str]) -> list[Event] | None:
    """Events of events.tsv, or None where there is no such table.

    The name is `trial_type`, else `value`, else `event`; further columns are kept.
    """
    path = beside(root, file, "events", "tsv")
    if path is None:
        return None
    out: list[Event] = []
    n_lost = 0
    for row in rows(path):
        onset = _number(row.pop("onset", ""))
        duration = _number(row.pop("duration", "")) or 0.0
        if onset is None or onset < 0 or duration < 0:
            n_lost += 1
            continue
        name = row.pop("trial_type", "") or row.get("value", "") or "event"
        row.pop("item", None)
        out.append(event(onset, duration, name, **{k: v for k, v in row.items() if v}))
    if n_lost:
        notes.append(
            f"{n_lost} events of {path.name} have no onset inside it: left out"
        )
    return out


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def with_participants(labels: Labels, root: Path, files: Sequence[str]) -> Labels:
    """Labels with the columns of participants.tsv; those that are given stay."""
    path = root / "participants.tsv"
    if not path.is_file():
        return labels
    by_subject = {row.get("participant_id", ""): row for row in rows(path)}
    columns: dict[str, dict[str, str]] = {}
    for file in files:
        row = by_subject.get(f"sub-{entities(file).get('sub', '')}", {})
        for name, value in row.items():
            if value and name not in ("participant_id", *SETTABLE, *labels.columns):
                columns.setdefault(name, {})[file] = value
    more = settable(columns, path.name)
    return Labels(
        {**more.columns, **labels.columns},
        labels.events,
        (*labels.notes, *more.notes),
    )
