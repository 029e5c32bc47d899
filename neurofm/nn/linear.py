"""A dense layer over the last axis, with any output shape."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofm.parallel.sharding import as_matrix

Initializer = Callable[..., jax.Array]


def torch_uniform(n_in: int) -> Initializer:
    """Uniform within +-1/sqrt(n_in), as torch leaves the weights of a linear layer."""
    bound = n_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


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
      use_bias: whether there is a `b`.
      dtype: dtype of the product; parameters stay float32.
    """

    shape: tuple[int, ...]
    n_in_axes: int = 1
    kernel_init: Initializer = nn.initializers.normal(0.02)
    axes: tuple[str | None, ...] = ()
    use_bias: bool = True
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        lead, ins = x.shape[: -self.n_in_axes], x.shape[-self.n_in_axes :]
        kernel = self.param("kernel", self.kernel_init, (*ins, *self.shape))
        matrix = as_matrix(kernel.astype(self.dtype), self.n_in_axes, self.axes)
        y = x.astype(self.dtype).reshape(-1, math.prod(ins)) @ matrix
        y = y.reshape(*lead, *self.shape)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, self.shape)
        return y + bias.astype(self.dtype)
