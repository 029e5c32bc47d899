"""Scores of probes that are fitted on a few labels only, drawn several times.

Axis letters: N examples.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from neurofm.errors import NeuroFMError
from neurofm.eval import probe, scores
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates
from neurofm.eval.splits import Fold
from neurofm.eval.stats import interval

_log = logging.getLogger(__name__)

Point = dict[str, Any]


def curves(
    systems: Mapping[str, Sequence[Candidates]],
    baselines: Candidates,
    examples: Examples,
    counts: Sequence[int],
    n_draws: int,
    fit: scores.Fit = probe.fit,
) -> dict[str, list[Point]]:
    """Name -> `labels`, mean, low and high, a point a count; the test rows are all.

    Choices are made by inner folds of the few: who has few labels has no others to
    choose on. Intervals are over what those of the whole score are drawn over, of the
    mean of the draws.

    Args:
      counts: training examples of each class (all of a smaller one), or of numbers in
        all.
      n_draws: other draws of them; smaller counts are part of larger ones.

    Raises:
      NeuroFMError: no count is below what there is.
    """
    most = min(_most(examples.target, fold) for fold in examples.folds)
    usable = sorted({n for n in counts if n <= most})
    if lost := sorted({*counts} - {*usable}):
        told = f"label counts {', '.join(map(str, lost))} are more than the {most} "
        told += "there are of the commonest class (or of numbers) in a training set"
        if not usable:
            raise NeuroFMError(f"{told}: give smaller ones")
        _log.warning("%s: left out", told)
    out: dict[str, list[Point]] = {}
    for n in usable:
        points: dict[str, list[np.ndarray]] = {}
        for draw in range(n_draws):
            folds = [few(f, examples.target, n, draw) for f in examples.folds]
            some = dataclasses.replace(examples, folds=folds)
            probed = scores.probe_all(systems, baselines, some, fit)
            for name, seeds in probed.items():
                points.setdefault(name, []).append(scores.points(seeds).mean(0))
        weights = np.concatenate([one.weights for one in probed["chance"][0]])
        clusters = scores.clusters(examples)[1]
        for name, drawn in points.items():
            found = interval(np.stack(drawn), weights, clusters)
            point = {"labels": n, "mean": found.value}
            point |= {"low": found.low, "high": found.high}
            out.setdefault(name, []).append(point)
    return out


def few(fold: Fold, target: Shaped[np.ndarray, " N"], n: int, seed: int) -> Fold:
    """The fold with so many training rows of each class, and none to choose on."""
    known = np.concatenate([fold.train, fold.valid])
    rows = np.sort(np.random.default_rng(seed).permutation(known)[:n])
    if not np.issubdtype(target.dtype, np.floating):
        rows = np.sort(
            np.concatenate(
                [
                    np.random.default_rng([seed, i]).permutation(mine)[:n]
                    for i, mine in enumerate(_by_class(target, known))
                ]
            )
        )
    return dataclasses.replace(fold, train=rows, valid=np.array([], int))


def _by_class(
    target: Shaped[np.ndarray, " N"], rows: Int[np.ndarray, " _"]
) -> list[Int[np.ndarray, " _"]]:
    return [rows[target[rows] == name] for name in np.unique(target[rows])]


def _most(target: Shaped[np.ndarray, " N"], fold: Fold) -> int:
    known = np.concatenate([fold.train, fold.valid])
    if np.issubdtype(target.dtype, np.floating):
        return len(known)
    return max(map(len, _by_class(target, known)))
