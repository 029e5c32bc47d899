"""Official BrainOmni state_dict names and how each becomes one of our parameters.

A checkpoint holds its tokenizer under the prefix `tokenizer.`. Torch's Linear weight is
(out, in); the fused qkv weight has rows q, k, v, heads contiguous in each.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurofm.errors import NeuroFMError
from neurofm.weights.mapping import Official, Taker, stacked

PREFIX = "tokenizer."
HEADS_BY_WIDTH = {256: 8, 512: 16}  # the released sizes
ROTARY = re.compile(r"blocks\.\d+\.time_attn\.rope_embedding_layer\.(freqs|rotate)")


def tokenizer_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tokenizer's tensors by their own names."""
    return {
        n.removeprefix(PREFIX): x for n, x in tensors.items() if n.startswith(PREFIX)
    }


def infer_fields(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Task fields read off tensor shapes; what shapes cannot tell, from `config`.

    `config` has the constructor's arguments, as in the released `model_cfg.json`.
    """
    blocks = [re.match(r"blocks\.(\d+)\.", name) for name in tensors]
    depth = max((int(m[1]) for m in blocks if m), default=-1) + 1
    if not depth or "predict_head.weight" not in tensors:
        raise NeuroFMError(
            "these tensors are not a BrainOmni checkpoint: `blocks.*` and "
            "`predict_head.weight` were expected; a tokenizer alone is imported as "
            "braintokenizer"
        )
    rows, width = tensors["predict_head.weight"].shape
    heads = config.get("lm_head") or HEADS_BY_WIDTH.get(width)
    if heads is None:
        raise NeuroFMError(
            f"the number of heads at width {width} is not written in the tensors: give "
            "a --config file with the key 'lm_head'"
        )
    own = tokenizer_tensors(tensors)
    books = ("_codebook.embed", "frozen_codebook")
    names = [f"quantizer.rvq.layers.0.{book}" for book in books]
    n_codes = next((own[n].shape[0] for n in names if n in own), rows)
    return {
        "width": width,
        "depth": depth,
        "heads": int(heads),
        "overlap": float(config.get("overlap_ratio", 0.25)),
        "dropout": float(config.get("lm_dropout", 0.1)),
        "mask_ratio": float(config.get("mask_ratio", 0.5)),
        "n_quantizers_used": rows // n_codes,
    }


def convert(
    task: Any, tensors: Mapping[str, np.ndarray], tokenizer: Official
) -> Official:
    """Map every tensor to its place, the tokenizer's as `tokenizer` says."""
    out = Official(
        task,
        {},
        {PREFIX + name for name in tokenizer.used},
        {PREFIX + name: why for name, why in tokenizer.ignored.items()},
        {PREFIX + name for name in tokenizer.missing},
    )
    take = Taker(tensors, out)

    def attention(name: str) -> dict[str, Any]:
        heads = task.heads // 2
        return {
            "qkv": {
                "kernel": take(
                    f"{name}.qkv.weight",
                    lambda w: w.T.reshape(w.shape[1], 3, heads, -1),
                ),
                "bias": take(f"{name}.qkv.bias", lambda b: b.reshape(3, heads, -1)),
            },
            "out": {
                "kernel": take(
                    f"{name}.proj.weight", lambda w: w.T.reshape(heads, -1, w.shape[0])
                ),
                "bias": take(f"{name}.proj.bias"),
            },
        }

    blocks = [
        {
            "norm_attn": {"scale": take(f"blocks.{i}.pre_attn_norm.weight")},
            "time": attention(f"blocks.{i}.time_attn"),
            "space": attention(f"blocks.{i}.spatial_attn"),
            "norm_mlp": {"scale": take(f"blocks.{i}.pre_ff_norm.weight")},
            "mlp_in": take.linear(f"blocks.{i}.ff.layer.0"),
            "mlp_out": take.linear(f"blocks.{i}.ff.layer.2"),
        }
        for i in range(task.depth)
    ]
    params = {
        "mask_token": take("mask_token", np.ravel),
        "blocks": stacked(blocks),
        "head": take.linear("predict_head"),
    }
    if task.tokenizer.width != task.width:
        params["project"] = take.linear("projection")
    for name in tensors:
        if ROTARY.fullmatch(name):
            out.ignored[name] = (
                "a rotary table, recomputed from its formula: published files lost its "
                "imaginary part"
            )
    frozen = {"tokenizer": tokenizer.variables}
    variables = {"params": params, "slow": {}, "buffers": {}, "frozen": frozen}
    out.variables.update(variables)
    return out
