"""A dense layer over the last axis, with any output shape."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofm.parallel.sharding import as_matrix

Initializer = Callable[..., jax.Array]


class Linear(nn.Module):
    """`y = x W + b` over the trailing axes that `n_in_axes` counts.

    The product is taken as one 2-D matmul: on CPU that is faster than a batched one,
    on accelerators the same.

    Attributes:
      shape: output sizes, e.g. `(heads, head_width)`.
      n_in_axes: how many trailing axes of `x` are contracted.
      kernel_init: initializer of the `[*in, *out]` kernel.
      axes: names of the kernel's axes, as in its sharding rule but for `layers`; see
        `parallel.sharding.as_matrix`.
      dtype: dtype of the product; parameters stay float32.
    """

    shape: tuple[int, ...]
    n_in_axes: int = 1
    kernel_init: Initializer = nn.initializers.normal(0.02)
    axes: tuple[str | None, ...] = ()
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        lead, ins = x.shape[: -self.n_in_axes], x.shape[-self.n_in_axes :]
        kernel = self.param("kernel", self.kernel_init, (*ins, *self.shape))
        bias = self.param("bias", nn.initializers.zeros, self.shape)
        matrix = as_matrix(kernel.astype(self.dtype), self.n_in_axes, self.axes)
        y = x.astype(self.dtype).reshape(-1, math.prod(ins)) @ matrix
        return y.reshape(*lead, *self.shape) + bias.astype(self.dtype)
