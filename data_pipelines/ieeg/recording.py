"""One intracranial recording as an item of a store.

Contacts are chosen by name, hum is taken out, the rate converted, and contacts measured
against each other; notch before reference is BrainBERT's order, and all are linear.

Axes: C channels, N samples.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from data_pipelines.ieeg.contacts import Shafts, shafts
from data_pipelines.ieeg.opened import Opened, cannot
from data_pipelines.ieeg.settings import Settings
from data_pipelines.ieeg.signal import referenced, without_hum
from data_pipelines.meeg.events import event, sorted_events
from data_pipelines.meeg.files import told
from data_pipelines.meeg.sensors import named
from data_pipelines.meeg.signal import few_at_a_time
from neurofm.data.records import Recording
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.signals.meeg import EEG

_MOST_ON_A_SHAFT = 24


def from_opened(
    file: str, path: Path, one: Opened, settings: Settings, notes: list[str]
) -> Recording:
    """Contacts of a recording, and its events.

    Raises:
      Unreadable: no contact can be used.
    """
    chosen = contacts(path, one, notes)
    line = one.line_freq or settings.line_freq
    notch = _notch(line, settings, notes)
    row = {name: i for i, name in enumerate(one.names)}
    with told(notes):
        signal = few_at_a_time(
            chosen,
            (one.n_samples, one.sfreq),
            lambda some: one.read([row[chosen[i]] for i in some]),
            lambda x: _passed(x, one.sfreq, settings.sfreq, notch),
            notes,
        )
    if signal is None:
        raise cannot(path, "nothing changes in any of its contacts")
    names = [chosen[i] for i in signal.kept]
    placed = shafts(names)
    _tell_shafts(placed, settings, notes)
    try:
        result = referenced(signal.samples, names, placed, settings.reference)
    except NeuroFMError as error:
        raise cannot(path, str(error)) from error
    if settings.sfreq > one.sfreq:
        notes.append(f"it holds nothing above {one.sfreq / 2:g} Hz")
    gaps = [event(onset, seconds, "BAD_nan") for onset, seconds in signal.missing]
    return Recording(
        item=file,
        samples=result.samples,
        sensors=_sensors(result.names),
        meta={
            **one.meta,
            "file": file,
            "source_sfreq": one.sfreq,
            "line_freq": float(line) if line else float("nan"),
            "reference": settings.reference,
            "bads": ", ".join(name for name in one.names if name in one.bad),
        },
        events=sorted_events([*one.events, *gaps]),
    )


def contacts(path: Path, one: Opened, notes: list[str]) -> list[str]:
    """Names of the contacts that are not marked bad; the others are counted and told.

    Raises:
      Unreadable: there are none, or two channels mean the same one.
    """
    try:
        found = shafts(one.names)
    except NeuroFMError as error:
        raise cannot(path, str(error)) from error
    others = [*one.others, *found.others]
    if others:
        notes.append(
            f"{len(others)} left out, as they are no contacts: {named(others)}"
        )
    bad = [name for name in found.contacts if name in one.bad]
    if bad:
        notes.append(f"{len(bad)} left out, as they are marked bad: {named(bad)}")
    good = [name for name in found.contacts if name not in one.bad]
    if not good:
        raise cannot(path, f"all its {len(bad)} contacts are marked bad")
    return good


def _notch(
    line: float | None, settings: Settings, notes: list[str]
) -> tuple[float, ...]:
    """Frequencies to take out with their multiples."""
    if settings.notch is not None:
        return settings.notch
    if not line:
        notes.append(
            "its line frequency is not known, so hum was not taken out: give "
            "--line-freq 50 (or 60), or --notch none"
        )
        return ()
    if settings.line_freq and line != settings.line_freq:
        notes.append(
            f"the line frequency it tells, {line:g} Hz, goes before --line-freq"
        )
    return (float(line),)


def _passed(
    x: Float[np.ndarray, "C T"], source: float, sfreq: float, notch: tuple[float, ...]
) -> Float32[np.ndarray, "C N"]:
    import mne

    filters: Any = mne.filter  # pyright believes what its defaults suggest
    for f in notch:
        x = without_hum(x, source, f)
    if source != sfreq:
        x = filters.resample(x, sfreq, source, npad="auto", verbose="warning")
    return np.asarray(x, np.float32)


def _tell_shafts(placed: Shafts, settings: Settings, notes: list[str]) -> None:
    """Note what names were taken for, and who has no neighbour that is needed."""
    near = placed.neighbours()
    notes.append(
        f"contacts: {placed.sentence}; {len(near)} of {len(placed.contacts)} have a "
        "neighbour on both sides"
    )
    numbers = [place.shaft for place in placed.contacts.values()]
    large = [s for s in dict.fromkeys(numbers) if numbers.count(s) > _MOST_ON_A_SHAFT]
    needed = {"laplacian": set(near)}
    needed["bipolar"] = {name for pair in placed.pairs() for name in pair}
    if (having := needed.get(settings.reference)) is None:
        return
    if lost := [name for name in placed.contacts if name not in having]:
        notes.append(
            f"{len(lost)} left out, as the reference {settings.reference} needs their "
            f"neighbours: {named(lost)}"
        )
    if large:
        notes.append(
            f"{large[0]} has {numbers.count(large[0])} contacts, more than a shaft: of "
            "a grid neighbours are not told by numbers, so --reference average is safer"
        )


def _sensors(names: tuple[str, ...]) -> Sensors:
    """Contacts as sensors of voltage, whose places no model takes: all zeros."""
    return Sensors(
        names=names,
        kind=np.full(len(names), EEG, np.int32),
        pos=np.zeros((len(names), 6), np.float32),
        coil=("",) * len(names),
        frame="none",
    )
