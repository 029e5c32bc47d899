"""`neurofm import`: a published system's weights to a model folder, strictly."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm import registry
from neurofm.errors import NeuroFMError
from neurofm.model import Model, check_arrays, save
from neurofm.weights import leaves
from neurofm.weights.files import read_settings, read_tensors


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of each tensor, by its official name.

    Attributes:
      matched: went into the model.
      ignored: name -> why it was left out.
      unused, missing: unknown to the model, or expected by it; both empty in an import
        that went through.
      n_params, params_sha256: of the model that was written.
    """

    system: str
    weights: str
    matched: list[str]
    ignored: dict[str, str]
    unused: list[str]
    missing: list[str]
    n_params: int
    params_sha256: str


def import_model(
    system: str,
    weights: str | os.PathLike,
    out: str | os.PathLike,
    config: str | os.PathLike | None = None,
) -> Report:
    """Write `out`, a model folder with `import_report.json`, from official weights.

    Args:
      system: registered name, such as `wavjepa`.
      weights: see `read_tensors`.
      config: JSON of the model hub, or of the same keys as the parity fixtures; goes
        before the `model_build_args` of a torch file.

    Raises:
      NeuroFMError: weights that cannot be read, tensors missing or unknown, a system
        without a mapping.
    """
    task_class: Any = registry.task_class(system)
    if not hasattr(task_class, "from_official"):
        raise NeuroFMError(f"{system} has no official weights that could be imported")
    tensors = official_names(read_tensors(weights))
    built = read_settings(weights, "model_build_args")
    given = _read_config(config)
    if built:
        given = {**built, **(given or {})}
    try:
        found = task_class.from_official(tensors, given)
    except NeuroFMError:  # a ValueError too
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise NeuroFMError(
            f"{weights} does not fit {system} ({error}), so nothing was written: check "
            "that the file and --config belong to the same model"
        ) from error
    unused = sorted(set(tensors) - found.used - set(found.ignored))
    missing = sorted(found.missing)
    if missing or unused:
        raise NeuroFMError(
            f"{weights} does not fit {system}, so nothing was written: "
            f"{len(missing)} tensors are missing{_listed(missing)} and {len(unused)} "
            f"are unknown{_listed(unused)}; check that the file and --config belong to "
            "the same model"
        )
    for name in sorted(found.used):
        _refuse_numbers(name, tensors[name])
    meta = {"source": f"imported from {Path(weights).name}"}
    check_arrays(weights, Model(found.task, found.variables, meta))
    report = Report(
        system=system,
        weights=Path(weights).name,
        matched=sorted(found.used),
        ignored=dict(sorted(found.ignored.items())),
        unused=unused,
        missing=missing,
        n_params=leaves.n_params(found.variables["params"]),
        params_sha256=leaves.params_sha256(found.variables["params"]),
    )
    text = json.dumps(asdict(report), indent=1) + "\n"
    save(out, found.task, found.variables, meta, {"import_report.json": text})
    return report


def official_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what wrappers add to names: the prefixes `module.` and `model.`, and
    `_orig_mod.`.

    Raises:
      NeuroFMError: two tensors would get the same name.
    """
    out: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        plain = name.replace("_orig_mod.", "").removeprefix("module.")
        plain = plain.removeprefix("model.")
        if plain in out:
            raise NeuroFMError(
                f"two tensors are both called {plain!r} once wrappers are taken off: "
                "save one model alone"
            )
        out[plain] = tensor
    return out


def _refuse_numbers(name: str, tensor: np.ndarray) -> None:
    """Quantised weights mean nothing without their scales, NaN nothing at all."""
    if tensor.dtype.kind != "f":
        raise NeuroFMError(
            f"the tensor {name} holds {tensor.dtype} where weights are floats: save "
            "the model unquantised"
        )
    if not np.isfinite(tensor).all():
        raise NeuroFMError(
            f"the tensor {name} holds NaN or infinite numbers: fetch the weights "
            "again, or choose a checkpoint from before the training went wrong"
        )


def _listed(names: list[str], most: int = 20) -> str:
    if not names:
        return ""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})"


def _read_config(path: str | os.PathLike | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise NeuroFMError(
            f"--config {path} cannot be read as JSON ({error}): give the model's "
            "config.json"
        ) from error
    if not isinstance(config, dict):
        raise NeuroFMError(f"--config {path} holds no JSON object of settings")
    return config
