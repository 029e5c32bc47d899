"""Official Brain-Semantoks state_dict names and how each becomes one of our parameters.

Torch's Linear weight is (out, in), its Conv1d weight (out, in, k), the fused qkv weight
(3D, D) with rows q, k, v, then heads. The released code builds a set of tokenizers for
every atlas and runs the first alone; it is told by the flags that say whether a norm
of kernels was ever taken.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurofm.data import networks
from neurofm.errors import NeuroFMError
from neurofm.nn.positions import sincos
from neurofm.task import Tree
from neurofm.weights.mapping import Official, Taker, stacked

MAP = "network_map_per_roi"  # region -> network, beside the tensors or in a --config
_CONTEXT = "inter_network_transformer"
_TOKENIZER = re.compile(r"(\w+)_encoder\.network_tokenizers\.(\w+)\.(\d+)\.(.+)")
DEAD_TOKENIZER = "a tokenizer of another atlas name, which never ran"
DEAD_NORM = "a second norm of the transformer, which is never applied"
SHARED_HEAD = "the same head again, as hidden tokens have none of their own"
TABLE = "a table recomputed from its formula, and equal"
FLAG = "says that the norms of kernels were taken, which a model here always has"


def infer_fields(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Task fields read off tensor shapes; what shapes cannot tell, from `config`.

    `config` has the keys of the fixtures' JSON (`heads`, `patch`, `mom`, ...) and
    `network_map_per_roi`. Without it: heads of 64, patches of 20 samples and, where the
    networks have the published sizes, the published order of regions.

    Raises:
      NeuroFMError: no Brain-Semantoks checkpoint, or one that leaves something open.
    """
    side = trained_side(tensors)
    embedding = tensors.get(
        f"{side}_encoder.{_CONTEXT}.network_learnable_pos_embedding.weight"
    )
    positions = tensors.get(f"{side}_encoder.{_CONTEXT}.temporal_pos_embedding")
    if embedding is None or positions is None:
        raise NeuroFMError(
            "these tensors are not a Brain-Semantoks checkpoint: "
            f"`teacher_encoder.{_CONTEXT}.*` was expected; `neurofm check` shows what "
            "a file holds"
        )
    n_networks, width = embedding.shape
    shared = tensors.get(f"{side}_encoder.shared_roi_projection.weight")
    patch = int(config.get("patch", 20)) if shared is None else shared.shape[1]
    blocks = re.compile(rf"{side}_encoder\.{_CONTEXT}\.transformer_blocks\.(\d+)\.")
    found: dict[str, Any] = {
        "width": width,
        "depth": 1 + max(int(m[1]) for n in tensors if (m := blocks.match(n))),
        "heads": int(config.get("heads", max(1, width // 64))),
        "patch_samples": patch,
        "window_samples": len(positions) * patch,
        "spatial": "networks" if shared is None else "max",
        "separate_mask_head": _separate(tensors, side),
        **_head(tensors, side),
        **_networks(tensors, config, n_networks, side, shared is not None),
    }
    found["tokenizer"] = [] if shared is not None else _branches(tensors, config, side)
    ours = {
        "mom": "ema_start",
        "w_mask": "mask_weight",
        "w_net": "network_weight",
        "coeff": "rate_coeff",
        "ls": "layer_scale",
    }
    found |= {name: float(config[k]) for k, name in ours.items() if k in config}
    return found


def trained_side(tensors: Mapping[str, np.ndarray]) -> str:
    """`student`; or `teacher` where a file holds that alone."""
    has_student = any(name.startswith("student_encoder.") for name in tensors)
    return "student" if has_student else "teacher"


def used_atlas(tensors: Mapping[str, np.ndarray], side: str) -> str:
    """The atlas name of the tokenizers that run: the first, or the one flagged so."""
    names, ran = [], []
    for name, value in tensors.items():
        if (m := _TOKENIZER.match(name)) and m[1] == side:
            names.append(m[2])
            if m[4].endswith("kernel_norm_initialized") and bool(value):
                ran.append(m[2])
    known = ran or names
    return known[0] if known else ""


def _networks(
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    n_networks: int,
    side: str,
    each_alone: bool,
) -> dict[str, Any]:
    """Which network every region is of."""
    given = tensors.get(MAP)
    given = config.get(MAP) if given is None else given
    if given is not None:
        of = tuple(int(i) for i in given)
    elif each_alone:
        of = tuple(range(n_networks))
    else:
        sizes = _sizes(tensors, side)
        if sizes == list(np.bincount(networks.PUBLISHED)):
            of = networks.PUBLISHED
        elif len(sizes) == 1:
            of = (0,) * sizes[0]
        else:
            raise NeuroFMError(
                f"the networks have {sizes} regions, and which these are is not "
                f"written in the tensors: give a --config file with the key {MAP!r}, "
                "the number of the network of every region"
            )
    published = of == networks.PUBLISHED
    names = networks.NAMES if published else ()
    source = "schaefer400-tian3-buckner7" if published else "names"
    return {"network_of": of, "network_names": names, "networks": source}


def _sizes(tensors: Mapping[str, np.ndarray], side: str) -> list[int]:
    """Regions of each network, which the first branch of its tokenizer tells."""
    atlas = re.escape(used_atlas(tensors, side))
    first = re.compile(
        rf"{side}_encoder\.network_tokenizers\.{atlas}\.(\d+)\.branches\.0\."
        r"(?:weight|slconv\.D)"
    )
    found = {
        int(m[1]): x.shape for n, x in tensors.items() if (m := first.fullmatch(n))
    }
    return [found[i][1] for i in sorted(found)]


def _branches(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], side: str
) -> list[dict[str, Any]]:
    """Branches of the tokenizer of the first network, which all share."""
    prefix = f"{side}_encoder.network_tokenizers.{used_atlas(tensors, side)}.0.branches"
    told = config.get("tok") or []
    out: list[dict[str, Any]] = []
    while True:
        j = len(out)
        own = told[j] if j < len(told) else {}
        dense = tensors.get(f"{prefix}.{j}.weight")
        projection = tensors.get(f"{prefix}.{j}.projection.weight")
        if dense is not None:
            dilation = int(own.get("dilation", 1))
            out.append(
                {
                    "kind": "dense",
                    "width": dense.shape[0],
                    "kernel": dense.shape[2],
                    "dilation": dilation,
                }
            )
        elif projection is not None:
            scales = [
                n for n in tensors if n.startswith(f"{prefix}.{j}.slconv.kernel_list.")
            ]
            decay = tensors[f"{prefix}.{j}.slconv.multiplier"].ravel()
            out.append(
                {
                    "kind": "sgconv",
                    "width": projection.shape[0],
                    "kernel": tensors[scales[0]].shape[2],
                    "scales": len(scales),
                    "decay": (float(decay[0]), float(decay[-1])),
                }
            )
        else:
            return out


def _separate(tensors: Mapping[str, np.ndarray], side: str) -> bool:
    """Whether the head of hidden tokens is another than that of CLS."""
    own = f"{side}_mask_predictor."
    return any(not _again(tensors, n) for n in tensors if n.startswith(own))


def _again(tensors: Mapping[str, np.ndarray], name: str) -> bool:
    """Whether a tensor of the head of hidden tokens is that of CLS."""
    other = tensors.get(name.replace("_mask_predictor.", "_predictor."))
    return other is not None and np.array_equal(tensors[name], other)


def _head(tensors: Mapping[str, np.ndarray], side: str) -> dict[str, int]:
    name = re.compile(rf"{side}_predictor\.mlp\.(\d+)\.weight")
    shapes = {int(m[1]): x.shape for n, x in tensors.items() if (m := name.match(n))}
    if not shapes:
        return {}
    return {
        "head_layers": len(shapes),
        "head_hidden": shapes[0][0],
        "head_width": shapes[max(shapes)][0],
    }


def convert(task: Any, tensors: Mapping[str, np.ndarray]) -> Official:
    """Map every tensor to its place; what never runs is ignored by name."""
    out = Official(task, {})
    take = _Taker(tensors, out, task)
    side = trained_side(tensors)
    encoder, norms = take.encoder(side)
    params: Tree = {"encoder": encoder}
    slow: Tree = {}
    buffers: Tree = {"kernel_norms": norms} if norms else {}
    if side == "student":
        params |= take.heads(side)
        own, own_norms = take.encoder("teacher")
        slow = {"teacher": {"encoder": own, **take.heads("teacher")}}
        if own_norms:
            buffers["teacher_kernel_norms"] = own_norms
    else:
        for name in tensors:
            if re.match(r"teacher_(mask_)?predictor\.", name):
                out.ignored[name] = "of training, which needs the student too"
    if MAP in tensors:
        out.ignored[MAP] = "the network of every region, in the task"
    out.variables.update({"params": params, "slow": slow, "buffers": buffers})
    return out


class _Taker(Taker):
    """With the parts of Brain-Semantoks."""

    def __init__(self, tensors: Mapping[str, np.ndarray], out: Official, task: Any):
        super().__init__(tensors, out)
        self.task = task

    def encoder(self, side: str) -> tuple[Tree, Tree]:
        """An encoder, and its norms of kernels."""
        task, context = self.task, f"{side}_encoder.{_CONTEXT}"
        blocks = [
            self._block(f"{context}.transformer_blocks.{i}") for i in range(task.depth)
        ]
        params: Tree = {
            "mask_token": self(f"{context}.mask_embedding", np.ravel),
            "cls_token": self(f"{context}.cls_token", np.ravel),
            "network_embedding": self(
                f"{context}.network_learnable_pos_embedding.weight"
            ),
            "transformer": {
                "blocks": stacked(blocks),
                "norm": self.norm(f"{side}_encoder.norm"),
            },
        }
        table = f"{context}.temporal_pos_embedding"
        if table in self.tensors:
            self._check(table, sincos(task.patches, task.width))
        for part in ("weight", "bias"):
            if (name := f"{context}.norm.{part}") in self.tensors:
                self.out.ignored[name] = DEAD_NORM
        norms: Tree = {}
        if task.spatial == "max":
            params["region_map"] = self.linear(f"{side}_encoder.shared_roi_projection")
        else:
            atlas = used_atlas(self.tensors, side)
            self._name_dead(side, atlas)
            own = [
                self._tokenizer(f"{side}_encoder.network_tokenizers.{atlas}.{i}")
                for i in range(len(task.members))
            ]
            params["tokenizers"] = {f"{i:03d}": p for i, (p, _) in enumerate(own)}
            norms = {f"{i:03d}": n for i, (_, n) in enumerate(own) if n}
        return params, norms

    def heads(self, side: str) -> Tree:
        """Projection heads; a shared one is in the file twice."""

        def head(name: str) -> Tree:
            layers = range(self.task.head_layers)
            return {f"layer_{i}": self.linear(f"{name}.mlp.{2 * i}") for i in layers}

        heads = {"head": head(f"{side}_predictor")}
        if self.task.separate_mask_head:
            heads["mask_head"] = head(f"{side}_mask_predictor")
            return heads
        for name in self.tensors:
            if name.startswith(f"{side}_mask_predictor.") and _again(
                self.tensors, name
            ):
                self.out.ignored[name] = SHARED_HEAD
        return heads

    def _tokenizer(self, name: str) -> tuple[Tree, Tree]:
        params: Tree = {"norm": self.norm(f"{name}.norm")}
        norms: Tree = {}
        for j, branch in enumerate(self.task.tokenizer):
            own, ours = f"{name}.branches.{j}", f"branch_{j}"
            if branch.kind == "dense":
                params[ours] = {
                    "kernel": self(f"{own}.weight", lambda w: w.transpose(2, 1, 0)),
                    "bias": self(f"{own}.bias"),
                }
                continue
            params[ours] = {
                **self.linear(f"{own}.projection"),
                "skip": self(f"{own}.slconv.D"),
                **{
                    f"scale_{i}": self(f"{own}.slconv.kernel_list.{i}")
                    for i in range(branch.scales)
                },
            }
            norms[ours] = self(f"{own}.slconv.kernel_norm")
            if (multiplier := f"{own}.slconv.multiplier") in self.tensors:
                (low, high), n = branch.decay, self.tensors[multiplier].size
                self._check(multiplier, np.linspace(low, high, n)[None, :, None])
            if (flag := f"{own}.slconv.kernel_norm_initialized") in self.tensors:
                self.out.ignored[flag] = FLAG
        return params, norms

    def _block(self, name: str) -> Tree:
        heads, fused = self.task.heads, f"{name}.attn.qkv.weight"

        def kernel(part: int):
            return lambda w: np.split(w, 3)[part].T.reshape(w.shape[1], heads, -1)

        attn: Tree = {
            ours: {"kernel": self(fused, kernel(part))}
            for part, ours in enumerate(("query", "key", "value"))
        }
        attn["out"] = {
            "kernel": self(
                f"{name}.attn.proj.weight",
                lambda w: w.T.reshape(heads, -1, w.shape[0]),
            ),
            "bias": self(f"{name}.attn.proj.bias"),
        }
        return {
            "attn": attn,
            "norm_attn": self.norm(f"{name}.norm1"),
            "scale_attn": self(f"{name}.ls1.gamma"),
            "norm_mlp": self.norm(f"{name}.norm2"),
            "mlp_in": self.linear(f"{name}.mlp.0"),
            "mlp_out": self.linear(f"{name}.mlp.3"),
            "scale_mlp": self(f"{name}.ls2.gamma"),
        }

    def _check(self, name: str, ours: np.ndarray) -> None:
        """A stored table must be the one that is recomputed."""
        stored = self.tensors[name]
        if stored.shape != ours.shape or np.abs(stored - ours).max() > 1e-5:
            raise NeuroFMError(
                f"{name} of shape {stored.shape} is not the table of shape "
                f"{ours.shape} this model uses: check the sizes in --config"
            )
        self.out.ignored[name] = TABLE

    def _name_dead(self, side: str, atlas: str) -> None:
        for name in self.tensors:
            if (m := _TOKENIZER.match(name)) and m[1] == side and m[2] != atlas:
                self.out.ignored[name] = DEAD_TOKENIZER
