"""How an input differs from what a model takes: compared, refused, announced."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neurofm.contract import InputContract
from neurofm.errors import NeuroFMError

_log = logging.getLogger(__name__)

# (channels given, channels wanted) -> what is done, as in the released WavJEPA runtime;
# four channels are first-order ambisonics, whose first is omnidirectional.
_CHANNELS = {
    (1, 2): "the channel is copied to both",
    (2, 1): "the mean of both channels is taken",
    (4, 1): "the first (omnidirectional) channel is taken",
    (4, 2): "the first (omnidirectional) channel is copied to both",
}


@dataclass(frozen=True)
class Difference:
    """One way in which an input is not what the model takes.

    Attributes:
      name: field of the input contract; `note` where a remedy is only told.
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


def announce(found: list[tuple[str, list[Difference]]]) -> list[str]:
    """Say once per kind of conversion or note, and return it: how, and how many."""
    counts: dict[str, list[str]] = {}
    for item, differences in found:
        for difference in differences:
            told = "" if difference.name == "note" else " converted"
            counts.setdefault(f"{told}: {difference.remedy}", []).append(item)
    lines = [
        f"{len(items)} input{'s' * (len(items) > 1)}{what} (first: {items[0]})"
        for what, items in counts.items()
    ]
    for line in lines:
        _log.info("%s", line)
    return lines
