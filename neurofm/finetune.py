"""Training with labels: a linear head on another task's features, as a Task.

Axes: B items, T tokens, D features, K classes.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from neurofm.contract import BatchSpec, Field
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want


@dataclass(frozen=True, kw_only=True)
class Finetune(Task):
    """Classify the mean over tokens of a task's last layer; all of it is trained.

    Attributes:
      task: what gives the features.
      n_classes: K; the batch carries `label`, 0 to K - 1.
    """

    name: ClassVar[str] = "finetune"

    task: Task
    n_classes: int

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """The batch of the task, and for training the label."""
        spec = self.task.batch_spec("features")
        if want == "features":
            return spec
        label = Field(shape=(), axes=(), dtype="int32")
        return replace(spec, fields={**spec.fields, "label": label})

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """The task's fresh variables as one uses them, and a head of zeros."""
        return self.on(self.task.init(key, batch, frozen), batch)

    def on(self, variables: Tree, batch: Batch) -> Tree:
        """The task's `variables` as one uses them, and a head of zeros."""
        fresh = self.task.inference(variables)
        last = jax.eval_shape(
            lambda v, b: self.task.read(v, b).values["last"], fresh, batch
        )
        width = last.shape[-1]
        head = {
            "kernel": jnp.zeros((width, self.n_classes)),
            "bias": jnp.zeros(self.n_classes),
        }
        return {**fresh, "params": {"task": fresh["params"], "head": head}}

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Nothing is random."""
        del batch, key, step, train
        return {}

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Cross-entropy of the classes."""
        del draws, step, train
        head = variables["params"]["head"]
        reading = self.read(variables, batch)
        weight = reading.mask[..., None].astype(jnp.float32)
        pooled = (reading.values["last"] * weight).sum(1)
        pooled = pooled / jnp.maximum(weight.sum(1), 1)
        logits = pooled @ head["kernel"] + head["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        valid = batch["valid"].astype(jnp.float32)
        hits = (logits.argmax(-1) == batch["label"]) * valid
        sums = {"hits": hits.sum(), "items": valid.sum()}
        return {"classes": ((losses * valid).sum(), valid.sum())}, sums

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Accuracy."""
        return {"accuracy": sums["hits"] / jnp.maximum(sums["items"], 1)}

    def inference(self, variables: Tree) -> Tree:
        """The task's variables without the head."""
        return {**variables, "params": variables["params"]["task"]}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """What the task reads."""
        task_variables = self.inference(variables)
        return self.task.read(task_variables, batch, want)

    def flops(self, batch_size: int) -> float:
        """Those of the task, of which this trains a part."""
        return self.task.flops(batch_size)
