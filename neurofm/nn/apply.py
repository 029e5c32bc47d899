"""A Linen module as a function of its parameters."""

from typing import Any

import flax.linen as nn

from neurofm.task import Tree


def apply(module: nn.Module, params: Tree, *args: Any) -> Any:
    """What a module makes of `args` with these parameters."""
    return module.apply({"params": params}, *args)
