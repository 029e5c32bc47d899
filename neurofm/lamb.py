"""LAMB as BrainBERT was trained with: without bias correction, weight norms to 10.

Every tensor moves by the rate times the ratio of its norm to that of Adam's step (You
et al., arXiv 1904.00962). optax has the form with bias correction and no limit.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from neurofm.weights.leaves import STACK

LARGEST_NORM = 10.0


class Moments(NamedTuple):
    """Running means of gradients and of their squares."""

    first: Any
    second: Any


def adam_without_correction(
    b1: float, b2: float, eps: float
) -> optax.GradientTransformation:
    """`m / (sqrt(v) + eps)` with both moments as they are, from zero."""

    def init(params: Any) -> Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, updates)
        second = jax.tree.map(
            lambda v, g: b2 * v + (1 - b2) * g * g, state.second, updates
        )
        steps = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), first, second)
        return steps, Moments(first, second)

    return optax.GradientTransformation(init, update)


def by_trust_ratio() -> optax.GradientTransformation:
    """Steps times `min(|w|, 10) / |step|` of their tensor; times 1 where one is zero.

    A tensor is what torch holds as one: a layer of a stack, and its queries, keys and
    values together.
    """

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        weights, moves = _squares(params), _squares(updates)

        def scaled(path: Any, step: jax.Array) -> jax.Array:
            name, stack = _tensor(path)
            weight = jnp.minimum(jnp.sqrt(weights[name]), LARGEST_NORM)
            move = jnp.sqrt(moves[name])
            moving = (weight > 0) & (move > 0)
            ratio = jnp.where(moving, weight / jnp.where(moving, move, 1), 1)
            return step * ratio.reshape(-1, *[1] * (step.ndim - 1) if stack else [])

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(init, update)


def _tensor(path: Any) -> tuple[str, bool]:
    """The name of torch's tensor that a leaf is of, and whether it is a stack's."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    fused = re.sub(r"(^|/)(query|key|value)(/(kernel|bias))$", r"\1qkv\3", name)
    return fused, STACK in name.split("/")


def _squares(tree: Any) -> dict[str, jax.Array]:
    """Sum of squares of every tensor; of a stack, by layer."""
    found: dict[str, jax.Array] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        name, stack = _tensor(path)
        square = jnp.square(x).sum(axis=tuple(range(int(stack), x.ndim)))
        found[name] = found.get(name, 0) + square
    return found
