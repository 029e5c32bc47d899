"""Averaged weights as Lightning's weight averaging (SWA) realises them in TRIBE v1.

Of E epochs, averaging begins with epoch int(0.6 E) - 1. Weights are taken at the start
of each epoch from there on, so those that the last epoch ends with are in no average.
The schedule stops at the first of these epochs; rates then go down as a cosine, epoch
by epoch, in int(0.4 E) of them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from neurofm.task import Tree


def first_epoch(epochs: int) -> int:
    """The epoch, from 0, whose first weights are the first in the average."""
    return max(int(0.6 * epochs) - 1, 0)


def epoch(step: Int[Array, ""], total_steps: int, epochs: int) -> Int[Array, ""]:
    """The epoch that a step lies in; all are equally long, to a step."""
    return step * epochs // total_steps


def frozen_at(step: Int[Array, ""], total_steps: int, epochs: int) -> Int[Array, ""]:
    """The step that a schedule is read at: none after the first step of averaging."""
    if not epochs:
        return step
    begin = -(first_epoch(epochs) * total_steps // -epochs)
    return jnp.minimum(step, begin)


def rate(
    scheduled: Float[Array, ""],
    step: Int[Array, ""],
    total_steps: int,
    epochs: int,
    final: float,
) -> Float[Array, ""]:
    """The scheduled rate until averaging begins, from where it goes to `final`."""
    if not epochs:
        return scheduled
    fall = max(int(0.4 * epochs), 1)
    into = epoch(step, total_steps, epochs) - first_epoch(epochs)
    share = jnp.clip(into / fall, 0, 1)
    return final + (scheduled - final) * (1 + jnp.cos(jnp.pi * share)) / 2


def start(params: Tree) -> Tree:
    """An average of nothing yet, which holds the parameters it will be replaced by."""
    return {
        "average": jax.tree.map(jnp.copy, params),
        "count": jnp.zeros((), jnp.int32),
    }


def moved(
    slow: Tree, params: Tree, step: Int[Array, ""], total_steps: int, epochs: int
) -> Tree:
    """The average with the parameters that step `step` starts from, if it counts."""
    taken = _counts(step, total_steps, epochs)
    share = taken / (slow["count"] + 1)
    average = jax.tree.map(lambda a, p: a + share * (p - a), slow["average"], params)
    return {"average": average, "count": slow["count"] + taken}


def _counts(step: Int[Array, ""], total_steps: int, epochs: int) -> Bool[Array, ""]:
    now = epoch(step, total_steps, epochs)
    begins = (step == 0) | (now > epoch(step - 1, total_steps, epochs))
    return begins & (now >= first_epoch(epochs))


def result(slow: Tree, params: Tree) -> Tree:
    """The average, or the parameters themselves before anything was averaged."""
    some = slow["count"] > 0
    return jax.tree.map(lambda a, p: jnp.where(some, a, p), slow["average"], params)
