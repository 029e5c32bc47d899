"""The one-cycle schedule as torch has it: rate up and down, momentum the other way.

Both are cosines between step 0, the turning point `warmup * N - 1` (a real number) and
step N - 1 of N.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

START = 1 / 25  # of the peak
END = 1 / 250_000


def rate(
    step: Int[Array, ""], total_steps: int, warmup: float, peak: float
) -> Float[Array, ""]:
    """Learning rate: from peak/25 to the peak, and on to peak/250,000."""
    return _cycle(step, total_steps, warmup, peak * START, peak, peak * END)


def momentum(
    step: Int[Array, ""], total_steps: int, warmup: float, high: float, low: float
) -> Float[Array, ""]:
    """Decay of the first moment: from `high` to `low`, and back."""
    return _cycle(step, total_steps, warmup, high, low, high)


def _cycle(
    step: Int[Array, ""],
    total_steps: int,
    warmup: float,
    start: float,
    turn: float,
    end: float,
) -> Float[Array, ""]:
    at, last = warmup * total_steps - 1, total_steps - 1
    done = step / at if at > 0 else jnp.ones_like(step, jnp.float32)
    left = (last - step) / max(last - at, 1e-9)
    # (1 - cos(pi x)) / 2, which keeps its digits where it is small
    risen, remaining = (jnp.sin(jnp.pi / 2 * x) ** 2 for x in (done, left))
    up = start + (turn - start) * risen
    down = end + (turn - end) * remaining
    return jnp.where(step <= at, up, down)
