"""The simulated scenes that WavJEPA-Nat trains on, made inside the step.

A batch brings mono clips, and what their scenes are made of, at the scenes' own rate.
Scenes are mixed, resampled to the model's rate and cut, in this order, as released.

Axes: B crops, N samples of a clip at the scenes' rate, U samples of a crop.

Source: arXiv 2509.23238 and its released code; the sound itself is `signals.scenes`.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from neurofm.contract import BatchSpec, Field
from neurofm.errors import NeuroFMError
from neurofm.parallel.sharding import on_shards
from neurofm.signals.audio import resample_on_device
from neurofm.signals.scenes import SceneDraws, cut, draw_scene, scene
from neurofm.task import Batch, Tree


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Where the training sound of a binaural model comes from; defaults as published.

    Attributes:
      source: `recorded` takes binaural recordings as they are, `simulated` makes a
        scene of every clip of mono sound.
      sfreq: rate in Hz of clips, noises, rooms and mixing: the model's or a whole
        multiple of it. SNRs count the whole band of this rate.
      clip_s: seconds of sound that one scene is made of, at most.
      rir_s: seconds of an impulse response; longer ones are cut.
      snr_db: lowest and highest signal-to-noise ratio in dB.
      clean_ratio: chance that a whole step has neither room nor noise: its clips come
        to both ears as they are.
    """

    source: Literal["recorded", "simulated"] = "recorded"
    sfreq: float = 32_000.0
    clip_s: float = 10.0
    rir_s: float = 2.0
    snr_db: tuple[float, float] = (5.0, 40.0)
    clean_ratio: float = 0.0

    def __post_init__(self):
        for name in ("sfreq", "clip_s", "rir_s"):
            if not getattr(self, name) > 0:
                raise NeuroFMError(
                    f"task.scenes.{name} is {getattr(self, name)}: give more than 0"
                )
        if not self.snr_db[0] <= self.snr_db[1]:
            raise NeuroFMError(
                f"task.scenes.snr_db is {self.snr_db}: give the lower bound first"
            )
        if not 0 <= self.clean_ratio <= 1:
            raise NeuroFMError(
                f"task.scenes.clean_ratio is {self.clean_ratio}: give a chance from 0 "
                "to 1"
            )

    @property
    def simulated(self) -> bool:
        """Whether training makes its binaural sound from clips of one channel."""
        return self.source == "simulated"

    def check(self, sfreq: float, window_samples: int, n_chans: int) -> None:
        """Raise NeuroFMError where a model cannot train on simulated scenes."""
        if n_chans != 2:
            raise NeuroFMError(
                "task.scenes.source=simulated makes sound for two ears, but "
                f"task.n_chans is {n_chans}: set task.n_chans=2"
            )
        if self.sfreq % sfreq:
            raise NeuroFMError(
                f"task.scenes.sfreq is {self.sfreq:g}: give task.sfreq ({sfreq:g}) or "
                "a whole multiple of it"
            )
        if self.clip_s * sfreq < window_samples:
            raise NeuroFMError(
                f"task.scenes.clip_s is {self.clip_s}: a scene must be as long as a "
                f"crop, {window_samples / sfreq:g} s, or longer"
            )

    def per_sample(self, sfreq: float) -> int:
        """Samples of a training batch that are one of the model's."""
        return round(self.sfreq / sfreq) if self.simulated else 1

    def batch_spec(self, of_crops: BatchSpec) -> BatchSpec:
        """What training asks for to make crops `of_crops`; all at the scenes' rate.

        `audio/wave` is a whole clip of one channel, zeros behind its end, and
        `audio/span` what of the crop is recording. `scene/clip` holds the crop's first
        sample in the clip (negative where the clip is shorter than the crop) and the
        clip's samples; `scene/noise` a noise, or the first samples of a longer one, and
        `scene/noise_samples` its whole length; `scene/rirs` the impulse responses to
        both ears of the source, and of all noise places added up; `scene/key` the key
        of the scene's draws, one for all crops of a clip.
        """
        more = self.per_sample(of_crops.contract.sfreq)
        clip, rir = round(self.clip_s * self.sfreq), round(self.rir_s * self.sfreq)
        sound = partial(Field, unit="full_scale")
        fields = {
            "audio/wave": sound(shape=(1, clip), axes=("chan", "sample")),
            "audio/span": of_crops.fields["audio/span"],
            "scene/clip": Field(shape=(2,), axes=("edge",), dtype="int32"),
            "scene/noise": sound(shape=(clip,), axes=("sample",)),
            "scene/noise_samples": Field(shape=(), axes=(), dtype="int32"),
            "scene/rirs": sound(shape=(2, 2, rir), axes=("place", "ear", "sample")),
            "scene/key": Field(shape=(2,), axes=("word",), dtype="uint32"),
        }
        contract = replace(
            of_crops.contract,
            sfreq=self.sfreq,
            n_chans=1,
            window_samples=of_crops.contract.window_samples * more,
            hop_samples=of_crops.contract.hop_samples * more,
            receptive_samples=of_crops.contract.receptive_samples * more,
        )
        return BatchSpec(fields=fields, contract=contract)

    def draw(self, batch: Batch, key: jax.Array, train: bool) -> Tree:
        """SNR and place of each noise, and whether the step is clean.

        A scene's draws follow from the key in the batch alone, so that the crops of a
        clip share them in whatever steps they come. The switch is one coin for the
        whole step; in evaluation no batch is clean, unless all training is.
        """
        scene_keys = jax.random.wrap_key_data(batch["scene/key"], impl="threefry2x32")
        drawn = jax.vmap(partial(draw_scene, snr_range=self.snr_db))(
            scene_keys, batch["scene/noise_samples"], batch["scene/clip"][:, 1]
        )
        coin = jax.random.fold_in(key, np.uint32(2**32 - 1))  # no row has this index
        chance = self.clean_ratio if train or self.clean_ratio == 1 else 0.0
        return {
            "scene": drawn,
            "step": {"clean": jax.random.bernoulli(coin, chance)},
        }

    def crops(
        self, batch: Batch, draws: Tree, sfreq: float, window_samples: int
    ) -> Float[Array, "B 2 U"]:
        """The crops that a model at `sfreq` hears, both ears cut at the same place."""
        clips = batch["audio/wave"]  # [B, 1, N]
        start, n_clip = batch["scene/clip"][:, 0], batch["scene/clip"][:, 1]

        def scenes(clip, noise, n_noise, rirs, snr_db, offset, n_clip):
            drawn = SceneDraws(snr_db, offset)
            return scene(clip, noise, n_noise, rirs, drawn, self.sfreq, n_clip)

        def heard() -> Float[Array, "B 2 N"]:
            parts = ("scene/noise", "scene/noise_samples", "scene/rirs")
            made_of = [clips[:, 0], *(batch[name] for name in parts)]
            made_of += [*draws["scene"], n_clip]
            rows = [("batch", *(None,) * (x.ndim - 1)) for x in made_of]
            # XLA would gather the whole batch before a Fourier transform.
            return on_shards(scenes, *rows)(*made_of)

        def clean() -> Float[Array, "B 2 N"]:
            return jnp.repeat(clips, 2, axis=1)

        both_ears = jax.lax.cond(draws["step"]["clean"], clean, heard)
        both_ears = resample_on_device(both_ears, self.sfreq, sfreq)
        return cut(both_ears, start // self.per_sample(sfreq), window_samples)
