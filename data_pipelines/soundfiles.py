"""Sound files of any format that libsndfile decodes, whole or in blocks.

What a file promises and does not hold is noted, what cannot be read at all is
`Unreadable` with the reason.
"""

import contextlib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32

from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError
from neurofm.signals.audio import resample_blocks

__all__ = ["SUFFIXES", "Channels", "Header", "Sound", "Unreadable"]
__all__ += ["blocks", "find", "header", "read"]

Channels = Literal["first", "mean", "all"]

# fmt: off
SUFFIXES = frozenset({
    ".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus",
    ".rf64", ".snd", ".sph", ".voc", ".w64", ".wav", ".wave",
})
# fmt: on
_BLOCK = 2**20  # samples decoded at once, all channels together
_SALVAGE = 256  # frames decoded at once where a file is damaged
_STREAMED = 0x7FFF0000  # lengths from here on mean "not known yet" in a WAV header


class Header(NamedTuple):
    """What a file says of itself; `cut` is what it promises and does not hold."""

    format: str
    sfreq: int
    n_chans: int
    n_samples: int
    cut: str


class Sound(NamedTuple):
    """Samples `[C, N]` (full scale is 1) at `sfreq` Hz, and what was found wrong."""

    samples: Float32[np.ndarray, "C N"]
    sfreq: float
    notes: tuple[str, ...]


def find(src: Path) -> tuple[list[str], dict[str, int]]:
    """Sound files below `src`, and what else there is; see `sort_out`."""
    names = []
    for folder, subfolders, files in os.walk(src):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        names += [Path(folder, name).relative_to(src).as_posix() for name in files]
    return sort_out(names)


def sort_out(names: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """Sound files by their suffix, and the suffixes of all other files.

    Args:
      names: paths relative to a folder, with forward slashes.

    Returns:
      The sounds, sorted; and suffix -> count. Names that begin with a dot, or lie in a
      folder whose name does, are left alone.
    """
    sounds: list[str] = []
    others: dict[str, int] = {}
    for name in names:
        if any(part.startswith(".") for part in name.split("/")):
            continue
        suffix = posixpath.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            sounds.append(name)
        else:
            others[suffix] = others.get(suffix, 0) + 1
    return sorted(sounds), others


def header(path: str | os.PathLike) -> Header:
    """Read a file's header.

    Raises:
      Unreadable: it is empty, no sound, or holds no samples.
    """
    with _open(path) as file:
        kind = f"{file.format} {file.subtype}"
        cut = _cut(path, file)
        return Header(kind, file.samplerate, file.channels, file.frames, cut)


def read(
    path: str | os.PathLike,
    sfreq: float | None = None,
    channels: Channels = "first",
) -> Sound:
    """Read a whole file.

    Args:
      path: any sound file.
      sfreq: rate in Hz to resample to; None keeps the file's own.
      channels: `first` channel alone, `mean` of all, or `all`.

    Raises:
      Unreadable: there is no usable sound in it.
    """
    notes: list[str] = []
    rate = header(path).sfreq
    pieces = list(blocks(path, sfreq, channels, notes))
    return Sound(np.concatenate(pieces, axis=1), float(sfreq or rate), tuple(notes))


def blocks(
    path: str | os.PathLike,
    sfreq: float | None,
    channels: Channels,
    notes: list[str],
) -> Iterator[Float32[np.ndarray, "C n"]]:
    """Decode a file in consecutive blocks; laid end to end they are `read`'s samples.

    What is found wrong on the way is appended to `notes`. Raises as `read`, at the
    latest in place of the first block.
    """
    if channels not in ("first", "mean", "all"):
        raise NeuroFMError(f"channels {channels!r}: expected first, mean or all")
    about = header(path)
    if about.format.endswith(("FLOAT", "DOUBLE")):
        _refuse_wild(path)
    decoded = _decode(path, about, notes)
    selected = (_select(x, channels) for x in decoded)
    return resample_blocks(selected, about.sfreq, sfreq or about.sfreq)


def _select(x: np.ndarray, channels: Channels) -> np.ndarray:
    if channels == "mean":
        return x.mean(axis=0, keepdims=True)
    return np.ascontiguousarray(x[:1] if channels == "first" else x)


def _decode(
    path: str | os.PathLike, about: Header, notes: list[str]
) -> Iterator[Float32[np.ndarray, "C n"]]:
    n_read, stopped = 0, ""
    n_frames = max(1, _BLOCK // about.n_chans)
    with _open(path) as file:
        try:
            while len(x := file.read(n_frames, dtype="float32", always_2d=True)):
                n_read += len(x)
                yield x.T
        except soundfile.LibsndfileError as error:
            stopped = _words(error)
    if stopped:
        for x in _salvage(path, n_read):
            n_read += x.shape[1]
            yield x
    if not n_read:
        raise Unreadable(path, stopped or "nothing in it can be decoded")
    if about.cut:
        notes.append(about.cut)
    elif stopped or n_read < about.n_samples:
        notes.append(
            f"cut or damaged: {n_read / about.sfreq:.2f} s of "
            f"{about.n_samples / about.sfreq:.2f} s can be decoded, which are kept"
        )


def _salvage(path: str | os.PathLike, skip: int) -> Iterator[np.ndarray]:
    """What comes after `skip` frames, in steps so small that little is lost."""
    n_read = 0
    held = []
    with _open(path) as file:
        try:
            while len(x := file.read(_SALVAGE, dtype="float32", always_2d=True)):
                n_read += len(x)
                if n_read > skip:
                    held.append(x.T)
        except soundfile.LibsndfileError:
            pass
    if held:
        joined = np.concatenate(held, axis=1)
        yield joined[:, joined.shape[1] - (n_read - skip) :]


def _refuse_wild(path: str | os.PathLike) -> None:
    """NaN, infinite and absurd samples only exist in files of floats: read them twice.

    Floats in the scale of 32-bit integers (2e9) are let through: loudness is set later.
    """
    n_bad = n_read = 0
    peak = 0.0
    # Damage is the decoder's matter, which keeps what comes before it.
    with _open(path) as file, contextlib.suppress(soundfile.LibsndfileError):
        n_frames = max(1, _BLOCK // file.channels)
        while len(x := file.read(n_frames, dtype="float32", always_2d=True)):
            n_bad += int((~np.isfinite(x)).any(axis=1).sum())
            n_read += len(x)
            peak = max(peak, float(np.abs(x).max()))
    if n_bad:
        raise Unreadable(path, f"{n_bad} of {n_read} samples are NaN or infinite")
    if peak > 1e10:
        raise Unreadable(path, f"samples reach {peak:.1g}, where full scale is 1")


def _open(path: str | os.PathLike) -> soundfile.SoundFile:
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise Unreadable(path, "empty file (0 bytes)")
        sound = soundfile.SoundFile(os.fspath(path))
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from error
    except (soundfile.LibsndfileError, TypeError) as error:
        raise Unreadable(path, f"not sound, or damaged: {_words(error)}") from error
    if not sound.frames:
        raise Unreadable(path, "it holds no samples")
    if not 50 <= sound.samplerate <= 4_000_000:
        raise Unreadable(path, f"its header gives {sound.samplerate} Hz")
    return sound


def _words(error: Exception) -> str:
    if getattr(error, "code", 0) == 7:  # "no such file", said of any bad MP3
        return "nothing in it can be decoded"
    text = getattr(error, "error_string", str(error))
    return text.removeprefix("Error : ").rstrip(".")


def _cut(path: str | os.PathLike, file: soundfile.SoundFile) -> str:
    """A sentence where the file is shorter than its header says, else ''."""
    seconds = file.frames / file.samplerate
    for match in re.finditer(r": (\d+) \(should be (\d+)\)", file.extra_info):
        promised, there = map(int, match.groups())
        if there + 64 < promised < _STREAMED:
            whole = seconds * promised / max(there, 1)
            return f"cut: {seconds:.2f} s of about {whole:.2f} s are there and kept"
    if file.format == "OGG" and _ogg_is_open(path):
        return f"cut: its last page is missing, {seconds:.2f} s are there and kept"
    return ""


def _ogg_is_open(path: str | os.PathLike) -> bool:
    """Whether an Ogg stream stops before the page that is marked as its last."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**17))  # a page has at most 65,307 bytes
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    n_bytes = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return len(page) < n_bytes or not page[5] & 4
