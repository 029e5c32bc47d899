"""BrainOmni's network trained end to end with labels: what its sizes could reach.

Axes: B recordings, C sensors, S sources, W tokens in time, E width, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from neurofm.contract import BatchSpec
from neurofm.models.brainomni import BrainOmni
from neurofm.nn.norms import l2_normalize
from neurofm.optim import Group, Optim
from neurofm.step import train_step
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

STEPS, BATCH = 600, 16
N_CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class Labelled(Task):
    """Both stages and a linear head on what the probe gets, all of it trained.

    Vectors go on to the blocks without being quantised: labels need no codes, and
    codebooks would have to be learnt beside them.
    """

    name: ClassVar[str] = "labelled"

    task: BrainOmni

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """That of the network; training wants `label` beside it."""
        return self.task.batch_spec("features")

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh parameters, those of the first stage as in `frozen`."""
        fresh = self.task.init(key, batch, frozen)
        return self.start({**fresh, "frozen": frozen})

    def start(self, fresh: Tree) -> Tree:
        """Parameters of an untrained network, and a head of zeros."""
        width = 3 * self.task.tokenizer.n_sources * self.task.width
        kept = self.task.inference(fresh)["params"]
        params = {
            "blocks": kept,
            "tokenizer": fresh["frozen"]["tokenizer"]["params"],
            "head": jnp.zeros((width, N_CLASSES)),
        }
        return {"params": params, "slow": {}, "buffers": {}}

    def layers(self, variables: Tree, batch: Batch) -> Float[Array, "L B S W E"]:
        """The output of every block."""
        params, task = variables["params"], self.task
        first = params["tokenizer"]
        latents, _, valid = task.tokenizer.latents(first, batch, task.overlap)
        both = {
            "params": params["blocks"],
            "frozen": {"tokenizer": {"params": first}},
        }
        return task.layers(both, task.input_scaled(latents), valid, None)

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Nothing is random."""
        return {}

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Cross-entropy of the classes."""
        last = l2_normalize(self.layers(variables, batch)[-2], 1e-6)  # [B, S, W, E]
        pooled = jnp.concatenate([last.mean(2), last.max(2), last.std(2)], -1)
        logits = pooled.reshape(len(last), -1) @ variables["params"]["head"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        hits = (logits.argmax(-1) == batch["label"]).sum()
        return {"classes": (losses.sum(), jnp.float32(len(last)))}, {"hits": hits}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """`last` [B, W, S E], as `BrainOmni` gives it."""
        last = l2_normalize(self.layers(variables, batch)[-2], 1e-6).swapaxes(1, 2)
        b, w = last.shape[:2]
        times = self.task.tokenizer.token_times(w, self.task.overlap)
        mask = jnp.ones((b, w), bool)
        values = {"last": last.reshape(b, w, -1)}
        return Reading(values, jnp.broadcast_to(times, mask.shape), mask)

    def flops(self, batch_size: int) -> float:
        """Those of both stages, all of it trained."""
        first = self.task.tokenizer.flops(batch_size)
        return self.task.flops(batch_size) + first


def train_with_labels(
    task: BrainOmni,
    fresh: Tree,
    label: np.ndarray,
    batch_of: Callable[[np.ndarray], Batch],
    rows: np.ndarray,
    seed: int,
) -> tuple[Labelled, Tree]:
    """Train on the rows of one fold.

    Args:
      fresh: variables of the untrained network.
      label: class of every row of the store.
      batch_of: rows -> a batch of them.
      rows: those to train on.
    """
    own = Labelled(task=task)
    keys = Group(path="to_sources/key", lr_scale=10)  # as in the first stage's recipe
    optim = Optim(lr=2e-3, warmup=0.1, clip_norm=1.0, groups=(keys,))
    start = own.start(fresh)
    opt = jax.jit(optim.build(STEPS).init)(start["params"])
    state = {**start, "opt": opt, "step": jnp.zeros((), jnp.int32)}
    step = jax.jit(train_step(own, optim, STEPS, 1, seed), donate_argnums=0)

    def batch(i: int) -> dict[str, Any]:
        pick = np.random.default_rng((seed, i)).choice(rows, BATCH, replace=False)
        return {**batch_of(pick), "label": label[pick].astype(np.int32)}

    for i in range(STEPS):
        state, _, _ = step(state, {}, batch(i))
    kept = {name: state[name] for name in ("params", "slow", "buffers")}
    return own, jax.device_get(kept)
