"""Scores of several systems on the same examples, with intervals and differences.

Axis letters: S seeds, M test items of all folds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Shaped

from neurofm.eval import by_example, probe
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates
from neurofm.eval.probe import Outcome
from neurofm.eval.stats import Interval, interval, paired

Probed = list[list[Outcome]]  # by seed, by fold
Fit = Callable[..., Outcome]  # as `probe.fit`


def compare(
    systems: Mapping[str, Sequence[Candidates]],
    baselines: Candidates,
    examples: Examples,
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Probe every system and baseline on every fold in the same way.

    Args:
      systems: name -> the candidates of each of its seeds.
      baselines: name -> its only candidate. `baseline`, the best of them by validation
        in each fold, and `chance` are added.
      pairs: see `scored`.

    Returns:
      See `scored`.
    """
    return scored(probe_all(systems, baselines, examples), examples, pairs)


def scored(
    probed: Mapping[str, Probed],
    examples: Examples,
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Scores of outcomes, `chance` among them, with intervals.

    Args:
      probed: name -> the outcomes of each of its seeds, fold by fold.
      pairs: names whose differences are asked for; a pair with a missing name is not
        reported.

    Returns:
      `metric` (accuracy or r2); `over` (what intervals are drawn over: groups,
      recordings, or examples where all test items share one of these); `scores`: name
      -> mean (over test items), std (over folds), n (test items), low and high (95%
      interval), folds, seeds, chosen; `differences`: "a-b" -> mean, low, high.
    """
    over, drawn = clusters(examples)
    weights = np.concatenate([outcome.weights for outcome in probed["chance"][0]])
    by_item = {name: points(seeds) for name, seeds in probed.items()}
    differences = {
        f"{a}-{b}": _bounds(paired(by_item[a], by_item[b], weights, drawn))
        for a, b in pairs
        if a in by_item and b in by_item
    }
    scores = {}
    for name, seeds in probed.items():
        by_fold = np.array([[o.score for o in outcomes] for outcomes in seeds]).mean(0)
        names = [fold.name for fold in examples.folds]
        scores[name] = {
            **_bounds(interval(by_item[name], weights, drawn)),
            "std": float(by_fold.std()),
            "n": len(drawn),
            "folds": dict(zip(names, by_fold.tolist(), strict=True)),
            "seeds": (by_item[name].sum(1) / weights.sum()).tolist(),
            "chosen": [[asdict(o.choice) for o in outcomes] for outcomes in seeds],
        }
    real = np.issubdtype(examples.target.dtype, np.floating)
    return {
        "metric": "r2" if real else "accuracy",
        "over": over,
        "scores": scores,
        "differences": differences,
    }


def of_each(probed: Mapping[str, Probed], examples: Examples) -> pa.Table:
    """Every test item's points, seeds averaged; see `neurofm.eval.by_example`."""
    tested = np.concatenate([fold.test for fold in examples.folds])
    folds = [np.full(len(fold.test), fold.name) for fold in examples.folds]
    return by_example.table(
        np.concatenate(folds),
        examples.names[tested] if len(examples.names) else tested,
        clusters(examples)[1],
        {name: points(seeds).mean(0) for name, seeds in probed.items()},
        np.concatenate([outcome.weights for outcome in probed["chance"][0]]),
    )


def probe_all(
    systems: Mapping[str, Sequence[Candidates]],
    baselines: Candidates,
    examples: Examples,
    fit: Fit = probe.fit,
) -> dict[str, Probed]:
    """Outcomes of every system and baseline, item by item; see `compare`."""

    def fitted(candidates: Candidates) -> list[Outcome]:
        return [
            fit(candidates, examples.target, fold, examples.clusters)
            for fold in examples.folds
        ]

    probed: dict[str, Probed] = {
        name: [fitted(candidates) for candidates in seeds]
        for name, seeds in systems.items()
    }
    alone = {name: fitted({name: features}) for name, features in baselines.items()}
    best = [
        max(outcomes, key=lambda outcome: outcome.choice.score)
        for outcomes in zip(*alone.values(), strict=True)
    ]
    probed |= {"baseline": [best]} if best else {}
    probed |= {name: [outcomes] for name, outcomes in alone.items()}
    probed["chance"] = [
        [probe.chance(examples.target, fold) for fold in examples.folds]
    ]
    return probed


def points(seeds: Probed) -> Float[np.ndarray, "S M"]:
    """What every test item scored, by seed."""
    return np.stack([np.concatenate([o.points for o in folds]) for folds in seeds])


def clusters(examples: Examples) -> tuple[str, Shaped[np.ndarray, " M"]]:
    """What intervals are drawn over, and its names for all test items."""
    tested = np.concatenate([fold.test for fold in examples.folds])
    for name, of in (
        (examples.over, examples.clusters),
        ("recordings", examples.row),
    ):
        if len(np.unique(of[tested])) > 1:
            return name, of[tested]
    return "examples", tested


def _bounds(found: Interval) -> dict[str, float]:
    return {"mean": found.value, "low": found.low, "high": found.high}
