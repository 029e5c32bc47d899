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
    """Trees of the same names as one, their arrays stacked along a leading axis."""
    return {
        k: stacked([t[k] for t in trees])
        if isinstance(trees[0][k], dict)
        else np.stack([t[k] for t in trees])
        for k in trees[0]
    }
