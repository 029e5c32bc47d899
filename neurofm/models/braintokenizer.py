"""BrainTokenizer: EEG and MEG from any sensors to codes of a few latent sources.

Every window of every sensor goes through a convolutional encoder; attention that knows
where the sensors are gathers them into sources, token by token; a residual quantiser
turns each into codes; attention and a decoder give back any sensor's signal. It is the
first stage of BrainOmni.

Source: arXiv 2505.18185 and its released code, which is followed where they differ.

Axes: B recordings, C sensors, G sensors shown, T samples, N windows, L samples of a
window, W tokens in time (window-major), S sources, D width, Q quantisers, K codes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from neurofm.contract import BatchSpec
from neurofm.errors import NeuroFMError
from neurofm.models import braintokenizer_weights, meeg_batch
from neurofm.nn.apply import apply
from neurofm.nn.linear import Linear
from neurofm.nn.norms import l2_normalize
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.nn.quantizers import Quantized, ResidualQuantizer, health
from neurofm.nn.seanet import SEANetDecoder, SEANetEncoder, stack_macs
from neurofm.nn.sensors import (
    FromSources,
    SensorEmbedding,
    Start,
    ToSources,
    dense_init,
)
from neurofm.objectives import spread, waveform
from neurofm.parallel.mesh import Platform
from neurofm.parallel.sharding import constrain
from neurofm.signals import logspec, meeg
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

KMEANS_ROWS = 64  # recordings of the first batch that start the codebooks


@dataclass(frozen=True, kw_only=True)
class BrainTokenizer(Task):
    """Codes of latent sources; the defaults are the published sizes.

    The batch holds signals in V (EEG), T (magnetometers) and T/m (gradiometers), the
    place of every sensor in metres and three numbers of its orientation (zero for EEG),
    its type, whether it is there, and how many samples are recorded.

    Attributes:
      sfreq: sampling rate in Hz.
      segment_samples, n_sensors: samples and places for sensors of one item.
      window_samples: L; every window is encoded alone.
      n_filters, ratios, kernel_size, last_kernel_size: convolutions, see `nn.seanet`.
      width, n_sources, heads: D, S, and heads of both attentions.
      start: of the maps between sensors and sources, see `nn.sensors.starting`.
      source_keys: the decoder's attention knows which source a vector is of; not so as
        released, where their order makes no difference and no source has a place.
      n_quantizers, n_codes, code_width: Q, K, and the width codes are compared in.
      quantizer, rotation, revival, codebook_start, codebook_precision, codebook_decay:
        see `nn.quantizers.ResidualQuantizer`.
      drop_share: share of the sensors hidden from the encoder, at least one.
      noise: deviation of what is added to the encoder's input.
      normalise: reference and scale from the `kept` sensors only, or from `all` as
        released; `none` where the batch holds normalised signals and positions.
      frame: of the positions, `head` for EEG and MEG, or as `released` MEG in its
        device's.
      remainder: a rest shorter than a window is `padded`, or `dropped` as released.
      wrapped_phase: differences of phase the short way round; not so as released.
      phase_weight: of the phase in the loss.
      target: what is decoded at the sensors: the `waveform` as released, the
        log-spectrogram (`logspec`, see `signals.logspec`), which forgets phases and
        keeps how rhythms move, or `both`. With `logspec` there is no waveform decoder.
      logspec_weight: of the log-spectrogram beside the waveform.
    """

    name: ClassVar[str] = "braintokenizer"

    sfreq: float = 256.0
    segment_samples: int = 2560
    n_sensors: int = 64
    window_samples: int = 512
    n_filters: int = 32
    ratios: tuple[int, ...] = (8, 4, 2)
    kernel_size: int = 5
    last_kernel_size: int = 5
    width: int = 256
    n_sources: int = 16
    heads: int = 4
    start: Start = "released"
    source_keys: bool = False
    n_quantizers: int = 4
    n_codes: int = 512
    code_width: int = 256
    quantizer: Literal["ema", "simvq"] = "ema"
    rotation: bool = True
    revival: Literal["random", "released"] = "random"
    codebook_start: Literal["consistent", "released"] = "consistent"
    codebook_precision: Literal["float32", "bfloat16"] = "float32"
    codebook_decay: float = 0.99
    drop_share: float = 0.25
    noise: float = 0.1
    normalise: meeg_batch.Normalise = "kept"
    frame: Literal["head", "released"] = "head"
    remainder: meeg.Remainder = "padded"
    wrapped_phase: bool = False
    phase_weight: float = 0.5
    target: Literal["waveform", "logspec", "both"] = "waveform"
    logspec_weight: float = 2.0
    precision: Precision = "auto"

    def __post_init__(self):
        if self.width % self.heads or self.width % 2:
            raise NeuroFMError(
                f"task.width is {self.width}: it must be even and a multiple of "
                f"task.heads ({self.heads})"
            )
        if self.window_samples % self.hop_samples:
            raise NeuroFMError(
                f"task.window_samples is {self.window_samples}: give a multiple of the "
                f"product of task.ratios ({self.hop_samples})"
            )
        if self.segment_samples < self.window_samples:
            raise NeuroFMError(
                f"task.segment_samples is {self.segment_samples}: give at least one "
                f"window (task.window_samples is {self.window_samples})"
            )
        if self.target != "waveform":
            frame = round(logspec.FRAME_S * self.sfreq)
            if self.window_samples < frame:
                raise NeuroFMError(
                    f"task.window_samples is {self.window_samples}: for task.target="
                    f"{self.target} give at least a frame of 250 ms ({frame})"
                )
        if not 0 <= self.drop_share < 1:
            raise NeuroFMError(
                f"task.drop_share is {self.drop_share}: give a share of the sensors, "
                "0 or more and less than 1"
            )

    # ---- sizes ----------------------------------------------------------------------

    @property
    def hop_samples(self) -> int:
        """Samples from one token to the next within a window."""
        return math.prod(self.ratios)

    @property
    def tokens(self) -> int:
        """Tokens of one window."""
        return self.window_samples // self.hop_samples

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """Signals in SI units and what is known of their sensors."""
        return meeg_batch.spec(
            self.sfreq,
            self.n_sensors,
            self.segment_samples,
            self.hop_samples,
            self.window_samples,
            self.frame,
            want,
        )

    def n_shown(self, n_sensors):
        """Sensors left for the encoder of `n_sensors` (an int or an array)."""
        xp = jnp if isinstance(n_sensors, jax.Array) else np
        dropped = xp.maximum(xp.floor(self.drop_share * n_sensors), 1)
        return xp.maximum(n_sensors - dropped.astype(int), 1)

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    @property
    def _modules(self) -> dict[str, nn.Module]:
        convs = (self.n_filters, self.ratios, self.kernel_size, self.last_kernel_size)
        modules: dict[str, nn.Module] = {
            "sensors": SensorEmbedding(self.width, self.start, dtype=self._dtype),
            "encoder": SEANetEncoder(*convs, self.width, dtype=self._dtype),
            "to_sources": ToSources(
                self.n_sources, self.heads, self.start, dtype=self._dtype
            ),
            "from_sources": FromSources(self.heads, self.start, dtype=self._dtype),
        }
        if self.target != "logspec":
            modules["decoder"] = SEANetDecoder(*convs, dtype=self._dtype)
        if self.target != "waveform":
            bins = (len(logspec.frequencies(self.sfreq)),)
            modules["spectrum"] = Linear(
                bins, kernel_init=dense_init, dtype=self._dtype
            )
        return modules

    @property
    def _quantizer(self) -> ResidualQuantizer:
        return ResidualQuantizer(
            width=self.width,
            n_levels=self.n_quantizers,
            n_codes=self.n_codes,
            code_width=self.code_width,
            method=self.quantizer,
            rotation=self.rotation,
            decay=self.codebook_decay,
            revival=self.revival,
            start=self.codebook_start,
            precision=self.codebook_precision,
        )

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh parameters, and codebooks by k-means over the first batch.

        The vectors are those of a first training step (sensors dropped, noise added) of
        the batch's first 64 recordings. They are drawn here and not in the step, where
        only sums are seen: k-means is none.
        """
        del frozen
        names = (*self._modules, "quantizer", "draws", "codebooks")
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        d = self.width
        signal, seen = jnp.zeros((1, self.window_samples, 1)), jnp.zeros((1, 2, d))
        tokens, sources = (
            jnp.zeros((1, n, self.tokens, d)) for n in (2, self.n_sources)
        )
        inputs = {
            "sensors": (jnp.zeros((1, 2, 6)), jnp.zeros((1, 2), jnp.int32)),
            "encoder": (signal,),
            "to_sources": (tokens, seen, jnp.ones((1, 2), bool)),
            "from_sources": (sources, seen),
            "decoder": (tokens[:, 0],),
            "spectrum": (tokens,),
        }
        params = {
            name: module.init(keys[name], *inputs[name])["params"]
            for name, module in self._modules.items()
        }
        params["quantizer"] = self._quantizer.init_params(keys["quantizer"])
        rows = {name: x[:KMEANS_ROWS] for name, x in batch.items()}
        draws = self.draw(rows, keys["draws"], jnp.zeros((), jnp.int32), True)
        latents = self._training_view(params, rows, draws)[0]
        buffers = self._quantizer.start_buffers(
            keys["codebooks"],
            params["quantizer"],
            latents.reshape(-1, d),
            self._valid_tokens(rows).reshape(-1),
        )
        if not params["quantizer"]:
            del params["quantizer"]
        return {"params": params, "slow": {}, "buffers": {"codebooks": buffers}}

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Sensors shown to the encoder and noise on them, in validation as well.

        As released, but for every recording on its own. `step/picks` are the places
        of vectors that revive dead codes.
        """
        del step
        n_chans, n_samples = batch["meeg/signal"].shape[1:]
        n_shown = int(self.n_shown(n_chans))
        n = int(self._n_windows(n_samples, 0.0))
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])

        def one(key, mask):
            key_order, key_noise = jax.random.split(key)
            lottery = jax.random.uniform(key_order, (n_chans,))
            order = jnp.argsort(jnp.where(mask, lottery, 2.0))
            shape = (n_shown, n, self.window_samples)
            return order[:n_shown], jax.random.normal(key_noise, shape)

        shown, noise = jax.vmap(one)(keys, batch["meeg/sensor_mask"])
        draws: Tree = {"shown": shown, "noise": noise}
        if train and self.quantizer == "ema" and self.revival == "random":
            places = batch["index"].size * self.n_sources * n * self.tokens
            key = jax.random.fold_in(key, 2**31 - 1)  # no index is that large
            shape = (self.n_quantizers, self.n_codes)
            draws["step"] = {"picks": jax.random.randint(key, shape, 0, places)}
        return draws

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Differences of reconstruction and target, and the quantiser's commitment.

        All means are over windows, or over vectors, so they are sums and weights; of
        the correlation `total` takes a function of the global mean.
        """
        del step
        params = variables["params"]
        view = self._training_view(params, batch, draws)
        latents, sensors, windows, pos = view
        valid = self._valid_tokens(batch)
        place = jnp.arange(math.prod(valid.shape[1:])).reshape(valid.shape[1:])
        place = batch["index"][:, None, None] * place.size + place
        picks = draws.get("step", {}).get("picks")
        found = self._quantize(variables, latents, valid, train, picks, place)
        quantized = found.levels.sum(0).reshape(latents.shape)
        tokens = self.at_sensors(params, quantized, sensors)

        counted = batch["meeg/sensor_mask"] & batch["valid"][:, None]
        terms: Terms = {}
        if self.target != "logspec":
            terms |= self._waveform_terms(params, batch, tokens, windows, counted)
        if self.target != "waveform":
            terms |= self._logspec_terms(params, batch, tokens, windows, pos, counted)
        vectors = valid.sum().astype(jnp.float32)
        width = self.width if self.quantizer == "simvq" else self.code_width
        commitment = (found.error * valid.reshape(-1)).sum()
        terms["commitment"] = commitment, vectors * width * self.n_quantizers
        flat = latents.reshape(latents.shape[0], -1, self.width)
        sums = {
            "codebooks": found.sums,
            "latents": spread.sums(
                jax.lax.stop_gradient(flat), valid.reshape(flat.shape[:2])
            ),
        }
        return terms, sums

    def _waveform_terms(
        self,
        params: Tree,
        batch: Batch,
        tokens: Float[Array, "B C W D"],
        windows: Float[Array, "B C N L"],
        counted: Bool[Array, "B C"],
    ) -> Terms:
        rebuilt = self.waveforms(params, tokens).astype(jnp.float32)
        target = waveform.standardized(windows)
        errors = waveform.errors(rebuilt, target, self.wrapped_phase)
        there = counted[..., None] & self._valid_windows(batch, 0.0)[:, None]
        weight = there.sum().astype(jnp.float32)
        return {k: ((e * there).sum(), weight) for k, e in errors.items()}

    def _logspec_terms(
        self,
        params: Tree,
        batch: Batch,
        tokens: Float[Array, "B C W D"],
        windows: Float[Array, "B C N L"],
        pos: Float[Array, "B C 6"],
        counted: Bool[Array, "B C"],
    ) -> Terms:
        """Mean squared error over bins, of tokens whose frames are recorded."""
        near = logspec.neighbours(
            pos, batch["meeg/sensor_type"], batch["meeg/sensor_mask"]
        )
        sizes = self.sfreq, self.window_samples, self.hop_samples
        n = windows.shape[2]
        recorded = logspec.counted_tokens(batch["meeg/length"], n, *sizes)
        target = logspec.log_spectra(windows, near, recorded, self.sfreq)
        told = self.spectra(params, tokens).astype(jnp.float32).reshape(target.shape)
        error = jnp.square(told - target).mean(-1)
        there = counted[..., None, None] & recorded[:, None]
        weight = there.sum().astype(jnp.float32)
        return {"logspec": ((error * there).sum(), weight)}

    def total(self, means: dict[str, Array]) -> Array:
        """time + exp(-pcc) + commitment + amplitude + 0.5 phase, as released.

        With `logspec` its error stands for the waveform's four; `both` adds it twice.
        """
        total = means["commitment"]
        if self.target != "logspec":
            total += means["time"] + jnp.exp(-means["pcc"]) + means["amplitude"]
            total += self.phase_weight * means["phase"]
        if self.target != "waveform":
            weight = self.logspec_weight if self.target == "both" else 1.0
            total += weight * means["logspec"]
        return total

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Spread of the latents, and each level's use of its codes; see `health`."""
        return {**spread.summary(sums["latents"]), **health(sums["codebooks"])}

    def update_buffers(self, buffers: Tree, sums: Tree, step: Array) -> Tree:
        """Move the codebooks towards the vectors that chose them."""
        del step
        moved = self._quantizer.moved(buffers["codebooks"], sums["codebooks"])
        return {"codebooks": moved}

    # ---- the parts of the model -----------------------------------------------------

    def inputs(
        self, batch: Batch, counted: Bool[Array, "B C"], overlap: float
    ) -> tuple[Float[Array, "B C N L"], Float[Array, "B C 6"]]:
        """Windows of the signals, and positions, as `normalise` says.

        Args:
          counted: sensors that give the reference and scale; of `kept` only.
        """
        x, pos = meeg_batch.normalised(batch, counted, self.normalise)
        return meeg.windows(x, self.window_samples, overlap, self.remainder), pos

    def _training_view(
        self, params: Tree, batch: Batch, draws: Tree
    ) -> tuple[
        Float[Array, "B S W D"],
        Float[Array, "B C D"],
        Float[Array, "B C N L"],
        Float[Array, "B C 6"],
    ]:
        """Latents of the noisy sensors shown; vectors, windows and places of all."""
        there, shown = batch["meeg/sensor_mask"], draws["shown"]
        n_shown = self.n_shown(there.sum(-1))
        real = jnp.arange(shown.shape[1]) < n_shown[:, None]
        counted = jax.nn.one_hot(shown, there.shape[1], dtype=bool) & real[..., None]
        windows, pos = self.inputs(batch, counted.any(1), 0.0)
        sensors = self.sensors(params, pos, batch["meeg/sensor_type"])
        seen = jnp.take_along_axis(windows, shown[..., None, None], axis=1)
        seen = seen + self.noise * draws["noise"]
        places = jnp.take_along_axis(sensors, shown[..., None], axis=1)
        latents, _ = self.encode(params, seen, places, real)
        return latents, sensors, windows, pos

    def sensors(
        self, params: Tree, pos: Float[Array, "B C 6"], kinds: Int[Array, "B C"]
    ) -> Float[Array, "B C D"]:
        """The vector of every sensor."""
        return apply(self._modules["sensors"], params["sensors"], pos, kinds)

    def encode(
        self,
        params: Tree,
        windows: Float[Array, "B C N L"],
        sensors: Float[Array, "B C D"],
        shown: Bool[Array, "B C"],
    ) -> tuple[Float[Array, "B S W D"], Float[Array, "B S W C"]]:
        """Unit-length latents of the sources, in float32, and where they look."""
        b, c, n, length = windows.shape
        flat = constrain(windows.reshape(b * c * n, length, 1), "batch", None, None)
        tokens = apply(self._modules["encoder"], params["encoder"], flat)
        tokens = constrain(tokens, "batch", "time", "embed")
        tokens = tokens.reshape(b, c, n * self.tokens, self.width)
        module = self._modules["to_sources"]
        latents, weights = apply(module, params["to_sources"], tokens, sensors, shown)
        return l2_normalize(latents, 1e-12), weights

    def _quantize(
        self, variables, latents, valid, train, picks=None, place=None
    ) -> Quantized:
        place = None if place is None else place.reshape(-1)
        return self._quantizer(
            variables["params"].get("quantizer", {}),
            variables["buffers"]["codebooks"],
            latents.reshape(-1, self.width),
            valid.reshape(-1),
            train,
            picks,
            place,
        )

    def at_sensors(
        self,
        params: Tree,
        quantized: Float[Array, "B S W D"],
        sensors: Float[Array, "B C D"],
    ) -> Float[Array, "B C W D"]:
        """Tokens of any sensors, seen or not."""
        module = self._modules["from_sources"]
        tags = params["to_sources"]["sources"] if self.source_keys else None
        return apply(module, params["from_sources"], quantized, sensors, tags)

    def waveforms(
        self, params: Tree, tokens: Float[Array, "B C W D"]
    ) -> Float[Array, "B C N L"]:
        """Signals of sensors from their tokens, each window with unit deviation."""
        b, c, w, d = tokens.shape
        flat = tokens.reshape(-1, self.tokens, d)
        flat = constrain(flat, "batch", "time", "embed")
        x = apply(self._modules["decoder"], params["decoder"], flat)
        return x.reshape(b, c, w // self.tokens, self.window_samples)

    def spectra(
        self, params: Tree, tokens: Float[Array, "B C W D"]
    ) -> Float[Array, "B C W F"]:
        """Log-spectra around sensors from their tokens; see `signals.logspec`."""
        return apply(self._modules["spectrum"], params["spectrum"], tokens)

    def _n_windows(self, n_samples, overlap: float):
        return meeg.n_windows(n_samples, self.window_samples, overlap, self.remainder)

    def _valid_windows(self, batch: Batch, overlap: float) -> Bool[Array, "B N"]:
        """Windows that the recording would have on its own."""
        n = int(self._n_windows(batch["meeg/signal"].shape[-1], overlap))
        return jnp.arange(n) < self._n_windows(batch["meeg/length"], overlap)[:, None]

    def _valid_tokens(self, batch: Batch) -> Bool[Array, "B S W"]:
        valid = self._valid_windows(batch, 0.0) & batch["valid"][:, None]
        valid = jnp.repeat(valid, self.tokens, axis=1)[:, None]
        return jnp.tile(valid, (1, self.n_sources, 1))

    # ---- the trained model ----------------------------------------------------------

    def latents(
        self, params: Tree, batch: Batch, overlap: float
    ) -> tuple[Float[Array, "B S W D"], Float[Array, "B S W C"], Bool[Array, "B W"]]:
        """Latents of what is shown, where they look, and tokens that describe input.

        All sensors are shown but where the batch says otherwise.
        """
        there = batch["meeg/sensor_mask"]
        shown = batch.get("meeg/sensor_shown", there) & there
        windows, pos = self.inputs(batch, shown, overlap)
        sensors = self.sensors(params, pos, batch["meeg/sensor_type"])
        valid = jnp.repeat(self._valid_windows(batch, overlap), self.tokens, axis=1)
        return *self.encode(params, windows, sensors, shown), valid

    def tokenize(
        self, variables: Tree, batch: Batch, overlap: float
    ) -> tuple[Float[Array, "B S W D"], Int[Array, "B S W Q"], Bool[Array, "B W"]]:
        """Quantised vectors, their codes, and tokens that describe input.

        All sensors are shown, without noise. Windows overlap by the share `overlap`.
        """
        latents, _, valid = self.latents(variables["params"], batch, overlap)
        every = jnp.ones(latents.shape[:3], bool)
        found = self._quantize(variables, latents, every, False)
        quantized = found.levels.sum(0).reshape(latents.shape)
        return quantized, found.indices.reshape(*latents.shape[:3], -1), valid

    def detokenize(
        self, variables: Tree, codes: Int[Array, "B S W Q"]
    ) -> Float[Array, "B S W D"]:
        """The quantised vectors that `tokenize` gave beside these codes."""
        params = variables["params"].get("quantizer", {})
        flat = codes.reshape(-1, codes.shape[-1])
        levels = self._quantizer.vectors(
            params, variables["buffers"]["codebooks"], flat
        )
        return levels.sum(0).reshape(*codes.shape[:3], self.width)

    def n_tokens(self, n_samples, overlap: float):
        """Tokens in time of `n_samples` (an int or an array), a source."""
        return self._n_windows(n_samples, overlap) * self.tokens

    def token_times(self, n_tokens: int, overlap: float) -> Float[np.ndarray, " W"]:
        """Centres of the tokens in seconds."""
        window, place = np.divmod(np.arange(n_tokens), self.tokens)
        first = window * meeg.window_step(self.window_samples, overlap)
        centre = first + (place + 0.5) * self.hop_samples
        return (centre / self.sfreq).astype(np.float32)

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Quantised vectors, codes or latents of all sources, or sensors' signals.

        `features`: `last` [B, W, S D]. `codes`: `codes` [B, W, S Q]. `sources`: latents
        of unit length before they are quantised, `sources` [B, W, S D], and how much
        each looks at each sensor, `topography` [B, W, S C]. `reconstruction`:
        `reconstruction` and its target `signal` [B, N L, C], whose windows each have
        zero mean and unit deviation; times and mask are those of samples.
        """
        if want == "reconstruction" and self.target == "logspec":
            raise NeuroFMError(
                "this tokenizer decodes log-spectra (task.target=logspec) and no "
                "waveform, so there is no reconstruction: use one trained with "
                "task.target=waveform or both"
            )
        if want == "sources":
            found = self.latents(variables["params"], batch, 0.0)
            values, mask = (
                dict(zip(("sources", "topography"), found[:2], strict=True)),
                found[2],
            )
        else:
            vectors, codes, mask = self.tokenize(variables, batch, 0.0)
            if want == "reconstruction":
                return self._reconstruction(variables["params"], batch, vectors)
            values = {"codes": codes} if want == "codes" else {"last": vectors}
        b, w = mask.shape
        values = {k: x.swapaxes(1, 2).reshape(b, w, -1) for k, x in values.items()}
        times = jnp.broadcast_to(self.token_times(w, 0.0), mask.shape)
        return Reading(values, times, mask)

    def _reconstruction(self, params: Tree, batch: Batch, vectors: Array) -> Reading:
        shown = batch["meeg/sensor_shown"] & batch["meeg/sensor_mask"]
        windows, pos = self.inputs(batch, shown, 0.0)
        sensors = self.sensors(params, pos, batch["meeg/sensor_type"])
        tokens = self.at_sensors(params, vectors, sensors)
        rebuilt = self.waveforms(params, tokens).astype(jnp.float32)
        both = {"reconstruction": rebuilt, "signal": waveform.standardized(windows)}
        b, c, n, length = windows.shape
        values = {
            k: x.reshape(b, c, n * length).swapaxes(1, 2) for k, x in both.items()
        }
        at = jnp.arange(n * length)
        mask = at < batch["meeg/length"][:, None]
        mask &= jnp.repeat(self._valid_windows(batch, 0.0), length, axis=1)
        times = jnp.broadcast_to((at + 0.5) / self.sfreq, mask.shape)
        return Reading(values, times.astype(jnp.float32), mask)

    def shortened(self, n_samples: int) -> "BrainTokenizer":
        """For segments of `n_samples`, but at least a window."""
        n = min(max(n_samples, self.window_samples), self.segment_samples)
        return replace(self, segment_samples=n)

    def sized(self, batch: Mapping[str, Any]) -> "BrainTokenizer":
        """With the sensors of this batch."""
        return replace(self, n_sensors=batch["meeg/signal"].shape[1])

    def for_platform(self, target: Platform) -> "BrainTokenizer":
        """With the precision decided."""
        return replace(self, precision=decided(self.precision, target))

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Convolutions by their outputs; what is small stays whole."""
        conv = r"(first|last|wide|narrow|shortcut|down_\d+|up_\d+)/kernel$"
        return (
            (conv, (None, None, "channel")),
            (r"lstm/(input|state)_\d+$", ("embed", "mlp")),
            (r"(gain|bias_(input|state)_\d+|sources|type_embedding)$", ()),
            (r"sensors/(pos|mlp)_(in|out)/kernel$", (None, "embed")),
            (r"(^|/)spectrum/kernel$", ("embed", None)),
            (r"(to|from)_sources/(key|value)/kernel$", ("embed", "heads", "kv")),
            (r"(to|from)_sources/out/kernel$", ("heads", "kv", "embed")),
            (r"(^|/)(quantizer|codebooks)/", ()),
        )

    @property
    def _stack_macs(self) -> float:
        return stack_macs(
            self.window_samples,
            self.n_filters,
            self.ratios,
            self.kernel_size,
            self.last_kernel_size,
            self.width,
        )

    @property
    def encoder_flops(self) -> float:
        """Of one window of one sensor on its way to the sources."""
        to_sources = self.tokens * 2 * self.width * (self.width + self.n_sources)
        return 2.0 * (self._stack_macs + to_sources)

    def flops(self, batch_size: int) -> float:
        """Multiply-adds times two of one training step, its backward pass as two.

        The encoder of the sensors shown and the decoder of all; what comes once a
        source is small.
        """
        d = self.width
        one = 2.0 * self.tokens * d * (d + 2 * self.n_sources)
        if self.target != "logspec":
            one += 2.0 * self._stack_macs  # the decoder mirrors the encoder
        c = self.n_sensors
        windows = batch_size * int(self._n_windows(self.segment_samples, 0.0))
        return 3 * windows * (self.encoder_flops * int(self.n_shown(c)) + one * c)

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> braintokenizer_weights.Official:
        """Task and variables of a released checkpoint; see `braintokenizer_weights`."""
        fields = braintokenizer_weights.infer_fields(tensors, config or {})
        task = cls(**fields, normalise="all", remainder="dropped", frame="released")
        return replace(braintokenizer_weights.convert(task, tensors), task=task)
