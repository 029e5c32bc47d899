"""What proves that a checkpoint is whole: its record, written last and verified first.

`meta.json` in a step's folder holds the run's meta, kind and checksum of every array
(taken on the device before it was saved), the size of every file (for the small ones,
on which orbax would stumble, a CRC too) and a hash of all that. Sizes and CRCs name a
lost or cut file at once; the checksums find out whatever else happened to the bytes.
"""

import functools
import json
import logging
import zlib
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, UInt32

from neurofm.errors import NeuroFMError

T = TypeVar("T")
RECORD = "meta.json"
SMALL_FILE = 1 << 20  # bytes: indices and headers are smaller, bulk data is larger

log = logging.getLogger(__name__)


class Damaged(Exception):
    """A checkpoint that cannot be used; the message says why."""


class Unfinished(Damaged):
    """The step was never written to the end, so nothing was lost with it."""


@jax.jit
def _lanes(x: Array) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    """Sums modulo 2^32 of the words of `x`: plain, and weighted by position."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    word = f"uint{8 * min(x.dtype.itemsize, 4)}"
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(word)).astype(jnp.uint32)
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        iota = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position = position * jnp.uint32(size) + iota
    weight = position * jnp.uint32(0x9E3779B1)  # golden ratio: spreads over all bits
    weight = (weight ^ (weight >> 15)) | 1  # odd: no factor of the modulus is lost
    # One reduction of both: ten times faster on CPU than `sum` of each.
    zeros = (jnp.uint32(0), jnp.uint32(0))
    add = functools.partial(jax.tree.map, jnp.add)
    return jax.lax.reduce((words, words * weight), zeros, add, range(words.ndim))


def checksums(flat: dict[str, Any]) -> dict[str, str]:
    """16 hexadecimal digits for each array, the same however it lies over devices.

    Integer sums modulo 2^32 do not depend on their order. A changed byte changes both
    sums; exchanged blocks leave the first as it is and change the second.
    """
    lanes = jax.device_get({name: _lanes(x) for name, x in flat.items()})
    return {name: f"{int(a):08x}{int(b):08x}" for name, (a, b) in lanes.items()}


def describe(flat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the record says of each array: `kind` (dtype, then shape) and `checksum`."""
    return {
        name: {"kind": kind(flat[name]), "checksum": value}
        for name, value in checksums(flat).items()
    }


def kind(x: Any) -> list[Any]:
    """Dtype and shape as JSON, e.g. `["float32", 3, 5]`."""
    return [str(x.dtype), *x.shape]


def verify(flat: dict[str, Any], leaves: dict[str, dict[str, Any]]) -> None:
    """Raise Damaged where an array is not the one that `leaves` describes."""
    for name, value in checksums(flat).items():
        if value != leaves[name]["checksum"]:
            raise Damaged(f"the array {name} is not what was saved")


def write_record(folder: epath.Path, record: dict[str, Any]) -> None:
    """Finish a checkpoint: list its files and write `record`, sealed, in one move."""
    files = {str(path.relative_to(folder)): path for path in _files(folder)}
    record = record | {"files": {k: _fingerprint(path) for k, path in files.items()}}
    draft = folder / f"{RECORD}.tmp"
    draft.write_text(json.dumps(record | {"sha256": _seal(record)}, indent=1))
    draft.replace(folder / RECORD)


def read_record(folder: epath.Path) -> dict[str, Any]:
    """The record of a checkpoint, after it and all files it lists were verified.

    Raises:
      Damaged: with what is wrong.
    """
    if not (folder / RECORD).exists():
        if not folder.is_dir():
            raise Damaged("there is no such folder")
        if not any(folder.iterdir()):
            raise Unfinished("it is empty")
        raise Unfinished(f"it was never finished: no {RECORD}")
    try:
        record = json.loads((folder / RECORD).read_text())
        seal = record.pop("sha256")
        whole = seal == _seal(record)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"its {RECORD} cannot be read") from None
    if not whole:
        raise Damaged(f"its {RECORD} has changed")
    for name, (size, crc) in record["files"].items():
        if not (folder / name).exists():
            raise Damaged(f"the file {name} is missing")
        found_size, found_crc = _fingerprint(folder / name)
        if found_size != size:
            raise Damaged(f"the file {name} has {found_size} bytes instead of {size}")
        if found_crc != crc:
            raise Damaged(f"the file {name} has changed")
    return record


def newest_good(
    directory: epath.Path, read: Callable[[epath.Path], T]
) -> tuple[int, T] | None:
    """Read the newest step that is not damaged, passing over later ones with a word.

    Args:
      read: what to make of one step's folder; raises Damaged.

    Returns:
      the step and what was read, or None where no step was ever finished.

    Raises:
      NeuroFMError: there are finished steps and none is good.
    """
    passed: list[str] = []
    damaged = False
    for step in reversed(step_folders(directory)):
        try:
            result = read(directory / str(step))
        except Damaged as fault:
            passed.append(f"step {step} ({fault})")
            damaged |= not isinstance(fault, Unfinished)
            continue
        if passed:
            reasons = ", ".join(passed)
            log.warning("going on from checkpoint %d, passing over %s", step, reasons)
        return step, result
    if passed and not damaged:  # the run was killed while it saved for the first time
        log.warning(
            "no checkpoint was ever finished, passing over %s", ", ".join(passed)
        )
        return None
    if passed:
        raise NeuroFMError(
            f"no checkpoint in {directory} can be used: {', '.join(passed)}; put back "
            "a copy, or move the folder away to start from scratch"
        )
    return None


def step_folders(directory: epath.Path) -> list[int]:
    """Steps with a folder, finished or not, oldest first."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if path.is_dir()]
    return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))


def finished_steps(directory: epath.Path) -> list[int]:
    """Steps that were written to the end, oldest first; none of them is verified."""
    return [
        s for s in step_folders(directory) if (directory / str(s) / RECORD).exists()
    ]


def _seal(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, allow_nan=False)
    return sha256(text.encode()).hexdigest()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _fingerprint(path: epath.Path) -> tuple[int, int | None]:
    """Bytes, and the CRC of a small file."""
    size = path.stat().length
    return size, zlib.crc32(path.read_bytes()) if size <= SMALL_FILE else None
