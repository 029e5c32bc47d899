"""Where electrodes are: standard montages, files of positions, tables of BIDS.

Positions are in metres in the head frame: through both ears (x to the right) and the
nose (y), as MNE defines it.
"""

import csv
import functools
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.errors import NeuroFMError

if TYPE_CHECKING:
    from mne.channels import DigMontage

Positions = dict[str, np.ndarray]  # electrode -> x, y, z

DEFAULT = "standard_1005"
METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
RADII_M = (0.03, 0.2)  # heads, from newborns to electrodes on the neck

_LANDMARKS = {
    "nasion": ("NAS", "NASION", "NZ"),
    "lpa": ("LPA", "LE", "LEFT_EAR"),
    "rpa": ("RPA", "RE", "RIGHT_EAR"),
}
# Origin between the ears; x to the nose, y to the left ear.
_NOSE_IS_X = ("CTF", "EEGLAB", "EEGLAB-HJ", "4DBTI", "KITYOKOGAWA")
_HEAD = ("CAPTRAK", "NEUROMAG", "ELEKTANEUROMAG", "HEAD")


def montage(name: str | os.PathLike) -> Positions:
    """Positions of a montage by its name, or of a file of them.

    Args:
      name: of a montage that MNE brings, such as `standard_1005` or `biosemi64`; or a
        file that MNE reads (.elc, .sfp, .loc, .bvef, ...), or a table of `table`.

    Raises:
      NeuroFMError: neither.
    """
    path = Path(name)
    if path.suffix.lower() in (".tsv", ".csv"):
        return table(path)
    if path.is_file():
        import mne

        try:
            return _in_head(mne.channels.read_custom_montage(path))
        except Exception as error:  # whatever a broken file makes its reader raise
            raise NeuroFMError(
                f"the montage {path} cannot be read: {' '.join(str(error).split())}"
            ) from error
    return _brought(os.fspath(name))


@functools.cache
def _brought(name: str) -> Positions:
    return _in_head(standard(name))


def standard(name: str) -> "DigMontage":
    """A montage that MNE brings; `standard_` may stand for MNE's `colin27_`."""
    import mne

    names = [str(n) for n in mne.channels.get_builtin_montages()]
    newer = name.replace("standard_", "colin27_")
    if newer not in names and name not in names:
        raise NeuroFMError(
            f"{name} is neither a file nor a montage that MNE brings; those are "
            f"{DEFAULT}, {', '.join(names)}"
        )
    return mne.channels.make_standard_montage(newer if newer in names else name)


def table(path: Path, system: Mapping[str, Any] | None = None) -> Positions:
    """Positions from a table with columns name, x, y, z, tab- or comma-separated.

    A column `unit` (m, cm, mm) tells their unit, else they are metres. Rows named NAS,
    LPA and RPA are landmarks that define the head frame; without them positions are in
    it already.

    Args:
      path: of the table.
      system: coordsystem.json of BIDS, which tells unit, frame and landmarks instead.

    Raises:
      NeuroFMError: it is no such table, or the positions do not lie on a head.
    """
    system = system or {"EEGCoordinateSystem": "head"}
    try:
        with open(path, encoding="utf-8-sig", newline="") as opened:
            comma = path.suffix.lower() == ".csv"
            rows = list(csv.DictReader(opened, delimiter="," if comma else "\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NeuroFMError(f"{path} cannot be read: {error}") from error
    needed = ("name", "x", "y", "z")
    if not rows or any(column not in rows[0] for column in needed):
        raise NeuroFMError(
            f"{path} is no table of electrodes: expected columns {', '.join(needed)}"
        )
    unit = str(system.get("EEGCoordinateUnits", "m"))
    found = {}
    for row in rows:
        scale = _metres(row.get("unit") or unit, path)
        try:
            xyz = np.array([float(row[axis]) for axis in "xyz"])
        except (TypeError, ValueError):
            continue  # n/a: an electrode that was not measured
        if np.isfinite(xyz).all():
            found[str(row["name"])] = xyz * scale
    return placed(found, _landmarks(system, unit, path), system, path)


def _metres(unit: str, path: Path) -> float:
    if unit not in METRES:
        raise NeuroFMError(f"{path} is in {unit!r}; expected m, cm or mm")
    return METRES[unit]


def _landmarks(
    system: Mapping[str, Any], unit: str, path: Path
) -> dict[str, np.ndarray]:
    for name in ("AnatomicalLandmark", "Fiducials"):
        points = system.get(f"{name}Coordinates")
        if isinstance(points, dict) and points:
            scale = _metres(str(system.get(f"{name}CoordinateUnits", unit)), path)
            return {k: np.asarray(v, float) * scale for k, v in points.items()}
    return {}


def placed(
    found: Mapping[str, np.ndarray],
    landmarks: Mapping[str, np.ndarray],
    system: Mapping[str, Any],
    path: Path,
) -> Positions:
    """Positions of a coordinate system in the head frame.

    Args:
      found: electrode -> x, y, z in metres; may hold landmarks too.
      landmarks: NAS, LPA, RPA -> x, y, z in metres.
      system: names its frame, which is needed where a landmark is missing.
      path: what to name in errors.
    """
    frame = str(system.get("EEGCoordinateSystem", "")).upper()
    anatomical: dict[str, np.ndarray] = {}
    for key, names in _LANDMARKS.items():
        for name, xyz in (*found.items(), *landmarks.items()):
            if name.upper() in names:
                anatomical[key] = np.asarray(xyz)
    names = {name for group in _LANDMARKS.values() for name in group}
    # Nz is an electrode too; it stays where others are that no landmark is.
    electrodes = {n: p for n, p in found.items() if n.upper() not in names or n == "Nz"}
    if not electrodes:
        raise NeuroFMError(f"{path} holds no position of an electrode")
    _refuse_far(electrodes, path)
    if len(anatomical) == 3:
        import mne

        return _in_head(
            mne.channels.make_dig_montage(
                electrodes, **anatomical, coord_frame="unknown"
            )
        )
    if frame in _NOSE_IS_X:
        return {n: np.array([-p[1], p[0], p[2]]) for n, p in electrodes.items()}
    if frame in _HEAD:
        return dict(electrodes)
    raise NeuroFMError(
        f"{path} is in the coordinates {frame!r} and has no landmarks NAS, LPA and "
        "RPA to place them on a head; give --montage NAME or FILE"
    )


def _refuse_far(electrodes: Mapping[str, Any], path: Path) -> None:
    if len(electrodes) < 3:
        return
    radius = typical_radius(np.array(list(electrodes.values())))
    if not RADII_M[0] < radius < RADII_M[1]:
        raise NeuroFMError(
            f"the electrodes of {path} lie {radius:.3g} m from their middle, which is "
            "no head: tell their unit in a column `unit` (m, cm or mm)"
        )


def typical_radius(xyz: np.ndarray) -> float:
    """Median distance (m) of points `[C, 3]` from the middle of their box."""
    middle = (xyz.max(0) + xyz.min(0)) / 2
    return float(np.median(np.linalg.norm(xyz - middle, axis=1)))


def _in_head(found: "DigMontage") -> Positions:
    import mne

    info = mne.create_info(found.ch_names, 1.0, "eeg")
    with warnings.catch_warnings():
        # Without landmarks MNE takes positions as they are, with a warning.
        warnings.simplefilter("ignore", RuntimeWarning)
        info.set_montage(found, verbose="error")
    positions = {ch["ch_name"]: ch["loc"][:3].copy() for ch in info["chs"]}
    return {n: p for n, p in positions.items() if all(map(math.isfinite, p))}
