"""Examples parted into sides: by a column, a scheme or a file, and checked for leaks.

Axis letters: N examples.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from neurofm.errors import NeuroFMError
from neurofm.eval import leaks, split_file
from neurofm.eval.places import Places
from neurofm.eval.split_file import How
from neurofm.eval.splits import SCHEME, Fold, checked, folds
from neurofm.registry import suggest


class Parted(NamedTuple):
    """Who is on which side.

    Attributes:
      folds: rows of every side.
      groups, stimulus: what was not to be on both sides, or None.
      blocks: number of the stretch of its recording that each example is in, where
        recordings were parted in time.
      near: how many rows were left out as too near to another side.
      content: what the file of the split holds.
    """

    folds: list[Fold]
    groups: Shaped[np.ndarray, " N"] | None
    stimulus: Shaped[np.ndarray, " N"] | None
    blocks: Int[np.ndarray, " N"] | None
    near: int
    content: dict[str, Any]


def part(
    columns: Mapping[str, list[Any]], places: Places, how: How, data_hash: str
) -> Parted:
    """Part examples.

    Args:
      columns: of the examples.
      how: `split` is a column of train, valid and test or of fold numbers, a scheme
        (see `neurofm.eval.splits.folds`), `column=value` to test the rows of one
        value, or a file that an earlier split was written to (`*.json`).

    Raises:
      NeuroFMError: an unknown column, a split that cannot be made, or one that leaks.
    """
    told = None
    if how.split.endswith(".json"):
        told = split_file.read(how.split, data_hash)
        if how.gap_s is not None or how.stimulus is not None:
            raise NeuroFMError(
                f"{how.split} says itself what is kept apart: leave --gap and "
                "--stimulus out"
            )
        own = {name: told.get(name) for name in ("gap_s", "stimulus")}
        how = replace(how, groups=how.groups or told.get("groups"), **own)
    group = None if how.groups is None else values(columns, "groups", how.groups)
    stimulus = None
    if how.stimulus is not None:
        stimulus = values(columns, "stimulus", how.stimulus)
    blocks, near = None, 0
    if told is not None:
        made = checked(split_file.folds(how.split, told, places), group)
        leaks.refuse(made, places, how.gap_s, stimulus)
        return Parted(made, group, stimulus, blocks, near, told)
    split = _split(columns, how.split)
    start, end = places.extent.T
    moment = (places.span.mean(1) - start) / np.maximum(end - start, 1e-9)
    if isinstance(split, str) and (of := SCHEME.fullmatch(split)) and of[2] == "blocks":
        if how.gap_s is None:
            raise NeuroFMError(
                f"{split} parts recordings in time: name the seconds between training "
                "and test as --gap"
            )
        blocks = _blocks(places, moment, int(of[3]))
    made = folds(split, _numbered(places.timeline), group, moment)
    if how.gap_s is not None:
        kept = [leaks.guarded(fold, places, how.gap_s) for fold in made]
        made, near = [fold for fold, _ in kept], sum(lost for _, lost in kept)
    leaks.refuse(made, places, how.gap_s, stimulus)
    told = split_file.content(how, data_hash, made, places)
    return Parted(made, group, stimulus, blocks, near, told)


def values(
    columns: Mapping[str, list[Any]], what: str, name: str
) -> Shaped[np.ndarray, " N"]:
    """A column as whole numbers, floats or words; missing values are refused."""
    if name not in columns:
        raise unknown(what, name, list(columns))
    found = columns[name]
    if missing := sum(value is None for value in found):
        raise NeuroFMError(
            f"the column {name!r} used as {what} has no value in {missing} of "
            f"{len(found)} rows; fill it in, or remove those rows"
        )
    kinds = {type(value) for value in found}
    if kinds <= {int, bool}:
        return np.array(found, int)
    return np.array(found, float) if kinds <= {int, float} else np.array(found, str)


def unknown(what: str, name: str, known: list[str]) -> NeuroFMError:
    """What to say of a column that is not there."""
    names = list(dict.fromkeys(known))
    return NeuroFMError(
        f"the data has no column {name!r} to use as {what}; {suggest(name, names)}"
    )


def _split(
    columns: Mapping[str, list[Any]], split: str
) -> str | Shaped[np.ndarray, " N"]:
    """The scheme as it is, or the column that is meant."""
    if split in columns:
        words = ["" if value is None else value for value in columns[split]]
        if "" in words and not {"train", "test"} & set(words):
            raise NeuroFMError(
                f"the split column {split!r} is blank in {words.count('')} of "
                f"{len(words)} rows; name a column of train, valid and test or of "
                "fold numbers, a scheme such as groupkfold:5, or column=value"
            )
        return values({split: words}, "split", split)
    if SCHEME.fullmatch(split):
        return split
    column, equals, value = split.partition("=")
    if not equals:
        known = [*columns, "logo", "groupkfold:5", "kfold:5", "blocks:5"]
        raise unknown("split", split, known)
    if column not in columns:
        raise unknown("split", column, list(columns))
    tested = np.array([str(v) == value for v in columns[column]], bool)
    if not tested.any():
        words = sorted({str(v) for v in columns[column]})
        raise NeuroFMError(
            f"--split {split} meets no row; {column} is one of "
            f"{', '.join(words[:20])}{', ...' if len(words) > 20 else ''}"
        )
    return np.where(tested, "test", "train")


def _numbered(names: Shaped[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Names as numbers in the order in which they first come."""
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[member]


def _blocks(places: Places, moment: np.ndarray, k: int) -> Int[np.ndarray, " N"]:
    block = np.clip((moment * k).astype(int), 0, k - 1)
    return _numbered(places.timeline) * k + block
