"""Embedding export against the released HEAR runtime."""

import re

import numpy as np
import pytest
from fixtures import config, each, load

from neurofm.model import Model
from neurofm.models.wavjepa import WavJEPA
from neurofm.weights.files import read_tensors

KIND = ("w/encoder.norm.weight", "*_audio", "*_timestamp_embeddings")


def cases(path):
    """Each case of a file: its name, the sounds (C, N) of its batch, its arrays."""
    arrays = load(path)
    for name, batch in arrays.items():
        if match := re.fullmatch(r"(\w+)_audio", name):
            sounds = list(batch[:, None] if batch.ndim == 2 else batch)
            case = f"{match[1]}_"
            yield (
                match[1],
                sounds,
                {
                    key.removeprefix(case): x
                    for key, x in arrays.items()
                    if key.startswith(case)
                },
            )


def official(path) -> Model:
    found = WavJEPA.from_official(read_tensors(path), config(path))
    assert not found.missing
    return Model(found.task, found.variables)


@pytest.mark.parametrize("batch_size", [1, 4])
@each("wavjepa", keys=KIND, suffix="_embed")
def test_tokens_and_their_mean_are_the_released_ones(path, batch_size):
    model = official(path)
    for name, sounds, expected in cases(path):
        readings = model.embed(sounds, model.contract.sfreq, batch_size=batch_size)
        tokens = np.stack([r.values["last"] for r in readings])
        np.testing.assert_allclose(
            tokens, expected["timestamp_embeddings"], rtol=0, atol=1e-5, err_msg=name
        )
        if "scene_embedding" in expected:
            pooled = model.embed(sounds, model.contract.sfreq, pool="mean")
            scene = np.concatenate([r.values["last"] for r in pooled])
            np.testing.assert_allclose(
                scene, expected["scene_embedding"], rtol=0, atol=1e-5, err_msg=name
            )


@each("wavjepa", keys=KIND, suffix="_embed")
def test_released_timestamps_are_an_option(path):
    model = official(path)
    for name, sounds, expected in cases(path):
        if "timestamps_ms" not in expected:
            continue
        readings = model.embed(sounds, model.contract.sfreq, times="released")
        ours = np.stack([1000 * r.times_s for r in readings])
        np.testing.assert_allclose(
            ours, expected["timestamps_ms"], rtol=0, atol=1e-3, err_msg=name
        )
