"""Fitting a trained TRIBE to new subjects: the task, and rows for them to start from.

Source: TRIBE v2 (arXiv 2605.04326) and its released code.

Axes: S subjects, D features before the head, E width, P outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from neurofm import averaging
from neurofm.errors import NeuroFMError
from neurofm.task import Task, Tree

if TYPE_CHECKING:
    from neurofm.models.tribe import Tribe

# How a model is trained, which a config of new subjects says; all else is the model's.
TRAINING = ("trained", "modality_dropout", "modality_dropout_by", "keep_one")
TRAINING += ("temporal_dropout", "subject_dropout", "loss_kind", "out_of_run")
TRAINING += ("swa_epochs", "horizon", "precision", "remat", "attention")


def refitted(task: Tribe, trained: Task) -> Tribe:
    """The trained model's task, trained as `task` is; its width before the head too.

    Raises:
      NeuroFMError: `trained` is another system.
    """
    if trained.name != task.name:
        raise NeuroFMError(
            f"this config fits a {task.name} to new subjects and the model given is a "
            f"{trained.name}: give a run or an imported model of {task.name}"
        )
    model: Any = trained
    own = {name: getattr(task, name) for name in TRAINING}
    rank = task.low_rank or model.low_rank
    return replace(model, **own, low_rank=rank, average_subjects=False)


def taken_over(task: Tribe, trained: Task, variables: Tree) -> Tree:
    """The variables of a trained model with the rows that `task` has.

    Raises:
      NeuroFMError: it predicts other regions, or takes other features.
    """
    model: Any = trained
    same = ("subjects", "low_rank")
    if trained.name != task.name or all(
        getattr(model, name) == getattr(task, name) for name in same
    ):
        return variables
    for what, of in (("regions", "n_outputs"), ("features", "modalities")):
        ours, theirs = getattr(task, of), getattr(model, of)
        if ours != theirs:
            raise NeuroFMError(
                f"the model was trained on other {what} ({_told(theirs)}) than those "
                f"of the data ({_told(ours)}): give those that it was trained on"
            )
    _, made = with_subjects(model, variables, task.subjects, task.low_rank)
    slow = averaging.start(made["params"]) if task.swa_epochs else {}
    return {**made, "slow": slow}


def _told(size: Any) -> str:
    if isinstance(size, int):
        return str(size)
    return ", ".join(f"{m.name} {m.layers} x {m.width}" for m in size)


def with_subjects(
    task: Tribe, variables: Tree, names: Sequence[str], low_rank: int | None = None
) -> tuple[Tribe, Tree]:
    """The model with a table for `names`, from which it is fitted to them.

    A name that the model knows keeps its row; a new one starts from the mean of all
    rows but the unseen subject's, or from that one where it is alone. The row of the
    unseen subject stays, where there is one.

    Args:
      variables: of the trained model, as numpy or jax arrays.
      low_rank: width before the head, if another than the model's: its singular
        directions over all new rows, largest first; 0 is none.

    Raises:
      NeuroFMError: no names, one twice, or more directions than the model is wide.
    """
    if not names or len(set(names)) != len(names):
        raise NeuroFMError(
            f"new subjects are {list(names)}: give one or more, each name once"
        )
    known = len(task.subjects)

    def rows(table: Any) -> np.ndarray:
        table = np.asarray(table)
        mean = (table[:known] if known else table).mean(0)
        at = {name: table[i] for i, name in enumerate(task.subjects)}
        last = [table[-1]] if task.unseen_subject else []
        return np.stack([*(at.get(name, mean) for name in names), *last])

    params = dict(task.inference(variables)["params"])
    params["subjects"] = jax.tree.map(rows, params["subjects"])
    if task.subject_embedding:
        params["subject_embedding"] = rows(params["subject_embedding"])
    rank = task.low_rank if low_rank is None else low_rank
    if rank != task.low_rank:
        params = refactored(params, rank)
    new = replace(task, subjects=tuple(names), low_rank=rank, average_subjects=False)
    new = replace(new, swa_epochs=0)
    return new, {"params": params, "slow": {}, "buffers": variables["buffers"]}


def refactored(params: Tree, rank: int) -> Tree:
    """The same maps of every subject through `rank` features, as near as can be."""
    kernel = np.asarray(params["subjects"]["kernel"], np.float64)
    rest = {k: v for k, v in params.items() if k != "low_rank"}
    if "low_rank" in params:
        kernel = np.asarray(params["low_rank"]["kernel"], np.float64) @ kernel
    if rank > kernel.shape[1]:
        raise NeuroFMError(
            f"low_rank is {rank}, but the model is {kernel.shape[1]} wide: give that "
            "or less"
        )
    if rank:
        # Left singular vectors of all rows side by side, by their Gram matrix.
        gram = np.einsum("sdp,sep->de", kernel, kernel)
        directions = np.linalg.eigh(gram)[1][:, ::-1][:, :rank]
        rest["low_rank"] = {"kernel": directions.astype(np.float32)}
        kernel = directions.T @ kernel
    own = {**params["subjects"], "kernel": kernel.astype(np.float32)}
    return {**rest, "subjects": own}
