"""What all stages of Du-IN begin with: channels of a subject to tokens in time.

A linear map of the subject's channels, patches through convolutions without any
activation between them, time, and a transformer encoder.

Source: Du-IN (arXiv 2405.11459) and its released code, which is followed where they
differ: the convolutions are ordinary ones.

Axes: B items, C channels, T samples, E neural channels, P patches (tokens), L samples
of a patch, D width, N layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.nn import batchnorm
from neurofm.nn.apply import apply
from neurofm.nn.blocks import BY_LAYER, PostNormBlock, Rates, scanned
from neurofm.nn.conv import ConvLayer, strided_conv
from neurofm.nn.positions import sincos_interleaved
from neurofm.nn.sensors import dense_init
from neurofm.nn.subjects import subject_map
from neurofm.task import Batch, Tree

EPS = 1e-5  # of every norm
SCALE_EPS = 1e-12  # volts; a channel that is constant stays zero


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Sizes; the defaults are the published ones.

    Attributes:
      sfreq: in Hz.
      reference: what channels are measured against.
      n_chans: C; channels that a subject lacks are masked.
      subjects: names of those with a map of their own.
      segment_samples, patch_samples: T and L.
      n_neural: E.
      convs: features, kernel and stride of each convolution within a patch.
      depth, heads, head_width, mlp_width: of the encoder.
      dropout: of attention weights and behind the feed-forward's activation.
      normalise: every channel of an item has mean 0 and deviation 1 (`window`), or is
        taken as it is (`none`), as released.
    """

    sfreq: float = 1000.0
    reference: str = "bipolar"
    n_chans: int = 10
    subjects: tuple[str, ...] = ("subject",)
    segment_samples: int = 4000
    patch_samples: int = 100
    n_neural: int = 16
    convs: tuple[ConvLayer, ...] = ((128, 19, 10), (128, 3, 1), (16, 3, 1))
    depth: int = 8
    heads: int = 8
    head_width: int = 64
    mlp_width: int = 320
    dropout: float = 0.2
    normalise: Literal["window", "none"] = "window"

    def __post_init__(self):
        if self.width < 1 or self.width % 2:
            raise NeuroFMError(
                f"trunk.convs make {self.width} features of a patch of "
                f"{self.patch_samples} samples: an even number is needed"
            )
        if self.segment_samples % self.patch_samples:
            raise NeuroFMError(
                f"trunk.segment_samples is {self.segment_samples}: give a multiple of "
                f"trunk.patch_samples ({self.patch_samples})"
            )
        if not self.subjects:
            raise NeuroFMError("trunk.subjects names nobody: give one or more")

    # ---- sizes ----------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps that the convolutions leave of a patch."""
        n = self.patch_samples
        for _, kernel, stride in self.convs:
            n = (n + sum(_padding(kernel, stride)) - kernel) // stride + 1
        return n

    @property
    def width(self) -> int:
        """D."""
        return self.steps * self.convs[-1][0]

    @property
    def n_patches(self) -> int:
        """P of a whole segment."""
        return self.segment_samples // self.patch_samples

    def spec(self) -> BatchSpec:
        """Channels of one subject, and what is there of them."""
        c, t = self.n_chans, self.segment_samples
        return BatchSpec(
            fields={
                "ieeg/signal": Field(shape=(c, t), axes=("chan", "sample"), unit="V"),
                "ieeg/channel_mask": Field(shape=(c,), axes=("chan",), dtype="bool"),
                "ieeg/length": Field(shape=(), axes=(), dtype="int32"),
                "subject": Field(shape=(), axes=(), dtype="int32", words=self.subjects),
            },
            contract=InputContract(
                kind="ieeg",
                sfreq=self.sfreq,
                unit="V",
                n_chans=c,
                window_samples=t,
                hop_samples=self.patch_samples,
                receptive_samples=self.patch_samples,
                reference=self.reference,
                normalisation="one scale a channel and window"
                if self.normalise == "window"
                else "none",
            ),
        )

    # ---- the start ------------------------------------------------------------------

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Fresh parameters, and running statistics of the batch norms."""
        key_map, key_convs, key_blocks = jax.random.split(key, 3)
        tokenizer, running = {}, {}
        n_in = self.n_neural
        for i, (features, kernel, _) in enumerate(self.convs):
            shape = (kernel, n_in, features)
            tokenizer[f"conv_{i}"] = {
                "kernel": dense_init(jax.random.fold_in(key_convs, i), shape),
                "bias": jnp.zeros(features),
            }
            norm = f"norm_{i}"
            tokenizer[norm], running[norm] = batchnorm.start(features)
            n_in = features
        params = {
            "subjects": start_map(
                key_map, len(self.subjects), self.n_chans, self.n_neural
            ),
            "tokenizer": tokenizer,
            "blocks": self.start_blocks(key_blocks, self.depth),
        }
        return params, {"tokenizer": running}

    def start_blocks(self, key: jax.Array, depth: int) -> Tree:
        """So many blocks; kernels of block i (from 0) are over sqrt(2 (i + 1))."""
        x, number = jnp.zeros((1, 2, self.width)), jnp.arange(depth)
        params = self.blocks(depth).init(key, x, None, number, None)["params"]
        size = jnp.sqrt(2.0 * (number + 1))

        def smaller(path: Any, leaf: Array) -> Array:
            if path[-1].key != "kernel":
                return leaf
            return leaf / size.reshape(-1, *[1] * (leaf.ndim - 1))

        return jax.tree_util.tree_map_with_path(smaller, params)

    def blocks(self, depth: int, dtype: Any = "float32") -> Any:
        """Blocks as the encoder has them."""
        return scanned(PostNormBlock, "none", depth, BY_LAYER)(
            self.heads,
            eps=EPS,
            mlp_width=self.mlp_width,
            activation=nn.relu,
            qkv_init=dense_init,
            kernel_init=lambda n_in: dense_init,
            head_width=self.head_width,
            norm_eps=EPS,
            rates=Rates(weights=self.dropout, hidden=self.dropout),
            dtype=jnp.dtype(dtype),
        )

    # ---- the way of the data --------------------------------------------------------

    def signals(self, batch: Batch) -> tuple[Float[Array, "B T C"], Bool[Array, "B P"]]:
        """Channels as `normalise` says, zeros where none is, and recorded patches."""
        x, length = batch["ieeg/signal"], batch["ieeg/length"][:, None]
        recorded = jnp.arange(x.shape[-1]) < length
        there = batch["ieeg/channel_mask"][..., None] & recorded[:, None]
        x = jnp.where(there, x, 0)
        if self.normalise == "window":
            n = jnp.maximum(there.sum(-1, keepdims=True), 1)
            x = jnp.where(there, x - x.sum(-1, keepdims=True) / n, 0)
            deviation = jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) / n)
            x = x / jnp.maximum(deviation, SCALE_EPS)
        patches = jnp.arange(x.shape[-1] // self.patch_samples)
        return x.swapaxes(1, 2), patches < length // self.patch_samples

    def neural(
        self, params: Tree, x: Float[Array, "B T C"], subject: Int[Array, " B"], dtype
    ) -> Float[Array, "B T E"]:
        """Channels of any subject as channels of one kind."""
        return mapped(params["subjects"], x, subject, dtype)

    def patches(
        self,
        params: Tree,
        running: Tree,
        batch: Batch,
        counted: Bool[Array, "B P"] | None,
        dtype: jnp.dtype,
    ) -> tuple[Float[Array, "B P D"], Tree]:
        """Patches of all channels of a batch, and sums of the norms; see `tokens`."""
        x, _ = self.signals(batch)
        x = self.neural(params, x, batch["subject"], dtype)
        return self.tokens(params, running, x, counted)

    def tokens(
        self,
        params: Tree,
        running: Tree,
        x: Float[Array, "B T E"],
        counted: Bool[Array, "B P"] | None,
    ) -> tuple[Float[Array, "B P D"], Tree]:
        """Every patch alone through the convolutions, and sums for `moved`.

        Args:
          counted: patches that give the norms' statistics, in training; None takes the
            running ones.
        """
        b, t, e = x.shape
        x = x.reshape(b * t // self.patch_samples, self.patch_samples, e)
        own = None if counted is None else counted.reshape(-1)
        params, sums = params["tokenizer"], {}
        for i, (_, _, stride) in enumerate(self.convs):
            x = padded_conv(params[f"conv_{i}"], x, stride)
            norm = f"norm_{i}"
            x, sums[norm] = batchnorm.batch_norm(
                x, params[norm], running["tokenizer"][norm], own
            )
        sums = {"tokenizer": sums} if counted is not None else {}
        return x.reshape(b, -1, self.width), sums

    def layers(
        self,
        params: Tree,
        x: Float[Array, "B P D"],
        visible: Bool[Array, "B P"],
        keys: UInt32[Array, "B 2"] | None,
        dtype: jnp.dtype,
        first: int = 0,
    ) -> Float[Array, "N B P D"]:
        """The output of every block of `params`, of tokens with their times added.

        Args:
          first: the number of the first block, by which dropout is drawn.
        """
        depth = len(params["blocks"]["norm_attn"]["scale"])
        x = x + jnp.asarray(sincos_interleaved(x.shape[1], self.width), x.dtype)
        numbers = first + jnp.arange(depth)
        blocks = self.blocks(depth, dtype)
        x = x.astype(dtype)
        return apply(blocks, params["blocks"], x, visible, numbers, keys)[1]

    def shortened(self, n_samples: int) -> "Trunk":
        """For segments of `n_samples`, in whole patches and no longer."""
        patches = -(-n_samples // self.patch_samples)
        n = max(1, min(patches, self.n_patches)) * self.patch_samples
        return replace(self, segment_samples=n)

    def fitted(self, datasets: Sequence[Dataset]) -> "Trunk":
        """With the subjects and channels of intracranial stores.

        Raises:
          NeuroFMError: a recording whose subject nobody told, of several.
        """
        names = {name for d in datasets for name in d.items["subject"].to_pylist()}
        if "" in names and len(names) > 1:
            raise NeuroFMError(
                "some recordings tell their subject and some do not: give every one a "
                "`subject` (--labels or --pattern of `neurofm prepare`)"
            )
        most = max(int(d.n_chans.max()) for d in datasets)
        return replace(self, subjects=tuple(sorted(names)), n_chans=most)

    def token_times(self, n: int) -> Float[np.ndarray, " P"]:
        """Centres of patches in seconds."""
        centre = (np.arange(n) + 0.5) * self.patch_samples
        return (centre / self.sfreq).astype(np.float32)

    def block_macs(self, tokens: int) -> float:
        """Multiply-adds of one block for a token among so many."""
        inner = self.heads * self.head_width
        mlp = 2 * self.width * self.mlp_width
        return 4 * self.width * inner + 2 * inner * tokens + mlp

    @property
    def token_macs(self) -> float:
        """Multiply-adds of a token, encoder included."""
        macs = self.patch_samples * self.n_chans * self.n_neural
        n, c_in = self.patch_samples, self.n_neural
        for features, kernel, stride in self.convs:
            n = (n + sum(_padding(kernel, stride)) - kernel) // stride + 1
            macs, c_in = macs + n * kernel * c_in * features, features
        return macs + self.depth * self.block_macs(self.n_patches)


RULES = ((r"(^|/)(subjects|channels)/kernel$", ()),)


def moved(running: Tree, sums: Tree) -> Tree:
    """Running statistics of the tokenizer after a step."""
    norms = running["tokenizer"].items()
    own = {k: batchnorm.moved(x, sums["tokenizer"][k]) for k, x in norms}
    return {"tokenizer": own}


def mapped(
    params: Tree, x: Float[Array, "B T D"], subject: Int[Array, " B"], dtype: Any
) -> Float[Array, "B T E"]:
    """Through the map of each item's subject."""
    return subject_map(x, params["kernel"], params["bias"], subject, dtype)


def start_map(key: jax.Array, subjects: int, n_in: int, n_out: int) -> Tree:
    """A map for every subject."""
    kernel = dense_init(key, (subjects, n_in, n_out))
    return {"kernel": kernel, "bias": jnp.zeros((subjects, n_out))}


def padded_conv(
    params: Tree, x: Float[Array, "M S Cin"], stride: int
) -> Float[Array, "M R Cout"]:
    """A convolution with its bias, padded as released.

    A stride of 1 keeps the length; else `(k - 1) // 2` zeros stand at both ends. Taps
    are filled up to whole strides, which folds the stride into channels.
    """
    kernel = params["kernel"].astype(x.dtype)
    left, right = _padding(len(kernel), stride)
    more = -len(kernel) % stride
    kernel = jnp.pad(kernel, ((0, more), (0, 0), (0, 0)))
    x = jnp.pad(x, ((0, 0), (left, right + more), (0, 0)))
    return strided_conv(x, kernel, stride) + params["bias"].astype(x.dtype)


def _padding(kernel: int, stride: int) -> tuple[int, int]:
    left = (kernel - 1) // 2
    return (left, kernel - 1 - left) if stride == 1 else (left, left)
