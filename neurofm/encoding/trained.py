"""The suite `encoding` for a trained model: what it predicts for held-out runs.

Nothing is fitted. The model is read with all of its modalities, and once more without
each of them.

Axes: S subjects, T volumes of all runs of a subject, V regions.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from neurofm import stores
from neurofm.config import Data
from neurofm.data.records import Dataset, open_dataset
from neurofm.data.select import Use
from neurofm.encoding import maps, repeats, results, significance
from neurofm.encoding.pictures import LOST
from neurofm.encoding.predicted import drops, modalities, predicted
from neurofm.encoding.repeats import Repeats, Tested
from neurofm.encoding.scores import correlation, mean_of_known
from neurofm.encoding.stimulus import Run, checked_tr, refuse_unknown, zscored
from neurofm.encoding.subject import Scored, beside_chance, refuse_silent, reordered
from neurofm.encoding.suite import FLOOR, PERMUTATIONS, block, refuse_none
from neurofm.errors import NeuroFMError
from neurofm.model import Model

_log = logging.getLogger(__name__)

Guesses = Mapping[int, Float[np.ndarray, "T V"]]  # by the run's row in the store


class HeldOut(NamedTuple):
    """Runs that the model is tested on, by their row in the store, and their split."""

    runs: dict[int, Run]
    split: str


def evaluate(
    model: Model,
    seen: Collection[str],
    given: Sequence[stores.Place],
    data: stores.Place,
    out: Path,
    permutations: int = PERMUTATIONS,
    floor: float = FLOOR,
    subjects: Sequence[str] = (),
    atlas: Path | None = None,
    **linear: Any,
) -> dict[str, Any]:
    """Score a model of brains; see `neurofm.evaluate` and `suite.evaluate`.

    Runs of the split `test` are predicted; where there are none those of `valid`, and
    all of them where nothing has a split.

    Args:
      model: one that predicts responses, such as a TRIBE.
      seen: sha256 of what it was trained on, as far as known.
      given: feature stores, of all its modalities.
      data: an fMRI store of the subjects that it knows.
      linear: options of linear models, which are refused.

    Returns:
      As `suite.evaluate`; `modalities`: what is lost of the mean correlation where each
      is hidden from the model.

    Raises:
      NeuroFMError: what was given does not fit together, and why.
    """
    if linear:
        raise NeuroFMError(
            f"a trained model is tested as it is, so --{next(iter(linear))} cannot be "
            "given: leave it out"
        )
    if model.contract.kind != "features":
        raise NeuroFMError(
            f"this model takes {model.contract.kind} and predicts no brain: give what "
            "`neurofm embed` makes of it, and a ridge is fitted"
        )
    refuse_none(permutations)
    datasets = [open_dataset(path) for path in (data, *given)]
    brain = datasets[0]
    tr_s = checked_tr(brain)
    places = maps.open_atlas(atlas, brain.info) if atlas else None
    names = modalities(model.task.batch_spec("train"))
    held = held_out(brain, subjects, tr_s)
    use: Use = "train" if not held.split else held.split  # pyright: ignore

    def read(hidden: str) -> Guesses:
        _log.info("predicting %d runs%s", len(held.runs), hidden and f", no {hidden}")
        variables = model.task.inference(model.variables)
        found = predicted(model.task, variables, datasets, Data(), use, hidden)
        return {row: x for (_, row), x in found.items()}

    guesses = {hidden: read(hidden) for hidden in ("", *names)}
    held = held._replace(runs={i: r for i, r in held.runs.items() if i in guesses[""]})
    everyone = list(held.runs.values())
    if not everyone:
        raise NeuroFMError(
            f"no run of {brain.path} to be tested on has features: give both the same "
            "timelines"
        )
    n_block = block(tr_s, everyone)
    scored, seen_again = {}, {}
    for name in sorted({run.subject for run in everyone}):
        mine = {i: run for i, run in held.runs.items() if run.subject == name}
        one = _score(mine, guesses, names, n_block, permutations)
        refuse_silent(name, one.r)
        own, again = repeats.beside(one.tested, everyone, tr_s, floor)
        one.columns.update(own)
        scored[name] = one
        if again is not None:
            seen_again[name] = again
    results.write(out, scored, brain, places)
    return {
        "metric": "correlation",
        "over": "subjects",
        "split": held.split or "all runs, as none has a split",
        "left_out": _left_out(brain, subjects, held, scored),
        "modalities": {name: _mean(scored, LOST + name) for name in names},
        **_told(scored, seen_again, permutations, n_block * tr_s, brain, held, seen),
    }


def held_out(brain: Dataset, subjects: Sequence[str], tr_s: float) -> HeldOut:
    """The runs to be tested on; see `evaluate`.

    Raises:
      NeuroFMError: all runs were to be trained on, or a subject is not in the store.
    """
    columns = ["item", "subject", "split", "timeline", "onset", "n_samples"]
    rows = brain.items.select(columns).to_pylist()
    refuse_unknown(brain, subjects, {row["subject"] for row in rows})
    known = {row["split"] for row in rows}
    split = next((name for name in ("test", "valid") if name in known), "")
    if not split and known != {""}:
        raise NeuroFMError(
            f"{brain.path} has no run with the split test or valid: prepare it again "
            "with a column split"
        )
    runs = {}
    for i, row in enumerate(rows):
        if row["split"] != split or (subjects and row["subject"] not in subjects):
            continue
        Y = zscored(brain.read(i, 0, row["n_samples"]).T)
        times = row["onset"] + (np.arange(len(Y)) + 0.5) * tr_s
        X = np.zeros((len(Y), 0), np.float32)
        runs[i] = Run(
            row["subject"], row["item"], split, row["timeline"], times, X, (), Y, 0
        )
    return HeldOut(runs, split)


def _score(
    runs: Mapping[int, Run],
    guesses: Mapping[str, Guesses],
    names: Sequence[str],
    n_block: int,
    permutations: int,
) -> Scored:
    """One subject, over all volumes of its runs; 0 where a prediction stands still."""
    truth = np.concatenate([run.Y for run in runs.values()])
    known = np.isfinite(truth).all(0)

    def guess(hidden: str) -> Float[np.ndarray, "T V"]:
        return np.concatenate([guesses[hidden][i] for i in runs])

    def correlate(hidden: str) -> Float[np.ndarray, "1 V"]:
        r = np.nan_to_num(correlation(truth, guess(hidden)))
        return np.where(known, r, np.nan)[None]

    lost = drops(correlate, names)[:, 0]
    r = correlate("")[0]
    timelines = sorted({run.timeline for run in runs.values()})
    numbers = {timeline: i for i, timeline in enumerate(timelines)}
    rows = reordered(list(runs.values()), n_block, permutations, numbers)
    null = significance.null_correlations(truth, guess(""), rows)
    null = np.where(known, np.nan_to_num(null), np.nan)  # 0 in every order, too
    columns = {"r": r, **beside_chance(r, null)}
    columns |= {LOST + name: x for name, x in zip(names, lost, strict=True)}
    tested = [Tested(run, guesses[""][i]) for i, run in runs.items()]
    return Scored(columns, r[None], np.zeros(0), tested)


def _told(
    scored: Mapping[str, Scored],
    seen_again: Mapping[str, Repeats],
    permutations: int,
    block_s: float,
    brain: Dataset,
    held: HeldOut,
    seen: Collection[str],
) -> dict[str, Any]:
    """What is told of any scores, and how many of these runs the model has seen."""
    found = results.told(scored, seen_again, permutations, block_s)
    digests = brain.items["sha256"].to_pylist()
    if n := sum(digests[i] in seen for i in held.runs):
        found["scores"]["model"] |= {"transductive": True, "n_transductive": n}
        _log.warning("transductive: the model was trained on %d of the test runs", n)
    return found


def _left_out(
    brain: Dataset,
    subjects: Sequence[str],
    held: HeldOut,
    scored: Mapping[str, Scored],
) -> dict[str, int]:
    asked = [
        split == held.split and (not subjects or who in subjects)
        for who, split in zip(
            brain.items["subject"].to_pylist(),
            brain.items["split"].to_pylist(),
            strict=True,
        )
    ]
    return {"runs": sum(asked) - len(held.runs), "regions": results.masked(scored)}


def _mean(scored: Mapping[str, Scored], column: str) -> dict[str, float]:
    each = np.array([mean_of_known(one.columns[column]) for one in scored.values()])
    return {"mean": float(each.mean()), "std": float(each.std())}
