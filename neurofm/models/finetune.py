"""A trained model with a head on its features, trained with labels: a Task of its own.

The model comes frozen, as every model that another leans on. What is trained of it is
told by `regime` (`nn.adapt`) and starts where the model is; a checkpoint holds that
part and the head.

Axes: B items, T tokens, D features, H hidden units, K classes, tags or numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.contract import BatchSpec, Field
from neurofm.errors import NeuroFMError
from neurofm.nn import adapt
from neurofm.nn.heads import Head
from neurofm.objectives import answers
from neurofm.parallel.mesh import Platform
from neurofm.signals.augment import Augment
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want


@dataclass(frozen=True, kw_only=True)
class Finetune(Task):
    """Classes, tags or numbers from the pooled tokens of a task.

    Attributes:
      task: what gives the features; a run takes it from the model it loads.
      answer: what is told of an item: one of the `classes`, any of the `tags`, or
        `numbers`.
      classes: names of the K classes, tags or numbers, in order; a run takes them from
        its data.
      class_weight: how much the items of a class, or the presence of a tag, count;
        `even` alike, `balanced` so that each class counts alike.
      weights: these weights; a run takes them from its data. Empty: all 1.
      centre, spread: mean and deviation of each number over the training examples; a
        run takes them from its data. Empty: 0 and 1.
      layer: of `task.read`, by name; or `mix`, a learned mix of all of them.
      pool: `mean` over tokens, or `attention`, see `nn.heads`.
      center_tokens: how many in the middle of the example are pooled; 0 is all.
      head: `linear`, `mlp` or `flat`, see `nn.heads`.
      hidden: H; 0 is `task.width` of the mlp, and no hidden layer of `flat`.
      scores: what is compared with the class: `plain` scores, or as `released` with
        Du-IN their sigmoids, as if these were scores.
      dropout: before the head, and in the model where it has any, in training.
      label_smoothing: share of the target spread over all classes.
      augment: what is done to the signals in training, see `signals.augment`.
      regime: what is trained beside the head: nothing (`probe`), the `last` layers,
        low-rank additions (`lora`), or all (`full`).
      last_layers: of the regime `last`.
      lora_rank, lora_alpha, lora_path: rank and scale of the additions, and the
        kernels that get one, by a regex of their paths.
    """

    name: ClassVar[str] = "finetune"
    leans_on: ClassVar[tuple[str, ...]] = ("task",)

    task: Task
    answer: answers.Answer = "classes"
    classes: tuple[str, ...] = ("no", "yes")
    class_weight: Literal["even", "balanced"] = "even"
    weights: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    layer: str = "last"
    pool: Literal["mean", "attention"] = "mean"
    center_tokens: int = 0
    head: Literal["linear", "mlp", "flat"] = "linear"
    hidden: int = 0
    scores: Literal["plain", "released"] = "plain"
    dropout: float = 0.0
    label_smoothing: float = 0.0
    augment: Augment = field(default_factory=Augment)
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
        least = 2 if self.answer == "classes" else 1
        if len(self.classes) < least:
            raise NeuroFMError(
                f"task.classes is {self.classes}: give {least} names or more, or leave "
                "it to the data"
            )
        if self.answer != "classes" and self.label_smoothing:
            raise NeuroFMError(
                f"task.label_smoothing is {self.label_smoothing}, but "
                f"task.answer={self.answer}: classes alone are smoothed"
            )
        if self.answer == "numbers" and self.class_weight != "even":
            raise NeuroFMError(
                "task.class_weight=balanced weighs classes and tags, but "
                "task.answer=numbers: leave it out"
            )
        if self.head == "flat" and self.pool != "mean":
            raise NeuroFMError(
                f"task.pool is {self.pool}, but task.head=flat pools nothing: leave "
                "task.pool out, or take another head"
            )
        for name in ("weights", "centre", "spread"):
            given = getattr(self, name)
            if given and len(given) != len(self.classes):
                raise NeuroFMError(
                    f"task.{name} has {len(given)} values for {len(self.classes)} "
                    "task.classes: leave both to the data"
                )
        for name in ("last_layers", "lora_rank"):
            if getattr(self, name) < 1:
                raise NeuroFMError(
                    f"task.{name} is {getattr(self, name)}: give 1 or more"
                )

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """The batch of the task, and for training the label.

        That is the number of a class, or K values: 1 where a tag is there and else 0,
        or the numbers in the units of the data, NaN where one is not known.
        """
        own = want in ("train", "prediction")
        spec = self.task.batch_spec("features" if own else want)
        if want != "train":
            return spec
        label = Field(shape=(), axes=(), dtype="int32", words=self.classes)
        if self.answer != "classes":
            k = len(self.classes)
            words = self.classes if self.answer == "tags" else ()
            label = Field(shape=(k,), axes=(self.answer,), words=words)
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
        key_part, key_head = jax.random.split(key)
        features = {k: v for k, v in batch.items() if k != "label"}
        values = jax.eval_shape(
            lambda v, b: self.task.read(v, b).values, model, features
        )
        layers = self._layers(values)
        part = adapt.start(self._how, model["params"], key_part)
        made = self._head(layers[0].shape[-1]).start(
            key_head, len(layers), layers[0].shape[1:], len(self.classes)
        )
        return {"params": {"task": part, "head": made}, "slow": {}, "buffers": {}}

    def _head(self, width: int) -> Head:
        hidden = 0 if self.head == "linear" else self.hidden
        if self.head == "mlp":
            hidden = hidden or getattr(self.task, "width", width)
        return Head(self.head, self.pool, self.layer == "mix", hidden)

    def _layers(self, values: Mapping[str, Any]) -> list[Any]:
        """What the head is put on: one layer, or all of them in order."""
        if self.layer == "mix":
            return [values[name] for name in sorted(values, key=_natural)]
        if self.layer not in values:
            raise NeuroFMError(
                f"task.layer is {self.layer!r}: give mix for all layers, or one of "
                f"{', '.join(sorted(values, key=_natural))}"
            )
        return [values[self.layer]]

    def model(self, variables: Tree) -> Tree:
        """The variables of `task` that one computes with."""
        frozen = variables["frozen"]["task"]
        part = variables["params"].get("task", {})  # a probe's is empty, and not kept
        params = adapt.joined(self._how, frozen["params"], part)
        return {**frozen, "params": params}

    def _outputs(
        self, head: Tree, reading: Reading, kept: Float[Array, "B D"] | None = None
    ) -> Float[Array, "B K"]:
        """Of the head, in float32; numbers in units of their spread."""
        layers = self._layers(reading.values)
        made = self._head(layers[0].shape[-1])
        x = made.outputs(head, layers, self._pooled(reading.mask), kept)
        return x if self.scores == "plain" else jax.nn.sigmoid(x)

    def _pooled(self, mask: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
        if not self.center_tokens:
            return mask
        n = mask.sum(1, keepdims=True)  # of a short example the middle is its own
        at = jnp.cumsum(mask, 1) - 1 - (n // 2 - self.center_tokens // 2)
        return mask & (at >= 0) & (at < self.center_tokens)

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """The task's own draws, a key of dropout and one of changes per example."""
        features = {k: v for k, v in batch.items() if k != "label"}
        key_task, key_head, key_augment = jax.random.split(key, 3)
        own = dict(self.task.draw(features, key_task, step, train))
        keys = jax.vmap(partial(jax.random.fold_in, key_head))(batch["index"])
        draws: Tree = {"dropout": jax.random.key_data(keys)}
        keys = jax.vmap(partial(jax.random.fold_in, key_augment))(batch["index"])
        draws["augment"] = jax.random.key_data(keys)
        if "step" in own:
            draws["step"] = own.pop("step")
        return {**draws, "task": own}

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """The error of the answers, see `objectives.answers`."""
        del step
        if train:
            batch = {**batch, **self.augment.changed(batch, draws["augment"])}
        shared = {"step": draws["step"]} if "step" in draws else {}
        reading = self.task.features(
            self.model(variables), batch, {**draws["task"], **shared}, train
        )
        kept = None
        if train and self.dropout:
            keys = jax.random.wrap_key_data(draws["dropout"])
            tokens = self._layers(reading.values)[0].shape[1:]
            width = self._head(tokens[-1]).n_features(tokens)
            share = 1 - self.dropout
            draw = partial(jax.random.bernoulli, p=share, shape=(width,))
            kept = jax.vmap(draw)(keys) / share
        made = self._outputs(variables["params"]["head"], reading, kept)
        label, valid = batch["label"], batch["valid"]
        weights = jnp.array(self.weights or [1.0] * len(self.classes))
        if self.answer == "classes":
            term, sums = answers.classes(
                made, label, valid, weights, self.label_smoothing
            )
        elif self.answer == "tags":
            term, sums = answers.tags(made, label, valid, weights)
        else:
            label = (label - self._centre) / self._spread
            term, sums = answers.numbers(made, label, valid)
        return {self.answer: term}, sums

    @property
    def _centre(self) -> Float[Array, " K"]:
        return jnp.array(self.centre or [0.0] * len(self.classes))

    @property
    def _spread(self) -> Float[Array, " K"]:
        return jnp.array(self.spread or [1.0] * len(self.classes))

    def summary(self, sums: Tree) -> dict[str, Array]:
        """How good the answers are, see `objectives.answers`."""
        return answers.summary(self.answer, sums)

    # ---- the trained model ----------------------------------------------------------

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """What the task reads; `prediction`: [B, 1, K] of the item.

        Class scores, the log odds of tags, or numbers in the units of the data.
        """
        model = self.model(variables)
        if want != "prediction":
            return self.task.read(model, batch, want)
        reading = self.task.read(model, batch)
        made = self._outputs(variables["params"]["head"], reading)
        if self.answer == "numbers":
            made = made * self._spread + self._centre
        here = self._pooled(reading.mask).astype(jnp.float32)
        middle = (reading.times_s * here).sum(1) / jnp.maximum(here.sum(1), 1)
        some = reading.mask.any(1, keepdims=True)
        return Reading({"prediction": made[:, None]}, middle[:, None], some)

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


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbered layers in the order of their numbers, then the named ones."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)
