"""The least that devices must send each other in a step, by where parameters lie."""

import math
from collections import Counter
from typing import Any

import jax

from neurofm.parallel.mesh import BATCH_AXES

COMPUTE_BYTES = 2  # weights and their gradients travel in bfloat16


def least_traffic(state: dict[str, Any], mesh: Any) -> dict[str, int]:
    """Mesh axes (joined by `+`) -> bytes that one device sends during one step.

    A parameter stored in n parts along `fsdp` is gathered for the forward and again for
    the backward pass, and its gradient reduced to the part that is kept (ZeRO-3, arXiv
    1910.02054, section 7); the gradient of what every device holds is all-reduced, a
    teacher is gathered once. Each takes a share (n - 1) / n of the whole, twice that
    for an all-reduce. The traffic of a tensor axis depends on the model and is not
    counted.

    Args:
      state: `step.abstract_state(...)`.
      mesh: the mesh it lies on, or its shape alone.
    """
    sizes = dict(mesh.shape)
    found: Counter[str] = Counter()

    def share(parts: int) -> float:
        return (parts - 1) / parts

    def add(axes: list[str], n_bytes: float) -> None:
        if axes and n_bytes:
            found["+".join(axes)] += round(n_bytes)

    for trained, tree in ((True, state["params"]), (False, state["slow"])):
        for leaf in jax.tree.leaves(tree):
            held = math.prod(leaf.sharding.shard_shape(leaf.shape))
            split = {a for entry in leaf.sharding.spec for a in _names(entry)}
            parts = sizes["fsdp"] if "fsdp" in split else 1
            if parts > 1:
                gathered = held * parts * COMPUTE_BYTES * (2 if trained else 1)
                reduced = held * parts * COMPUTE_BYTES if trained else 0
                add(["fsdp"], (gathered + reduced) * share(parts))
            if trained:
                rest = [a for a in BATCH_AXES if sizes[a] > 1 and a not in split]
                copies = math.prod(sizes[a] for a in rest)
                add(rest, 2 * held * COMPUTE_BYTES * share(copies))
    return dict(found)


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry or ()
