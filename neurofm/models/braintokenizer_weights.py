"""Official BrainTokenizer state_dict names and how each becomes one of our parameters.

Torch's Linear weight is (out, in), its Conv1d weight (out, in, k), its ConvTranspose1d
weight (in, out, k). A weight-normalised pair is called `weight_g`, `weight_v`, or by
newer tools `parametrizations.weight.original0`, `original1`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurofm.errors import NeuroFMError
from neurofm.task import Tree
from neurofm.weights.mapping import Official, Taker, stacked

HEADS_BY_WIDTH = {256: 4}  # the released size
_PAIR = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
LSTM = {
    "weight_ih": "input",
    "weight_hh": "state",
    "bias_ih": "bias_input",
    "bias_hh": "bias_state",
}
ENCODER, DECODER = "encoder.seanet_encoder.model", "decoder.seanet_decoder.model"
CODEBOOK = {"embed": "embed", "cluster_size": "count", "embed_avg": "total"}


def plain_names(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Name with `weight_g`, `weight_v` -> the name as it is in the checkpoint."""
    plain = {}
    for name in tensors:
        short = name
        for long, old in _PAIR.items():
            short = short.replace(long, old)
        plain[short] = name
    return plain


def infer_fields(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Task fields read off tensor shapes; what shapes cannot tell, from `config`.

    `config` has the constructor's arguments, as in the released `model_cfg.json`.
    Without it the released window, rotation and head count are assumed.
    """
    shapes = {n: tensors[full].shape for n, full in plain_names(tensors).items()}
    first, types = (
        f"{ENCODER}.0.conv.conv.weight_v",
        "sensor_embed.sensor_embedding_layer.weight",
    )
    if first not in shapes or types not in shapes:
        raise NeuroFMError(
            "these tensors are not a BrainTokenizer checkpoint: "
            f"`{first}` and `{types}` were expected; `neurofm check` shows what a file "
            "holds"
        )
    if config.get("dropout"):
        raise NeuroFMError(
            f"the configuration has dropout {config['dropout']}, the published models "
            "have 0 and no other is known here: set it to 0"
        )
    up = re.compile(rf"{re.escape(DECODER)}\.(\d+)\.convtr\.convtr\.weight_v")
    found = [(up.fullmatch(name), shape) for name, shape in shapes.items()]
    ratios = [
        shape[2] // 2
        for _, shape in sorted((int(m[1]), shape) for m, shape in found if m)
    ]
    width = shapes[types][1]
    heads = config.get("n_head") or HEADS_BY_WIDTH.get(width)
    if heads is None:
        raise NeuroFMError(
            f"the number of heads at width {width} is not written in the tensors: give "
            "a --config file with the key 'n_head'"
        )
    last = f"{ENCODER}.{3 * len(ratios) + 3}.conv.conv.weight_v"
    levels = {
        int(m[1])
        for n in shapes
        if (m := re.match(r"quantizer\.rvq\.layers\.(\d+)\.", n))
    }
    simvq = "quantizer.rvq.layers.0.frozen_codebook" in shapes
    book = "frozen_codebook" if simvq else "_codebook.embed"
    n_codes, code_width = shapes.get(f"quantizer.rvq.layers.0.{book}", (0, 0))
    return {
        "window_samples": int(config.get("window_length", 512)),
        "n_filters": shapes[first][0],
        "ratios": tuple(ratios),
        "kernel_size": shapes[first][2],
        "last_kernel_size": shapes.get(last, (0, 0, 5))[2],
        "width": width,
        "n_sources": shapes.get("encoder.neuros", (0, 0))[0],
        "heads": int(heads),
        "n_quantizers": len(levels),
        "n_codes": n_codes,
        "code_width": code_width,
        "quantizer": "simvq" if simvq else "ema",
        "rotation": bool(config.get("rotation_trick", True)),
    }


def convert(task: Any, tensors: Mapping[str, np.ndarray]) -> Official:
    """Map every tensor to its place. Tensors may be weights, or gradients of them."""
    out = Official(task, {})
    names = plain_names(tensors)
    take = TokenizerTaker({n: tensors[full] for n, full in names.items()}, out)
    heads = task.heads
    params: Tree = {
        "sensors": take.sensors(),
        "encoder": take.seanet(ENCODER, len(task.ratios), up=False),
        "to_sources": {
            "sources": take("encoder.neuros"),
            "key": take.by_heads("encoder.k_proj", heads),
            "value": take.by_heads("encoder.backwardsolution.v", heads),
            "out": take.from_heads("encoder.backwardsolution.proj", heads),
        },
        "from_sources": {
            "key": take.by_heads("decoder.forwardsolution.kv", heads, part=0),
            "value": take.by_heads("decoder.forwardsolution.kv", heads, part=1),
            "out": take.from_heads("decoder.forwardsolution.proj", heads),
        },
        "decoder": take.seanet(DECODER, len(task.ratios), up=True),
    }
    levels = [f"quantizer.rvq.layers.{q}" for q in range(task.n_quantizers)]
    if task.quantizer == "simvq":
        maps = {"linear": "code_transform_linear"}
        maps["residual"] = "code_transform_residual.1"
        books = [{"frozen_codebook": take(f"{x}.frozen_codebook")} for x in levels]
    else:
        projects = task.code_width != task.width
        maps = {n: n for n in ("project_in", "project_out")} if projects else {}
        books = [
            {ours: take(f"{x}._codebook.{n}") for n, ours in CODEBOOK.items()}
            for x in levels
        ]
        for x in levels:
            take.inited(f"{x}._codebook.inited")
    if maps:
        trees = [
            {ours: take.linear(f"{x}.{n}") for ours, n in maps.items()} for x in levels
        ]
        params["quantizer"] = stacked(trees)
    buffers = {"codebooks": stacked(books)}
    out.variables.update({"params": params, "slow": {}, "buffers": buffers})
    used = {names[name] for name in out.used}
    return Official(
        task,
        out.variables,
        used,
        {names[name]: why for name, why in out.ignored.items()},
        out.missing,
    )


class TokenizerTaker(Taker):
    """With the parts of BrainTokenizer."""

    def inited(self, name: str) -> None:
        """The flag of a codebook that has had its first batch; we keep none."""
        if name not in self.tensors:
            self.out.missing.add(name)
        elif not np.all(self.tensors[name]):
            raise NeuroFMError(
                f"{name} is 0: the codebooks of this checkpoint were never filled; "
                "take a checkpoint from after its first training step"
            )
        else:
            self.out.ignored[name] = "a flag: the codebook is filled"

    def sensors(self) -> Tree:
        at = "sensor_embed"
        return {
            "pos_in": self.linear(f"{at}.pos_embedding_layer.0"),
            "pos_out": self.linear(f"{at}.pos_embedding_layer.2"),
            "type_embedding": self(f"{at}.sensor_embedding_layer.weight"),
            "mlp_in": self.linear(f"{at}.aggregate_mlp.layer.0"),
            "mlp_out": self.linear(f"{at}.aggregate_mlp.layer.2"),
            "norm": {"scale": self(f"{at}.norm.weight")},
        }

    def by_heads(self, name: str, heads: int, part: int | None = None) -> Tree:
        """A Linear whose outputs are heads; `part` of two that are fused."""

        def own(w):
            return w if part is None else np.split(w, 2, axis=0)[part]

        return {
            "kernel": self(
                f"{name}.weight", lambda w: own(w).T.reshape(w.shape[1], heads, -1)
            ),
            "bias": self(f"{name}.bias", lambda b: own(b).reshape(heads, -1)),
        }

    def from_heads(self, name: str, heads: int) -> Tree:
        return {
            "kernel": self(
                f"{name}.weight", lambda w: w.T.reshape(heads, -1, w.shape[0])
            ),
            "bias": self(f"{name}.bias"),
        }

    def conv(self, name: str, up: bool = False) -> Tree:
        name = f"{name}.convtr.convtr" if up else f"{name}.conv.conv"
        order = (2, 0, 1) if up else (2, 1, 0)
        return {
            "kernel": self(f"{name}.weight_v", lambda w: w.transpose(order)),
            "gain": self(f"{name}.weight_g", np.ravel),
            "bias": self(f"{name}.bias"),
        }

    def residual(self, name: str) -> Tree:
        return {
            "narrow": self.conv(f"{name}.block.1"),
            "wide": self.conv(f"{name}.block.3"),
            "shortcut": self.conv(f"{name}.shortcut"),
        }

    def lstm(self, name: str) -> Tree:
        return {
            f"{ours}_{i}": self(f"{name}.lstm.{theirs}_l{i}", np.transpose)
            for i in range(2)
            for theirs, ours in LSTM.items()
        }

    def seanet(self, name: str, stages: int, up: bool) -> Tree:
        """Encoder: residual, ELU, strided; then the LSTM. Decoder: the mirror image."""
        tree: Tree = {"first": self.conv(f"{name}.0")}
        for i in range(stages):
            # Positions in the released list, of which every third is an ELU.
            changes, residual = (3 * i + 3, 3 * i + 4) if up else (3 * i + 3, 3 * i + 1)
            kind = "up" if up else "down"
            tree[f"{kind}_{i}"] = self.conv(f"{name}.{changes}", up)
            tree[f"residual_{i}"] = self.residual(f"{name}.{residual}")
        tree["lstm"] = self.lstm(f"{name}.1" if up else f"{name}.{3 * stages + 1}")
        tree["last"] = self.conv(f"{name}.{3 * stages + 3}")
        return tree
