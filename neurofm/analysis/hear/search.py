"""Training and choosing the shallow network of one HEAR task.

The grid is searched on the first fold only, and its best point is used in the others. A
network is validated every few epochs and stops when it has not become better for a
while; the best one seen is tested.

Axes: N items (recordings, or frames of them), D width, K classes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from neurofm.analysis.hear import events, mlp, scores
from neurofm.analysis.hear.events import Events
from neurofm.analysis.hear.mlp import Config
from neurofm.analysis.hear.tasks import Fold, HearTask
from neurofm.errors import NeuroFMError

_log = logging.getLogger(__name__)

SEED = 42
# The first eight of the kit's grid as its seed shuffles it: the same everywhere.
GRID = (
    Config(1, 1e-4, "xavier_normal"),
    Config(2, 1e-3, "xavier_uniform"),
    Config(1, 1e-3, "xavier_normal"),
    Config(1, 3.2e-4, "xavier_normal"),
    Config(2, 3.2e-4, "xavier_normal"),
    Config(2, 3.2e-4, "xavier_uniform"),
    Config(2, 3.2e-3, "xavier_normal"),
    Config(2, 3.2e-3, "xavier_uniform"),
)
VALIDATE_EVERY = 3
VALIDATE_EVERY_OF = {"dcase2016_task2": 10}


@dataclass(frozen=True)
class Protocol:
    """How long and how wide; what differs from HEAR's own is no HEAR score.

    Attributes:
      grid: what is searched.
      max_epochs: of one network.
      patience: validations without a better score.
    """

    grid: tuple[Config, ...] = GRID
    max_epochs: int = 500
    patience: int = 20


class Embedded(NamedTuple):
    """One split: embeddings below each other, and how they fall into recordings.

    Attributes:
      x: a row a recording, or a frame.
      y: its labels.
      times: of every recording, of its frames in ms; empty in scene tasks.
      truth: of every recording, its events; empty in scene tasks.
    """

    x: Float[np.ndarray, "N D"]
    y: Float[np.ndarray, "N K"]
    times: Mapping[str, Float[np.ndarray, " T"]]
    truth: Events


@dataclass
class Trained:
    """The best of one training.

    Attributes:
      value: its first score on validation, as what is to be high.
      epoch: when it was.
      min_duration: of events, in ms, as validation chose.
    """

    value: float = -np.inf
    epoch: int = 0
    state: Any = None
    min_duration: float = 0.0
    tried: int = field(default=0, repr=False)


def evaluate(
    task: HearTask,
    splits: Mapping[str, Embedded],
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    """Scores of one task.

    Args:
      splits: the embeddings of every split of the task.

    Returns:
      `config`; `data_splits`; `per_fold`: test split -> `test_<score>`; of more folds
      `aggregated_scores`; `validation`: the first score of every point of the grid;
      `undefined`: see `scores.undefined`.

    Raises:
      NeuroFMError: embeddings that are not numbers, or of unlike widths.
    """
    protocol = protocol or Protocol()
    _check(task, splits)
    first = task.folds[0]
    trained = [_train(task, splits, first, c, protocol) for c in protocol.grid]
    best = int(np.argmax([t.value for t in trained]))
    config = protocol.grid[best]
    _log.info("%s: chose %s", task.name, config)
    kept = [trained[best]]
    kept += [_train(task, splits, f, config, protocol) for f in task.folds[1:]]
    per_fold, undefined = {}, {}
    for fold, one in zip(task.folds, kept, strict=True):
        name = "+".join(fold.test)
        per_fold[name], undefined[name] = _test(task, _joined(splits, fold.test), one)
    found = {
        "config": config._asdict(),
        "data_splits": [
            {part: list(names) for part, names in fold._asdict().items()}
            for fold in task.folds
        ],
        "validation": [t.value for t in trained],
        "epochs": [one.epoch for one in kept],
        "per_fold": per_fold,
    }
    if task.kind == "event":
        found["min_duration_ms"] = [one.min_duration for one in kept]
    else:
        found["undefined"] = undefined
    if len(task.folds) > 1:
        found["aggregated_scores"] = scores.aggregated([*per_fold.values()])
    return found


def _check(task: HearTask, splits: Mapping[str, Embedded]) -> None:
    widths = {split.x.shape[1] for split in splits.values()}
    if len(widths) > 1:
        raise NeuroFMError(
            f"embeddings of {task.name} are {' and '.join(map(str, sorted(widths)))} "
            "wide: give those of one model"
        )
    for name, split in splits.items():
        if not np.isfinite(split.x).all():
            raise NeuroFMError(
                f"embeddings of the split {name} of {task.name} hold what is not a "
                "number: check the model with `neurofm check`"
            )


def _train(
    task: HearTask,
    splits: Mapping[str, Embedded],
    fold: Fold,
    config: Config,
    protocol: Protocol,
) -> Trained:
    train, valid = _joined(splits, fold.train), _joined(splits, fold.valid)
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)
    multilabel = task.prediction == "multilabel"
    every = VALIDATE_EVERY_OF.get(task.name, VALIDATE_EVERY)
    key = jax.random.key(SEED)
    state = mlp.start(key, config, x.shape[1], y.shape[1])
    best, waited = Trained(), 0
    for n in range(1, protocol.max_epochs + 1):
        drawn = jax.random.fold_in(key, n)
        state, loss = mlp.epoch(
            state, x, y, drawn, config.lr, config.dropout, multilabel
        )
        if n % every and n != protocol.max_epochs:
            continue
        value, duration = _validated(task, valid, state)
        if not np.isfinite(float(loss)):
            break
        if value > best.value:
            kept = jax.device_get((state.params, state.stats))
            best, waited = Trained(value, n, kept, duration), 0
        elif (waited := waited + 1) >= protocol.patience:
            break
    if best.state is None:
        raise NeuroFMError(
            f"the network on the embeddings of {task.name} diverged at once "
            f"({config}): their scale is too large; check them with `neurofm check`"
        )
    return best


def _validated(task: HearTask, valid: Embedded, state: Any) -> tuple[float, float]:
    """The first score, as what is to be high, and the duration that gives it."""
    name = task.scores[0]
    prediction = _predict(task, valid.x, state.params, state.stats)
    if task.kind == "scene":
        value = scores.score(name, valid.y, prediction)
        return (0.0 if np.isnan(value) else value), 0.0
    found = {
        shortest: _events(task, valid, prediction, shortest)
        for shortest in events.MIN_DURATIONS_MS
    }
    duration = events.best_duration(name, valid.truth, found)
    value = events.score(name, valid.truth, found[duration])[name]
    return events.goodness(name, value), duration


def _test(
    task: HearTask, test: Embedded, one: Trained
) -> tuple[dict[str, float], dict[str, int]]:
    prediction = _predict(task, test.x, *one.state)
    if task.kind == "scene":
        told = {n: scores.score(n, test.y, prediction) for n in task.scores}
        undefined = scores.undefined(test.y, prediction)
    else:
        found, told = _events(task, test, prediction, one.min_duration), {}
        for name in task.scores:
            told |= events.score(name, test.truth, found)
        undefined = {}
    return {f"test_{name}": value for name, value in told.items()}, undefined


def _predict(task, x, params, stats) -> Float[np.ndarray, "N K"]:
    return np.asarray(_probabilities(params, stats, x, task.prediction == "multilabel"))


@jax.jit(static_argnames="multilabel")
def _probabilities(params, stats, x, multilabel):
    return mlp.probabilities(mlp.logits(params, stats, x), multilabel)


def _events(task, split: Embedded, prediction, shortest: float) -> Events:
    found, first = {}, 0
    for file, times in split.times.items():
        frames = prediction[first : first + len(times)]
        found[file] = events.from_frames(frames, times, task.labels, shortest)
        first += len(times)
    return found


def _joined(splits: Mapping[str, Embedded], names: Sequence[str]) -> Embedded:
    parts = [splits[name] for name in names]
    named = [*zip(names, parts, strict=True)]
    return Embedded(
        np.concatenate([p.x for p in parts]).astype(np.float32),
        np.concatenate([p.y for p in parts]).astype(np.float32),
        {f"{s}/{file}": t for s, p in named for file, t in p.times.items()},
        {f"{s}/{file}": e for s, p in named for file, e in p.truth.items()},
    )
