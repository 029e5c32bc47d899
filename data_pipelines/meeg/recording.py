"""One recording of EEG and MEG as an item of a store: from MNE's Raw to samples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from data_pipelines.meeg import signal, state
from data_pipelines.meeg.events import (
    Event,
    annotations,
    event,
    is_bad,
    sorted_events,
    triggers,
)
from data_pipelines.meeg.files import Raw, cannot
from data_pipelines.meeg.sensors import (
    Given,
    choose,
    filename,
    given_by,
    named,
    place,
)
from data_pipelines.meeg.settings import Settings
from neurofm.data.sensors import Sensors
from neurofm.signals.meeg import EEG

_FEWEST_GOOD = 4  # electrodes that splines need


class Item(NamedTuple):
    """A recording, read.

    Attributes:
      samples: at the rate of the settings, in V, T and T/m.
      sensors: of its channels.
      events: onset and duration in seconds, trial_type, further texts.
      meta: columns of the manifest.
      notes: what a user should know of it.
    """

    samples: Float32[np.ndarray, "C N"]
    sensors: Sensors
    events: list[Event]
    meta: dict[str, Any]
    notes: list[str]


def from_raw(
    raw: Raw,
    settings: Settings,
    given: Given | None = None,
    events: Sequence[Event] | None = None,
) -> Item:
    """Channels, sensors, signals and events of a recording.

    The order is BrainOmni's: notch, resample, band-pass, bad channels.

    Args:
      raw: any recording; its samples may still be on the disk.
      settings: what is to be done.
      given: positions of electrodes that go before those in the recording; default
        those of the settings' montage.
      events: in place of its annotations (those named BAD stay) and trigger codes.

    Raises:
      Unreadable: no channel of EEG or MEG can be used, or the unit is in doubt.
    """
    notes: list[str] = []
    given = given or given_by(settings)
    channels = choose(raw, settings.picks, notes)
    channels, sensors, references = place(raw, channels, given, settings, notes)
    line = raw.info["line_freq"] or settings.line_freq
    if settings.line_freq and line != settings.line_freq:
        notes.append(
            f"the line frequency it tells, {line:g} Hz, goes before the "
            f"{settings.line_freq:g} Hz of --line-freq; --notch goes before both"
        )
    notch = _notch(raw, line, settings, notes)
    x, kept, missing = signal.filtered(raw, channels, settings, notch, notes)
    channels = [channels[row] for row in kept]
    sensors = sensors.take(kept)
    level = signal.amplitude(signal.middle(x, settings.sfreq), settings.sfreq)
    measured = [signal.dimension(raw, channel) for channel in channels]
    signal.refuse_implausible(raw, measured, level, settings, notes)
    _tell_narrow(raw, settings, notes)
    marked = {raw.ch_names[c]: row for row, c in enumerate(channels)}
    marked = [row for name, row in marked.items() if name in raw.info["bads"]]
    odd = _odd(x, sensors, marked, settings)
    ranks = _ranks(x, sensors, level, {*marked, *odd}, settings, notes)
    bad_names = [sensors.names[row] for row in sorted({*marked, *odd})]
    x, sensors = _without_bads(raw, x, sensors, marked, odd, settings, notes)
    rows = annotations(raw)
    if events is not None:
        rows = [*events, *(row for row in rows if is_bad(row))]
    elif not any(not is_bad(row) for row in rows):
        rows += triggers(raw, notes)
    rows += [event(onset, duration, "BAD_nan") for onset, duration in missing]
    meta = {
        **state.columns(raw, sensors, references),
        "line_freq": float(line) if line else float("nan"),
        "bads": ", ".join(bad_names),
        "rank": ranks,
    }
    return Item(x, sensors, sorted_events(rows), meta, notes)


def _notch(
    raw: Raw, line: float | None, settings: Settings, notes: list[str]
) -> list[float]:
    """Frequencies to take out; the line's, if it is known and none are given."""
    wanted = settings.notch
    if wanted is None:
        if not line:
            notes.append(
                "its line frequency is not known, so hum was not taken out: give "
                "--line-freq 50 (or 60), or --notch 50,60"
            )
            return []
        wanted = (float(line),)
    room = raw.info["sfreq"] / 2 - 1  # the notch needs some above it
    if above := [f for f in wanted if f >= room]:
        notes.append(
            f"recorded at {raw.info['sfreq']:g} Hz, so there is nothing to take out at "
            f"{', '.join(f'{f:g}' for f in above)} Hz"
        )
    return [f for f in wanted if f < room]


def _tell_narrow(raw: Raw, settings: Settings, notes: list[str]) -> None:
    upper = min(raw.info["lowpass"], raw.info["sfreq"] / 2)
    if upper < settings.band[1]:
        notes.append(f"it holds nothing above {upper:g} Hz")
    if raw.info["highpass"] > max(1.0, settings.band[0]):
        notes.append(f"it holds nothing below {raw.info['highpass']:g} Hz")


def _odd(
    x: Float32[np.ndarray, "C N"],
    sensors: Sensors,
    marked: Sequence[int],
    settings: Settings,
) -> list[int]:
    """Rows of EEG channels with odd spectra that are not marked bad already."""
    eeg = [int(r) for r in np.flatnonzero(sensors.kind == EEG) if r not in marked]
    return [eeg[i] for i in signal.odd_spectra(x[eeg], settings)] if eeg else []


def _without_bads(
    raw: Raw,
    x: Float32[np.ndarray, "C N"],
    sensors: Sensors,
    marked: Sequence[int],
    odd: Sequence[int],
    settings: Settings,
    notes: list[str],
) -> tuple[Float32[np.ndarray, "C N"], Sensors]:
    """Interpolate or leave out bad channels, as the settings say, and tell it."""
    bad = sorted({*marked, *odd})
    if not bad:
        return x, sensors
    told = named(
        [
            f"{sensors.names[row]} ({'marked' if row in marked else 'odd spectrum'})"
            for row in bad
        ]
    )
    if settings.bads == "keep":
        notes.append(f"bad channels, kept as they are: {told}")
        return x, sensors
    eeg = [row for row in bad if sensors.kind[row] == EEG]
    n_good = int((sensors.kind == EEG).sum()) - len(eeg)
    if settings.bads == "interpolate" and n_good >= _FEWEST_GOOD and eeg:
        x = signal.interpolated(x, sensors, eeg, settings.sfreq)
        dropped = [row for row in bad if row not in eeg]
        notes.append(
            f"bad channels: {told}; "
            + ("EEG interpolated, MEG left out" if dropped else "interpolated")
        )
    else:
        dropped = bad
        notes.append(f"bad channels, left out: {told}")
    rest = [row for row in range(len(x)) if row not in dropped]
    if not rest:
        raise cannot(filename(raw), f"all its channels are bad: {told}")
    return x[rest], sensors.take(rest)


def _ranks(
    x: Float32[np.ndarray, "C N"],
    sensors: Sensors,
    level: Float[np.ndarray, "C"],
    bad: set[int],
    settings: Settings,
    notes: list[str],
) -> str:
    """Rank of EEG and of MEG as text, with a warning where MEG's is low.

    A common reference takes one from EEG's, which is no news.
    """
    some = signal.middle(x, settings.sfreq)
    found: dict[str, tuple[int, int]] = {}
    good = np.array([row not in bad for row in range(len(x))])
    for kind, member in (("eeg", sensors.kind == EEG), ("meg", sensors.kind != EEG)):
        rows = np.flatnonzero(member & good)
        if 0 < len(rows) < some.shape[1]:
            found[kind] = (signal.rank(some[rows], level[rows]), len(rows))
    for kind, (rank, n) in found.items():
        if rank < n - 1:
            notes.append(
                f"low rank: its {n} {kind.upper()} channels hold {rank} independent "
                "signals (projected, Maxwell-filtered or interpolated before); kept"
            )
    return state.ranks(found)
