"""The one setting for the dtype of matrix products."""

from typing import Literal

import jax.numpy as jnp

from neurofm.parallel.mesh import platform

Precision = Literal["auto", "float32", "bfloat16"]


def compute_dtype(setting: Precision) -> jnp.dtype:
    """`auto` is bfloat16 where matrix units have it (TPU, GPU), float32 on CPU.

    The platform is the one that the program is compiled for; see `mesh.platform`.
    """
    if setting == "auto":
        setting = "float32" if platform() == "cpu" else "bfloat16"
    return jnp.dtype(setting)
