"""Rows of a linear encoding model: features at the volumes of fMRI runs.

A volume k of a run that begins at `onset` on its stimulus's clock is at the middle of
its time, onset + (k + 1/2) TR; what the brain does later is for the delays to find.
Features come from feature stores or from embeddings, told by their `timeline`.

Axes: T volumes, F features, V regions, S samples of features.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from neurofm import stores
from neurofm.data.brains import tr_of
from neurofm.data.embeddings import Embeddings, open_embeddings
from neurofm.data.records import Dataset, open_dataset
from neurofm.encoding.delays import fir, lanczos
from neurofm.errors import NeuroFMError
from neurofm.registry import suggest

_log = logging.getLogger(__name__)

SLACK_S = 10.0  # a run may outlast its features by this without a word


class Piece(NamedTuple):
    """Features of a stretch of a stimulus, with the times of their middles in s."""

    samples: Float32[np.ndarray, "S F"]
    times: Float[np.ndarray, " S"]


Pieces = dict[str, list[Piece]]  # of each timeline

# Volumes of a run that features do not cover: how many, the run, its times, the rest.
Early = tuple[int, dict, np.ndarray, np.ndarray]
_NONE_EARLY: Early = (0, {}, np.zeros(0), np.zeros(0, bool))


@dataclass(frozen=True, eq=False)
class Run:
    """One run of one subject, z-scored over its own volumes.

    Attributes:
      subject, name, split: as the store tells them.
      timeline: its stimulus.
      times: middles of the volumes on the stimulus's clock, in s.
      X: the features of every volume, without delays, space beside space.
      widths: features of each space.
      Y: the responses; NaN in all of a region that the run lacks.
      n_left_out: volumes outside the features, which are in neither.
    """

    subject: str
    name: str
    split: str
    timeline: str
    times: Float[np.ndarray, " T"]
    X: Float32[np.ndarray, "T F"]
    widths: tuple[int, ...]
    Y: Float32[np.ndarray, "T V"]
    n_left_out: int


def pieces(path: stores.Place) -> Pieces:
    """Features by timeline, of a feature store or a folder of embeddings.

    Of embeddings the layer `last`, or the only one, is taken; their timeline is the
    column of that name, or their recording's name without its ending.

    Raises:
      NeuroFMError: it is neither.
    """
    if (path / "embeddings.json").is_file():
        return _embedded(open_embeddings(path))
    dataset = open_dataset(path)
    if dataset.info.kind != "features":
        raise NeuroFMError(
            f"{path} holds {dataset.info.kind} where features are expected: give what "
            "`neurofm prepare features` or `neurofm embed` made"
        )
    out: Pieces = {}
    sfreq = dataset.info.sfreq
    for i, n in enumerate(dataset.items["n_samples"].to_pylist()):
        timeline, onset = (dataset.items[k][i].as_py() for k in ("timeline", "onset"))
        times = onset + (np.arange(n) + 0.5) / sfreq
        out.setdefault(timeline, []).append(Piece(dataset.read(i, 0, n).T, times))
    return out


def _embedded(found: Embeddings) -> Pieces:
    out: Pieces = {}
    for row in range(len(found.index)):
        columns = found.index.slice(row, 1).to_pylist()[0]
        layers = columns["layers"]
        layer = "last" if "last" in layers else layers[0]
        item = str(columns["item"])
        timeline = columns.get("timeline") or item.rsplit("/", 1)[-1].split(".")[0]
        values = np.asarray(found.read(row, layer), np.float32)
        out.setdefault(timeline, []).append(Piece(values, found.times(row)))
    return out


def runs(
    spaces: Sequence[Pieces], brain: Dataset, subjects: Collection[str] = ()
) -> list[Run]:
    """Every run whose stimulus has features, in the order of the store.

    Args:
      spaces: feature spaces, set side by side.
      brain: an fMRI store.
      subjects: whose runs; by default everyone's.

    Raises:
      NeuroFMError: no run has features, a subject is not in the store, or features do
        not fit the volumes.
    """
    tr_s = checked_tr(brain)
    out: list[Run] = []
    early: list[Early] = []
    rows = brain.items.select(
        ["item", "subject", "split", "timeline", "onset", "n_samples"]
    ).to_pylist()
    refuse_unknown(brain, subjects, {row["subject"] for row in rows})
    wanted = [
        (i, row)
        for i, row in enumerate(rows)
        if not subjects or row["subject"] in subjects
    ]
    for i, row in wanted:
        if not all(row["timeline"] in space for space in spaces):
            continue
        times = row["onset"] + (np.arange(row["n_samples"]) + 0.5) * tr_s
        given = [space[row["timeline"]] for space in spaces]
        X, there = at_times(given, times, tr_s)
        if not there.all():
            early.append((int((~there).sum()), row, times, there))
        if there.sum() < 2:
            continue
        Y = zscored(brain.read(i, 0, row["n_samples"]).T[there])
        out.append(
            Run(
                row["subject"],
                row["item"],
                row["split"],
                row["timeline"],
                times[there],
                X[there],
                tuple(pieces[0].samples.shape[1] for pieces in given),
                Y,
                int((~there).sum()),
            )
        )
    if not out:
        named = sorted(set().union(*spaces))[:3]
        asked = sorted({row["timeline"] for _, row in wanted})[:3]
        raise NeuroFMError(
            f"no run of {brain.path} has features: its timelines are "
            f"{', '.join(asked)}, those of the features {', '.join(named)}; give both "
            "the same names, and onsets on one clock"
        )
    if n := len(wanted) - len(out):
        _log.warning("%d of %d runs have no features: left out", n, len(wanted))
    _tell_early_ends(early, tr_s)
    _tell_masked(out, brain)
    return out


def at_times(
    given: Sequence[Sequence[Piece]], times: Float[np.ndarray, " T"], tr_s: float
) -> tuple[Float32[np.ndarray, "T F"], Bool[np.ndarray, " T"]]:
    """Features of all spaces at the middles of a run's volumes, space beside space.

    Z-scored over the volumes that lie within all of them, which is what is returned
    second; 0 elsewhere, and for a feature that never changes.
    """
    found = [at_volumes(space, times, tr_s) for space in given]
    there = np.all([inside for _, inside in found], 0)
    X = np.concatenate([x for x, _ in found], 1)
    if there.any():
        X[there] = np.nan_to_num(zscored(X[there]))
    X[~there] = 0
    return X, there


def at_volumes(
    given: Sequence[Piece], times: Float[np.ndarray, " T"], tr_s: float
) -> tuple[Float32[np.ndarray, "T F"], Bool[np.ndarray, " T"]]:
    """Features at the middles of volumes, and which volumes lie within them.

    Their mean is taken off before they are filtered and put back, as the filter would
    make ripples of it, and a slope where features end.

    Raises:
      NeuroFMError: they are slower than the volumes, are no numbers, or lie on one
        another.
    """
    mean = np.concatenate([piece.samples for piece in given]).mean(0)
    x = np.tile(mean, (len(times), 1))
    there = np.zeros(len(times), bool)
    last = -np.inf
    for piece in sorted(given, key=lambda piece: piece.times[0]):
        step = np.diff(piece.times).mean() if len(piece.times) > 1 else np.inf
        if step > tr_s * (1 + 1e-6):
            raise NeuroFMError(
                f"the features have a sample every {step:g} s and the fMRI a volume "
                f"every {tr_s:g} s: make features at {1 / tr_s:g} Hz or more"
            )
        if not np.isfinite(piece.samples).all():
            raise NeuroFMError(
                "the features hold numbers that are not finite, from "
                f"{piece.times[0]:g} s of a stimulus on: make them again"
            )
        if piece.times[0] < last - 1e-6:  # rounded lengths may differ by half a step
            raise NeuroFMError(
                f"features of one stimulus lie on one another: some begin at "
                f"{piece.times[0] - step / 2:g} s, before others end at {last:g} s; "
                "correct the onsets, or give each stimulus its own timeline"
            )
        filtered = lanczos(piece.samples - mean, piece.times, times)
        x += filtered * np.float32(step / tr_s)
        half = step / 2 + 1e-6
        there |= (times >= piece.times[0] - half) & (times <= piece.times[-1] + half)
        last = piece.times[-1] + step / 2
    return x, there


def checked_tr(brain: Dataset) -> float:
    """The repetition time of an fMRI store in seconds, which its rate confirms."""
    if brain.info.kind != "fmri":
        raise NeuroFMError(
            f"{brain.path} holds {brain.info.kind} where fMRI is expected: make it "
            "with `neurofm prepare fmri`"
        )
    tr_s = tr_of(brain)
    if abs(tr_s * brain.info.sfreq - 1) > 1e-3:
        raise NeuroFMError(
            f"{brain.path} tells a repetition time of {tr_s:g} s and a rate of "
            f"{brain.info.sfreq:g} Hz, a volume every {1 / brain.info.sfreq:g} s: "
            "prepare it again with --source-tr"
        )
    return tr_s


def refuse_unknown(
    brain: Dataset, subjects: Collection[str], known: Collection[str]
) -> None:
    """Raise NeuroFMError for one of `subjects` who is not in the store."""
    if unknown := sorted(set(subjects) - set(known)):
        raise NeuroFMError(
            f"{brain.path} has no subject {unknown[0]!r}: "
            f"{suggest(unknown[0], sorted(known))}"
        )


def _tell_early_ends(early: Sequence[Early], tr_s: float) -> None:
    """Name the run that loses most, where that is more than a run may outlast."""
    n, row, times, there = max(early, key=lambda each: each[0], default=_NONE_EARLY)
    if n * tr_s > SLACK_S:
        ends = times[there][-1] + tr_s / 2 if there.any() else times[0] - tr_s / 2
        _log.warning(
            "features do not cover %d runs: those of %r leave out %d of %d volumes of "
            "run %s, which goes on to %g s where they cover it to %g s",
            len(early),
            row["timeline"],
            n,
            len(times),
            row["item"],
            times[-1] + tr_s / 2,
            ends,
        )


def _tell_masked(found: Sequence[Run], brain: Dataset) -> None:
    """Name the first region that a subject has no score for, and the run to blame."""
    for name in sorted({run.subject for run in found}):
        mine = [run for run in found if run.subject == name]
        each = np.stack([np.isnan(run.Y).any(0) for run in mine])
        masked = each.any(0)
        if masked.any():
            first = int(masked.argmax())
            _log.warning(
                "%d of %d regions of subject %s never change or have gaps in some run "
                "and get no score (the first is %s, in run %s)",
                masked.sum(),
                each.shape[1],
                name,
                brain.info.ch_names[first],
                mine[int(each[:, first].argmax())].name,
            )


def delayed(found: Sequence[Run], delays: Sequence[int]) -> Float32[np.ndarray, "T DF"]:
    """The features of runs one below the other, each with its delays."""
    which = np.repeat(np.arange(len(found)), [len(run.X) for run in found])
    return fir(np.concatenate([run.X for run in found]), delays, which)


def zscored(x: Float32[np.ndarray, "T V"]) -> Float32[np.ndarray, "T V"]:
    """Columns of mean 0 and deviation 1; NaN where one has gaps or never changes."""
    x = x - x.mean(0)
    deviation = x.std(0)
    return np.divide(x, deviation, out=np.full_like(x, np.nan), where=deviation > 1e-6)
