"""What torch itself writes, for the reader that does without it.

    python tests/torch_archives.py      (torch and omegaconf installed)

writes `tests/fixtures/torch` anew; tests read it without torch, and write and read it
again where torch is installed.
"""

import io
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "fixtures" / "torch"


def kinds() -> dict:
    """0 to 23 as (2, 3, 4), in many types of number and many layouts of one storage."""
    import torch

    x = torch.arange(24.0).reshape(2, 3, 4)
    types = {
        name: x.to(getattr(torch, name))
        for name in (
            *("float64", "float32", "float16", "bfloat16"),
            *("int64", "int32", "int16", "int8"),
            *("uint64", "uint32", "uint16", "uint8"),
        )
    }
    with_state, tagged = torch.nn.Parameter(x.clone()), x.clone()
    with_state.note = tagged.note = "mine"
    return {
        **types,
        "bool": x > 5,
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "transposed": x.transpose(0, 2),
        "sliced": x[1:, ::2, 1:],
        "tied": x,
        "part": x[1],
        "parameter": torch.nn.Parameter(x),
        "parameter_with_state": with_state,
        "tagged": tagged,
    }


def lightning() -> dict:
    """A checkpoint as Lightning lays it out, of a network with tied weights."""
    import torch
    from omegaconf import OmegaConf

    embed = torch.nn.Embedding(5, 3)
    norm = torch.nn.BatchNorm1d(3)
    head = torch.nn.Linear(3, 5, bias=False)
    head.weight = embed.weight
    net = torch.nn.ModuleDict({"embed": embed, "norm": norm, "head": head})
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)
    head(norm(embed(torch.arange(4)))).sum().backward()
    optimizer.step()  # so that there is a state
    for i, tensor in enumerate([embed.weight, *norm.parameters(), norm.running_var]):
        tensor.data = i + torch.arange(float(tensor.numel())).reshape(tensor.shape)
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": net.state_dict(),
        "loops": {},
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "settings": OmegaConf.create({"lr": 1e-3, "layers": [1, 2]}),
            "activation": torch.nn.GELU(),
            "function": torch.nn.functional.relu,
            "dtype": torch.float32,
            "device": torch.device("cpu"),
            "size": torch.Size([2]),
        },
    }


def write(folder: Path) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(kinds(), folder / "kinds.pt")
    torch.save({"x": torch.arange(3.0).expand(5, 3)}, folder / "expanded.pt")
    torch.save(lightning(), folder / "lightning.ckpt")
    old = {"x": torch.arange(24.0)}
    torch.save(old, folder / "old.pt", _use_new_zipfile_serialization=False)


class Stored:
    """A storage, which a pickle of torch names but does not hold."""

    def __init__(self, key, n):
        self.key, self.n = key, n


def torch_file(path, tensors, under="state_dict", **beside):
    """A checkpoint as torch writes it, made without it; tensors lie `under` a name."""
    utils, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")

    def _rebuild_tensor_v2():
        raise AssertionError

    kind = type("FloatStorage", (), {"__module__": "torch"})
    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils.__dict__["_rebuild_tensor_v2"] = _rebuild_tensor_v2
    torch.__dict__["FloatStorage"] = kind

    class Tensor:
        def __init__(self, key, x):
            self.key, self.x = key, x

        def __reduce__(self):
            strides = tuple(s // 4 for s in self.x.strides)
            stored = Stored(self.key, self.x.size)
            return _rebuild_tensor_v2, (stored, 0, self.x.shape, strides, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Stored):
                return ("storage", kind, obj.key, "cpu", obj.n)
            return None

    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    state = {n: Tensor(str(i), x) for i, (n, x) in enumerate(arrays.items())}
    raw = io.BytesIO()
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        Pickler(raw, protocol=2).dump({under: state, **beside})
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", raw.getvalue())
        for i, x in enumerate(arrays.values()):
            archive.writestr(f"a/data/{i}", x.tobytes())
    return path


if __name__ == "__main__":
    write(FOLDER)
