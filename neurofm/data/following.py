"""Examples that are volumes of fMRI: the stretch of sound that each volume follows.

Volume k of a run faces its stimulus from onset + k TR on, both on the clock of their
`timeline`. Its example ends where the volume does and is as long as the model's input,
so that the delay of blood is inside (brain-tuning, arXiv 2410.09230: five volumes of
2 s); before the recording begins there is silence.

Axes: n examples, P regions, N volumes of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from neurofm.data.brains import subject_names, tr_of
from neurofm.data.draws import permutation, stream_key
from neurofm.data.records import Dataset
from neurofm.data.select import Use
from neurofm.errors import NeuroFMError
from neurofm.registry import suggest
from neurofm.signals import bold

if TYPE_CHECKING:
    from neurofm.config import Responses


@dataclass(frozen=True, eq=False)
class Followed:
    """The volumes that follow one dataset of sound.

    Attributes:
      item: the recording of each.
      start, stop: samples; a start below 0 is silence.
      name: its run and the number of the volume.
      vector: the responses, z-scored over the run; NaN of a region that it lacks.
      counts: volumes used and left out, by reason.
    """

    item: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]
    name: Shaped[np.ndarray, " n"]
    vector: Float[np.ndarray, "n P"]
    counts: dict[str, int]


def find(
    sound: Dataset,
    brain: Dataset,
    settings: Responses,
    window: int,
    usable: tuple[Bool[np.ndarray, " items"], Bool[np.ndarray, " runs"]],
    use: Use,
) -> Followed:
    """The volumes of every usable run that follow a usable recording.

    Args:
      sound: recordings.
      brain: fMRI with the same timelines.
      settings: whose, and which volumes; see `config.Responses`.
      window: samples of an example.
      usable: recordings, and runs, of this split.
      use: the split; training alone may be given a control.

    Raises:
      NeuroFMError: no run is of a timeline of the recordings, or an unknown subject.
    """
    recordings = sound.items.select(["timeline", "onset", "n_samples"]).to_pylist()
    by_timeline: dict[str, list[int]] = {}
    for number, row in enumerate(recordings):
        by_timeline.setdefault(row["timeline"], []).append(number)
    names = brain.items["timeline"].to_pylist()
    runs = brain.items["item"].to_pylist()
    _refuse_apart(sound, brain, by_timeline, names)
    wanted = _whose(brain, settings.subjects)
    sfreq, tr_s = sound.info.sfreq, tr_of(brain)
    counts = {"used": 0, "other_split": 0, "trimmed": 0, "no_sound": 0}
    found: list[tuple[int, int, int]] = []
    volumes: list[str] = []
    vectors = [np.zeros((0, brain.info.n_chans), np.float32)]
    for run in np.flatnonzero(wanted):
        onset, n = (brain.items[k][int(run)].as_py() for k in ("onset", "n_samples"))
        if not usable[1][run]:
            counts["other_split"] += n
            continue
        kept = np.arange(settings.trim[0], n - settings.trim[1])
        counts["trimmed"] += n - len(kept)
        if len(kept) < 2:
            continue
        mine = by_timeline.get(names[run], [])
        made = bold.prepared(brain.read(int(run), 0, n)[:, kept], ddof=0).T
        if use == "train":
            made = made[_order(settings, brain, int(run), len(kept))]
        ends = onset + (kept + 1) * tr_s
        for volume, end, vector in zip(kept, ends, made, strict=True):
            at = _recording(recordings, mine, end, sfreq)
            if at is None:
                counts["no_sound"] += 1
            elif not usable[0][at]:
                counts["other_split"] += 1
            else:
                stop = round((end - recordings[at]["onset"]) * sfreq)
                n_samples = recordings[at]["n_samples"]
                found.append((at, stop - window, min(stop, n_samples)))
                volumes.append(f"{runs[run]}@{volume}")
                vectors.append(vector[None].astype(np.float32))
                counts["used"] += 1
    item, start, stop = np.array(found, int).reshape(-1, 3).T
    named = np.array(volumes, str)
    return Followed(item, start, stop, named, np.concatenate(vectors), counts)


def _refuse_apart(
    sound: Dataset, brain: Dataset, timelines: dict[str, list[int]], names: list[str]
) -> None:
    if not set(names) & set(timelines):
        raise NeuroFMError(
            f"no run of {brain.path} follows a recording of {sound.path}: its "
            f"timelines are {', '.join(sorted(set(names))[:3])}, those of the "
            f"recordings {', '.join(sorted(timelines)[:3])}; give both the same names"
        )


def _whose(brain: Dataset, subjects: Sequence[str]) -> Bool[np.ndarray, " runs"]:
    names = subject_names(brain)
    if unknown := sorted(set(subjects) - set(names)):
        raise NeuroFMError(
            f"data.responses.subjects has {unknown[0]!r}, who is not in {brain.path}: "
            f"{suggest(unknown[0], sorted(set(names)))}"
        )
    return np.array([not subjects or name in subjects for name in names], bool)


def _recording(
    recordings: Sequence[dict], mine: Sequence[int], end_s: float, sfreq: float
) -> int | None:
    """The recording of a timeline that is heard just before `end_s`."""
    for at in mine:
        row = recordings[at]
        sample = round((end_s - row["onset"]) * sfreq)
        # The last volume may end after its sound, by less than a second.
        if 0 < sample <= row["n_samples"] + sfreq:
            return at
    return None


def _order(
    settings: Responses, brain: Dataset, run: int, n: int
) -> Int[np.ndarray, " N"]:
    """Which volume stands in the place of each."""
    if settings.control == "none":
        return np.arange(n)
    key = stream_key(brain.hash, "control", settings.control)
    if settings.control == "volumes":
        return permutation(key, run, n)
    starts = np.arange(0, n, settings.block)
    blocks = [np.arange(at, min(at + settings.block, n)) for at in starts]
    return np.concatenate([blocks[i] for i in permutation(key, run, len(blocks))])
