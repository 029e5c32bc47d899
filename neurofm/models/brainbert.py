"""BrainBERT: one intracranial electrode's spectrogram, predicted where it is hidden.

Five seconds of one electrode become 186 frames of 40 frequencies; stripes of them are
hidden; a transformer encoder predicts what was there. Decoding reads the hidden states
around the middle of the window. Where the electrode is plays no part.

Source: arXiv 2302.14367 and its released code, which is followed where they differ.

Axes: B windows, N samples, T frames (tokens), F frequencies, H width, L layers.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.errors import NeuroFMError
from neurofm.models import brainbert_weights
from neurofm.nn.apply import apply
from neurofm.nn.attention import Attention
from neurofm.nn.blocks import (
    BY_LAYER,
    SITES,
    PostNormBlock,
    Rates,
    Remat,
    remat_savings,
    scanned,
)
from neurofm.nn.dropout import dropout
from neurofm.nn.linear import Linear, torch_uniform
from neurofm.nn.norms import LayerNorm
from neurofm.nn.positions import sincos_interleaved
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.objectives import spread
from neurofm.objectives.spectrogram import content_aware
from neurofm.objectives.stripes import Masker, Static, Stripes, applied
from neurofm.parallel.mesh import Platform
from neurofm.signals import stft
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

EPS = 1e-5  # of every norm
HEAD = "head"  # dropped for use


@dataclass(frozen=True, kw_only=True)
class BrainBERT(Task):
    """Masked prediction of a spectrogram; the defaults are the released large model.

    Attributes:
      spectrogram: made in the step from the trace (`stft`), or read from a store of
        `superlets` (`signals.superlets`).
      sfreq: of the trace, in Hz.
      reference: what traces are measured against.
      window_samples: of the trace; as released, 5 s without the last sample.
      frame_samples, hop_samples, n_freqs: of the spectrogram.
      edge_frames: left out at each end.
      scores: each frequency has mean 0 and deviation 1 over all frames, then edges are
        left out (`all_frames`); or over those that are left (`inner_frames`), as in the
        released notebook, which leaves out 5.
      window_frames: of a store of superlets.
      width, mlp_width, depth, heads: H, and the encoder.
      dropout: at every place where the released encoder has it.
      masker: which stripes are hidden; see `objectives.stripes`.
      content_weight: of the error of loud entries.
      gradient: of the loss; or as `released`, of half its square.
      norm_bias: where biases of norms start: `zero`, or 1 as `released`.
      remat, attention: as in `nn.blocks.Transformer`.
    """

    name: ClassVar[str] = "brainbert"
    torch_twin: ClassVar[str] = "neurofm.models.brainbert_torch:BrainBERTEncoder"

    spectrogram: Literal["stft", "superlets"] = "stft"
    sfreq: float = 2048.0
    reference: str = "laplacian"
    window_samples: int = 10_239
    frame_samples: int = 400
    hop_samples: int = 50
    n_freqs: int = 40
    edge_frames: int = 10
    scores: Literal["all_frames", "inner_frames"] = "all_frames"
    window_frames: int = 195
    width: int = 768
    mlp_width: int = 3072
    depth: int = 6
    heads: int = 12
    dropout: float = 0.1
    masker: Masker = field(default_factory=Static)
    content_weight: float = 2.0
    gradient: Literal["plain", "released"] = "plain"
    norm_bias: Literal["zero", "released"] = "zero"
    precision: Precision = "auto"
    remat: Remat = "none"
    attention: Attention = "auto"

    def __post_init__(self):
        if self.width % self.heads or self.width % 2:
            raise NeuroFMError(
                f"task.width is {self.width}: it must be even and a multiple of "
                f"task.heads ({self.heads})"
            )
        if self.n_frames < 1:
            raise NeuroFMError(
                f"task.window_samples is {self.window_samples}: of its frames none is "
                f"left without {self.edge_frames} at each end; give more than "
                f"{2 * self.edge_frames * self.hop_samples}"
            )
        if not self.hop_samples <= self.frame_samples:
            raise NeuroFMError(
                f"task.hop_samples is {self.hop_samples}: give at most a frame "
                f"(task.frame_samples is {self.frame_samples})"
            )
        if self.n_freqs > self.frame_samples // 2 + 1:
            raise NeuroFMError(
                f"task.n_freqs is {self.n_freqs}: a frame of {self.frame_samples} "
                f"samples has {self.frame_samples // 2 + 1}"
            )

    # ---- sizes ----------------------------------------------------------------------

    @property
    def n_frames(self) -> int:
        """T."""
        if self.spectrogram == "superlets":
            return self.window_frames
        return int(self._tokens(self.window_samples))

    def _tokens(self, n_samples):
        """Frames that are left of `n_samples` (an int or an array)."""
        return stft.n_frames(n_samples, self.hop_samples) - 2 * self.edge_frames

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """The trace of one electrode, or its superlets, and how much is recorded."""
        del want
        if self.spectrogram == "superlets":
            return self._superlets_spec()
        n = self.window_samples
        return BatchSpec(
            fields={
                "ieeg/signal": Field(shape=(1, n), axes=("chan", "sample"), unit="V"),
                "ieeg/length": Field(shape=(), axes=(), dtype="int32"),
            },
            contract=InputContract(
                kind="ieeg",
                sfreq=self.sfreq,
                unit="V",
                n_chans=1,
                window_samples=n,
                hop_samples=self.hop_samples,
                receptive_samples=(2 * self.edge_frames + 1) * self.hop_samples,
                reference=self.reference,
                normalisation="one scale a frequency and window",
            ),
        )

    def _superlets_spec(self) -> BatchSpec:
        shape = self.window_frames, self.n_freqs
        return BatchSpec(
            fields={
                "ieeg/superlets": Field(shape=shape, axes=("frame", "freq")),
                "ieeg/length": Field(shape=(), axes=(), dtype="int32"),
            },
            contract=InputContract(
                kind="superlets",
                sfreq=self.sfreq / self.hop_samples,
                unit="1",
                n_chans=self.n_freqs,
                window_samples=self.window_frames,
                hop_samples=1,
                receptive_samples=1,
                reference=self.reference,
                normalisation="none",
            ),
        )

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    def _blocks(self) -> nn.Module:
        return scanned(PostNormBlock, self.remat, self.depth, BY_LAYER)(
            self.heads,
            eps=EPS,
            attention=self.attention,
            mlp_width=self.mlp_width,
            kernel_init=torch_uniform,
            rates=Rates(
                weights=self.dropout,
                attended=self.dropout,
                hidden=self.dropout,
                out=self.dropout,
            ),
            dtype=self._dtype,
        )

    def _linear(self, n_in: int, n_out: int) -> Linear:
        return Linear((n_out,), kernel_init=torch_uniform(n_in), dtype=self._dtype)

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh weights; biases are zero."""
        del batch, frozen
        keys = jax.random.split(key, 4)
        h, f = self.width, self.n_freqs
        norm = {"scale": jnp.ones(h), "bias": jnp.zeros(h)}

        def linear(key: Array, n_in: int, n_out: int) -> Tree:
            layer = self._linear(n_in, n_out)
            return dict(layer.init(key, jnp.zeros((1, n_in)))["params"])

        x, layers = jnp.zeros((1, 2, h)), jnp.arange(self.depth)
        params = {
            "project": linear(keys[0], f, h),
            "norm": norm,
            "blocks": self._blocks().init(keys[1], x, None, layers, None)["params"],
            HEAD: {
                "hidden": linear(keys[2], h, h),
                "norm": norm,
                "out": linear(keys[3], h, f),
            },
        }
        if self.norm_bias == "released":
            params = jax.tree_util.tree_map_with_path(_one_where_norm_bias, params)
        return {"params": params, "slow": {}, "buffers": {}}

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Stripes, and keys of dropout, for each example."""
        del step, train
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])

        def one(key: Array) -> Tree:
            key_stripes, key_dropout = jax.random.split(key)
            stripes = self.masker.draw(key_stripes, self.n_frames, self.n_freqs)
            data = jax.random.key_data(key_dropout)
            return {**stripes._asdict(), "dropout": data}

        return jax.vmap(one)(keys)

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Absolute error of what is asked for, and of its loud entries; see `total`."""
        del step
        params = variables["params"]
        target, visible = self.spectra(batch)
        stripes = Stripes(*(draws[name] for name in Stripes._fields))
        hidden = applied(target, stripes, self.masker.clean_copies)
        keys = draws["dropout"] if train else None
        last = self.layers(params, hidden, visible, keys)[-1]
        there = visible & batch["valid"][:, None]
        asked = stripes.label & there[..., None]
        terms = content_aware(self.predicted(params, last), target, asked)
        last = jax.lax.stop_gradient(last).astype(jnp.float32)
        sums = {
            "latents": spread.sums(last, there),
            "asked": asked.sum().astype(jnp.float32),
            "entries": there.sum().astype(jnp.float32) * self.n_freqs,
        }
        return terms, sums

    def total(self, means: dict[str, Array]) -> Array:
        """l1 + 2 content; as released, with a gradient that many times as large."""
        loss = means["l1"] + self.content_weight * means["content"]
        if self.gradient == "plain":
            return loss
        fixed = jax.lax.stop_gradient(loss)
        steep = fixed * loss
        return fixed + (steep - jax.lax.stop_gradient(steep))

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Spread of the hidden states, and which share of entries was asked for."""
        share = sums["asked"] / jnp.maximum(sums["entries"], 1)
        return {**spread.summary(sums["latents"]), "masked": share}

    # ---- the parts of the model -----------------------------------------------------

    def spectra(self, batch: Batch) -> tuple[Float[Array, "B T F"], Bool[Array, "B T"]]:
        """Scores of every frequency, and which frames are recorded; zeros elsewhere."""
        length = batch["ieeg/length"][:, None]
        if self.spectrogram == "superlets":
            counted = jnp.arange(self.window_frames) < length
            return jnp.where(counted[..., None], batch["ieeg/superlets"], 0), counted
        x = batch["ieeg/signal"][:, 0]
        x = jnp.where(jnp.arange(x.shape[1]) < length, x, 0)
        x = stft.magnitude(x, self.frame_samples, self.hop_samples, self.n_freqs)
        at = jnp.arange(x.shape[1])
        edge, past = self.edge_frames, stft.n_frames(length, self.hop_samples)
        inner = (at >= edge) & (at < past - edge)
        counted = at < past if self.scores == "all_frames" else inner
        x = stft.scored(x, counted)
        kept = slice(edge, x.shape[1] - edge)
        return jnp.where(inner[..., None], x, 0)[:, kept], inner[:, kept]

    def embedded(
        self,
        params: Tree,
        x: Float[Array, "B T F"],
        keys: UInt32[Array, "B 2"] | None = None,
    ) -> Float[Array, "B T H"]:
        """Projected frames with their positions, normed."""
        x = apply(self._linear(x.shape[-1], self.width), params["project"], x)
        x = x + jnp.asarray(sincos_interleaved(x.shape[1], self.width), x.dtype)
        x = apply(LayerNorm(EPS), params["norm"], x)
        if keys is None or self.dropout == 0:
            return x
        return dropout(x, keys, self.dropout, jnp.int32(SITES * self.depth))

    def layers(
        self,
        params: Tree,
        x: Float[Array, "B T F"],
        visible: Bool[Array, "B T"],
        keys: UInt32[Array, "B 2"] | None = None,
    ) -> Float[Array, "L B T H"]:
        """The output of every block; there is no norm behind the last."""
        x = self.embedded(params, x, keys)
        number = jnp.arange(self.depth)
        return apply(self._blocks(), params["blocks"], x, visible, number, keys)[1]

    def predicted(
        self, params: Tree, x: Float[Array, "B T H"]
    ) -> Float[Array, "B T F"]:
        """What hidden states say of the spectrogram, in float32."""
        head, h = params[HEAD], self.width
        x = apply(self._linear(h, h), head["hidden"], x)
        x = nn.gelu(x, approximate=False)
        x = apply(LayerNorm(EPS), head["norm"], x)
        x = apply(self._linear(h, self.n_freqs), head["out"], x)
        return x.astype(jnp.float32)

    # ---- the trained model ----------------------------------------------------------

    def inference(self, variables: Tree) -> Tree:
        """The encoder, without what predicts the spectrogram."""
        params = {k: v for k, v in variables["params"].items() if k != HEAD}
        return {**variables, "params": params}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Hidden states of every layer [B, T, H]; `last` is the last of them.

        Decoding as released takes the mean of the ten in the middle of the window.
        """
        del want
        return self._read(variables, batch, None)

    def features(
        self, variables: Tree, batch: Batch, draws: Tree, train: bool
    ) -> Reading:
        """The same, with dropout in training."""
        return self._read(variables, batch, draws["dropout"] if train else None)

    def _read(
        self, variables: Tree, batch: Batch, keys: UInt32[Array, "B 2"] | None
    ) -> Reading:
        x, visible = self.spectra(batch)
        layers = self.layers(variables["params"], x, visible, keys).astype(jnp.float32)
        values = {f"layer_{i + 1:02d}": y for i, y in enumerate(layers)}
        times = jnp.broadcast_to(self.frame_times(), visible.shape)
        return Reading({**values, "last": layers[-1]}, times, visible)

    def frame_times(self) -> Float[np.ndarray, " T"]:
        """Middles of the frames in seconds."""
        at = np.arange(self.n_frames)
        if self.spectrogram == "stft":
            at = at + self.edge_frames
        return (at * self.hop_samples / self.sfreq).astype(np.float32)

    def shortened(self, n_samples: int) -> "BrainBERT":
        """For traces of `n_samples`, of which a frame at least is left."""
        if self.spectrogram == "superlets":
            return replace(self, window_frames=max(1, min(n_samples, self.n_frames)))
        least = self.batch_spec().contract.receptive_samples
        return replace(
            self, window_samples=min(max(n_samples, least), self.window_samples)
        )

    def for_platform(self, target: Platform) -> "BrainBERT":
        """With the precision decided."""
        return replace(self, precision=decided(self.precision, target))

    def savings(self) -> tuple[str, ...]:
        """Of the encoder."""
        return remat_savings(self.remat)

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """The head over its outputs; all else is shared."""
        return ((rf"^{HEAD}/(hidden|out)/kernel$", (None, "embed")),)

    def flops(self, batch_size: int) -> float:
        """Those of the matrix products, three times for the backward pass."""
        h, t, f = self.width, self.n_frames, self.n_freqs
        block = 4 * h * h + 2 * h * self.mlp_width + 2 * t * h
        token = f * h + self.depth * block + h * h + h * f
        waves = 2 * f * self.frame_samples if self.spectrogram == "stft" else 0
        return 2.0 * batch_size * t * (3 * token + waves)

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> brainbert_weights.Official:
        """Task and variables of a released checkpoint; see `brainbert_weights`."""
        task = cls(**brainbert_weights.infer_fields(tensors, config or {}))
        return brainbert_weights.convert(task, tensors)


def _one_where_norm_bias(path: Any, leaf: Array) -> Array:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    biased = name.endswith("bias") and "norm" in name.split("/")[-2]
    return jnp.ones_like(leaf) if biased else leaf
