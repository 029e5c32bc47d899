"""EEG and MEG that a user gives, as a model takes it.

What lies in memory is taken as it is, but for its unit and its rate. Files are read as
`neurofm prepare` reads them: notch, resampling, band-pass and bad channels included.

Axes: n epochs, C channels, N samples.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from neurofm.contract import InputContract
from neurofm.data.sensors import Sensors
from neurofm.embedding.difference import Difference
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.signals.meeg import EEG, MAG

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings

# What MNE warns of is caught while a file is read, and threads share how warnings are
# caught: one file at a time, while the model reads the one before.
_READING = threading.Lock()
BAND_HZ = (0.1, 96.0)  # of files at 256 Hz, as BrainOmni's; at lower rates to 3/8 of it


def settings_for(contract: InputContract, **given: Any) -> "Settings":
    """How files are read for a model: its rate and frame, and what else is given."""
    from data_pipelines.meeg.settings import Settings

    low, high = BAND_HZ
    band = (low, min(high, 0.375 * contract.sfreq))
    frame = contract.frame or "head"
    return Settings(**{"sfreq": contract.sfreq, "band": band, "frame": frame, **given})


def take(
    contract: InputContract,
    x: Any,
    sfreq: float | None,
    info: Any,
    settings: "Settings",
) -> tuple[list[Recorded], list[Difference]]:
    """A file, an MNE object or an array: one recording, or one an epoch.

    Args:
      x: a path; an `mne.io.Raw`, `mne.Epochs` or `mne.Evoked`; or samples (C, N) or
        (n, C, N).
      sfreq, info: of an array; see `known` for the latter.

    Raises:
      NeuroFMError: no channel or sensor is known, samples are not finite, or their unit
        is in doubt.
    """
    if isinstance(x, str | os.PathLike):
        one, found = of_file(Path(x), settings)
        return [one], found
    start_s = 0.0
    if hasattr(x, "get_channel_types"):
        sfreq, info, start_s = float(x.info["sfreq"]), x.info, float(x.times[0])
        x = x.get_data()
    if sfreq is None or info is None:
        raise NeuroFMError(
            "an array of EEG or MEG was given without its sfreq or info: give both, "
            "info being an mne.Info, a list of MNE's channels (chs_info), or Sensors"
        )
    x = np.asarray(x)
    if x.ndim not in (2, 3) or x.dtype.kind not in "fi" or not x.size:
        raise NeuroFMError(
            f"an array of shape {x.shape} and type {x.dtype} was given: give numbers, "
            "(channels, samples) or (epochs, channels, samples)"
        )
    channels, sensors, bads, found = known(info, x.shape[-2], sfreq, settings)
    x = np.asarray(x[..., channels, :], float)
    x = _in_si(x, sensors, sfreq, settings)
    if sfreq != contract.sfreq:
        from mne import filter as filters

        auto: Any = "auto"
        x = filters.resample(x, contract.sfreq, sfreq, npad=auto, verbose="error")
        how = f"resampled from {sfreq:g} to {contract.sfreq:g} Hz"
        found.append(Difference("sfreq", sfreq, contract.sfreq, how))
    epochs = x[None] if x.ndim == 2 else x
    whole = Recorded(epochs[0].astype(np.float32), sensors, start_s, bads=bads)
    return [whole._replace(samples=e.astype(np.float32)) for e in epochs], found


def several(x: Any) -> bool:
    """Whether `take` gives a recording an epoch."""
    if hasattr(x, "get_channel_types"):
        return hasattr(x, "event_id")
    return getattr(x, "ndim", 2) == 3


def of_file(path: Path, settings: "Settings") -> tuple[Recorded, list[Difference]]:
    """A file of any format that MNE reads, prepared as `neurofm prepare` does."""
    from data_pipelines.meeg import files, recording, sensors

    notes: list[str] = []
    with _READING:
        raw = files.open_raw(path, notes)
        item = recording.from_raw(raw, settings, sensors.given_by(settings))
    low, high = settings.band
    found = [
        Difference(
            "band", None, settings.band, f"band-passed from {low:g} to {high:g} Hz"
        )
    ]
    if (given := float(raw.info["sfreq"])) != settings.sfreq:
        how = f"resampled from {given:g} to {settings.sfreq:g} Hz"
        found.append(Difference("sfreq", given, settings.sfreq, how))
    found += [Difference("note", None, None, note) for note in (*notes, *item.notes)]
    bads = tuple(n for n in item.meta["bads"].split(", ") if n in item.sensors.names)
    return Recorded(item.samples, item.sensors, bads=bads), found


def known(
    info: Any, n_chans: int, sfreq: float, settings: "Settings"
) -> tuple[list[int], Sensors, tuple[str, ...], list[Difference]]:
    """Channels of EEG and MEG with a known place, their sensors, and the bad ones.

    Channels marked bad are left out unless the settings keep them, and so are those
    without a place.

    Args:
      info: `Sensors` of all channels; an `mne.Info`; or a list of MNE's channels, each
        a dict with `ch_name`, `kind`, `coil_type`, `loc` and `coord_frame`.

    Raises:
      NeuroFMError: it does not fit the channels, or none can be used.
    """
    if isinstance(info, Sensors):
        _check_number(len(info), n_chans)
        return list(range(n_chans)), info, (), []
    import mne

    from data_pipelines.meeg import sensors

    if not isinstance(info, mne.Info):
        info = _info_of(info, sfreq)
    _check_number(len(info["ch_names"]), n_chans)
    notes: list[str] = []
    raw = mne.io.RawArray(np.zeros((n_chans, 1)), info, verbose="error")
    channels = sensors.choose(raw, settings.picks, notes)
    bad = [c for c in channels if raw.ch_names[c] in info["bads"]]
    if bad and settings.bads != "keep":
        channels = [c for c in channels if c not in bad]
        told = ", ".join(raw.ch_names[c] for c in bad)
        notes.append(f"channels marked bad were left out: {told}")
    placed = sensors.place(raw, channels, sensors.given_by(settings), settings, notes)
    found = [Difference("note", None, None, note) for note in notes]
    names = zip(placed.channels, placed.sensors.names, strict=True)
    bads = tuple(name for channel, name in names if channel in bad)
    return placed.channels, placed.sensors, bads, found


def _check_number(known: int, given: int) -> None:
    if known != given:
        raise NeuroFMError(
            f"info tells of {known} channels and {given} were given: give both in the "
            "same order, one for one"
        )


def _info_of(chs_info: Sequence[dict[str, Any]], sfreq: float) -> Any:
    import mne

    try:
        names = [str(ch["ch_name"]) for ch in chs_info]
        info = mne.create_info(names, sfreq, "eeg", verbose="error")
        for channel, given in zip(info["chs"], chs_info, strict=True):
            channel.update({k: v for k, v in given.items() if k in channel})
    except (TypeError, KeyError, ValueError) as error:
        raise NeuroFMError(
            f"info is no list of MNE's channels ({error}): give info['chs'] of an "
            "mne.Info, the mne.Info itself, or Sensors"
        ) from error
    return info


def _in_si(
    x: Float[np.ndarray, "*n C N"],
    sensors: Sensors,
    sfreq: float,
    settings: "Settings",
) -> Float[np.ndarray, "*n C N"]:
    """In V, T and T/m; refused where that is not plausible and no unit is given."""
    import mne

    from data_pipelines.meeg import signal

    pieces = x.reshape(-1, *x.shape[-2:])
    rows = np.flatnonzero(~np.isfinite(pieces).all((0, 2)))
    if len(rows):
        bad = ", ".join(sensors.names[row] for row in rows[:12])
        raise NeuroFMError(
            f"samples of {bad} are not finite: repair them, or leave these channels out"
        )
    measured = ["V" if k == EEG else "T" if k == MAG else "T/m" for k in sensors.kind]
    factors = np.array([settings.factor(one) or 1.0 for one in measured])
    pieces = (pieces * factors[:, None]).astype(np.float32)
    level = np.median([signal.amplitude(piece, sfreq) for piece in pieces], axis=0)
    empty = mne.io.RawArray(
        np.zeros((1, 1)), mne.create_info(1, sfreq, "misc"), verbose="error"
    )
    notes: list[str] = []
    signal.refuse_implausible(empty, measured, level, settings, notes)
    return x * factors[:, None]
