"""A model in PyTorch, written beside its weights and compared with it.

A system has a twin where its Task names a class as `torch_twin`, `module:class`. The
module is one file that imports torch and safetensors alone, as it is copied into the
model folder under the name `model.py`. The class is built from a model folder, with
`ValueError` for one that it cannot be, and maps recordings (B, C, N) at the model's
rate to tokens (B, T, D) as `Model.embed` does; it alone has a name in `Encoder`. One of
sound takes (B, N) too and carries what X-ARES asks: `sampling_rate`, `output_dim`,
`hop_size_in_ms`.
"""

import importlib
import inspect
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from neurofm.errors import NeuroFMError
from neurofm.model import Model

_log = logging.getLogger(__name__)

WINDOWS = (0.6, 1.0, 2.4)  # lengths of the recordings that are compared
CLOSE = 1e-3  # of the deviation between tokens: a constant part does not count


def write(model: Model, folder: Path) -> None:
    """Add `model.py` to a model folder, and to its card how near to `model` it is.

    Raises:
      NeuroFMError: the system has no twin, torch is not installed, or what the twin
        gives is not what the model gives.
    """
    made = _class(model)
    shutil.copyfile(inspect.getfile(made), folder / "model.py")
    try:
        built = made(folder)
    except ValueError as error:
        raise NeuroFMError(
            f"this {model.task.name} has no PyTorch twin: {error}; export without "
            "--torch"
        ) from error
    difference = largest_difference(model, built)
    if not difference <= CLOSE:
        raise NeuroFMError(
            f"the PyTorch twin differs from the model by {difference:.2g} of the "
            f"deviation between tokens, more than {CLOSE:g}, so nothing was written: "
            "compare them on a CPU (JAX_PLATFORMS=cpu), or export without --torch"
        )
    _log.info("model.py gives the same in PyTorch, within %.2g", difference)
    with (folder / "README.md").open("a") as card:
        card.write(
            f"\n`model.py` is the same in PyTorch (`{made.__name__}`). On export it "
            f"was compared with this model on noise: the largest difference was "
            f"{difference:.2g} of the deviation between tokens.\n"
        )


def largest_difference(model: Model, twin: Any) -> float:
    """Of what both say of noise, over the deviation between tokens; shapes: infinity.

    Two recordings each that fill less than a window, one, and more than two.
    """
    import torch  # pyright: ignore[reportMissingImports]

    contract = model.contract
    rng, worst = np.random.default_rng(0), 0.0
    for share in WINDOWS:
        shape = (2, contract.n_chans, round(share * contract.window_samples))
        given = (0.1 * rng.standard_normal(shape)).astype(np.float32)
        ours = _ours(model, given)
        theirs = twin(torch.from_numpy(given)).detach().numpy()
        if theirs.shape != ours.shape:
            return np.inf
        deviation = ours.std(axis=(0, 1)).mean()
        worst = max(worst, float(abs(theirs - ours).max() / deviation))
    return worst


def _ours(
    model: Model, given: Float32[np.ndarray, "B C N"]
) -> Float32[np.ndarray, "B T D"]:
    readings = model.embed(list(given), model.contract.sfreq)
    return np.stack([reading.values["last"] for reading in readings])


def _class(model: Model) -> Any:
    module, _, name = model.task.torch_twin.partition(":")
    if not module:
        raise NeuroFMError(
            f"{model.task.name} has no PyTorch twin: export without --torch (of a "
            "fine-tuned model, --trunk exports what is below its head)"
        )
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise NeuroFMError(
            "export --torch compares the PyTorch twin with the model, and PyTorch is "
            "not installed: pip install 'neurofm[torch]', or export without --torch"
        ) from error
