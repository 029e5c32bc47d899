"""The suite `encoding` of `neurofm evaluate`: how well features predict fMRI, linearly.

For each subject a ridge with delays and a penalty for every region; runs of one
stimulus are never on both sides of a split. As Antonello et al., "Scaling laws for
language encoding models in fMRI" (2023), but penalties are chosen by leaving one
stimulus out.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from neurofm import stores
from neurofm.data.brains import tr_of
from neurofm.data.records import Dataset, open_dataset
from neurofm.encoding import folds, ridge, stimulus
from neurofm.encoding.scores import correlation
from neurofm.encoding.stimulus import Run
from neurofm.errors import NeuroFMError
from neurofm.eval.stats import interval

_log = logging.getLogger(__name__)

PENALTIES = np.logspace(0, 8, 17)
DELAYS_S = (2.0, 8.0)  # Huth et al. (2016): four volumes of 2 s
CURVE_S = tuple(np.arange(0.0, 13.0, 1.0))


class Fold(NamedTuple):
    """Runs of one subject to fit on and to test on."""

    train: list[Run]
    test: list[Run]


class Scored(NamedTuple):
    """Scores of one subject.

    Attributes:
      r: correlation with the response in each fold; NaN where a region is masked.
      shuffled: the same for predictions that were moved in time.
      penalties: of each fold.
      curve: mean correlation with one delay alone, in the order of the delays.
      n_tested: volumes of the runs that were held out.
    """

    r: Float[np.ndarray, "K V"]
    shuffled: Float[np.ndarray, "K V"]
    penalties: Float[np.ndarray, "K V"]
    curve: Float[np.ndarray, " D"]
    n_tested: int


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place,
    out: Path,
    delays_s: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Score features, set side by side, against a brain; see `neurofm.evaluate`.

    Writes OUT/targets.parquet (subject, region, r, penalty) and figures.

    Args:
      given: feature stores, or folders of embeddings.
      data: an fMRI store.
      delays_s: of the responses behind the features, in seconds, each rounded to
        volumes; by default all volumes from 2 to 8 s.

    Returns:
      `scores`: `model`, the correlation on held-out runs, its mean over regions and
      subjects; `chance`, that of predictions moved in time against the response.

    Raises:
      NeuroFMError: what was given does not fit together, and why.
    """
    brain = open_dataset(data)
    found = stimulus.runs([stimulus.pieces(path) for path in given], brain)
    tr_s = tr_of(brain)
    first, last = (round(s / tr_s) for s in DELAYS_S)
    delays = list(range(first, last + 1))
    if delays_s:
        delays = sorted({round(s / tr_s) for s in delays_s})
    alone = sorted({round(s / tr_s) for s in CURVE_S})
    people = sorted({run.subject for run in found})
    scored = {}
    for name in people:
        _log.info("fitting subject %s", name)
        mine = [run for run in found if run.subject == name]
        scored[name] = _score(name, mine, delays, alone)
    means = np.array([_mean(one.r) for one in scored.values()])
    shuffled = np.array([_mean(one.shuffled) for one in scored.values()])
    if np.isnan(means).any():
        raise NeuroFMError(
            f"subject {people[int(np.isnan(means).argmax())]} of {data} has no region "
            "that changes in the runs it is tested on: check them with `neurofm check`"
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_targets(out, scored, brain)
    _draw(out, scored, [d * tr_s for d in alone])
    return {
        "metric": "correlation",
        "over": "subjects",
        "delays_s": [d * tr_s for d in delays],
        "left_out": {
            "runs": len(brain) - len(found),
            "volumes": sum(run.n_left_out for run in found),
            "regions": int(
                sum(np.isnan(one.r).all(0).sum() for one in scored.values())
            ),
        },
        "scores": {
            "model": _entry(means, scored),
            "chance": {"mean": float(shuffled.mean()), "std": float(shuffled.std())},
            "by subject": {
                name: {"mean": float(_mean(one.r)), "std": _spread(one)}
                for name, one in scored.items()
            },
        },
    }


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


def _score(
    name: str, found: Sequence[Run], delays: Sequence[int], alone: Sequence[int]
) -> Scored:
    r, shuffled, penalties, curves, n_tested = [], [], [], [], 0
    for train, test in splits(name, found):
        X, Y = stimulus.delayed(train, delays), np.concatenate([t.Y for t in train])
        truth = np.concatenate([t.Y for t in test])
        fitted = ridge.fit(X, Y, PENALTIES, _inner(train))
        guess = ridge.predict(stimulus.delayed(test, delays), fitted.weights)
        n_tested += len(truth)
        r.append(correlation(truth, guess))
        shuffled.append(correlation(truth, np.roll(guess, len(guess) // 2, 0)))
        penalties.append(fitted.penalties)
        curves.append([_one_delay(train, test, d, Y, truth, fitted) for d in alone])
    return Scored(
        np.array(r),
        np.array(shuffled),
        np.array(penalties),
        np.mean(curves, 0),
        n_tested,
    )


def _one_delay(train, test, delay, Y, truth, fitted: ridge.Ridge) -> float:
    """Mean correlation of a model with one delay and the penalties of the whole one."""
    weights = ridge.solve(stimulus.delayed(train, [delay]), Y, fitted.penalties)
    guess = ridge.predict(stimulus.delayed(test, [delay]), weights)
    return float(_mean(correlation(truth, guess)))


def _inner(train: Sequence[Run]) -> folds.Splits:
    """Rows held out to choose penalties: each stimulus, or stretches of one."""
    rows = np.concatenate([[run.timeline] * len(run.X) for run in train])
    if len(set(rows.tolist())) > 1:
        return folds.by_run(rows)
    return folds.contiguous(len(rows))


def _entry(means: np.ndarray, scored: dict[str, Scored]) -> dict[str, Any]:
    n = sum(one.n_tested for one in scored.values())
    if len(means) == 1:
        (one,) = scored.values()
        return {"mean": float(means[0]), "std": _spread(one), "n": n}
    found = interval(means, np.ones(len(means)), np.array(list(scored)))
    return {
        "mean": found.value,
        "std": float(means.std()),
        "low": found.low,
        "high": found.high,
        "n": n,
    }


def _spread(one: Scored) -> float:
    return float(np.nanstd(_mean(one.r, 1)))


def _write_targets(out: Path, scored: dict[str, Scored], brain: Dataset) -> None:
    tables = [
        pa.table(
            {
                "subject": [name] * one.r.shape[1],
                "region": list(brain.info.ch_names),
                "r": _mean(one.r, 0),
                "penalty": np.exp(_mean(np.log(one.penalties), 0)),
            }
        )
        for name, one in scored.items()
    ]
    draft = out / "targets.parquet.partial"
    pq.write_table(pa.concat_tables(tables), draft)
    draft.replace(out / "targets.parquet")


def _mean(x: Float[np.ndarray, "..."], axis: int | None = None) -> np.ndarray:
    """Over what is known; NaN where nothing is, without a warning."""
    known = np.isfinite(x)
    total, n = np.where(known, x, 0).sum(axis), known.sum(axis)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _draw(out: Path, scored: dict[str, Scored], curve_s: Sequence[float]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    from neurofm.report.spectrogram import save_png

    r = np.array([_mean(one.r, 0) for one in scored.values()])
    figure = Figure((10, 3), layout="constrained")
    spread, strip, curve = figure.subplots(1, 3, width_ratios=(1, 2, 1))
    spread.hist(r[np.isfinite(r)], 30)
    spread.set(xlabel="correlation", ylabel="regions")
    limit = float(np.nanmax(abs(r)))
    shown = strip.imshow(
        r, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="none"
    )
    strip.set(xlabel="region, in the order of the atlas")
    strip.set_yticks(range(len(r)), list(scored))
    figure.colorbar(shown, ax=strip, label="correlation")
    for name, one in scored.items():
        curve.plot(curve_s, one.curve, label=name)
    curve.set(xlabel="one delay alone, s", ylabel="mean correlation")
    save_png(
        figure,
        out / "figures" / "encoding.png",
        "Correlation of predicted and measured responses on held-out runs: of all "
        "regions, of each region and subject, and by the delay of the response.",
    )
