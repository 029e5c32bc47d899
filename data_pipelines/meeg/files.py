"""Find and open recordings of any format that MNE reads."""

import importlib.util
import os
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError

# mne.io.BaseRaw; what tools infer of its types from defaults misleads them.
Raw = Any

cannot = partial(Unreadable, what="EEG or MEG")

# Suffixes that name a recording by themselves. A file given by name may have any.
FORMATS = {
    ".ahdr": "BrainVision",
    ".bdf": "BDF",
    ".cdt": "Curry",
    ".cnt": "Neuroscan or ANT",
    ".con": "KIT",
    ".edf": "EDF",
    ".fif": "FIF",
    ".gdf": "GDF",
    ".lay": "Persyst",
    ".nedf": "Neuroelectrics",
    ".nxe": "Nexstim",
    ".set": "EEGLAB",
    ".sqd": "KIT",
    ".vhdr": "BrainVision",
}
FOLDERS = {".ds": "CTF", ".mff": "EGI"}

# FIF files that hold something else than a recording, by MNE's rules for names.
_DERIVED = re.compile(
    r"[-_](ave|epo|cov|fwd|inv|trans|src|bem|bem-sol|sol|ica|proj|annot|eve|head|tfr"
    r"|lab|stc|dense|evoked|psd|spectrum|coreg|report|crosstalk|markers)\.fif$"
)
_PART = re.compile(r"^(?P<whole>.+)-(?P<number>[1-9]\d?)\.fif$")
_SPLIT = re.compile(r"_split-0*(?P<number>\d+)_")

_NOT_NEWS = ("does not conform to MNE naming conventions",)


def require_mne() -> None:
    """Raise NeuroFMError where MNE is not installed."""
    if importlib.util.find_spec("mne") is None:
        raise NeuroFMError(
            "EEG and MEG are read by MNE, which is not installed: pip install "
            "'neurofm[brain]'"
        )


def suffix(name: str) -> str:
    """Of a file, in lower case; `.fif` for `.fif.gz`."""
    name = name.lower().removesuffix(".gz")
    return os.path.splitext(name)[1]


def find(src: Path) -> tuple[list[str], dict[str, int]]:
    """Recordings below `src`, and the suffixes of all other files.

    Parts of a split FIF file count as its first part, which leads to them.

    Returns:
      Sorted paths relative to `src`, with forward slashes, of files and of the folders
      that some systems make of a recording; and suffix -> count. Names that begin with
      a dot are left alone.
    """
    found: list[str] = []
    others: dict[str, int] = {}
    for folder, subfolders, names in os.walk(src):
        here = Path(folder).relative_to(src)
        subfolders[:] = sorted(n for n in subfolders if not n.startswith("."))
        for name in list(subfolders):
            if suffix(name) in FOLDERS:
                subfolders.remove(name)
                found.append((here / name).as_posix())
        names = [name for name in names if not name.startswith(".")]
        together = set(names)
        for name in names:
            if suffix(name) in FORMATS and _is_first(name, together):
                found.append((here / name).as_posix())
            else:
                kind = os.path.splitext(name)[1].lower()
                others[kind] = others.get(kind, 0) + 1
    return sorted(found), others


def _is_first(name: str, together: set[str]) -> bool:
    """Whether a file is a recording of its own, and no later part of another."""
    plain = name.removesuffix(".gz")
    if _DERIVED.search(plain):
        return False
    if (part := _PART.match(plain)) and f"{part['whole']}.fif" in together:
        return False
    split = _SPLIT.search(plain)
    if split and int(split["number"]) > 1:
        width = len(split[0].strip("_").removeprefix("split-"))
        first = plain.replace(split[0], f"_split-{1:0{width}d}_")
        return first not in together
    return True


def beside(src: Path, names: Sequence[str]) -> list[str]:
    """Files that some formats make of a recording beside the one that is named.

    They begin as it does: `x.vhdr` and `x.eeg`, `x_raw.fif` and `x_raw-1.fif`.
    """
    stems: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        stems.setdefault(folder, []).append(file.split(".")[0])
    known = set(names)
    out = []
    for folder, mine in stems.items():
        for entry in os.scandir(src / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            begins = entry.name.startswith(tuple(mine))
            if begins and entry.is_file() and name not in known:
                out.append(name)
    return sorted(out)


def open_raw(path: Path, notes: list[str]) -> Raw:
    """Open a recording without reading its samples.

    What MNE warns of is appended to `notes`.

    Raises:
      Unreadable: MNE cannot read it, or it is a FIF file that was cut.
    """
    import mne

    if path.suffix.lower() == ".fif" and _goes_in_circles(path):
        raise cannot(
            path, "a damaged FIF file: its parts follow each other in a circle"
        )
    found: list[str] = []
    with told(found):
        try:
            raw = mne.io.read_raw(path, preload=False, verbose="warning")
            raw.get_channel_types()  # here, as damage may make them unknown
        except Exception as error:  # a broken header may raise anything
            raise cannot(path, _first_line(error, path)) from error
    for note in found:
        if note.startswith("Invalid tag"):
            raise cannot(
                path,
                "a FIF file that was cut: it ends in the middle, and what its end "
                "tells is lost; copy it again",
            )
    if not raw.n_times:
        raise cannot(path, "it holds no samples")
    if not 1 <= raw.info["sfreq"] <= 1e6:
        raise cannot(path, f"its header gives {raw.info['sfreq']:g} Hz")
    notes += [_in_words(note, raw) for note in found]
    return raw


def _goes_in_circles(path: Path) -> bool:
    """Whether the tags of a FIF file never end, which MNE would follow for ever.

    A tag is kind, type, size and the place of the next: 0 is behind it, below is none.
    """
    seen: set[int] = set()
    at = 0
    with open(path, "rb") as file:
        while at >= 0:
            if at in seen:
                return True
            seen.add(at)
            file.seek(at)
            header = file.read(16)
            if len(header) < 16:
                return False
            _, _, size, following = struct.unpack(">iiii", header)
            if following < 0:
                return False
            at = following or at + 16 + size
    return False


def _first_line(error: Exception, path: Path) -> str:
    text = " ".join(str(error).split()).replace(str(path), path.name)
    return f"{text[:300] or type(error).__name__}"


def _in_words(note: str, raw: Raw) -> str:
    if note.startswith("Number of records from the header does not match"):
        seconds = raw.n_times / raw.info["sfreq"]
        return (
            "cut, or never closed: its length is not the one in its header; the "
            f"{seconds:.2f} s that are there are kept"
        )
    return note


@contextmanager
def told(notes: list[str]) -> Iterator[None]:
    """Append what is warned of inside, each sentence once; MNE tells nothing else."""
    import mne

    with warnings.catch_warnings(record=True) as caught, mne.use_log_level("warning"):
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = " ".join(str(warning.message).split())
        if not issubclass(warning.category, RuntimeWarning | UserWarning):
            continue  # of programmers for programmers
        if text not in notes and not any(known in text for known in _NOT_NEWS):
            notes.append(text)
