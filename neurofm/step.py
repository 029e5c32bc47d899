"""One training step: draws, loss, gradients, update, teachers, all in one program.

Axes: B items of a step, M microbatches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array

from neurofm.errors import NeuroFMError
from neurofm.optim import Optim, norms_by_group
from neurofm.parallel import sharding
from neurofm.task import Batch, Task, Tree

State = dict[str, Any]  # params, slow, buffers, opt, step
Metrics = dict[str, Array]


def new_state(
    task: Task, optim: Optim, total_steps: int, key: jax.Array, batch: Batch, frozen
) -> State:
    """Fresh variables and optimizer state at step 0; call under jit."""
    variables = task.init(key, batch, frozen)
    opt = optim.build(total_steps).init(variables["params"])
    return {**variables, "opt": opt, "step": jnp.zeros((), jnp.int32)}


def abstract_state(
    task: Task,
    optim: Optim,
    total_steps: int,
    batch: Any,
    mesh: Mesh | AbstractMesh,
    frozen: Tree,
) -> tuple[State, list[str]]:
    """Shapes, dtypes and places of a run's state, and what did not divide, a line each.

    `batch` and `frozen` may hold arrays or `jax.ShapeDtypeStruct`; nothing is computed.
    """

    def fresh(batch, frozen) -> State:
        return new_state(task, optim, total_steps, jax.random.key(0), batch, frozen)

    shapes = jax.eval_shape(fresh, batch, frozen)
    placed, notes = sharding.state_shardings(
        shapes, shapes["params"], mesh, task.rules()
    )

    def place(x, where):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(place, shapes, placed), notes


def compiled_step(
    task: Task, optim: Optim, total_steps: int, accumulate: int, seed: int, state: State
) -> Callable[[State, Tree, Batch], tuple[State, Metrics, Tree]]:
    """`train_step` as one program that gives its state's memory to the next state."""
    return jax.jit(
        train_step(task, optim, total_steps, accumulate, seed),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), None, None),
    )


def draw_key(seed: int, step: Array, purpose: str) -> jax.Array:
    """The typed key of a step for `train` or `eval` draws."""
    key = jax.random.fold_in(jax.random.key(seed), {"train": 0, "eval": 1}[purpose])
    return jax.random.fold_in(key, step)


def train_step(
    task: Task, optim: Optim, total_steps: int, accumulate: int, seed: int
) -> Callable[[State, Tree, Batch], tuple[State, Metrics, Tree]]:
    """The function `(state, frozen, batch) -> (state, metrics, sums)` to jit."""

    def step(state, frozen, batch):
        key = draw_key(seed, state["step"], "train")
        draws = task.draw(batch, key, state["step"], train=True)
        check_batch_axis(draws, batch)
        return update(task, optim, total_steps, accumulate, state, frozen, batch, draws)

    return step


def check_batch_axis(draws: Tree, batch: Batch) -> None:
    """Refuse draws without the batch axis: a microbatch would get another's.

    Raises:
      ValueError: a leaf outside the subtree `step` has another first axis.
    """
    own = {name: leaf for name, leaf in draws.items() if name != "step"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(own):
        if leaf.shape[:1] != batch["index"].shape:
            raise ValueError(
                f"draws{jax.tree_util.keystr(path)} has shape {leaf.shape}: its first "
                f"axis must be the batch ({batch['index'].size}), or put it into the "
                "subtree `step`, which all microbatches share"
            )


def update(
    task: Task,
    optim: Optim,
    total_steps: int,
    accumulate: int,
    state: State,
    frozen: Tree,
    batch: Batch,
    draws: Tree,
) -> tuple[State, Metrics, Tree]:
    """One optimizer step with given draws.

    The order is: loss and gradients, clip, optimizer, `project`, `update_slow` (which
    gets the parameters from before and after), `update_buffers`.
    """
    params, step = state["params"], state["step"]
    others = {"slow": state["slow"], "buffers": state["buffers"], "frozen": frozen}
    losses, grads, sums = loss_and_grads(
        task, params, others, batch, draws, step, accumulate
    )
    norm = optax.tree.norm(grads)
    scale = optim.clip_factor(norm)
    clipped = jax.tree.map(lambda g: g * scale, grads)
    optimizer = optim.build(total_steps)
    delta, opt = optimizer.update(clipped, state["opt"], params)
    moved = jax.tree.map(jnp.add, params, delta)
    new_params = task.project(moved, step)
    new_state = {
        "params": new_params,
        "slow": task.update_slow(state["slow"], params, new_params, step),
        "buffers": task.update_buffers(state["buffers"], sums, step),
        "opt": opt,
        "step": step + 1,
    }
    metrics = {
        "train/loss": task.total(losses),
        **{f"train/{name}": value for name, value in losses.items()},
        "optim/lr": optim.learning_rate(step, total_steps),
        "optim/grad_norm": norm,
        **{f"optim/grad_norm/{k}": v for k, v in norms_by_group(grads).items()},
    }
    return new_state, metrics, sums


def loss_and_grads(
    task: Task,
    params: Tree,
    others: Tree,
    batch: Batch,
    draws: Tree,
    step: Array,
    accumulate: int,
) -> tuple[dict[str, Array], Tree, Tree]:
    """Losses by term, gradients of `task.total` of them, and the total of `sums`.

    Every term is divided once, by its weight over all microbatches and devices. With
    accumulation the weights are counted in a first pass, from which XLA drops all else.
    Where `total` is more than a sum, that pass keeps the global means too, and each
    microbatch adds to the gradients at the slopes that `total` has there.

    Raises:
      NeuroFMError: accumulation of a loss that couples the batch.
    """
    if task.batch_coupled and accumulate > 1:
        raise NeuroFMError(
            f"train.accumulate is {accumulate}, but the loss of {task.name} compares "
            "the items of a batch with each other: set train.accumulate=1"
        )

    def terms_and_sums(params, piece):
        piece_batch, piece_draws = piece
        variables = {"params": params, **others}
        return task.loss(variables, piece_batch, piece_draws, step, True)

    def means(terms, weights):
        return {n: s / jnp.maximum(weights[n], 1e-8) for n, (s, _) in terms.items()}

    def weights_of(terms):
        return {name: weight for name, (_, weight) in terms.items()}

    def whole(params):
        terms, sums = terms_and_sums(params, (batch, draws))
        losses = means(terms, weights_of(terms))
        return task.total(losses), (losses, sums)

    if accumulate == 1:
        grad = jax.value_and_grad(whole, has_aux=True)
        (_, (losses, sums)), grads = grad(params)
        return losses, grads, sums

    shared = {"step": draws["step"]} if "step" in draws else {}
    own = {name: leaf for name, leaf in draws.items() if name != "step"}
    pieces = jax.tree.map(lambda x: strided_split(x, accumulate), (dict(batch), own))

    def with_shared(piece):
        return piece[0], {**piece[1], **shared}

    def weigh(piece):
        terms, _ = terms_and_sums(params, with_shared(piece))
        return terms

    first = jax.tree.map(lambda x: x.sum(0), jax.lax.map(weigh, pieces))
    weights = weights_of(first)
    slopes = jax.grad(task.total)(means(first, weights))  # ones where it is the sum

    def share(params, piece):
        terms, sums = terms_and_sums(params, with_shared(piece))
        losses = means(terms, weights)
        linear = sum((slopes[n] * x for n, x in losses.items()), jnp.zeros(()))
        return linear, (losses, sums)

    def measured(piece):
        grad = jax.value_and_grad(share, has_aux=True)
        (_, (losses, sums)), grads = grad(params, piece)
        return losses, grads, sums

    def add(carry, piece):
        return jax.tree.map(jnp.add, carry, measured(piece)), None

    shapes = jax.eval_shape(measured, jax.tree.map(lambda x: x[0], pieces))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (losses, grads, sums), _ = jax.lax.scan(add, zeros, pieces)
    return losses, grads, sums


def strided_split(x: Array, pieces: int) -> Array:
    """`[B, ...]` -> `[M, B/M, ...]`, microbatch m taking rows m, m + M, ...

    Taken this way every device keeps the rows it holds; a split into blocks would move
    the batch across devices.
    """
    split = x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:])
    return jnp.moveaxis(split, 1, 0)


def eval_step(
    task: Task, seed: int
) -> Callable[[Tree, Batch], tuple[dict[str, tuple[Array, Array]], Tree]]:
    """Held-out terms and sums of one batch, with the same draws whenever it is called.

    `index` is the position in the split, so the key needs no step.
    """

    def step(variables, batch):
        zero = jnp.zeros((), jnp.int32)
        draws = task.draw(batch, draw_key(seed, zero, "eval"), zero, train=False)
        return task.loss(variables, batch, draws, zero, False)

    return step
