"""Official Du-IN state_dict names and how each becomes one of our parameters.

Torch's Linear weight is (out, in), its Conv1d weight (out, in, k), its ConvTranspose1d
weight (in, out, k). A subject's column of `W.weight` is its map, channel by channel.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurofm.errors import NeuroFMError
from neurofm.task import Tree
from neurofm.weights.mapping import Official, Taker, stacked

SFREQ = 1000.0  # of all released models
PATCH, STRIDES, UP_STRIDES = 100, (10, 1, 1), (1, 1, 10, 1, 10)
CONV, UP = (
    r"tokenizer\.conv_blocks\.(\d+)\.0\.1\.weight",
    r"rgs_block\.rgs_head\.(\d+)\.0\.1\.weight",
)
FC = r"encoder\.1\.xfmr_blocks\.(\d+)\.ffn\.fc1\.0\.weight"
BLOCK = "encoder.1.xfmr_blocks.{}"
IGNORED = (
    (r"emb_time\.time_encodings", "a table, recomputed from its formula"),
    (r".*\.mha\.attention\.scale", "a constant, one over the root of the head's width"),
    (r".*\.num_batches_tracked", "a count that nothing reads"),
    (r"vq_block\.codex\.initted", "a flag: the codebook is filled"),
)
UNUSED_IN_WORDS = (
    (r"contra_block\..*", "built and never trained: its loss has no weight"),
    (r"vq_block\..*", "built and never trained: its loss has no weight"),
    (r"cls_block\..*", "the read-out of one subject's words; train a head of your own"),
)


def _found(pattern: str, tensors: Mapping[str, np.ndarray]) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a pattern with one number finds, by that number."""
    matches = [(re.fullmatch(pattern, name), x.shape) for name, x in tensors.items()]
    return [shape for _, shape in sorted((int(m[1]), s) for m, s in matches if m)]


def trunk_fields(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Sizes of the trunk from tensor shapes; what these cannot tell, from `config`.

    `config` has the released parameters by part (`tokenizer.n_strides`, ...). Without
    it patches of 100 samples and the released strides are taken. Its key `subjects`
    names the columns of subjects, which are numbers alone in the weights, as recordings
    name them.
    """
    first, head = (
        "subj_block.subj_layer.W.weight",
        f"{BLOCK.format(0)}.mha.norm_q.weight",
    )
    if first not in tensors or head not in tensors:
        raise NeuroFMError(
            f"these tensors are not a Du-IN checkpoint: `{first}` and `{head}` were "
            "expected; `neurofm check` shows what a file holds"
        )
    own = config.get("tokenizer", {})
    _refuse_unknown(config)
    convs = _found(CONV, tensors)
    strides = tuple(own.get("n_strides", STRIDES))
    if len(strides) != len(convs):
        raise NeuroFMError(
            f"these tensors have {len(convs)} convolutions and not the released three: "
            "give a --config file with the key 'tokenizer.n_strides'"
        )
    rows, subjects = tensors[first].shape
    n_neural = convs[0][1]
    patch = int(own.get("seg_len", PATCH))
    tokens, _ = tensors["emb_time.time_encodings"].shape
    inner, _ = tensors[f"{BLOCK.format(0)}.mha.W_q.W.weight"].shape
    width = tensors[head].shape[0]
    blocks = _found(FC, tensors)
    dropout = config.get("encoder", {}).get("attn_dropout", 0.2)
    numbered = ("subject",) if subjects == 1 else [f"{i}" for i in range(subjects)]
    names = tuple(str(name) for name in config.get("subjects", numbered))
    if len(set(names)) != subjects:
        raise NeuroFMError(
            f"the --config names the subjects {', '.join(names)}, and these tensors "
            f"are of {subjects}: give the key 'subjects' a name for each"
        )
    return {
        "sfreq": SFREQ,
        "n_chans": rows // n_neural,
        "subjects": names,
        "segment_samples": tokens * patch,
        "patch_samples": patch,
        "n_neural": n_neural,
        "convs": tuple(
            (out, k, s) for (out, _, k), s in zip(convs, strides, strict=True)
        ),
        "depth": len(blocks),
        "heads": inner // width,
        "head_width": width,
        "mlp_width": blocks[0][0],
        "dropout": float(dropout),
        "normalise": "none",
    }


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    """Parts that no released model uses are not built here."""
    plain = {
        "tokenizer": {"use_bn": True, "use_res": False, "dilation_rates": 1}
        | {"pool_sizes": 1},
        "encoder": {"res_attn": False, "rot_theta": None, "norm_first": False}
        | {"proj_dropout": 0.0},
        "rgs": {"dilation_rates": 1},
    }
    for part, wanted in plain.items():
        for key, value in wanted.items():
            given = config.get(part, {}).get(key, value)
            every = given if isinstance(given, list) else [given]
            if any(x != value for x in every):
                raise NeuroFMError(
                    f"the configuration has {part}.{key} {given}, which no published "
                    f"model has and is not known here: {value} is expected"
                )


def code_fields(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Sizes of the codes that a masked model tells, where it is one."""
    head = tensors.get("cls_block.cls_head.0.0.weight")
    return {} if head is None else {"n_codes": head.shape[0]}


def vqvae_fields(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Sizes of codebook and decoder."""
    if "vq_block.codex.embeddings" not in tensors:
        raise NeuroFMError(
            "these tensors have no codebook `vq_block.codex.embeddings`: a masked or "
            "word model is imported as duin"
        )
    ups, own = _found(UP, tensors), config.get("rgs", {})
    strides = tuple(own.get("n_strides", UP_STRIDES))
    if len(strides) != len(ups):
        raise NeuroFMError(
            f"these tensors have {len(ups)} transposed convolutions and not the "
            "released five: give a --config file with the key 'rgs.n_strides'"
        )
    n_codes, code_width = tensors["vq_block.codex.embeddings"].shape
    blocks = {
        m[1] for n in tensors if (m := re.match(r"decoder\.1\.xfmr_blocks\.(\d+)", n))
    }
    vq = config.get("vq", {})
    return {
        "n_codes": n_codes,
        "code_width": code_width,
        "codebook_decay": float(vq.get("decay", 0.99)),
        "commitment": float(vq.get("beta", 1.0)),
        "decoder_depth": len(blocks),
        "ups": tuple((out, k, s) for (_, out, k), s in zip(ups, strides, strict=True)),
    }


# ---- tensors -------------------------------------------------------------------------


def convert_vqvae(task: Any, tensors: Mapping[str, np.ndarray]) -> Official:
    """Every tensor of a first stage. Tensors may be weights, or gradients of them."""
    out = Official(task, {})
    take = _Taker(tensors, out)
    params, running = take.trunk(task.trunk)
    up = "rgs_block.rgs_head.{}.0.1"
    last = f"rgs_block.rgs_head.{len(task.ups)}.0"
    params |= {
        "codes": {
            "pre_in": take.linear("vq_block.pre_proj.0"),
            "pre_out": take.linear("vq_block.pre_proj.2"),
            "norm": take.norm("vq_block.layernorm"),
            "post": take.linear("vq_block.post_proj.0"),
        },
        "decoder": {
            "blocks": take.blocks(
                "decoder.1.xfmr_blocks", task.decoder_depth, task.trunk
            ),
            **{
                f"upconv_{i}": take.conv(up.format(i), (2, 0, 1))
                for i in range(len(task.ups))
            },
        },
        "regress": take.linear(last),
        "channels": take.map("desubj_block.subj_layer"),
    }
    book = {
        "embed": take("vq_block.codex.embeddings"),
        "count": take("vq_block.counts"),
    }
    flag = tensors.get("vq_block.codex.initted")
    if flag is not None and not np.all(flag):
        raise NeuroFMError(
            "vq_block.codex.initted is 0: the codebook of this checkpoint was never "
            "filled; take a checkpoint from after its first training step"
        )
    take.leave_out(IGNORED)
    buffers = {**running, "codebook": book}
    out.variables.update({"params": params, "slow": {}, "buffers": buffers})
    return out


def convert(task: Any, tensors: Mapping[str, np.ndarray]) -> Official:
    """Every tensor of a masked model, or of a word model without its read-out."""
    out = Official(task, {})
    take = _Taker(tensors, out)
    params, running = take.trunk(task.trunk)
    if "mask_emb" in tensors:
        params |= {
            "mask": {"mask_token": take("mask_emb")},
            "head": take.linear("cls_block.cls_head.0.0"),
        }
        take.leave_out(IGNORED)
    else:
        take.leave_out((*IGNORED, *UNUSED_IN_WORDS))
    out.variables.update({"params": params, "slow": {}, "buffers": running})
    return out


class _Taker(Taker):
    """With the parts of Du-IN."""

    def leave_out(self, reasons: tuple[tuple[str, str], ...]) -> None:
        for name in self.tensors:
            why = next((why for p, why in reasons if re.fullmatch(p, name)), None)
            if why and name not in self.out.used:
                self.out.ignored[name] = why

    def map(self, name: str) -> Tree:
        """A map for every subject: (channels x outputs, subjects)."""

        def bias(b: np.ndarray) -> np.ndarray:
            return b.T

        outputs = self.tensors.get(f"{name}.B.weight", np.zeros((1, 1))).shape[0]

        def kernel(w: np.ndarray) -> np.ndarray:
            return w.T.reshape(w.shape[1], -1, outputs)

        return {
            "kernel": self(f"{name}.W.weight", kernel),
            "bias": self(f"{name}.B.weight", bias),
        }

    def conv(self, name: str, order: tuple[int, int, int]) -> Tree:
        return {
            "kernel": self(f"{name}.weight", lambda w: w.transpose(order)),
            "bias": self(f"{name}.bias"),
        }

    def trunk(self, trunk: Any) -> tuple[Tree, Tree]:
        tokenizer, running = {}, {}
        for i in range(len(trunk.convs)):
            at = f"tokenizer.conv_blocks.{i}"
            tokenizer[f"conv_{i}"] = self.conv(f"{at}.0.1", (2, 1, 0))
            tokenizer[f"norm_{i}"] = self.norm(f"{at}.1.1")
            running[f"norm_{i}"] = {
                "mean": self(f"{at}.1.1.running_mean"),
                "var": self(f"{at}.1.1.running_var"),
            }
        params = {
            "subjects": self.map("subj_block.subj_layer"),
            "tokenizer": tokenizer,
            "blocks": self.blocks("encoder.1.xfmr_blocks", trunk.depth, trunk),
        }
        return params, {"tokenizer": running}

    def blocks(self, name: str, depth: int, trunk: Any) -> Tree:
        return stacked([self.block(f"{name}.{i}", trunk.heads) for i in range(depth)])

    def block(self, name: str, heads: int) -> Tree:
        def into(part: str) -> Tree:
            at = f"{name}.mha.W_{part}.W"
            return {
                "kernel": self(
                    f"{at}.weight", lambda w: w.T.reshape(w.shape[1], heads, -1)
                ),
                "bias": self(f"{at}.bias", lambda b: b.reshape(heads, -1)),
            }

        return {
            "attn": {
                "query": into("q"),
                "key": into("k"),
                "value": into("v"),
                "norm_query": self.norm(f"{name}.mha.norm_q"),
                "norm_key": self.norm(f"{name}.mha.norm_k"),
                "out": {
                    "kernel": self(
                        f"{name}.mha.proj.0.weight",
                        lambda w: w.T.reshape(heads, -1, w.shape[0]),
                    ),
                    "bias": self(f"{name}.mha.proj.0.bias"),
                },
            },
            "norm_attn": self.norm(f"{name}.norm_mha"),
            "mlp_in": self.linear(f"{name}.ffn.fc1.0"),
            "mlp_out": self.linear(f"{name}.ffn.fc2.0"),
            "norm_mlp": self.norm(f"{name}.norm_ffn"),
        }
