"""A trained model with a head on its features, trained with labels: a Task of its own.

The model comes frozen, as every model that another leans on. What is trained of it is
told by `regime` (`nn.adapt`) and starts where the model is; a checkpoint holds that
part and the head.

Axes: B items, T tokens, D features, H hidden units, K classes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from neurofm.contract import BatchSpec, Field
from neurofm.errors import NeuroFMError
from neurofm.nn import adapt
from neurofm.parallel.mesh import Platform
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want


@dataclass(frozen=True, kw_only=True)
class Finetune(Task):
    """Classify the mean over tokens of a layer of a task.

    Attributes:
      task: what gives the features; a run takes it from the model it loads.
      classes: names of the K classes, in order; a run takes them from its data.
      layer: of `task.read`, by name.
      head: `linear`, which starts at zero, or `mlp`: dropout, a hidden layer with
        SELU, a linear map (BrainOmni's released fine-tuning).
      hidden: H of the mlp; 0 is `task.width`.
      dropout: before the head, and in the model where it has any, in training.
      label_smoothing: share of the target spread over all classes.
      regime: what is trained beside the head: nothing (`probe`), the `last` layers,
        low-rank additions (`lora`), or all (`full`).
      last_layers: of the regime `last`.
      lora_rank, lora_alpha, lora_path: rank and scale of the additions, and the
        kernels that get one, by a regex of their paths.
    """

    name: ClassVar[str] = "finetune"
    leans_on: ClassVar[tuple[str, ...]] = ("task",)

    task: Task
    classes: tuple[str, ...] = ("no", "yes")
    layer: str = "last"
    head: Literal["linear", "mlp"] = "linear"
    hidden: int = 0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    regime: adapt.Regime = "full"
    last_layers: int = 1
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_path: str = r"(qkv|query|key|value|out|mlp_in|mlp_out)/kernel$"

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise NeuroFMError(
                f"task.dropout is {self.dropout}: give 0 or more and less than 1"
            )
        if len(self.classes) < 2:
            raise NeuroFMError(
                f"task.classes is {self.classes}: give two names or more, or leave it "
                "to the data"
            )
        for name in ("last_layers", "lora_rank"):
            if getattr(self, name) < 1:
                raise NeuroFMError(
                    f"task.{name} is {getattr(self, name)}: give 1 or more"
                )

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """The batch of the task, and for training the label."""
        own = want in ("train", "prediction")
        spec = self.task.batch_spec("features" if own else want)
        if want != "train":
            return spec
        label = Field(shape=(), axes=(), dtype="int32", words=self.classes)
        return replace(spec, fields={**spec.fields, "label": label})

    # ---- parts ----------------------------------------------------------------------

    @property
    def _how(self) -> adapt.Adapt:
        return adapt.Adapt(
            self.regime,
            self.last_layers,
            self.lora_rank,
            self.lora_alpha,
            self.lora_path,
        )

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """The model's own parameters, as far as they are trained, and a fresh head."""
        model = frozen["task"]
        key_part, key_in, key_out = jax.random.split(key, 3)
        features = {k: v for k, v in batch.items() if k != "label"}
        last = jax.eval_shape(
            lambda v, b: self.task.read(v, b).values[self.layer], model, features
        )
        d, k = last.shape[-1], len(self.classes)
        if self.head == "linear":
            head = {"kernel": jnp.zeros((d, k)), "bias": jnp.zeros(k)}
        else:
            h = self.hidden or getattr(self.task, "width", d)
            normal = partial(jax.random.truncated_normal, lower=-2.0, upper=2.0)
            head = {
                "hidden_kernel": 0.02 * normal(key_in, shape=(d, h)),
                "hidden_bias": jnp.zeros(h),
                "kernel": 0.02 * normal(key_out, shape=(h, k)),
                "bias": jnp.zeros(k),
            }
        part = adapt.start(self._how, model["params"], key_part)
        return {"params": {"task": part, "head": head}, "slow": {}, "buffers": {}}

    def model(self, variables: Tree) -> Tree:
        """The variables of `task` that one computes with."""
        frozen = variables["frozen"]["task"]
        params = adapt.joined(self._how, frozen["params"], variables["params"]["task"])
        return {**frozen, "params": params}

    def _logits(
        self, head: Tree, reading: Reading, kept: Float[Array, "B D"] | None
    ) -> Float[Array, "B K"]:
        """Class scores, in float32. `kept` is 1 / (1 - dropout) or 0."""
        weight = reading.mask[..., None].astype(jnp.float32)
        x = (reading.values[self.layer] * weight).sum(1)
        x = x / jnp.maximum(weight.sum(1), 1)
        if kept is not None:
            x = x * kept
        if self.head == "mlp":
            x = jax.nn.selu(x @ head["hidden_kernel"] + head["hidden_bias"])
        return x @ head["kernel"] + head["bias"]

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """The task's own draws, and a key of dropout for each example."""
        features = {k: v for k, v in batch.items() if k != "label"}
        key_task, key_head = jax.random.split(key)
        own = dict(self.task.draw(features, key_task, step, train))
        keys = jax.vmap(partial(jax.random.fold_in, key_head))(batch["index"])
        draws: Tree = {"dropout": jax.random.key_data(keys)}
        if "step" in own:
            draws["step"] = own.pop("step")
        return {**draws, "task": own}

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Cross-entropy of the classes."""
        del step
        shared = {"step": draws["step"]} if "step" in draws else {}
        reading = self.task.features(
            self.model(variables), batch, {**draws["task"], **shared}, train
        )
        kept = None
        if train and self.dropout:
            keys = jax.random.wrap_key_data(draws["dropout"])
            width = reading.values[self.layer].shape[-1:]
            share = 1 - self.dropout
            draw = partial(jax.random.bernoulli, p=share, shape=width)
            kept = jax.vmap(draw)(keys) / share
        logits = self._logits(variables["params"]["head"], reading, kept)
        target = jax.nn.one_hot(batch["label"], len(self.classes))
        target = optax.smooth_labels(target, self.label_smoothing)
        losses = optax.softmax_cross_entropy(logits, target)
        valid = batch["valid"].astype(jnp.float32)
        guess = jax.nn.one_hot(logits.argmax(-1), len(self.classes))
        truth = jax.nn.one_hot(batch["label"], len(self.classes)) * valid[:, None]
        sums = {"hits": (guess * truth).sum(0), "items": truth.sum(0)}
        return {"classes": ((losses * valid).sum(), valid.sum())}, sums

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Accuracy, over items and as the mean over classes."""
        hits, items = sums["hits"], sums["items"]
        seen = items > 0
        share = jnp.where(seen, hits / jnp.maximum(items, 1), 0)
        return {
            "accuracy": hits.sum() / jnp.maximum(items.sum(), 1),
            "balanced_accuracy": share.sum() / jnp.maximum(seen.sum(), 1),
        }

    # ---- the trained model ----------------------------------------------------------

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """What the task reads; `prediction`: class scores [B, 1, K] of the item."""
        model = self.model(variables)
        if want != "prediction":
            return self.task.read(model, batch, want)
        reading = self.task.read(model, batch)
        logits = self._logits(variables["params"]["head"], reading, None)
        here = reading.mask.astype(jnp.float32)
        middle = (reading.times_s * here).sum(1) / jnp.maximum(here.sum(1), 1)
        some = reading.mask.any(1, keepdims=True)
        return Reading({"prediction": logits[:, None]}, middle[:, None], some)

    def shortened(self, n_samples: int) -> "Finetune":
        """The same head on the task for shorter recordings."""
        return replace(self, task=self.task.shortened(n_samples))

    def for_platform(self, target: Platform) -> "Finetune":
        """On the task as it runs there."""
        return replace(self, task=self.task.for_platform(target))

    def sized(self, batch: Mapping[str, Any]) -> "Finetune":
        """On the task at those sizes."""
        return replace(self, task=self.task.sized(batch))

    def savings(self) -> tuple[str, ...]:
        """Those of the task."""
        return tuple(f"task.{saving}" for saving in self.task.savings())

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """The head whole and low-rank additions too; the task's own for the rest."""
        below = [
            (re.sub(r"^\^", "^task/", path), axes) for path, axes in self.task.rules()
        ]
        return ((r"^head/", ()), (r"/kernel/(down|up)$", ()), *below)

    def flops(self, batch_size: int) -> float:
        """Those of the task, of which this trains a part."""
        return self.task.flops(batch_size)
