"""AdamW with warm-up, cosine decay and global-norm clipping."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from neurofm.errors import NeuroFMError


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW (decoupled decay, multiplied by the scheduled rate) on all parameters.

    Attributes:
      lr: peak learning rate.
      betas, eps: Adam's moments.
      weight_decay: decay of every trained tensor.
      clip_norm: global gradient norm above which gradients are scaled down; 0 is off.
      warmup: share of the run over which the rate rises linearly from 0; it then falls
        as half a cosine to 0 at the end of the run.
    """

    lr: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.04
    clip_norm: float = 5.0
    warmup: float = 100_000 / 375_000

    def __post_init__(self):
        if not 0 <= self.warmup <= 1:
            raise NeuroFMError(
                f"optim.warmup is {self.warmup}: give the share of the run, 0 to 1"
            )

    def learning_rate(self, step: Int[Array, ""], total_steps: int) -> Float[Array, ""]:
        """Rate used at step `step` (0 at the first step of a warm-up)."""
        warm = round(self.warmup * total_steps)
        rising = step / max(warm, 1)
        done = (step - warm) / max(total_steps - warm, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        return self.lr * jnp.where(step < warm, rising, falling)

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The optax chain for a run of `total_steps`; gradients come clipped."""
        return optax.adamw(
            lambda step: self.learning_rate(jnp.asarray(step), total_steps),
            b1=self.betas[0],
            b2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def clip_factor(self, norm: Float[Array, ""]) -> Float[Array, ""]:
        """What gradients of global norm `norm` are multiplied by."""
        if not self.clip_norm:
            return jnp.ones_like(norm)
        return jnp.minimum(1.0, self.clip_norm / (norm + 1e-6))


def norms_by_group(grads: dict) -> dict[str, Float[Array, ""]]:
    """Gradient norm of each top-level parameter group."""
    return {name: optax.tree.norm(g) for name, g in grads.items()}
