"""The suite `encoding` of `neurofm evaluate`: how well features predict fMRI, linearly.

For each subject a ridge with delays and a penalty for every region, or banded ridge
with one for each region and feature space; runs of one
stimulus are never on both sides of a split. As Antonello et al., "Scaling laws for
language encoding models in fMRI" (2023), but penalties are chosen by leaving one
stimulus out.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurofm import stores
from neurofm.data.brains import tr_of
from neurofm.data.records import Dataset, open_dataset
from neurofm.encoding import maps, repeats, results, stimulus, submission
from neurofm.encoding.pictures import Columns
from neurofm.encoding.repeats import Repeats
from neurofm.encoding.scores import mean_of_known
from neurofm.encoding.stimulus import Run
from neurofm.encoding.subject import (
    PARTITIONED,
    PENALTY_KINDS,
    Scored,
    Settings,
    refuse_silent,
    score,
)
from neurofm.errors import NeuroFMError
from neurofm.registry import suggest

_log = logging.getLogger(__name__)

DELAYS_S = (2.0, 8.0)  # Huth et al. (2016): four volumes of 2 s
CURVE_S = tuple(np.arange(0.0, 13.0, 1.0))
# Of CC_max, below which CC_norm says nothing: as in released code of "Improving
# semantic understanding in speech language models via brain-tuning" (2025).
FLOOR = 0.25
PERMUTATIONS = 1000
BLOCK_S = 20.0


def evaluate(
    given: Sequence[stores.Place],
    data: stores.Place,
    out: Path,
    delays: Sequence[float] | None = None,
    penalty: str = "ridge",
    permutations: int = PERMUTATIONS,
    floor: float = FLOOR,
    subjects: Sequence[str] = (),
    atlas: Path | None = None,
    submit: Path | None = None,
) -> dict[str, Any]:
    """Score features, set side by side, against a brain; see `neurofm.evaluate`.

    Writes OUT/targets.parquet (subject, region and every score of it), the same as maps
    (`neurofm.encoding.maps`) and figures.

    Args:
      given: feature stores, or folders of embeddings.
      data: an fMRI store.
      delays: of the responses behind the features, in seconds, each rounded to
        volumes; by default all volumes from 2 to 8 s.
      penalty: `ridge`, or `banded`, where each of several features given is a band.
      permutations: reorderings of the prediction that chance is told from.
      floor: of CC_max, below which a region has no CC_norm.
      subjects: who is scored; by default everyone.
      atlas: image of the regions, for maps and pictures of a brain.
      submit: table of runs to predict into OUT/submission.npy, see
        `neurofm.encoding.submission`.

    Returns:
      `scores`: `model`, the correlation on held-out runs, its mean over regions and
      subjects; `chance`, that of predictions in stretches of another order;
      `ceilings`, where a stimulus was seen again: each estimate by its own name, its
      mean over the regions where it is defined. `undefined`: in how many it is not.
      `intersubject_among`: the subjects whose runs `intersubject_r` compares.
      `significance`: share of regions with a `q` of at most 0.05. `partition`: of two
      or three features, R² of each set of them and what it alone explains.

    Raises:
      NeuroFMError: what was given does not fit together, and why.
    """
    _refuse_odd(given, penalty, permutations)
    brain = open_dataset(data)
    places = maps.open_atlas(atlas, brain.info) if atlas else None
    wanted = submission.read_table(submit) if submit else []
    spaces = [stimulus.pieces(path) for path in given]
    found = stimulus.runs(spaces, brain, subjects)
    tr_s = tr_of(brain)
    settings = Settings(
        **_delays(tr_s, delays),
        spaces=_names(given),
        penalty=penalty,
        permutations=permutations,
        block=block(tr_s, found),
    )
    scored, seen_again = _scored(found, settings, tr_s, floor)
    unseen = submission.predict(wanted, spaces, found, settings, tr_s)
    results.write(out, scored, brain, places, [d * tr_s for d in settings.curve])
    if unseen:
        submission.write(out / "submission.npy", unseen)
    return {
        "metric": "correlation",
        "over": "subjects",
        "delays_s": [d * tr_s for d in settings.delays],
        "penalty": penalty,
        "left_out": _left_out(brain, subjects, found, scored),
        **results.told(scored, seen_again, permutations, settings.block * tr_s),
        **_partition({name: one.columns for name, one in scored.items()}),
    }


def _scored(
    found: Sequence[Run], settings: Settings, tr_s: float, floor: float
) -> tuple[dict[str, Scored], dict[str, Repeats]]:
    """Scores of each subject with their ceilings, and the repeats where there are any.

    Raises:
      NeuroFMError: a subject cannot be scored.
    """
    scored: dict[str, Scored] = {}
    seen_again: dict[str, Repeats] = {}
    for name in sorted({run.subject for run in found}):
        _log.info("fitting subject %s", name)
        mine = [run for run in found if run.subject == name]
        one = score(name, mine, settings)
        refuse_silent(name, one.r)
        own, again = repeats.beside(one.tested, found, tr_s, floor)
        one.columns.update(own)
        if again is not None:
            seen_again[name] = again
        scored[name] = one
    return scored, seen_again


def _refuse_odd(given: Sequence[Any], penalty: str, permutations: int) -> None:
    if penalty not in PENALTY_KINDS:
        raise NeuroFMError(
            f"no penalty is called {penalty!r}: {suggest(penalty, [*PENALTY_KINDS])}"
        )
    if penalty == "banded" and len(given) < 2:
        raise NeuroFMError(
            "banded ridge weighs several features against each other and one was "
            "given: give more, or leave --penalty out"
        )
    refuse_none(permutations)
    if len(given) > max(PARTITIONED):
        _log.warning(
            "%d features were given: what each alone explains is told of up to %d",
            len(given),
            max(PARTITIONED),
        )


def refuse_none(permutations: int) -> None:
    """Raises NeuroFMError where nothing is to be permuted."""
    if permutations < 1:
        raise NeuroFMError(
            f"{permutations} permutations tell no chance: give some, such as 1000"
        )


def _delays(tr_s: float, delays: Sequence[float] | None) -> dict[str, Any]:
    first, last = (round(s / tr_s) for s in DELAYS_S)
    whole = range(first, last + 1)
    if delays:
        whole = sorted({round(s / tr_s) for s in delays})
    curve = sorted({round(s / tr_s) for s in CURVE_S})
    return {"delays": tuple(whole), "curve": tuple(curve)}


def _names(given: Sequence[stores.Place]) -> tuple[str, ...]:
    """Feature spaces by their folders' names, or whole paths where those are one."""
    for names in ([path.name for path in given], [str(path) for path in given]):
        if len(set(names)) == len(names):
            return tuple(names)
    raise NeuroFMError("the same features were given twice: name each once")


def block(tr_s: float, found: Sequence[Run]) -> int:
    """Volumes of a block: those of 20 s, but four blocks at least in every run."""
    shortest = min(len(run.times) for run in found)
    return max(1, min(round(BLOCK_S / tr_s), shortest // 4))


def _left_out(
    brain: Dataset,
    subjects: Sequence[str],
    found: Sequence[Run],
    scored: Mapping[str, Scored],
) -> dict[str, int]:
    names = brain.items["subject"].to_pylist()
    n_asked = sum(not subjects or name in subjects for name in names)
    return {
        "runs": n_asked - len(found),
        "volumes": sum(run.n_left_out for run in found),
        "regions": results.masked(scored),
    }


def _partition(columns: Columns) -> dict[str, Any]:
    """Means over regions, then over subjects, of what sets of spaces explain."""
    first = next(iter(columns.values()))
    found: dict[str, dict[str, float]] = {"r2": {}, "only": {}}
    for name in first:
        kind, _, spaces = name.partition(" ")
        if kind in found:
            means = [mean_of_known(one[name]) for one in columns.values()]
            found[kind][spaces] = float(mean_of_known(np.array(means)))
    return {"partition": found} if found["r2"] else {}
