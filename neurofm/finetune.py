"""`neurofm finetune`: a trained model, a head and labels, in the loop of pretraining.

What is told (classes, tags, numbers, symbols, regions) and the number of steps come
from the data, the model from `--from`. Of the checkpoints the best by validation is
scored on the test split.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from neurofm import config, files, stores
from neurofm.checkpoint import Checkpoints
from neurofm.config import Data, Experiment
from neurofm.data import label_values, labelled, loader
from neurofm.data.candidates import candidates
from neurofm.data.records import Dataset, open_dataset
from neurofm.data.sides import sides
from neurofm.errors import NeuroFMError
from neurofm.eval import answers, by_example, leaks, split_file
from neurofm.eval.places import joined, places
from neurofm.eval.splits import Fold
from neurofm.model import Model, load
from neurofm.models.finetune import Finetune
from neurofm.objectives import sequences
from neurofm.report import page as report
from neurofm.run import frozen
from neurofm.run.metrics import read_rows
from neurofm.run.profile import Window
from neurofm.train import Outcome, Row, pretrain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finetuned:
    """How the run ended, and its scores where it came to its end and has a test."""

    outcome: Outcome
    scores: dict[str, Any]


def finetune(
    exp: Experiment,
    model: str | os.PathLike[str],
    workdir: str | os.PathLike[str],
    show: Callable[[int, Row], None] = lambda step, row: None,
    profile: Window | None = None,
) -> Finetuned:
    """Train `exp` from `model`; it goes on as any run. See `resolved` and `tuned`."""
    exp, split = resolved(exp, model)
    return tuned(exp, split, workdir, show, profile)


def resolved(
    exp: Experiment, model: str | os.PathLike[str]
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment with the model's task, the data's classes and its own length.

    A task that is a `Finetune` puts a head on the model and learns labels. Another task
    is the model itself, fitted to other data as `Task.refitted` says.

    Args:
      model: a run, a checkpoint, an imported or exported model.

    Returns:
      And what the file of its split holds; nothing where no labels are learnt.

    Raises:
      NeuroFMError: labels that are missing or cannot be learnt; no such model.
    """
    if not isinstance(exp.task, Finetune):
        task = exp.task.refitted(load(model).task)
        init = replace(exp.init, path=str(model))
        return replace(exp, task=task, init=init).resolved(), {}
    _named(exp.data, exp.task.answer)
    init = replace(exp.init, frozen={"task": str(model)})
    exp, _ = frozen.lean(replace(exp, init=init))
    task: Any = exp.task
    datasets = [open_dataset(path) for path in exp.data.stores]
    spec = exp.task.batch_spec("train")
    found = labelled.find(datasets, spec, exp.data, "train")
    held_out = _held_out(exp, datasets)
    parts = {"train": found, **held_out}
    split = split_of(exp, datasets, parts)
    if exp.data.split:
        exp = replace(exp, data=replace(exp.data, sides=split["sha256"]))
    exp = replace(exp, task=_told(task, [*parts.values()], exp.data, datasets))
    if (exp.eval.metric or exp.eval.patience) and not len(held_out["valid"]):
        log.warning(
            "there are no examples in the split valid, so no epoch is chosen and the "
            "run goes to its end"
        )
    for examples in held_out.values():  # one that cannot be scored is told now
        label_values.labels(examples, exp.task.batch_spec("train"))
    if exp.train.epochs:
        epoch = len(found) / exp.train.batch_size
        steps, every = math.ceil(exp.train.epochs * epoch), max(1, round(epoch))
        train = replace(exp.train, steps=steps, checkpoint_every=every)
        exp = replace(exp, train=train, eval=replace(exp.eval, every=every))
    return exp.resolved(), split


def tuned(
    exp: Experiment,
    split: dict[str, Any],
    workdir: str | os.PathLike[str],
    show: Callable[[int, Row], None] = lambda step, row: None,
    profile: Window | None = None,
) -> Finetuned:
    """Train what `resolved` gave.

    Where labels are learnt, writes `split.json`, `scores.json` and the report with its
    scores beside what `pretrain` writes.

    Raises:
      NeuroFMError: what `pretrain` refuses.
    """
    outcome = pretrain(exp, workdir, show, profile)
    place = stores.place(workdir)
    if not split or jax.process_index() > 0:
        return Finetuned(outcome, {})
    files.write_json(place / split_file.NAME, split)
    if outcome.status != "done":
        return Finetuned(outcome, {})
    scores = score(exp, place, best_step(place, exp.eval.metric))
    scores |= {"split_sha256": split["sha256"]} if scores else {}
    files.write_json(place / "scores.json", scores)
    report.render([place], place / "report.html")
    return Finetuned(outcome, scores)


def _named(data: Data, answer: str) -> None:
    """Refuse settings that do not name one thing to learn."""
    brains = answer == "responses"
    named = data.responses.path if brains else data.target
    if not data.path or not named:
        missing = "data.responses.path" if brains else "data.target"
        what = "the column of its classes as data.target=COLUMN"
        if brains:
            what = "the fMRI as data.responses.path=DIR"
        raise NeuroFMError(
            f"{missing if data.path else 'data.path'} is empty: give a prepared "
            f"dataset as data.path=DIR and {what}"
        )
    if data.target and data.responses.path:
        raise NeuroFMError(
            "data.target and data.responses.path are both given: leave out the one "
            f"that task.answer={answer} does not learn"
        )


def _told(
    task: Finetune,
    parts: Sequence[labelled.Labelled],
    data: Data,
    datasets: Sequence[Dataset],
) -> Finetune:
    """The task with what follows from the training examples, which are the first."""
    found = parts[0]
    if task.answer == "responses":
        if not len(found):
            told = ", ".join(f"{k} {n}" for k, n in found.counts[0].items())
            raise NeuroFMError(
                f"there is no volume of fMRI to train on ({told}): check the splits of "
                "the runs and data.responses"
            )
        return replace(task, classes=datasets[-1].info.ch_names)
    names = label_values.names(found, data, task.answer, task.symbols)
    task = replace(task, classes=names)
    if task.answer == "sequence":
        each = [label for part in parts for label in part.label]
        told = [label_values.words(x, task.answer, task.symbols) for x in each]
        return replace(task, length=max(map(len, told)))
    made = label_values.labels(found, task.batch_spec("train"))
    if task.answer == "numbers":
        n = np.isfinite(made).sum(0)
        if (n < 2).any() or (np.nanstd(made, 0) == 0).any():
            name = task.classes[int(np.argmax((n < 2) | (np.nanstd(made, 0) == 0)))]
            raise NeuroFMError(
                f"the number {name!r} is the same in all training examples that have "
                "it: leave it out of data.target"
            )
        centre, spread = np.nanmean(made, 0, float), np.nanstd(made, 0, float)
        return replace(task, centre=tuple(centre), spread=tuple(spread))
    if task.class_weight == "even":
        return task
    return replace(task, weights=tuple(balanced(task, made).tolist()))


def balanced(
    task: Finetune, label: Shaped[np.ndarray, "n *K"]
) -> Float[np.ndarray, " K"]:
    """Weights by which every class counts alike, or a tag as much as its absence."""
    if task.answer == "classes":
        counts = np.bincount(label, minlength=len(task.classes))
        return len(label) / (len(counts) * counts)
    return (len(label) - label.sum(0)) / label.sum(0)


def _held_out(exp: Experiment, datasets: list[Dataset]) -> dict[str, labelled.Labelled]:
    spec = exp.task.batch_spec("train")
    return {
        use: labelled.find(datasets, spec, exp.data, use) for use in ("valid", "test")
    }


def split_of(
    exp: Experiment, datasets: list[Dataset], examples: dict[str, labelled.Labelled]
) -> dict[str, Any]:
    """What the file of the split holds.

    Raises:
      NeuroFMError: a recording is on two sides.
    """
    if exp.data.split:
        every = candidates(datasets[0], exp.data)
        return sides(datasets[0], exp.data, every).content
    rows, parts, n = {}, [], 0
    for use, found in examples.items():
        rows[use] = np.arange(n, n := n + len(found))
        for d, dataset in enumerate(datasets):
            mine = found.dataset == d
            span = np.stack([found.start, found.stop], 1)[mine] / dataset.info.sfreq
            names = np.array(found.name, str)[mine]
            parts.append(places(dataset, found.item[mine], span, names))
    where, fold = joined(parts), Fold(**rows, name=Fold.name)
    leaks.refuse([fold], where)
    data_hash = "+".join(dataset.hash for dataset in datasets)
    return split_file.content(split_file.How(), data_hash, [fold], where)


def best_step(workdir: stores.Place, metric: str) -> int:
    """The saved step with the best held-out metric; without one, the newest."""
    saved = Checkpoints(workdir / "checkpoints").steps()
    name = f"eval/{metric}"
    found = {
        int(row["step"]): row[name]
        for row in read_rows(workdir / "metrics.jsonl")
        if name in row and row["step"] in saved
    }
    return max(found, key=lambda step: (found[step], -step)) if found else saved[-1]


def score(exp: Experiment, workdir: stores.Place, step: int) -> dict[str, Any]:
    """Scores of one step on the test split; of `valid` where there is none, said so.

    An example longer than the model's window is told by the mean of what its windows
    say. Intervals are over recordings.
    """
    task: Any = exp.task
    model = load(workdir / "checkpoints" / str(step))
    datasets = [open_dataset(path) for path in exp.data.stores]
    tested = _held_out(exp, datasets)
    split = "test" if len(tested["test"]) else "valid"
    examples = tested[split]
    if not len(examples):
        log.warning("there are no test examples, so nothing is scored")
        return {}
    made = told_of(model, exp, datasets, split, len(examples))
    truth = label_values.labels(examples, task.batch_spec("train"))
    recording = examples.item + 10**9 * examples.dataset
    counts = examples.counts[: len(exp.data.paths)]  # not of the responses' store
    answered = answers.score(
        task.answer, made, truth, recording, task.classes, task.centre
    )
    if task.answer == "classes":
        answered["by_subject"] = by_subject(datasets, examples, made, truth)
    if task.answer != "responses":
        each = by_example.table(
            np.full(len(made), exp.data.fold or Fold.name),
            np.array(examples.name),
            recording,
            *answers.of_each(task.answer, made, truth),
        )
        by_example.write(workdir / by_example.NAME, each)
    return {
        "suite": "finetune",
        "target": exp.data.target,
        "split": split,
        "fold": exp.data.fold,
        "chosen": {"step": step, "on": exp.eval.metric or "newest"},
        "left_out": {k: sum(c[k] for c in counts) for k in counts[0]},
        **answered,
    }


def by_subject(
    datasets: list[Dataset],
    examples: labelled.Labelled,
    made: Float[np.ndarray, "n K"],
    truth: Shaped[np.ndarray, " n"],
) -> dict[str, dict[str, float]]:
    """Accuracies and the number of examples of every subject that has a name."""
    told = [dataset.items["subject"].to_pylist() for dataset in datasets]
    whose = np.array(
        [told[d][i] or "" for d, i in zip(examples.dataset, examples.item, strict=True)]
    )
    return {
        name: {**answers.accuracies(made[rows], truth[rows]), "n": int(rows.sum())}
        for name in np.unique(whose).tolist()
        if name and (rows := whose == name).any()
    }


def told_of(
    model: Model, exp: Experiment, datasets: list[Dataset], split: Any, n_examples: int
) -> Shaped[np.ndarray, "n _"]:
    """What the model tells of every example: its prediction, or its sequence.

    A sequence is that of the plain decoding, -1 behind its end.
    """
    if exp.task.answer != "sequence":  # pyright: ignore[reportAttributeAccessIssue]
        return predict(model, exp, datasets, split, n_examples)
    task: Any = model.task
    out = np.zeros((n_examples, 0), np.int32)

    def read(variables, batch):
        reading = task.read(variables, batch, "prediction")
        best = reading.values["prediction"].argmax(-1)
        return sequences.emitted(best, reading.mask)

    for crops, valid, (symbols, kept) in _read(model, exp, datasets, split, read):
        if not out.size:
            out = np.full((n_examples, symbols.shape[1]), -1, np.int32)
        for row in np.flatnonzero(valid):
            mine = symbols[row, kept[row]]
            out[crops[row], : len(mine)] = mine
    return out


def predict(
    model: Model, exp: Experiment, datasets: list[Dataset], split: Any, n_examples: int
) -> Float[np.ndarray, "n K"]:
    """The mean prediction of every example of a split, in its order."""
    task: Any = model.task
    total = np.zeros((n_examples, len(task.classes)))
    windows = np.zeros(n_examples)

    def read(variables, batch):
        return task.read(variables, batch, "prediction").values["prediction"][:, 0]

    for example, valid, made in _read(model, exp, datasets, split, read):
        np.add.at(total, example[valid], made[valid].astype(np.float64))
        np.add.at(windows, example[valid], 1)
    return total / windows[:, None]


def _read(
    model: Model,
    exp: Experiment,
    datasets: list[Dataset],
    split: Any,
    read: Callable[[Any, Any], Any],
) -> Iterator[tuple[Int[np.ndarray, " b"], Bool[np.ndarray, " b"], Any]]:
    """Which example each row of a batch is of, whether it is one, and what is read."""
    spec, size = exp.task.batch_spec("train"), exp.train.batch_size
    plan = labelled.held_out(datasets, spec, exp.data, None, size, split)
    step = jax.jit(read)
    batches = loader.batches(plan, spec, size, np.arange(size), 0, exp.data.workers)
    for batch in batches:
        inputs = {k: v for k, v in batch.items() if k not in ("label", "redraws")}
        crops = [plan.crop(int(number)) for number in batch["index"]]
        example = np.array([crop.example for crop in crops])
        valid = np.array([crop.valid for crop in crops])
        yield example, valid, jax.device_get(step(model.inference, inputs))


def below_head(model: Model) -> Model:
    """The trained model under the head of a fine-tuned one, low-rank additions merged.

    Raises:
      NeuroFMError: this one has no head.
    """
    task = model.task
    if not isinstance(task, Finetune):
        raise NeuroFMError(
            f"this model is a {task.name} without a head, so it has no trunk: export "
            "it as it is"
        )
    merged = jax.device_get(task.model(model.variables))
    return Model(task.task, merged, {**model.meta, "finetuned": config.to_json(task)})
