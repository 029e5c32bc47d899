"""From a released checkpoint's tensors to ours: what was used, ignored, missing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from neurofm.task import Task, Tree


@dataclass(frozen=True)
class Official:
    """What became of a released checkpoint."""

    task: Task
    variables: Tree
    used: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)


class Taker:
    """Takes tensors by official name, noting which were used and which are missing."""

    def __init__(self, tensors: Mapping[str, np.ndarray], out: Official):
        self.tensors, self.out = tensors, out

    def __call__(
        self, name: str, transform: Callable[[np.ndarray], np.ndarray] = lambda w: w
    ) -> np.ndarray:
        if name not in self.tensors:
            self.out.missing.add(name)
            return np.zeros(0, np.float32)
        self.out.used.add(name)
        return np.ascontiguousarray(transform(self.tensors[name]), np.float32)

    def norm(self, name: str) -> Tree:
        return {"scale": self(f"{name}.weight"), "bias": self(f"{name}.bias")}

    def linear(self, name: str) -> Tree:
        return {
            "kernel": self(f"{name}.weight", np.transpose),
            "bias": self(f"{name}.bias"),
        }


def stacked(trees: list[Tree]) -> Tree:
    """Trees of the same names as one, their arrays stacked along a leading axis.

    Where one is missing there is no stack either; `Official.missing` names it.
    """
    out: Tree = {}
    for name, first in trees[0].items():
        each = [tree[name] for tree in trees]
        if isinstance(first, dict):
            out[name] = stacked(each)
        else:
            whole = all(x.size for x in each)
            out[name] = np.stack(each) if whole else np.zeros(0, np.float32)
    return out
