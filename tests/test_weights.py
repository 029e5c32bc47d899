import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch_archives
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.errors import NeuroFMError
from neurofm.weights.files import read_tensors

FLOATS = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7


class Storage:
    def __init__(self, kind: str, key: str, numel: int):
        self.pid = ("storage", TORCH[kind], key, "cpu", numel)


class Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, storage, offset, shape, strides, rebuild="_rebuild_tensor_v2"):
        self.args = (storage, offset, shape, strides, False, collections.OrderedDict())
        self.rebuild = rebuild

    def __reduce__(self):
        return TORCH[self.rebuild], self.args


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        args = (self.tensor, True, collections.OrderedDict())
        return TORCH["_rebuild_parameter"], args


def stand_in(module: str, name: str) -> type:
    return type(name, (), {"__module__": module, "__qualname__": name})


TORCH = {
    name: stand_in("torch", name)
    for name in (
        "FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "QInt8Storage"
    )
}  # fmt: skip
TORCH |= {
    name: stand_in("torch._utils", name)
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter")
}


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Returns write(tree, {key: bytes}) -> path of an archive as torch.save lays it."""
    for name in ("torch", "torch._utils"):
        module = types.ModuleType(name)
        for cls in TORCH.values():
            setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)

    def write(tree, storages, byteorder=b"little", **extra) -> Path:
        stream = io.BytesIO()
        Pickler(stream, protocol=2).dump(tree)
        path = tmp_path / "weights.ckpt"
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("epoch_3/data.pkl", stream.getvalue())
            z.writestr("epoch_3/byteorder", byteorder)
            for key, raw in storages.items():
                z.writestr(f"epoch_3/data/{key}", raw)
            for name, raw in extra.items():
                z.writestr(f"epoch_3/{name}.pkl", raw)
        return path

    return write


def floats(**places) -> Tensor:
    defaults = {"offset": 0, "shape": (2, 3, 4), "strides": (12, 4, 1)}
    return Tensor(Storage("FloatStorage", "0", 24), **(defaults | places))


def test_safetensors_come_back_as_stored(tmp_path):
    saved = {"a.b": FLOATS, "n": np.array([3, -1]), "h": FLOATS[0].astype(np.float16)}
    safetensors.numpy.save_file(saved, tmp_path / "any.name")
    read = read_tensors(tmp_path / "any.name")
    assert {n: x.dtype for n, x in read.items()} == {
        n: x.dtype for n, x in saved.items()
    }
    for name in saved:
        np.testing.assert_array_equal(read[name], saved[name])


def test_bfloat16_of_safetensors_becomes_float32(tmp_path):
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    raw = np.array([0x3FC0, 0xC000], "<u2").tobytes()  # 1.5 and -2 by their bits
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw)
    x = read_tensors(path)["x"]
    assert x.dtype == np.float32
    assert x.tolist() == [1.5, -2.0]


def test_npz_returns_the_arrays_marked_as_weights_where_any_are(tmp_path):
    np.savez(tmp_path / "a.npz", **{"w/enc.bias": FLOATS, "out": FLOATS})
    assert list(read_tensors(tmp_path / "a.npz")) == ["enc.bias"]
    np.savez(tmp_path / "b.npz", **{"enc.bias": FLOATS, "out": FLOATS})
    assert sorted(read_tensors(tmp_path / "b.npz")) == ["enc.bias", "out"]


def test_npz_with_python_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(NeuroFMError, match="no plain array"):
        read_tensors(tmp_path / "a.npz")


def test_lightning_checkpoint_gives_its_state_dict(archive):
    state = collections.OrderedDict(a=floats(), b=Parameter(floats(shape=(2, 3, 4))))
    path = archive({"epoch": 3, "state_dict": state}, {"0": FLOATS.tobytes()})
    read = read_tensors(path)
    assert list(read) == ["a", "b"]
    for x in read.values():
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, FLOATS)


def test_strides_and_offsets_are_honoured(archive):
    transposed = floats(shape=(4, 2), strides=(1, 12), offset=4)
    path = archive({"x": transposed}, {"0": FLOATS.tobytes()})
    np.testing.assert_array_equal(read_tensors(path)["x"], FLOATS[:, 1, :].T)


def test_scalars_and_empty_tensors_are_read(archive):
    tree = {
        "scalar": floats(shape=(), strides=(), offset=23),
        "empty": floats(shape=(0, 5), strides=(5, 1)),
    }
    read = read_tensors(archive(tree, {"0": FLOATS.tobytes()}))
    assert read["scalar"] == FLOATS[1, 2, 3]
    assert read["empty"].shape == (0, 5)


@pytest.mark.parametrize(
    ("kind", "raw", "dtype", "value"),
    [
        ("HalfStorage", np.float16(1.5).tobytes(), np.float16, 1.5),
        ("BFloat16Storage", b"\x00\xc0", np.float32, -2.0),
        ("LongStorage", np.int64(2**40).tobytes(), np.int64, 2**40),
    ],
)
def test_number_types_are_read(archive, kind, raw, dtype, value):
    tensor = Tensor(Storage(kind, "7", 1), 0, (1,), (1,))
    x = read_tensors(archive({"x": tensor}, {"7": raw}))["x"]
    assert x.dtype == dtype
    assert x.tolist() == [value]


def test_unknown_number_types_are_refused_by_name(archive):
    path = archive(
        {"x": Tensor(Storage("QInt8Storage", "0", 1), 0, (1,), (1,))}, {"0": b"a"}
    )
    with pytest.raises(NeuroFMError, match=r"tensor x .* type of number"):
        read_tensors(path)


@pytest.mark.parametrize(
    "places",
    [
        {"offset": 1},
        {"offset": -1},
        {"strides": (12, 4, 2)},
        {"strides": (-12, 4, 1)},
        {"shape": (10**9, 1, 1), "strides": (0, 0, 0)},
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(archive, places):
    path = archive({"x": floats(**places)}, {"0": FLOATS.tobytes()})
    with pytest.raises(NeuroFMError, match="does not fit"):
        read_tensors(path)


def test_what_is_no_tensor_is_left_out_aloud(archive, caplog):
    path = archive({"x": floats(), "epoch": 3}, {"0": FLOATS.tobytes()})
    assert list(read_tensors(path)) == ["x"]
    assert "epoch" in caplog.text


class Hostile:
    """Asks the reader to run a shell command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_pickle_runs_nothing(archive, tmp_path):
    marker = tmp_path / "it ran"
    hostile = Hostile(f"touch '{marker}'")
    tree = {"callbacks": [hostile, {hostile: 1}], "state_dict": {"x": floats()}}
    path = archive(tree, {"0": FLOATS.tobytes()})
    with zipfile.ZipFile(path) as z:  # the attack is live: plain pickle would run it
        assert b"system" in z.read("epoch_3/data.pkl")
    np.testing.assert_array_equal(read_tensors(path)["x"], FLOATS)
    assert not marker.exists()


class Settings:
    """A project's class: built without arguments, then given state."""

    def __init__(self):
        self.width = 3

    def __reduce__(self):
        return Settings, (), {"width": 3}, iter([1, 2]), iter([("k", 1)])


class WithNew:
    """Pickles by class and keyword arguments (NEWOBJ_EX), then gets slots (BUILD)."""

    __slots__ = ("slot",)

    def __new__(cls, *, slot=0):
        self = super().__new__(cls)
        self.slot = slot
        return self

    def __getnewargs_ex__(self):
        return (), {"slot": 5}


def test_classes_of_others_become_inert_and_keep_no_state(archive):
    tree = {"hyper": Settings(), "new": WithNew(), "set": {1, 2}, "type": Settings}
    for _ in range(2):
        path = archive({**tree, "state_dict": {"x": floats()}}, {"0": FLOATS.tobytes()})
        np.testing.assert_array_equal(read_tensors(path)["x"], FLOATS)


def write_pickle(path: Path, raw: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("a/data.pkl", raw)
        z.writestr("a/data/0", FLOATS.tobytes())
    return path


def test_state_given_to_known_names_leaves_nothing_behind(archive, tmp_path):
    good = archive({"x": floats()}, {"0": FLOATS.tobytes()})
    for name in (
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
    ):
        # BUILD with (None, {"__call__": None, "__init__": None}) on the callable itself
        state = b"(N(X\x08\x00\x00\x00__call__NX\x08\x00\x00\x00__init__Ndtb."
        with pytest.raises(NeuroFMError, match="no tensors"):
            read_tensors(write_pickle(tmp_path / "poison.pt", name + state))
    np.testing.assert_array_equal(read_tensors(good)["x"], FLOATS)


def test_a_pickle_that_asks_for_endless_memory_is_refused(tmp_path):
    path = write_pickle(tmp_path / "x.pt", b"Nr\xff\xff\xff\xff.")
    with pytest.raises(NeuroFMError, match="memo is larger"):
        read_tensors(path)


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=60))
def test_any_bytes_in_place_of_the_pickle_give_one_sentence(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("fuzz") / "x.pt"
    with pytest.raises(NeuroFMError):
        read_tensors(write_pickle(path, raw))


def test_truncated_files_give_one_sentence(archive, tmp_path):
    safetensors.numpy.save_file({"x": FLOATS}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", x=FLOATS)
    archive({"x": floats()}, {"0": FLOATS.tobytes()})
    for name in ("x.safetensors", "x.npz", "weights.ckpt"):
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
        with pytest.raises(NeuroFMError, match="cut short") as e:
            read_tensors(tmp_path / name)
        assert "\n" not in str(e.value)


def test_a_changed_byte_in_a_storage_is_noticed(archive):
    path = archive({"x": floats()}, {"0": FLOATS.tobytes()})
    raw = path.read_bytes()
    at = raw.index(FLOATS.tobytes()) + 5
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(NeuroFMError, match="damaged"):
        read_tensors(path)


def test_a_missing_storage_is_named(archive):
    with pytest.raises(NeuroFMError, match="lacks the storage '0'"):
        read_tensors(archive({"x": floats()}, {}))


def test_other_kinds_of_files_are_refused_with_what_to_do(archive, tmp_path):
    path = archive({"x": floats()}, {"0": FLOATS.tobytes()}, byteorder=b"big")
    with pytest.raises(NeuroFMError, match="big-endian"):
        read_tensors(path)
    path = archive({"x": floats()}, {"0": FLOATS.tobytes()}, constants=b"")
    with pytest.raises(NeuroFMError, match=r"TorchScript.*state_dict\(\)"):
        read_tensors(path)
    path.write_bytes(pickle.dumps({"x": 1}, protocol=2))
    with pytest.raises(NeuroFMError, match="weights_only=True"):
        read_tensors(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(NeuroFMError, match="neither safetensors"):
        read_tensors(path)
    with pytest.raises(NeuroFMError, match="is a folder"):
        read_tensors(tmp_path)
    with pytest.raises(NeuroFMError, match="is not there"):
        read_tensors(tmp_path / "none.ckpt")


@pytest.fixture(params=["kept", "written now"])
def torch_wrote(request, tmp_path) -> Path:
    """A folder of archives that torch wrote: the kept ones, or new ones."""
    if request.param == "kept":
        return torch_archives.FOLDER
    for name in ("torch", "omegaconf"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    torch_archives.write(tmp_path)
    return tmp_path


def test_types_and_layouts_that_torch_wrote_are_read(torch_wrote, caplog):
    x = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    whole = ("tied", "parameter", "parameter_with_state", "tagged")
    expected = {
        **{name: x.astype(name) for name in (
            *("float64", "float32", "float16"),
            *("int64", "int32", "int16", "int8"),
            *("uint64", "uint32", "uint16", "uint8"),
        )},
        **dict.fromkeys(("bfloat16", *whole), x),
        "bool": x > 5,
        "scalar": np.float32(7),
        "empty": np.zeros((0, 3), np.float32),
        "transposed": x.transpose(2, 1, 0),
        "sliced": x[1:, ::2, 1:],
        "part": x[1],
    }  # fmt: skip
    read = read_tensors(torch_wrote / "kinds.pt")
    assert sorted(read) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
    assert not caplog.text


def test_a_lightning_checkpoint_that_torch_wrote_is_read(torch_wrote, caplog):
    weight = np.arange(15.0, dtype=np.float32).reshape(5, 3)
    three = np.arange(3.0, dtype=np.float32)
    read = read_tensors(torch_wrote / "lightning.ckpt")
    for name in ("embed.weight", "head.weight"):  # tied
        np.testing.assert_array_equal(read.pop(name), weight)
    for i, name in enumerate(("weight", "bias", "running_var")):
        np.testing.assert_array_equal(read.pop(f"norm.{name}"), 1 + i + three)
    assert read.pop("norm.running_mean").shape == (3,)
    assert read.pop("norm.num_batches_tracked") == 1
    assert not read
    assert not caplog.text


def test_a_view_that_repeats_its_storage_is_refused_with_what_to_do(torch_wrote):
    # Three bytes could ask for more memory than there is.
    with pytest.raises(NeuroFMError, match=r"save its \.contiguous"):
        read_tensors(torch_wrote / "expanded.pt")


def test_the_form_of_torch_before_1_6_is_refused_with_what_to_do(torch_wrote):
    with pytest.raises(NeuroFMError, match="which is not read because") as error:
        read_tensors(torch_wrote / "old.pt")
    assert "\n" not in str(error.value)
