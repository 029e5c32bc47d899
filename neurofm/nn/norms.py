"""Norms over the last axis, in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerNorm(nn.Module):
    """LayerNorm in float32 with the two-pass variance, cast back to `x.dtype`."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * scale + bias).astype(x.dtype)


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * scale` in float32, cast back to `x.dtype`."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * scale).astype(x.dtype)


class ScaleNorm(nn.Module):
    """`x sqrt(D) g / max(|x|, 1e-12)` with one gain g for all features, in float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, (1,))
        y = l2_normalize(x, 1e-12) * x.shape[-1] ** 0.5
        return (y * scale).astype(x.dtype)


def l2_normalize(x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """`x / max(|x|, eps)` in float32; a zero vector stays zero, with zero gradient."""
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(-1, keepdims=True)
    small = square <= eps * eps
    length = jnp.sqrt(jnp.where(small, 1.0, square))
    return x / jnp.where(small, eps, length)
