"""What a user gives, made into what a model takes: compared, converted, or refused."""

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from neurofm.contract import InputContract
from neurofm.errors import NeuroFMError
from neurofm.signals import audio

_log = logging.getLogger(__name__)

# (channels given, channels wanted) -> what is done, as in the released WavJEPA runtime;
# four channels are first-order ambisonics, whose first is omnidirectional.
_CHANNELS = {
    (1, 2): "the channel is copied to both",
    (2, 1): "the mean of both channels is taken",
    (4, 1): "the first (omnidirectional) channel is taken",
    (4, 2): "the first (omnidirectional) channel is copied to both",
}

# Kind of a contract -> MNE's types of the channels that it means. MNE's numbers are in
# SI units, as those of contracts are; no type of its channels is sound.
_MNE_TYPES = {
    "eeg": ("eeg",),
    "meg": ("mag", "grad"),
    "ieeg": ("seeg", "ecog", "dbs"),
}


@dataclass(frozen=True)
class Difference:
    """One way in which an input is not what the model takes.

    Attributes:
      name: field of the input contract.
      given, expected: the two values.
      remedy: how it is converted, or None where no exact conversion is known.
    """

    name: str
    given: Any
    expected: Any
    remedy: str | None


def compare(contract: InputContract, given: Mapping[str, Any]) -> list[Difference]:
    """Differences between what is known of an input and the contract of a model.

    Args:
      given: any of the contract's fields, such as kind, sfreq, unit, n_chans.
    """
    out = []
    for name, value in given.items():
        expected = getattr(contract, name)
        if value == expected:
            continue
        remedy = None
        if contract.kind == "audio" and name == "sfreq":
            remedy = f"resampled from {value:g} to {expected:g} Hz"
        elif contract.kind == "audio" and name == "n_chans":
            remedy = _CHANNELS.get((value, expected))
        out.append(Difference(name, value, expected, remedy))
    return out


class Refused(NeuroFMError):
    """An input without an exact conversion; `reason` says why in one line."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def refuse(differences: list[Difference]) -> None:
    """Raise a table of all differences if one of them cannot be converted.

    Raises:
      Refused: there is such a difference.
    """
    if all(d.remedy for d in differences):
        return
    rows = [("", "given", "the model takes", "")]
    rows += [
        (d.name, str(d.given), str(d.expected), d.remedy or "no exact conversion")
        for d in differences
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    reason = ", ".join(
        f"{d.name} is {d.given}, the model takes {d.expected}"
        for d in differences
        if not d.remedy
    )
    raise Refused(
        "the input is not what this model takes; bring it to the model's contract, or "
        "use a model made for it:\n" + "\n".join(lines),
        reason,
    )


def take(
    contract: InputContract, x: Any, sfreq: float | None
) -> tuple[Float32[np.ndarray, "C N"], list[Difference]]:
    """An array, the path of a file or an `mne.io.Raw`, as the model takes it.

    Of a Raw, told by its methods, the channels of the contract's kind are taken.

    Raises:
      NeuroFMError: see `sound` and `conform`; a Raw without a channel of that kind.
    """
    if hasattr(x, "get_channel_types") and hasattr(x, "get_data"):
        return _channels_of_raw(contract, x), []
    return conform(contract, *sound(x, sfreq))


def _channels_of_raw(contract: InputContract, raw: Any) -> Float32[np.ndarray, "C N"]:
    types = raw.get_channel_types()
    wanted = _MNE_TYPES.get(contract.kind, ())
    picks = [i for i, one in enumerate(types) if one in wanted]
    if not picks:
        held = ", ".join(f"{n} {one}" for one, n in Counter(types).items())
        raise NeuroFMError(
            f"an MNE recording of channels that are no {contract.kind} ({held}) was "
            f"given to a model of {contract.kind}: give an array with its sfreq or a "
            "file, or use a model made for these channels"
        )
    wave = np.asarray(raw.get_data(picks=picks), np.float32)
    if wave.ndim != 2:
        raise NeuroFMError(
            f"MNE data of shape {wave.shape} was given: give an mne.io.Raw, which is "
            "(channels, samples), several as a list"
        )
    given = {"n_chans": len(wave), "sfreq": float(raw.info["sfreq"])}
    refuse(compare(contract, given))
    return wave


def conform(
    contract: InputContract, wave: Float[np.ndarray, "c n"], sfreq: float
) -> tuple[Float32[np.ndarray, "C N"], list[Difference]]:
    """A sound as the model takes it, and what was converted on the way.

    Channels, then sampling rate, then loudness: the whole clip to -14 dBFS RMS, all
    channels together (WavJEPA's released runtime, arXiv 2509.23238).

    Args:
      wave: samples in full scale, of any number of channels.
      sfreq: its sampling rate in Hz.

    Raises:
      NeuroFMError: no sound, samples that are not finite, or a difference without an
        exact conversion.
    """
    if contract.kind != "audio":
        raise NeuroFMError(
            f"this model takes {contract.kind}, and sound was given: give it "
            f"{contract.kind} recordings"
        )
    if wave.ndim != 2 or not wave.size:
        raise NeuroFMError(
            f"a sound of shape {wave.shape} holds nothing to read: give (samples,) or "
            "(channels, samples)"
        )
    if n_bad := int(np.count_nonzero(~np.isfinite(wave))):
        raise NeuroFMError(
            f"{n_bad} of {wave.size} samples are not finite: repair or leave out this "
            "recording"
        )
    found = compare(contract, {"n_chans": len(wave), "sfreq": float(sfreq)})
    refuse(found)
    chans = wave.astype(np.float32)
    if len(chans) == 4 and contract.n_chans != 4:
        chans = chans[:1]
    if len(chans) > contract.n_chans:
        chans = chans.mean(axis=0, keepdims=True)
    chans = np.broadcast_to(chans, (contract.n_chans, chans.shape[-1]))
    return audio.rms_normalize(audio.resample(chans, sfreq, contract.sfreq)), found


def sound(x: Any, sfreq: float | None = None) -> tuple[Float[np.ndarray, "c n"], float]:
    """Samples and sampling rate of an array or of a sound file.

    Args:
      x: a path; or samples (N,), (C, N), or (N, C) where the first size is over 100
        (the released rule). Integers are scaled to [-1, 1] by their type's range.
      sfreq: sampling rate of an array in Hz; a file brings its own.

    Raises:
      NeuroFMError: no sampling rate, or an array that is no sound.
    """
    if isinstance(x, str | os.PathLike):
        from data_pipelines import soundfiles

        samples, rate, notes = soundfiles.read(x, channels="all")
        for note in notes:
            _log.warning("%s: %s", os.fspath(x), note)
        return samples, rate
    if sfreq is None:
        raise NeuroFMError("an array was given without sfreq: give its sampling rate")
    x = np.asarray(x)
    if x.ndim not in (1, 2) or x.dtype.kind not in "fi":
        raise NeuroFMError(
            f"a sound of shape {x.shape} and type {x.dtype} was given: give floats or "
            "signed integers, (samples,) or (channels, samples), several as a list"
        )
    if x.dtype.kind == "i":
        x = x / -float(np.iinfo(x.dtype).min)
    if x.ndim == 1:
        x = x[None]
    elif x.shape[0] > 100:
        x = x.T
    return x.astype(np.float32), float(sfreq)


def announce(found: list[tuple[str, list[Difference]]]) -> list[str]:
    """Say once per kind of conversion, and return it: for how many inputs, and how."""
    counts: dict[str, list[str]] = {}
    for item, differences in found:
        for difference in differences:
            counts.setdefault(str(difference.remedy), []).append(item)
    lines = [
        f"{len(items)} input{'s' * (len(items) > 1)} converted: {remedy} (first: "
        f"{items[0]})"
        for remedy, items in counts.items()
    ]
    for line in lines:
        _log.info("%s", line)
    return lines
