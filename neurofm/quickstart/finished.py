"""What a quickstart leaves, and how a finished one is known again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurofm import config
from neurofm.config import Experiment
from neurofm.data.records import DatasetInfo, open_dataset
from neurofm.errors import NeuroFMError


@dataclass(frozen=True)
class Finished:
    """The scores, as written to scores.json, and whether pretraining was cut short."""

    scores: dict[str, Any]
    status: str
    sentence: str


def read_back(workdir: Path, runs: Mapping[Path, Experiment]) -> Finished | None:
    """What was scored before, if all runs of it were configured as they are now."""
    written = workdir / "scores.json"
    if not written.is_file():
        return None
    for folder, exp in runs.items():
        if not (folder / "config.json").is_file():
            return None
        before = json.loads((folder / "config.json").read_text())
        if config.difference(before, config.to_json(exp)):
            return None
    return Finished(json.loads(written.read_text()), "done", sentence(workdir))


def sentence(workdir: Path) -> str:
    """Where to look next."""
    return f"see {workdir / 'report.html'}; next: neurofm check {workdir}"


def is_made(store: Path, info: DatasetInfo) -> bool:
    """Whether a store is there already, generated as `info` promises.

    Raises:
      NeuroFMError: it is there and is another quickstart's, or of other settings.
    """
    if not (store / "dataset.json").is_file():
        return False
    before = open_dataset(store).info
    asked = (info.kind, info.sfreq, info.ch_names)
    if (before.kind, before.sfreq, before.ch_names) != asked:
        raise NeuroFMError(
            f"{store} holds {before.kind} that this quickstart did not generate: "
            "choose another --workdir"
        )
    for name, value in info.prepared.items():
        if (then := before.prepared.get(name)) != value:
            raise NeuroFMError(
                f"{store} was generated with {name} {then} and {value} was asked for: "
                "choose another --workdir"
            )
    return True
