"""The one setting for the dtype of matrix products."""

from typing import Literal

import jax
import jax.numpy as jnp

Precision = Literal["auto", "float32", "bfloat16"]


def compute_dtype(setting: Precision) -> jnp.dtype:
    """`auto` is bfloat16 where matrix units have it (TPU, GPU), float32 on CPU."""
    if setting == "auto":
        setting = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(setting)
