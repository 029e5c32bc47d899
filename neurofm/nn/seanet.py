"""SEANet: weight-normalised convolutions around a recurrent layer.

Axes: M sequences (windows x sensors, one flat axis), T steps, C_in/C_out features,
k taps, r stride.

Source: SEANet (Tagliasacchi 2020) as EnCodec and BrainOmni (arXiv 2505.18185) use it.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from neurofm.nn.conv import strided_conv


def uniform(bound: float) -> nn.initializers.Initializer:
    """Uniform on (-bound, bound)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def weight_norm(
    module: nn.Module, shape: tuple[int, ...], kept: int, fan_in: int
) -> Float[Array, "k Cin Cout"]:
    """Parameters `kernel` and `gain`: the gain times the kernel's direction.

    There is one gain for every index of the axis `kept`; it starts as the norm of the
    kernel, which starts uniform on +-1/sqrt(fan_in).
    """
    v = module.param("kernel", uniform(fan_in**-0.5), shape)
    axes = tuple(a for a in range(len(shape)) if a != kept)
    norm = jnp.sqrt(jnp.square(v).sum(axes, keepdims=True))
    gain = module.param("gain", lambda key, n: norm.reshape(n), (shape[kept],))
    return v * (gain.reshape(norm.shape) / norm)


def reflect_pad(
    x: Float[Array, "M T C"], left: int, right: int
) -> Float[Array, "M T_padded C"]:
    """Reflect at both ends; one too short for that is first extended by zeros."""
    more = max(0, max(left, right) - x.shape[1] + 1)
    x = jnp.pad(x, ((0, 0), (0, more), (0, 0)))
    x = jnp.pad(x, ((0, 0), (left, right), (0, 0)), mode="reflect")
    return x[:, : x.shape[1] - more]


class Conv(nn.Module):
    """Convolution to `ceil(T / stride)` steps, reflected at the ends, with bias."""

    features: int
    width: int
    stride: int = 1
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "M T Cin"]) -> Float[Array, "M S Cout"]:
        fan_in = self.width * x.shape[-1]
        shape = (self.width, x.shape[-1], self.features)
        kernel = weight_norm(self, shape, 2, fan_in).astype(self.dtype)
        bias = self.param("bias", uniform(fan_in**-0.5), (self.features,))
        total = self.width - self.stride
        right = total // 2
        steps = math.ceil((x.shape[1] - self.width + total) / self.stride) + 1
        extra = (steps - 1) * self.stride + self.width - total - x.shape[1]
        x = reflect_pad(x.astype(self.dtype), total - right, right + extra)
        return strided_conv(x, kernel, self.stride) + bias.astype(self.dtype)


class UpConv(nn.Module):
    """Transposed convolution of width 2r and stride r to exactly `r T` steps.

    Every step is mapped to 2r taps by one product; neighbours overlap by half.
    """

    features: int
    stride: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "M T Cin"]) -> Float[Array, "M rT Cout"]:
        r, (m, steps, c_in) = self.stride, x.shape
        fan_in = 2 * r * self.features  # as torch counts it
        kernel = weight_norm(self, (2 * r, c_in, self.features), 1, fan_in)
        bias = self.param("bias", uniform(fan_in**-0.5), (self.features,))
        flat = kernel.transpose(1, 0, 2).reshape(c_in, -1).astype(self.dtype)
        taps = (x.astype(self.dtype).reshape(-1, c_in) @ flat).reshape(m, steps, 2, -1)
        ahead = jnp.pad(taps[:, :, 0], ((0, 0), (0, 1), (0, 0)))
        behind = jnp.pad(taps[:, :, 1], ((0, 0), (1, 0), (0, 0)))
        y = (ahead + behind).reshape(m, (steps + 1) * r, self.features)
        left = r - r // 2
        return y[:, left : left + steps * r] + bias.astype(self.dtype)


class LSTM(nn.Module):
    """Recurrent layers from a zero state, with a skip around all of them.

    The input products of all steps are one matmul, whose rows M lead: devices share
    them, and would have to gather what is flattened with time in front. In the scan
    time leads, so that it reads and writes whole `[M, ...]` slabs. Gates lie in the
    order i, f, g, o; two biases are kept, as the published optimizer moves both.
    """

    layers: int = 2
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "M T C"]) -> Float[Array, "M T C"]:
        width = x.shape[-1]
        init = uniform(width**-0.5)
        y = x.astype(self.dtype)
        for i in range(self.layers):
            w_in, w_state = (
                self.param(f"{name}_{i}", init, (width, 4 * width)).astype(self.dtype)
                for name in ("input", "state")
            )
            bias_in, bias_state = (
                self.param(f"{name}_{i}", init, (4 * width,))
                for name in ("bias_input", "bias_state")
            )
            driven = (y.reshape(-1, width) @ w_in).reshape(*y.shape[:2], 4 * width)
            driven = driven + (bias_in + bias_state).astype(self.dtype)
            y = jnp.moveaxis(_recur(jnp.moveaxis(driven, 1, 0), w_state), 0, 1)
        return x + y.astype(x.dtype)


def _scanned(
    driven: Float[Array, "T M C4"], w_state: Float[Array, "C C4"]
) -> Float[Array, "T M C"]:
    """The recurrence; the cell is kept in float32."""

    def step(carry, drive):
        hidden, cell = carry
        gates = (drive + hidden @ w_state).astype(jnp.float32)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = (jax.nn.sigmoid(o) * jnp.tanh(cell)).astype(driven.dtype)
        return (hidden, cell), hidden

    shape = (driven.shape[1], w_state.shape[0])
    start = jnp.zeros(shape, driven.dtype), jnp.zeros(shape, jnp.float32)
    return jax.lax.scan(step, start, driven)[1]


_recur = jax.custom_vjp(_scanned)


def _recur_forward(driven, w_state):
    hidden, back = jax.vjp(lambda x: _scanned(x, w_state), driven)
    return hidden, (hidden, back)


def _recur_backward(kept, given):
    """The gradient of the drive is that of the gates, so that of the weights is one
    matmul over all steps; taken in the scan, devices would sum it at every step.
    """
    hidden, back = kept
    (driven,) = back(given)
    before = jnp.pad(hidden[:-1], ((1, 0), (0, 0), (0, 0)))
    return driven, jnp.einsum("tmc,tmd->cd", before, driven)


_recur.defvjp(_recur_forward, _recur_backward)


class Residual(nn.Module):
    """ELU, k3 to half the width, ELU, k1 back; plus a k1 shortcut."""

    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "M T C"]) -> Float[Array, "M T C"]:
        width = x.shape[-1]
        y = Conv(width // 2, 3, dtype=self.dtype, name="narrow")(nn.elu(x))
        y = Conv(width, 1, dtype=self.dtype, name="wide")(nn.elu(y))
        return Conv(width, 1, dtype=self.dtype, name="shortcut")(x) + y


def stack_macs(
    samples: int,
    f: int,
    ratios: tuple[int, ...],
    kernel_size: int,
    last_kernel_size: int,
    width: int,
) -> float:
    """Multiply-adds of the encoder for `samples`; the decoder has as many."""
    macs = samples * f * kernel_size
    for ratio in reversed(ratios):
        residual = 3 * f * f  # k3 to half, k1 back, shortcut
        samples //= ratio
        strided = 2 * ratio * f * 2 * f
        macs += (ratio * residual + strided) * samples
        f *= 2
    ends = f * width * (kernel_size + last_kernel_size) / 2
    return macs + samples * (16 * f * f + ends)


class SEANetEncoder(nn.Module):
    """`[M, L, 1]` to `[M, L / prod(ratios), width]`, by the ratios from last to first.

    Attributes:
      n_filters: features after the first convolution; they double at each stage.
      ratios: strides, in the order of the decoder.
    """

    n_filters: int
    ratios: tuple[int, ...]
    kernel_size: int
    last_kernel_size: int
    width: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "M L 1"]) -> Float[Array, "M T D"]:
        f = self.n_filters
        x = Conv(f, self.kernel_size, dtype=self.dtype, name="first")(x)
        for i, ratio in enumerate(reversed(self.ratios)):
            x = Residual(dtype=self.dtype, name=f"residual_{i}")(x)
            f *= 2
            down = Conv(f, 2 * ratio, ratio, dtype=self.dtype, name=f"down_{i}")
            x = down(nn.elu(x))
        x = LSTM(dtype=self.dtype, name="lstm")(x)
        last = Conv(self.width, self.last_kernel_size, dtype=self.dtype, name="last")
        return last(nn.elu(x))


class SEANetDecoder(nn.Module):
    """`[M, T, D]` to `[M, T prod(ratios), 1]`; the mirror image of the encoder."""

    n_filters: int
    ratios: tuple[int, ...]
    kernel_size: int
    last_kernel_size: int
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "M T D"]) -> Float[Array, "M L 1"]:
        f = self.n_filters * 2 ** len(self.ratios)
        x = Conv(f, self.kernel_size, dtype=self.dtype, name="first")(x)
        x = LSTM(dtype=self.dtype, name="lstm")(x)
        for i, ratio in enumerate(self.ratios):
            f //= 2
            x = UpConv(f, ratio, dtype=self.dtype, name=f"up_{i}")(nn.elu(x))
            x = Residual(dtype=self.dtype, name=f"residual_{i}")(x)
        last = Conv(1, self.last_kernel_size, dtype=self.dtype, name="last")
        return last(nn.elu(x))
