"""Run a function at the smallest of several static sizes that holds the data."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def smallest_cap(
    f: Callable[[int, Any, Any], Float[Array, ""]],
    caps: Sequence[int],
    most: Int[Array, ""],
    wrt: Any,
    fixed: Any,
) -> Float[Array, ""]:
    """`f(cap, wrt, fixed)` with the smallest cap >= `most`, else the last.

    The gradient for `wrt` is taken inside the chosen branch, next to the value:
    differentiating through `lax.switch` would make every branch write the residuals of
    all others. `fixed` gets no gradient.
    """
    if len(caps) == 1:
        return f(caps[0], wrt, fixed)
    branch = (jnp.asarray(caps[:-1]) < most).sum()

    @jax.custom_vjp
    def run(wrt, fixed, branch):
        return jax.lax.switch(
            branch, [lambda w, x, c=c: f(c, w, x) for c in caps], wrt, fixed
        )

    def forward(wrt, fixed, branch):
        return jax.lax.switch(
            branch,
            [
                lambda w, x, c=c: jax.value_and_grad(lambda w: f(c, w, x))(w)
                for c in caps
            ],
            wrt,
            fixed,
        )

    def backward(grads, g):
        return jax.tree.map(lambda leaf: g * leaf, grads), None, None

    run.defvjp(forward, backward)
    return run(wrt, fixed, branch)
