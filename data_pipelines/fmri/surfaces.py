"""Runs on surfaces: a GIFTI file for each hemisphere, which together are one run.

As fMRIPrep writes them: `..._hemi-L_..._bold.func.gii` and the same with `hemi-R`. A
vertex is a region, the left hemisphere's first. Axes: P vertices, N volumes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.fmri.arrays import Run
from data_pipelines.fmri.settings import Settings
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError

SUFFIXES = (".func.gii",)
_LEFT, _RIGHT = "hemi-L", "hemi-R"


def is_surface(file: str | Path) -> bool:
    """Whether a file is half a run by its name."""
    return str(file).lower().endswith(SUFFIXES)


def right_of(left: Path) -> Path:
    """The right hemisphere of a run that is named by its left one."""
    return left.with_name(left.name.replace(_LEFT, _RIGHT))


def firsts(files: list[str]) -> list[str]:
    """Without the right hemispheres whose left ones are there too."""
    known = set(files)
    return [
        file
        for file in files
        if not (is_surface(file) and file.replace(_RIGHT, _LEFT) in known - {file})
    ]


def read(path: Path, settings: Settings) -> Run:
    """Both hemispheres of a run.

    Raises:
      Unreadable: one is not there or damaged, or they differ in length.
      NeuroFMError: confounds are to be taken out, which is done to images alone.
    """
    if settings.confounds:
        raise NeuroFMError(
            f"{path} is a surface, from which no confounds are taken out: leave "
            "--confounds out, or give the volumes"
        )
    if _LEFT not in path.name or not right_of(path).is_file():
        raise Unreadable(path, "its other hemisphere is not there", "fMRI")
    left, right = _half(path), _half(right_of(path))
    if left.shape[1] != right.shape[1]:
        reason = f"{left.shape[1]} volumes, its other hemisphere {right.shape[1]}"
        raise Unreadable(path, reason, "fMRI")
    names = [
        f"vertex-{side}-{i:05d}"
        for side, x in (("L", left), ("R", right))
        for i in range(len(x))
    ]
    return Run(np.concatenate([left, right]), None, tuple(names))


def _half(path: Path) -> np.ndarray:
    import nibabel

    try:
        image: Any = nibabel.load(path)
        x = np.stack([np.asarray(each.data, np.float64) for each in image.darrays], -1)
    except Exception as error:  # nibabel raises errors of many kinds
        raise Unreadable(path, f"it cannot be read ({error})", "fMRI") from error
    if x.ndim != 2 or x.shape[1] < 2:
        raise Unreadable(path, f"its shape is {x.shape}: no run of volumes", "fMRI")
    return x
