"""Where runs of fMRI lie on the clocks of stimuli, as a table of events tells."""

from collections.abc import Mapping
from pathlib import Path

from data_pipelines.features import events as tables
from data_pipelines.features.events import Event
from data_pipelines.labels import Labels
from data_pipelines.sources import Source
from neurofm.errors import NeuroFMError

FMRI = "fmri"  # the type of event that is a run


def by_file(table: Path, found: Source) -> dict[str, Event]:
    """The event of each run; `file` is relative to the table or to the runs' folder.

    Raises:
      NeuroFMError: the table is wrong, a run is in it twice or not at all.
    """
    events = [e for e in tables.read(table) if e.type == FMRI]
    root = Path(found.root)
    names = {(root / file).resolve(): file for file in found.files}
    out: dict[str, Event] = {}
    for event in events:
        here = [(folder / event.file).resolve() for folder in (table.parent, root)]
        file = next((names[path] for path in here if path in names), None)
        if file is None:
            continue
        if file in out:
            raise NeuroFMError(
                f"{table} places {file} twice, in the lines {out[file].line} and "
                f"{event.line}: leave one"
            )
        out[file] = event
    if missing := [file for file in found.files if file not in out]:
        raise NeuroFMError(
            f"{table} has no row of type fmri for {len(missing)} of {len(found.files)} "
            f"runs (the first is {missing[0]}): add one each, with its file"
        )
    return out


def with_events(known: Labels, placed: Mapping[str, Event]) -> Labels:
    """Labels with what the events tell of runs; a label that was given goes before."""
    columns = {"timeline": {file: event.timeline for file, event in placed.items()}}
    for place, name in enumerate(("subject", "session", "run")):
        columns[name] = {f: e.seen_by[place] for f, e in placed.items()}
        columns[name] = {f: word for f, word in columns[name].items() if word}
    merged = {
        name: {**told, **known.columns.get(name, {})} for name, told in columns.items()
    }
    merged = {name: told for name, told in merged.items() if told}
    return Labels({**known.columns, **merged}, known.events, known.notes)
