"""What a user says of recordings, and what is to be done to them."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neurofm.errors import NeuroFMError

Bads = Literal["interpolate", "drop", "keep"]
Frame = Literal["head", "released"]
CoilTypes = Literal["code", "released"]

# unit -> (what it measures, factor to SI)
UNITS = {
    "V": ("V", 1.0),
    "mV": ("V", 1e-3),
    "uV": ("V", 1e-6),
    "nV": ("V", 1e-9),
    "T": ("T", 1.0),
    "nT": ("T", 1e-9),
    "pT": ("T", 1e-12),
    "fT": ("T", 1e-15),
    "T/m": ("T/m", 1.0),
    "T/cm": ("T/m", 1e2),
    "pT/m": ("T/m", 1e-12),
    "pT/cm": ("T/m", 1e-10),
    "fT/m": ("T/m", 1e-15),
    "fT/cm": ("T/m", 1e-13),
}


def spelt(unit: str) -> str:
    """A unit as `UNITS` spells it: `µV` is written in three ways."""
    return unit.strip().replace("µ", "u").replace("μ", "u")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How recordings are read; the defaults are BrainOmni's, on one set of coordinates.

    Attributes:
      sfreq: rate in Hz that everything is resampled to.
      band: edges in Hz of the band-pass; 0 leaves out the high-pass.
      notch: frequencies in Hz to take out; None is the line's, if it is known.
      line_freq: of the mains in Hz, for files that do not tell.
      bads: what happens to bad EEG channels. MEG channels marked bad are dropped,
        unless kept.
      picks: channel types or names as MNE's `pick` takes them; none are all.
      montage: name or file of the electrodes' positions, before those in the file.
      frame: `head` for EEG and MEG; `released`: EEG in head, MEG in device coordinates.
      coil_types: `code` tells magnetometers from gradiometers; `released` goes by the
        name, which takes Magnes gradiometers for magnetometers.
      unit: what the numbers in the files are in, whatever the files say, such as
        ("uV",); one of each dimension.
    """

    sfreq: float = 256.0
    band: tuple[float, float] = (0.1, 96.0)
    notch: tuple[float, ...] | None = None
    line_freq: float | None = None
    bads: Bads = "interpolate"
    picks: tuple[str, ...] = ()
    montage: str | None = None
    frame: Frame = "head"
    coil_types: CoilTypes = "code"
    unit: tuple[str, ...] = ()

    def __post_init__(self):
        low, high = self.band
        if not 0 <= low < high <= self.sfreq / 2:
            raise NeuroFMError(
                f"the band is {low:g} to {high:g} Hz at {self.sfreq:g} Hz; expected "
                f"LOW,HIGH with 0 <= LOW < HIGH < {self.sfreq / 2:g}"
            )
        if high == self.sfreq / 2:
            raise NeuroFMError(
                f"the band ends at half the rate ({high:g} Hz); a filter needs some "
                "room: give a lower --band or a higher --sfreq"
            )
        for unit in self.unit:
            if spelt(unit) not in UNITS:
                raise NeuroFMError(
                    f"--unit {unit} is not known; expected one of {', '.join(UNITS)}"
                )
        dimensions = [UNITS[spelt(unit)][0] for unit in self.unit]
        if len(set(dimensions)) < len(dimensions):
            raise NeuroFMError(
                f"--unit {','.join(self.unit)} gives two units for one quantity; give "
                "one each"
            )

    def factor(self, dimension: str) -> float | None:
        """The factor to SI of a unit that was given for V, T or T/m, or None."""
        for unit in self.unit:
            measured, factor = UNITS[spelt(unit)]
            if measured == dimension:
                return factor
        return None

    def to_json(self) -> dict[str, Any]:
        """The settings, with the content of a montage's file in place of its time."""
        out = {"reader": "meeg", **dataclasses.asdict(self)}
        if self.montage and Path(self.montage).is_file():
            content = Path(self.montage).read_bytes()
            out["montage"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return out

    @property
    def processing(self) -> dict[str, Any]:
        """What was done to the signals, for the contract of the dataset."""
        names = ("band", "notch", "line_freq", "bads", "picks", "frame", "coil_types")
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name in names
            for value in (getattr(self, name),)
        }
