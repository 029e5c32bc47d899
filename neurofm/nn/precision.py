"""The one setting for the dtype of matrix products."""

from typing import Literal

import jax.numpy as jnp

from neurofm.parallel.mesh import Platform, platform

Precision = Literal["auto", "float32", "bfloat16"]


def decided(setting: Precision, target: Platform) -> Precision:
    """`auto` is bfloat16 where matrix units have it (TPU, GPU), float32 on CPU."""
    if setting != "auto":
        return setting
    return "float32" if target == "cpu" else "bfloat16"


def compute_dtype(setting: Precision) -> jnp.dtype:
    """The dtype on the platform that the program is compiled for; `mesh.platform`."""
    return jnp.dtype(decided(setting, platform()))
