"""Which items are trained on, chosen on and tested on.

Axis letters: N items, M some of them.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Shaped

from neurofm.errors import NeuroFMError

SCHEME = re.compile(r"(logo)|(groupkfold|kfold|blocks):([0-9]+)(?::([0-9]+))?")
SCHEMES = "logo, groupkfold:K, kfold:K and blocks:K"


def _none() -> Int[np.ndarray, "0"]:
    return np.array([], int)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Row numbers; an empty `valid` means that choices are made by inner folds.

    `name` tells folds apart: the group, value or number that is tested.
    """

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]
    valid: Int[np.ndarray, " valid"] = field(default_factory=_none)
    name: str = "test"


def folds(
    split: str | Shaped[np.ndarray, " N"],
    recordings: Int[np.ndarray, " N"],
    groups: Shaped[np.ndarray, " N"] | None = None,
    moment: Float[np.ndarray, " N"] | None = None,
) -> list[Fold]:
    """Folds of a scheme or a column.

    Args:
      split: `logo` (each group is tested once), `groupkfold:K`, `kfold:K` (drawn with
        the seed 0, `kfold:K:SEED` with another), `blocks:K` (of K equal parts of the
        time of each recording one is tested and the next one chosen on), or a column:
        the words train, valid and test make one fold (rows without a word are left
        out), anything else is fold numbers, each tested once.
      recordings: number of each item's recording; `kfold:K` keeps recordings whole.
      groups: what must not be on both sides of a split, as speaker or subject.
      moment: when each item is, from 0 at the start of its recording to 1 at its end.

    Raises:
      NeuroFMError: an unknown scheme, too few groups or folds, or a group on both
        sides.
    """
    if isinstance(split, str) and split.startswith("blocks:"):
        return checked(_blocks(split, moment), groups)
    if isinstance(split, str):
        test_sets = _scheme(split, recordings, groups)
    elif {"train", "test"} & set(split.tolist()):
        words = ("train", "valid", "test")
        train, valid, test = (np.flatnonzero(split == word) for word in words)
        other = set(split.tolist()) - {*words, ""}
        if other or not len(train) or not len(test):
            raise NeuroFMError(
                f"the split column has {len(train)} rows of train, {len(valid)} of "
                f"valid, {len(test)} of test and the other words {sorted(other)}; it "
                "needs rows of train and of test, and no other words"
            )
        return checked([Fold(train=train, valid=valid, test=test)], groups)
    else:
        test_sets = {str(n): np.flatnonzero(split == n) for n in np.unique(split)}
        if len(test_sets) < 2:
            raise NeuroFMError(
                f"the split column holds one value only ({split[0]}); it needs the "
                "words train and test, or at least two folds"
            )
    rows = np.arange(len(recordings))
    made = [
        Fold(train=np.setdiff1d(rows, test), test=test, name=name)
        for name, test in test_sets.items()
    ]
    return checked(made, groups)


def inner_folds(
    rows: Int[np.ndarray, " M"], groups: Shaped[np.ndarray, " N"] | None, k: int = 5
) -> list[Fold]:
    """Folds of some rows: by group where there are groups to part, else by row."""
    labels = (
        rows if groups is None or len(np.unique(groups[rows])) < 2 else groups[rows]
    )
    return [
        Fold(train=np.setdiff1d(rows, rows[part]), test=rows[part])
        for part in _group_k_fold(labels, min(k, len(np.unique(labels))))
    ]


def _scheme(
    split: str,
    recordings: Int[np.ndarray, " N"],
    groups: Shaped[np.ndarray, " N"] | None,
) -> dict[str, Int[np.ndarray, " _"]]:
    """Test rows by the name of their fold."""
    found = SCHEME.fullmatch(split)
    if found is None:
        raise NeuroFMError(
            f"{split!r} is neither a column nor a scheme; the schemes are {SCHEMES}"
        )
    if found[2] == "kfold":
        labels, k = recordings, int(found[3])
    elif groups is None:
        raise NeuroFMError(f"the split {split!r} needs groups: name their column")
    elif found[1] and len(names := np.unique(groups)) > 1:
        return {str(name): np.flatnonzero(groups == name) for name in names}
    else:
        labels, k = groups, int(found[3] or 1)
    if not 2 <= k <= len(np.unique(labels)):
        raise NeuroFMError(
            f"{split!r} asks for {k} folds of {len(np.unique(labels))} groups or "
            "recordings; give at least 2 folds and no more than there are groups"
        )
    drawn = _group_k_fold(labels, k, int(found[4] or 0))
    return {str(i): rows for i, rows in enumerate(drawn)}


def _blocks(split: str, moment: Float[np.ndarray, " N"] | None) -> list[Fold]:
    found = SCHEME.fullmatch(split)
    if found is None or found[4] or int(found[3]) < 3 or moment is None:
        raise NeuroFMError(
            f"{split!r} is no split of recordings in time: write it as blocks:K, with "
            "3 or more blocks, one to test, one to choose on and others to train on"
        )
    k = int(found[3])
    block = np.clip((moment * k).astype(int), 0, k - 1)
    made = []
    for i in range(k):
        test, valid = block == i, block == (i + 1) % k
        rows = [np.flatnonzero(which) for which in (~test & ~valid, valid, test)]
        if not (len(rows[0]) and len(rows[2])):
            raise NeuroFMError(
                f"{split!r} leaves the block {i} without examples to test or to train "
                "on: give fewer blocks"
            )
        made.append(Fold(train=rows[0], valid=rows[1], test=rows[2], name=str(i)))
    return made


def _group_k_fold(
    labels: Shaped[np.ndarray, " M"], k: int, seed: int = 0
) -> list[Int[np.ndarray, " _"]]:
    """Positions in k folds of nearly equal size; equal labels share a fold.

    The largest label goes to the emptiest fold first; equally large ones come in an
    order drawn with the seed.
    """
    _, label, size = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(size))
    order = order[np.argsort(-size[order], kind="stable")]
    filled = np.zeros(k, int)
    fold = np.empty(len(size), int)
    for name in order:
        fold[name] = filled.argmin()
        filled[fold[name]] += size[name]
    return [np.flatnonzero(fold[label] == i) for i in range(k)]


def checked(made: list[Fold], groups: Shaped[np.ndarray, " N"] | None) -> list[Fold]:
    """The folds as they are.

    Raises:
      NeuroFMError: a group is tested in a fold that knows it.
    """
    if groups is None:
        return made
    for fold in made:
        seen = set(groups[np.concatenate([fold.train, fold.valid])].tolist())
        if both := seen & set(groups[fold.test].tolist()):
            names = ", ".join(sorted(map(str, both))[:5])
            raise NeuroFMError(
                f"{len(both)} groups are in training and in test ({names}); choose a "
                "split that keeps a group on one side, or name no groups"
            )
    return made
