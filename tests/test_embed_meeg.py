"""EEG and MEG embedded: from memory, files and stores, aligned to events."""

import json
from dataclasses import replace

import jax
import mne
import numpy as np
import pytest
import quick
from brain_files import CAP, eeg, meg, standard_1005, write_edf
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from tiny_meeg import OMNI, TOKENIZER

import neurofm
from data_pipelines.meeg.settings import Settings
from neurofm import model as models
from neurofm.cli import cli
from neurofm.data.embeddings import open_embeddings
from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.data.sensors import Sensors
from neurofm.embed import embed
from neurofm.embedding import encode, meeg
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.model import Model, abstract_variables

SFREQ = 40.0


def drawn(task) -> Model:
    """A model of random numbers in all its places."""
    rng = np.random.default_rng(8)

    def fill(x):
        return (0.4 * rng.normal(size=x.shape)).astype(x.dtype)

    variables = jax.tree.map(fill, abstract_variables(task))
    return Model(task, variables, {"source": "random"})


MODEL, FIRST = drawn(OMNI), drawn(TOKENIZER)


def recorded(n_chans, n, seed) -> Recorded:
    rng = np.random.default_rng(seed)
    sensors = Sensors(
        names=tuple(f"c{c}" for c in range(n_chans)),
        kind=rng.integers(0, 3, n_chans).astype(np.int32),
        pos=rng.normal(0, 0.1, (n_chans, 6)).astype(np.float32),
        coil=("",) * n_chans,
    )
    unit = np.array([2e-5, 1e-12, 1e-11])[sensors.kind][:, None]
    x = rng.normal(size=(n_chans, n)).cumsum(-1)
    return Recorded((x * unit).astype(np.float32), sensors)


def same(got, wanted, atol=2e-5):
    assert list(got.values) == list(wanted.values)
    np.testing.assert_array_equal(got.times_s, wanted.times_s)
    for name, x in wanted.values.items():
        np.testing.assert_allclose(got.values[name], x, atol=atol, err_msg=name)


def raw_at(sfreq, seconds=3.0, seed=0, **more):
    return eeg(seconds=seconds, sfreq=sfreq, seed=seed, montage=standard_1005(), **more)


READ = quick.jit(
    encode._read_layers.__wrapped__, static_argnames=("task", "want", "layers")
)


@pytest.fixture(autouse=True)
def _compiled_quickly(monkeypatch):
    monkeypatch.setattr(encode, "_read_layers", READ)
    monkeypatch.setattr(encode, "N_SIZES", 1)


# ---- batches -------------------------------------------------------------------------


def test_recordings_of_any_sensors_and_length_are_read_as_if_alone():
    sizes = [(4, 100), (9, 42), (11, 17), (5, 6)]
    given = [(i, recorded(c, n, i)) for i, (c, n) in enumerate(sizes)]
    together = list(encode.embed_waves(MODEL, given, layers="all", batch_size=4))
    again = list(encode.embed_waves(MODEL, given, layers="all", batch_size=4))
    assert [name for name, _ in together] == [0, 1, 2, 3]
    for (name, one), (i, got), (_, twice) in zip(given, together, again, strict=True):
        assert name == i
        ((_, alone),) = encode.embed_waves(MODEL, [(i, one)], layers="all")
        same(got, alone)
        for layer, x in got.values.items():
            np.testing.assert_array_equal(x, twice.values[layer])
            assert x.shape == (len(got.times_s), 36)
        n = one.samples.shape[1]
        assert got.times_s.max() < n / SFREQ
        # Each window of 16 samples, 12 apart, has two tokens of 8.
        centres = {(s + 4, s + 12) for s in range(0, 42, 12)}
        wanted = {c for pair in centres for c in pair if c < min(n, 42)}
        first = got.times_s[got.times_s < 42 / SFREQ]
        assert set(np.round(first * SFREQ).astype(int)) == wanted


def test_windows_of_a_long_recording_are_read_one_by_one():
    one = recorded(5, 84, 3)
    whole = MODEL.embed(one.samples, SFREQ, one.sensors)
    halves = [
        MODEL.embed(one.samples[:, a : a + 42], SFREQ, one.sensors) for a in (0, 42)
    ]
    values = np.concatenate([half.values["last"] for half in halves])
    np.testing.assert_allclose(whole.values["last"], values, atol=2e-5)
    times = np.concatenate([halves[0].times_s, halves[1].times_s + 42 / SFREQ])
    np.testing.assert_allclose(whole.times_s, times)


def test_a_short_recording_is_read_in_a_short_segment_with_the_same_tokens(monkeypatch):
    one = recorded(5, 17, 4)
    whole = MODEL.embed(one.samples, SFREQ, one.sensors, layers="all")
    monkeypatch.setattr(encode, "N_SIZES", 4)
    same(MODEL.embed(one.samples, SFREQ, one.sensors, layers="all"), whole)


# ---- from memory ---------------------------------------------------------------------


def test_a_raw_an_array_with_info_channels_or_sensors_are_one_input():
    raw = raw_at(SFREQ)
    wanted = MODEL.embed(raw)
    x = raw.get_data()
    positions = raw.get_montage().get_positions()["ch_pos"]
    pos = np.array([[*positions[name], 0, 0, 0] for name in CAP], np.float32)
    sensors = Sensors(CAP, np.zeros(9, np.int32), pos, ("",) * 9)
    assert wanted.values["last"].shape == (len(wanted.times_s), 36)
    for info in (raw.info, raw.info["chs"], sensors):
        same(MODEL.embed(x, SFREQ, info), wanted)


def test_channels_marked_bad_and_others_are_left_out(caplog):
    caplog.set_level("INFO")
    raw = raw_at(SFREQ)
    raw.info["bads"] = ["C3"]
    eog = mne.io.RawArray(
        np.zeros((1, 120)), mne.create_info(["EOG"], SFREQ, "eog"), verbose="error"
    )
    got = MODEL.embed(raw.copy().add_channels([eog], force_update_info=True))
    assert "channels marked bad were left out: C3" in caplog.text
    assert "neither EEG nor MEG: EOG (eog)" in caplog.text
    same(got, MODEL.embed(raw_at(SFREQ).drop_channels(["C3"])))


def test_what_has_another_rate_is_resampled_as_mne_does_and_said(caplog):
    caplog.set_level("INFO")
    raw = raw_at(100.0)
    got = MODEL.embed(raw)
    assert "resampled from 100 to 40 Hz" in caplog.text
    same(got, MODEL.embed(raw.copy().resample(SFREQ, verbose="error")), 1e-4)


def test_each_epoch_is_a_reading_with_times_from_its_event():
    raw = raw_at(SFREQ, seconds=6)
    events = np.array([[50, 0, 1], [110, 0, 2], [170, 0, 1]])
    epochs = mne.Epochs(
        raw, events, tmin=-0.2, tmax=0.8, baseline=None, preload=True, verbose="error"
    )
    readings = MODEL.embed(epochs)
    assert len(readings) == 3
    for onset, got in zip(events[:, 0], readings, strict=True):
        cut = raw.get_data()[:, onset - 8 : onset - 8 + 41]
        alone = MODEL.embed(cut, SFREQ, raw.info)
        np.testing.assert_allclose(got.times_s, alone.times_s - 0.2)
        np.testing.assert_allclose(got.values["last"], alone.values["last"], atol=2e-5)
    listed = MODEL.embed(epochs.get_data(), SFREQ, epochs.info)
    np.testing.assert_allclose(
        listed[1].values["last"], readings[1].values["last"], atol=2e-5
    )
    with pytest.raises(NeuroFMError, match="one set of epochs at a time"):
        MODEL.embed([epochs])


def test_epochs_of_mne_are_cross_validated_by_groups():
    raw = raw_at(SFREQ, seconds=12)
    onsets = np.arange(8) * 55 + 20
    events = np.column_stack([onsets, 0 * onsets, 1 + np.arange(8) % 2])
    epochs = mne.Epochs(
        raw, events, tmin=0, tmax=1, baseline=None, preload=True, verbose="error"
    )
    embedder = neurofm.Embedder(MODEL)
    vectors = embedder.fit_transform(epochs)
    assert vectors.shape == (8, 36)
    apart = embedder.transform([epochs[i] for i in (5, 2)])
    np.testing.assert_allclose(apart, vectors[[5, 2]], atol=2e-5)
    label, groups = events[:, 2], np.arange(8) // 2
    how = {"groups": groups, "cv": GroupKFold(2)}
    pipeline = make_pipeline(embedder, LinearRegression())
    guess = cross_val_predict(pipeline, epochs, label, **how)
    wanted = cross_val_predict(LinearRegression(), vectors, label, **how)
    np.testing.assert_allclose(guess, wanted, atol=1e-3)


def test_meg_is_read_in_the_head_frame_with_its_types():
    raw = meg(seconds=2, sfreq=SFREQ, with_eeg=True)
    (one,), _ = meeg.take(MODEL.contract, raw, None, None, Settings())
    assert one.sensors.kind.tolist() == [2, 2, 1] * 4 + [0] * 5
    head = mne.transforms.apply_trans(
        raw.info["dev_head_t"], raw.info["chs"][0]["loc"][:3]
    )
    np.testing.assert_allclose(one.sensors.pos[0, :3], head, atol=1e-6)
    assert np.isfinite(MODEL.embed(raw).values["last"]).all()


def test_microvolts_for_volts_are_refused_until_their_unit_is_given():
    raw = raw_at(SFREQ)
    volts = MODEL.embed(raw)
    x = 1e6 * raw.get_data()
    with pytest.raises(NeuroFMError, match="looks like uV read as V"):
        MODEL.embed(x, SFREQ, raw.info)
    same(MODEL.embed(x, SFREQ, raw.info, settings=Settings(unit=("uV",))), volts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, info: (x, SFREQ, None), "without its sfreq or info"),
        (lambda x, info: (x, None, info), "without its sfreq or info"),
        (lambda x, info: (x[:5], SFREQ, info), "info tells of 9 channels and 5"),
        (lambda x, info: (x[0], SFREQ, info), r"shape \(120,\)"),
        (lambda x, info: (x * np.nan, SFREQ, info), "samples of Fp1, .* not finite"),
        (lambda x, info: (x, SFREQ, [{"name": 1}]), "no list of MNE's channels"),
        (
            lambda x, info: (x, SFREQ, mne.create_info([*"abcdefghi"], SFREQ, "eeg")),
            "position of none of its 9 sensors",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_a_sentence(change, message):
    raw = raw_at(SFREQ)
    with pytest.raises(NeuroFMError, match=message):
        MODEL.embed(*change(raw.get_data(), raw.info))


# ---- codes and sources ---------------------------------------------------------------


def test_codes_are_whole_numbers_and_sources_come_with_maps_of_their_sensors():
    one = recorded(5, 42, 5)
    codes = MODEL.embed(one.samples, SFREQ, one.sensors, want="codes").values
    assert codes["codes"].dtype == np.int32
    assert codes["codes"].shape[1] == 3 * 2
    assert set(np.unique(codes["codes"])) <= set(range(6))
    for model in (MODEL, FIRST):
        got = model.embed(one.samples, SFREQ, one.sensors, want="sources")
        maps = got.values["topography"].reshape(-1, 3, 5)
        np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
        assert got.values["sources"].shape == (len(maps), 3 * 8)
        pooled = model.embed(
            one.samples, SFREQ, one.sensors, want="sources", pool="mean"
        )
        np.testing.assert_allclose(
            pooled.values["topography"].reshape(3, 5), maps.mean(0), rtol=1e-5
        )
    with pytest.raises(NeuroFMError, match=r"codes .* no mean"):
        MODEL.embed(one.samples, SFREQ, one.sensors, want="codes", pool="mean")


# ---- files and stores ----------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "omni"
    models.save(path, OMNI, MODEL.variables, {})
    return path


def test_files_are_prepared_at_the_models_rate_and_told(saved, tmp_path):
    for i in range(2):
        x = raw_at(100.0, seconds=4, seed=i).get_data() * 1e6
        write_edf(tmp_path / f"src/s{i}.edf", x, CAP, sfreq=100)
    command = ["embed", str(saved), str(tmp_path / "src"), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(cli, [*command, "--codes", "--line-freq", "50", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])  # behind words of MNE
    assert (result["n_embeddings"], result["dim"]) == (2, 6)
    told = "\n".join(result["converted"])
    assert "2 inputs converted: resampled from 100 to 40 Hz" in told
    assert "band-passed from 0.1 to 15 Hz" in told
    out = open_embeddings(tmp_path / "o")
    assert out.index["item"].to_pylist() == ["s0.edf", "s1.edf"]
    settings = meeg.settings_for(MODEL.contract, line_freq=50.0)
    one = MODEL.embed(tmp_path / "src/s1.edf", want="codes", settings=settings)
    np.testing.assert_array_equal(out.read(1, "codes"), one.values["codes"])
    other = CliRunner().invoke(cli, [*command, "--codes", "--line-freq", "60"])
    assert other.exit_code == 1
    assert "other in: inputs" in other.output


@pytest.fixture
def store(tmp_path):
    """Two recordings of unlike sensors; events inside, at an edge and in neither."""
    info = DatasetInfo(
        kind="meeg", sfreq=SFREQ, unit="si", ch_names=(), payload="float32"
    )
    onsets = [[1.0, 0.1, 2.512], [0.5]]
    rows = [
        Recording(
            item=f"r{i}",
            samples=recorded(4 + 5 * i, 160, i).samples,
            sensors=recorded(4 + 5 * i, 160, i).sensors,
            meta={"file": f"r{i}", "subject": f"s{i}"},
            events=[
                {"onset": t, "duration": 0.0, "trial_type": f"t{k}"}
                for k, t in enumerate(onsets[i])
            ],
        )
        for i in range(2)
    ]
    write_dataset(tmp_path / "store", info, rows)
    return tmp_path / "store"


def test_events_of_a_store_are_cut_out_and_read_alone(store, tmp_path):
    result = embed(
        MODEL, [store], tmp_path / "out", events=True, around=(-0.25, 0.8), batch_size=3
    )
    assert result["n_embeddings"] == 3
    assert [one["file"] for one in result["skipped"]] == ["r0"]
    assert "around 0.1 s is not all recorded" in result["skipped"][0]["reason"]
    out = open_embeddings(tmp_path / "out")
    rows = out.index.to_pylist()
    assert [row["embedding"] for row in rows] == ["r0#0", "r0#2", "r1#0"]
    assert [row["trial_type"] for row in rows] == ["t0", "t2", "t0"]
    for row, (item, start, onset) in enumerate(
        [(0, 30, 1.0), (0, 90, 2.512), (1, 10, 0.5)]
    ):
        one = recorded(4 + 5 * item, 160, item)
        cut = one.samples[:, start : start + 42]
        alone = MODEL.embed(cut, SFREQ, one.sensors)
        np.testing.assert_allclose(out.read(row), alone.values["last"], atol=2e-5)
        np.testing.assert_allclose(
            out.times(row), alone.times_s + start / SFREQ - onset, atol=1e-9
        )


def test_sources_of_a_store_name_their_sensors(store, tmp_path):
    embed(FIRST, [store], tmp_path / "out", want="sources", pool="mean")
    out = open_embeddings(tmp_path / "out")
    for row in (0, 1):
        names = out.index["sensors"][row].as_py()
        assert names == [f"c{c}" for c in range(4 + 5 * row)]
        maps = out.read(row, "topography").reshape(3, len(names))
        np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)


def test_a_store_at_another_rate_is_refused_in_a_table(store, tmp_path):
    model = drawn(replace(OMNI, tokenizer=replace(TOKENIZER, sfreq=64.0)))
    with pytest.raises(NeuroFMError, match=r"sfreq +40.0 +64.0 +no exact"):
        embed(model, [store], tmp_path / "out")


@pytest.mark.parametrize(
    "asked",
    [{"around": (0.0, 1.0)}, {"events": True, "around": (1.0, 0.5)}],
)
def test_seconds_around_events_are_for_events_and_in_order(store, tmp_path, asked):
    with pytest.raises(NeuroFMError, match="seconds around events"):
        embed(MODEL, [store], tmp_path / "out", **asked)
