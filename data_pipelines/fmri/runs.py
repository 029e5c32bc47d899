"""Files of fMRI: which are runs, how each is read, its repetition time and atlas."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.fmri import algonauts, arrays, images, surfaces
from data_pipelines.fmri.arrays import Run
from data_pipelines.fmri.settings import Settings, refuse_odd_tr
from data_pipelines.meeg import sidecars
from data_pipelines.sources import Source, source
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError

_OF_NIBABEL = (*images.SUFFIXES, *surfaces.SUFFIXES)
SUFFIXES = (*arrays.SUFFIXES, *_OF_NIBABEL)
_SERIES = (".dtseries.nii", ".ptseries.nii")
PART = "#"  # FILE#NAME is one of the runs of a file
# Files with BIDS names that are not runs.
_RUNS = ("bold", "timeseries")
SAME_TR = 1e-3  # share by which two repetition times may differ and be one


@dataclass(frozen=True)
class Runs(Source):
    """Files that may hold several runs each; see `sources.Source`."""

    def stat(self, file: str) -> tuple[int, int | str]:
        root = Path(self.root)
        path, part = split_name(root, file)
        name = path.relative_to(root).as_posix()
        n_bytes, changed = super().stat(name)
        if surfaces.is_surface(name) and (right := surfaces.right_of(path)).is_file():
            more, also = super().stat(right.relative_to(root).as_posix())
            n_bytes, changed = n_bytes + more, f"{changed} {also}"
        sharing = sum(f.startswith(name + PART) for f in self.files) if part else 1
        return max(1, n_bytes // sharing), changed


def find(src: Path, settings: Settings, only: str | None = None) -> Source:
    """The runs of a folder, or of the file that is named."""
    if src.is_file():
        root, files = src.parent, [src.name]
    elif src.is_dir():
        root = src
        every = (p.relative_to(src).as_posix() for p in src.rglob("*") if p.is_file())
        files = sorted(f for f in every if f.lower().endswith(SUFFIXES))
    else:
        raise NeuroFMError(f"{src} does not exist; give a folder of fMRI runs")
    if only:
        files = [f for f in files if fnmatch.fnmatch(Path(f).name, only)]
    elif not src.is_file():
        files = [f for f in files if is_run(f)]
    if not files:
        matching = f" that matches {only}" if only else ""
        raise NeuroFMError(
            f"there is no run of fMRI in {src}{matching}; expected files that end in "
            f"{' '.join(SUFFIXES)}"
        )
    files = surfaces.firsts(files)
    if any(f.lower().endswith(_OF_NIBABEL) for f in files):
        images.require_nilearn()
    names: list[str] = []
    for file in files:
        try:
            held = _parts(root / file, settings)
        except Unreadable:
            held = [""]  # told when it is read
        names += [f"{file}{PART}{part}" if part else file for part in held]
    told = source(root, names)
    return Runs(root=root, files=told.files, unnamed=told.unnamed)


def is_run(file: str) -> bool:
    """Whether a file that ends as runs do is one by its BIDS name, if it has one."""
    found = sidecars.entities(file)
    if "sub" not in found:
        return True
    runs = found.get("suffix") in _RUNS and found.get("desc") != "confounds"
    return runs or file.lower().endswith((".h5", ".hdf5"))


def _parts(path: Path, settings: Settings) -> list[str]:
    if path.name.lower().endswith(_OF_NIBABEL):
        return [""]
    return arrays.parts(path, settings)


def split_name(root: Path, file: str) -> tuple[Path, str]:
    """The file of a run, and its name there; nothing where it is the only one."""
    if PART in file and not (root / file).is_file():
        name, _, part = file.rpartition(PART)
        return root / name, part
    return root / file, ""


def read(root: Path, file: str, settings: Settings) -> Run:
    """A run as it is in its file; see `arrays.read` and `images.read`."""
    path, part = split_name(root, file)
    if path.name.lower().endswith(images.SUFFIXES):
        return images.read(path, settings)
    if surfaces.is_surface(path):
        return surfaces.read(path, settings)
    return arrays.read(path, part, settings)


def tr_of(
    root: Path, file: str, run: Run, settings: Settings, notes: list[str]
) -> float:
    """A run's own repetition time: of the file, its sidecar, or as the user says."""
    path, part = split_name(root, file)
    name = path.relative_to(root).as_posix()
    suffix = sidecars.entities(name).get("suffix", "bold")
    told = sidecars.merged(root, name, suffix).get("RepetitionTime")
    beside = float(told) if isinstance(told, int | float) else None
    tr_s = run.tr_s if run.tr_s is not None else beside
    if beside and run.tr_s and abs(beside / run.tr_s - 1) > SAME_TR:
        raise Unreadable(
            path,
            f"it tells a repetition time of {run.tr_s:g} s and its JSON {beside:g} s: "
            "mend one",
            "fMRI",
        )
    if tr_s is not None:
        tr_s = float(f"{tr_s:.6g}")  # as it was typed, before it was a float32
        refuse_odd_tr(tr_s, str(path))
        given = settings.source_tr
        if given is not None and abs(given / tr_s - 1) > SAME_TR:
            raise Unreadable(
                path,
                f"it tells a repetition time of {tr_s:g} s and --source-tr {given:g} s",
                "fMRI",
            )
        return tr_s
    if settings.source_tr is not None:
        return settings.source_tr
    if algonauts.columns(part.rpartition("/")[2]):
        notes.append(f"its repetition time is taken as {algonauts.TR_S} s, Algonauts'")
        return algonauts.TR_S
    raise NeuroFMError(
        f"{path} does not tell its repetition time: give it in seconds as --source-tr, "
        "or as RepetitionTime in a JSON beside it"
    )


def atlas_name(found: Source, settings: Settings) -> str:
    """The atlas as the user names it, or as the files do in their names.

    Raises:
      NeuroFMError: neither does.
    """
    if settings.mask:
        return f"voxels of {Path(settings.mask).name}"
    if settings.atlas_file:
        return settings.atlas_file.name.split(".")[0]
    if settings.atlas:
        return settings.atlas
    told = set()
    for file in found.files:
        name = sidecars.entities(file.split(PART)[0])
        words = [name[k] for k in ("atlas", "seg", "parcel") if k in name]
        of_cifti = file.lower().split(PART)[0].endswith(_SERIES)
        if surfaces.is_surface(file):
            told.add(f"vertices of {name.get('space', 'a surface')}")
        else:
            told.add("_".join(words) or ("grayordinates" if of_cifti else ""))
    if len(told) == 1 and told != {""}:
        return told.pop()
    raise NeuroFMError(
        "the regions' atlas is not told by the names of the files"
        f"{' (they name several)' if len(told) > 1 else ''}: give it as --atlas NAME"
    )
