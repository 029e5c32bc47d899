"""Official BrainBERT state_dict names and how each becomes one of our parameters.

Torch's Linear weight is (out, in); `in_proj_weight` has rows q, k, v, heads contiguous
in each. A fine-tuned model has the encoder under the prefix `upstream.`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurofm.errors import NeuroFMError
from neurofm.task import Tree
from neurofm.weights.mapping import Official, Taker, stacked

HEADS = 12  # of all released models
UPSTREAM = "upstream."
IGNORED = {
    "input_encoding.positional_encoding.pe": "a table, recomputed from its formula",
    "linear_out.weight": "the read-out of one fine-tuning; train a head of your own",
    "linear_out.bias": "the read-out of one fine-tuning; train a head of your own",
}


def infer_fields(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Task fields read off tensor shapes; the number of heads from `config`.

    `config` has the keys of the released `model_cfg`; without `nhead` 12 are taken, as
    in all released models.
    """
    plain = {name.removeprefix(UPSTREAM): x.shape for name, x in tensors.items()}
    first, hidden = (
        "input_encoding.in_proj.weight",
        "transformer.layers.0.linear1.weight",
    )
    if first not in plain or hidden not in plain:
        raise NeuroFMError(
            f"these tensors are not a BrainBERT checkpoint: `{first}` and `{hidden}` "
            "were expected; `neurofm check` shows what a file holds"
        )
    layers = [re.match(r"transformer\.layers\.(\d+)\.", name) for name in plain]
    width, n_freqs = plain[first]
    return {
        "width": width,
        "n_freqs": n_freqs,
        "mlp_width": plain[hidden][0],
        "depth": max(int(m[1]) for m in layers if m) + 1,
        "heads": int(config.get("nhead", HEADS)),
    }


def convert(task: Any, tensors: Mapping[str, np.ndarray]) -> Official:
    """Map every tensor to its place. Tensors may be weights, or gradients of them."""
    names = {name.removeprefix(UPSTREAM): name for name in tensors}
    plain = Official(task, {})
    take = Taker({short: tensors[full] for short, full in names.items()}, plain)
    params = {
        "project": take.linear("input_encoding.in_proj"),
        "norm": take.norm("input_encoding.layer_norm"),
        "blocks": stacked([_block(take, i, task.heads) for i in range(task.depth)]),
        "head": {
            "hidden": take.linear("spec_prediction_head.hidden_layer"),
            "norm": take.norm("spec_prediction_head.layer_norm"),
            "out": take.linear("spec_prediction_head.output"),
        },
    }
    return Official(
        task,
        {"params": params, "slow": {}, "buffers": {}},
        {names[short] for short in plain.used},
        {names[short]: why for short, why in IGNORED.items() if short in names},
        plain.missing,
    )


def _block(take: Taker, i: int, heads: int) -> Tree:
    at = f"transformer.layers.{i}"

    def part(k: int) -> Tree:
        def kernel(w: np.ndarray) -> np.ndarray:
            return np.split(w, 3)[k].T.reshape(w.shape[1], heads, -1)

        def bias(b: np.ndarray) -> np.ndarray:
            return np.split(b, 3)[k].reshape(heads, -1)

        return {
            "kernel": take(f"{at}.self_attn.in_proj_weight", kernel),
            "bias": take(f"{at}.self_attn.in_proj_bias", bias),
        }

    out = f"{at}.self_attn.out_proj"
    return {
        "attn": {
            **{name: part(k) for k, name in enumerate(("query", "key", "value"))},
            "out": {
                "kernel": take(
                    f"{out}.weight", lambda w: w.T.reshape(heads, -1, w.shape[0])
                ),
                "bias": take(f"{out}.bias"),
            },
        },
        "norm_attn": take.norm(f"{at}.norm1"),
        "mlp_in": take.linear(f"{at}.linear1"),
        "mlp_out": take.linear(f"{at}.linear2"),
        "norm_mlp": take.norm(f"{at}.norm2"),
    }
