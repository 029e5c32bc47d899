"""Settings of `models.finetune.Finetune` that do not fit together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.models.finetune import Finetune


def refuse_odd(task: Finetune) -> None:
    """Raises NeuroFMError for settings that say nothing together, and tells why."""
    if not 0 <= task.dropout < 1:
        raise NeuroFMError(
            f"task.dropout is {task.dropout}: give 0 or more and less than 1"
        )
    least = 2 if task.answer == "classes" else 1
    if len(task.classes) < least:
        raise NeuroFMError(
            f"task.classes is {task.classes}: give {least} names or more, or leave "
            "it to the data"
        )
    if task.answer != "classes" and task.label_smoothing:
        raise NeuroFMError(
            f"task.label_smoothing is {task.label_smoothing}, but "
            f"task.answer={task.answer}: classes alone are smoothed"
        )
    if task.answer not in ("classes", "tags") and task.class_weight != "even":
        raise NeuroFMError(
            "task.class_weight=balanced weighs classes and tags, but "
            f"task.answer={task.answer}: leave it out"
        )
    if task.answer == "sequence":
        _refuse_pooled(task)
    if task.head == "flat" and task.pool != "mean":
        raise NeuroFMError(
            f"task.pool is {task.pool}, but task.head=flat pools nothing: leave "
            "task.pool out, or take another head"
        )
    for name in ("weights", "centre", "spread"):
        given = getattr(task, name)
        if given and len(given) != len(task.classes):
            raise NeuroFMError(
                f"task.{name} has {len(given)} values for {len(task.classes)} "
                "task.classes: leave both to the data"
            )
    for name in ("last_layers", "lora_rank", "windows", "bins", "length"):
        if getattr(task, name) < 1:
            raise NeuroFMError(f"task.{name} is {getattr(task, name)}: give 1 or more")
    try:
        re.compile(task.lora_path)
    except re.error as error:
        raise NeuroFMError(
            f"task.lora_path is {task.lora_path!r}, which is no regular expression "
            f"({error})"
        ) from error


def _refuse_pooled(task: Finetune) -> None:
    """A sequence is told token by token, of signals that nobody mixed."""
    for name, is_odd in {
        "pool": task.pool != "mean",
        "center_tokens": task.center_tokens > 0,
        "head": task.head == "flat",
        "scores": task.scores != "plain",
        "augment.mixup": task.augment.mixup > 0,
    }.items():
        if is_odd:
            raise NeuroFMError(
                f"task.{name} is given, but task.answer=sequence tells symbols "
                f"token by token: leave task.{name} out"
            )
