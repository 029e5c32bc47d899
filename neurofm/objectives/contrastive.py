"""Matching pairs in a batch by similarity (InfoNCE; Radford et al., arXiv 2103.00020).

Axes: B pairs, D width.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def match_loss(
    query: Float[Array, "B D"],
    candidate: Float[Array, "B D"],
    scale: Float[Array, ""] | float = 1.0,
    normalize_query: bool = True,
) -> Float[Array, " B"]:
    """Cross-entropy of each query's own candidate among all of the batch.

    The mean of both directions, each side once the query, is the symmetric loss.

    Args:
      scale: of the cosines, the inverse of the temperature.
      normalize_query: False as in one published variant, where the length of a query
        says how sure it is. It never changes which candidate a query is nearest to.
    """
    if normalize_query:
        query = _unit(query)
    similarity = jnp.matmul(query, _unit(candidate).T, precision="highest")
    return -jnp.diagonal(jax.nn.log_softmax(scale * similarity, axis=1))


def _unit(x):
    square = jnp.square(x).sum(1, keepdims=True)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1))  # no slope of a root at 0
