"""Task folders in the format of HEAR's preprocessing kit.

task_metadata.json    task_name, embedding_type, prediction_type, split_mode, splits,
                      sample_duration, evaluation (score names, the first decides)
labelvocabulary.csv   idx,label
{split}.json          {file: [labels]}, or {file: [{label, start, end}]} in ms
{sample_rate}/{split}/{file}
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from neurofm.analysis.hear.events import Event
from neurofm.errors import NeuroFMError

METADATA, VOCABULARY = "task_metadata.json", "labelvocabulary.csv"
KINDS = ("scene", "event")
PREDICTIONS = ("multiclass", "multilabel")
SPLIT_MODES = ("trainvaltest", "new_split_kfold", "presplit_kfold")


class Fold(NamedTuple):
    """Names of splits to train on, to choose on and to test on."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class HearTask:
    """One task.

    Attributes:
      path: its folder.
      name: as it calls itself.
      kind: `scene` (one vector a recording) or `event` (one a time stamp).
      prediction: `multiclass` or `multilabel`.
      splits: names of its splits.
      folds: who is trained, chosen and tested on.
      scores: names of what is reported; the first one chooses.
      labels: class names, by number.
      answers: split -> file -> its labels or events.
    """

    path: Path
    name: str
    kind: str
    prediction: str
    splits: tuple[str, ...]
    folds: tuple[Fold, ...]
    scores: tuple[str, ...]
    labels: tuple[str, ...]
    answers: Mapping[str, Mapping[str, Sequence[Any]]]

    def audio(self, split: str, file: str, sfreq: float) -> Path:
        """The recording at a rate, or at the nearest above it, else the highest.

        Raises:
          NeuroFMError: there is none.
        """
        folders = [p.name for p in self.path.iterdir() if p.is_dir()]
        rates = [int(name) for name in folders if name.isdecimal()]
        rates.sort(key=lambda rate: (rate < sfreq, abs(rate - sfreq)))
        for rate in rates:
            if (found := self.path / str(rate) / split / file).is_file():
                return found
        raise NeuroFMError(
            f"{self.path} lacks the sound of {split}/{file} (sampling rates there: "
            f"{', '.join(map(str, sorted(rates))) or 'none'}): run the preprocessing "
            "of the task again"
        )

    def targets(self, split: str) -> Float[np.ndarray, "N K"]:
        """1 where a recording of a scene task has a label, files in their order."""
        out = np.zeros((len(self.answers[split]), len(self.labels)), np.float32)
        for row, labels in enumerate(self.answers[split].values()):
            out[row, [self.labels.index(label) for label in labels]] = 1
        return out


def tasks(path: Path) -> list[HearTask]:
    """The task of a folder, or those of the folders in it.

    Raises:
      NeuroFMError: there is none, or one that cannot be read.
    """
    if (path / METADATA).is_file() or not path.is_dir():
        return [read(path)]
    found = [p.parent for p in sorted(path.glob(f"*/{METADATA}"))]
    if not found:
        raise NeuroFMError(
            f"{path} is no HEAR task and holds none: {METADATA} is missing; give a "
            "folder as HEAR's preprocessing leaves it"
        )
    return [read(each) for each in found]


def read(path: Path) -> HearTask:
    """Read one task folder.

    Raises:
      NeuroFMError: a file is missing or damaged, or labels are not in the vocabulary.
    """
    told = _json(path / METADATA)
    try:
        name = str(told["task_name"])
        kind, prediction = told["embedding_type"], told["prediction_type"]
        mode, scores = told["split_mode"], tuple(map(str, told["evaluation"]))
        splits = tuple(map(str, told["splits"]))
    except (KeyError, TypeError) as error:
        raise NeuroFMError(
            f"{path / METADATA} does not tell {error}: it is no task of HEAR; run its "
            "preprocessing again"
        ) from error
    for what, value, known in (
        ("embedding_type", kind, KINDS),
        ("prediction_type", prediction, PREDICTIONS),
        ("split_mode", mode, SPLIT_MODES),
    ):
        if value not in known:
            raise NeuroFMError(
                f"{path / METADATA} has {what} {value!r}, and only "
                f"{' and '.join(known)} can be scored"
            )
    if not scores:
        raise NeuroFMError(f"{path / METADATA} names no score under evaluation")
    labels = _vocabulary(path / VOCABULARY)
    answers = {
        s: _answers(path / f"{s}.json", kind, prediction, labels) for s in splits
    }
    task = HearTask(
        path,
        name,
        kind,
        prediction,
        splits,
        folds(path, mode, splits),
        scores,
        labels,
        answers,
    )
    _check_learnable(task)
    return task


def folds(path: Path, mode: str, splits: Sequence[str]) -> tuple[Fold, ...]:
    """Train, valid and test; or of k folds each is tested, the next one chosen on.

    Raises:
      NeuroFMError: too few splits.
    """
    if mode == "trainvaltest":
        if set(splits) != {"train", "valid", "test"}:
            raise NeuroFMError(
                f"{path} has the splits {', '.join(splits)}: train, valid and test are "
                "expected"
            )
        return (Fold(("train",), ("valid",), ("test",)),)
    if len(splits) < 3:
        raise NeuroFMError(f"{path} has {len(splits)} folds: three or more are needed")
    made = []
    for i, test in enumerate(splits):
        valid = splits[(i + 1) % len(splits)]
        train = tuple(s for s in splits if s not in (test, valid))
        made.append(Fold(train, (valid,), (test,)))
    return tuple(made)


def _check_learnable(task: HearTask) -> None:
    """Refuse a class that is tested and never trained, where one must be chosen."""
    if task.prediction != "multiclass" or task.kind != "scene":
        return
    held = {s: {a[0] for a in files.values()} for s, files in task.answers.items()}
    for fold in task.folds:
        learnt = set().union(*(held[split] for split in fold.train))
        lost = set().union(*(held[split] for split in fold.test)) - learnt
        if lost:
            name = min(lost)
            n = sum(a[0] == name for f in task.answers.values() for a in f.values())
            raise NeuroFMError(
                f"{task.path}: the class {name!r} ({n} item{'s' * (n != 1)} in all) is "
                f"tested in {', '.join(fold.test)} and never trained on: leave it out, "
                "or split the task again"
            )


def _answers(path: Path, kind: str, prediction: str, labels: Sequence[str]):
    told, known, out = _json(path), set(labels), {}
    for file, given in told.items():
        if kind == "event":
            try:
                given = [
                    Event(str(e["label"]), float(e["start"]), float(e["end"]))
                    for e in given
                ]
            except (KeyError, TypeError, ValueError) as error:
                raise NeuroFMError(
                    f"{path}: an event of {file} lacks label, start or end ({error})"
                ) from error
            names = {event.label for event in given}
        else:
            given = given if isinstance(given, list) else [given]  # one label, bare
            given = [str(label) for label in given]
            names = set(given)
        if unknown := names - known:
            raise NeuroFMError(
                f"{path}: {file} has the label {min(unknown)!r}, which is not in "
                f"{VOCABULARY}"
            )
        if kind == "scene" and prediction == "multiclass" and len(given) != 1:
            raise NeuroFMError(
                f"{path}: {file} has {len(given)} labels in a task of one label each"
            )
        out[file] = given
    if not out:
        raise NeuroFMError(f"{path} names no recording: the split is empty")
    return out


def _vocabulary(path: Path) -> tuple[str, ...]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = sorted(
                (int(row["idx"]), row["label"]) for row in csv.DictReader(file)
            )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise NeuroFMError(
            f"{path} is missing or has no columns idx and label ({error}): run the "
            "preprocessing of the task again"
        ) from error
    if [number for number, _ in rows] != list(range(len(rows))) or not rows:
        raise NeuroFMError(f"{path} does not number its labels from 0 without gaps")
    return tuple(label for _, label in rows)


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NeuroFMError(
            f"{path} is missing or damaged ({error}): give a task folder as HEAR's "
            "preprocessing leaves it"
        ) from error
    if not isinstance(told, dict):
        raise NeuroFMError(f"{path} holds a {type(told).__name__} where {{}} is meant")
    return told
