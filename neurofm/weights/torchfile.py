"""Tensors of a zipped torch file, read without torch and without running its pickle.

The zip's `data.pkl` says how tensors lie in the raw storages `data/0`, `data/1`, ...
It is read by an unpickler that knows the functions that rebuild tensors and the names
of number types; every other name in it becomes a stand-in that accepts whatever is done
to it and does nothing. Tensors are described first and read last, so an optimizer state
beside the weights costs no memory.
"""

import io
import logging
import math
import pickle
import pickletools
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from neurofm.errors import NeuroFMError

_log = logging.getLogger(__name__)

_NUMPY_DTYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "bool": np.dtype("?"),
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "bytes",  # the tensor itself names its type
}


class _Storage(NamedTuple):
    dtype: Any
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    dtype: Any


def read(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The tensors under `state_dict` or `model`, or at the top without such an entry.

    Raises:
      NeuroFMError: TorchScript, big-endian numbers, no tensors, or a damaged file.
    """
    path, names = archive.filename, archive.namelist()
    root, top = _top(archive)
    tensors = _state(str(path), top)
    storages: dict[str, bytes] = {}  # tied tensors share one
    for tensor in tensors.values():
        key = tensor.storage.key
        if f"{root}data/{key}" not in names:
            raise NeuroFMError(f"{path} lacks the storage {key!r}: fetch it again")
        if key not in storages:
            storages[key] = archive.read(f"{root}data/{key}")
    return {
        name: _array(f"tensor {name} of {path}", tensor, storages[tensor.storage.key])
        for name, tensor in tensors.items()
    }


def read_settings(archive: zipfile.ZipFile, key: str) -> dict[str, Any]:
    """Plain values of the mapping `key` at the top of the file; empty without one.

    Only numbers, texts, flags, None and what is made of these is given; the rest is
    left out. Raises as `read` does.
    """
    _, top = _top(archive)
    found = top.get(key) if isinstance(top, dict) else None
    plain = _plain(found) if isinstance(found, dict) else {}
    return plain if isinstance(plain, dict) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        named = {k: v for k, v in value.items() if isinstance(k, str)}
        return {k: p for k, v in named.items() if (p := _plain(v)) is not _Inert}
    if isinstance(value, list | tuple):
        items = [_plain(v) for v in value]
        return _Inert if _Inert in items else items
    known = value is None or type(value) in (bool, int, float, str)
    return value if known else _Inert


def _top(archive: zipfile.ZipFile) -> tuple[str, Any]:
    """The folder within the zip, and what its pickle describes."""
    path, names = archive.filename, archive.namelist()
    pickles = [n for n in names if n.split("/")[-1] == "data.pkl"]
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise NeuroFMError(
            f"{path} is a TorchScript program, which is not read because it is code: "
            "save its tensors with torch.save(torch.jit.load(old).state_dict(), new)"
        )
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise NeuroFMError(
            f"{path} holds big-endian numbers: save it on a little-endian machine"
        )
    raw = archive.read(pickles[0])
    try:
        return root, _unpickle(raw)
    except Exception as e:  # a hostile or damaged pickle may raise nearly anything
        raise NeuroFMError(
            f"{path} holds a pickle that cannot be read ({e}): fetch it again, or save "
            "the model's state_dict alone"
        ) from e


def _state(path: str, top: Any) -> dict[str, _Tensor]:
    found = top if isinstance(top, dict) else {}
    nested = [found[name] for name in ("state_dict", "model") if name in found]
    state = next((x for x in nested if isinstance(x, dict)), top)
    entries = state if isinstance(state, dict) else {}
    names = [name for name in entries if isinstance(name, str)]
    tensors = {n: entries[n] for n in names if isinstance(entries[n], _Tensor)}
    others = [n for n in names if n not in tensors]
    if not tensors:
        held = ", ".join(others[:9]) or "nothing by name"
        raise NeuroFMError(
            f"{path} has no tensors at its top, nor under 'state_dict' or 'model' (it "
            f"holds {held}): save the model's state_dict alone"
        )
    if others:
        _log.warning(
            "%s: %d entries hold no tensor and are left out (%s)",
            path,
            len(others),
            ", ".join(others[:5]),
        )
    return tensors


def _array(what: str, tensor: _Tensor, raw: bytes) -> np.ndarray:
    if not isinstance(tensor.dtype, str) or tensor.dtype not in _NUMPY_DTYPES:
        raise NeuroFMError(
            f"{what} holds a type of number that is not read: save it as float32"
        )
    dtype = _NUMPY_DTYPES[tensor.dtype]
    _, offset, shape, strides, _ = tensor
    past = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    held = len(raw) // dtype.itemsize
    size = math.prod(shape)
    if min(*shape, *strides, offset, 0) < 0 or size > held or (size and past > held):
        raise NeuroFMError(
            f"{what}, {shape} with strides {strides} from {offset}, does not fit its "
            f"storage of {held} numbers: the file is damaged, fetch it again, or the "
            "tensor repeats what is stored, save its .contiguous()"
        )
    flat = np.frombuffer(raw, dtype, count=held)[offset:]
    view = np.lib.stride_tricks.as_strided(
        flat, shape, [s * dtype.itemsize for s in strides], writeable=False
    )
    return np.array(view, order="C")


class _Inert:
    """Stands for every class and function that is not known: accepts all, does nothing.

    Neither its instances nor the class can be given state, so that one pickle leaves
    nothing behind for the next: hence the empty slots and the deaf `__setstate__`.
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    @staticmethod
    def __setstate__(*args: Any) -> None:
        pass

    def __setitem__(self, *args: Any) -> None:
        pass

    def append(self, *args: Any) -> None:
        pass

    extend = add = append


class _Dict(dict):
    """collections.OrderedDict, but without attributes."""

    __slots__ = ()

    @staticmethod
    def __setstate__(*args: Any) -> None:
        pass


class _RebuildTensor(_Inert):
    """torch._utils._rebuild_tensor_v2 and v3, which ends on (dtype, metadata)."""

    __slots__ = ()

    def __call__(
        self,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        requires_grad: Any = None,
        hooks: Any = None,
        dtype: Any = None,
        metadata: Any = None,
    ) -> Any:
        if not isinstance(storage, _Storage):
            return _Inert()
        numbers = [*shape, *strides, offset]
        if len(shape) != len(strides) or any(type(n) is not int for n in numbers):
            raise ValueError("the sizes of a tensor are not whole numbers")
        typed = dtype if isinstance(dtype, str) else storage.dtype
        return _Tensor(storage, offset, tuple(shape), tuple(strides), typed)


class _RebuildParameter(_Inert):
    """torch._utils._rebuild_parameter: the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor: Any, *args: Any) -> Any:
        return tensor


class _RebuildFromType(_Inert):
    """torch._tensor._rebuild_from_type_v2: a tensor that was given attributes."""

    __slots__ = ()

    def __call__(self, rebuild: Any, kind: Any, args: Any, state: Any = None) -> Any:
        known = isinstance(rebuild, _RebuildTensor | _RebuildParameter)
        return rebuild(*args) if known else _Inert()


_KNOWN = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch._utils", "_rebuild_parameter_with_state"): _RebuildParameter(),
    ("torch._tensor", "_rebuild_from_type_v2"): _RebuildFromType(),
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    **{("torch.storage", name): dtype for name, dtype in _STORAGES.items()},
    **{("torch", dtype): dtype for dtype in _NUMPY_DTYPES},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", dtype, str(key), _, _):
                return _Storage(dtype, key)
            case _:
                return _Inert()


def _unpickle(raw: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(raw):
        # The memo is an array as long as its largest index: five bytes could ask for
        # more memory than there is.
        if opcode.name.endswith("PUT") and int(argument or 0) > len(raw):
            raise ValueError("its memo is larger than the pickle")
    return _Unpickler(io.BytesIO(raw)).load()
