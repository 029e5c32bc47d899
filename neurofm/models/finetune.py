"""A trained model with a head on its features, trained with labels: a Task of its own.

The model comes frozen, as every model that another leans on. What is trained of it is
told by `regime` (`nn.adapt`) and starts where the model is; a checkpoint holds that
part and the head.

Axes: B items, T tokens, D features, H hidden units, K classes, tags, numbers, symbols
or regions, S symbols of a sequence at most.
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
from neurofm.models import finetune_windows as windowed
from neurofm.models.finetune_settings import refuse_odd
from neurofm.nn import adapt
from neurofm.nn.heads import Head
from neurofm.objectives import answers, sequences
from neurofm.parallel.mesh import Platform
from neurofm.signals.augment import Augment, mixed
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want


@dataclass(frozen=True, kw_only=True)
class Finetune(Task):
    """Classes, tags, numbers, sequences or responses of a brain from a task's tokens.

    Attributes:
      task: what gives the features; a run takes it from the model it loads.
      answer: what is told of an item: one of the `classes`, any of the `tags`,
        `numbers`; a `sequence` of symbols, told by all tokens, see
        `objectives.sequences`; or the `responses` of a brain's regions to it.
      classes: names of the K classes, tags, numbers, symbols or regions, in order; a
        run takes them from its data.
      symbols: of a sequence, the `characters` of a label or its `words`.
      length: S; a run takes it from its data.
      class_weight: how much the items of a class, or the presence of a tag, count;
        `even` alike, `balanced` so that each class counts alike.
      weights: these weights; a run takes them from its data. Empty: all 1.
      centre, spread: mean and deviation of each number over the training examples; a
        run takes them from its data. Empty: 0 and 1.
      layer: of `task.read`, by name; or `mix`, a learned mix of all of them.
      windows: of the model, side by side, that make an example of sound.
      pool: `mean` over tokens, `attention`, `windows`: the mean of each of those, as a
        finite impulse response has it, or `bins`: the mean of each of so many equal
        shares of the example, which keeps their order; see `nn.heads`. A sequence pools
        nothing.
      bins: of that pooling.
      standardise: each feature of the head has mean 0 and deviation 1 over the first
        batch of training; else they keep the model's scale, and what hardly varies is
        hardly learnt.
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
    symbols: Literal["characters", "words"] = "characters"
    length: int = 1
    class_weight: Literal["even", "balanced"] = "even"
    weights: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    layer: str = "last"
    windows: int = 1
    pool: Literal["mean", "attention", "windows", "bins"] = "mean"
    bins: int = 4
    standardise: bool = False
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
        refuse_odd(self)

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """The batch of the task, and for training the label.

        That is the number of a class; S numbers of symbols, -1 behind the last; or K
        values: 1 where a tag is there and else 0, or the numbers or responses in the
        units of the data, NaN where one is not known.
        """
        own = want in ("train", "prediction")
        spec = self.task.batch_spec("features" if own else want)
        if own:
            spec = windowed.widened(spec, self.windows)
        if want != "train":
            return spec
        label = Field(shape=(), axes=(), dtype="int32", words=self.classes)
        if self.answer == "sequence":
            shape, axes = (self.length,), (self.symbols,)
            label = Field(shape=shape, axes=axes, dtype="int32", words=self.classes)
        elif self.answer != "classes":
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
        if self.windows > 1:  # a batch to embed is of single windows
            shape = self.batch_spec("prediction").fields["audio/wave"].shape
            wave = batch["audio/wave"]
            if wave.shape[1:] != shape:
                features["audio/wave"] = jnp.zeros((len(wave), *shape), wave.dtype)
        values = jax.eval_shape(lambda v, b: self._read(v, b).values, model, features)
        layers = self._layers(values)
        part = adapt.start(self._how, model["params"], key_part)
        head = self._head(layers[0].shape[-1])
        made = head.start(key_head, len(layers), layers[0].shape[1:], self._n_outputs)
        buffers: Tree = {}
        if self.standardise:
            reading = self._read(model, features)
            read = self._layers(reading.values), self._pooled(reading.mask)
            buffers["head"] = head.usual(made, *read, features["valid"])
        params = {"task": part, "head": made}
        return {"params": params, "slow": {}, "buffers": buffers}

    @property
    def _n_outputs(self) -> int:
        return len(self.classes) + (self.answer == "sequence")  # and the blank

    def _read(
        self,
        model: Tree,
        batch: Batch,
        draws: Tree | None = None,
        train: bool = False,
    ) -> Reading:
        """All tokens of every item; with draws, as in training or its evaluation."""
        rows = windowed.folded(batch, self.windows)
        if draws is None:
            reading = self.task.read(model, rows)
        else:
            reading = self.task.features(model, rows, draws, train)
        sfreq = self.task.batch_spec("features").contract.sfreq
        return windowed.joined(reading, batch, self.windows, sfreq)

    def _head(self, width: int) -> Head:
        hidden = 0 if self.head == "linear" else self.hidden
        if self.head == "mlp":
            hidden = hidden or getattr(self.task, "width", width)
        pool = "none" if self.answer == "sequence" else self.pool
        parts = self.bins if pool == "bins" else self.windows
        return Head(self.head, pool, self.layer == "mix", hidden, parts)

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
        self, variables: Tree, reading: Reading, kept: Float[Array, "B D"] | None = None
    ) -> Float[Array, "B *T K"]:
        """Of the head, in float32; numbers in units of their spread."""
        layers = self._layers(reading.values)
        head, usual = variables["params"]["head"], variables["buffers"].get("head")
        made = self._head(layers[0].shape[-1])
        x = made.outputs(head, layers, self._pooled(reading.mask), kept, usual)
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
        rows = windowed.folded(features, self.windows)
        own = dict(self.task.draw(rows, key_task, step, train))
        keys = jax.vmap(partial(jax.random.fold_in, key_head))(batch["index"])
        draws: Tree = {"dropout": jax.random.key_data(keys)}
        keys = jax.vmap(partial(jax.random.fold_in, key_augment))(batch["index"])
        draws["augment"] = jax.random.key_data(keys)
        if "step" in own:
            draws["step"] = own.pop("step")
        if train and self.augment.mixup:
            key_mixup = jax.random.fold_in(key_augment, 2**32 - 1)
            whole = {**batch, "label": self._target(batch["label"])}
            draws["mixup"] = self.augment.partners(whole, key_mixup)
        return {**draws, "task": windowed.by_item(own, self.windows)}

    def _target(self, label: Array) -> Array:
        """The label as it is learnt and mixed: of a class, its one-hot vector."""
        if self.answer == "classes":
            return jax.nn.one_hot(label, len(self.classes))
        if self.answer == "numbers":
            return (label - self._centre) / self._spread
        return label

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """The error of the answers, see `objectives.answers` and `.sequences`."""
        del step
        batch = {**batch, "label": self._target(batch["label"])}
        if train:
            if "mixup" in draws:
                batch = {**batch, **mixed(batch, draws["mixup"])}
            batch = {**batch, **self.augment.changed(batch, draws["augment"])}
        reading = self._read(self.model(variables), batch, self._own(draws), train)
        kept = self._kept(reading, draws) if train and self.dropout else None
        made = self._outputs(variables, reading, kept)
        label, valid = batch["label"], batch["valid"]
        weights = jnp.array(self.weights or [1.0] * len(self.classes))
        if self.answer == "classes":
            term, sums = answers.classes(
                made, label, valid, weights, self.label_smoothing
            )
        elif self.answer == "tags":
            term, sums = answers.tags(made, label, valid, weights)
        elif self.answer == "numbers":
            term, sums = answers.numbers(made, label, valid)
        elif self.answer == "responses":
            term, sums = answers.responses(made, label, valid)
        else:
            term, sums = sequences.ctc(made, reading.mask, label, valid)
        return {self.answer: term}, sums

    def _own(self, draws: Tree) -> Tree:
        """The task's draws, with what all examples share."""
        shared = {"step": draws["step"]} if "step" in draws else {}
        return {**windowed.by_window(draws["task"], self.windows), **shared}

    def _kept(self, reading: Reading, draws: Tree) -> Float[Array, "B F"]:
        """Features that dropout leaves, scaled so that their mean stays."""
        keys = jax.random.wrap_key_data(draws["dropout"])
        tokens = self._layers(reading.values)[0].shape[1:]
        width = self._head(tokens[-1]).n_features(tokens)
        share = 1 - self.dropout
        draw = partial(jax.random.bernoulli, p=share, shape=(width,))
        return jax.vmap(draw)(keys) / share

    @property
    def _centre(self) -> Float[Array, " K"]:
        return jnp.array(self.centre or [0.0] * len(self.classes))

    @property
    def _spread(self) -> Float[Array, " K"]:
        return jnp.array(self.spread or [1.0] * len(self.classes))

    def summary(self, sums: Tree) -> dict[str, Array]:
        """How good the answers are, see `objectives.answers`."""
        if self.answer == "sequence":
            return sequences.summary(sums)
        return answers.summary(self.answer, sums)

    # ---- the trained model ----------------------------------------------------------

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """What the task reads; `prediction`: [B, 1, K] of the item.

        Class scores, the log odds of tags, or numbers or responses in the units of the
        data. Of a sequence [B, T, K + 1], scores of the blank and of every symbol.
        """
        model = self.model(variables)
        if want != "prediction":
            return self.task.read(model, batch, want)
        reading = self._read(model, batch)
        made = self._outputs(variables, reading)
        if self.answer == "sequence":
            return Reading({"prediction": made}, reading.times_s, reading.mask)
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
        scale = (r"(^|/)head/(centre|spread)$", ())
        return ((r"^head/", ()), scale, (r"/kernel/(down|up)$", ()), *below)

    def flops(self, batch_size: int) -> float:
        """Those of the task, of which this trains a part."""
        return self.task.flops(batch_size * self.windows)


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbered layers in the order of their numbers, then the named ones."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)
