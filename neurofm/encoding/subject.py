"""One subject of the suite `encoding`: fitted, and tested on stimuli never fitted.

Axes: K folds, V regions, D delays, T volumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from neurofm.encoding import folds, ridge
from neurofm.encoding.repeats import Tested
from neurofm.encoding.scores import correlation, mean_of_known
from neurofm.encoding.stimulus import Run, delayed
from neurofm.errors import NeuroFMError

PENALTIES = np.logspace(0, 8, 17)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How every subject is fitted.

    Attributes:
      delays: of the responses behind the features, in volumes.
      curve: delays that are each tried alone, in volumes.
    """

    delays: tuple[int, ...]
    curve: tuple[int, ...]


class Fold(NamedTuple):
    """Runs of one subject to fit on and to test on."""

    train: list[Run]
    test: list[Run]


class Scored(NamedTuple):
    """Scores of one subject.

    Attributes:
      columns: scores of every region by name, each a mean over folds; NaN where a
        region is masked. `r` is the correlation with the response.
      r: the same in each fold.
      shuffled: of predictions that were moved in time.
      curve: mean correlation with one delay alone, in the order of the delays.
      tested: every run that was held out, with its prediction.
    """

    columns: dict[str, Float[np.ndarray, " V"]]
    r: Float[np.ndarray, "K V"]
    shuffled: Float[np.ndarray, "K V"]
    curve: Float[np.ndarray, " D"]
    tested: list[Tested]


def score(name: str, found: Sequence[Run], settings: Settings) -> Scored:
    """Fit and test in each fold of `splits`.

    Raises:
      NeuroFMError: see `splits`.
    """
    r, shuffled, penalties, curves, tested = [], [], [], [], []
    for train, test in splits(name, found):
        X, Y = delayed(train, settings.delays), np.concatenate([t.Y for t in train])
        truth = np.concatenate([t.Y for t in test])
        fitted = ridge.fit(X, Y, PENALTIES, _inner(train))
        guess = ridge.predict(delayed(test, settings.delays), fitted.weights)
        tested += _by_run(test, guess)
        r.append(correlation(truth, guess))
        shuffled.append(correlation(truth, np.roll(guess, len(guess) // 2, 0)))
        penalties.append(fitted.penalties)
        curves.append(
            [_one_delay(train, test, d, Y, truth, fitted) for d in settings.curve]
        )
    penalty = np.exp(mean_of_known(np.log(np.array(penalties)), 0))
    return Scored(
        {"r": mean_of_known(np.array(r), 0), "penalty": penalty},
        np.array(r),
        np.array(shuffled),
        np.mean(curves, 0),
        tested,
    )


def splits(name: str, found: Sequence[Run]) -> list[Fold]:
    """The given split where it has one; else each stimulus is held out in turn.

    Raises:
      NeuroFMError: one stimulus, and no split.
    """
    test = [run for run in found if run.split == "test"]
    train = [run for run in found if run.split != "test"]
    if test and train:
        clash = {run.timeline for run in test} & {run.timeline for run in train}
        if clash:
            raise NeuroFMError(
                f"the stimulus {min(clash)!r} is in training and in test runs of "
                f"subject {name}: put all of its runs on one side"
            )
        return [Fold(train, test)]
    timelines = sorted({run.timeline for run in found})
    if len(timelines) < 2:
        raise NeuroFMError(
            f"subject {name} has runs of one stimulus only ({timelines[0]!r}): a score "
            "needs another one to test on; prepare more runs, or cut this one in two "
            "timelines"
        )
    return [
        Fold(
            [run for run in found if run.timeline != held],
            [run for run in found if run.timeline == held],
        )
        for held in timelines
    ]


def _one_delay(train, test, delay, Y, truth, fitted: ridge.Ridge) -> float:
    """Mean correlation of a model with one delay and the penalties of the whole one."""
    weights = ridge.solve(delayed(train, [delay]), Y, fitted.penalties)
    guess = ridge.predict(delayed(test, [delay]), weights)
    return float(mean_of_known(correlation(truth, guess)))


def _inner(train: Sequence[Run]) -> folds.Splits:
    """Rows held out to choose penalties: each stimulus, or stretches of one."""
    rows = np.concatenate([[run.timeline] * len(run.X) for run in train])
    if len(set(rows.tolist())) > 1:
        return folds.by_run(rows)
    return folds.contiguous(len(rows))


def _by_run(test: Sequence[Run], guess: Float[np.ndarray, "T V"]) -> list[Tested]:
    ends = np.cumsum([len(run.X) for run in test])[:-1]
    return [Tested(*pair) for pair in zip(test, np.split(guess, ends), strict=True)]
