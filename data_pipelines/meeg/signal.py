"""Signals of recordings: mended, filtered, resampled, judged.

Axes: C channels, T samples of the source, N samples of the result.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from data_pipelines.meeg.files import Raw, cannot, told
from data_pipelines.meeg.sensors import filename
from data_pipelines.meeg.settings import UNITS, Settings, spelt
from neurofm.data.sensors import Sensors
from neurofm.signals.meeg import EEG

_CHUNK = 2**25  # numbers that are read and filtered at once, all channels together
_FLAT = 0.99  # share of equal neighbours that makes a channel flat
_LOST = 0.5  # share of missing numbers that makes a channel useless
_LOOKED_AT_S = 60.0  # from the middle, to judge amplitude and rank

# Plausible amplitudes above 1 Hz, in SI: well below the noise of a good amplifier to
# well above movement. A file that misses them is in another unit than it says.
_PLAUSIBLE = {"V": (3e-7, 2e-3), "T": (5e-15, 1e-9), "T/m": (1e-13, 2e-8)}
_TYPICAL = {"V": 2e-5, "T": 1e-12, "T/m": 1e-11}


class Signal(NamedTuple):
    """What is left of a recording's channels.

    Attributes:
      samples: in V, T and T/m.
      kept: rows of the channels asked for that are in `samples`.
      missing: onset and duration (s) of stretches in which numbers were missing.
    """

    samples: Float32[np.ndarray, "C N"]
    kept: list[int]
    missing: list[tuple[float, float]]


def dimension(raw: Raw, channel: int) -> str:
    """V, T or T/m: what a channel measures."""
    from mne.io.constants import FIFF

    unit = int(raw.info["chs"][channel]["unit"])
    names = {int(FIFF.FIFF_UNIT_T): "T", int(FIFF.FIFF_UNIT_T_M): "T/m"}
    return names.get(unit, "V")


def _factors(
    raw: Raw, channels: Sequence[int], settings: Settings
) -> Float[np.ndarray, "C"]:
    """What to multiply MNE's numbers with, where the user has named the unit."""
    labels = getattr(raw, "_orig_units", None) or {}
    # EEGLAB files name no unit and are taken for microvolts.
    silent = "uV" if type(raw).__name__ == "RawEEGLAB" else ""
    factors = np.ones(len(channels))
    for row, channel in enumerate(channels):
        given = settings.factor(dimension(raw, channel))
        if given is not None:
            label = spelt(str(labels.get(raw.ch_names[channel], silent)))
            factors[row] = given / UNITS.get(label, ("", 1.0))[1]
    return factors


def filtered(
    raw: Raw,
    channels: Sequence[int],
    settings: Settings,
    notch: Sequence[float],
    notes: list[str],
) -> Signal:
    """Mend, notch, resample and band-pass channels, in this order, with MNE's filters.

    A few channels at a time, so memory holds the result and little more. Flat channels
    and those without numbers are left out and told; other missing numbers are
    interpolated.

    Raises:
      Unreadable: the samples cannot be read, or no channel is left.
    """
    factors = _factors(raw, channels, settings)
    sfreq = float(raw.info["sfreq"])

    def read(rows: Sequence[int]) -> Float[np.ndarray, "c T"]:
        x = read_channels(raw, [channels[row] for row in rows])
        return x * factors[list(rows), None]

    found: list[str] = []
    with told(found):
        signal = few_at_a_time(
            [raw.ch_names[channel] for channel in channels],
            (raw.n_times, sfreq),
            read,
            lambda x: _pass(x, sfreq, settings, notch),
            notes,
        )
    notes += [_in_words(note, raw, settings) for note in found]
    if signal is None:
        raise cannot(filename(raw), "nothing changes in any of its channels")
    return signal


def few_at_a_time(
    names: Sequence[str],
    length: tuple[int, float],
    read: Callable[[Sequence[int]], Float[np.ndarray, "c T"]],
    work: Callable[[Float[np.ndarray, "c T"]], Float32[np.ndarray, "c N"]],
    notes: list[str],
) -> Signal | None:
    """Read, mend and work on a few channels at a time.

    Args:
      names: of all channels.
      length: samples of the source, and their rate in Hz.
      read: gives the samples of some rows.
      work: is given those of rows that are kept, without missing numbers.
      notes: what was left out or interpolated is appended.

    Returns:
      What is left; None where nothing is.
    """
    n_samples, sfreq = length
    size = max(1, _CHUNK // n_samples)
    pieces: list[np.ndarray] = []
    kept: list[int] = []
    flat: list[str] = []
    empty: list[str] = []
    missing = np.zeros(n_samples, bool)
    for start in range(0, len(names), size):
        rows = range(start, min(start + size, len(names)))
        x = read(rows)
        good = []
        for row, signal in zip(rows, x, strict=True):
            gone = ~np.isfinite(signal)
            if gone.mean() > _LOST:
                empty.append(names[row])
            elif _is_flat(signal[~gone]):
                flat.append(names[row])
            else:
                mend(signal, gone)
                missing |= gone
                good.append(row)
        kept += good
        if good:
            pieces.append(work(x[[row - start for row in good]]))
    if empty:
        notes.append(
            f"left out, as most of its numbers are missing: {', '.join(empty)}"
        )
    if flat:
        notes.append(f"left out, as nothing changes in it: {', '.join(flat)}")
    if not kept:
        return None
    stretches = spans(missing, sfreq)
    if stretches:
        notes.append(
            f"numbers are missing in {missing.sum() / sfreq:.3g} s of it: "
            "interpolated, and marked BAD_nan"
        )
    return Signal(np.concatenate(pieces), kept, stretches)


def read_channels(raw: Raw, channels: list[int]) -> Float[np.ndarray, "C T"]:
    """Samples of channels as the file has them; `Unreadable` where it is damaged."""
    try:
        return np.ascontiguousarray(raw.get_data(picks=channels), float)
    except Exception as error:  # a damaged file may raise anything
        reason = " ".join(str(error).split())[:200]
        raise cannot(
            filename(raw), f"its samples cannot be read, it is damaged or cut: {reason}"
        ) from error


def _is_flat(x: Float[np.ndarray, "T"]) -> bool:
    return len(x) < 2 or float((np.diff(x) == 0).mean()) > _FLAT


def mend(x: Float[np.ndarray, "T"], gone: Bool[np.ndarray, "T"]) -> None:
    """Interpolate, in place and linearly, what is gone."""
    if gone.any():
        x[gone] = np.interp(np.flatnonzero(gone), np.flatnonzero(~gone), x[~gone])


def spans(mask: Bool[np.ndarray, "T"], sfreq: float) -> list[tuple[float, float]]:
    """Onset and duration (s) of the runs of True."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)) / sfreq
    return [(float(a), float(b - a)) for a, b in edges.reshape(-1, 2)]


def _pass(
    x: Float[np.ndarray, "C T"],
    sfreq: float,
    settings: Settings,
    notch: Sequence[float],
) -> Float32[np.ndarray, "C N"]:
    import mne

    filters: Any = mne.filter  # pyright believes what its defaults suggest

    low, high = settings.band
    if notch:
        x = filters.notch_filter(x, sfreq, list(notch), copy=False, verbose="warning")
    if sfreq != settings.sfreq:
        x = filters.resample(x, settings.sfreq, sfreq, npad="auto", verbose="warning")
    x = filters.filter_data(
        x, settings.sfreq, low or None, high, copy=False, verbose="warning"
    )
    return x.astype(np.float32)


def _in_words(note: str, raw: Raw, settings: Settings) -> str:
    if note.startswith("filter_length"):
        seconds = raw.n_times / raw.info["sfreq"]
        return (
            f"its {seconds:.1f} s are shorter than the filters: kept, but its slowest "
            f"waves are distorted; a higher --band (such as 1,{settings.band[1]:g}) "
            "needs less"
        )
    return note


def middle(x: Float32[np.ndarray, "C N"], sfreq: float) -> Float32[np.ndarray, "C n"]:
    """A minute from the middle, or all of less."""
    spare = max(0, x.shape[1] - round(_LOOKED_AT_S * sfreq)) // 2
    return x[:, spare : x.shape[1] - spare]


def amplitude(x: Float32[np.ndarray, "C N"], sfreq: float) -> Float[np.ndarray, "C"]:
    """Deviation of each channel above 1 Hz, told by the median: artefacts pass by."""
    from scipy.signal import butter, sosfiltfilt

    sos = butter(2, 1.0, "high", fs=sfreq, output="sos")
    short = x.shape[1] <= 16
    above = x - x.mean(1, keepdims=True) if short else sosfiltfilt(sos, x, axis=1)
    return 1.4826 * np.median(np.abs(above - np.median(above, 1, keepdims=True)), 1)


def refuse_implausible(
    raw: Raw,
    measured: Sequence[str],
    level: Float[np.ndarray, "C"],
    settings: Settings,
    notes: list[str],
) -> None:
    """Judge the amplitude of the channels of each dimension by its median.

    Args:
      measured: V, T or T/m, for each channel.
      level: of each channel, see `amplitude`.

    Raises:
      Unreadable: it is not plausible, and the user has not said what the unit is.
    """
    for quantity in dict.fromkeys(measured):
        typical = float(np.median(level[[m == quantity for m in measured]]))
        low, high = _PLAUSIBLE[quantity]
        if low <= typical <= high:
            continue
        size = f"{typical:.2g} {quantity} is typical above 1 Hz"
        expected = f"expected {low:g} to {high:g}"
        if settings.factor(quantity) is not None:
            notes.append(f"{size}, {expected}; kept, as --unit was given")
            continue
        raise cannot(filename(raw), f"{size}, {expected}{_advice(typical, quantity)}")


def _advice(level: float, quantity: str) -> str:
    """The unit that would make an amplitude plausible, if there is one."""
    low, high = _PLAUSIBLE[quantity]
    fitting = [
        (abs(np.log(level * factor / _TYPICAL[quantity])), unit, factor)
        for unit, (measured, factor) in UNITS.items()
        if measured == quantity and factor != 1 and low <= level * factor <= high
    ]
    if fitting:
        _, unit, factor = min(fitting)
        return (
            f": looks like {unit} read as {quantity}, {1 / factor:.0e} too large; give "
            f"--unit {unit}"
        )
    if low <= level * 1e6 <= high:
        return (
            f": looks like {quantity} read as u{quantity}, 1e+06 too small; give "
            f"--unit {quantity}"
        )
    return f"; if that is right, give --unit {quantity}"


def odd_spectra(x: Float32[np.ndarray, "C N"], settings: Settings) -> list[int]:
    """EEG channels whose spectrum is unlike that of the others.

    Log power spectra, their mean Euclidean distance to the other channels, and what
    lies beyond the quartiles by ten times their distance. Source: BrainOmni, data
    preparation.
    """
    from scipy.signal import welch

    if len(x) < 4:
        return []
    size = min(512, x.shape[1])
    # One by one: the windows of all channels at once would be many times the signal.
    spectra = [welch(row, settings.sfreq, nperseg=size) for row in x]
    freqs, power = spectra[0][0], np.array([power for _, power in spectra])
    inside = (freqs >= settings.band[0]) & (freqs <= settings.band[1])
    log = np.log10(np.maximum(power[:, inside], np.finfo(float).tiny))
    gaps = np.linalg.norm(log[:, None] - log[None], axis=-1)
    mean = gaps.sum(1) / (len(x) - 1)
    first, third = np.quantile(mean, [0.25, 0.75])
    far = 10 * (third - first)
    return np.flatnonzero((mean < first - far) | (mean > third + far)).tolist()


def interpolated(
    x: Float32[np.ndarray, "C N"],
    sensors: Sensors,
    bad: Sequence[int],
    sfreq: float,
) -> Float32[np.ndarray, "C N"]:
    """EEG channels replaced by spherical splines of the good ones.

    The sphere's middle is at (0, 0, 0.04) m of the head frame.
    """
    import mne

    eeg = np.flatnonzero(sensors.kind == EEG)
    info = mne.create_info([str(i) for i in eeg], sfreq, "eeg")
    for channel, row in zip(info["chs"], eeg, strict=True):
        channel["loc"][:3] = sensors.pos[row, :3]
    info["bads"] = [str(i) for i in bad]
    raw: Raw = mne.io.RawArray(x[eeg].astype(float), info, verbose="error")
    raw.interpolate_bads(origin=(0.0, 0.0, 0.04), verbose="error")
    out = x.copy()
    out[list(bad)] = raw.get_data(picks=[str(i) for i in bad])
    return out


def rank(x: Float32[np.ndarray, "C N"], scale: Float[np.ndarray, "C"]) -> int:
    """Independent channels among C, by the spectrum of their scaled covariance.

    float32 keeps seven digits, so what is below 1e-11 of the strongest is rounding.
    """
    scaled = x.astype(float) / np.maximum(scale, np.finfo(float).tiny)[:, None]
    scaled -= scaled.mean(1, keepdims=True)
    values = np.linalg.eigvalsh(scaled @ scaled.T)
    return int((values > 1e-11 * values[-1]).sum())
