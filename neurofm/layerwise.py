"""Rates by layer: lower ones learn more slowly, or begin later.

Layers are named by path rules from the input to the output; a rule that meets a stack
of scanned layers (under `blocks`) counts each of them. What no rule meets, as a head,
is above all.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from neurofm.errors import NeuroFMError
from neurofm.weights.leaves import is_stacked


def depths(params: Any, rules: Sequence[str]) -> Any:
    """Layers from the output down to each parameter, 0 above all of them.

    Returns:
      A tree as `params` of whole numbers, or `[L]` of them over a stack of L layers.

    Raises:
      NeuroFMError: a rule that meets no parameter, or two stacks of unlike depth.
    """
    paths = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), x)
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    first = {
        name: next((i for i, rule in enumerate(rules) if re.search(rule, name)), None)
        for name, _ in paths
    }
    sizes = []
    for i, rule in enumerate(rules):
        met = {
            x.shape[0] if is_stacked(name) else 1
            for name, x in paths
            if first[name] == i
        }
        if len(met) != 1:
            told = f"stacks of {sorted(met)} layers" if met else "no parameter"
            raise NeuroFMError(
                f"optim.layers has the path {rule!r}, which meets {told}: a rule names "
                "one layer, or one stack of them"
            )
        sizes.append(met.pop())
    top = sum(sizes)

    def depth(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        i = first[name]
        if i is None:
            return jnp.zeros((), jnp.int32)
        below = sum(sizes[:i])
        own = jnp.arange(sizes[i]) if is_stacked(name) else jnp.zeros((), jnp.int32)
        return top - below - own

    return jax.tree_util.tree_map_with_path(depth, params)


def scale(
    depth: Int[Array, "*L"], step: Int[Array, ""], decay: float, opens_every: float
) -> Float[Array, "*L"]:
    """Share of the rate: `decay` once a layer down, 0 before a layer opens."""
    return decay**depth * (step >= depth * opens_every)


def by_layer(
    rules: Sequence[str], decay: float, opens_every: float
) -> optax.GradientTransformation:
    """Scales the updates of an optimizer, decay included, by `scale`.

    Args:
      rules: see the module docstring.
      opens_every: steps from one layer's opening to that of the next below. Adam's
        moments follow the gradients of a closed layer already.
    """

    def init(params):
        depths(params, rules)  # a rule that meets nothing is told before training
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params

        def scaled(x, depth):
            share = scale(depth, state.count, decay, opens_every)
            return x * share.reshape(share.shape + (1,) * (x.ndim - share.ndim))

        scaled_by = jax.tree.map(scaled, updates, depths(updates, rules))
        return scaled_by, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)
