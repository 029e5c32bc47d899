"""Rows of a linear encoding model: features at the volumes of fMRI runs.

A volume k of a run that begins at `onset` on its stimulus's clock is at the middle of
its time, onset + (k + 1/2) TR; what the brain does later is for the delays to find.
Features come from feature stores or from embeddings, told by their `timeline`.

Axes: T volumes, F features, V regions, S samples of features.
"""

from collections.abc import Sequence
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


class Piece(NamedTuple):
    """Features of a stretch of a stimulus, with the times of their middles in s."""

    samples: Float32[np.ndarray, "S F"]
    times: Float[np.ndarray, " S"]


Pieces = dict[str, list[Piece]]  # of each timeline


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


def runs(spaces: Sequence[Pieces], brain: Dataset) -> list[Run]:
    """Every run whose stimulus has features, in the order of the store.

    Args:
      spaces: feature spaces, set side by side.
      brain: an fMRI store.

    Raises:
      NeuroFMError: no run has features, or features are slower than the volumes.
    """
    if brain.info.kind != "fmri":
        raise NeuroFMError(
            f"{brain.path} holds {brain.info.kind} where fMRI is expected: make it "
            "with `neurofm prepare fmri`"
        )
    tr_s, out = tr_of(brain), []
    for i in range(len(brain)):
        row = brain.items.slice(i, 1).to_pylist()[0]
        if not all(row["timeline"] in space for space in spaces):
            continue
        times = row["onset"] + (np.arange(row["n_samples"]) + 0.5) * tr_s
        there = np.ones(len(times), bool)
        columns = []
        for space in spaces:
            x, inside = at_volumes(space[row["timeline"]], times, tr_s)
            columns.append(x)
            there &= inside
        if there.sum() < 2:
            continue
        X = _zscored(np.concatenate(columns, 1)[there])
        Y = _zscored(brain.read(i, 0, row["n_samples"]).T[there])
        out.append(
            Run(
                row["subject"],
                row["item"],
                row["split"],
                row["timeline"],
                times[there],
                np.nan_to_num(X),  # a feature that never changes says nothing
                tuple(x.shape[1] for x in columns),
                Y,
                int((~there).sum()),
            )
        )
    if not out:
        named = sorted(set().union(*spaces))[:3]
        asked = sorted(set(brain.items["timeline"].to_pylist()))[:3]
        raise NeuroFMError(
            f"no run of {brain.path} has features: its timelines are "
            f"{', '.join(asked)}, those of the features {', '.join(named)}; give both "
            "the same names, and onsets on one clock"
        )
    return out


def at_volumes(
    given: Sequence[Piece], times: Float[np.ndarray, " T"], tr_s: float
) -> tuple[Float32[np.ndarray, "T F"], Bool[np.ndarray, " T"]]:
    """Features at the middles of volumes, and which volumes lie within them.

    Raises:
      NeuroFMError: they are slower than the volumes.
    """
    x = np.zeros((len(times), given[0].samples.shape[1]), np.float32)
    there = np.zeros(len(times), bool)
    for piece in given:
        step = np.diff(piece.times).mean() if len(piece.times) > 1 else np.inf
        if step > tr_s * (1 + 1e-6):
            raise NeuroFMError(
                f"the features have a sample every {step:g} s and the fMRI a volume "
                f"every {tr_s:g} s: make features at {1 / tr_s:g} Hz or more"
            )
        x += lanczos(piece.samples, piece.times, times) * np.float32(step / tr_s)
        half = step / 2 + 1e-6
        there |= (times >= piece.times[0] - half) & (times <= piece.times[-1] + half)
    return x, there


def delayed(found: Sequence[Run], delays: Sequence[int]) -> Float32[np.ndarray, "T DF"]:
    """The features of runs one below the other, each with its delays."""
    which = np.repeat(np.arange(len(found)), [len(run.X) for run in found])
    return fir(np.concatenate([run.X for run in found]), delays, which)


def _zscored(x: Float32[np.ndarray, "T V"]) -> Float32[np.ndarray, "T V"]:
    """Columns of mean 0 and deviation 1; NaN where one has gaps or never changes."""
    x = x - x.mean(0)
    deviation = x.std(0)
    return np.divide(x, deviation, out=np.full_like(x, np.nan), where=deviation > 1e-6)
