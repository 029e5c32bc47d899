"""Held-out loss of a run: fixed crops, fixed masks, the whole split as one number."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from neurofm.config import Data, Eval
from neurofm.data import plan
from neurofm.data.loader import Delivery
from neurofm.data.records import Dataset
from neurofm.data.rows import Plan
from neurofm.data.scenes import Scenery
from neurofm.step import State, eval_step
from neurofm.task import Task, Tree


class HeldOut:
    """Evaluates a state on the `valid` split; empty where there is no such split."""

    def __init__(
        self,
        task: Task,
        settings: Eval,
        seed: int,
        datasets: Sequence[Dataset],
        data: Data,
        batch_size: int,
        deliveries: Callable[[Plan, int], Iterator[Delivery]],
        scenery: Scenery | None = None,
    ):
        spec = task.batch_spec("train")
        self.plan = plan.held_out(
            datasets, spec, data, settings.crops, batch_size, scenery
        )
        self._deliveries = deliveries
        self._measure = jax.jit(eval_step(task, seed))
        self._summarise = jax.jit(task.summary)
        self._total = task.total

    def __call__(self, state: State, frozen: Tree) -> dict[str, float]:
        """`eval/loss`, `eval/<term>` and `eval/<summary>` over the whole split."""
        if not self.plan.n_crops:
            return {}
        variables = {k: state[k] for k in ("params", "slow", "buffers")}
        variables["frozen"] = frozen
        total = None
        for delivery in self._deliveries(self.plan, 0):
            part = self._measure(variables, delivery.batch)
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        assert total is not None
        terms, sums = total
        losses = {k: s / jnp.maximum(w, 1e-8) for k, (s, w) in terms.items()}
        row = {"loss": self._total(losses), **losses, **self._summarise(sums)}
        return {f"eval/{name}": float(value) for name, value in row.items()}
