"""Changes of a signal for training on few examples.

They leave its label as it is, but for mixtures of two, whose labels are mixed as well.
Each item has its own key, so what is drawn does not depend on how a batch is laid out.

Axes: B items, C channels, T samples, K classes, tags or numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from neurofm.errors import NeuroFMError
from neurofm.parallel.sharding import on_shards

SIGNALS = ("audio/wave", "meeg/signal", "ieeg/signal")
SHARES = ("flip", "time_share", "band_share", "drop_chans")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to every item of a training batch, in this order; 0 is nothing.

    Attributes:
      shift_samples: most by which it is moved, either way; zeros where nothing is left
        (Du-IN, arXiv 2405.11459: 300 at 1000 Hz; its released code gives all zeros
        where the draw is exactly 0, which is not copied).
      gain_db: most by which it is made louder or softer.
      flip: chance that its sign is turned.
      noise_db: least ratio of its power to that of white noise put on it; the ratio is
        drawn from there to 30 dB above. The noise of a channel follows its own power.
      time_masks, time_share: stretches that are silenced, each of up to this share of
        the item (SpecAugment, arXiv 1904.08779, on the signal itself).
      band_masks, band_share: bands that are taken out, each of up to this share of the
        frequencies below half the rate.
      drop_chans: chance of each EEG or MEG sensor to be left out.
      mixup: before all that, an item becomes a mixture with another of the batch, and
        so do their labels; the share of each is drawn from the beta distribution with
        this as both parameters (Zhang et al., arXiv 1710.09412, section 2).
    """

    shift_samples: int = 0
    gain_db: float = 0.0
    flip: float = 0.0
    noise_db: float = 0.0
    time_masks: int = 0
    time_share: float = 0.1
    band_masks: int = 0
    band_share: float = 0.1
    drop_chans: float = 0.0
    mixup: float = 0.0

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            most = 1.0 if each.name in SHARES else float("inf")
            if not 0 <= value <= most:
                limit = "" if most > 1 else " and no more than 1"
                raise NeuroFMError(
                    f"task.augment.{each.name} is {value}: give 0 or more{limit}"
                )

    def changed(
        self, batch: Mapping[str, Array], keys: Array
    ) -> dict[str, Float[Array, "B C T"] | Bool[Array, "B C"]]:
        """The fields of a batch that are changed.

        Args:
          keys: data of a key for every item.

        Raises:
          NeuroFMError: there is nothing in it that could be changed so.
        """
        if replace(self, mixup=0.0) == Augment():
            return {}
        made = {}
        for name in SIGNALS:
            if name in batch:
                rows = (("batch", None, None), ("batch", None))
                made[name] = on_shards(jax.vmap(self._signal), *rows)(batch[name], keys)
        if self.drop_chans and (mask := batch.get("meeg/sensor_mask")) is not None:
            made["meeg/sensor_mask"] = jax.vmap(self._dropped)(mask, keys)
        if not made:
            raise NeuroFMError(
                "task.augment changes sound, EEG, MEG and intracranial recordings, and "
                "this model takes none of them: leave task.augment out"
            )
        if self.drop_chans and "meeg/sensor_mask" not in made:
            raise NeuroFMError(
                "task.augment.drop_chans leaves out sensors of EEG and MEG, and this "
                "model takes neither: set it to 0"
            )
        return made

    # ---- mixtures -------------------------------------------------------------------

    def partners(self, batch: Mapping[str, Array], key: Array) -> dict[str, Any]:
        """Another item for each one of a whole batch, and the share that it keeps.

        They travel with the item. Items of unlike sensors, and fillers, are not mixed.

        Raises:
          NeuroFMError: the model takes no such signal.
        """
        if not any(name in batch for name in SIGNALS):
            raise NeuroFMError(
                "task.augment.mixup mixes sound, EEG, MEG and intracranial recordings, "
                "and this model takes none of them: set it to 0"
            )
        key_share, key_shift = jax.random.split(key)
        n = len(batch["index"])
        shift = jax.random.randint(key_shift, (), 1, max(n, 2))
        names = [*SIGNALS, "audio/span", "label"]
        others = {
            name: jnp.roll(x, shift, 0) for name, x in batch.items() if name in names
        }
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_share, batch["index"])
        share = jax.vmap(lambda k: jax.random.beta(k, self.mixup, self.mixup))(keys)
        alike = batch["valid"] & jnp.roll(batch["valid"], shift, 0)
        for name, x in batch.items():
            if name not in (*names, "index", "valid"):
                same = x == jnp.roll(x, shift, 0)
                alike &= same.reshape(n, -1).all(1)
        return {"share": jnp.where(alike, share, 1.0), "partner": others}

    def _signal(self, x: Float[Array, "C T"], data: Array) -> Float[Array, "C T"]:
        key = jax.random.wrap_key_data(data)
        gain, flip, ratio, noise, times, bands = jax.random.split(key, 6)
        n = x.shape[-1]
        if self.shift_samples:
            x = _shifted(jax.random.fold_in(key, 2), x, self.shift_samples)
        if self.gain_db:
            db = jax.random.uniform(gain, minval=-self.gain_db, maxval=self.gain_db)
            x = x * 10 ** (db / 20)
        if self.flip:
            x = jnp.where(jax.random.bernoulli(flip, self.flip), -x, x)
        if self.noise_db:
            low, high = self.noise_db, self.noise_db + 30
            db = jax.random.uniform(ratio, minval=low, maxval=high)
            rms = jnp.sqrt(jnp.square(x).mean(-1, keepdims=True))
            x = x + rms * 10 ** (-db / 20) * jax.random.normal(noise, x.shape)
        if self.time_masks:
            x = x * _kept(times, n, self.time_masks, self.time_share)
        if self.band_masks:
            kept = _kept(bands, n // 2 + 1, self.band_masks, self.band_share)
            x = jnp.fft.irfft(jnp.fft.rfft(x) * kept, n)
        return x

    def _dropped(self, mask: Bool[Array, " C"], data: Array) -> Bool[Array, " C"]:
        """Sensors that are left; all of them where none would be."""
        key = jax.random.fold_in(jax.random.wrap_key_data(data), 1)
        kept = mask & ~jax.random.bernoulli(key, self.drop_chans, mask.shape)
        return jnp.where(kept.any(), kept, mask)


def _shifted(key: Array, x: Float[Array, "C T"], most: int) -> Float[Array, "C T"]:
    """Moved by up to so many samples."""
    by = jax.random.randint(key, (), -most, most + 1)
    padded = jnp.pad(x, ((0, 0), (most, most)))
    return jax.lax.dynamic_slice_in_dim(padded, most + by, x.shape[-1], 1)


def _kept(key: Array, n: int, n_masks: int, share: float) -> Float[Array, " n"]:
    """1, or 0 inside stretches of up to `share` of n places."""
    size, place = jax.random.split(key)
    lengths = jax.random.uniform(size, (n_masks, 1), maxval=share * n)
    starts = jax.random.uniform(place, (n_masks, 1)) * (n - lengths)
    at = jnp.arange(n)
    return 1.0 - ((at >= starts) & (at < starts + lengths)).any(0)


def mixed(
    batch: Mapping[str, Array], draws: Mapping[str, Any]
) -> dict[str, Float[Array, "B ..."]]:
    """The fields of a batch, labels too, as mixtures with `Augment.partners`.

    A mixture is recording wherever one of its sounds is.
    """
    share, others = draws["share"], draws["partner"]
    made = {}
    for name in (*SIGNALS, "label"):
        if name in batch:
            x = batch[name]
            of = share.reshape(-1, *[1] * (x.ndim - 1))
            mixture = of * x + (1 - of) * others[name]
            made[name] = jnp.where(of < 1, mixture, x)  # whose partner may be unknown
    if "audio/span" in batch:
        low, high = (batch["audio/span"][:, i] for i in (0, 1))
        first, past = (others["audio/span"][:, i] for i in (0, 1))
        union = jnp.stack([jnp.minimum(low, first), jnp.maximum(high, past)], 1)
        whole = (share < 1)[:, None]
        made["audio/span"] = jnp.where(whole, union, batch["audio/span"])
    return made
