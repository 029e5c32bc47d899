"""A split as a file: who is on which side, with the hash of that and of the data.

scheme, groups, gap_s, stimulus    how it was made
data     hash of the dataset
folds    [{name, train, valid, test}], names of examples (`neurofm.eval.places`)
sha256   of all the above
"""

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np

from neurofm import stores
from neurofm.errors import NeuroFMError
from neurofm.eval.places import Places
from neurofm.eval.splits import Fold

NAME = "split.json"
SIDES = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How examples are parted.

    Attributes:
      split: a column, a scheme, `column=value`, or a file, see
        `neurofm.eval.parting.part`.
      groups: column that must not be on both sides.
      gap_s: seconds between examples of two sides in one recording; None: a recording
        is on one side.
      stimulus: column of what was heard or seen, which must not be on two sides.
    """

    split: str = "split"
    groups: str | None = None
    gap_s: float | None = None
    stimulus: str | None = None

    def __post_init__(self):
        if self.gap_s is not None and not 0 <= self.gap_s < math.inf:
            raise NeuroFMError(
                f"the gap between two sides is {self.gap_s} s: give 0 or more seconds"
            )


def content(how: How, data_hash: str, folds: list[Fold], places: Places) -> dict:
    """What the file of a split holds."""
    told = {
        "scheme": how.split,
        "groups": how.groups,
        "gap_s": how.gap_s,
        "stimulus": how.stimulus,
        "data": data_hash,
        "folds": [
            {"name": fold.name}
            | {side: places.name[getattr(fold, side)].tolist() for side in SIDES}
            for fold in folds
        ],
    }
    return {**told, "sha256": _sha256(told)}


def read(path: str, data_hash: str) -> dict[str, Any]:
    """A file of a split of these data.

    Raises:
      NeuroFMError: it is none, was changed, or is of other data.
    """
    try:
        told = json.loads(stores.place(path).read_text())
        named = [
            (fold["name"], name, side)
            for fold in told["folds"]
            for side in SIDES
            for name in fold[side]
        ]
        words = [told.get("data"), told.get("sha256")]
        words += [told.get(k) or "" for k in ("groups", "stimulus")]
        whole = len(told["folds"]) > 0 and all(isinstance(w, str) for w in words)
        whole &= type(told.get("gap_s")) in (float, int, type(None))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NeuroFMError(
            f"{path} cannot be read as a split ({type(error).__name__}: {error}): give "
            f"the {NAME} of an evaluation or of a run"
        ) from error
    if not whole or not all(isinstance(x, str) for each in named for x in each):
        raise NeuroFMError(
            f"{path} is no split, which has data, folds of names, and sha256: give the "
            f"{NAME} of an evaluation or of a run"
        )
    if told["data"] != data_hash:
        raise NeuroFMError(
            f"{path} is a split of other data (hash {told['data'][:12]}, here "
            f"{data_hash[:12]}): give the dataset it was made for, or split again"
        )
    if told["sha256"] != _sha256({k: v for k, v in told.items() if k != "sha256"}):
        raise NeuroFMError(
            f"{path} was changed after it was made (its sha256 differs): take an "
            "untouched copy, or split again by a column"
        )
    return told


def folds(path: str, told: dict[str, Any], places: Places) -> list[Fold]:
    """The rows of each side: of the examples named, or of the recordings named.

    Raises:
      NeuroFMError: it names what the data lack, or leaves a side empty.
    """
    made = []
    for fold in told["folds"]:
        side = {name: side for side in SIDES for name in fold[side]}
        if strange := [name for name in side if name not in places.known]:
            raise NeuroFMError(
                f"{path} names {len(strange)} examples that the data lack (first: "
                f"{strange[0]}): give the dataset it was made for, or split again"
            )
        where = np.array(
            [
                side.get(name, side.get(item, ""))
                for name, item in zip(places.name, places.item, strict=True)
            ]
        )
        rows = {side: np.flatnonzero(where == side) for side in SIDES}
        if not (len(rows["train"]) and len(rows["test"])):
            raise NeuroFMError(
                f"the fold {fold['name']} of {path} has {len(rows['train'])} training "
                f"and {len(rows['test'])} test examples with a target: name another "
                "target, or split again"
            )
        made.append(Fold(**rows, name=fold["name"]))
    return made


def _sha256(told: dict[str, Any]) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
