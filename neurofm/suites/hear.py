"""The suite `hear`: tasks in the format of HEAR, by its shallow probe and its scores.

Axes: T tokens, D width.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import PositiveInt

from neurofm import config, files, stores
from neurofm.analysis.hear import events, scores, search
from neurofm.analysis.hear.search import Embedded, Protocol
from neurofm.analysis.hear.tasks import HearTask, tasks
from neurofm.data.embeddings import Embeddings, open_embeddings
from neurofm.embedding import encode, inputs
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.eval.untrained import untrained
from neurofm.model import Model, load
from neurofm.signals.mel import log_mel, mean_std

_log = logging.getLogger(__name__)

POINTS = len(search.GRID)
Beside = Literal["untrained", "baseline"]
# Of a recording: tokens, or the one vector of a scene, and their times in ms.
Read = tuple[Float[np.ndarray, "T D"], Float[np.ndarray, " T"]]
Reader = Callable[[HearTask, str], Iterator[Read]]


@dataclass(frozen=True)
class Settings:
    """How the tasks are scored; other than the defaults it is no HEAR score.

    Attributes:
      tasks: names; none means all that are there.
      layer: of models and embeddings.
      beside: what is scored in the same way: the network untrained, and log-mel
        features as `baseline`.
      n_configs: points of the grid that are tried.
      hidden_dim, max_epochs, patience: see `search.Protocol`.
    """

    tasks: tuple[str, ...] = ()
    layer: str = "last"
    beside: tuple[Beside, ...] = ("untrained", "baseline")
    n_configs: PositiveInt = POINTS
    hidden_dim: PositiveInt = search.GRID[0].hidden_dim
    max_epochs: PositiveInt = Protocol.max_epochs
    patience: PositiveInt = Protocol.patience

    def protocol(self) -> Protocol:
        grid = search.GRID[: self.n_configs]
        grid = tuple(c._replace(hidden_dim=self.hidden_dim) for c in grid)
        return Protocol(grid, self.max_epochs, self.patience)


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place | None,
    out: Path,
    settings: Settings,
) -> dict[str, Any]:
    """HEAR scores of models or of embeddings of the tasks' recordings.

    Args:
      given: models, or folders of embeddings of the task folders; several are seeds.
      data: a task folder, or a folder of them.

    Returns:
      `scores`: task -> `model`, `untrained`, `baseline`, `chance` -> the task's first
      score; `hear`: task -> the same names -> what `search.evaluate` gives, a seed an
      entry; `protocol`. The same is written as OUT/hear/<task>.json.

    Raises:
      NeuroFMError: a folder that is no task, or a model that does not take sound.
    """
    if data is None:
        raise NeuroFMError("the suite hear needs task folders: name them as --data")
    found = _wanted(tasks(Path(data)), settings)
    readers = _readers(given, settings)
    protocol, told, table = settings.protocol(), {}, {}
    for task in found:
        told[task.name] = {}
        for name, seeds in readers.items():
            _log.info("%s: %s", task.name, name)
            results = [
                search.evaluate(
                    task, {s: embedded(task, s, read) for s in task.splits}, protocol
                )
                for read in seeds
            ]
            told[task.name][name] = [_plain(result) for result in results]
            cell = _cell(task, results)
            if cell is not None:
                table.setdefault(task.name, {})[name] = cell
        if (mean := chance(task)) is not None:
            table.setdefault(task.name, {})["chance"] = {"mean": mean}
        (out / "hear").mkdir(parents=True, exist_ok=True)
        files.write_json(out / "hear" / f"{task.name}.json", told[task.name])
    return {
        "metric": "HEAR score",
        "over": "folds",
        "first_scores": {task.name: task.scores[0] for task in found},
        "official": protocol == Protocol(),
        "protocol": config.to_json(settings),
        "hear": told,
        "scores": table,
    }


def embedded(task: HearTask, split: str, read: Reader) -> Embedded:
    """A split as `search` takes it."""
    x, y, times = [], [], {}
    answers = task.answers[split]
    for (file, answer), (values, at) in zip(
        answers.items(), read(task, split), strict=True
    ):
        if task.kind == "scene":
            x.append(values.mean(0, keepdims=True))
        else:
            x.append(values)
            y.append(events.frame_labels(answer, at, task.labels))
            times[file] = at
    if task.kind == "scene":
        return Embedded(np.concatenate(x), task.targets(split), {}, {})
    truth = {file: list(found) for file, found in answers.items()}
    return Embedded(np.concatenate(x), np.concatenate(y), times, truth)


def of_model(model: Model, layer: str) -> Reader:
    """Recordings through a model."""
    (name,) = encode.layer_names(model, (layer,))
    contract = model.contract

    def read(task: HearTask, split: str) -> Iterator[Read]:
        def waves() -> Iterator[tuple[str, Recorded]]:
            for file in task.answers[split]:
                path = task.audio(split, file, contract.sfreq)
                (one,), _ = inputs.take(contract, path, None)
                yield file, one

        for file, reading in encode.embed_waves(model, waves(), layers=(name,)):
            if not len(reading.times_s):
                raise NeuroFMError(
                    f"{split}/{file} of {task.path} is shorter than one token of the "
                    "model: leave it out of the task"
                )
            yield reading.values[name], 1000 * reading.times_s

    return read


def of_saved(stored: Embeddings, layer: str) -> Reader:
    """Recordings that were embedded before, found by their names, see `row_of`."""
    by_file: dict[str, list[tuple[int, str]]] = {}
    for row, name in enumerate(map(str, stored.index["item"].to_pylist())):
        by_file.setdefault(name.split("/")[-1], []).append((row, name))
    pooled = stored.info["request"].get("pool", "none") != "none"

    def read(task: HearTask, split: str) -> Iterator[Read]:
        if pooled and task.kind == "event":
            raise NeuroFMError(
                f"{stored.path} holds one vector a recording, and {task.name} asks "
                "when things happen: embed again with --pool none"
            )
        for file in task.answers[split]:
            row = row_of(by_file.get(file.split("/")[-1], []), task.path, split, file)
            if row is None:
                raise NeuroFMError(
                    f"{stored.path} holds no embedding of {split}/{file}: embed the "
                    f"sounds of {task.path}, such as its folder 16000"
                )
            yield stored.read(row, layer), 1000 * stored.times(row)

    return read


def row_of(
    named: Sequence[tuple[int, str]], task: Path, split: str, file: str
) -> int | None:
    """The row whose name fits a recording best: TASK/RATE/SPLIT/FILE, or its end.

    A name that goes on to another task's folder does not fit.

    Args:
      named: rows and their names.

    Raises:
      NeuroFMError: several fit alike.
    """
    end = [*split.split("/"), *file.split("/")]
    wanted = [*task.resolve().parts, "", *end]  # the rate may be any

    def fit(name: str) -> int:
        parts, n = name.split("/"), 0
        for part, ours in zip(reversed(parts), reversed(wanted), strict=False):
            if part != ours and not (ours == "" and part.isdecimal()):
                break
            n += 1
        whole = n == len(parts) or n >= len(end) + 2
        return n if whole and n >= len(end) else 0

    fits = {row: fit(name) for row, name in named}
    best = max(fits.values(), default=0)
    rows = [row for row, n in fits.items() if n == best]
    if best and len(rows) > 1:
        names = [name for row, name in named if row in rows]
        raise NeuroFMError(
            f"{names[0]} and {names[1]} could both be {split}/{file} of {task}: embed "
            "the sounds of each task into a folder of its own"
        )
    return rows[0] if best else None


def of_log_mel(task: HearTask, split: str) -> Iterator[Read]:
    """Log-mel features: mean and deviation of a scene, frames of 50 ms of events."""
    from data_pipelines import soundfiles

    for file in task.answers[split]:
        path = task.audio(split, file, 16000)
        samples, rate, _ = soundfiles.read(path, channels="all")
        wave = samples.mean(0)
        if task.kind == "scene":
            yield mean_std(log_mel(wave, rate))[None], np.zeros(1)
        else:
            frames = log_mel(wave, rate, window_s=0.05, hop_s=0.05)
            yield frames, 50 * (np.arange(len(frames)) + 0.5)


def chance(task: HearTask) -> float | None:
    """The first score of always saying how common each class is in training.

    None where it is undefined, as where no class is on for half of the time.
    """
    name, found = task.scores[0], []
    if task.kind == "event":
        return None
    for fold in task.folds:
        known = np.concatenate([task.targets(split) for split in fold.train])
        tested = np.concatenate([task.targets(split) for split in fold.test])
        guess = np.tile(known.mean(0, dtype=np.float64), (len(tested), 1))
        found.append(scores.score(name, tested, guess))
    mean = float(np.mean(found))
    return mean if np.isfinite(mean) else None


def _wanted(found: list[HearTask], settings: Settings) -> list[HearTask]:
    names = [task.name for task in found]
    if lost := [name for name in settings.tasks if name not in names]:
        raise NeuroFMError(
            f"there is no task {lost[0]!r} in the data: there are {', '.join(names)}"
        )
    return [t for t in found if not settings.tasks or t.name in settings.tasks]


def _readers(
    given: Sequence[stores.Place], settings: Settings
) -> dict[str, list[Reader]]:
    """What is scored, by name."""
    readers: dict[str, list[Reader]] = {"model": []}
    systems = []
    for path in given:
        if (path / "embeddings.json").is_file():
            stored = open_embeddings(path)
            systems.append(stored.info["request"].get("task"))
            readers["model"].append(of_saved(stored, settings.layer))
            continue
        model = load(path)
        if model.contract.kind != "audio":
            raise NeuroFMError(
                f"HEAR is for models of sound, and {path} takes {model.contract.kind}: "
                "give a model of sound"
            )
        systems.append(config.to_json(model.task))
        readers["model"].append(of_model(model, settings.layer))
        if "untrained" in settings.beside:
            fresh = of_model(untrained(model), settings.layer)
            readers.setdefault("untrained", []).append(fresh)
    if any(system != systems[0] for system in systems):
        raise NeuroFMError(
            "what was given is of several systems (their tasks differ), not seeds of "
            "one: evaluate each alone, and compare them with `neurofm report`"
        )
    if "baseline" in settings.beside:
        readers["baseline"] = [of_log_mel]
    return readers


def _cell(task: HearTask, results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first score over folds and seeds, unless it is undefined."""
    name = f"test_{task.scores[0]}"
    values = np.array([[f[name] for f in r["per_fold"].values()] for r in results])
    if not np.isfinite(values).all():
        return None
    n = sum(len(task.answers[s]) for fold in task.folds for s in fold.test)
    by_fold = values.mean(0) if len(task.folds) > 1 else values.mean(1)
    cell: dict[str, Any] = {"mean": float(values.mean()), "n": n}
    if len(by_fold) > 1:
        cell["std"] = float(by_fold.std(ddof=1))
    return cell


def _plain(value: Any) -> Any:
    """What JSON can hold: NaN as null, infinity as a word."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else ("-" * (value < 0) + "Infinity")
    return value
