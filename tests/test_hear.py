"""The HEAR API and the suite `hear` on tiny models."""

import importlib
import json
import sys

import numpy as np
import pytest
from hear_tasks import happenings, scenes
from tiny_models import tiny

from neurofm import hear, model
from neurofm.embed import embed
from neurofm.errors import NeuroFMError
from neurofm.evaluate import evaluate
from neurofm.models.wavjepa import WavJEPA
from neurofm.suites.hear import row_of

QUICK = """
kind = "hear"
n_configs = 1
hidden_dim = 8
max_epochs = 6
patience = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved WavJEPA of 800 Hz."""
    path = tmp_path_factory.mktemp("model") / "m"
    one = tiny()
    model.save(path, one.task, one.variables, {})
    return path


@pytest.fixture
def quick(tmp_path):
    path = tmp_path / "quick.toml"
    path.write_text(QUICK)
    return path


# ---- the API


def noise(n, seconds, rate=16000):
    return np.random.default_rng(0).normal(0, 0.1, (n, round(seconds * rate)))


@pytest.mark.parametrize("seconds", [1.07, 1.98, 4.0])
def test_time_stamps_are_as_the_validator_wants_them(folder, seconds):
    loaded = hear.load_model(folder)
    assert loaded.sample_rate in hear.SAMPLE_RATES
    audio = noise(2, seconds, loaded.sample_rate)
    found, at = hear.get_timestamp_embeddings(audio, loaded)
    n, n_tokens, width = found.shape
    assert (n, width) == (2, loaded.timestamp_embedding_size)
    assert at.shape == (2, n_tokens)
    assert found.dtype == np.float32
    step = np.diff(at, axis=1)
    assert np.ptp(step) < 1  # ms
    assert (at[:, 0] <= step[0, 0]).all()
    end = 1000 * seconds
    assert (at[:, -1] <= end).all()
    assert (end - at[:, -1] <= step[0, 0] + 1e-9).all()
    # Centres: as far from the start as from the end.
    np.testing.assert_allclose(at[:, 0], end - at[:, -1], atol=0.1)


@pytest.mark.parametrize("seconds", [1.07, pytest.param(10.0, marks=pytest.mark.slow)])
def test_time_stamps_of_the_base_geometry_are_close_to_the_centres(seconds):
    base = WavJEPA()
    sizes = ("sfreq", "window_samples", "conv_layers")
    one = tiny(**{name: getattr(base, name) for name in sizes})
    found, at = hear.get_timestamp_embeddings(noise(1, seconds), hear.of(one))
    reading = one.embed(noise(1, seconds), sfreq=16000)
    np.testing.assert_array_equal(found[0], reading.values["last"])
    assert abs(at[0] - 1000 * reading.times_s).max() < at[0, 1] - at[0, 0]


def test_a_scene_is_the_mean_over_time(folder):
    loaded = hear.load_model(folder)
    audio = noise(3, 1.1)
    scene = hear.get_scene_embeddings(audio, loaded)
    tokens, _ = hear.get_timestamp_embeddings(audio, loaded)
    assert scene.shape == (3, loaded.scene_embedding_size)
    np.testing.assert_allclose(scene, tokens.mean(1), atol=1e-6)


def test_a_hundred_short_sounds_are_no_channels(folder):
    loaded = hear.load_model(folder)
    audio = noise(101, 0.2)
    alone = hear.get_scene_embeddings(audio[100:], loaded)
    assert hear.get_scene_embeddings(audio, loaded)[100:] == pytest.approx(
        alone, abs=1e-5
    )


def test_what_hear_cannot_load_or_read_is_told(folder):
    with pytest.raises(NeuroFMError, match="needs the path of a model"):
        hear.load_model()
    with pytest.raises(NeuroFMError, match=r"shape \(0, 16000\)"):
        hear.get_scene_embeddings(noise(0, 1.0), hear.load_model(folder))


def test_torch_is_asked_for_by_its_shim_alone(monkeypatch):
    assert "torch" not in sys.modules or importlib.util.find_spec("torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "neurofm.hear_torch", raising=False)
    importlib.reload(hear)
    with pytest.raises(NeuroFMError, match=r"install the extra.*neurofm\[torch\]"):
        importlib.import_module("neurofm.hear_torch")


def test_the_shim_gives_tensors_of_the_same_numbers(folder):
    torch = pytest.importorskip("torch")
    from neurofm import hear_torch

    loaded = hear_torch.load_model(folder)
    assert isinstance(loaded, torch.nn.Module)
    audio = noise(2, 1.07).astype(np.float32)
    found, at = hear_torch.get_timestamp_embeddings(torch.from_numpy(audio), loaded)
    ours, ours_at = hear.get_timestamp_embeddings(audio, loaded.inner)
    np.testing.assert_array_equal(found.numpy(), ours)
    np.testing.assert_allclose(at.numpy(), ours_at, rtol=1e-6)


def test_the_shim_is_what_the_official_validator_asks_for(folder):
    torch = pytest.importorskip("torch")
    module = importlib.import_module("neurofm.hear_torch")
    loaded = module.load_model(str(folder))
    assert isinstance(loaded.to("cpu"), torch.nn.Module)
    assert loaded.sample_rate in (16000, 22050, 44100, 48000)
    assert type(loaded.scene_embedding_size) is int
    assert type(loaded.timestamp_embedding_size) is int
    for seconds in (1.07, 1.98, 4.0):
        audio = 2 * torch.rand(2, int(seconds * loaded.sample_rate)) - 1
        found, at = module.get_timestamp_embeddings(audio, loaded)
        assert found.dtype == torch.float32
        assert found.shape == (*at.shape, loaded.timestamp_embedding_size)
        step = at.diff(dim=1)
        assert (step - step.mean()).abs().max() <= 1  # ms
        assert at.min() <= step.mean()
        assert 1000 * seconds - step.mean() <= at.max() <= 1000 * seconds
    scenes = module.get_scene_embeddings(2 * torch.rand(4, 43840) - 1, loaded)
    assert scenes.dtype == torch.float32
    assert scenes.shape == (4, loaded.scene_embedding_size)
    torch.testing.assert_close(loaded(audio), found.mean(1))


# ---- the suite


def test_a_model_is_scored_on_every_task_of_a_folder(tmp_path, folder, quick):
    data = tmp_path / "tasks"
    scenes(data / "scenes", n=6, seconds=0.5)
    happenings(data / "events", n=2, seconds=2.0, sound=True)
    out = tmp_path / "out"
    found = evaluate([folder], data=data, out=out, suite=quick)
    assert found["official"] is False
    cells = found["scores"]["scenes"]
    assert list(cells) == ["model", "untrained", "baseline", "chance"]
    assert cells["chance"]["mean"] == pytest.approx(1 / 3)
    assert cells["model"]["n"] == 6
    for name in ("events", "scenes"):
        told = json.loads((out / "hear" / f"{name}.json").read_text())
        assert told == found["hear"][name]
    assert (
        "test_segment_1s_er" in found["hear"]["events"]["model"][0]["per_fold"]["test"]
    )
    assert "scenes: chance" in (out / "report.html").read_text()


def test_saved_embeddings_score_as_their_model(tmp_path, folder, quick):
    data = scenes(tmp_path / "scenes", n=6, seconds=0.5)
    saved = tmp_path / "saved"
    embed(model.load(folder), [data / "16000"], saved)
    live = evaluate([folder], data=data, out=tmp_path / "a", suite=quick)
    stored = evaluate([saved], data=data, out=tmp_path / "b", suite=quick)
    assert stored["hear"]["scenes"]["model"] == live["hear"]["scenes"]["model"]


@pytest.mark.parametrize(
    ("names", "row"),
    [
        (["train/a.wav"], 0),
        (["16000/train/a.wav", "16000/test/a.wav"], 0),
        (["B/16000/train/a.wav", "A/16000/train/a.wav"], 1),
        (["B/16000/train/a.wav"], None),
        (["a.wav", "test/a.wav"], None),
        (["/moved/A/48000/train/a.wav"], 0),
    ],
)
def test_a_saved_embedding_is_that_of_its_task(tmp_path, names, row):
    assert row_of([*enumerate(names)], tmp_path / "A", "train", "a.wav") == row


def test_two_embeddings_that_fit_one_recording_are_told(tmp_path):
    named = [(0, "16000/train/a.wav"), (1, "48000/train/a.wav")]
    with pytest.raises(NeuroFMError, match=r"could both be train/a\.wav"):
        row_of(named, tmp_path / "A", "train", "a.wav")


def test_pooled_or_missing_embeddings_are_refused(tmp_path, folder, quick):
    data = happenings(tmp_path / "events", n=2, seconds=2.0, sound=True)
    pooled, other = tmp_path / "pooled", tmp_path / "other"
    embed(model.load(folder), [data / "16000"], pooled, pool="mean")
    with pytest.raises(NeuroFMError, match="one vector a recording"):
        evaluate([pooled], data=data, out=tmp_path / "o", suite=quick)
    embed(model.load(folder), [data / "16000/train"], other)
    with pytest.raises(
        NeuroFMError, match=r"holds no embedding of train/train0.wav: embed"
    ):
        evaluate([other], data=data, out=tmp_path / "o", suite=quick)


def test_a_folder_that_is_no_task_is_told(tmp_path, folder):
    with pytest.raises(NeuroFMError, match="no HEAR task and holds none"):
        evaluate([folder], data=tmp_path, out=tmp_path / "o", suite="hear")
    with pytest.raises(NeuroFMError, match="needs task folders"):
        evaluate([folder], out=tmp_path / "o", suite="hear")
