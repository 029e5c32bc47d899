"""WavJEPA and WavJEPA-Nat: predict a teacher's latents of raw sound.

A convolutional stem turns waveforms into 100 Hz tokens. A student transformer encodes
the context tokens only; a predictor fills in groups of target tokens; the target is the
mean of a teacher's normalised blocks, the teacher being an average of the student.

Source: arXiv 2509.23238 and its released code, which is followed where they differ.

Axes: B crops, C channels, U samples of a crop, S tokens a channel, CS all tokens
(channel-major), N target groups, F stem features, D width, P predictor width, L blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.errors import NeuroFMError
from neurofm.models import wavjepa_weights
from neurofm.models.wavjepa_scenes import Scenes
from neurofm.nn.attention import Attention
from neurofm.nn.blocks import Remat, Transformer, remat_savings
from neurofm.nn.conv import ConvLayer, ConvStem, hop_and_receptive_field, n_frames
from neurofm.nn.linear import Linear
from neurofm.nn.norms import LayerNorm
from neurofm.nn.positions import sincos_channels
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.objectives import spread
from neurofm.objectives.bucketed import smallest_cap
from neurofm.objectives.latent import TargetNorm, block_targets, token_errors
from neurofm.objectives.masks import (
    Masker,
    TimeInverse,
    draw_masks,
    gather_tokens,
    over_channels,
    positions,
    target_cap,
)
from neurofm.parallel.mesh import Platform
from neurofm.signals.audio import normalize_crop
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

PUBLISHED_STEM: tuple[ConvLayer, ...] = (
    (512, 10, 5),
    *(((512, 3, 2),) * 4),
    (512, 2, 2),
)
PREDICTION = ("predictor", "to_predictor", "from_predictor", "mask_token")
STUDENT = ("encoder", *PREDICTION)  # what comes after the tokens
MIN_TOKENS = 12  # of a window; the masker has no room in fewer
BUCKETED_UP_TO = 16  # crops; a larger batch nearly always needs the widest cap


def apply(module: nn.Module, params: Tree, *args: Any) -> Any:
    """A Linen module as a function of its parameters."""
    return module.apply({"params": params}, *args)


@dataclass(frozen=True, kw_only=True)
class WavJEPA(Task):
    """Joint-embedding prediction on waveforms; the defaults are WavJEPA base.

    Attributes:
      sfreq: sampling rate in Hz.
      window_samples: samples of one crop (`int(16000 * 2.01)`).
      n_chans: 1, or 2 for the binaural model, which has a stem per channel.
      conv_layers: (features, kernel, stride) of each stem layer.
      width, depth, heads: student and teacher.
      predictor_width, predictor_depth, predictor_heads: predictor.
      top_k: how many of the teacher's last blocks make the target.
      target_norm: `joint` as released, `data2vec` per feature over time.
      masker: how context and targets are drawn.
      channel_mask: binaural, `shared` in time or `interleaved_legacy` as released.
      compute: `gathered` takes visible tokens only, `dense` all of them; same loss.
      context_caps: context tokens the gathered path makes room for; small batches take
        the smallest that holds theirs, and no draw exceeds the last one.
      ema_start, ema_end, ema_anneal: the teacher's decay rises linearly over the first
        `ema_anneal` of the run.
      horizon: steps of the run, filled in from `train.steps`.
      scenes: binaural, whether training hears recordings or simulated scenes.
      statistics: what crop and stem norms measure, `valid` samples or the whole `unit`,
        padding included (as the released embedding does).
      crop_norm: `instance`, or `none` where the batch holds normalised crops.
      project_init: deviation of the initial projection from stem to encoder.
      remat: what the backward pass computes again for memory: nothing (`none`), whole
        blocks (`block`), or all of a block but its projections (`selective`).
      attention: `auto` takes the form that suits platform, dtype and length; `xla`,
        `splash` (TPU) and `cudnn` (GPU) ask for one, which must be possible.
    """

    name: ClassVar[str] = "wavjepa"
    torch_twin: ClassVar[str] = "neurofm.models.wavjepa_torch:WavJEPAEncoder"

    sfreq: float = 16_000.0
    window_samples: int = 32_159
    n_chans: int = 1
    conv_layers: tuple[ConvLayer, ...] = PUBLISHED_STEM
    width: int = 768
    depth: int = 12
    heads: int = 12
    predictor_width: int = 384
    predictor_depth: int = 12
    predictor_heads: int = 12
    top_k: int = 8
    target_norm: TargetNorm = "joint"
    masker: Masker = field(default_factory=TimeInverse)
    channel_mask: Literal["shared", "interleaved_legacy"] = "shared"
    compute: Literal["gathered", "dense"] = "gathered"
    context_caps: tuple[int, ...] = (48, 64, 78)
    ema_start: float = 0.999
    ema_end: float = 0.99999
    ema_anneal: float = 100_000 / 375_000
    horizon: int | None = None
    scenes: Scenes = field(default_factory=Scenes)
    statistics: Literal["valid", "unit"] = "valid"
    crop_norm: Literal["instance", "none"] = "instance"
    project_init: float = 0.02
    precision: Precision = "auto"
    remat: Remat = "none"
    attention: Attention = "auto"

    def __post_init__(self):
        if self.n_chans not in (1, 2):
            raise NeuroFMError(f"task.n_chans is {self.n_chans}: WavJEPA takes 1 or 2")
        for name, heads in (("width", "heads"), ("predictor_width", "predictor_heads")):
            width, n_heads = getattr(self, name), getattr(self, heads)
            if width % n_heads or width % (4 if self.n_chans == 2 else 2):
                raise NeuroFMError(
                    f"task.{name} is {width}: it must be even (a multiple of 4 for two "
                    f"channels) and a multiple of task.{heads} ({n_heads})"
                )
        if not 1 <= self.top_k <= self.depth:
            raise NeuroFMError(
                f"task.top_k is {self.top_k}: give 1 to task.depth ({self.depth})"
            )
        if self.tokens < MIN_TOKENS:
            raise NeuroFMError(
                f"task.window_samples is {self.window_samples}, which makes "
                f"{self.tokens} tokens: give a window of {MIN_TOKENS} tokens or more"
            )
        if self.scenes.simulated:
            self.scenes.check(self.sfreq, self.window_samples, self.n_chans)
        if list(self.context_caps) != sorted(set(self.context_caps)) or not (
            self.context_caps and self.context_caps[0] >= 1
        ):
            raise NeuroFMError(
                f"task.context_caps is {self.context_caps}: give rising token counts"
            )

    # ---- sizes ----------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Tokens of one channel of a crop, S."""
        return n_frames(self.window_samples, self.conv_layers)

    @property
    def context_cap(self) -> int:
        """Most context tokens (of one channel) a draw may have."""
        return min(self.tokens, self.context_caps[-1])

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """Waveforms in [-1, 1] and the span of each crop that is recording.

        Training on simulated scenes takes clips of one channel and what their scenes
        are made of; everything else takes crops of `n_chans` channels.
        """
        hop, width = hop_and_receptive_field(self.conv_layers)
        of_crops = BatchSpec(
            fields={
                "audio/wave": Field(
                    shape=(self.n_chans, self.window_samples),
                    axes=("chan", "sample"),
                    unit="full_scale",
                ),
                "audio/span": Field(shape=(2,), axes=("edge",), dtype="int32"),
            },
            contract=InputContract(
                kind="audio",
                sfreq=self.sfreq,
                unit="full_scale",
                n_chans=self.n_chans,
                window_samples=self.window_samples,
                hop_samples=hop,
                receptive_samples=width,
                normalisation="clip to -14 dBFS RMS, then each crop to unit deviation",
            ),
        )
        if want == "train" and self.scenes.simulated:
            return self.scenes.batch_spec(of_crops)
        return of_crops

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    @property
    def _stem(self) -> ConvStem:
        return ConvStem(self.conv_layers, dtype=self._dtype)

    @property
    def _encoder(self) -> Transformer:
        return self._transformer(self.depth, self.heads)

    @property
    def _predictor(self) -> Transformer:
        return self._transformer(self.predictor_depth, self.predictor_heads)

    def _transformer(self, depth: int, heads: int) -> Transformer:
        return Transformer(
            depth,
            heads,
            remat=self.remat,
            attention=self.attention,
            dtype=self._dtype,
        )

    def _linear(self, width: int, std: float = 0.02) -> Linear:
        init = jax.nn.initializers.normal(std)
        return Linear((width,), kernel_init=init, dtype=self._dtype)

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh student and predictor; the teacher starts as a copy of the encoder."""
        del frozen
        names = ("project", "encoder", "predictor", "to_predictor", "from_predictor")
        stems = [f"stem_{c}" for c in range(self.n_chans)]
        parts = [*stems, *names, "mask_token"]
        keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
        wave = batch["audio/wave"][:1]
        features = jnp.zeros((1, 2, self.conv_layers[-1][0]))
        wide, narrow = (
            jnp.zeros((1, 2, d)) for d in (self.width, self.predictor_width)
        )
        modules = {
            **dict.fromkeys(stems, (self._stem, (wave[:, 0], None))),
            "project": (self._linear(self.width, self.project_init), (features,)),
            "encoder": (self._encoder, (wide, None)),
            "predictor": (self._predictor, (narrow, None)),
            "to_predictor": (self._linear(self.predictor_width), (wide,)),
            "from_predictor": (self._linear(self.width), (narrow,)),
        }
        params = {
            name: module.init(keys[name], *args)["params"]
            for name, (module, args) in modules.items()
        }
        params["feature_norm"] = LayerNorm(1e-5).init(key, features)["params"]
        params["mask_token"] = 0.02 * jax.random.normal(
            keys["mask_token"], (self.predictor_width,)
        )
        if features.shape[-1] == self.width:  # as released: equal widths, no projection
            del params["project"]
        teacher = jax.tree.map(jnp.copy, params["encoder"])
        return {"params": params, "slow": {"teacher": teacher}, "buffers": {}}

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Context and target masks, a key an example; masks stay in evaluation.

        Simulated scenes have draws of their own (`Scenes.draw`).
        """
        del step
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])
        span = batch["audio/span"] // self.scenes.per_sample(self.sfreq)
        first, count = self._valid_tokens(span)
        masks = draw_masks(
            self.masker, keys, first, count, self.tokens, self.context_cap
        )
        expand = partial(over_channels, n_chans=self.n_chans, form=self.channel_mask)
        draws = {
            "context": expand(masks.context),
            "target": expand(masks.target),
            "altered": masks.altered,
        }
        if self.scenes.simulated:
            draws |= self.scenes.draw(batch, key, train)
        return draws

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Mean squared error over target tokens; overlapping groups count twice."""
        del step
        params = variables["params"]
        wave = batch["audio/wave"]
        if self.scenes.simulated:
            wave = self.scenes.crops(batch, draws, self.sfreq, self.window_samples)
        span = batch["audio/span"] // self.scenes.per_sample(self.sfreq)
        tokens = self.embed_tokens(params, wave, span)
        valid = self._valid_mask(span)
        teacher_view = jax.lax.stop_gradient(tokens)
        targets, latents = self.targets(variables["slow"], teacher_view, valid)
        counted = draws["target"] & batch["valid"][:, None, None]
        masks = {"context": draws["context"], "target": counted}
        student = {name: params[name] for name in STUDENT}
        if self.compute == "dense":
            error = self.dense_error(student, tokens, masks, targets)
        else:
            error = self.gathered_error(student, tokens, masks, targets)
        weight = counted.sum().astype(jnp.float32)
        item = batch["valid"]
        sums = {
            "latents": spread.sums(latents, valid & item[:, None]),
            "context_tokens": (draws["context"].sum(-1) * item).sum().astype(float),
            "target_tokens": weight,
            "altered_masks": (draws["altered"] & item).sum().astype(float),
            "items": item.sum().astype(float),
        }
        return {"latent": (error, weight)}, sums

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Spread of the teacher's latents, and what the masks were like."""
        items = jnp.maximum(sums["items"], 1)
        groups = self.masker.n_groups
        return {
            **spread.summary(sums["latents"]),
            "context_tokens": sums["context_tokens"] / items,
            "target_tokens": sums["target_tokens"] / items / groups,
            "altered_masks": sums["altered_masks"] / items,
        }

    def update_slow(
        self, slow: Tree, old_params: Tree, new_params: Tree, step: Array
    ) -> Tree:
        """Move the teacher towards the student as it was before this step's update."""
        del new_params
        if self.horizon is None:
            raise NeuroFMError(
                "task.horizon is not set: it follows from train.steps in a run; give "
                "it when the task is used on its own"
            )
        anneal = max(1, round(self.ema_anneal * self.horizon))
        left = jnp.maximum(0.0, 1 - step / anneal)
        decay = self.ema_end - (self.ema_end - self.ema_start) * left
        teacher = jax.tree.map(
            lambda t, s: decay * t + (1 - decay) * s,
            slow["teacher"],
            old_params["encoder"],
        )
        return {"teacher": teacher}

    # ---- the parts of the loss ------------------------------------------------------

    def embed_tokens(
        self,
        params: Tree,
        wave: Float[Array, "B C U"],
        span: Int[Array, "B 2"],
    ) -> Float[Array, "B CS D"]:
        """Normalised crops through the stem(s), norm, projection and positions."""
        if self.crop_norm == "instance":
            wave = normalize_crop(wave, span, self.statistics)
        measured = span if self.statistics == "valid" else None
        features = jnp.concatenate(
            [
                apply(self._stem, params[f"stem_{c}"], wave[:, c], measured)
                for c in range(self.n_chans)
            ],
            axis=1,
        )
        features = apply(LayerNorm(1e-5), params["feature_norm"], features)
        if "project" in params:
            features = apply(self._linear(self.width), params["project"], features)
        return features + self._positions(self.width, features.dtype)

    def targets(
        self,
        slow: Tree,
        tokens: Float[Array, "B CS D"],
        valid: Bool[Array, "B CS"],
    ) -> tuple[Float[Array, "B CS D"], Float[Array, "B CS D"]]:
        """The teacher's normalised targets, and its raw block mean for monitoring."""
        _, blocks = apply(self._encoder, slow["teacher"], tokens, valid)
        top = blocks[-self.top_k :]
        raw = top.astype(jnp.float32).mean(0)
        return block_targets(top, valid, self.target_norm), raw

    def dense_error(
        self,
        student: Tree,
        tokens: Float[Array, "B CS D"],
        masks: Mapping[str, Array],
        targets: Float[Array, "B CS D"],
    ) -> Float[Array, ""]:
        """Summed error with all tokens computed and hidden ones masked as keys."""
        context, target = masks["context"], masks["target"]
        encoded, _ = apply(self._encoder, student["encoder"], tokens, context)
        z = self._to_predictor(student, encoded)
        z = jnp.where(context[..., None], z, student["mask_token"].astype(z.dtype))
        z = z + self._positions(self.predictor_width, z.dtype)
        groups = target.shape[1]
        z = jnp.repeat(z, groups, axis=0)  # row b * N + n
        visible = (context[:, None] | target).reshape(-1, context.shape[-1])
        predicted = self._predict(student, z, visible)
        errors = token_errors(predicted, jnp.repeat(targets, groups, axis=0))
        return (errors * target.reshape(errors.shape)).sum()

    def gathered_error(
        self,
        student: Tree,
        tokens: Float[Array, "B CS D"],
        masks: Mapping[str, Array],
        targets: Float[Array, "B CS D"],
    ) -> Float[Array, ""]:
        """The same sum from visible tokens only: hidden ones are never keys."""
        most = masks["context"].sum(-1).max()
        caps = [min(cap, self.tokens) * self.n_chans for cap in self.context_caps]
        if tokens.shape[0] > BUCKETED_UP_TO:
            caps = caps[-1:]
        return smallest_cap(
            self._gathered_error_at, caps, most, (student, tokens), (masks, targets)
        )

    def _gathered_error_at(self, cap: int, student_and_tokens, masks_and_targets):
        (student, tokens), (masks, targets) = student_and_tokens, masks_and_targets
        table = jnp.asarray(self._positions(self.predictor_width, self._dtype))
        context_at, is_context = positions(masks["context"], cap)  # [B, G]
        context = gather_tokens(tokens, context_at)
        encoded, _ = apply(self._encoder, student["encoder"], context, is_context)
        z_context = self._to_predictor(student, encoded) + table[context_at]

        places = target_cap(self.masker, self.tokens) * self.n_chans
        target_at, is_target = positions(masks["target"], places)  # [B, N, places]
        z_target = student["mask_token"].astype(table.dtype) + table[target_at]

        batch, groups = target_at.shape[:2]

        def join(context: Array, target: Array) -> Array:  # row b * N + n
            merged = target.reshape(batch * groups, *target.shape[2:])
            return jnp.concatenate([jnp.repeat(context, groups, 0), merged], axis=1)

        visible = join(is_context, is_target)
        z = join(z_context, z_target)
        predicted = self._predict(student, z, visible, last=places)

        wanted = gather_tokens(targets, target_at.reshape(batch, -1))
        wanted = wanted.reshape(predicted.shape)
        return (token_errors(predicted, wanted) * visible[:, -places:]).sum()

    def _to_predictor(self, student: Tree, x: Float[Array, "B S D"]):
        return apply(self._linear(self.predictor_width), student["to_predictor"], x)

    def _predict(
        self,
        student: Tree,
        z: Float[Array, "BN S P"],
        visible: Bool[Array, "BN S"],
        last: int | None = None,
    ) -> Float[Array, "BN G D"]:
        """Predictor, mapped back to the encoder's width at the `last` positions."""
        out, _ = apply(self._predictor, student["predictor"], z, visible)
        if last is not None:
            out = out[:, -last:]
        return apply(self._linear(self.width), student["from_predictor"], out)

    def _positions(self, width: int, dtype: jnp.dtype) -> Float[Array, "CS D"]:
        return jnp.asarray(sincos_channels(self.tokens, width, self.n_chans), dtype)

    def _valid_tokens(self, span: Int[Array, "B 2"]) -> tuple[Array, Array]:
        """First token that sees recording only, and how many there are."""
        hop, width = hop_and_receptive_field(self.conv_layers)
        first = -(-span[:, 0] // hop)
        past = (span[:, 1] - width) // hop + 1
        return first, jnp.clip(past - first, 0, self.tokens)

    def _valid_mask(self, span: Int[Array, "B 2"]) -> Bool[Array, "B CS"]:
        first, count = self._valid_tokens(span)
        place = jnp.arange(self.tokens)
        mask = (place >= first[:, None]) & (place < (first + count)[:, None])
        return jnp.tile(mask, (1, self.n_chans))

    # ---- the trained model ----------------------------------------------------------

    def inference(self, variables: Tree) -> Tree:
        """The student without predictor and teacher."""
        params = variables["params"]
        kept = {k: v for k, v in params.items() if k not in PREDICTION}
        return {"params": kept, "slow": {}, "buffers": {}}

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Student features of every block and of the final norm; channels averaged."""
        span = batch["audio/span"]
        params = variables["params"]
        tokens = self.embed_tokens(params, batch["audio/wave"], span)
        if self.statistics == "unit":
            mask = self._released_mask(span)
        else:
            mask = self._valid_mask(span)[:, : self.tokens]
        visible = jnp.tile(mask, (1, self.n_chans))
        last, blocks = apply(self._encoder, params["encoder"], tokens, visible)
        shape = (-1, self.n_chans, self.tokens, self.width)
        layers = {f"layer_{i + 1:02d}": x for i, x in enumerate(blocks)}
        values = {
            name: x.astype(jnp.float32).reshape(shape).mean(1)
            for name, x in {**layers, "last": last}.items()
        }
        hop, width = hop_and_receptive_field(self.conv_layers)
        times = (np.arange(self.tokens) * hop + width / 2) / self.sfreq
        times = jnp.broadcast_to(times.astype(np.float32), mask.shape)
        return Reading(values, times, mask)

    def shortened(self, n_samples: int) -> "WavJEPA":
        """The same with a shorter window, unless its padding is measured."""
        if self.statistics == "unit":
            return self
        hop, width = hop_and_receptive_field(self.conv_layers)
        least = (MIN_TOKENS - 1) * hop + width
        return replace(
            self, window_samples=min(max(n_samples, least), self.window_samples)
        )

    def _released_mask(self, span: Int[Array, "B 2"]) -> Bool[Array, "B S"]:
        """Tokens kept by the released rule, which floors a whole number a second.

        The table is made in float64, whose rounding is part of the rule.
        """
        seconds = int(self.window_samples // self.sfreq)
        if seconds == 0:
            return self._valid_mask(span)[:, : self.tokens]
        rate = int(self.tokens / seconds)
        pads = np.arange(self.window_samples + 1)
        dropped = (pads / self.sfreq * rate).astype(np.int32)
        pad = self.window_samples - (span[:, 1] - span[:, 0])
        kept = self.tokens - jnp.asarray(dropped)[pad]
        return jnp.arange(self.tokens) < kept[:, None]

    # ---- cost and official weights --------------------------------------------------

    def for_platform(self, target: Platform) -> "WavJEPA":
        """With the precision decided."""
        return replace(self, precision=decided(self.precision, target))

    def savings(self) -> tuple[str, ...]:
        """Of the blocks of all stacks."""
        return remat_savings(self.remat)

    def flops(self, batch_size: int) -> float:
        """Multiply-adds times two of one training step at the mean mask sizes.

        The backward pass counts as twice the forward one; the teacher has none.
        The making of simulated scenes is left out.
        """

        def stack(tokens, keys, width, depth):
            return depth * tokens * (24 * width**2 + 4 * keys * width)

        stem, samples, c_in = 0, self.window_samples, 1
        for features, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1
            stem += 2 * samples * kernel * c_in * features
            c_in = features
        stem += 2 * samples * c_in * self.width
        s, n = self.tokens * self.n_chans, self.masker.n_groups
        if self.compute == "dense":
            context, seen, out = s, s, s
        else:
            caps = self.context_caps
            cap = caps[-1] if batch_size > BUCKETED_UP_TO else caps[len(caps) // 2]
            context = min(cap, self.tokens) * self.n_chans
            out = target_cap(self.masker, self.tokens) * self.n_chans
            seen = context + out
        teacher = stack(s, s, self.width, self.depth)
        student = stack(context, context, self.width, self.depth)
        predictor = n * stack(seen, seen, self.predictor_width, self.predictor_depth)
        maps = 2 * self.width * self.predictor_width * (context + n * out)
        trained = stem * self.n_chans + student + predictor + maps
        return float(batch_size) * (3 * trained + teacher)

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> wavjepa_weights.Official:
        """Task and variables of a released checkpoint; see `wavjepa_weights`."""
        fields = wavjepa_weights.infer_fields(tensors, config or {})
        task = cls(**fields, statistics="unit")
        return replace(wavjepa_weights.convert(task, tensors), task=task)
