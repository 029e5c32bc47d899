"""BIDS trees of EEG and MEG into record stores: `neurofm prepare bids`.

Source: the Brain Imaging Data Structure 1.9, EEG, MEG and common principles.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import labels as labelling
from data_pipelines import shards
from data_pipelines.meeg import files, montages, sidecars
from data_pipelines.meeg.files import Raw
from data_pipelines.meeg.prepare import (
    Opened,
    ReadMeeg,
    contract,
    kinds,
    measure,
)
from data_pipelines.meeg.sensors import Given, given_by
from data_pipelines.meeg.settings import Settings
from data_pipelines.shards import Progress
from data_pipelines.sources import Source, settings_of, source
from data_pipelines.summary import Summary
from neurofm.errors import NeuroFMError

# What a user calls an entity, and BIDS in file names.
ENTITIES = {"subject": "sub", "session": "ses", "task": "task", "run": "run"}
ENTITIES |= {"acquisition": "acq", "processing": "proc"}
DATATYPES = ("eeg", "meg")

_ELSEWHERE = ("derivatives", "sourcedata", "code", "stimuli")
_CALIBRATION = re.compile(r"_acq-(crosstalk|calibration)_meg\.")


class ReadBids(ReadMeeg):
    """Makes an item of a recording and its sidecars; see `shard_job.Reader`."""

    def open(self, root: Path, file: str, notes: list[str]) -> Opened:
        raw = files.open_raw(root / file, notes)
        about = sidecars.about(root, file)
        if about.line_freq:
            _tell_other_line(raw, about.line_freq, notes)
            raw.info["line_freq"] = about.line_freq
        sidecars.apply_channels(raw, root, file, notes)
        given = self.given or _electrodes(root, file, notes)
        events = sidecars.events(root, file, notes)
        found = sidecars.entities(file)
        columns = ("subject", "session", "run", "task")
        meta = {column: found.get(ENTITIES[column], "") for column in columns}
        told = {"reference": about.reference, "device": about.device}
        meta |= {name: text for name, text in told.items() if text}
        return Opened(raw, self.settings, given, events, meta)


def prepare(
    src: str | os.PathLike,
    out: str | os.PathLike,
    *,
    settings: Settings | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
    labels: str | os.PathLike | None = None,
    pattern: str | None = None,
    subdirs: str | None = None,
    licence: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Turn the EEG and MEG of a BIDS tree into a dataset, an item a recording.

    Subject, session, run and task are columns, and so is what participants.tsv tells of
    a subject.

    Args:
      src: root of the tree, or a folder in it.
      out: the dataset to make.
      settings: as in `meeg.prepare`.
      only: names of `ENTITIES` or `datatype` -> values to keep, with or without `sub-`.
      labels, pattern, subdirs, licence, workers, progress: as in `audio.prepare`.

    Raises:
      NeuroFMError: as `meeg.prepare`; or the filter leaves nothing.
    """
    settings = settings or Settings()
    found = find(Path(src), only or {})
    root = Path(found.root)  # never in a store
    known = labelling.gather(root, found.files, labels, pattern, subdirs)
    known = sidecars.with_participants(known, root, found.files)
    chosen = {name: sorted(values) for name, values in (only or {}).items()}
    words = settings.to_json() | {
        "reader": "bids",
        "only": chosen,
    }
    prepared = settings_of(found, words, labels, pattern, subdirs, licence)
    return shards.prepare(
        Path(out),
        found,
        contract(settings, licence, prepared),
        ReadBids(settings, given_by(settings)),
        measure=lambda path: measure(path, settings),
        known=known,
        workers=workers,
        progress=progress,
    )


def find(src: Path, only: Mapping[str, Sequence[str]]) -> Source:
    """Recordings of a tree in folders `eeg` and `meg` that pass the filter."""
    files.require_mne()
    if not src.is_dir():
        raise NeuroFMError(f"{src} does not exist; give the root of a BIDS tree")
    names, others = files.find(src)
    names = [name for name in names if is_recording(name)]
    if not names:
        raise NeuroFMError(
            f"there is no EEG or MEG of BIDS in {src} (it holds {kinds(others)}); "
            "expected sub-*/[ses-*/]eeg/*_eeg.* or meg/*_meg.*; `neurofm prepare meeg` "
            "takes any other folder"
        )
    kept = [name for name in names if _passes(name, only)]
    if not kept:
        there = {
            word: sorted(
                {
                    sidecars.entities(name).get(ENTITIES.get(word, word), "")
                    for name in names
                }
            )
            for word in only
        }
        told = "; ".join(f"{word}: {', '.join(v)}" for word, v in there.items())
        raise NeuroFMError(f"no recording in {src} passes the filter; there are {told}")
    tables = (p for end in ("tsv", "json") for p in src.rglob(f"*.{end}"))
    beside = {
        *files.beside(src, kept),
        *(p.relative_to(src).as_posix() for p in tables),
    }
    return source(src, kept, sorted(beside))


def is_recording(name: str, datatypes: Sequence[str] = DATATYPES) -> bool:
    """Whether a path is that of a recording in the raw part of a tree."""
    parts = name.split("/")
    if set(parts) & set(_ELSEWHERE) or _CALIBRATION.search(name):
        return False
    return sidecars.entities(name).get("datatype") in datatypes


def _passes(name: str, only: Mapping[str, Sequence[str]]) -> bool:
    found = sidecars.entities(name)
    for word, values in only.items():
        short = ENTITIES.get(word, word)
        bare = {value.removeprefix(f"{short}-") for value in values}
        if found.get(short, "") not in bare:
            return False
    return True


def _tell_other_line(raw: Raw, line_freq: float, notes: list[str]) -> None:
    here = raw.info["line_freq"]
    if here and here != line_freq:
        notes.append(
            f"the line frequency is {here:g} Hz in the file and {line_freq:g} Hz in "
            "its sidecar, which is believed"
        )


def _electrodes(root: Path, file: str, notes: list[str]) -> Given | None:
    """Positions of electrodes.tsv with its coordsystem.json, where they can be used."""
    table = sidecars.beside(root, file, "electrodes", "tsv")
    if table is None:
        return None
    name = table.relative_to(root).as_posix()
    system: dict[str, Any] = sidecars.coordinates(root, file, table)
    if not system:
        notes.append(f"{name} is not used, as no coordsystem.json says what it means")
        return None
    try:
        return Given(montages.table(table, system), name)
    except NeuroFMError as error:
        notes.append(f"{name} is not used: {error}")
        return None
