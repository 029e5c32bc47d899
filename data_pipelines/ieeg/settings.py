"""What a user says of intracranial recordings, and what is to be done to them."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from data_pipelines.ieeg.signal import Reference
from data_pipelines.meeg.settings import UNITS, spelt
from neurofm.errors import NeuroFMError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How recordings are read; the defaults are BrainBERT's.

    Attributes:
      sfreq: rate in Hz that everything is resampled to.
      reference: what contacts are measured against, see `signal.referenced`.
      notch: frequencies in Hz to take out with their multiples; None is the line's, if
        it is known.
      line_freq: of the mains in Hz, for files that do not tell.
      source_sfreq: rate in Hz of HDF5 files that do not tell.
      unit: what the numbers of HDF5 files that do not tell are in, such as `uV`.
      electrodes: table of all recordings' electrodes; None is the one beside each.
    """

    sfreq: float = 2048.0
    reference: Reference = "laplacian"
    notch: tuple[float, ...] | None = None
    line_freq: float | None = None
    source_sfreq: float | None = None
    unit: str | None = None
    electrodes: str | None = None

    def __post_init__(self):
        rates = {"sfreq": self.sfreq, "source-sfreq": self.source_sfreq}
        rates |= {"line-freq": self.line_freq}
        rates |= {"notch": min(self.notch, default=None) if self.notch else None}
        for name, value in rates.items():
            if value is not None and not 0 < value < math.inf:
                raise NeuroFMError(f"--{name} is {value:g}; expected Hz above 0")
        if self.reference not in get_args(Reference):
            raise NeuroFMError(
                f"the reference {self.reference!r} is not known; expected one of "
                f"{', '.join(get_args(Reference))}"
            )
        if self.unit is not None:
            factor(self.unit)
        if self.electrodes and not Path(self.electrodes).is_file():
            raise NeuroFMError(
                f"--electrodes {self.electrodes} does not exist; give a table with a "
                "column 'name'"
            )

    def to_json(self) -> dict[str, Any]:
        """The settings, with the content of the table in place of its name."""
        out = {"reader": "ieeg", **dataclasses.asdict(self)}
        if self.electrodes:
            content = Path(self.electrodes).read_bytes()
            out["electrodes"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return out

    @property
    def processing(self) -> dict[str, Any]:
        """What was done to the signals, for the contract of the dataset."""
        return {
            "reference": self.reference,
            "line_freq": self.line_freq,
            "notch": None if self.notch is None else list(self.notch),
        }


def factor(unit: str) -> float:
    """What numbers in a unit are multiplied with to be volts.

    Raises:
      NeuroFMError: the unit is none of voltage.
    """
    measured, to_si = UNITS.get(spelt(unit), ("", 1.0))
    if measured != "V":
        volts = ", ".join(name for name, (what, _) in UNITS.items() if what == "V")
        raise NeuroFMError(
            f"the unit {unit!r} is none of voltage; expected one of {volts}"
        )
    return to_si
