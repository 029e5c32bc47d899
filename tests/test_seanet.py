"""Convolutions, their transposes and the recurrent layer, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.nn.conv import strided_conv
from neurofm.nn.seanet import LSTM, Conv, UpConv, reflect_pad

RNG = np.random.default_rng(0)


def params_of(module, x):
    params = module.init(jax.random.key(0), jnp.asarray(x))["params"]
    return jax.tree.map(
        lambda p: jnp.asarray(RNG.normal(0, 1, p.shape), jnp.float32), params
    )


def kernel_of(params, kept):
    v = np.asarray(params["kernel"], float)
    axes = tuple(a for a in range(3) if a != kept)
    shape = [1, 1, 1]
    shape[kept] = -1
    gain = np.asarray(params["gain"], float).reshape(shape)
    return gain * v / np.sqrt((v**2).sum(axes, keepdims=True))


@pytest.mark.parametrize(
    ("steps", "width", "stride"),
    [
        (12, 5, 1),
        (12, 3, 1),
        (12, 1, 1),
        (12, 4, 2),
        (12, 8, 4),
        (13, 4, 2),
        (14, 6, 3),
    ],
)
@pytest.mark.parametrize("c_in", [1, 3])
def test_a_convolution_is_a_loop_over_reflected_input(steps, width, stride, c_in):
    x = RNG.normal(0, 1, (2, steps, c_in)).astype(np.float32)
    module = Conv(5, width, stride)
    params = params_of(module, x)
    got = module.apply({"params": params}, jnp.asarray(x))
    total = width - stride
    right = total // 2
    n = -(-steps // stride)
    extra = n * stride - steps
    padded = np.pad(x, ((0, 0), (total - right, right + extra), (0, 0)), "reflect")
    kernel, bias = kernel_of(params, 2), np.asarray(params["bias"], float)
    wanted = np.zeros((2, n, 5)) + bias
    for t in range(n):
        for k in range(width):
            wanted[:, t] += padded[:, t * stride + k] @ kernel[k]
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_sequence_too_short_to_reflect_is_first_extended_by_zeros():
    x = jnp.asarray([[[1.0], [2.0]]])
    # zeros to [1 2 0 0], reflected by 3 and 3 to [0 0 2 1 2 0 0 0 2 1], the two cut
    got = reflect_pad(x, 3, 3)[0, :, 0]
    np.testing.assert_array_equal(got, [0, 0, 2, 1, 2, 0, 0, 0])


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_transposed_convolution_adds_up_overlapping_taps(stride):
    x = RNG.normal(0, 1, (2, 5, 3)).astype(np.float32)
    module = UpConv(4, stride)
    params = params_of(module, x)
    got = module.apply({"params": params}, jnp.asarray(x))
    kernel = kernel_of(params, 1)
    full = np.zeros((2, 4 * stride + 2 * stride, 4))
    for t in range(5):
        for k in range(2 * stride):
            full[:, t * stride + k] += x[:, t] @ kernel[k]
    left = stride - stride // 2
    wanted = full[:, left : full.shape[1] - stride // 2] + np.asarray(params["bias"])
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize(("width", "stride"), [(4, 2), (8, 4), (6, 2), (3, 1)])
def test_folding_the_stride_into_features_is_the_same_convolution(width, stride):
    x = jnp.asarray(RNG.normal(0, 1, (2, 25, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(0, 1, (width, 3, 5)), jnp.float32)
    plain = jax.lax.conv_general_dilated(
        x, kernel, (stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(strided_conv(x, kernel, stride), plain, atol=1e-4)


def test_the_recurrent_layers_are_a_loop_over_time():
    x = RNG.normal(0, 1, (3, 6, 4)).astype(np.float32)
    module = LSTM()
    params = params_of(module, x)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    y = x.astype(float)
    for layer in range(2):
        p = {k: np.asarray(v, float) for k, v in params.items()}
        bias = p[f"bias_input_{layer}"] + p[f"bias_state_{layer}"]
        hidden = cell = np.zeros((3, 4))
        out = []
        for t in range(6):
            gates = y[:, t] @ p[f"input_{layer}"] + hidden @ p[f"state_{layer}"] + bias
            i, f, g, o = np.split(gates, 4, axis=-1)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            out.append(hidden)
        y = np.stack(out, 1)
    got = module.apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(got, x + y, atol=1e-5)
