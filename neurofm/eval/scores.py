"""Scores of several systems on the same examples, with intervals and differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from neurofm.eval import probe
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates
from neurofm.eval.stats import Interval, interval, paired


@dataclass(frozen=True)
class _Scored:
    """One system's probes: rows are seeds, columns the test items of all folds."""

    points: Float[np.ndarray, "S M"]
    weights: Float[np.ndarray, " M"]
    by_fold: Float[np.ndarray, "S K"]
    chosen: list[dict[str, Any]]


def compare(
    systems: Mapping[str, Sequence[Candidates]],
    examples: Examples,
    pairs: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Probe every system on every fold in the same way.

    Args:
      systems: name -> the candidates of each of its seeds; `chance` is added.
      pairs: names whose difference is asked for; those of unknown names are left out.

    Returns:
      `metric` (accuracy or r2); `over` (what intervals are drawn over: groups,
      recordings, or examples where a test set holds one group only); `scores`: name ->
      mean (over test items), std (over folds), n (test items), low and high (95%),
      folds, seeds, chosen; `differences`: "a-b" -> mean, low, high.
    """
    scored = {name: _probe(seeds, examples) for name, seeds in systems.items()}
    scored["chance"] = _probe([None], examples)
    over, clusters = _clusters(examples)

    def summary(one: _Scored) -> dict[str, Any]:
        found = interval(one.points, one.weights, clusters)
        folds = one.by_fold.mean(0)
        return {
            **_bounds(found),
            "std": float(folds.std()),
            "n": len(clusters),
            "folds": folds.tolist(),
            "seeds": (one.points.sum(1) / one.weights.sum()).tolist(),
            "chosen": one.chosen,
        }

    differences = {}
    for a, b in pairs:
        if a in scored and b in scored:
            weights = scored[a].weights
            found = paired(scored[a].points, scored[b].points, weights, clusters)
            differences[f"{a}-{b}"] = _bounds(found)
    real = np.issubdtype(examples.target.dtype, np.floating)
    return {
        "metric": "r2" if real else "accuracy",
        "over": over,
        "scores": {name: summary(one) for name, one in scored.items()},
        "differences": differences,
    }


def _probe(seeds: Sequence[Candidates | None], examples: Examples) -> _Scored:
    """Fit and test; candidates of None are for chance."""
    points, by_fold, chosen = [], [], []
    weights = np.array([])
    for number, candidates in enumerate(seeds):
        outcomes = []
        for fold in examples.folds:
            if candidates is None:
                outcomes.append(probe.chance(examples.target, fold))
                continue
            found = probe.fit(candidates, examples.target, fold, examples.groups)
            outcomes.append(found)
            chosen.append({"seed": number, **asdict(found.choice)})
        points.append(np.concatenate([o.points for o in outcomes]))
        weights = np.concatenate([o.weights for o in outcomes])
        by_fold.append([o.score for o in outcomes])
    return _Scored(np.stack(points), weights, np.array(by_fold), chosen)


def _clusters(examples: Examples) -> tuple[str, Shaped[np.ndarray, " M"]]:
    """What intervals are drawn over, and its names for all test items."""
    tested = np.concatenate([fold.test for fold in examples.folds])
    choices = {"recordings": examples.row, "examples": np.arange(len(examples.row))}
    if examples.groups is not None:
        choices = {"groups": examples.groups, **choices}
    for over, names in choices.items():
        if len(np.unique(names[tested])) > 1:
            return over, names[tested]
    return "examples", tested


def _bounds(found: Interval) -> dict[str, Any]:
    return {
        "mean": found.value,
        "low": found.low,
        "high": found.high,
        "n_groups": found.n_groups,
    }
