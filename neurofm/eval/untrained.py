"""The same network as it was before its first step."""

from collections.abc import Mapping

import jax
import numpy as np

from neurofm.model import Model, abstract_batch
from neurofm.task import Task, Tree


def untrained(model: Model, batch: Mapping[str, np.ndarray] | None = None) -> Model:
    """The same network as it was before its first step (seed 0 where unknown).

    The models that it leans on are untrained too. `batch` starts what starts from data
    (codebooks); zeros where none is given.
    """
    seed = model.meta.get("config", {}).get("seed", 0)
    if batch is None:
        shapes = abstract_batch(model.task, 1)
        batch = {name: np.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    variables = _fresh(model.task, jax.random.key(seed), dict(batch))
    return Model(
        model.task,
        jax.device_get(variables),
        {"source": "untrained", "seed": seed},
    )


def _fresh(task: Task, key: jax.Array, batch: Tree) -> Tree:
    frozen = {}
    for i, name in enumerate(task.leans_on):
        part: Task = getattr(task, name)
        own = _fresh(part, jax.random.fold_in(key, i), batch)
        frozen[name] = part.inference(own)
    variables = jax.jit(task.init)(key, batch, frozen)
    return {**variables, "frozen": frozen} if frozen else variables
