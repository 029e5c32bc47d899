"""From what the columns of labelled examples hold to what a batch holds of them.

Axes: n examples, K tags, numbers or regions, S symbols of a sequence at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from neurofm.contract import BatchSpec
from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from neurofm.config import Data
    from neurofm.data.labelled import Labelled
    from neurofm.objectives.answers import Answer

SYMBOLS = ("characters", "words")  # of a sequence


def answer_of(spec: BatchSpec) -> Answer:
    """What is asked of an example, told by the axes of its label."""
    axes = spec.fields["label"].axes
    if not axes:
        return "classes"
    return "sequence" if axes[0] in SYMBOLS else axes[0]  # pyright: ignore[reportReturnType]


def names(
    examples: Labelled, data: Data, answer: Answer, symbols: str = "characters"
) -> tuple[str, ...]:
    """Of the classes, tags or symbols found, sorted; of numbers, of their columns.

    Raises:
      NeuroFMError: fewer than two classes, no tag or symbol, or no example.
    """
    if answer == "numbers" and len(examples):
        return tuple(name.strip() for name in data.target.split(","))
    found = sorted(
        {word for label in examples.label for word in words(label, answer, symbols)}
    )
    if len(found) < (2 if answer == "classes" else 1):
        told = f"only {found[0]!r}" if found else "none at all"
        counts = ", ".join(
            f"{k} {sum(c[k] for c in examples.counts)}" for k in examples.counts[0]
        )
        what = "two classes" if answer == "classes" else answer
        raise NeuroFMError(
            f"there are not {what} to train on, {told} ({counts}): check "
            "data.target, data.around and the splits"
        )
    return tuple(found)


def words(
    label: tuple[Any, ...], answer: Answer, symbols: str = "characters"
) -> list[str]:
    """The class of an example, its tags, or the symbols of its sequence.

    Raises:
      NeuroFMError: there are several columns.
    """
    if len(label) != 1:
        raise NeuroFMError(
            f"data.target names {len(label)} columns, but task.answer={answer} takes "
            "one: name one, or take task.answer=numbers"
        )
    if answer == "classes":
        return [str(label[0])]
    if answer == "sequence":
        text = str(label[0]).strip()
        return list(text) if symbols == "characters" else text.split()
    return [word.strip() for word in str(label[0]).split(",") if word.strip()]


def labels(
    examples: Labelled, spec: BatchSpec
) -> Int[np.ndarray, " n *S"] | Float[np.ndarray, "n K"]:
    """What a batch holds of each example: see `models.finetune.Finetune.batch_spec`.

    Raises:
      NeuroFMError: a class, tag or symbol that is not trained on, or a word for a
        number.
    """
    field, answer = spec.fields["label"], answer_of(spec)
    if examples.vectors is not None:
        return examples.vectors
    if answer == "numbers":
        return _as_numbers(examples, field.shape[0])
    symbols = field.axes[0] if answer == "sequence" else ""
    each = [words(label, answer, symbols) for label in examples.label]
    number = {name: i for i, name in enumerate(field.words)}
    if unknown := sorted({word for own in each for word in own} - set(number)):
        kind = {"tags": "tag", "sequence": "symbol"}.get(answer, "class")
        raise NeuroFMError(
            f"the {kind} {unknown[0]!r} is none of those trained on "
            f"({', '.join(number)}): mend the labels, or leave its examples out"
        )
    if answer == "classes":
        return np.array([number[own[0]] for own in each], np.int32)
    if answer == "sequence":
        out = np.full((len(each), field.shape[0]), -1, np.int32)
        for row, own in enumerate(each):
            out[row, : len(own)] = [number[word] for word in own]
        return out
    out = np.zeros((len(each), len(number)), np.float32)
    for row, own in enumerate(each):
        out[row, [number[word] for word in own]] = 1
    return out


def _as_numbers(examples: Labelled, k: int) -> Float[np.ndarray, "n K"]:
    out = np.full((len(examples), k), np.nan, np.float32)
    for row, label in enumerate(examples.label):
        for column, value in enumerate(label):
            if value is None:
                continue
            if isinstance(value, str):
                raise NeuroFMError(
                    f"data.target holds the word {value!r}, but task.answer=numbers: "
                    "name a column of numbers, or take task.answer=classes"
                )
            out[row, column] = value
    return out
