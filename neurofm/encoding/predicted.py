"""What a trained model predicts for whole runs, window by window.

Axis letters: N volumes of a run, P outputs, S subjects, M modalities.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float, Float32

from neurofm.config import Data
from neurofm.contract import BatchSpec
from neurofm.data import aligned
from neurofm.data.records import Dataset
from neurofm.data.select import Use
from neurofm.data.stimuli import PREFIX, PRESENT
from neurofm.task import Task, Tree

EVERY, BATCH = 2**31, 16


def modalities(spec: BatchSpec) -> list[str]:
    """Names of the modalities with features, in the order of `features/present`."""
    names = [n for n in spec.fields if n.startswith(PREFIX) and n != PRESENT]
    return [name.removeprefix(PREFIX) for name in names]


@functools.cache  # one program for all that is asked of a task
def _read(task: Task):
    @jax.jit
    def read(variables: Tree, batch: Tree):
        return task.read(variables, batch, "prediction").values["bold"]

    return read


def predicted(
    task: Task,
    variables: Tree,
    datasets: Sequence[Dataset],
    data: Data,
    use: Use,
    hidden: str = "",
) -> dict[tuple[int, int], Float32[np.ndarray, "N P"]]:
    """Responses to the stimuli of all runs of a split, by dataset and row of the run.

    Windows lie side by side as in training; a volume that none reaches is 0.

    Args:
      task: one that gives `prediction`s at the volumes of its windows.
      variables: in use, see `Task.inference`.
      datasets: fMRI and feature stores.
      data: of the experiment that trained it.
      hidden: a modality that the model is not shown.
    """
    spec = task.batch_spec("train")
    plan = aligned.held_out(datasets, spec, data, EVERY, use)
    names = modalities(spec)
    read, variables = _read(task), jax.device_put(variables)
    out: dict[tuple[int, int], np.ndarray] = {}
    for first in range(0, plan.n_crops or 0, BATCH):
        crops = [plan.crop(first + i) for i in range(BATCH)]
        batch = {
            **plan.fill(crops, spec),
            "index": np.arange(first, first + BATCH, dtype=np.int32),
            "valid": np.array([crop.valid for crop in crops]),
        }
        if hidden:
            batch[PRESENT][:, names.index(hidden)] = False
        bold = np.asarray(read(variables, batch))
        for crop, x in zip(crops, bold, strict=True):
            if not crop.valid:
                continue
            items = datasets[crop.dataset].items
            n = items["n_samples"][crop.item].as_py()
            whole = np.zeros((n, x.shape[1]), np.float32)
            run = out.setdefault((crop.dataset, crop.item), whole)
            run[crop.start : crop.stop] = x[slice(*crop.span)]
    return out


def drops(
    correlate: Callable[[str], Float[np.ndarray, "S P"]], modalities: Sequence[str]
) -> Float[np.ndarray, "M S P"]:
    """How much lower correlations are when each modality is hidden from the model.

    Args:
      correlate: name of the hidden modality, or nothing -> correlations by subject.
    """
    whole = correlate("")
    return np.stack([whole - correlate(name) for name in modalities])
