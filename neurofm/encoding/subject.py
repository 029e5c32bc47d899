"""One subject of the suite `encoding`: fitted, and tested on stimuli never fitted.

Axes: K folds, V regions, D delays, T volumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from neurofm.encoding import banded, folds, partition, ridge, significance
from neurofm.encoding.repeats import Tested
from neurofm.encoding.scores import correlation, mean_of_known
from neurofm.encoding.stimulus import Run, delayed
from neurofm.errors import NeuroFMError

PENALTIES = np.logspace(0, 8, 17)
N_SHARES = 30  # of the spaces, tried for each region
PARTITIONED = (2, 3)  # spaces; the models to fit double with each
PENALTY_KINDS = ("ridge", "banded")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How every subject is fitted.

    Attributes:
      delays: of the responses behind the features, in volumes.
      curve: delays that are each tried alone, in volumes.
      spaces: names of the feature spaces.
      penalty: `ridge`, one for all features, or `banded`, with shares of the spaces.
      permutations: reorderings of the prediction that chance is told from.
      block: volumes that stay together in them.
    """

    delays: tuple[int, ...]
    curve: tuple[int, ...]
    spaces: tuple[str, ...]
    penalty: str
    permutations: int
    block: int


class Fold(NamedTuple):
    """Runs of one subject to fit on and to test on."""

    train: list[Run]
    test: list[Run]


class Scored(NamedTuple):
    """Scores of one subject.

    Attributes:
      columns: scores of every region by name, each a mean over folds; NaN where a
        region is masked. `r` is the correlation with the response, `chance` its mean
        over reordered predictions, `p` how often those are at least as high, `q` the
        same for all regions (Benjamini and Hochberg); `penalty`, and of `banded` a
        `share` for each space; of two or three spaces `r2` of each set of them, and
        what these `only` explain.
      r: correlation in each fold.
      curve: mean correlation with one delay alone, in the order of the delays.
      tested: every run that was held out, with its prediction.
    """

    columns: dict[str, Float[np.ndarray, " V"]]
    r: Float[np.ndarray, "K V"]
    curve: Float[np.ndarray, " D"]
    tested: list[Tested]


class Fitted(NamedTuple):
    weights: Float[np.ndarray, "F V"]
    penalties: Float[np.ndarray, " V"]
    shares: Float[np.ndarray, "B V"]  # all 1 where there are none


def score(name: str, found: Sequence[Run], settings: Settings) -> Scored:
    """Fit and test in each fold of `splits`.

    Raises:
      NeuroFMError: see `splits`.
    """
    columns, curves, tested, nulls = [], [], [], []
    numbers = {t: i for i, t in enumerate(sorted({run.timeline for run in found}))}
    for train, test in splits(name, found):
        fitted = fit(train, settings)
        guess = ridge.predict(delayed(test, settings.delays), fitted.weights)
        truth = np.concatenate([run.Y for run in test])
        one = {"r": correlation(truth, guess), "log_penalty": np.log(fitted.penalties)}
        if settings.penalty == "banded":
            known = np.where(np.isnan(fitted.penalties), np.nan, fitted.shares)
            one |= {
                f"share {n}": x for n, x in zip(settings.spaces, known, strict=True)
            }
        if len(settings.spaces) in PARTITIONED:
            one |= _partitioned(train, test, settings)
        columns.append(one)
        rows = reordered(test, settings.block, settings.permutations, numbers)
        nulls.append(significance.null_correlations(truth, guess, rows))
        curves.append([_one_delay(train, test, d, fitted) for d in settings.curve])
        tested += _by_run(test, guess)
    means = {n: mean_of_known(np.stack([c[n] for c in columns]), 0) for n in columns[0]}
    means["penalty"] = np.exp(means.pop("log_penalty"))
    means |= beside_chance(means["r"], mean_of_known(np.stack(nulls), 0))
    r = np.stack([one["r"] for one in columns])
    return Scored(means, r, np.mean(curves, 0), tested)


def fit(train: Sequence[Run], settings: Settings) -> Fitted:
    """Penalties, and shares of spaces, of each region by held-out stimuli; weights."""
    X, Y = delayed(train, settings.delays), np.concatenate([run.Y for run in train])
    if settings.penalty == "banded":
        bands = _bands(train[0], settings.delays)
        found = banded.fit(X, bands, Y, PENALTIES, _inner(train), N_SHARES)
        return Fitted(found.weights, found.penalties, found.shares)
    model = ridge.fit(X, Y, PENALTIES, _inner(train))
    ones = np.ones((len(settings.spaces), Y.shape[1]))
    return Fitted(model.weights, model.penalties, ones)


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


def _partitioned(
    train: Sequence[Run], test: Sequence[Run], settings: Settings
) -> dict[str, Float[np.ndarray, " V"]]:
    """R² of the model of each set of spaces, and what each set alone explains."""
    bands = _bands(train[0], settings.delays)

    def spaces(runs: Sequence[Run]) -> dict[str, np.ndarray]:
        X = delayed(runs, settings.delays)
        return {name: X[:, bands == b] for b, name in enumerate(settings.spaces)}

    found = partition.fit(
        spaces(train),
        np.concatenate([run.Y for run in train]),
        spaces(test),
        np.concatenate([run.Y for run in test]),
        PENALTIES,
        _inner(train),
    )
    each = {f"r2 {'+'.join(names)}": x for names, x in found.r2.items()}
    return each | {f"only {'+'.join(names)}": x for names, x in found.parts.items()}


def reordered(
    test: Sequence[Run], block: int, n: int, numbers: Mapping[str, int]
) -> Int[np.ndarray, "N T"]:
    """Rows of held-out runs, each run's blocks of volumes in `n` random orders.

    Repeats of a stimulus are reordered alike, as their predictions are alike.
    """
    start, parts = 0, []
    for run in test:
        length, seed = len(run.times), (0, numbers[run.timeline])
        orders = significance.block_orders(length, block, n, seed)
        parts.append(start + significance.block_rows(length, block, orders))
        start += length
    return np.concatenate(parts, 1)


def refuse_silent(name: str, r: Float[np.ndarray, "K V"]) -> None:
    """Raise NeuroFMError where a subject has no region with a score."""
    if not np.isfinite(r).any():
        raise NeuroFMError(
            f"subject {name} has no region that changes in the runs it is tested "
            "on: check them with `neurofm check`"
        )


def beside_chance(
    r: Float[np.ndarray, " V"], null: Float[np.ndarray, "N V"]
) -> dict[str, Float[np.ndarray, " V"]]:
    """`chance`, `p` and `q` of `Scored`, from correlations of reordered predictions."""
    p = significance.p_values(r, null)
    q = significance.false_discovery_q(p)
    return {"chance": mean_of_known(null, 0), "p": p, "q": q}


def _one_delay(train, test, delay: int, fitted: Fitted) -> float:
    """Mean correlation of a model with one delay and the penalties of the whole one.

    Spaces have their mean shares over regions.
    """
    known = np.isfinite(fitted.penalties)
    roots = np.sqrt(fitted.shares[:, known].mean(1))[_bands(train[0], [delay])]
    X, held = (delayed(runs, [delay]) * np.float32(roots) for runs in (train, test))
    Y, truth = (np.concatenate([run.Y for run in runs]) for runs in (train, test))
    guess = ridge.predict(held, ridge.solve(X, Y, fitted.penalties))
    return float(mean_of_known(correlation(truth, guess)))


def _bands(run: Run, delays: Sequence[int]) -> Int[np.ndarray, " F"]:
    """The space of each delayed feature."""
    return np.tile(np.repeat(np.arange(len(run.widths)), run.widths), len(delays))


def _inner(train: Sequence[Run]) -> folds.Splits:
    """Rows held out to choose penalties: each stimulus, or stretches of one."""
    rows = np.concatenate([[run.timeline] * len(run.X) for run in train])
    if len(set(rows.tolist())) > 1:
        return folds.by_run(rows)
    return folds.contiguous(len(rows))


def _by_run(test: Sequence[Run], guess: Float[np.ndarray, "T V"]) -> list[Tested]:
    ends = np.cumsum([len(run.X) for run in test])[:-1]
    return [Tested(*pair) for pair in zip(test, np.split(guess, ends), strict=True)]
