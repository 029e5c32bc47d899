"""Scores of HEAR's timestamp tasks: events from frames, event F-measure, error rate.

Definitions as sed_eval (Mesaros et al., 2016). Times in ms.

Axes: T frames, K classes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from neurofm.errors import NeuroFMError

THRESHOLD = 0.5
MEDIAN_MS = 250.0
MIN_DURATIONS_MS = (125.0, 250.0)
TIE = 1e-6  # ms: times that are equal but for rounding
END = 1e-4  # ms: an event is still on at its end


class Event(NamedTuple):
    """One event: its class and when it starts and ends."""

    label: str
    start: float
    end: float


Events = Mapping[str, Sequence[Event]]  # of each recording


def frame_labels(
    events: Sequence[Event], times: Float[np.ndarray, " T"], labels: Sequence[str]
) -> Float[np.ndarray, "T K"]:
    """1 where a class is on at a frame's time: start <= t < end + 0.1 µs."""
    out = np.zeros((len(times), len(labels)))
    for label, start, end in events:
        out[(times >= start) & (times < end + END), labels.index(label)] = 1
    return out


def from_frames(
    prediction: Float[np.ndarray, "T K"],
    times: Float[np.ndarray, " T"],
    labels: Sequence[str],
    min_duration: float,
    median_ms: float = MEDIAN_MS,
) -> list[Event]:
    """Events by start: runs of frames whose median-filtered probability is above 0.5.

    An event lasts from its first to its last frame's time; shorter ones than
    `min_duration` are left out.
    """
    from scipy.ndimage import median_filter

    if len(times) > 1:
        width = round(median_ms / float(np.mean(np.diff(times))))  # half to even
        if width > 1:
            prediction = median_filter(prediction, (width, 1), mode="reflect")
    found = []
    for label, on in zip(labels, (prediction > THRESHOLD).T, strict=True):
        for first, last in _runs(on):
            if times[last] - times[first] >= min_duration:
                found.append(Event(label, float(times[first]), float(times[last])))
    return sorted(found, key=lambda event: event.start)


def _runs(on: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    edges = np.diff(np.concatenate([[0], on.astype(int), [0]]))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(int(a), int(b) - 1) for a, b in zip(starts, stops, strict=True)]


def score(name: str, reference: Events, predicted: Events) -> dict[str, float]:
    """A score by its name in HEAR, and its parts under longer names.

    `event_onset_200ms_fms`, `event_onset_offset_50ms_20perc_fms`, `segment_1s_er`, with
    other numbers too.

    Raises:
      NeuroFMError: the name means none of them.
    """
    if found := re.fullmatch(r"segment_(\d+)s_er", name):
        rate = error_rate(reference, predicted, 1000.0 * int(found[1]))
        return {name: rate, f"{name}_error_rate": rate}
    found = re.fullmatch(r"event_onset_(?:offset_)?(\d+)ms(?:_(\d+)perc)?_fms", name)
    if found is None or ("offset" in name) != (found[2] is not None):
        raise NeuroFMError(
            f"{name} is no score of events: give event_onset_200ms_fms, "
            "event_onset_offset_50ms_20perc_fms or segment_1s_er, or other numbers"
        )
    share = None if found[2] is None else int(found[2]) / 100
    parts = f_measure(reference, predicted, float(found[1]), share)
    return {
        name: parts["f_measure"],
        **{f"{name}_{part}": value for part, value in parts.items()},
    }


def goodness(name: str, value: float) -> float:
    """A score as what is to be high; what is not a number is the worst, 0.

    Error rates, which are 0 at best, count from below.
    """
    if name.startswith("segment"):
        return -value if np.isfinite(value) else -np.inf
    return value if np.isfinite(value) else 0.0


def best_duration(
    name: str, reference: Events, predicted: Mapping[float, Events]
) -> float:
    """The minimum duration whose events score best; the larger of equals."""
    return max(
        sorted(predicted, reverse=True),
        key=lambda each: goodness(name, score(name, reference, predicted[each])[name]),
    )


def f_measure(
    reference: Events,
    predicted: Events,
    collar: float,
    offset_share: float | None = None,
) -> dict[str, float]:
    """Event F-measure, precision and recall, over all files and classes together.

    Events match one to one within a file and class, as many as can, where onsets differ
    by `collar` at most, and with `offset_share` offsets by the larger of it and that
    share of the reference's length. Without any prediction the F-measure is NaN.
    """
    n_right = n_reference = n_predicted = 0
    for file in reference.keys() | predicted.keys():
        ours, theirs = predicted.get(file, ()), reference.get(file, ())
        n_reference, n_predicted = n_reference + len(theirs), n_predicted + len(ours)
        n_right += _n_matched(theirs, ours, collar, offset_share)
    precision = n_right / n_predicted if n_predicted else np.nan
    recall = n_right / n_reference if n_reference else np.nan
    f = np.nan
    if n_predicted and n_reference:
        f = 2 * n_right / (n_predicted + n_reference)
    return {"f_measure": f, "precision": precision, "recall": recall}


def _n_matched(reference, predicted, collar, offset_share) -> int:
    from scipy.optimize import linear_sum_assignment

    if not reference or not predicted:
        return 0
    r, p = np.array(reference, object), np.array(predicted, object)
    near = r[:, None, 0] == p[None, :, 0]
    times, guessed = r[:, 1:].astype(float), p[:, 1:].astype(float)
    apart = np.abs(times[:, None] - guessed[None])
    near &= apart[..., 0] <= collar + TIE
    if offset_share is not None:
        allowed = np.maximum(collar, offset_share * (times[:, 1] - times[:, 0]))
        near &= apart[..., 1] <= allowed[:, None] + TIE
    rows, columns = linear_sum_assignment(near, maximize=True)
    return int(near[rows, columns].sum())


def error_rate(reference: Events, predicted: Events, segment: float) -> float:
    """(substitutions + deletions + insertions) / active references, by segments.

    Segments run from 0 to the last offset in a file; a class is active in those that
    one of its events touches. NaN without references.
    """
    errors = active = 0
    for file in reference.keys() | predicted.keys():
        theirs, ours = (
            _touched(e.get(file, ()), segment) for e in (reference, predicted)
        )
        for at in {at for at, _ in theirs | ours}:
            r = {label for where, label in theirs if where == at}
            p = {label for where, label in ours if where == at}
            missed, false = len(r - p), len(p - r)
            errors += max(missed, false)  # min() substituted, the rest one or the other
            active += len(r)
    return errors / active if active else np.nan


def _touched(events: Sequence[Event], segment: float) -> set[tuple[int, str]]:
    out = set()
    for label, start, end in events:
        first, stop = int(start // segment), int(np.ceil(end / segment))
        out |= {(at, label) for at in range(first, stop)}
    return out
