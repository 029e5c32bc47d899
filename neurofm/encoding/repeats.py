"""What runs of one stimulus tell about how well any model could do.

Two comparisons, which say different things and keep their names: a subject's own runs
of one stimulus (ceilings of `neurofm.encoding.ceiling`), and the runs of other
subjects, which share the part of a response that is not the subject's own.

Axes: N repeats, T volumes, V regions.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from neurofm.encoding import ceiling
from neurofm.encoding.scores import correlation, mean_of_known
from neurofm.encoding.stimulus import Run

_log = logging.getLogger(__name__)

_OFF = 0.1  # of a volume, by which repeats may miss each other


class Tested(NamedTuple):
    """A run that was held out, and what was predicted for it."""

    run: Run
    guess: Float[np.ndarray, "T V"]


class Repeats(NamedTuple):
    """Runs of one stimulus, volume for volume; several stimuli one after the other."""

    responses: Float[np.ndarray, "N T V"]
    guess: Float[np.ndarray, "T V"]  # the mean of those for each repeat


def beside(
    tested: Sequence[Tested], everyone: Sequence[Run], tr_s: float, floor: float
) -> tuple[dict[str, Float[np.ndarray, " V"]], Repeats | None]:
    """What stands beside a subject's scores, by name, and its repeats if there are any.

    Args:
      everyone: runs of all subjects that are scored.
      floor: see `ceilings`.
    """
    again = own(tested, tr_s)
    columns = {} if again is None else ceilings(again, floor)
    mine = [each.run for each in tested]
    if (others := intersubject_r(mine, everyone, tr_s)) is not None:
        columns["intersubject_r"] = others
    return columns, again


def own(tested: Sequence[Tested], tr_s: float) -> Repeats | None:
    """A subject's repeats; None where it saw nothing twice.

    Of stimuli seen more often than others, the first runs are taken, as many as there
    are of each. Of runs of different length the volumes that all have.
    """
    again = {
        timeline: some
        for timeline, some in _by_timeline(tested).items()
        if len(some) > 1
    }
    met = {}
    for timeline, some in again.items():
        rows = shared_rows([each.run for each in some], tr_s)
        if rows is None:
            _log.warning(
                "runs of %r of subject %s do not meet volume for volume (give their "
                "onsets as they were): they are not taken for repeats",
                timeline,
                some[0].run.subject,
            )
            continue
        _tell_lengths([each.run for each in some], len(rows[0]))
        met[timeline] = rows
    if not met:
        return None
    n = min(len(rows) for rows in met.values())
    responses, guesses = [], []
    for timeline, rows in met.items():
        some = list(zip(again[timeline][:n], rows[:n], strict=True))
        responses.append(np.stack([each.run.Y[at] for each, at in some]))
        guesses.append(np.mean([each.guess[at] for each, at in some], 0))
    return Repeats(np.concatenate(responses, 1), np.concatenate(guesses))


def ceilings(repeats: Repeats, floor: float) -> dict[str, Float[np.ndarray, " V"]]:
    """Each estimate by its name; NaN where it is undefined.

    Args:
      floor: of CC_max, below which there is no CC_norm.
    """
    responses = repeats.responses
    return {
        "explainable_variance": ceiling.explainable_variance(responses),
        "split_half_r": ceiling.split_half_r(responses),
        "cc_max": ceiling.cc_max(responses),
        "cc_abs": ceiling.cc_abs(repeats.guess, responses),
        "cc_norm": ceiling.cc_norm(repeats.guess, responses, floor),
    }


def intersubject_r(
    mine: Sequence[Run], everyone: Sequence[Run], tr_s: float
) -> Float[np.ndarray, " V"] | None:
    """Correlation with the mean of other subjects' runs of the same stimulus.

    The mean over the subject's runs; None where no one else saw what it saw.
    """
    found = []
    for run in mine:
        others = [
            other
            for other in everyone
            if other.timeline == run.timeline
            and other.subject != run.subject
            and shared_rows([run, other], tr_s)
        ]
        rows = shared_rows([run, *others], tr_s) if others else None
        if rows is not None:
            there = [other.Y[at] for other, at in zip(others, rows[1:], strict=True)]
            found.append(correlation(run.Y[rows[0]], mean_of_known(np.stack(there), 0)))
    return mean_of_known(np.stack(found), 0) if found else None


def shared_rows(
    found: Sequence[Run], tr_s: float
) -> list[Int[np.ndarray, " _"]] | None:
    """Rows of each run that face the same moments of the stimulus, in one order.

    None where they lie between each other's volumes, or fewer than two meet.
    """
    steps = [(run.times - found[0].times[0]) / tr_s for run in found]
    if any(abs(step - step.round()).max() > _OFF for step in steps):
        return None
    numbers = [step.round().astype(int) for step in steps]
    common = numbers[0]
    for other in numbers[1:]:
        common = np.intersect1d(common, other)
    if len(common) < 2:
        return None
    return [np.searchsorted(number, common) for number in numbers]


def _tell_lengths(found: Sequence[Run], n_shared: int) -> None:
    lengths = sorted({len(run.times) for run in found})
    if len(lengths) > 1:
        _log.warning(
            "runs of %r of subject %s have %s volumes: ceilings take the %d that all "
            "of them have",
            found[0].timeline,
            found[0].subject,
            " and ".join(map(str, lengths)),
            n_shared,
        )


def _by_timeline(tested: Sequence[Tested]) -> Mapping[str, list[Tested]]:
    out: dict[str, list[Tested]] = {}
    for each in tested:
        out.setdefault(each.run.timeline, []).append(each)
    return out
