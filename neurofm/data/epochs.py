"""Stretches of recordings around events, as arrays.

Axes: E epochs, C channels, T samples.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32

from neurofm.data.meeg import BAD
from neurofm.data.records import Dataset
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.signals.meeg import KINDS


@dataclass(frozen=True, eq=False)
class Epochs:
    """Epochs of the recordings that share one layout of sensors.

    Attributes:
      samples: in the dataset's unit.
      times_s: of the samples, from the event.
      table: a row an epoch: the event's columns, among them item, onset (s, from the
        item's start) and trial_type.
      sensors: of the channels.
      dropped: reason (`outside`, `bad`, `reject`) -> events without an epoch.
    """

    samples: Float32[np.ndarray, "E C T"]
    times_s: Float[np.ndarray, "T"]
    table: pa.Table
    sensors: Sensors
    dropped: Mapping[str, int]


def epochs(
    dataset: Dataset,
    trial_type: str | Sequence[str],
    tmin: float,
    tmax: float,
    *,
    baseline: tuple[float, float] | None = None,
    reject: Mapping[str, float] | None = None,
    keep_bad: bool = False,
) -> list[Epochs]:
    """Cut [tmin, tmax) around each event out of a store of EEG and MEG.

    An epoch that leaves its recording, that meets an event named `BAD...` or that
    exceeds `reject` is left out and counted.

    Args:
      dataset: of kind `meeg`.
      trial_type: name or names of the events.
      tmin: seconds from the event's onset at which an epoch begins; may be negative.
      tmax: at which it ends; the sample there belongs to it no more.
      baseline: seconds [from, to) whose mean is taken off each channel.
      reject: kind (`eeg`, `mag`, `grad`) -> largest allowed peak-to-peak amplitude in
        SI units, before the baseline is taken off.
      keep_bad: do not leave out epochs that meet `BAD...`.

    Returns:
      Epochs by layout of sensors, in the order of the store, for those that have such
      events.

    Raises:
      NeuroFMError: no such event, or times or kinds that cannot be.
    """
    names = (trial_type,) if isinstance(trial_type, str) else tuple(trial_type)
    reject = reject or {}
    sfreq = dataset.info.sfreq
    first, n_samples = round(tmin * sfreq), round((tmax - tmin) * sfreq)
    times = (first + np.arange(max(n_samples, 0))) / sfreq
    _refuse(dataset, names, times, baseline, reject)
    by_item: dict[str, list[dict[str, Any]]] = {}
    for event in dataset.events.to_pylist():
        by_item.setdefault(event["item"], []).append(event)
    found: dict[str, _Layout] = {}
    items = dataset.items.select(["item", "layout", "n_samples"]).to_pylist()
    for row, item in enumerate(items):
        events = by_item.get(item["item"], [])
        bad = [] if keep_bad else [e for e in events if _is_bad(e)]
        for event in (e for e in events if e["trial_type"] in names):
            group = found.setdefault(item["layout"], _Layout(dataset.sensors(row)))
            start = round(event["onset"] * sfreq) + first
            stop = start + n_samples
            if start < 0 or stop > item["n_samples"]:
                group.dropped["outside"] += 1
            elif _meets(start / sfreq, stop / sfreq, bad):
                group.dropped["bad"] += 1
            elif _exceeds(x := dataset.read(row, start, stop), group.sensors, reject):
                group.dropped["reject"] += 1
            else:
                group.samples.append(x)
                group.events.append(event)
    return [
        Epochs(
            samples=_based(
                np.reshape(group.samples, (-1, len(group.sensors), n_samples)).astype(
                    np.float32
                ),
                times,
                baseline,
            ),
            times_s=times,
            table=pa.Table.from_pylist(group.events, dataset.events.schema),
            sensors=group.sensors,
            dropped=dict(group.dropped),
        )
        for group in found.values()
    ]


@dataclass
class _Layout:
    """What is found of one layout of sensors."""

    sensors: Sensors
    samples: list[np.ndarray] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def _is_bad(event: Mapping[str, Any]) -> bool:
    return str(event["trial_type"]).upper().startswith(BAD)


def _refuse(
    dataset: Dataset,
    names: Sequence[str],
    times: Float[np.ndarray, "T"],
    baseline: tuple[float, float] | None,
    reject: Mapping[str, float],
) -> None:
    if dataset.info.kind != "meeg":
        raise NeuroFMError(
            f"{dataset.path} holds {dataset.info.kind}; epochs are cut from EEG and MEG"
        )
    if not len(times):
        raise NeuroFMError("an epoch has no samples: give tmin below tmax, in seconds")
    there = {str(name) for name in dataset.events["trial_type"].unique().to_pylist()}
    if missing := [name for name in names if name not in there]:
        raise NeuroFMError(
            f"{dataset.path} has no event {missing[0]!r}; it has "
            f"{', '.join(sorted(there)) or 'none'}"
        )
    if baseline and not _within(times, baseline).any():
        raise NeuroFMError(
            f"the baseline {baseline[0]:g} to {baseline[1]:g} s lies outside of the "
            "epochs: give seconds between tmin and tmax"
        )
    if wrong := set(reject) - set(KINDS):
        raise NeuroFMError(f"reject {sorted(wrong)}: expected {', '.join(KINDS)}")


def _within(
    times: Float[np.ndarray, "T"], span: tuple[float, float]
) -> Bool[np.ndarray, "T"]:
    # Times are multiples of a sample; half a nanosecond is rounding.
    return (times > span[0] - 5e-10) & (times < span[1] - 5e-10)


def _meets(start_s: float, stop_s: float, bad: Sequence[Mapping]) -> bool:
    return any(
        e["onset"] < stop_s and e["onset"] + (e["duration"] or 0.0) >= start_s
        for e in bad
    )


def _exceeds(
    x: Float32[np.ndarray, "C T"], sensors: Sensors, reject: Mapping[str, float]
) -> bool:
    span = np.ptp(x, axis=1)
    return any(
        bool((span[sensors.kind == KINDS.index(kind)] > limit).any())
        for kind, limit in reject.items()
    )


def _based(
    x: Float32[np.ndarray, "E C T"],
    times: Float[np.ndarray, "T"],
    baseline: tuple[float, float] | None,
) -> Float32[np.ndarray, "E C T"]:
    if baseline is None:
        return x
    return x - x[..., _within(times, baseline)].mean(-1, keepdims=True)
