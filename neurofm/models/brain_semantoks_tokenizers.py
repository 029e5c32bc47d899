"""A tokenizer for every network: patches of its regions to one token a patch.

Branches filter the patch in time, each to some of the token's features: a convolution
over all regions (`dense`), or long depthwise kernels made of a few short ones, read at
growing scales, and a linear map (`sgconv`, Li et al., arXiv 2210.09298). GELU, the mean
over time and a LayerNorm follow. Networks share no weights.

Source: Brain-Semantoks (arXiv 2512.11582) and its released code.

Axes: R rows, P patches, C regions, L samples of a patch, n networks of a group, K
samples of a kernel, H heads (kernels a region), M = C H channels, F features of a
branch, D features of a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from neurofm.errors import NeuroFMError
from neurofm.nn.linear import torch_uniform
from neurofm.task import Tree

EPS = 1e-5  # of the LayerNorm


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One way in which a tokenizer filters a patch.

    Attributes:
      kind: `dense` or `sgconv`.
      width: features it gives.
      kernel: samples of the kernel, of the shortest one of `sgconv`.
      dilation: samples from one tap of `dense` to the next.
      scales: kernels of `sgconv`, the longer ones stretched by 1, 2, 4, ...
      decay: what each scale is multiplied by to get the one before it, of the first
        and of the last region; linear between them.
    """

    kind: Literal["dense", "sgconv"] = "dense"
    width: int = 384
    kernel: int = 3
    dilation: int = 1
    scales: int = 3
    decay: tuple[float, float] = (2.0, 2.0)

    def __post_init__(self):
        if min(self.width, self.kernel, self.dilation, self.scales) < 1:
            raise NeuroFMError(
                f"a branch of task.tokenizer is {self}: give sizes of 1 or more"
            )
        if self.kind == "dense" and self.dilation * (self.kernel - 1) % 2:
            raise NeuroFMError(
                f"a branch of task.tokenizer has a kernel of {self.kernel} samples, "
                f"{self.dilation} apart, which has no middle: give an odd kernel"
            )

    def heads(self, regions: int) -> int:
        """Kernels a region of `sgconv`, so that there are `width` channels or more."""
        return -(-self.width // regions)

    @property
    def length(self) -> int:
        """Samples of the whole kernel of `sgconv`."""
        return self.kernel * 2 ** (self.scales - 1)


PUBLISHED = (Branch(), Branch(kind="sgconv", kernel=4))


# ---- parameters ----------------------------------------------------------------------


def init(key: jax.Array, branches: Sequence[Branch], regions: int) -> Tree:
    """Fresh parameters of the tokenizer of one network, as torch would start them."""
    params: Tree = {}
    for j, (branch, each) in enumerate(
        zip(branches, jax.random.split(key, len(branches)), strict=True)
    ):
        keys = jax.random.split(each, branch.scales + 3)
        heads = branch.heads(regions)
        n_in = regions * (branch.kernel if branch.kind == "dense" else heads)
        uniform, width = torch_uniform(n_in), branch.width
        own: Tree = {"bias": uniform(keys[0], (width,))}
        if branch.kind == "dense":
            own["kernel"] = uniform(keys[1], (branch.kernel, regions, width))
        else:
            own["kernel"] = uniform(keys[1], (heads * regions, width))
            own["skip"] = jax.random.normal(keys[2], (heads, regions))
            for i in range(branch.scales):
                shape = (heads, regions, branch.kernel)
                own[f"scale_{i}"] = jax.random.normal(keys[3 + i], shape)
        params[f"branch_{j}"] = own
    width = sum(branch.width for branch in branches)
    params["norm"] = {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
    return params


def kernel_norms(branches: Sequence[Branch], params: Tree) -> Tree:
    """Norms of the long kernels of fresh parameters, by which they stay divided."""
    return {
        f"branch_{j}": jnp.linalg.norm(
            long_kernel(branch, params[f"branch_{j}"]), axis=-1, keepdims=True
        )
        for j, branch in enumerate(branches)
        if branch.kind == "sgconv"
    }


def long_kernel(branch: Branch, own: Tree) -> Float[Array, "H C K"]:
    """The scales of an `sgconv` branch, one after the other, each stretched."""
    regions = own["skip"].shape[1]
    multiplier = jnp.linspace(*branch.decay, regions)[:, None]
    last = branch.scales - 1
    scales = [
        jnp.repeat(own[f"scale_{i}"], 2 ** max(0, i - 1), axis=-1)
        * multiplier ** (last - i)
        for i in range(branch.scales)
    ]
    return jnp.concatenate(scales, axis=-1)


# ---- from patches to tokens ----------------------------------------------------------


def tokens(
    branches: Sequence[Branch],
    params: Sequence[Tree],
    norms: Sequence[Tree],
    members: Sequence[Int[np.ndarray, " _"]],
    patches: Float[Array, "R P C L"],
) -> Float[Array, "R n P D"]:
    """Tokens of the networks of one group, computed together.

    Networks of unlike size are padded to the largest with weights of zero, so a group
    of one has its exact shapes.

    Args:
      params, norms: of each network, see `init` and `kernel_norms`.
      members: regions of each network.
    """
    parts = branch_outputs(branches, params, norms, members, patches)
    y = jax.nn.gelu(jnp.concatenate(parts, axis=-1), approximate=False)
    y = y.astype(jnp.float32).mean(3)  # [n, R, P, D]
    scale, bias = (
        jnp.stack([own["norm"][name] for own in params])[:, None, None]
        for name in ("scale", "bias")
    )
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPS)
    return jnp.moveaxis(y * scale + bias, 0, 1).astype(patches.dtype)


def branch_outputs(
    branches: Sequence[Branch],
    params: Sequence[Tree],
    norms: Sequence[Tree],
    members: Sequence[Int[np.ndarray, " _"]],
    patches: Float[Array, "R P C L"],
) -> list[Float[Array, "n R P L F"]]:
    """What each branch gives, before the GELU."""
    out = []
    for j, branch in enumerate(branches):
        name = f"branch_{j}"
        own = [p[name] for p in params]
        if branch.kind == "dense":
            y = _dense(branch, own, members, patches)
        else:
            mine = [norm[name] for norm in norms]
            y = _structured(branch, own, mine, members, patches)
        bias = jnp.stack([p["bias"] for p in own])[:, None, None, None]
        out.append(y + bias.astype(y.dtype))
    return out


def _dense(
    branch: Branch,
    params: Sequence[Tree],
    members: Sequence[Int[np.ndarray, " _"]],
    patches: Float[Array, "R P C L"],
) -> Float[Array, "n R P L F"]:
    most = max(map(len, members))
    kernels = [
        jnp.pad(own["kernel"], ((0, 0), (0, most - len(m)), (0, 0)))
        for own, m in zip(params, members, strict=True)
    ]
    kernel = jnp.stack(kernels).astype(patches.dtype)
    x, length = _regions(patches, members, most), patches.shape[-1]
    side = branch.dilation * (branch.kernel - 1) // 2
    x = jnp.pad(x, [(0, 0)] * 4 + [(side, side)])
    taps = [
        x[..., i : i + length]
        for i in range(0, branch.kernel * branch.dilation, branch.dilation)
    ]
    return jnp.einsum("knrpct,nkcf->nrptf", jnp.stack(taps), kernel)


def _structured(
    branch: Branch,
    params: Sequence[Tree],
    norms: Sequence[Float[Array, "_ _ 1"]],
    members: Sequence[Int[np.ndarray, " _"]],
    patches: Float[Array, "R P C L"],
) -> Float[Array, "n R P L F"]:
    """Channel c H + h is region c under kernel h; a convolution is a matrix here."""
    length = patches.shape[-1]
    channels = [np.repeat(m, branch.heads(len(m))) for m in members]
    most = max(map(len, channels))
    kernels = [
        _by_channel(long_kernel(branch, own) / norm)
        for own, norm in zip(params, norms, strict=True)
    ]
    skips = [_by_channel(own["skip"][..., None]) for own in params]

    def padded(arrays: Sequence[Array]) -> Array:
        wide = [jnp.pad(a, ((0, most - len(a)), (0, 0))) for a in arrays]
        return jnp.stack(wide)

    shifts = jnp.asarray(_shifts(branch.length, length))
    matrix = jnp.einsum("nmk,kst->nmst", padded(kernels), shifts, precision="highest")
    matrix = matrix + padded(skips)[..., None] * jnp.eye(length)
    x = _regions(patches, channels, most)
    y = jnp.einsum("nrpms,nmst->nrpmt", x, matrix.astype(x.dtype))
    project = padded([own["kernel"] for own in params]).astype(x.dtype)
    return jnp.einsum("nrpmt,nmf->nrptf", y, project)


def _by_channel(x: Float[Array, "H C K"]) -> Float[Array, "M K"]:
    return x.swapaxes(0, 1).reshape(-1, x.shape[-1])


def _shifts(kernel: int, length: int) -> Float[np.ndarray, "K L L"]:
    """Where tap k of a kernel leads from sample s to sample t, zeros beyond the ends.

    (kernel - 1) // 2 samples of zeros precede the patch.
    """
    ahead = kernel - 1 - (kernel - 1) // 2
    taps, at = np.arange(kernel)[:, None, None], np.arange(length)
    return (taps == ahead + at - at[:, None]).astype(np.float32)


def _regions(
    patches: Float[Array, "R P C L"],
    wanted: Sequence[Int[np.ndarray, " _"]],
    most: int,
) -> Float[Array, "n R P most L"]:
    """Samples of the wanted regions of each network; padding repeats the first."""
    index = np.stack([np.pad(w, (0, most - len(w)), mode="edge") for w in wanted])
    return jnp.moveaxis(jnp.take(patches, index, axis=2), 2, 0)
