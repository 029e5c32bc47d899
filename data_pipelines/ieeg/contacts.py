"""Which shaft a contact is on and which are its neighbours, by names alone.

`LA10` and `L'3` are the tenth contact of LA and the third of L'. Numbers count from the
tip of the shaft; neighbours differ by one.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from neurofm.errors import NeuroFMError

# What an amplifier records beside contacts.
_NO_CONTACT = re.compile(
    r"^((DC|E[CK]G|EMG|EOG|TRIG|STATUS|STI|PULSE|RESP|SPO2|EVENT|MARK|OSAT|ANNOT)"
    r"[A-Z]*|PR)\W*\d*$",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^(EEG|SEEG|ECOG|POL)\s+", re.IGNORECASE)
_CONTACT = re.compile(r"^(?P<shaft>.*?[^\d\s_-])[\s_-]*0*(?P<number>[1-9]\d*)$")


class Contact(NamedTuple):
    """A channel's place on its shaft."""

    shaft: str
    number: int


def contact(name: str) -> Contact | None:
    """The shaft and number that a name tells; None where it is no contact's.

    Prefixes of amplifiers (`EEG `, `POL `) and an ending reference (`-Ref`) are left
    aside.
    """
    plain = _PREFIX.sub("", name.strip())
    plain = re.sub(r"-(ref|g\d+)$", "", plain, flags=re.IGNORECASE)
    if _NO_CONTACT.match(plain):
        return None
    found = _CONTACT.match(plain)
    return Contact(found["shaft"], int(found["number"])) if found else None


class Shafts(NamedTuple):
    """The contacts of a recording.

    Attributes:
      contacts: channel -> its place, in the order of the recording.
      others: channels that are no contacts.
    """

    contacts: dict[str, Contact]
    others: list[str]

    @property
    def sentence(self) -> str:
        """What was understood, to be shown: `LA 1-10, L' 1-4 6`."""
        numbers: dict[str, list[int]] = {}
        for shaft, number in self.contacts.values():
            numbers.setdefault(shaft, []).append(number)
        return ", ".join(f"{s} {_runs(sorted(n))}" for s, n in numbers.items())

    def neighbours(self) -> dict[str, tuple[str, str]]:
        """Contacts with one on both sides -> the two."""
        by_place = {place: name for name, place in self.contacts.items()}
        out = {}
        for name, (shaft, number) in self.contacts.items():
            sides = [by_place.get(Contact(shaft, number + k)) for k in (-1, 1)]
            if sides[0] is not None and sides[1] is not None:
                out[name] = (sides[0], sides[1])
        return out

    def pairs(self) -> list[tuple[str, str]]:
        """Contacts with the next one of their shaft, in the order of numbers."""
        places = sorted((p, name) for name, p in self.contacts.items())
        return [
            (one, other)
            for (a, one), (b, other) in itertools.pairwise(places)
            if a.shaft == b.shaft and b.number == a.number + 1
        ]


def shafts(names: Sequence[str]) -> Shafts:
    """The contacts among channels.

    Raises:
      NeuroFMError: two channels mean the same contact, or none means any.
    """
    told = {name: contact(name) for name in names}
    found = {name: place for name, place in told.items() if place is not None}
    twice = [place for place, n in Counter(found.values()).items() if n > 1]
    if twice:
        same = [name for name, place in found.items() if place == twice[0]]
        raise NeuroFMError(
            f"the channels {' and '.join(same)} both mean contact {twice[0].number} of "
            f"shaft {twice[0].shaft}: rename one, or leave it out"
        )
    if not found:
        raise NeuroFMError(
            f"none of the channels is named as a contact ({', '.join(names[:5])}, "
            "...): names such as LA10 or L'3 are expected, a shaft and a number"
        )
    return Shafts(found, [name for name in names if name not in found])


def _runs(numbers: list[int]) -> str:
    """1 2 3 5 as `1-3 5`."""
    out: list[str] = []
    first = last = numbers[0]
    for n in [*numbers[1:], -1]:
        if n == last + 1:
            last = n
            continue
        out.append(f"{first}-{last}" if last > first else f"{first}")
        first = last = n
    return " ".join(out)
