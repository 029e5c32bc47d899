"""Runs in arrays of regions: NPZ, NPY, TSV and HDF5.

A file may hold several runs; each is then named FILE#NAME. Axes: P regions, N volumes.
"""

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float

from data_pipelines.fmri import algonauts, stacked
from data_pipelines.fmri.settings import Settings
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError

SUFFIXES = (".npz", ".npy", ".tsv", ".h5", ".hdf5")
_MANY = ("subject", "run")


class Run(NamedTuple):
    """A run as it is in its file.

    Attributes:
      bold: in any unit; NaN where there is no value.
      tr_s: repetition time, if the file tells it.
      names: of its regions, if the file tells them.
      columns: of the manifest, if the file tells them.
      skipped: volumes cut off its beginning.
    """

    bold: Float[np.ndarray, "P N"]
    tr_s: float | None = None
    names: tuple[str, ...] | None = None
    columns: dict[str, str] = {}  # noqa: RUF012
    skipped: int = 0


def parts(path: Path, settings: Settings) -> list[str]:
    """Names of the runs that a file holds; one without a name where it is one run.

    Raises:
      Unreadable: the file holds none.
    """
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        found = [name for name, _ in _datasets(path)]
        if not found and (atlases := stacked.atlases(path)):
            return stacked.parts(path, atlases)
        if not found:
            raise _bad(path, "holds no two-dimensional dataset")
        return found
    if not (many := [a for a in settings.axes if a in _MANY]):
        return [""]
    array, others = _array(path, settings)
    _check_axes(path, array, settings)
    labels: list[list[str]] = []
    for axis in many:
        n = array.shape[settings.axes.index(axis)]
        told = others.get(axis)
        if told is not None and told.shape == (n,):
            labels.append([str(cell) for cell in told])
        else:
            labels.append([f"{i + 1:02d}" for i in range(n)])
    if len(labels) == 1:
        return labels[0]
    return [f"{a},{b}" for a in labels[0] for b in labels[1]]


def read(path: Path, part: str, settings: Settings) -> Run:
    """One run of a file.

    Raises:
      Unreadable: the file is damaged, or holds something else.
      NeuroFMError: the order of its axes must be told.
    """
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        return _from_hdf5(path, part, settings)
    if suffix == ".tsv":
        return _from_tsv(path)
    array, others = _array(path, settings)
    _check_axes(path, array, settings)
    many = [a for a in settings.axes if a in _MANY]
    columns: dict[str, str] = {}
    place: list[Any] = [slice(None)] * array.ndim
    if many:
        names = parts(path, settings)
        sizes = [array.shape[settings.axes.index(a)] for a in many]
        where = np.unravel_index(names.index(part), sizes)
        for axis, index, label in zip(many, where, part.split(","), strict=True):
            place[settings.axes.index(axis)] = int(index)
            columns[axis] = label
    x = array[tuple(place)]
    left = [a for a in settings.axes if a not in _MANY]
    tr = others.get("tr")
    tr_s = float(tr) if tr is not None and tr.size == 1 else None
    return Run(x if left[0] == "region" else x.T, tr_s, None, columns)


def _array(path: Path, settings: Settings) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The array of runs in an NPY or NPZ, and the other arrays beside it."""
    try:
        with open(path, "rb") as opened:  # np.load leaves a damaged one open
            loaded: Any = np.load(opened, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, {}
            held = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _bad(path, f"it cannot be read ({error})") from error
    name = settings.array
    if name is None:
        large = [n for n, x in held.items() if x.ndim >= 2 and x.dtype.kind in "fiu"]
        named = [n for n in large if n == "bold"]
        if len(named or large) != 1:
            raise NeuroFMError(
                f"{path} holds the arrays {', '.join(held)}: say which are the runs "
                "with --array NAME"
            )
        (name,) = named or large
    if name not in held:
        raise NeuroFMError(
            f"{path} holds no array {name!r}; it holds {', '.join(held)}"
        )
    return held.pop(name), held


def _check_axes(path: Path, array: np.ndarray, settings: Settings) -> None:
    if len(settings.axes) != array.ndim:
        shape = " x ".join(map(str, array.shape))
        given = ",".join(settings.axes) or "nothing"
        raise NeuroFMError(
            f"the array in {path} is {shape}, and --axes tells {given}: name its axes "
            "in order, such as --axes time,region or subject,time,region"
        )
    if array.dtype.kind not in "fiu":
        raise _bad(path, f"its array holds {array.dtype}, not numbers")


def _datasets(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    found: list[tuple[str, tuple[int, ...]]] = []

    def visit(name: str, what: Any) -> None:
        if isinstance(what, h5py.Dataset) and what.ndim == 2:
            found.append((name, what.shape))

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise _bad(path, f"it cannot be read ({error})") from error
    return found


def _from_hdf5(path: Path, part: str, settings: Settings) -> Run:
    if part.startswith(stacked.PREFIX) and not _datasets(path):
        return _from_stack(path, part)
    try:
        with h5py.File(path) as file:
            held: Any = file[part]
            x = np.asarray(held[()])
            tr = held.attrs.get("tr", file.attrs.get("tr"))
    except (OSError, RuntimeError, KeyError) as error:
        raise _bad(path, f"{part} cannot be read ({error})") from error
    columns = algonauts.columns(part.rpartition("/")[2])
    if not settings.axes and not columns:
        raise NeuroFMError(
            f"{path} holds {part!r}, which is not a name of the Algonauts 2025 layout: "
            "tell the order of its axes with --axes time,region or region,time"
        )
    volumes_first = not settings.axes or settings.axes[0] == "time"
    if columns and "run" not in columns:
        columns["run"] = ""
    tr_s = float(tr) if isinstance(tr, int | float | np.number) else None
    return Run(x.T if volumes_first else x, tr_s, None, columns)


def _from_stack(path: Path, part: str) -> Run:
    try:
        x, names, columns, tr = stacked.read(path, part, stacked.atlases(path))
    except (OSError, RuntimeError, KeyError, IndexError, ValueError) as error:
        raise _bad(path, f"{part} cannot be read ({error})") from error
    tr_s = float(tr) if isinstance(tr, int | float | np.number) else None
    return Run(x, tr_s, names, columns)


def _from_tsv(path: Path) -> Run:
    """A table with a row a volume and a column a region, whose header names them."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file, delimiter="\t"))
        x = np.array([[_number(cell) for cell in row] for row in rows], np.float64)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise _bad(path, f"no table of numbers with a header ({error})") from error
    if x.ndim != 2 or x.shape[1] != len(header):
        raise _bad(path, "its rows are not as long as its header")
    if len(set(header)) < len(header):
        raise _bad(path, "two of its columns have one name")
    return Run(x.T, None, tuple(header))


def _number(cell: str) -> float:
    return np.nan if cell.strip().lower() in ("", "n/a", "na", "nan") else float(cell)


def _bad(path: Path, reason: str) -> Unreadable:
    return Unreadable(path, reason, "fMRI")


def in_order(run: Run, names: Sequence[str], path: Path) -> Float[np.ndarray, "P N"]:
    """The run's regions as the dataset has them; those it lacks are NaN.

    Raises:
      Unreadable: it has regions that the dataset has not, or another number.
    """
    if run.names is None:
        if len(run.bold) != len(names):
            raise _bad(path, f"{len(run.bold)} regions, the dataset has {len(names)}")
        return run.bold
    row = {name: i for i, name in enumerate(names)}
    if other := [name for name in run.names if name not in row]:
        raise _bad(
            path,
            f"{len(other)} regions that the dataset has not (the first is "
            f"{other[0]!r})",
        )
    out = np.full((len(names), run.bold.shape[1]), np.nan)
    out[[row[name] for name in run.names]] = run.bold
    return out
