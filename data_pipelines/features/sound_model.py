"""Features of sound by any audio model of neurofm, in groups of its layers."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.features.events import Stretch
from data_pipelines.features.extractors import About, file_of, n_steps
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError
from neurofm.model import Model, load
from neurofm.signals import layers
from neurofm.signals.classic import nearest_steps
from neurofm.weights.leaves import params_sha256


@dataclass(frozen=True)
class SoundModel:
    """Hidden states of a model, averaged in groups of layers, at the grid's rate.

    Tokens are taken, not averaged: step i of n takes token floor(i N / n), as TRIBE's
    released code does.

    Attributes:
      path: a MODEL.
      fractions: of the depth; each and its next bound a group. One alone is a layer.
      aggregation: `group_mean`, or `none` for the layers at the fractions themselves.
      batch_size: windows read at once.
    """

    path: str
    fractions: tuple[float, ...]
    aggregation: layers.Aggregation
    batch_size: int
    takes: str = "sound"
    one_process: bool = True

    def about(self) -> About:
        model = opened(self.path)
        digest = params_sha256(model.variables["params"])
        noise = np.random.default_rng(0).normal(0, 0.1, model.contract.window_samples)
        x = noise.astype(np.float32)[None]
        states = self._states(model, x, model.contract.sfreq)
        n_layers, width, _ = states.shape
        name = f"{model.task.name} sha256:{digest[:16]}"
        told = {"fractions": list(self.fractions), "aggregation": self.aggregation}
        return About("audio", name, n_layers, width, told)

    def __call__(self, stretch: Stretch, root: Path, sfreq: float, notes: list[str]):
        from data_pipelines import soundfiles

        (event,) = stretch.events
        path = file_of(event, root)
        model = opened(self.path)
        sound = soundfiles.read(path, model.contract.sfreq, "mean")
        n, length = n_steps(event, sound.samples.shape[1] / sound.sfreq, sfreq, notes)
        cut = sound.samples[:, : round(length * sound.sfreq)]
        states = self._states(model, cut, sound.sfreq)
        if not states.shape[-1]:
            raise Unreadable(path, "too short for one token of the model")
        return nearest_steps(states, n).reshape(-1, n).astype(np.float32)

    def _states(self, model: Model, x: np.ndarray, sfreq: float) -> np.ndarray:
        """`[L, D, tokens]` of a sound."""
        names = [name for name in model.layers if name.startswith("layer_")]
        if not names:
            raise NeuroFMError(
                f"{self.path} does not tell its layers apart: use a model whose "
                "`neurofm embed --layers all` gives layer_01 and so on"
            )
        reading = model.embed(x, sfreq, layers=names, batch_size=self.batch_size)
        states = np.stack([reading.values[name].T for name in names])
        return layers.of_states(states, self.fractions, self.aggregation)


@functools.lru_cache(maxsize=1)
def opened(path: str) -> Model:
    """A model, kept while its features are made."""
    model = load(path)
    if model.contract.kind != "audio":
        raise NeuroFMError(
            f"{path} takes {model.contract.kind}: features of sound need an audio model"
        )
    return model
