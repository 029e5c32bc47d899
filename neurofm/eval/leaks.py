"""What must not be on two sides of a split, kept apart or refused.

Windows of one recording are alike because they are neighbours in time, and those of one
stimulus because the same thing was heard or seen; a model that is tested on what it
nearly trained on scores too well.

Axis letters: N examples, M some of them, K stretches of time.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from neurofm.errors import NeuroFMError
from neurofm.eval.places import Places
from neurofm.eval.splits import Fold

RECORDINGS = ("timeline", "sha256")  # what tells that two examples are of one


def guarded(fold: Fold, places: Places, gap_s: float) -> tuple[Fold, int]:
    """The fold less what lies nearer than the gap to another side, and how much less.

    Training gives way to validation, and both to the test.
    """
    valid = fold.valid[~_near(fold.valid, fold.test, places, gap_s)]
    other = np.concatenate([fold.test, valid])
    train = fold.train[~_near(fold.train, other, places, gap_s)]
    lost = len(fold.valid) - len(valid) + len(fold.train) - len(train)
    if not len(train):
        raise NeuroFMError(
            f"a gap of {gap_s:g} s leaves no training example in the fold {fold.name}: "
            "give a shorter --gap, or longer blocks"
        )
    return dataclasses.replace(fold, train=train, valid=valid), lost


def refuse(
    folds: list[Fold],
    places: Places,
    gap_s: float | None = None,
    stimulus: Shaped[np.ndarray, " N"] | None = None,
) -> None:
    """Refuse a recording or a stimulus that is on two sides of a fold.

    Args:
      gap_s: sides may share a recording where they lie so many seconds apart; None:
        they may not.
      stimulus: what each example was heard or seen, where it is told.

    Raises:
      NeuroFMError: what is on which sides.
    """
    whole = {} if stimulus is None else {"stimulus": stimulus}
    if gap_s is None:
        whole |= {kind: getattr(places, kind) for kind in RECORDINGS}
    numbered = {
        kind: np.unique(values, return_inverse=True) for kind, values in whole.items()
    }
    for fold in folds:
        for one, a, other, b in _pairs(fold):
            for kind, (names, number) in numbered.items():
                there = np.zeros((2, len(names)), bool)
                there[0, number[a]] = there[1, number[b]] = True
                _refuse_shared(kind, names[there.all(0)], one, other)
            if gap_s is None:
                continue
            if (near := _near(a, b, places, gap_s)).any():
                raise NeuroFMError(
                    f"{places.name[a[near][0]]} of the split {one} lies nearer than "
                    f"{gap_s:g} s to an example of {other} in the same recording: "
                    "split again with that --gap"
                )


def _pairs(fold: Fold) -> Iterator[tuple[str, np.ndarray, str, np.ndarray]]:
    yield "train", fold.train, "test", fold.test
    yield "train", fold.train, "valid", fold.valid
    yield "valid", fold.valid, "test", fold.test


def _refuse_shared(
    kind: str, both: Shaped[np.ndarray, " _"], one: str, other: str
) -> None:
    if len(both):
        way = (
            "give all of a recording one split, or name the seconds between them as gap"
        )
        if kind == "stimulus":
            way = "give all of a stimulus one split"
        raise NeuroFMError(
            f"{kind} {both[0]} is in the splits {one} and {other} ({len(both)} such in "
            f"all), so what is learnt leaks into the score: {way}"
        )


def _near(
    rows: Int[np.ndarray, " M"],
    others: Int[np.ndarray, " _"],
    places: Places,
    gap_s: float,
) -> Bool[np.ndarray, " M"]:
    """Which rows lie nearer than the gap to one of the others, on their recording."""
    out = np.zeros(len(rows), bool)
    for kind in RECORDINGS:
        names = getattr(places, kind)
        mine, theirs = names[rows], names[others]
        for name in np.intersect1d(mine, theirs):
            here = np.flatnonzero(mine == name)
            taken = _joined(places.span[others[theirs == name]], gap_s)
            span = places.span[rows[here]]
            before = np.searchsorted(taken[:, 0], span[:, 1], side="left") - 1
            meets = taken[np.maximum(before, 0), 1] > span[:, 0]
            out[here] |= (before >= 0) & meets
    return out


def _joined(spans: Float[np.ndarray, "M 2"], gap_s: float) -> Float[np.ndarray, "K 2"]:
    """Spans made longer by the gap at both ends; in order, those that meet as one."""
    spans = spans[np.argsort(spans[:, 0])] + np.array([-gap_s, gap_s])
    ends = np.maximum.accumulate(spans[:, 1])
    first = np.r_[True, spans[1:, 0] > ends[:-1]]
    return np.stack([spans[first, 0], ends[np.r_[first[1:], True]]], 1)
