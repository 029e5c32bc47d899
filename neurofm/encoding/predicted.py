"""What a trained model predicts for whole runs, window by window.

Axis letters: N volumes of a run, P outputs.
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float32

from neurofm.config import Data
from neurofm.data import aligned
from neurofm.data.records import Dataset
from neurofm.data.select import Use
from neurofm.data.stimuli import PREFIX, PRESENT
from neurofm.task import Task, Tree

EVERY, BATCH = 2**31, 16


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
    names = [n.removeprefix(PREFIX) for n in spec.fields if n.startswith(PREFIX)]
    names.remove(PRESENT.removeprefix(PREFIX))

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
