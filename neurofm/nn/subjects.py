"""A linear map for every subject, kept in one table.

Axes: B examples, T steps, D features, S subjects, P outputs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from neurofm.parallel.sharding import constrain


def subject_head(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "S D P"],
    bias: Float[Array, "S P"],
    subject: Int[Array, " B"],
    dtype: jnp.dtype,
) -> Float[Array, "B T P"]:
    """`y = x W[s] + b[s]` with the rows of each example's subject, in float32.

    The table lies over its outputs and never moves: each device takes the rows that are
    asked for out of its own part, and sees the features of all examples of its group.
    A subject outside the table gives NaN.
    """
    subject = constrain(subject, "row")
    x = constrain(x.astype(dtype), "row", "token", None)
    rows = constrain(jnp.take(kernel, subject, axis=0), "row", None, "output")
    offset = constrain(jnp.take(bias, subject, axis=0), "row", "output")
    y = jnp.einsum(
        "btd,bdp->btp", x, rows.astype(dtype), preferred_element_type=jnp.float32
    )
    return constrain(y + offset[:, None], "row", "token", "output")


def subject_map(
    x: Float[Array, "B T D"],
    kernel: Float[Array, "S D P"],
    bias: Float[Array, "S P"],
    subject: Int[Array, " B"],
    dtype: jnp.dtype,
) -> Float[Array, "B T P"]:
    """The same from a table so small that every device has all of it.

    A subject outside the table gives zeros.
    """
    exact = jax.lax.Precision.HIGHEST
    own = jax.nn.one_hot(subject, len(kernel), dtype=kernel.dtype)
    rows = jnp.einsum("bs,sdp->bdp", own, kernel, precision=exact)
    offset = jnp.matmul(own, bias, precision=exact)
    y = jnp.einsum("btd,bdp->btp", x.astype(dtype), rows.astype(dtype))
    return y + offset[:, None].astype(dtype)
