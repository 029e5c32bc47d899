"""Brains that follow stimuli, where every value tells its time; a task that reads them.

A feature at the step from t on is t, and layer and place are seen in its fraction: the
value is 100 t + 10 layer + place. Region p of a volume that faces t is 100 t + p.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.data.brains import facts
from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.task import Task

TR, DELAY = 1.5, 3.2


@dataclass(frozen=True, kw_only=True)
class Follow(Task):
    """A number a region and subject, times the mean of all features of a step."""

    name: ClassVar[str] = "follow"
    modalities: tuple[tuple[str, int, int], ...] = ()
    subjects: tuple[str, ...] = ()
    n_outputs: int = 0
    tr_s: float = TR
    feature_sfreq: float = 2.0
    feature_steps: int = 21
    output_steps: int = 7
    delay_s: float = DELAY

    def fitted(self, datasets):
        found = facts(datasets)
        return replace(
            self,
            modalities=tuple((m, *size) for m, size in found.modalities.items()),
            subjects=found.subjects,
            n_outputs=len(found.regions),
            tr_s=found.tr_s,
            feature_sfreq=found.sfreq,
        )

    def batch_spec(self, want="train"):
        contract = InputContract(
            kind="features",
            sfreq=self.feature_sfreq,
            unit="none",
            n_chans=sum(layers * width for _, layers, width in self.modalities),
            window_samples=self.feature_steps,
            hop_samples=1,
            receptive_samples=1,
        )
        steps, outputs = self.feature_steps, (self.n_outputs, self.output_steps)
        fields = {
            f"features/{name}": Field(
                shape=(layers, width, steps), axes=("layer", "feature", "step")
            )
            for name, layers, width in self.modalities
        }
        known = Field(shape=(len(self.modalities),), axes=("modality",), dtype="bool")
        who = Field(shape=(), axes=(), dtype="int32", words=self.subjects)
        timed = {"sfreq": 1 / self.tr_s, "delay_s": self.delay_s}
        axes = ("region", "volume")
        fields |= {
            "features/present": known,
            "subject": who,
            "fmri/bold": Field(shape=outputs, axes=axes, **timed),
            "fmri/mask": Field(shape=outputs, axes=axes, dtype="bool", **timed),
        }
        return BatchSpec(fields=fields, contract=contract)

    def init(self, key, batch, frozen):
        gains = jnp.full((len(self.subjects), self.n_outputs), 0.5)
        return {"params": {"decoder": {"kernel": gains}}, "slow": {}, "buffers": {}}

    def rules(self):
        return (("decoder/kernel", (None, None)),)

    def draw(self, batch, key, step, train):
        return {}

    def loss(self, variables, batch, draws, step, train):
        named = [batch[f"features/{m}"].mean((1, 2)) for m, _, _ in self.modalities]
        level = sum(named, jnp.zeros(())).mean(1) / 1e4
        gain = variables["params"]["decoder"]["kernel"][batch["subject"]]
        mask = batch["fmri/mask"] & batch["valid"][:, None, None]
        error = batch["fmri/bold"] / 1e4 - (gain * level[:, None])[:, :, None]
        return {"mse": (jnp.sum(mask * error**2), jnp.sum(mask).astype(float))}, {}

    def flops(self, batch_size):
        return 1.0


def features(folder, timelines, modality="audio", layers=2, width=3, sfreq=2.0, **more):
    """A feature store of (timeline, onset in s, steps)."""
    at = 10 * np.arange(layers)[:, None] + np.arange(width)
    recordings = [
        Recording(
            item=f"{modality}-{i}",
            samples=(100 * (onset + np.arange(n) / sfreq) + at.reshape(-1, 1)).astype(
                np.float32
            ),
            meta={"timeline": timeline, "onset": onset},
        )
        for i, (timeline, onset, n) in enumerate(timelines)
    ]
    told = {"modality": modality, "model": "clock", "layers": layers, "width": width}
    info = DatasetInfo(
        kind="features",
        sfreq=sfreq,
        unit="none",
        ch_names=tuple(f"f{i}" for i in range(layers * width)),
        payload="float32",
        processing=told | more,
    )
    write_dataset(folder, info, recordings)
    return folder


def runs(folder, listed, names=("a", "b", "c", "d"), tr_s=TR, missing=(), **more):
    """An fMRI store of (subject, timeline, onset in s, volumes, split).

    `missing` regions, as (run's number, place), are NaN.
    """
    recordings = []
    place = np.array([ord(name[0]) - ord("a") for name in names])
    for i, (subject, timeline, onset, n, split) in enumerate(listed):
        x = 100 * (onset + np.arange(n) * tr_s) + place[:, None]
        x[[p for run, p in missing if run == i]] = np.nan
        meta = {"subject": subject, "timeline": timeline, "onset": onset}
        meta |= {"split": split}
        recordings.append(
            Recording(item=f"run-{i}", samples=x.astype(np.float32), meta=meta)
        )
    info = DatasetInfo(
        kind="fmri",
        sfreq=1 / tr_s,
        unit="none",
        ch_names=tuple(names),
        payload="float32",
        processing={"tr_s": tr_s, "atlas": "letters", **more},
    )
    write_dataset(folder, info, recordings)
    return folder
