"""Official TRIBE state_dict names and how each becomes one of our parameters.

Torch's Linear weight is (out, in); heads are contiguous blocks of q, k and v. The table
of subjects, `predictor.weights`, is (subjects, in, out) there as here.

x_transformers, which holds the transformer, changed twice without renaming anything:
gains of norms became offsets from 1, and rotary pairs became neighbours. Offsets are
told by their mean, below 0.5; what pairs are is told by no tensor.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurofm.errors import NeuroFMError
from neurofm.nn.positions import rotary_angles
from neurofm.weights.mapping import Official, Taker, stacked

WIDTHS = {"text": 3072, "audio": 1024, "video": 1408}  # Llama, w2v-BERT, V-JEPA 2
HEADS = 8
INV_FREQ = "encoder.rotary_pos_emb.inv_freq"
OWN = (  # what the names of a model's own tensors begin with
    "projectors.",
    "time_pos_embed",
    "subject_embed.",
    "combiner.",
    "temporal_smoothing.",
    "encoder.",
    "low_rank_head.",
    "predictor.",
)
DROPPED = "no part of the model (the state of a metric, or the like)"


def infer_fields(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Task fields read off tensor shapes; what shapes cannot tell, from `config`.

    `config` has the keys of the released `model_build_args` (`feature_dims`,
    `n_outputs`, `n_output_timesteps`) and those of the fixtures (`heads`,
    `rotary_style`, `n_subjects`, ...). Without it a checkpoint is v2 where it has a
    low-rank head or one row of subjects alone, whose last row is the unseen subject.

    Raises:
      NeuroFMError: no TRIBE checkpoint, or one that leaves something open.
    """
    steps = [re.match(r"encoder\.layers\.(\d+)\.", name) for name in tensors]
    n_sublayers = max((int(m[1]) for m in steps if m), default=-1) + 1
    if not n_sublayers or "predictor.weights" not in tensors:
        raise NeuroFMError(
            "these tensors are not a TRIBE checkpoint: `encoder.layers.*` and "
            "`predictor.weights` were expected"
        )
    if "time_pos_embed" not in tensors:
        raise NeuroFMError(
            "these tensors have no `time_pos_embed`, which every TRIBE checkpoint has: "
            "1 tensor is missing"
        )
    _, max_steps, width = tensors["time_pos_embed"].shape
    rows, _, n_outputs = tensors["predictor.weights"].shape
    low_rank = tensors.get("low_rank_head.weight")
    known = config.get("n_subjects")
    guess = "v2" if low_rank is not None or rows == 1 else "v1"
    v2 = config.get("version", guess) == "v2"
    unseen = rows == known + 1 if known is not None else v2
    subjects = config.get("subjects")
    if subjects is None:
        subjects = [f"subject-{i + 1:02d}" for i in range(rows - unseen)]
    n_out = int(config.get("n_output_timesteps", 100))
    heads = int(config.get("heads", HEADS))
    smoothing = tensors.get("temporal_smoothing.weight")
    fields = {
        **_modalities(tensors, config, width),
        "subjects": tuple(subjects),
        "n_outputs": n_outputs,
        "feature_steps": int(config.get("T", 2 * n_out if v2 else 2.98 * n_out)),
        "output_steps": n_out,
        "tr_s": 1.0 if v2 else 1.49,
        "shift_s": 5.0 if v2 else 4.47,
        "width": width,
        "depth": n_sublayers // 2,
        "heads": heads,
        "max_steps": max_steps,
        "rotary": config.get("rotary_style") or _rotary(tensors, config),
        "rotary_width": _rotary_width(tensors, config, width // heads),
        "combiner": "combiner.weight" in tensors,
        "smoothing": 0 if smoothing is None else smoothing.shape[-1],
        "subject_embedding": "subject_embed.weight" in tensors,
        "low_rank": 0 if low_rank is None else len(low_rank),
        "unseen_subject": unseen,
        "subject_dropout": float(config.get("subject_dropout") or 0.1) * unseen,
        "average_subjects": unseen and not subjects,
        "modality_dropout_by": "example" if v2 else "batch",
    }
    return fields


def _modalities(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], width: int
) -> dict[str, Any]:
    """The modalities, and how layers and projections are put together."""
    shapes = {
        name.split(".")[1]: x.shape
        for name, x in tensors.items()
        if name.startswith("projectors.") and name.endswith(".weight")
    }
    dims = config.get("feature_dims")
    if dims is None:
        whole = set(shapes) == set(WIDTHS)
        # A projector of one layer's width may take the mean of several.
        told = {
            n: shapes[n][1] % w == 0 and shapes[n][1] > w
            for n, w in WIDTHS.items()
            if n in shapes
        }
        if unknown := [n for n in shapes if not (whole and told[n])]:
            raise NeuroFMError(
                f"the layers and widths of the features of {unknown[0]} are not "
                "written in the tensors: give a --config file with the key "
                "'feature_dims', modality -> [layers, width]"
            )
        dims = {n: (shapes[n][1] // w, w) for n, w in WIDTHS.items()}
    dims = {name: tuple(d) if d else (0, 0) for name, d in dims.items()}
    if set(shapes) != {name for name, (layers, _) in dims.items() if layers}:
        raise NeuroFMError(
            f"there are projectors of {sorted(shapes)}, but feature_dims names "
            f"{dims}: the file and --config are not of the same model"
        )
    outs = {shape[0] for shape in shapes.values()}
    ins = {name: shape[1] for name, shape in shapes.items()}
    cat = all(ins[n] == layers * w for n, (layers, w) in dims.items() if layers)
    mean = all(ins[n] == w for n, (layers, w) in dims.items() if layers)
    shared = outs == {width // len(dims)}
    if not (cat or mean) or not (shared or outs == {width}):
        raise NeuroFMError(
            f"projectors of shapes {shapes} fit no feature_dims {dims} at width "
            f"{width}: the file and --config are not of the same model"
        )
    layer = config.get("layer_aggregation", "cat" if cat else "mean")
    feature = config.get("feature_aggregation", "cat" if shared else "sum")
    return {
        "modalities": [
            {"name": name, "layers": layers, "width": w}
            for name, (layers, w) in dims.items()
        ],
        "layer_aggregation": layer,
        "feature_aggregation": feature,
    }


def offset_gains(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> bool:
    """Whether gains are stored as offsets from 1: told by their mean over all norms."""
    if (given := config.get("norm_unit_offset")) is not None:
        return bool(given)
    gains = [x for n, x in tensors.items() if n[-2:] == ".g"]
    return bool(gains) and float(np.mean(np.concatenate(gains))) < 0.5


def _rotary(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> str:
    """Versions that store offsets pair neighbours; the pinned one does neither."""
    return "interleaved" if offset_gains(tensors, config) else "half"


def _rotary_width(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], head_width: int
) -> int:
    """How many features of a head are rotated, which the rates tell."""
    if INV_FREQ not in tensors:
        return int(config.get("rotary_dim", 0))
    rates = tensors[INV_FREQ]
    turned = 2 * len(rates)
    if not np.allclose(rates, rotary_angles(2, turned)[1], rtol=1e-3):
        raise NeuroFMError(
            f"{INV_FREQ} is not 10000^(-2j/{turned}): this checkpoint rotates in "
            "another way than TRIBE does"
        )
    half = head_width // 2
    if turned not in (half, max(half, 32)):  # old versions rotate 32 or more
        raise NeuroFMError(
            f"{turned} features of a head are rotated, which does not fit heads of "
            f"{head_width}: give a --config file with the key 'heads'"
        )
    return turned


def convert(
    task: Any, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> Official:
    """Map every tensor to its place; what belongs to no model is ignored by name."""
    out = Official(task, {})
    take = Taker(tensors, out)
    unit = 1.0 if offset_gains(tensors, config) else 0.0
    heads = task.heads

    def norm(name: str) -> dict[str, Any]:
        return {"scale": take(f"{name}.g", lambda g: g + unit)}

    def split(name: str) -> dict[str, Any]:
        by_head = lambda w: w.T.reshape(w.shape[1], heads, -1)  # noqa: E731
        return {"kernel": take(f"{name}.weight", by_head)}

    def block(i: int) -> dict[str, Any]:
        attn, mlp = f"encoder.layers.{2 * i}", f"encoder.layers.{2 * i + 1}"
        joined = lambda w: w.T.reshape(heads, -1, w.shape[0])  # noqa: E731
        return {
            "norm_attn": norm(f"{attn}.0.0"),
            "attn": {
                "query": split(f"{attn}.1.to_q"),
                "key": split(f"{attn}.1.to_k"),
                "value": split(f"{attn}.1.to_v"),
                "out": {"kernel": take(f"{attn}.1.to_out.weight", joined)},
            },
            "skip_attn": take(f"{attn}.2.residual_scale"),
            "norm_mlp": norm(f"{mlp}.0.0"),
            "mlp_in": take.linear(f"{mlp}.1.ff.0.0"),
            "mlp_out": take.linear(f"{mlp}.1.ff.2"),
            "skip_mlp": take(f"{mlp}.2.residual_scale"),
        }

    params = {
        "projectors": {
            m.name: take.linear(f"projectors.{m.name}")
            for m in task.modalities
            if m.layers
        },
        "positions": take("time_pos_embed", lambda x: x[0]),
        "encoder": {
            "blocks": stacked([block(i) for i in range(task.depth)]),
            "norm": norm("encoder.final_norm"),
        },
        "subjects": {
            "kernel": take("predictor.weights"),
            "bias": take("predictor.bias"),
        },
    }
    buffers = {}
    if task.combiner:
        params["combiner"] = take.linear("combiner")
    if task.smoothing:
        home = params if task.smoothing_trained else buffers
        home["smoothing"] = take("temporal_smoothing.weight", lambda w: w[:, 0].T)
    if task.subject_embedding:
        params["subject_embedding"] = take("subject_embed.weight")
    if task.low_rank:
        params["low_rank"] = {"kernel": take("low_rank_head.weight", np.transpose)}
    if INV_FREQ in tensors:
        out.ignored[INV_FREQ] = (
            f"rotary rates, recomputed from their formula; pairs are {task.rotary}, "
            f"gains of norms {'offsets from 1' if unit else 'as they are'}"
        )
    for name in tensors:
        if not name.startswith(OWN):
            out.ignored[name] = DROPPED
    out.variables.update({"params": params, "slow": {}, "buffers": buffers})
    return out
