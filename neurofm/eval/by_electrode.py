"""Probes of one electrode each, and the mean over those that validation finds best.

Source: BrainBERT (arXiv 2302.14367, section 4), whose scores are means over ten
electrodes. A linear model of the raw trace chose them there; here every system chooses
its own, by how the probe that is scored does on validation rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neurofm.eval import probe
from neurofm.eval.examples import Examples
from neurofm.eval.features import Candidates, Pool
from neurofm.eval.probe import Outcome
from neurofm.eval.rhythms import Feature
from neurofm.eval.scores import Fit, Probed, probe_all

Pools = Callable[[str], Mapping[str, Pool]]


def pools(of_layer: Pools, names: Sequence[str]) -> Pools:
    """The candidates of a layer for each electrode, whose values lie side by side."""

    def made(layer: str) -> dict[str, Pool]:
        return {
            _key(name, candidate): lambda values, mask, c=c, how=how: how(
                values.reshape(len(values), len(names), -1)[:, c], mask
            )
            for c, name in enumerate(names)
            for candidate, how in of_layer(layer).items()
        }

    return made


def features(each: Mapping[str, Feature], names: Sequence[str]) -> dict[str, Feature]:
    """Features of samples for each electrode."""
    return {
        _key(name, feature): lambda x, sfreq, c=c, how=how: how(x[[c]], sfreq)
        for c, name in enumerate(names)
        for feature, how in each.items()
    }


def probe_best(
    systems: Mapping[str, Sequence[Candidates]],
    baselines: Candidates,
    examples: Examples,
    names: Sequence[str],
    best: int,
    fit: Fit = probe.fit,
) -> tuple[dict[str, Probed], list[dict[str, Any]]]:
    """Probe every electrode alone, and average what the best score, item by item.

    Args:
      systems, baselines: as of `scores.probe_all`, their candidates from `pools` and
        `features`.
      best: how many electrodes are averaged, chosen by validation in each fold.

    Returns:
      Outcomes as of `probe_all`, whose choice is that of the best electrode; and a row
      an electrode, system, seed and fold: its scores on validation and on test rows,
      and whether it is one of the best.
    """
    apart = [
        probe_all(
            {k: [_own(x, name) for x in seeds] for k, seeds in systems.items()},
            _own(baselines, name),
            examples,
            fit,
        )
        for name in names
    ]
    rows: list[dict[str, Any]] = []
    together: dict[str, Probed] = {}
    for system, seeds in apart[0].items():
        if system == "chance":
            together[system] = seeds
            continue
        together[system] = [[] for _ in seeds]
        for seed in range(len(seeds)):
            for i, fold in enumerate(examples.folds):
                found = [one[system][seed][i] for one in apart]
                order = np.argsort([-o.choice.score for o in found], kind="stable")
                chosen = order[:best].tolist()
                together[system][seed].append(_mean(found, names, chosen))
                about = {"system": system, "seed": seed, "fold": fold.name}
                rows += [
                    {
                        "electrode": name,
                        **about,
                        "validation": outcome.choice.score,
                        "test": outcome.score,
                        "candidate": outcome.choice.candidate,
                        "chosen": c in chosen,
                    }
                    for c, (name, outcome) in enumerate(zip(names, found, strict=True))
                ]
    return together, rows


def _mean(
    found: Sequence[Outcome], names: Sequence[str], chosen: Sequence[int]
) -> Outcome:
    first = found[chosen[0]]
    points = np.mean([found[c].points for c in chosen], axis=0)
    candidate = _key(names[chosen[0]], first.choice.candidate)
    choice = replace(
        first.choice,
        candidate=candidate,
        score=float(np.mean([found[c].choice.score for c in chosen])),
    )
    return replace(first, points=points, choice=choice)


def _key(name: str, candidate: str) -> str:
    return f"{name}: {candidate}"


def _own(candidates: Candidates, name: str) -> Candidates:
    start = _key(name, "")
    return {
        key.removeprefix(start): x
        for key, x in candidates.items()
        if key.startswith(start)
    }
