"""Embeddings in a scikit-learn pipeline."""

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import TINY

import neurofm
from neurofm import model
from neurofm.errors import NeuroFMError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A WavJEPA as it starts, as a model folder."""
    batch = {
        name: jax.numpy.zeros(x.shape, x.dtype)
        for name, x in model.abstract_batch(TINY, 2).items()
    }
    variables = jax.jit(lambda key: TINY.init(key, batch, {}))(jax.random.key(5))
    path = tmp_path_factory.mktemp("embedder") / "m"
    model.save(path, TINY, jax.device_get(variables), {})
    return path


def tones(n=12):
    rng = np.random.default_rng(0)
    label = np.arange(n) % 2
    at = np.arange(TINY.window_samples)
    pitch = np.where(label, 1.1, 0.3)[:, None]
    x = np.sin(at * pitch) + 0.1 * rng.normal(0, 1, (n, len(at)))
    return (0.1 * x).astype(np.float32), label


def test_it_gives_what_the_model_gives_one_by_one(folder):
    x, _ = tones(5)
    found = neurofm.Embedder(folder, layer="1", sfreq=TINY.sfreq).fit_transform(x)
    loaded = neurofm.load(folder)
    (name,) = loaded.embed(x[0], TINY.sfreq, layers=("1",)).values
    one = [loaded.embed(row, TINY.sfreq, layers=("1",)).values[name] for row in x]
    np.testing.assert_allclose(found, [v.mean(0) for v in one], atol=1e-5)
    assert found.shape == (5, TINY.width)


def test_it_stands_in_a_pipeline_that_is_cloned_and_validated_by_groups(folder):
    x, label = tones()
    embedder = neurofm.Embedder(folder, sfreq=TINY.sfreq)
    pipeline = make_pipeline(embedder, StandardScaler(), LogisticRegression())
    groups = np.arange(12) // 4
    guess = cross_val_predict(pipeline, x, label, groups=groups, cv=GroupKFold(3))
    assert (guess == label).mean() == 1
    assert clone(embedder).get_params() == embedder.get_params()


def test_clones_share_a_model_that_is_loaded(folder):
    loaded = neurofm.load(folder)
    pipeline = make_pipeline(neurofm.Embedder(loaded), LogisticRegression())
    assert clone(pipeline)[0].model is loaded


def test_a_mistake_is_named(folder, tmp_path):
    x, _ = tones(2)
    with pytest.raises(NotFittedError):
        neurofm.Embedder(folder, sfreq=TINY.sfreq).transform(x)
    with pytest.raises(NeuroFMError, match="is not a folder"):
        neurofm.Embedder(tmp_path / "none").fit(x)
    with pytest.raises(NeuroFMError, match="input 0 is shorter than one token"):
        neurofm.Embedder(folder, sfreq=TINY.sfreq).fit_transform(x[:, :3])
