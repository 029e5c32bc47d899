"""The wav2vec-style convolutional stem.

Axes: B batch, T samples, C_in/C_out features, S frames.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ConvLayer = tuple[int, int, int]  # features, kernel, stride


def n_frames(n_samples: int, layers: tuple[ConvLayer, ...]) -> int:
    """Frames that the unpadded stack makes of `n_samples`."""
    for _, kernel, stride in layers:
        n_samples = (n_samples - kernel) // stride + 1
    return n_samples


def hop_and_receptive_field(layers: tuple[ConvLayer, ...]) -> tuple[int, int]:
    """Samples from one frame to the next, and samples one frame sees."""
    hop, field = 1, 1
    for _, kernel, stride in layers:
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field


def strided_conv(
    x: Float[Array, "B T Cin"], kernel: Float[Array, "k Cin Cout"], stride: int
) -> Float[Array, "B S Cout"]:
    """Unpadded 1-D convolution.

    With one input channel, or windows that do not overlap, it is a plain matmul over
    frames: there XLA's convolution has a backward pass several times slower on CPU. A
    width of several strides is a convolution of stride 1 over frames of one stride.
    """
    width, c_in, c_out = kernel.shape
    batch, samples, _ = x.shape
    frames = (samples - width) // stride + 1
    if c_in > 1 and stride > 1 and width % stride == 0 and width > stride:
        folds = width // stride
        x = x[:, : (frames + folds - 1) * stride]
        x = x.reshape(batch, frames + folds - 1, stride * c_in)
        return strided_conv(x, kernel.reshape(folds, stride * c_in, c_out), 1)
    if c_in > 1 and width != stride:
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        )
    if width == stride:
        windows = x[:, : frames * stride].reshape(batch, frames, width * c_in)
    else:
        last = stride * (frames - 1) + 1
        windows = jnp.concatenate(
            [x[:, i : i + last : stride] for i in range(width)], axis=-1
        )
    flat = windows.reshape(batch * frames, width * c_in)
    y = flat @ kernel.reshape(width * c_in, c_out)
    return y.reshape(batch, frames, c_out)


def transposed_conv(
    x: Float[Array, "B T Cin"], kernel: Float[Array, "k Cin Cout"], stride: int
) -> Float[Array, "B S Cout"]:
    """The transpose of `strided_conv`: `(T - 1) stride + k` steps.

    Every step is mapped to its taps by one product; taps of neighbours are added.
    """
    width, c_in, c_out = kernel.shape
    batch, steps, _ = x.shape
    pieces = -(-width // stride)
    kernel = jnp.pad(kernel, ((0, pieces * stride - width), (0, 0), (0, 0)))
    flat = kernel.transpose(1, 0, 2).reshape(c_in, -1)
    taps = (x.reshape(-1, c_in) @ flat).reshape(batch, steps, pieces, -1)
    parts = [
        jnp.pad(taps[:, :, i], ((0, 0), (i, pieces - 1 - i), (0, 0)))
        for i in range(pieces)
    ]
    whole = sum(parts[1:], parts[0]).reshape(batch, -1, c_out)
    return whole[:, : (steps - 1) * stride + width]


class ConvStem(nn.Module):
    """Convolutions without bias, exact GELU; the first one normed per feature in time.

    The norm's mean and variance run over the frames that lie wholly inside `span`, so
    that padding moves nothing; with `span` None they run over all frames.
    """

    layers: tuple[ConvLayer, ...]
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T"], span: Int[Array, "B 2"] | None
    ) -> Float[Array, "B S C"]:
        y = x[..., None].astype(self.dtype)
        for i, (features, width, stride) in enumerate(self.layers):
            shape = (width, y.shape[-1], features)
            std = (2 / (width * y.shape[-1])) ** 0.5  # Kaiming normal, fan-in
            kernel = self.param(f"conv_{i}", nn.initializers.normal(std), shape)
            y = strided_conv(y, kernel.astype(self.dtype), stride)
            if i == 0:
                inside = None
                if span is not None:
                    inside = frames_inside(span, y.shape[1], width, stride)
                y = TimeNorm(name="norm")(y, inside)
            y = nn.gelu(y, approximate=False)
        return y


def frames_inside(
    span: Int[Array, "B 2"], frames: int, width: int, stride: int
) -> Bool[Array, "B S"]:
    """Frames whose window of `width` samples lies wholly inside `[first, past)`."""
    first = jnp.arange(frames) * stride
    return (first >= span[:, :1]) & (first + width <= span[:, 1:])


class TimeNorm(nn.Module):
    """GroupNorm with one group a feature: each feature over time, eps 1e-5."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S C"], inside: Bool[Array, "B S"] | None
    ) -> Float[Array, "B S C"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = x.astype(jnp.float32)
        if inside is None:
            y = y - y.mean(1, keepdims=True)
            variance = jnp.square(y).mean(1, keepdims=True)
        else:
            weight = inside[..., None].astype(jnp.float32)
            total = jnp.maximum(weight.sum(1, keepdims=True), 1)
            y = y - (y * weight).sum(1, keepdims=True) / total
            variance = (jnp.square(y) * weight).sum(1, keepdims=True) / total
        return (y * jax.lax.rsqrt(variance + 1e-5) * scale + bias).astype(x.dtype)
