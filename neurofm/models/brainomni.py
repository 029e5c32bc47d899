"""BrainOmni: predict the codes of masked sources and times of EEG and MEG.

A frozen BrainTokenizer turns recordings into vectors and codes of latent sources.
Masked positions are hidden; criss-cross blocks attend over time and over sources; one
linear map predicts the codes of all quantisers there.

Source: arXiv 2505.18185 and its released code, which is followed where they differ.

Axes: B recordings, S sources, W tokens in time, D tokenizer width, E width, Q
quantisers, K codes, L blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from neurofm.contract import BatchSpec
from neurofm.errors import NeuroFMError
from neurofm.models import brainomni_weights, meeg_batch
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.nn.apply import apply
from neurofm.nn.attention import Attention
from neurofm.nn.blocks import Remat, remat_savings
from neurofm.nn.crisscross import CrissCross, Rope
from neurofm.nn.linear import Linear
from neurofm.nn.norms import l2_normalize
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.nn.sensors import dense_init
from neurofm.objectives import spread
from neurofm.objectives.masks import span_mask
from neurofm.parallel.mesh import Platform
from neurofm.signals import meeg
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

TO_MASK_TOKEN = 0.8  # share of masked positions; the others take a random vector
PREDICTION = ("head", "mask_token")


@dataclass(frozen=True, kw_only=True)
class BrainOmni(Task):
    """Masked code prediction; the defaults are BrainOmni tiny.

    Attributes:
      tokenizer: the frozen first stage; a run takes it from the model it loads.
      segment_samples, n_sensors: samples and places for sensors of one item.
      overlap: share of a window that the next one sees again.
      width, depth, heads: of the blocks; each half of the features has half the heads.
      dropout: of attention weights and feed-forward outputs, in training.
      mask: positions are hidden at `random` as released, or in `span`s of time over all
        sources, as overlapping neighbours give single codes away.
      mask_ratio: share of positions hidden.
      span_tokens: length of a span.
      replacement: a fifth of the masked positions takes a random vector of the same
        `example`, or of the whole `batch` as released, which couples the batch.
      n_quantizers_used: levels predicted, from the first on.
      train_on: `signals`, or the `codes` that `neurofm prepare codes` made of them;
        the losses are the same.
      input_norm: tokens reach the blocks as they are (`none`, as released), or with
        unit mean square (`rms`), the size of the queries added to them.
      rope: `exact`, or `cosine_only` as the published files behave in the official
        code.
      eval_dropout: `off`; as `released` attention drops weights in evaluation too.
      remat, attention: as in `nn.blocks.Transformer`; attention weights are dropped in
        the written-out form alone.
    """

    name: ClassVar[str] = "brainomni"
    leans_on: ClassVar[tuple[str, ...]] = ("tokenizer",)

    tokenizer: BrainTokenizer = field(default_factory=BrainTokenizer)
    segment_samples: int = 7680
    n_sensors: int = 64
    overlap: float = 0.25
    width: int = 256
    depth: int = 12
    heads: int = 8
    dropout: float = 0.1
    mask: Literal["random", "span"] = "random"
    mask_ratio: float = 0.5
    span_tokens: int = 8
    replacement: Literal["example", "batch"] = "example"
    n_quantizers_used: int = 4
    train_on: Literal["signals", "codes"] = "signals"
    input_norm: Literal["none", "rms"] = "none"
    rope: Rope = "exact"
    eval_dropout: Literal["off", "released"] = "off"
    precision: Precision = "auto"
    remat: Remat = "none"
    attention: Attention = "auto"

    def __post_init__(self):
        if self.heads % 2 or self.width % (2 * self.heads):
            raise NeuroFMError(
                f"task.width is {self.width} with task.heads {self.heads}: heads must "
                "be even, and width a multiple of twice as many"
            )
        if self.depth < 2:
            raise NeuroFMError(
                f"task.depth is {self.depth}: give 2 or more, as features are those of "
                "the last block but one"
            )
        if not 1 <= self.n_quantizers_used <= self.tokenizer.n_quantizers:
            raise NeuroFMError(
                f"task.n_quantizers_used is {self.n_quantizers_used}: the tokenizer "
                f"has {self.tokenizer.n_quantizers}"
            )
        if not 0 <= self.overlap < 1:
            raise NeuroFMError(
                f"task.overlap is {self.overlap}: give a share of a window, 0 or more "
                "and less than 1"
            )

    @property
    def batch_coupled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether examples see each other's vectors."""
        return self.replacement == "batch"

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """What the tokenizer takes, in longer segments; for training, or its codes."""
        first = self.tokenizer
        if want == "train" and self.train_on == "codes":
            return meeg_batch.codes_spec(
                first.sfreq,
                (first.n_sources, self.n_tokens, first.n_quantizers),
                self.segment_samples,
                meeg.window_step(first.window_samples, self.overlap),
                first.window_samples,
            )
        return meeg_batch.spec(
            first.sfreq,
            self.n_sensors,
            self.segment_samples,
            first.hop_samples,
            first.window_samples,
            first.frame,
            want,
        )

    @property
    def n_tokens(self) -> int:
        """Tokens of a segment, a source."""
        return int(self.tokenizer.n_tokens(self.segment_samples, self.overlap))

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    def _blocks(self, train: bool) -> CrissCross:
        return CrissCross(
            self.depth,
            self.heads,
            self.rope,
            self.dropout,
            self.dropout if train else 0.0,
            attention=self.attention,
            remat=self.remat,
            dtype=self._dtype,
        )

    def _linear(self, width: int) -> Linear:
        return Linear((width,), kernel_init=dense_init, dtype=self._dtype)

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh blocks, head and mask token; the tokenizer stays where it is."""
        del batch, frozen
        keys = jax.random.split(key, 4)
        d, e = self.tokenizer.width, self.width
        x = jnp.zeros((1, 2, 2, e))
        n_logits = self.n_quantizers_used * self.tokenizer.n_codes
        params = {
            "mask_token": jax.random.normal(keys[0], (d,)),
            **self._blocks(False).init(keys[1], x, None, None)["params"],
            "head": self._linear(n_logits).init(keys[2], x)["params"],
        }
        if d != e:
            narrow = jnp.zeros((1, d))
            params["project"] = self._linear(e).init(keys[3], narrow)["params"]
        return {"params": params, "slow": {}, "buffers": {}}

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Masks, what stands in their place, and keys of dropout, for each example."""
        del step, train
        s = self.tokenizer.n_sources
        if "meeg/codes" in batch:
            w = batch["meeg/codes"].shape[2]
        else:
            n_samples = batch["meeg/signal"].shape[-1]
            w = int(self.tokenizer.n_tokens(n_samples, self.overlap))
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])

        def one(key):
            key_mask, key_hide, key_source, key_dropout = jax.random.split(key, 4)
            if self.mask == "span":
                uniform = jax.random.uniform(key_mask, (w + 1,))
                hidden = span_mask(
                    uniform, jnp.int32(w), self.mask_ratio, self.span_tokens
                )
                keep = jnp.broadcast_to(~hidden, (s, w))
            else:
                keep = jax.random.uniform(key_mask, (s, w)) > self.mask_ratio
            hide = jax.random.uniform(key_hide, (s, w)) <= TO_MASK_TOKEN
            source = jax.random.permutation(key_source, s * w).reshape(s, w)
            data = jax.random.key_data(key_dropout)
            return {"keep": keep, "hide": hide, "source": source, "dropout": data}

        draws = jax.vmap(one)(keys)
        if self.replacement == "batch":
            shape = draws["source"].shape
            key = jax.random.fold_in(key, 2**31 - 1)  # no index is that large
            source = jax.random.permutation(key, draws["source"].size)
            draws["source"] = source.reshape(shape)
        return draws

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Cross-entropy of the codes, over masked positions and quantisers alike."""
        del step
        params = variables["params"]
        tokens, codes, valid = self._tokens(variables, batch)
        keys = draws["dropout"] if train or self.eval_dropout == "released" else None
        hidden = self.hidden_tokens(params, tokens, draws)
        layers = self.layers(variables, hidden, valid, keys, train)
        logits = self.logits(params, layers[-1])
        used = codes[..., : self.n_quantizers_used]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, used)
        masked = ~draws["keep"] & valid[:, None] & batch["valid"][:, None, None]
        count = masked.sum().astype(jnp.float32)
        hits = (logits.argmax(-1) == used) & masked[..., None]
        terms = {
            "codes": (
                (losses.mean(-1) * masked).sum(),
                count,
            )
        }
        there = valid & batch["valid"][:, None]
        flat = layers[-1].reshape(len(tokens), -1, self.width).astype(jnp.float32)
        every = jnp.tile(there, (1, self.tokenizer.n_sources))
        sums = {
            "hits": hits.sum((0, 1, 2)).astype(jnp.float32),
            "masked": count,
            "positions": every.sum().astype(jnp.float32),
            "latents": spread.sums(jax.lax.stop_gradient(flat), every),
        }
        return terms, sums

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Share of codes guessed, by level and over all, and how much was masked."""
        share = sums["hits"] / jnp.maximum(sums["masked"], 1)
        levels = {f"accuracy_{q + 1}": x for q, x in enumerate(share)}
        masked = sums["masked"] / jnp.maximum(sums["positions"], 1)
        return {
            **spread.summary(sums["latents"]),
            "accuracy": share.mean(),
            **levels,
            "masked": masked,
        }

    # ---- the parts of the model -----------------------------------------------------

    def _tokens(
        self, variables: Tree, batch: Batch
    ) -> tuple[Float[Array, "B S W D"], Int[Array, "B S W Q"], Bool[Array, "B W"]]:
        frozen = variables["frozen"]["tokenizer"]
        if "meeg/codes" not in batch:
            found = self.tokenizer.tokenize(frozen, batch, self.overlap)
            return jax.lax.stop_gradient(found)
        codes = batch["meeg/codes"].astype(jnp.int32)
        tokens = jax.lax.stop_gradient(self.tokenizer.detokenize(frozen, codes))
        n = self.tokenizer.n_tokens(batch["meeg/length"], self.overlap)
        return tokens, codes, jnp.arange(codes.shape[2]) < n[:, None]

    def hidden_tokens(
        self, params: Tree, tokens: Float[Array, "B S W D"], draws: Tree
    ) -> Float[Array, "B S W D"]:
        """Tokens, of which masked ones are the mask token or some other's vector."""
        b, s, w, d = tokens.shape
        rows = 1 if self.replacement == "batch" else b
        flat = self.input_scaled(tokens).reshape(rows, -1, d)
        source = draws["source"].reshape(rows, -1, 1)
        others = jnp.take_along_axis(flat, source, axis=1).reshape(tokens.shape)
        instead = jnp.where(draws["hide"][..., None], params["mask_token"], others)
        return jnp.where(draws["keep"][..., None], flat.reshape(b, s, w, d), instead)

    def input_scaled(self, tokens: Float[Array, "B S W D"]) -> Float[Array, "B S W D"]:
        """Tokens as `input_norm` says."""
        if self.input_norm == "none":
            return tokens
        return l2_normalize(tokens, 1e-6) * tokens.shape[-1] ** 0.5

    def layers(
        self,
        variables: Tree,
        x: Float[Array, "B S W D"],
        valid: Bool[Array, "B W"],
        keys: UInt32[Array, "B 2"] | None,
        train: bool = False,
    ) -> Float[Array, "L B S W E"]:
        """The output of every block; each source is told by the tokenizer's query."""
        params = variables["params"]
        frozen = variables["frozen"]["tokenizer"]["params"]
        sources = jax.lax.stop_gradient(frozen["to_sources"]["sources"])
        x = x + sources[:, None]
        if "project" in params:
            x = apply(self._linear(self.width), params["project"], x)
        own = {"blocks": params["blocks"]}
        return apply(self._blocks(train), own, x, valid, keys)

    def logits(
        self, params: Tree, x: Float[Array, "B S W E"]
    ) -> Float[Array, "B S W Q K"]:
        """What is predicted at every position, in float32."""
        q, k = self.n_quantizers_used, self.tokenizer.n_codes
        y = apply(self._linear(q * k), params["head"], x)
        return y.astype(jnp.float32).reshape(*x.shape[:3], q, k)

    # ---- the trained model ----------------------------------------------------------

    def inference(self, variables: Tree) -> Tree:
        """Blocks and tokenizer, without what predicts codes."""
        params = variables["params"]
        kept = {k: v for k, v in params.items() if k not in PREDICTION}
        rest = {k: v for k, v in variables.items() if k == "frozen"}
        return {"params": kept, "slow": {}, "buffers": {}, **rest}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Features of all sources [B, W, S E], the tokenizer's codes, or signals.

        `last` is the block before the last, of unit length at every source and time, as
        released; `layer_01`, ... are blocks as they are. `reconstruction` and `sources`
        are the tokenizer's, of windows without overlap.
        """
        if want in ("reconstruction", "sources"):
            return self.tokenizer.read(variables["frozen"]["tokenizer"], batch, want)
        keys = None
        if self.eval_dropout == "released":
            index = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))
            keys = jax.random.key_data(index(batch["index"]))
        return self._read(variables, batch, keys, False, want)

    def features(
        self, variables: Tree, batch: Batch, draws: Tree, train: bool
    ) -> Reading:
        """The same, with dropout in training."""
        if not train:
            return self.read(variables, batch)
        return self._read(variables, batch, draws["dropout"], True)

    def _read(
        self,
        variables: Tree,
        batch: Batch,
        keys: UInt32[Array, "B 2"] | None,
        train: bool,
        want: Want = "features",
    ) -> Reading:
        tokens, codes, mask = self._tokens(variables, batch)
        if want == "codes":
            values = {"codes": codes}
        else:
            x = self.input_scaled(tokens)
            layers = self.layers(variables, x, mask, keys, train).astype(jnp.float32)
            values = {f"layer_{i + 1:02d}": x for i, x in enumerate(layers)}
            values["last"] = l2_normalize(layers[-2], 1e-6)
        b, _, w = codes.shape[:3]
        values = {k: x.swapaxes(1, 2).reshape(b, w, -1) for k, x in values.items()}
        times = self.tokenizer.token_times(w, self.overlap)
        return Reading(values, jnp.broadcast_to(times, mask.shape), mask)

    def shortened(self, n_samples: int) -> "BrainOmni":
        """For segments of `n_samples`, but at least a window."""
        n = min(max(n_samples, self.tokenizer.window_samples), self.segment_samples)
        return replace(self, segment_samples=n)

    def sized(self, batch: Mapping[str, Any]) -> "BrainOmni":
        """With the sensors of this batch, where it has any."""
        if "meeg/signal" not in batch:
            return self
        return replace(self, n_sensors=batch["meeg/signal"].shape[1])

    def for_platform(self, target: Platform) -> "BrainOmni":
        """With the precision of both stages decided."""
        own = decided(self.precision, target)
        return replace(
            self, precision=own, tokenizer=self.tokenizer.for_platform(target)
        )

    def savings(self) -> tuple[str, ...]:
        """Of the blocks."""
        return remat_savings(self.remat)

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Blocks by layer; the tokenizer's own for what is frozen."""
        return (
            (
                r"blocks/(time|space)/qkv/kernel$",
                ("layers", "embed", None, "heads", "kv"),
            ),
            (r"blocks/(time|space)/out/kernel$", ("layers", "heads", "kv", "embed")),
            (r"^head/kernel$", ("embed", "vocab")),
            *self.tokenizer.rules(),
        )

    def flops(self, batch_size: int) -> float:
        """Those of the blocks, three times for the backward pass, and the encoder's."""
        first = self.tokenizer
        w, s, e = self.n_tokens, first.n_sources, self.width
        token = self.depth * (20 * e * e + 2 * e * (w + s))
        token += 2 * e * self.n_quantizers_used * first.n_codes
        own = 3.0 * batch_size * s * w * token
        if self.train_on == "codes":
            return own
        windows = w // first.tokens
        return own + windows * self.n_sensors * batch_size * first.encoder_flops

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> brainomni_weights.Official:
        """Task and variables of a released checkpoint; see `brainomni_weights`."""
        own = brainomni_weights.tokenizer_tensors(tensors)
        first = BrainTokenizer.from_official(own, config)
        fields = brainomni_weights.infer_fields(tensors, config or {})
        task = cls(tokenizer=first.task, **fields)  # pyright: ignore[reportArgumentType]
        return replace(brainomni_weights.convert(task, tensors, first), task=task)
