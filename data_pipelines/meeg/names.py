"""Channel names as they stand in files, and the electrodes they mean.

Clinical files write `EEG FP1-REF`, `T3`, `Fz..` or `FP1 `; a montage knows `Fp1`.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

# What is recorded beside the brain, whatever type a file gives it: EEGLAB files, and
# EDF files by MNE's reading, call all channels EEG.
_AUXILIARY = re.compile(
    r"[HV]?EO(G|$)|[HV]EO[GULR]?$|E[KC]G|EMG|STI|TRIG|STATUS|MARK|EVENT|PHOTIC|PULSE"
    r"|RESP|SPO2|SAO2|PLETH|IBI$|BURSTS$|SUPPR$|GSR|EDA$|AIRFLOW|SNORE|ACC[XYZ_ ]|GYRO"
    r"|[LR]OC$|DC\d*$|OSAT|BATTERY|COUNTER|TEMP",
    re.IGNORECASE,
)
_SYSTEM = re.compile(r"^(EEG|POL)[\s:_.-]+", re.IGNORECASE)
_PADDING = " \t._-"
# Electrodes and words that stand behind a name for the common reference.
_REFERENCES = ("REF", "REFERENCE", "LE", "AR", "AVG", "AV", "A1", "A2", "A1A2", "A1+A2")
_REFERENCES += ("M1", "M2", "M1M2", "M1+M2", "LER", "CLE", "G1", "G2", "G19", "GND")
_OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
_OLD_NAMES |= {new: old for old, new in _OLD_NAMES.items()}
_SHARED_BY = 4  # derivations to one electrode that make it the reference of all


class Resolved(NamedTuple):
    """Names that mean electrodes, and the references written behind them."""

    electrodes: dict[str, str]
    references: tuple[str, ...]


def is_auxiliary(name: str) -> bool:
    """Whether a channel is named as one that does not record the brain."""
    return bool(_AUXILIARY.match(_SYSTEM.sub("", name.strip(_PADDING))))


def resolve(names: Sequence[str], known: Collection[str]) -> Resolved:
    """The electrodes of a montage that channels mean, for those that mean one.

    Case, blanks, padding, a prefix `EEG`, a common reference behind a dash, numbers
    that tell repeated names apart, `T3/T7` and the old names of T7, T8, P7 and P8 are
    seen through. A difference of two electrodes means none, unless at least four
    channels are measured against the same one and none against another.

    Args:
      names: of the channels of one recording.
      known: electrodes of the montage.
    """
    by_key = {_key(electrode): electrode for electrode in known}
    dashed = [_split(name)[1] for name in names if not _split(name)[1].isdigit()]
    behind = {suffix for suffix in dashed if suffix and suffix not in _REFERENCES}
    shared = behind if len(behind) == 1 and len(dashed) >= _SHARED_BY else set()
    references = {*_REFERENCES, *(s for s in shared if dashed.count(s) >= _SHARED_BY)}
    electrodes: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        for key, reference in _readings(name, references):
            if key in by_key:
                electrodes[name] = by_key[key]
                used |= {reference} - {""}
                break
    return Resolved(electrodes, tuple(sorted(used)))


def _key(name: str) -> str:
    return "".join(name.split()).upper()


def _split(name: str) -> tuple[str, str]:
    """What stands before and behind the last dash, as keys; the latter may be empty."""
    text = _key(_SYSTEM.sub("", name.strip(_PADDING)).strip(_PADDING))
    before, dash, behind = text.rpartition("-")
    if not dash and "_" in text:
        before, dash, behind = text.rpartition("_")
    return (before, behind) if dash else (text, "")


def _readings(name: str, references: Collection[str]) -> Iterator[tuple[str, str]]:
    """Keys that a name may mean, the likeliest first, each with its reference."""
    exact = _key(name)
    bare, behind = _split(name)
    if behind and behind not in references and not behind.isdigit():
        yield exact, ""
        return
    reference = "" if behind.isdigit() else behind
    for text in (exact, bare.strip(_PADDING)):
        yield text, reference if text != exact else ""
        for part in text.split("/"):
            yield part, reference
            if part in _OLD_NAMES:
                yield _OLD_NAMES[part], reference
