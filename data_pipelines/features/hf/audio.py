"""Features of sound by an audio model of Hugging Face, in pieces of a minute.

The rule of TRIBE's released code (arXiv 2507.22229): the mean of the channels in pieces
of 60 s, each of mean 0 and deviation 1, through the model's own feature extractor;
tokens are taken, not averaged, at the steps of the grid. Where the last piece would be
under 30 s it is joined to the one before.

Axes: N hidden states, L layer groups, D width, F tokens, T steps, S samples.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines.features.events import Stretch
from data_pipelines.features.extractors import About, file_of, n_steps
from data_pipelines.features.hf.opened import Opened, opened, part_of
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError
from neurofm.signals import layers
from neurofm.signals.classic import nearest_steps

PIECE_S = 60.0  # and half of that at least
_INPUTS = ("input_values", "input_features")


@dataclass(frozen=True)
class Audio:
    """Hidden states of sound at the grid's rate; see the module.

    Attributes:
      path: folder of the model and its feature extractor.
      fractions, aggregation: see `layers.of_states`.
    """

    path: str
    fractions: tuple[float, ...]
    aggregation: layers.Aggregation
    takes: str = "sound"
    one_process: bool = True

    def about(self) -> About:
        model = opened(self.path, _INPUTS)
        extractor = part_of(model.path, "AutoFeatureExtractor")
        noise = np.random.default_rng(0).normal(size=(round(rate_of(extractor)),))
        n_layers, width, _ = self._tokens(model, extractor, noise).shape
        told = {"fractions": list(self.fractions), "aggregation": self.aggregation}
        return About("audio", model.id, n_layers, width, {**told, "piece_s": PIECE_S})

    def __call__(self, stretch: Stretch, root: Path, sfreq: float, notes: list[str]):
        from data_pipelines import soundfiles

        (event,) = stretch.events
        path = file_of(event, root)
        model = opened(self.path, _INPUTS)
        extractor = part_of(model.path, "AutoFeatureExtractor")
        sound = soundfiles.read(path, rate_of(extractor), "mean")
        wave = sound.samples[0]
        n, length = n_steps(event, len(wave) / sound.sfreq, sfreq, notes)
        edges = piece_edges(length)
        samples = np.rint(edges * sound.sfreq).astype(int)
        steps = np.rint(edges * sfreq).astype(int).tolist()
        steps[-1] = n
        out = []
        for i in range(len(edges) - 1):
            piece = wave[samples[i] : samples[i + 1]]
            try:
                found = self._tokens(model, extractor, piece)
            except (RuntimeError, ValueError, IndexError) as error:
                raise Unreadable(path, f"the model cannot read it ({error})") from error
            out.append(nearest_steps(found, steps[i + 1] - steps[i]))
        return np.concatenate(out, -1).reshape(-1, n)

    def _tokens(
        self, model: Opened, extractor, wave: Float[np.ndarray, " S"]
    ) -> Float[np.ndarray, "L D F"]:
        z = (wave - wave.mean()) / max(float(wave.std()), 1e-8)
        given = extractor(
            z.astype(np.float32),
            sampling_rate=extractor.sampling_rate,
            return_tensors="np",
        )
        states = model.states(dict(given), lambda x: x)[:, 0].swapaxes(1, 2)
        return layers.of_states(states, self.fractions, self.aggregation)


def rate_of(extractor: Any) -> float:
    """Samples per second of what an extractor takes.

    Raises:
      NeuroFMError: it gives no such number.
    """
    rate = getattr(extractor, "sampling_rate", None)
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise NeuroFMError(
            f"sampling_rate is {rate!r} in the model's preprocessor_config.json, which "
            "is no rate in Hz: copy it again"
        )
    return float(rate)


def piece_edges(length_s: float) -> Float[np.ndarray, " pieces+1"]:
    """Where pieces begin in seconds, and where the last one ends."""
    n = max(1, int(length_s / PIECE_S + 0.5))
    return np.array([*(PIECE_S * np.arange(n)), length_s])
