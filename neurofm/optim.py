"""AdamW or LAMB with a scheduled rate and norm clipping, by groups of parameters."""

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from neurofm import averaging, lamb, layerwise, onecycle
from neurofm.errors import NeuroFMError

REST = "rest"  # the group of what no rule matches
STAIRS, STAIR = 100, 0.99  # how many there are, and the share left by each


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters with settings of their own, and an optimizer state of their own.

    Attributes:
      path: regex looked for in a parameter's path (`encoder/lstm/input_0`).
      lr_scale: its rate over that of the rest.
      weight_decay: its decay; None is that of the rest.
    """

    path: str
    lr_scale: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW (decoupled decay, multiplied by the scheduled rate) on all parameters.

    Attributes:
      algorithm: `adamw`; or `lamb`, where each tensor's step goes by its own norm, see
        `neurofm.lamb`.
      lr: peak learning rate.
      betas, eps: Adam's moments.
      weight_decay: decay of every trained tensor.
      weight_decay_end: where that ends after half a cosine over the run; None leaves it
        as it is. A group with a decay of its own keeps it.
      clip_norm: global gradient norm above which gradients are scaled down; 0 is off.
      warmup: share of the run over which the rate rises; it then falls as half a cosine
        to `floor` of the peak at the end of the run.
      warmup_form: `linear` from 0, or `log` from a tenth of the peak (BrainOmni).
      floor: share of the peak at the end.
      schedule: `cosine`, as above; `stairs`, where behind the same warm-up the rate
        falls to 0.99 of itself a hundred times (BrainBERT); or `onecycle` as in torch,
        where the first moment cycles against the rate between `betas[0]` and
        `low_beta`, see `neurofm.onecycle`.
      epochs: equal parts of the run, in each of which the rate stays what it is at its
        start (Du-IN); 0 moves it every step.
      low_beta: the first moment's decay at the peak.
      swa_epochs: epochs of a `onecycle` run whose task averages weights as Lightning
        does, see `neurofm.averaging`; in its last epochs the rate goes to `swa_lr`.
      swa_lr: rate of the last epoch of such a run.
      groups: the first whose path is found in a parameter's takes it.
      layers: paths from the input to the output, see `neurofm.layerwise`.
      layer_decay: rate of a layer over that of the one above it.
      unfreeze: share of the run from one layer's opening to that of the next below;
        what is above all layers learns from the start.
      first_step: `scheduled`, or `released`: there every group but the first took its
        first step at the peak rate (BrainOmni).
    """

    algorithm: Literal["adamw", "lamb"] = "adamw"
    lr: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.04
    weight_decay_end: float | None = None
    clip_norm: float = 5.0
    warmup: float = 100_000 / 375_000
    warmup_form: Literal["linear", "log"] = "linear"
    floor: float = 0.0
    schedule: Literal["cosine", "stairs", "onecycle"] = "cosine"
    epochs: int = 0
    low_beta: float = 0.85
    swa_epochs: int = 0
    swa_lr: float = 1e-5
    groups: tuple[Group, ...] = ()
    layers: tuple[str, ...] = ()
    layer_decay: float = 1.0
    unfreeze: float = 0.0
    first_step: Literal["scheduled", "released"] = "scheduled"

    def __post_init__(self):
        if not 0 <= self.warmup <= 1:
            raise NeuroFMError(
                f"optim.warmup is {self.warmup}: give the share of the run, 0 to 1"
            )
        if not 0 <= self.floor <= 1:
            raise NeuroFMError(
                f"optim.floor is {self.floor}: give the share of the peak, 0 to 1"
            )
        if self.swa_epochs and self.schedule != "onecycle":
            raise NeuroFMError(
                f"optim.swa_epochs is {self.swa_epochs}: weights are averaged under "
                "optim.schedule=onecycle alone"
            )
        if self.algorithm == "lamb" and self.schedule == "onecycle":
            raise NeuroFMError(
                "optim.algorithm=lamb has no moment that cycles: set optim.schedule to "
                "cosine or stairs"
            )
        if self.algorithm == "lamb" and self.weight_decay_end is not None:
            raise NeuroFMError(
                "optim.algorithm=lamb has one weight decay all along: leave "
                "optim.weight_decay_end out"
            )
        if not self.layers and (self.layer_decay != 1 or self.unfreeze):
            raise NeuroFMError(
                f"optim.layer_decay is {self.layer_decay} and optim.unfreeze "
                f"{self.unfreeze}, but optim.layers is empty: name the layers by their "
                "paths, from the input to the output"
            )
        if not 0 < self.layer_decay <= 1 or not 0 <= self.unfreeze <= 1:
            raise NeuroFMError(
                f"optim.layer_decay is {self.layer_decay} and optim.unfreeze "
                f"{self.unfreeze}: give more than 0 and at most 1, and a share of the "
                "run, 0 to 1"
            )
        for name, paths in (
            ("groups", [group.path for group in self.groups]),
            ("layers", self.layers),
        ):
            for path in paths:
                try:
                    re.compile(path)
                except re.error as error:
                    raise NeuroFMError(
                        f"optim.{name} has the path {path!r}, which is no regular "
                        f"expression ({error})"
                    ) from error

    def learning_rate(self, step: Int[Array, ""], total_steps: int) -> Float[Array, ""]:
        """Rate used at step `step` (of a linear warm-up 0 at the first step)."""
        if self.schedule == "onecycle":
            at = averaging.frozen_at(step, total_steps, self.swa_epochs)
            rate = onecycle.rate(at, total_steps, self.warmup, self.lr)
            return averaging.rate(rate, step, total_steps, self.swa_epochs, self.swa_lr)
        if self.epochs:
            number = jnp.floor((step + 0.5) * (self.epochs / total_steps))
            step = number * (total_steps / self.epochs)
        warm = round(self.warmup * total_steps)
        rising, ahead = step / max(warm, 1), 0
        if self.warmup_form == "log":
            warm = warm if warm > 1 else 0
            rising = 0.1 + 0.9 * jnp.log(step + 1.0) / math.log(max(warm, 2))
            ahead = 1  # its warm-up ends at the peak, so the fall begins a step below
        done = (step - warm + ahead) / max(total_steps - warm, 1)
        if self.schedule == "stairs":
            falling = STAIR ** jnp.floor(STAIRS * done + 1e-4)  # a step's share rounds
        else:
            falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
            falling = self.floor + (1 - self.floor) * falling
        return self.lr * jnp.where(step < warm, rising, falling)

    def decay(self, step: Int[Array, ""], total_steps: int) -> Float[Array, ""]:
        """Weight decay used at step `step`."""
        start, end = self.weight_decay, self.weight_decay_end
        end = start if end is None else end
        return end + (start - end) * (1 + jnp.cos(jnp.pi * step / total_steps)) / 2

    def first_decay(self, step: Int[Array, ""], total_steps: int) -> Float[Array, ""]:
        """Decay of Adam's first moment at step `step` of a `onecycle` run."""
        at = averaging.frozen_at(step, total_steps, self.swa_epochs)
        ends = self.betas[0], self.low_beta
        return onecycle.momentum(at, total_steps, self.warmup, *ends)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The optax chain for a run of `total_steps`; gradients come clipped."""
        if self.layer_decay == 1 and not self.unfreeze:
            return self._by_group(total_steps)
        every = self.unfreeze * total_steps
        by_layer = layerwise.by_layer(self.layers, self.layer_decay, every)
        return optax.chain(self._by_group(total_steps), by_layer)

    def _by_group(self, total_steps: int) -> optax.GradientTransformation:
        if not self.groups:
            return self._part(total_steps, 1.0, None, late=False)
        parts: dict[Hashable, optax.GradientTransformation] = {}
        parts[REST] = self._part(total_steps, 1.0, None, late=False)
        for i, group in enumerate(self.groups):
            parts[f"group_{i}"] = self._part(
                total_steps,
                group.lr_scale,
                group.weight_decay,
                late=self.first_step == "released",
            )
        return optax.partition(parts, self.labels)

    def _part(
        self, total_steps: int, scale: float, own_decay: float | None, late: bool
    ) -> optax.GradientTransformation:
        """Of one group; without a decay of its own it takes that of all."""

        def rate(step):
            rate = self.learning_rate(jnp.asarray(step), total_steps)
            rate = jnp.where(step == 0, self.lr, rate) if late else rate
            return rate if scale == 1.0 else scale * rate

        def scheduled(step):
            return self.decay(jnp.asarray(step), total_steps)

        decay: Any = self.weight_decay if own_decay is None else own_decay
        if own_decay is None and self.weight_decay_end is not None:
            decay = scheduled
        if self.algorithm == "lamb":
            return optax.chain(
                lamb.adam_without_correction(*self.betas, self.eps),
                optax.add_decayed_weights(decay),
                lamb.by_trust_ratio(),
                optax.scale_by_learning_rate(rate),
            )
        if self.schedule == "onecycle":
            # Corrects the first moment by the decay of this step alone, as torch does.
            return optax.inject_hyperparams(optax.adamw)(
                learning_rate=rate,
                b1=lambda step: self.first_decay(jnp.asarray(step), total_steps),
                b2=self.betas[1],
                eps=self.eps,
                weight_decay=decay,
            )
        adamw = optax.adamw
        if decay is scheduled:
            adamw = optax.inject_hyperparams(adamw)
        return adamw(
            rate,
            b1=self.betas[0],
            b2=self.betas[1],
            eps=self.eps,
            weight_decay=decay,
        )

    def labels(self, params: Any) -> Any:
        """The group of every parameter.

        Raises:
          NeuroFMError: a group without any.
        """

        def label(path, _):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            for i, group in enumerate(self.groups):
                if re.search(group.path, name):
                    return f"group_{i}"
            return REST

        labels = jax.tree_util.tree_map_with_path(label, params)
        used = set(jax.tree.leaves(labels))
        for i, group in enumerate(self.groups):
            if f"group_{i}" not in used:
                raise NeuroFMError(
                    f"optim.groups has the path {group.path!r}, which no parameter is "
                    "left for: take the group out, or mend its path"
                )
        return labels

    def clip_factor(self, norm: Float[Array, ""]) -> Float[Array, ""]:
        """What gradients of global norm `norm` are multiplied by."""
        if not self.clip_norm:
            return jnp.ones_like(norm)
        return jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))


def norms_by_group(grads: dict) -> dict[str, Float[Array, ""]]:
    """Gradient norm of each top-level parameter group."""
    return {name: optax.tree.norm(g) for name, g in grads.items()}
