"""Read tensors that other programs saved, without running anything they bring."""

import os
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from neurofm.errors import NeuroFMError
from neurofm.stores import Place, is_remote, place
from neurofm.weights import torchfile

_ZIP = b"PK\x03\x04"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError)


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read every tensor of a `.safetensors`, `.npz` or zipped torch file, by name.

    The kind of file is told by its first bytes, not by its name. bfloat16 comes back
    as float32 (exact), all else as it was stored. Of a torch file the tensors are those
    under `state_dict` or `model` where there is one, else those at the top. In an
    `.npz` that marks its weights by the prefix `w/`, the marked arrays alone are
    returned, without the prefix.

    Raises:
      NeuroFMError: a missing, damaged or unknown file, a pickle from before torch 1.6,
        TorchScript, big-endian numbers, a type of number that numpy cannot hold.
    """
    path = place(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise NeuroFMError(f"{path} is {what}: give the file that holds the weights")
    with path.open("rb") as f:
        head = f.read(10)
    if head[:4] == _ZIP:
        tensors = _read_zip(path)
    elif head[8:10] == b'{"':
        tensors = _read_safetensors(path)
    elif head[:1] == b"\x80":
        raise NeuroFMError(
            f"{path} is a bare pickle, as torch wrote before 1.6, which is not read "
            "because it may run code: save it again with a newer torch, "
            "torch.save(torch.load(old, weights_only=True), new)"
        )
    else:
        raise NeuroFMError(
            f"{path} is neither safetensors, npz nor a zipped torch file: "
            "if it should be one, it is damaged; fetch it again"
        )
    return {
        name: x.astype(np.float32) if x.dtype == ml_dtypes.bfloat16 else x
        for name, x in tensors.items()
    }


def read_settings(path: str | os.PathLike, key: str) -> dict[str, Any]:
    """Plain values that a zipped torch file holds under `key` beside its tensors.

    Empty for files of other kinds, and where there is none; call `read_tensors` first,
    which refuses what cannot be read.
    """
    with place(path).open("rb") as f:
        if not zipfile.is_zipfile(f):
            return {}
        with zipfile.ZipFile(f) as archive:
            if not any(n.split("/")[-1] == "data.pkl" for n in archive.namelist()):
                return {}
            return torchfile.read_settings(archive, key)


def _damaged(path: Place, why: Exception) -> NeuroFMError:
    return NeuroFMError(f"{path} is damaged or cut short ({why}): fetch it again")


def _read_safetensors(path: Place) -> dict[str, np.ndarray]:
    try:
        if is_remote(path):
            return safetensors.numpy.load(path.read_bytes())
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as e:
        raise _damaged(path, e) from e
    except (AttributeError, TypeError) as e:  # numpy lacks the type
        raise NeuroFMError(
            f"{path} holds a type of number that is not read ({e}): "
            "save it as float32, float16 or bfloat16"
        ) from e


def _read_zip(path: Place) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith(".npy") for name in names):
                return _read_npz(path)
            if any(name.split("/")[-1] == "data.pkl" for name in names):
                return torchfile.read(archive)
    except _DAMAGE as e:
        raise _damaged(path, e) from e
    raise NeuroFMError(
        f"{path} is a zip with neither numpy nor torch arrays in it: "
        "give the file that holds the weights"
    )


def _read_npz(path: Place) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            marked = [name for name in arrays.files if name.startswith("w/")]
            return {n.removeprefix("w/"): arrays[n] for n in marked or arrays.files}
    except ValueError as e:  # Python objects, or a broken header
        raise NeuroFMError(
            f"{path} holds what is no plain array ({e}): save arrays of numbers only"
        ) from e
