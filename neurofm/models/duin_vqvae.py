"""Du-IN's first stage: codes of what a group of intracranial electrodes does.

Tokens of the trunk become codes of one codebook; a decoder gives back the channels: how
their power goes in bands, or their waveforms as released.

Source: Du-IN (arXiv 2405.11459), section 3, and its released code, which is followed
where they differ.

Axes: B items, C channels, T samples, E neural channels, P tokens, D width, F bands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from neurofm.contract import BatchSpec
from neurofm.data.records import Dataset
from neurofm.errors import NeuroFMError
from neurofm.models import duin_trunk, duin_weights
from neurofm.models.duin_trunk import Trunk
from neurofm.nn.apply import apply
from neurofm.nn.conv import ConvLayer, transposed_conv
from neurofm.nn.linear import Linear
from neurofm.nn.precision import Precision, compute_dtype, decided
from neurofm.nn.sensors import dense_init
from neurofm.nn.unit_codes import Coded, UnitCodes, health
from neurofm.objectives import spread
from neurofm.parallel.mesh import Platform
from neurofm.signals.logpower import Bands, counted_tokens, log_power
from neurofm.task import Batch, Reading, Task, Terms, Tree, Want

BANDS_HZ = ((4, 8), (8, 13), (13, 30), (30, 50), (50, 70), (70, 110), (110, 150))


@dataclass(frozen=True, kw_only=True)
class DuINVQVAE(Task):
    """Codes of electrode groups; the defaults are the published sizes.

    Attributes:
      trunk: channels, subjects, patches, encoder.
      n_codes, code_width: of the codebook.
      codebook_decay, revival: see `nn.unit_codes.UnitCodes`.
      commitment: weight of the distance to the codes.
      decoder_depth: blocks of the decoder, as those of the encoder.
      target: log power in `bands_hz`, less its mean over the window (`log_power`), or
        the `waveform`, as released.
      ups: features, kernel and stride of the decoder's transposed convolutions, for
        the waveform.
    """

    name: ClassVar[str] = "duin_vqvae"
    batch_coupled: ClassVar[bool] = True  # by the tokenizer's batch norms

    trunk: Trunk = field(default_factory=Trunk)
    n_codes: int = 2048
    code_width: int = 64
    codebook_decay: float = 0.99
    revival: Literal["none", "random"] = "none"
    commitment: float = 1.0
    decoder_depth: int = 4
    target: Literal["log_power", "waveform"] = "log_power"
    bands_hz: Bands = BANDS_HZ
    ups: tuple[ConvLayer, ...] = (
        (128, 3, 1),
        (128, 3, 1),
        (128, 10, 10),
        (128, 9, 1),
        (16, 19, 10),
    )
    precision: Precision = "auto"

    def __post_init__(self):
        if self.target == "waveform":
            steps = int(np.prod([stride for _, _, stride in self.ups]))
            if steps != self.trunk.patch_samples:
                raise NeuroFMError(
                    f"task.ups make {steps} samples of a token: their strides must "
                    f"make trunk.patch_samples ({self.trunk.patch_samples})"
                )
            return
        for low, high in self.bands_hz:
            if not 0 <= low < high <= self.trunk.sfreq / 2:
                raise NeuroFMError(
                    f"task.bands_hz has the band {low} to {high} Hz: give bands of at "
                    f"least 4 Hz below {self.trunk.sfreq / 2:g} Hz"
                )

    def batch_spec(self, want: Want = "train") -> BatchSpec:
        """Channels of one subject, and what is there of them."""
        del want
        return self.trunk.spec()

    # ---- parts ----------------------------------------------------------------------

    @property
    def _dtype(self) -> jnp.dtype:
        return compute_dtype(self.precision)

    @property
    def _codes(self) -> UnitCodes:
        return UnitCodes(
            width=self.trunk.width,
            n_codes=self.n_codes,
            code_width=self.code_width,
            decay=self.codebook_decay,
            revival=self.revival,
        )

    @property
    def _regress(self) -> Linear:
        n_out = self.trunk.n_neural
        if self.target == "log_power":
            n_out *= len(self.bands_hz)
        return Linear((n_out,), kernel_init=dense_init, dtype=self._dtype)

    def init(self, key: jax.Array, batch: Batch, frozen: Tree) -> Tree:
        """Fresh parameters, and codes by k-means over the first batch."""
        del frozen
        keys = jax.random.split(key, 7)
        trunk, running = self.trunk.init(keys[0])
        own, n_in, ups = self.trunk, self.trunk.width, {}
        if self.target == "waveform":
            for i, (features, kernel, _) in enumerate(self.ups):
                at = jax.random.fold_in(keys[1], i)
                ups[f"upconv_{i}"] = {
                    "kernel": dense_init(at, (kernel, n_in, features)),
                    "bias": jnp.zeros(features),
                }
                n_in = features
        params = {
            **trunk,
            "codes": self._codes.init_params(keys[2]),
            "decoder": {"blocks": own.start_blocks(keys[3], self.decoder_depth), **ups},
            "regress": self._regress.init(keys[4], jnp.zeros((1, n_in)))["params"],
            "channels": duin_trunk.start_map(
                keys[5], len(own.subjects), own.n_neural, own.n_chans
            ),
        }
        _, there = own.signals(batch)
        counted = there & batch["valid"][:, None]
        tokens, _ = self.trunk.patches(params, running, batch, counted, self._dtype)
        last = self.layers(params, tokens, there)[-1]
        z = self._codes.unit(params["codes"], last.reshape(-1, own.width))
        book = self._codes.start_buffers(keys[6], z, counted.reshape(-1))
        buffers = {**running, "codebook": book}
        return {"params": params, "slow": {}, "buffers": buffers}

    # ---- one training step ----------------------------------------------------------

    def draw(self, batch: Batch, key: jax.Array, step: Array, train: bool) -> Tree:
        """Keys of dropout, and places of vectors that revive dead codes."""
        del step
        keys = jax.vmap(partial(jax.random.fold_in, key))(batch["index"])
        draws: Tree = {"dropout": jax.random.key_data(keys)}
        if train and self.revival == "random":
            places = batch["index"].size * self.trunk.n_patches
            key = jax.random.fold_in(key, 2**31 - 1)  # no index is that large
            picks = jax.random.randint(key, (self.n_codes,), 0, places)
            draws["step"] = {"picks": picks}
        return draws

    def loss(
        self, variables: Tree, batch: Batch, draws: Tree, step: Array, train: bool
    ) -> tuple[Terms, Tree]:
        """Error of what is decoded, and the distance of tokens to their codes."""
        del step
        params, buffers = variables["params"], variables["buffers"]
        x, there = self.trunk.signals(batch)
        counted = there & batch["valid"][:, None]
        keys = draws["dropout"] if train else None
        tokens, norms = self.trunk.patches(
            params, buffers, batch, counted if train else None, self._dtype
        )
        last = self.layers(params, tokens, there, keys)[-1]
        place = batch["index"][:, None] * there.shape[1] + jnp.arange(there.shape[1])
        picks = draws.get("step", {}).get("picks")
        found = self.coded(variables, last, counted, picks, place)
        decoded = self.decoded(params, found.vectors.reshape(last.shape), there, keys)
        told = self.told(params, decoded, batch["subject"])
        target, there = self.targets(x, there)
        error = jnp.square(told.astype(jnp.float32) - target)
        weight = there & batch["ieeg/channel_mask"][:, None, :, None]
        weight = jnp.broadcast_to(
            weight & batch["valid"][:, None, None, None], error.shape
        )
        own = counted.reshape(-1)
        vectors = own.sum().astype(jnp.float32)
        terms = {
            self.target: (
                jnp.where(weight, error, 0).sum(),
                weight.sum().astype(jnp.float32),
            ),
            "commitment": (
                jnp.where(own, found.error, 0).sum(),
                vectors * self.code_width,
            ),
        }
        latents = jax.lax.stop_gradient(last).astype(jnp.float32)
        sums = {"codes": found.sums, "latents": spread.sums(latents, counted)}
        if train:
            sums["norms"] = norms
        return terms, sums

    def total(self, means: dict[str, Array]) -> Array:
        """The decoder's error and that of the codes."""
        return means[self.target] + self.commitment * means["commitment"]

    def summary(self, sums: Tree) -> dict[str, Array]:
        """Spread of the tokens before they are codes, and how codes are used."""
        return {**spread.summary(sums["latents"]), **health(sums["codes"])}

    def update_buffers(self, buffers: Tree, sums: Tree, step: Array) -> Tree:
        """Move codes to the vectors that chose them, and norms to the batch."""
        del step
        running = duin_trunk.moved(buffers, sums["norms"])
        codebook = self._codes.moved(buffers["codebook"], sums["codes"])
        return {**running, "codebook": codebook}

    # ---- the parts of the model -----------------------------------------------------

    def layers(
        self,
        params: Tree,
        x: Float[Array, "B P D"],
        visible: Bool[Array, "B P"],
        keys: UInt32[Array, "B 2"] | None = None,
    ) -> Float[Array, "N B P D"]:
        """The output of every block of the encoder."""
        return self.trunk.layers(params, x, visible, keys, self._dtype)

    def coded(
        self,
        variables: Tree,
        x: Float[Array, "B P D"],
        counted: Bool[Array, "B P"],
        picks: Int[Array, " K"] | None = None,
        place: Int[Array, "B P"] | None = None,
    ) -> Coded:
        """Codes of all tokens, side by side."""
        return self._codes(
            variables["params"]["codes"],
            variables["buffers"]["codebook"],
            x.reshape(-1, self.trunk.width),
            counted.reshape(-1),
            picks,
            None if place is None else place.reshape(-1),
        )

    def decoded(
        self,
        params: Tree,
        x: Float[Array, "B P D"],
        visible: Bool[Array, "B P"],
        keys: UInt32[Array, "B 2"] | None = None,
    ) -> Float[Array, "B P D"]:
        """Tokens behind the decoder's blocks."""
        first = self.trunk.depth
        own = params["decoder"]
        return self.trunk.layers(own, x, visible, keys, self._dtype, first)[-1]

    def regressed(
        self, params: Tree, x: Float[Array, "B P D"]
    ) -> Float[Array, "B R E"]:
        """Neural channels at every sample, or of every band of a token."""
        if self.target == "log_power":
            x = apply(self._regress, params["regress"], x)
            return x.reshape(len(x), -1, self.trunk.n_neural)
        for i, (_, kernel, stride) in enumerate(self.ups):
            x = upsampled(params["decoder"][f"upconv_{i}"], x, kernel, stride)
        return apply(self._regress, params["regress"], x)

    def told(
        self, params: Tree, x: Float[Array, "B P D"], subject: Int[Array, " B"]
    ) -> Float[Array, "B P C R"]:
        """What decoded tokens say of every channel: R samples, or bands."""
        y = self.regressed(params, x)
        y = duin_trunk.mapped(params["channels"], y, subject, self._dtype)
        return y.reshape(*x.shape[:2], -1, y.shape[-1]).swapaxes(2, 3)

    def targets(
        self, x: Float[Array, "B T C"], recorded: Bool[Array, "B P"]
    ) -> tuple[Float[Array, "B P C R"], Bool[Array, "B P 1 1"]]:
        """What should be told, and of which tokens."""
        own, (b, t, c) = self.trunk, x.shape
        patch = own.patch_samples
        if self.target == "waveform":
            y = x.reshape(b, t // patch, patch, c).swapaxes(2, 3)
            return y, recorded[..., None, None]
        y = log_power(x.swapaxes(1, 2), own.sfreq, patch, self.bands_hz)
        y = y.swapaxes(1, 2)
        counted = counted_tokens(recorded, own.sfreq, patch)[..., None, None]
        n = jnp.maximum(counted.sum(1, keepdims=True), 1)
        return y - (y * counted).sum(1, keepdims=True) / n, counted

    # ---- the trained model ----------------------------------------------------------

    def codes(
        self, variables: Tree, batch: Batch
    ) -> tuple[Int[Array, "B P"], Float[Array, "N B P D"], Bool[Array, "B P"]]:
        """Codes of all tokens, the blocks before them, and which are recorded."""
        params = variables["params"]
        _, there = self.trunk.signals(batch)
        tokens, _ = self.trunk.patches(
            params, variables["buffers"], batch, None, self._dtype
        )
        layers = self.layers(params, tokens, there)
        found = self.coded(variables, layers[-1], there)
        return found.indices.reshape(there.shape), layers, there

    def read(self, variables: Tree, batch: Batch, want: Want = "features") -> Reading:
        """Blocks of the encoder [B, P, D], codes [B, P, 1], or channels [B, T, C].

        `last` is the last block, before it is quantised. A `reconstruction` comes with
        its target `signal`, as the trunk normalises it; times and mask are those of
        samples.
        """
        if want == "reconstruction":
            return self._reconstruction(variables, batch)
        codes, layers, there = self.codes(variables, batch)
        values = {"codes": codes[..., None]}
        if want != "codes":
            layers = layers.astype(jnp.float32)
            values = {f"layer_{i + 1:02d}": x for i, x in enumerate(layers)}
            values["last"] = layers[-1]
        times = self.trunk.token_times(there.shape[1])
        return Reading(values, jnp.broadcast_to(times, there.shape), there)

    def _reconstruction(self, variables: Tree, batch: Batch) -> Reading:
        if self.target != "waveform":
            raise NeuroFMError(
                "this model decodes log power (task.target=log_power) and no waveform, "
                "so there is no reconstruction: train one with task.target=waveform"
            )
        params = variables["params"]
        x, there = self.trunk.signals(batch)
        tokens, _ = self.trunk.patches(
            params, variables["buffers"], batch, None, self._dtype
        )
        last = self.layers(params, tokens, there)[-1]
        found = self.coded(variables, last, there)
        decoded = self.decoded(params, found.vectors.reshape(last.shape), there)
        told = self.told(params, decoded, batch["subject"]).swapaxes(2, 3)
        values = {"reconstruction": told.reshape(x.shape), "signal": x}
        times = (jnp.arange(x.shape[1]) + 0.5) / self.trunk.sfreq
        mask = jnp.repeat(there, self.trunk.patch_samples, axis=1)
        return Reading(values, jnp.broadcast_to(times, mask.shape), mask)

    def fitted(self, datasets: Sequence[Dataset]) -> "DuINVQVAE":
        """With the subjects and channels of the data."""
        return replace(self, trunk=self.trunk.fitted(datasets))

    def shortened(self, n_samples: int) -> "DuINVQVAE":
        """For segments of `n_samples`, in whole patches."""
        return replace(self, trunk=self.trunk.shortened(n_samples))

    def for_platform(self, target: Platform) -> "DuINVQVAE":
        """With the precision decided."""
        return replace(self, precision=decided(self.precision, target))

    def rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Small tables whole; the maps around the codes over the width."""
        return (
            *duin_trunk.RULES,
            (r"(^|/)codebook/", ()),
            (r"(^|/)tokenizer/norm_\d+/(mean|var)$", ()),
            (r"(^|/)codes/(pre_in|pre_out|post)/kernel$", ()),
            (r"(^|/)regress/kernel$", (None, None)),
        )

    def flops(self, batch_size: int) -> float:
        """Multiply-adds times two of a training step, its backward pass as two."""
        own = self.trunk
        d, tokens = own.width, own.n_patches
        macs = own.token_macs + d * d + 2 * d * self.code_width
        macs += self.n_codes * self.code_width
        macs += self.decoder_depth * own.block_macs(tokens)
        steps, n_in = 1, d
        for features, kernel, stride in self.ups if self.target == "waveform" else ():
            macs += steps * kernel * n_in * features
            steps, n_in = steps * stride, features
        macs += steps * n_in * own.n_neural
        return 6.0 * batch_size * tokens * macs

    @classmethod
    def from_official(
        cls, tensors: dict[str, np.ndarray], config: dict[str, Any] | None = None
    ) -> duin_weights.Official:
        """Task and variables of a released checkpoint; see `duin_weights`."""
        trunk = Trunk(**duin_weights.trunk_fields(tensors, config or {}))
        task = cls(
            trunk=trunk,
            target="waveform",
            **duin_weights.vqvae_fields(tensors, config or {}),
        )
        return duin_weights.convert_vqvae(task, tensors)


def upsampled(
    params: Tree, x: Float[Array, "B S Cin"], kernel: int, stride: int
) -> Float[Array, "B R Cout"]:
    """A transposed convolution with its bias, cut to `stride` steps for each."""
    y = transposed_conv(x, params["kernel"].astype(x.dtype), stride)
    left = (kernel - stride + 1) // 2  # torch's padding
    n = x.shape[1] * stride
    return y[:, left : left + n] + params["bias"].astype(x.dtype)
