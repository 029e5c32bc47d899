"""A model in PyTorch, beside its weights."""

import dataclasses
import functools
import importlib.util
import sys

import numpy as np
import pytest
from tiny_models import ECHO, random, tiny

from neurofm import model, twin
from neurofm.errors import NeuroFMError
from neurofm.models.brainbert import BrainBERT


def export(one, folder):
    model.save(
        folder, one.task, one.variables, {}, last=functools.partial(twin.write, one)
    )
    return folder


def loaded(folder, monkeypatch):
    """The module that lies in a model folder."""
    spec = importlib.util.spec_from_file_location("exported", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "exported", module)
    spec.loader.exec_module(module)
    return module


def test_without_torch_nothing_is_written_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "neurofm.models.wavjepa_torch", raising=False)
    with pytest.raises(
        NeuroFMError, match=r"not installed: pip install 'neurofm\[torc"
    ):
        export(tiny(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_a_twin_is_named(tmp_path):
    with pytest.raises(NeuroFMError, match="echo has no PyTorch twin"):
        twin.write(ECHO, tmp_path)


WINDOW = tiny().task.window_samples


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"width": 6, "depth": 3},  # stem features as they are
        {"n_chans": 2},
        {"statistics": "unit"},
        # A window of three seconds, of which the released rule drops tokens.
        {"statistics": "unit", "sfreq": 80.0, "n_chans": 2, "crop_norm": "none"},
    ],
)
def test_the_twin_says_what_the_model_says(tmp_path, fields, monkeypatch):
    torch = pytest.importorskip("torch")
    one = tiny(**fields)
    folder = export(one, tmp_path / "m")
    encoder = loaded(folder, monkeypatch).WavJEPAEncoder()
    rng = np.random.default_rng(1)
    for n in (40, WINDOW - 1, WINDOW, WINDOW + 3, 3 * WINDOW - 20):
        x = rng.normal(0, 0.3, (2, one.task.n_chans, n)).astype(np.float32)
        ours = [r.values["last"] for r in one.embed(list(x), one.task.sfreq)]
        theirs = encoder(torch.from_numpy(x)).detach().numpy()
        assert theirs.shape == np.shape(ours)
        close = 1e-3 * np.std(ours, axis=(0, 1)).mean()
        np.testing.assert_allclose(theirs, ours, atol=close, rtol=0)
    assert "`model.py` is the same in PyTorch" in (folder / "README.md").read_text()
    assert model.load(folder).task == one.task


BERT = BrainBERT(
    sfreq=100.0,
    window_samples=199,
    frame_samples=22,
    hop_samples=5,
    n_freqs=6,
    edge_frames=2,
    width=8,
    mlp_width=12,
    depth=2,
    heads=2,
)


@pytest.mark.parametrize("fields", [{}, {"scores": "inner_frames", "edge_frames": 0}])
def test_electrodes_lie_side_by_side_in_the_twin_too(tmp_path, fields, monkeypatch):
    torch = pytest.importorskip("torch")
    one = random(dataclasses.replace(BERT, **fields))
    encoder = loaded(export(one, tmp_path / "m"), monkeypatch).BrainBERTEncoder()
    for n in (28, 199, 203, 450):
        x = np.random.default_rng(n).normal(0, 1e-4, (2, 3, n)).astype(np.float32)
        x[1, 2] = 0.0  # as released, scores of silence are ones
        ours = [r.values["last"] for r in one.embed(list(x), one.task.sfreq)]
        theirs = encoder(torch.from_numpy(x)).detach().numpy()
        assert theirs.shape == np.shape(ours)
        close = 1e-3 * np.std(ours, axis=(0, 1)).mean()
        np.testing.assert_allclose(theirs, ours, atol=close, rtol=0)
    if not fields:
        with pytest.raises(ValueError, match="5 samples make no token"):
            encoder(torch.zeros(2, 5))


def test_a_model_of_superlets_has_no_twin(tmp_path):
    pytest.importorskip("torch")
    one = random(dataclasses.replace(BERT, spectrogram="superlets"))
    with pytest.raises(NeuroFMError, match="no PyTorch twin: it reads a store of"):
        export(one, tmp_path / "m")


def test_it_is_an_encoder_as_x_ares_checks_one(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    module = loaded(export(tiny(), tmp_path / "m"), monkeypatch)
    (name,) = [n for n in dir(module) if n.endswith("Encoder")]
    encoder = getattr(module, name)()
    assert isinstance(encoder, torch.nn.Module)
    assert encoder.sampling_rate == 800
    assert encoder.hop_size_in_ms == 12.5
    audio = torch.randn(2, 50_000)
    found = encoder(audio)
    assert found.shape[::2] == (2, encoder.output_dim)
    steps = 1000 * 50_000 / encoder.sampling_rate / encoder.hop_size_in_ms
    assert found.shape[1] == pytest.approx(steps, rel=0.1)
    with torch.inference_mode():  # torch has other programs for it
        torch.testing.assert_close(encoder(audio[0]), found[:1])
    with pytest.raises(ValueError, match="3 samples make no token"):
        encoder(audio[:, :3])
    with pytest.raises(ValueError, match="3 channels were given"):
        encoder(torch.randn(1, 3, 500))


def test_a_gradient_passes_through_to_the_stem(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    module = loaded(export(tiny(), tmp_path / "m"), monkeypatch)
    encoder = module.WavJEPAEncoder()
    encoder(torch.randn(2, 500))[..., 0].sum().backward()
    assert all((p.grad != 0).any() for p in encoder.stem_0.parameters())


def test_a_twin_that_differs_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from neurofm.models import wavjepa_torch

    right = wavjepa_torch.positions
    monkeypatch.setattr(wavjepa_torch, "positions", lambda *sizes: -right(*sizes))
    with pytest.raises(NeuroFMError, match="differs from the model by"):
        export(tiny(), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_another_number_of_tokens_is_no_twin():
    torch = pytest.importorskip("torch")
    assert twin.largest_difference(tiny(), lambda x: torch.zeros(2, 3, 8)) == np.inf
