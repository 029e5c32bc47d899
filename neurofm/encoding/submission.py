"""Predictions of runs that nobody gave, in the form of the Algonauts 2025 challenge.

The challenge takes a NumPy file of a dictionary, subject -> chunk -> [volumes,
regions], which only a pickle can hold. It is written for the challenge; nothing here
reads one.
"""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from neurofm.encoding import ridge
from neurofm.encoding.stimulus import Pieces, Run, at_times, delayed
from neurofm.encoding.subject import Settings, fit
from neurofm.errors import NeuroFMError

_log = logging.getLogger(__name__)

NEEDED = ("subject", "timeline", "volumes")

Predictions = Mapping[str, Mapping[str, Float[np.ndarray, "_ V"]]]


class Wanted(NamedTuple):
    """A run to predict: whose, of which stimulus, how long, its name in the file."""

    subject: str
    timeline: str
    volumes: int
    chunk: str


def read_table(path: Path) -> list[Wanted]:
    """The runs of a tab-separated table: subject, timeline, volumes, perhaps chunk.

    Raises:
      NeuroFMError: it cannot be read, lacks a column or a number, or names a run twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NeuroFMError(f"the table {path} cannot be read: {error}") from error
    if not rows or (missing := [name for name in NEEDED if name not in rows[0]]):
        lacks = f"no column {missing[0]!r}" if rows else "no rows below its header"
        raise NeuroFMError(
            f"the table {path} has {lacks}; expected tab-separated subject, timeline "
            "and volumes of every run to predict, and perhaps chunk, its name there"
        )
    out: list[Wanted] = []
    for line, row in enumerate(rows, 2):
        if not row["volumes"].strip().isdecimal() or not int(row["volumes"]):
            raise NeuroFMError(
                f"{path}, line {line}: {row['volumes']!r} is no number of volumes"
            )
        subject, timeline = row["subject"].strip(), row["timeline"].strip()
        chunk = (row.get("chunk") or "").strip() or timeline
        out.append(Wanted(subject, timeline, int(row["volumes"]), chunk))
    names = [(one.subject, one.chunk) for one in out]
    if twice := [name for name in names if names.count(name) > 1]:
        raise NeuroFMError(f"{path} lists {' '.join(twice[0])} twice: leave one")
    return out


def predict(
    wanted: Sequence[Wanted],
    spaces: Sequence[Pieces],
    found: Sequence[Run],
    settings: Settings,
    tr_s: float,
) -> dict[str, dict[str, Float[np.ndarray, "_ V"]]]:
    """Predict runs by models fitted to all runs of their subjects.

    Features are z-scored over the run, as in training; volumes that they do not cover
    are predicted from their mean. A region without a model is 0.

    Raises:
      NeuroFMError: a subject without runs, or a stimulus without features.
    """
    out: dict[str, dict[str, np.ndarray]] = {}
    for name in dict.fromkeys(one.subject for one in wanted):
        mine = [run for run in found if run.subject == name.removeprefix("sub-")]
        mine = mine or [run for run in found if run.subject == name]
        if not mine:
            known = ", ".join(sorted({run.subject for run in found}))
            raise NeuroFMError(
                f"subject {name} is to be predicted and has no run to fit (there are "
                f"{known}): correct the table"
            )
        _log.info("fitting subject %s to all runs", name)
        weights = fit(mine, settings).weights
        if n_unknown := int(np.isnan(weights).any(0).sum()):
            _log.warning("subject %s: %d regions are predicted as 0", name, n_unknown)
        out[name] = {}
        for one in (one for one in wanted if one.subject == name):
            run = _unseen(one, spaces, tr_s, mine[0])
            guess = ridge.predict(delayed([run], settings.delays), weights)
            out[name][one.chunk] = np.nan_to_num(guess).astype(np.float32)
    return out


def _unseen(one: Wanted, spaces: Sequence[Pieces], tr_s: float, like: Run) -> Run:
    if not all(one.timeline in space for space in spaces):
        raise NeuroFMError(
            f"{one.timeline!r} is to be predicted and has no features: make them, or "
            "correct the table"
        )
    times = (np.arange(one.volumes) + 0.5) * tr_s
    X, there = at_times([space[one.timeline] for space in spaces], times, tr_s)
    Y = np.zeros((one.volumes, like.Y.shape[1]), np.float32)
    left_out = int((~there).sum())
    return Run(
        one.subject, one.chunk, "", one.timeline, times, X, like.widths, Y, left_out
    )


def write(path: Path, predictions: Predictions) -> None:
    """Write the challenge's file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {who: dict(chunks) for who, chunks in predictions.items()}
    held = np.empty((), object)
    held[()] = plain
    draft = path.with_name(f"draft-{path.name}")  # numpy heeds the suffix
    np.save(draft, held, allow_pickle=True)
    draft.replace(path)
