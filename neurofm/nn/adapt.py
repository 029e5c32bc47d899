"""What of a trained model is trained on, and how that joins what is left alone.

`start` makes the trained part from a model's parameters, `joined` the parameters one
computes with. Layers that a network scans over lie stacked under `blocks`.

Axes: L layers of a stack, I inputs and O outputs of a kernel, R rank.
"""

import math
import re
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from neurofm.errors import NeuroFMError
from neurofm.task import Tree
from neurofm.weights.leaves import is_stacked

Regime = Literal["probe", "last", "lora", "full"]


class Adapt(NamedTuple):
    """How much of a model is trained.

    Attributes:
      regime: `probe` nothing, `last` the last layers, `lora` low-rank additions to
        kernels (Hu et al., arXiv 2106.09685, section 4.1), `full` all of it.
      layers: the last k, of every stack.
      rank, alpha: of the additions, which are scaled by alpha / rank.
      path: regex of the kernels that get one.
    """

    regime: Regime
    layers: int
    rank: int
    alpha: float
    path: str


def start(how: Adapt, params: Tree, key: jax.Array) -> Tree:
    """The trained part; joined to `params` it changes nothing yet.

    Raises:
      NeuroFMError: there is nothing in the model for this regime.
    """
    if how.regime == "probe":
        return {}
    if how.regime == "full":
        # Copies: jit hands on what it returns unchanged, and a step gives it away.
        return jax.tree.map(jnp.copy, params)
    flat = _flat(params)
    if how.regime == "last":
        part = {name: x[-how.layers :] for name, x in flat.items() if is_stacked(name)}
        if not part:
            raise NeuroFMError(
                "task.regime is 'last', but this model has no stack of layers: take "
                "'lora' or 'full'"
            )
        return unflatten_dict(part, sep="/")
    found = [
        name for name in flat if name.endswith("kernel") and re.search(how.path, name)
    ]
    if not found:
        raise NeuroFMError(
            f"task.lora_path {how.path!r} is found in no kernel of this model: they "
            f"are {', '.join(n for n in flat if n.endswith('kernel'))}"
        )
    part = {}
    for name, each in zip(found, jax.random.split(key, len(found)), strict=True):
        stack, rows, columns = _matrix(name, flat[name].shape)
        down = jax.random.normal(each, (*stack, rows, how.rank)) / math.sqrt(rows)
        part[f"{name}/down"] = down
        part[f"{name}/up"] = jnp.zeros((*stack, how.rank, columns))
    return unflatten_dict(part, sep="/")


def joined(how: Adapt, params: Tree, part: Tree) -> Tree:
    """The model's parameters with the trained part in its place."""
    if how.regime == "probe":
        return params
    if how.regime == "full":
        return part
    flat, own = _flat(params), _flat(part)
    if how.regime == "last":
        layers = {
            name: jnp.concatenate([flat[name][: -len(x)], x]) for name, x in own.items()
        }
        return unflatten_dict(flat | layers, sep="/")
    for name in {path.rpartition("/")[0] for path in own}:
        added = own[f"{name}/down"] @ own[f"{name}/up"] * (how.alpha / how.rank)
        flat[name] = flat[name] + added.reshape(flat[name].shape)
    return unflatten_dict(flat, sep="/")


def _matrix(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """A kernel as (stack, rows, columns): cut where both sides are largest."""
    stack = shape[:1] if is_stacked(name) else ()
    own = shape[len(stack) :]
    cuts = [(math.prod(own[:i]), math.prod(own[i:])) for i in range(1, len(own))]
    return (stack, *max(cuts, key=min))


def _flat(tree: Tree) -> dict[str, Any]:
    return dict(flatten_dict(tree, sep="/"))
