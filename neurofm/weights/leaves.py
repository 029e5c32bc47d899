"""Every array of a model by its path, and what follows from that: its hash and size.

Layers that a network scans over lie stacked along a leading axis, under the name
`blocks`; outside memory each has its own name, `encoder/blocks_00/attn/query/kernel`.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from neurofm.task import Tree

STACK = "blocks"
_LAYER = re.compile(rf"(?P<above>(?:.*/)?){STACK}_\d\d+(?P<below>/.*)")


def named(tree: Tree) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of nested dicts by its path, scanned stacks layer by layer."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [entry.key for entry in path]
        array = np.asarray(leaf)
        if STACK not in names:
            yield "/".join(names), array
            continue
        at = names.index(STACK)
        for layer, x in zip(_layer_names(len(array)), array, strict=True):
            yield "/".join([*names[:at], layer, *names[at + 1 :]]), x


def is_stacked(path: str) -> bool:
    """Whether the first axis of the parameter at `path` is that of layers."""
    return STACK in path.split("/")


def _layer_names(depth: int) -> list[str]:
    digits = max(2, len(str(depth - 1)))
    return [f"{STACK}_{i:0{digits}d}" for i in range(depth)]


def nested(arrays: Mapping[str, np.ndarray]) -> Tree:
    """The tree whose `named` these are.

    Layers 00, 01, ... of one shape become a stack again; a name like `blocks_12`
    without them is just a name.
    """
    stacks: dict[tuple[str, str], list[str]] = {}
    for name in arrays:
        if parts := _LAYER.fullmatch(name):
            stacks.setdefault((parts["above"], parts["below"]), []).append(name)
    flat = dict(arrays)
    for (above, below), names in stacks.items():
        whole = [f"{above}{layer}{below}" for layer in _layer_names(len(names))]
        if set(whole) == set(names) and len({arrays[n].shape for n in names}) == 1:
            flat[f"{above}{STACK}{below}"] = np.stack([flat.pop(n) for n in whole])
    return nest(flat)


def nest(flat: Mapping[str, Any]) -> Tree:
    """Nested dicts of leaves by their paths."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def params_sha256(params: Tree) -> str:
    """sha256 over a collection of arrays, such as `params`.

    Unstacked names in sorted order; of each the name, the shape and the dtype as text,
    each ended by a zero byte, and the array's bytes in C order, little-endian.
    """
    digest = hashlib.sha256()
    for name, array in sorted(named(params), key=lambda pair: pair[0]):
        shape = ",".join(map(str, array.shape))
        digest.update(f"{name}\0{shape}\0{array.dtype.name}\0".encode())
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).tobytes())
    return digest.hexdigest()


def n_params(tree: Tree) -> int:
    """How many numbers a tree holds."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))
