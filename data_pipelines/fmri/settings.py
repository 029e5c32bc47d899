"""What a user says of runs of fMRI, and what is to be done to them."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurofm.errors import NeuroFMError
from neurofm.signals.bold import Detrend, Grid, Scale

AXES = ("subject", "run", "time", "region")
# Nilearn's names of confounds; `scrub` would break the clock of a run.
STRATEGIES = ("motion", "high_pass", "wm_csf", "global_signal", "compcor", "ica_aroma")
STRATEGIES += ("tedana",)
_LONGEST_S = 30.0  # a longer repetition time is in milliseconds


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How runs are read and what happens to them.

    Attributes:
      atlas: name of the regions' atlas; or the file of its labels, for images.
      names: file of the regions' names in order: one a line, or a TSV with a column
        `name`, and `index` for the labels of an image.
      mask: image of the voxels to take, each a region, in place of an atlas.
      axes: of arrays, words of `AXES` in order, such as ("time", "region").
      array: its name in an NPZ.
      tr: repetition time in seconds that runs are interpolated to; None is their own.
      source_tr: theirs, for files that do not tell.
      confounds: `STRATEGIES` of nilearn to take out, for outputs of fMRIPrep.
      detrend: trend to take out of every run and region.
      filter: lowest and highest frequency in Hz that are kept.
      scale: `zscore` for mean 0 and deviation 1 in every run and region.
      ddof: 1 for the deviation of a sample, 0 for that of a population.
      grid: what is at one time where runs are interpolated, see `bold.at_tr`.
      timeline: words of a run's name that tell its stimulus, such as ("task",).
      split: `algonauts2025` or `algonauts2025-season`; see `algonauts`.
      study: name that tells its subjects from those of other studies.
    """

    atlas: str = ""
    names: str | None = None
    mask: str | None = None
    axes: tuple[str, ...] = ()
    array: str | None = None
    tr: float | None = None
    source_tr: float | None = None
    confounds: tuple[str, ...] = ()
    detrend: Detrend = "none"
    filter: tuple[float, float] | None = None
    scale: Scale = "zscore"
    ddof: int = 1
    grid: Grid = "middle"
    timeline: tuple[str, ...] = ()
    split: str = ""
    study: str = ""

    def __post_init__(self):
        for option, value in (("--tr", self.tr), ("--source-tr", self.source_tr)):
            if value is not None:
                refuse_odd_tr(value, option)
        if self.filter and not 0 < self.filter[0] < self.filter[1]:
            raise NeuroFMError(
                f"--filter {self.filter[0]:g},{self.filter[1]:g}: give rising "
                "frequencies above 0 Hz, such as 0.01,0.1"
            )
        if wrong := [a for a in self.axes if a not in AXES]:
            raise NeuroFMError(
                f"--axes {','.join(self.axes)} holds {wrong[0]!r}; expected the words "
                f"{', '.join(AXES)} in the order of the array's axes"
            )
        needed = {"time", "region"}
        if self.axes and (
            not needed <= set(self.axes) or len(set(self.axes)) < len(self.axes)
        ):
            raise NeuroFMError(
                f"--axes {','.join(self.axes)} must hold time and region once, and "
                "subject or run where the array holds several runs"
            )
        if "scrub" in self.confounds:
            raise NeuroFMError(
                "--confounds scrub takes volumes out, after which a run has no clock: "
                "leave it out"
            )
        if wrong := [c for c in self.confounds if c not in STRATEGIES]:
            raise NeuroFMError(
                f"--confounds {wrong[0]!r} is not one of nilearn's that can be used: "
                f"{', '.join(STRATEGIES)}"
            )
        if self.mask and self.atlas and Path(self.atlas).is_file():
            raise NeuroFMError("--mask and --atlas are both images; leave one")
        for option, file in (("--names", self.names), ("--mask", self.mask)):
            if file and not Path(file).is_file():
                raise NeuroFMError(f"{option} {file} is no file; check the spelling")

    @property
    def atlas_file(self) -> Path | None:
        """The image of labels, where `atlas` names one."""
        path = Path(self.atlas)
        return path if self.atlas and path.is_file() else None

    def to_json(self) -> dict[str, Any]:
        """The settings, with the content of files in place of their names."""
        out = {"reader": "fmri", **dataclasses.asdict(self)}
        for name in ("atlas", "names", "mask"):
            if out[name] and (path := Path(out[name])).is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                out[name] = f"sha256:{digest}"
        return out


def refuse_odd_tr(tr_s: float, where: str) -> None:
    """Raise NeuroFMError for a repetition time that cannot be in seconds."""
    if not 0 < tr_s <= _LONGEST_S:
        raise NeuroFMError(
            f"{where} tells a repetition time of {tr_s:g} s; expected seconds, such as "
            "1.49: give it as --source-tr"
        )
