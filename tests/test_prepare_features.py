"""Features of an events table's stimuli, against what the stimuli hold."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_prepare_audio import Killed
from tiny_models import tiny

from data_pipelines import shards
from data_pipelines.features import events as tables
from data_pipelines.features import sound_model
from data_pipelines.features.choose import Asked
from data_pipelines.features.extractors import frames_of
from data_pipelines.features.prepare import prepare
from data_pipelines.unreadable import Unreadable
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError
from neurofm.model import save
from neurofm.signals.mel import log_mel

HEADER = "type\tonset\tduration\ttimeline\tsubject\ttext\tfile"


def write(path, rows):
    lines = [HEADER, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def held(out):
    dataset = open_dataset(out)
    names = dataset.items["item"].to_pylist()
    sizes = dataset.items["n_samples"].to_pylist()
    return dataset, {n: dataset.read(i, 0, sizes[i]) for i, n in enumerate(names)}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A film of two sounds and some words, seen by two; a story of one sound."""
    at = tmp_path_factory.mktemp("stimuli")
    rng = np.random.default_rng(0)
    for name, seconds in (("one", 3.0), ("two", 2.4), ("story", 2.0)):
        wave = rng.normal(0, 0.1, (round(800 * seconds), 2))
        soundfile.write(at / f"{name}.wav", wave, 800, subtype="FLOAT")
    rows = []
    for person in ("01", "02"):
        rows += [
            ("sound", 0.5, 2.5, "film", person, "", "one.wav"),
            ("word", 0.6, 0.3, "film", person, "A", ""),
            ("word", 0.9, 0.9, "film", person, "whale", ""),
            ("word", 3.1, 0.4, "film", person, "a", ""),
            ("sound", 60, "n/a", "film", person, "", "two.wav"),
        ]
    rows.append(("sound", 0, 9, "story", "01", "", "story.wav"))
    return write(at / "events.tsv", rows)


def test_sounds_become_an_item_each_and_are_made_once(table, tmp_path):
    summary = prepare(table, tmp_path / "d", Asked("log_mel"), workers=1)
    dataset, found = held(tmp_path / "d")
    assert list(found) == ["film@0.5", "film@60.0", "story@0.0"]
    assert [x.shape for x in found.values()] == [(64, 5), (64, 5), (64, 4)]
    assert dataset.items["timeline"].to_pylist() == ["film", "film", "story"]
    assert dataset.items["onset"].to_pylist() == [0.5, 60.0, 0.0]
    told = dataset.info.processing
    assert (told["modality"], told["model"]) == ("audio", "log_mel")
    assert (told["layers"], told["width"]) == (1, 64)
    assert (dataset.info.kind, dataset.info.sfreq) == ("features", 2.0)
    wave, _ = soundfile.read(table.parent / "one.wav")
    frames = log_mel(wave.mean(1)[:2000].astype(np.float32), 800.0)
    at = 0.0125 + 0.01 * np.arange(len(frames))
    np.testing.assert_allclose(
        found["film@0.5"][:, 3], frames[(at >= 1.5) & (at < 2)].mean(0), rtol=1e-4
    )
    notes = (tmp_path / "d/notes.tsv").read_text()
    assert "story.wav ends after 2.0 s, its event (line 12) after 9.0 s" in notes
    again = prepare(table, tmp_path / "d", Asked("log_mel"), workers=1)
    assert (again.status, again.hash) == ("already prepared", summary.hash)
    with pytest.raises(NeuroFMError, match="name 'log_mel' and not 'envelope'"):
        prepare(table, tmp_path / "d", Asked("envelope"), workers=1)


def test_words_are_counted_and_their_vectors_held(table, tmp_path):
    prepare(table, tmp_path / "rate", Asked("word_rate"), workers=1)
    _, found = held(tmp_path / "rate")
    # From 0.6 s: two words in the first half second, one in the sixth.
    np.testing.assert_array_equal(found["film@0.6"], [[4, 0, 0, 0, 0, 2]])
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("2 3\na 1 2 3\nsea 4 5 6\n")
    asked = Asked("word_vectors", vectors=str(vectors))
    prepare(table, tmp_path / "vec", asked, workers=1)
    dataset, found = held(tmp_path / "vec")
    assert dataset.info.processing["model"].startswith("vectors.txt sha256:")
    steps = found["film@0.6"]
    np.testing.assert_array_equal(steps[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(steps.sum(0) / 6, [1, 0, 0, 0, 0, 1])
    notes = (tmp_path / "vec/notes.tsv").read_text()
    assert "1 of 3 words have no vector and are zeros (the first is 'whale')" in notes


def test_layers_of_an_audio_model_are_grouped_on_the_grid(table, tmp_path):
    model = tiny(depth=3)
    save(tmp_path / "model", model.task, model.variables, {})
    asked = Asked("model", model=str(tmp_path / "model"), layers=(0.3, 0.7, 1.0))
    prepare(table, tmp_path / "d", asked)
    dataset, found = held(tmp_path / "d")
    told = dataset.info.processing
    assert (told["layers"], told["width"], told["fractions"]) == (2, 8, [0.3, 0.7, 1])
    wave, _ = soundfile.read(table.parent / "two.wav", dtype="float32")
    names = [f"layer_0{i}" for i in range(1, 4)]
    reading = model.embed(wave.mean(1)[None], 800.0, layers=names)
    states = np.stack([reading.values[name] for name in names])
    groups = np.stack([states[0], states[1:3].mean(0)])  # from 0, 1 and 2
    n = states.shape[1]
    at = [int(i * n / 5) for i in range(5)]
    expected = groups[:, at].transpose(0, 2, 1).reshape(16, 5)
    np.testing.assert_allclose(found["film@60.0"], expected, atol=1e-5)


def test_one_fraction_is_the_layer_there(tmp_path):
    model = tiny(depth=3)
    save(tmp_path / "model", model.task, model.variables, {})
    read = sound_model.SoundModel(str(tmp_path / "model"), (0.5,), "group_mean", 16)
    wave = np.random.default_rng(0).normal(size=(1, 900)).astype(np.float32)
    states = read._states(model, wave, 800.0)
    second = model.embed(wave, 800.0, layers=["layer_02"]).values["layer_02"]
    np.testing.assert_allclose(states, second.T[None], atol=1e-6)


def test_features_made_elsewhere_and_frames_are_taken(tmp_path):
    x = np.random.default_rng(3).normal(size=(2, 3, 25)).astype(np.float32)
    np.savez(tmp_path / "own.npz", features=x, sfreq=10.0)
    np.savez(tmp_path / "bad.npz", features=x[:, :2], sfreq=10.0)
    film = np.random.default_rng(4).integers(0, 255, (45, 32, 40, 3), np.uint8)
    np.savez(tmp_path / "film.npz", frames=film, fps=15.0)
    rows = [
        ("array", 1, "", "a", "", "", "own.npz"),
        ("array", 9, "", "a", "", "", "bad.npz"),
        ("video", 0, "", "a", "", "", "film.npz"),
    ]
    table = write(tmp_path / "events.tsv", rows)
    prepare(table, tmp_path / "d", Asked("array", modality="text"), workers=1)
    dataset, found = held(tmp_path / "d")
    assert dataset.info.processing["modality"] == "text"
    np.testing.assert_array_equal(
        found["a@1.0"], x[:, :, [0, 5, 10, 15, 20]].reshape(6, 5)
    )
    skipped = (tmp_path / "d/skipped.tsv").read_text()
    assert "2 x 2 (layers x width), others 2 x 3" in skipped
    prepare(table, tmp_path / "m", Asked("motion_energy"), workers=1)
    _, found = held(tmp_path / "m")
    assert found["a@0.0"].shape == (48, 6)
    assert (found["a@0.0"] > 0).all()


def test_a_killed_preparation_goes_on(table, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_SHARD_BYTES", (1, 1))
    asked, out = Asked("envelope"), tmp_path / "d"

    def stop(done, total, seconds):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        prepare(table, out, asked, workers=1, progress=stop)
    again = prepare(table, out, asked, workers=1)
    assert again.status == "resumed"
    whole = prepare(table, tmp_path / "e", asked, workers=1)
    assert (whole.status, whole.hash) == ("prepared", again.hash)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("word", 5, 1, "a", "", "x", ""), ("word", 3, 1, "a", "", "y", "")],
         r"word of line 3 begins at 3 s of 'a', before that of line 2 \(5 s\): sort"),
        ([("word", "soon", 1, "a", "", "x", "")], "onset 'soon' is no number"),
        ([("word", "", 1, "a", "", "x", "")], "line 2: there is no onset"),
        ([("word", 1, -1, "a", "", "x", "")], "duration -1 s is below 0"),
        ([("word", 1, 1, "", "", "x", "")], "there is no timeline"),
        ([("sound", 1, 1, "a", "", "", "x.wav")], "no events of type 'word'.* sound"),
        ([("word", 1, 1, "a", "01", "x", ""), ("word", 1, 1, "a", "02", "y", "")],
         "'a' has other events for 02 than for 01 .line 3"),
    ],
)  # fmt: skip
def test_a_bad_table_is_told_in_words(tmp_path, rows, words):
    table = write(tmp_path / "events.tsv", rows)
    with pytest.raises(NeuroFMError, match=words):
        prepare(table, tmp_path / "d", Asked("word_rate"), workers=1)


def test_what_is_missing_is_told(table, tmp_path):
    def refused(match, *given, **more):
        with pytest.raises(NeuroFMError, match=match):
            prepare(table, tmp_path / "d", Asked(*given, **more), workers=1)

    refused("did you mean log_mel", "logmel")
    refused("model needs --model", "model")
    refused("log_mel takes no --model", "log_mel", model="x")
    refused("array needs --modality", "array")
    refused("no events of type 'video'", "motion_energy")
    plain = tmp_path / "plain.tsv"
    plain.write_text("type\tonset\nword\t1\n")
    with pytest.raises(NeuroFMError, match="has no column 'timeline'"):
        tables.read(plain)


@pytest.mark.parametrize(
    ("shape", "fps", "why"),
    [
        ((3, 8, 8), 0.0, "its fps is 0.0"),
        ((3, 8, 8), np.nan, "its fps is nan"),
        ((3, 8, 8), "25", "its fps is 25"),
        ((0, 8, 8), 25.0, "it holds no frame"),
    ],
)
def test_a_film_without_frames_or_rate_is_told(tmp_path, shape, fps, why):
    np.savez(tmp_path / "film.npz", frames=np.zeros(shape, np.uint8), fps=fps)
    with pytest.raises(Unreadable, match=why):
        frames_of(tmp_path / "film.npz")


@given(st.text(alphabet='\t\n\r"ab1.-e \x00é', max_size=60))
def test_no_table_brings_another_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_bytes(f"type\tonset\ttimeline\n{text}".encode())
    try:
        for event in tables.read(path):
            assert np.isfinite(event.onset)
    except NeuroFMError:
        pass


def test_the_command_makes_features_and_check_shows_them(table, tmp_path):
    words = ["prepare", "features", str(table), "--out", str(tmp_path / "d"), "--json"]
    refused = CliRunner().invoke(cli, words)
    assert "--extractor is missing" in refused.output
    more = ["--extractor", "envelope", "--sfreq", "4", "--payload", "float16"]
    done = CliRunner().invoke(cli, [*words, *more])
    assert done.exit_code == 0, done.output
    told = CliRunner().invoke(cli, ["check", str(tmp_path / "d"), "--json"])
    facts = json.loads(told.stdout)
    assert (facts["modality"], facts["width"], facts["sfreq"]) == ("audio", 1, 4.0)
    assert facts["payload"] == "float16"
    assert facts["timelines"] == ["film", "story"]
    refused = CliRunner().invoke(cli, [*words, "--atlas", "x"])
    assert "prepare features has no option --atlas" in refused.output
