"""The HEAR API (Turian et al., arXiv 2203.03022) of any model of sound.

    model = neurofm.hear.load_model("runs/mine")
    scenes = neurofm.hear.get_scene_embeddings(audio, model)             # (n, D)
    tokens, at_ms = neurofm.hear.get_timestamp_embeddings(audio, model)  # (n, T, D)

Audio is (n, samples) in [-1, 1] at `model.sample_rate`. The official validator takes
modules of torch only: give it `neurofm.hear_torch`, which is the same for tensors.

Axes: n sounds, T tokens, D width.
"""

import os
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Float64, Num

from neurofm.embedding import encode
from neurofm.errors import NeuroFMError
from neurofm.model import Model, abstract_batch, load

SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)


@dataclass(frozen=True, eq=False)
class HearModel:
    """A model with the attributes that HEAR asks for.

    Attributes:
      model: as `neurofm.load` gives it; its last layer is what is read.
      sample_rate: of the sounds to give, in Hz: HEAR's lowest that loses nothing. A
        model of another rate resamples.
      scene_embedding_size, timestamp_embedding_size: D.
    """

    model: Model
    sample_rate: int
    scene_embedding_size: int
    timestamp_embedding_size: int


def load_model(path: str | os.PathLike = "") -> HearModel:
    """Load a run's workdir, a checkpoint step or a model folder.

    Raises:
      NeuroFMError: no path, no model there, or one that does not take sound.
    """
    if not os.fspath(path):
        raise NeuroFMError(
            "the HEAR module needs the path of a model: give a run's workdir, or an "
            "imported or exported folder, as the model's path"
        )
    return of(load(path))


def of(model: Model) -> HearModel:
    """A model in memory, for HEAR.

    Raises:
      NeuroFMError: it does not take sound.
    """
    contract = model.contract
    if contract.kind != "audio":
        raise NeuroFMError(
            f"HEAR is for models of sound, and this one takes {contract.kind}: give a "
            "model of sound"
        )
    rate = next((r for r in SAMPLE_RATES if r >= contract.sfreq), SAMPLE_RATES[-1])
    size = _width(model)
    return HearModel(model, rate, size, size)


def get_scene_embeddings(
    audio: Num[Any, "n samples"], model: HearModel
) -> Float32[np.ndarray, "n D"]:
    """One vector a sound: the mean of its tokens.

    Raises:
      NeuroFMError: sounds of the wrong shape, or shorter than one token.
    """
    return np.stack([x.values["last"].mean(0) for x in _read(audio, model)])


def get_timestamp_embeddings(
    audio: Num[Any, "n samples"], model: HearModel
) -> tuple[Float32[np.ndarray, "n T D"], Float64[np.ndarray, "n T"]]:
    """A vector a token, and the tokens' centres in milliseconds.

    Raises:
      NeuroFMError: sounds of the wrong shape, or shorter than one token.
    """
    read = _read(audio, model)
    at = centres_ms(len(read[0].times_s), audio.shape[1] / model.sample_rate)
    values = np.stack([x.values["last"] for x in read])
    return values, np.tile(at, (len(values), 1))


def centres_ms(n: int, duration_s: float) -> Float64[np.ndarray, " n"]:
    """Centres of `n` tokens that share a recording evenly.

    HEAR wants equal steps from start to end, and tokens are further apart where windows
    meet. Those of WavJEPA's base geometry move by less than a step in clips of ten
    seconds; `Model.embed` gives the centres as they are.
    """
    return (np.arange(n) + 0.5) * (1000 * duration_s / n)


def _read(audio: Any, model: HearModel) -> list[encode.Reading]:
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 2 or not len(audio):
        raise NeuroFMError(
            f"audio of shape {audio.shape} was given: give (sounds, samples)"
        )
    # A row as (1, samples): a sound of 100 samples or less is no set of channels.
    return model.model.embed([x[None] for x in audio], sfreq=model.sample_rate)


def _width(model: Model) -> int:
    read = jax.eval_shape(
        lambda v, b: model.task.read(v, b, "features").values,
        model.inference,
        abstract_batch(model.task, 1),
    )
    return read["last"].shape[-1]
