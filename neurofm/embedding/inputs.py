"""What a user gives, made into what a model takes; sound, and the way to others."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from neurofm.contract import InputContract
from neurofm.embedding import electrodes, meeg, parcels
from neurofm.embedding.difference import Difference, announce, compare, refuse
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.signals import audio

if TYPE_CHECKING:
    from data_pipelines.meeg.settings import Settings

_log = logging.getLogger(__name__)

# Kind of a contract -> MNE's types of the channels that it means. MNE's numbers are in
# SI units, as those of contracts are; no type of its channels is sound.
_MNE_TYPES = {
    "eeg": ("eeg",),
    "meg": ("mag", "grad"),
    "ieeg": ("seeg", "ecog", "dbs"),
}


def take_all(
    contract: InputContract,
    x: Any,
    sfreq: float | None,
    info: Any = None,
    settings: "Settings | None" = None,
    subject: int = 0,
) -> tuple[list[Recorded], bool]:
    """One input or a list of them, and whether it is a single recording; see `take`."""
    many = isinstance(x, list | tuple)
    taken: list[Recorded] = []
    converted: list[tuple[str, list[Difference]]] = []
    for i, one in enumerate(x if many else [x]):
        several = contract.kind == "meeg" and meeg.several(one)
        if several and many:
            raise NeuroFMError(
                "epochs were given within a list: give one set of epochs at a time"
            )
        pieces, found = take(contract, one, sfreq, info, settings, subject)
        taken += pieces
        converted.append((f"input {i}", found))
        many = many or several
    announce(converted)
    return taken, not many


def take(
    contract: InputContract,
    x: Any,
    sfreq: float | None,
    info: Any = None,
    settings: "Settings | None" = None,
    subject: int = 0,
) -> tuple[list[Recorded], list[Difference]]:
    """An array, the path of a file or an object of MNE, as the model takes it.

    For EEG and MEG with positions see `meeg.take`. Of any other Raw, told by its
    methods, the channels of the contract's kind are taken. `subject` is the number of
    an intracranial recording's, of those that the model knows.

    Raises:
      NeuroFMError: see `meeg.take`, `electrodes.of_array`, `sound` and `conform`; a Raw
        without a channel of that kind.
    """
    if contract.kind == "meeg":
        settings = settings or meeg.settings_for(contract)
        return meeg.take(contract, x, sfreq, info, settings)
    if contract.kind == "fmri" and not isinstance(x, str | os.PathLike):
        one, found = parcels.of_array(x, sfreq, contract)
        return [one], found
    names: Sequence[str] = ()
    if hasattr(x, "get_channel_types") and hasattr(x, "get_data"):
        names, x, sfreq = _channels_of_raw(contract, x)
        if contract.kind != "ieeg":
            refuse(compare(contract, {"n_chans": len(x), "sfreq": sfreq}))
            return [Recorded(x)], []
    if contract.kind == "ieeg":
        refuse_file(x, contract)
        one, found = electrodes.of_array(x, sfreq, contract, subject, names)
        return [one], found
    wave, found = conform(contract, *sound(x, sfreq))
    return [Recorded(wave)], found


def refuse_file(x: Any, contract: InputContract) -> None:
    """Refuse the path of an intracranial recording that is not prepared."""
    if contract.kind == "ieeg" and isinstance(x, str | os.PathLike):
        raise NeuroFMError(
            f"{os.fspath(x)} is no prepared dataset, and this model takes intracranial "
            f"recordings at {contract.sfreq:g} Hz with the reference "
            f"{contract.reference}: prepare one, or give an array"
        )


def _channels_of_raw(
    contract: InputContract, raw: Any
) -> tuple[list[str], Float32[np.ndarray, "C N"], float]:
    """Names, samples and rate of the channels that are meant."""
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
    return [raw.ch_names[i] for i in picks], wave, float(raw.info["sfreq"])


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
