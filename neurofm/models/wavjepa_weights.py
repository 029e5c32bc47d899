"""Official WavJEPA state_dict names and how each becomes one of our parameters.

Axes as in `wavjepa`. Torch's Linear weight is (out, in), its Conv1d weight
(out, in, k), its fused qkv weight (3D, D) with rows q, k, v.
"""

import re
from typing import Any

import numpy as np

from neurofm.errors import NeuroFMError
from neurofm.nn.positions import sincos_channels
from neurofm.task import Tree
from neurofm.weights.mapping import Official, Taker, stacked

HEADS_BY_WIDTH = {768: 12, 1024: 16, 384: 12}  # the released sizes
TRAINING_ONLY = (
    "decoder",
    "teacher_encoder",
    "mask_token",
    "encoder_to_decoder_mapper",
)


def infer_fields(
    tensors: dict[str, np.ndarray], config: dict[str, Any]
) -> dict[str, Any]:
    """Task fields read off tensor shapes; what shapes cannot tell, from `config`.

    `config` takes the keys of a fixture's configuration. Without it the released
    strides, rates and head counts are assumed.
    """
    stem = re.compile(r"extract_audio\.(?:cnn|cnns\.0)\.(\d+)\.0\.weight")
    shapes = {
        int(m[1]): w.shape for name, w in tensors.items() if (m := stem.fullmatch(name))
    }
    if not shapes or "encoder.norm.weight" not in tensors:
        raise NeuroFMError(
            "these tensors are not a WavJEPA checkpoint: `extract_audio.cnn.*` and "
            "`encoder.*` were expected; `neurofm check` shows what a file holds"
        )
    strides = {10: 5, 3: 2, 2: 2}
    layers = config.get("conv_layers") or [
        (shape[0], shape[2], strides.get(shape[2], 2))
        for _, shape in sorted(shapes.items())
    ]
    width = tensors["encoder.norm.weight"].shape[0]
    fields: dict[str, Any] = {
        "conv_layers": tuple(tuple(layer) for layer in layers),
        "width": width,
        "depth": _depth(tensors, "encoder"),
        "heads": _heads(width, config.get("encoder_heads"), "encoder_heads"),
        "n_chans": 2 if "extract_audio.cnns.1.0.0.weight" in tensors else 1,
        "sfreq": float(config.get("sample_rate", 16_000)),
        "window_samples": int(
            config.get("crop_samples", config.get("unit_samples", 32_159))
        ),
        "channel_mask": "interleaved_legacy",
    }
    if "decoder.norm.weight" in tensors:
        narrow = tensors["decoder.norm.weight"].shape[0]
        fields |= {
            "predictor_width": narrow,
            "predictor_depth": _depth(tensors, "decoder"),
            "predictor_heads": _heads(
                narrow, config.get("predictor_heads"), "predictor_heads"
            ),
        }
    top_k = config.get("average_top_k_layers", 8)
    fields["top_k"] = min(int(top_k), fields["depth"])
    if fields["n_chans"] == 1:
        fields["channel_mask"] = "shared"
    return fields


def _depth(tensors: dict[str, np.ndarray], stack: str) -> int:
    pattern = re.compile(rf"{stack}\.layers\.(\d+)\.")
    return 1 + max(int(m[1]) for name in tensors if (m := pattern.match(name)))


def _heads(width: int, given: int | None, key: str) -> int:
    heads = given or HEADS_BY_WIDTH.get(width)
    if heads is None:
        raise NeuroFMError(
            f"the number of heads at width {width} is not written in the tensors: give "
            f"a --config file with the key {key!r}"
        )
    return int(heads)


def convert(task: Any, tensors: dict[str, np.ndarray]) -> Official:
    """Map every tensor to its place; an encoder alone has no training parts."""
    out = Official(task, {})
    take = _Taker(tensors, out)
    params: Tree = {}
    for c in range(task.n_chans):
        prefix = f"extract_audio.cnns.{c}" if task.n_chans == 2 else "extract_audio.cnn"
        stem: Tree = {
            f"conv_{i}": take(f"{prefix}.{i}.0.weight", lambda w: w.transpose(2, 1, 0))
            for i in range(len(task.conv_layers))
        }
        params[f"stem_{c}"] = {**stem, "norm": take.norm(f"{prefix}.0.2")}
    params["feature_norm"] = take.norm("feature_norms")
    if task.conv_layers[-1][0] != task.width:
        params["project"] = take.linear("post_extraction_mapper")
    params["encoder"] = take.stack("encoder", task.depth, task.heads)
    slow: Tree = {}
    if any(name.split(".")[0] in TRAINING_ONLY for name in tensors):
        params["predictor"] = take.stack(
            "decoder", task.predictor_depth, task.predictor_heads
        )
        params["to_predictor"] = take.linear("encoder_to_decoder_mapper")
        params["from_predictor"] = take.linear("decoder_to_encoder_mapper")
        params["mask_token"] = take("mask_token", np.ravel)
        if any(name.startswith("teacher_encoder.") for name in tensors):
            slow["teacher"] = take.stack("teacher_encoder", task.depth, task.heads)
    for name, width in (
        ("pos_encoding_encoder", task.width),
        ("pos_encoding_decoder", task.predictor_width),
    ):
        if name in tensors:
            _check_table(
                name, tensors[name], sincos_channels(task.tokens, width, task.n_chans)
            )
            out.ignored[name] = "fixed table, recomputed and equal"
    out.variables.update({"params": params, "slow": slow, "buffers": {}})
    return out


def _check_table(name: str, stored: np.ndarray, ours: np.ndarray) -> None:
    if stored.shape[-2:] != ours.shape or np.abs(stored - ours).max() > 1e-5:
        raise NeuroFMError(
            f"{name} of shape {stored.shape} is not the sine-cosine table of shape "
            f"{ours.shape} this model uses: check window and width in --config"
        )


class _Taker(Taker):
    """With the transformers of WavJEPA."""

    def stack(self, name: str, depth: int, heads: int) -> Tree:
        """A transformer: blocks stacked along a leading axis, and the final norm."""
        blocks = [self.block(f"{name}.layers.{i}", heads) for i in range(depth)]
        return {"blocks": stacked(blocks), "norm": self.norm(f"{name}.norm")}

    def block(self, name: str, heads: int) -> Tree:
        def kernel(part: int):
            return lambda w: _part(w, part).T.reshape(w.shape[1], heads, -1)

        def bias(part: int):
            return lambda b: _part(b, part).reshape(heads, -1)

        attn: Tree = {
            ours: {
                "kernel": self(f"{name}.self_attn.in_proj_weight", kernel(part)),
                "bias": self(f"{name}.self_attn.in_proj_bias", bias(part)),
            }
            for part, ours in enumerate(("query", "key", "value"))
        }
        attn["out"] = {
            "kernel": self(
                f"{name}.self_attn.out_proj.weight",
                lambda w: w.T.reshape(heads, -1, w.shape[0]),
            ),
            "bias": self(f"{name}.self_attn.out_proj.bias"),
        }
        return {
            "attn": attn,
            "norm_attn": self.norm(f"{name}.norm1"),
            "mlp_in": self.linear(f"{name}.linear1"),
            "mlp_out": self.linear(f"{name}.linear2"),
            "norm_mlp": self.norm(f"{name}.norm2"),
        }


def _part(fused: np.ndarray, part: int) -> np.ndarray:
    return np.split(fused, 3, axis=0)[part]
