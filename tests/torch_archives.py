"""What torch itself writes, for the reader that does without it.

    python tests/torch_archives.py      (torch and omegaconf installed)

writes `tests/fixtures/torch` anew; tests read it without torch, and write and read it
again where torch is installed.
"""

from pathlib import Path

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


if __name__ == "__main__":
    write(FOLDER)
