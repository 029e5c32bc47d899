"""Attention kernels of others: splash for TPU, cuDNN for GPU.

Both take what `attention.written_out` takes and give the same within rounding. XLA
cannot partition them: call them on what one device holds.

Axes: B batch, S tokens, H heads, K head width.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.parallel.mesh import Platform

LANES = 128  # splash works on tiles of so many keys


def splash_refuses(target: Platform) -> str | None:
    """Why splash cannot take attention on this platform, if so."""
    if target != "tpu":
        return f"splash is a kernel for TPU and this program is for {target}"
    return None


def splash(
    query: Float[Array, "B S H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    visible: Bool[Array, "B S"],
    interpret: bool = False,
) -> Float[Array, "B S H K"]:
    """Splash attention, padded to whole tiles; hidden keys are another segment.

    `interpret` runs the kernel's own steps on any platform, slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    tokens, heads, head_width = query.shape[1:]
    padding = -tokens % LANES
    padded = tokens + padding
    block = next(n for n in (512, 256, 128) if padded % n == 0)
    every_key = masks.MultiHeadMask([masks.FullMask((padded, padded))] * heads)
    attention = kernel.make_splash_mha(
        every_key,
        block_sizes=kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def by_head(x: Array) -> Array:
        return jnp.pad(x, [(0, 0), (0, padding), (0, 0), (0, 0)]).swapaxes(1, 2)

    seen = jnp.pad(visible, [(0, 0), (0, padding)]).astype(jnp.int32)
    segments = kernel.SegmentIds(q=jnp.ones_like(seen), kv=seen)
    scaled = query * head_width**-0.5
    mixed: Array = jax.vmap(attention)(  # pyright: ignore[reportAssignmentType]
        by_head(scaled), by_head(key), by_head(value), segments
    )
    return mixed.swapaxes(1, 2)[:, :tokens]


def cudnn_refuses(
    target: Platform, dtype: jnp.dtype, tokens: int, head_width: int
) -> str | None:
    """Why cuDNN cannot take this attention, if so."""
    if target != "gpu":
        return f"cuDNN is for NVIDIA GPUs and this program is for {target}"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN takes 16-bit queries and these are {dtype}"
    if tokens % 2:
        return (
            f"cuDNN with a mask takes an even number of tokens and these are {tokens}"
        )
    if head_width % 8 or head_width > 128:
        return f"cuDNN takes heads of 8, 16, ... to 128 and these are {head_width} wide"
    return None


def cudnn(
    query: Float[Array, "B S H K"],
    key: Float[Array, "B S H K"],
    value: Float[Array, "B S H K"],
    visible: Bool[Array, "B S"],
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "B S H K"]:
    """cuDNN's fused attention; the mask is added to the scores of all heads."""
    batch, tokens = visible.shape
    mask = jnp.broadcast_to(visible[:, None, None, :], (batch, 1, tokens, tokens))
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        implementation=implementation,
    )
