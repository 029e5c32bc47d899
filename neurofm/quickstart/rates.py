"""A network fine-tuned on few labels, its rate and its step chosen on validation.

The same for a pretrained network and for one that starts from scratch.

Axes: N windows, K classes.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
from jaxtyping import Float

from neurofm.models.finetune import Finetune
from neurofm.optim import Group, Optim
from neurofm.step import new_state, train_step
from neurofm.task import Tree

log = logging.getLogger(__name__)

RATES = (5e-4, 1e-3)
STEPS, BATCH = 280, 20
SIZE = 100  # of a batch that is read
EVERY = 40  # steps from one look at validation to the next
# The head starts at zero and learns ten times as fast, as released.
HEAD = Group(path="^head/", lr_scale=10.0)
OPTIM = Optim(warmup=0.1, clip_norm=1.0, weight_decay=0.01, groups=(HEAD,))
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tuned:
    """What was chosen: the rate, the step, its accuracy on validation, its weights."""

    rate: float
    step: int
    accuracy: float
    variables: Tree


def tuned(
    task: Finetune,
    model: Tree,
    train: Arrays,
    valid: Arrays,
    seed: int,
) -> Tuned:
    """Train once with each of `RATES`; the best look at validation is kept.

    Args:
      model: variables of the network under the head.
      train, valid: batches of all windows, with `label`.
    """
    found = []
    for rate in RATES:
        found.append(_trained(task, model, train, valid, seed, rate))
        log.info("rate %g: %.1f %% on validation", rate, 100 * found[-1].accuracy)
    return max(found, key=lambda one: one.accuracy)


def _trained(
    task: Finetune, model: Tree, train: Arrays, valid: Arrays, seed: int, rate: float
) -> Tuned:
    """The best look of one run, the first of equal ones."""
    frozen = {"task": model}
    optim = replace(OPTIM, lr=rate)
    start, step = _programs(task, optim, STEPS, seed)
    state = start(jax.random.key(seed), _rows(train, [0]), frozen)
    looks = []
    for i in range(STEPS):
        rng = np.random.default_rng((seed, i))
        pick = rng.choice(len(train["label"]), BATCH, replace=False)
        state, _, _ = step(state, frozen, _rows(train, pick))
        if (i + 1) % EVERY == 0:
            kept = {name: state[name] for name in ("params", "slow", "buffers")}
            said = answers(task, {**kept, "frozen": frozen}, valid)
            accuracy = float((said.argmax(1) == valid["label"]).mean())
            looks.append(Tuned(rate, i + 1, accuracy, jax.device_get(kept)))
    return max(looks, key=lambda one: one.accuracy)


@functools.cache  # both networks share those of a rate
def _programs(task: Finetune, optim: Optim, steps: int, seed: int):
    start = jax.jit(partial(new_state, task, optim, steps))
    return start, jax.jit(train_step(task, optim, steps, 1, seed), donate_argnums=0)


@functools.cache  # all rates, and both networks, share its programs
def _read(task: Finetune):
    return jax.jit(lambda v, b: task.read(v, b, "prediction").values["prediction"])


def answers(
    task: Finetune, variables: Tree, arrays: Arrays
) -> Float[np.ndarray, "N K"]:
    """Scores of the classes of all windows."""
    n, read = len(arrays["index"]), _read(task)
    out = []
    for first in range(0, n, SIZE):
        rows = np.resize(np.arange(first, min(first + SIZE, n)), SIZE)
        out.append(np.asarray(read(variables, _rows(arrays, rows)))[:, 0])
    return np.concatenate(out)[:n]  # what fills the last batch lies behind


def _rows(arrays: Arrays, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    picked = {name: x[np.asarray(rows)] for name, x in arrays.items()}
    return {**picked, "index": np.arange(len(rows), dtype=np.int32)}
