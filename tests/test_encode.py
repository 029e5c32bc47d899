import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import soundfile
from tiny_models import ECHO, Echo, tiny

from neurofm.embedding import encode, inputs
from neurofm.embedding.difference import compare
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.models.wavjepa import WavJEPA
from neurofm.signals.audio import rms_normalize


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def ramps(*lengths: int) -> list[tuple[str, np.ndarray]]:
    return [
        (f"item {n}", np.arange(n, dtype=np.float32)[None] + 1000 * i)
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_each_token_is_where_its_time_says_whatever_the_batch(batch_size):
    waves = ramps(200, 11, 73, 74, 300, 146)
    read = list(encode.embed_waves(ECHO, waves, batch_size=batch_size))
    assert [name for name, _ in read] == [name for name, _ in waves]
    for (_, wave), (_, reading) in zip(waves, read, strict=True):
        expected = []
        for start in range(0, wave.shape[1], 73):
            n_valid = min(73, wave.shape[1] - start)
            expected += [start + 5 + 4 * i for i in range((n_valid - 11) // 4 + 1)]
        np.testing.assert_allclose(reading.times_s, (np.array(expected) + 0.5) / 100)
        np.testing.assert_array_equal(reading.values["last"][:, 0], wave[0, expected])
        assert reading.times_s.dtype == np.float64


def test_overlapping_windows_give_one_token_a_hop():
    ((_, reading),) = encode.embed_waves(ECHO, ramps(500), overlap_s=0.3, batch_size=4)
    expected = np.arange(5, 500 - 5, 4)
    np.testing.assert_array_equal(reading.values["last"][:, 0], expected)
    np.testing.assert_allclose(reading.times_s, (expected + 0.5) / 100)


def test_times_stay_true_far_into_a_long_recording():
    wave = np.zeros((1, 100 * 3600 * 3), np.float32)  # three hours
    ((_, reading),) = encode.embed_waves(ECHO, [("long", wave)], batch_size=512)
    last = wave.shape[1] // 73 * 73 + 5 + 4 * ((wave.shape[1] % 73 - 11) // 4)
    assert abs(reading.times_s[-1] - (last + 0.5) / 100) < 1e-6


def test_a_recording_without_a_token_comes_out_empty_and_in_order():
    waves = [*ramps(80), ("short", np.ones((1, 10), np.float32)), *ramps(90)]
    for pool in ("none", "mean"):
        read = list(encode.embed_waves(ECHO, waves, pool=pool))
        assert [len(r.times_s) > 0 for _, r in read] == [True, False, True]


def test_the_mean_is_over_the_recordings_own_tokens():
    waves = ramps(200, 30)
    whole = encode.embed_waves(ECHO, waves)
    pooled = encode.embed_waves(ECHO, waves, pool="mean")
    for (_, tokens), (_, mean) in zip(whole, pooled, strict=True):
        assert mean.values["last"].shape == (1, 1)
        np.testing.assert_allclose(mean.values["last"], tokens.values["last"].mean())
        np.testing.assert_allclose(mean.times_s, [tokens.times_s.mean()])


def test_layers_are_given_by_name_number_or_all():
    ((_, reading),) = encode.embed_waves(ECHO, ramps(80), layers=("last", 1, "row"))
    assert list(reading.values) == ["last", "layer_01", "row"]
    assert encode.layer_names(ECHO, "1,last") == ("layer_01", "last")
    assert encode.layer_names(ECHO, "all") == ("last", "layer_01", "row")
    with pytest.raises(NeuroFMError, match="no layer 7: it has last, layer_01, row"):
        encode.layer_names(ECHO, [7])


@pytest.mark.parametrize(
    "options",
    [{"pool": "max"}, {"times": "middle"}, {"batch_size": 0}, {"window_s": 9.0}],
)
def test_impossible_options_are_refused_before_anything_is_read(options):
    def never():
        raise AssertionError("a recording was read")
        yield

    with pytest.raises(NeuroFMError):
        encode.embed_waves(ECHO, never(), **options)


def test_what_else_is_in_the_batch_changes_nothing(model):
    waves = [(i, noise(1, n, seed=i)) for i, n in enumerate((700, 60, 250, 1300))]
    together = dict(encode.embed_waves(model, waves, layers="all", batch_size=4))
    for i, wave in waves:
        ((_, alone),) = encode.embed_waves(
            model, [(i, wave)], layers="all", batch_size=1
        )
        for name, x in alone.values.items():
            np.testing.assert_allclose(together[i].values[name], x, atol=1e-5)
            assert x.std() > 0.1


def test_padding_after_a_short_recording_changes_nothing(model):
    short = noise(1, 130)
    unit = np.zeros((2, 1, 250), np.float32)
    unit[:, :, :130] = short
    unit[1, :, 130:] = 50 * noise(120, seed=1)  # what lies past the span is not read
    batch = {"audio/wave": unit, "audio/span": np.array([[0, 130]] * 2)}
    read = jax.jit(lambda v, b: model.task.read(v, b).values["last"])
    tokens = np.asarray(read(model.inference, batch))
    ((_, ours),) = encode.embed_waves(model, [("short", short)])
    n = len(ours.times_s)
    assert n == (130 - 20) // 10 + 1
    for row in (0, 1):
        np.testing.assert_allclose(tokens[row, :n], ours.values["last"], atol=1e-5)


@pytest.mark.parametrize("n_chans", [1, 2])
def test_a_shorter_window_for_short_clips_gives_the_same_tokens(n_chans, monkeypatch):
    model = tiny(n_chans=n_chans, window_samples=1250)
    lengths = (1250, 40, 131, 313, 157, 314, 626, 19, 1000, 2700, 30, 129)
    waves = [(n, noise(n_chans, n, seed=n)) for n in lengths]
    asked = {"layers": "all", "batch_size": 2}
    short = list(encode.embed_waves(model, waves, **asked))
    assert [name for name, _ in short] == list(lengths)
    monkeypatch.setattr(encode, "N_SIZES", 1)  # the model's own window alone
    full = list(encode.embed_waves(model, waves, **asked))
    for (_, a), (_, b) in zip(short, full, strict=True):
        np.testing.assert_array_equal(a.times_s, b.times_s)
        for name, x in a.values.items():
            np.testing.assert_allclose(x, b.values[name], atol=1e-5)


def test_short_clips_are_read_in_short_windows(monkeypatch):
    model = tiny(window_samples=1250)
    seen = []
    read = WavJEPA.read

    def noted(self, variables, batch, want="features"):
        seen.append(batch["audio/wave"].shape)
        return read(self, variables, batch, want)

    monkeypatch.setattr(WavJEPA, "read", noted)
    lengths = [1250, 100, 300, 600] * 3
    waves = [(i, noise(1, n)) for i, n in enumerate(lengths)]
    assert len(list(encode.embed_waves(model, waves, batch_size=3))) == 12
    assert {shape[-1] for shape in seen if shape[0] == 3} == {157, 313, 625, 1250}
    # The released statistics measure the padding, so its length is theirs.
    released = tiny(window_samples=1250, statistics="unit")
    seen.clear()
    list(encode.embed_waves(released, waves, batch_size=3))
    assert {shape[-1] for shape in seen} == {1250}


def test_without_overlap_a_long_recording_is_read_window_by_window(model):
    wave = noise(1, 640)
    ((_, whole),) = encode.embed_waves(model, [("whole", wave)])
    parts = [(k, wave[:, k : k + 250]) for k in (0, 250, 500)]
    read = dict(encode.embed_waves(model, parts, batch_size=1))
    joined = np.concatenate([r.values["last"] for r in read.values()])
    np.testing.assert_allclose(whole.values["last"], joined, atol=1e-5)
    times = np.concatenate([k / 800 + r.times_s for k, r in read.items()])
    np.testing.assert_allclose(whole.times_s, times)


def test_arrays_of_any_layout_and_lists_of_them_are_embedded(model):
    wave = noise(3, 300)[:1] / 4
    expected = model.embed(wave, 800.0).values["last"]
    single = model.embed(wave[0], sfreq=800.0)
    listed = model.embed([wave[0], wave.T], sfreq=800.0)
    for reading in (single, *listed):
        np.testing.assert_allclose(reading.values["last"], expected, atol=1e-5)
    assert isinstance(single, encode.Reading)
    assert single.values["last"].shape == (len(single.times_s), 8)
    whole_numbers = np.round(wave * 2**15).astype(np.int16)
    close = model.embed(whole_numbers, sfreq=800.0).values["last"]
    np.testing.assert_allclose(close, expected, atol=1e-2)


def test_a_file_brings_its_own_rate(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(900) / 8, 1600, subtype="FLOAT")
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    for path in (tmp_path / "a.wav", str(tmp_path / "a.wav")):
        reading = model.embed(path)
        np.testing.assert_allclose(
            reading.values["last"], model.embed(samples, 1600).values["last"], atol=1e-5
        )


def test_conversions_are_said_once_a_kind(model, caplog):
    caplog.set_level("INFO")
    stereo, mono = noise(2, 900) / 8, noise(900) / 8
    model.embed([stereo, mono, mono], sfreq=1600)
    assert caplog.text.count("resampled from 1600 to 800 Hz") == 1
    assert "3 inputs converted: resampled" in caplog.text
    assert "1 input converted: the mean of both channels" in caplog.text


def raw_of(channels: dict[str, np.ndarray], sfreq: float):
    """An `mne.io.Raw` of channels by type, or what stands in for one."""
    types = [one for one, rows in channels.items() for _ in rows]
    data = np.concatenate(list(channels.values()))
    try:
        import mne
    except ImportError:
        chosen = lambda picks: data[picks]  # noqa: E731
        return SimpleNamespace(
            get_channel_types=lambda: types, get_data=chosen, info={"sfreq": sfreq}
        )
    info = mne.create_info([f"c{i}" for i in range(len(types))], sfreq, types)
    return mne.io.RawArray(data, info, verbose="error")


class BrainEcho(Echo):
    def batch_spec(self, want="train"):
        spec = super().batch_spec(want)
        contract = dataclasses.replace(spec.contract, kind="eeg", unit="V")
        return dataclasses.replace(spec, contract=contract)


def test_of_a_raw_the_channels_of_the_models_kind_are_read_as_they_are():
    model = Model(BrainEcho(n_chans=2), ECHO.variables)
    eeg = 1e-5 * noise(2, 90).astype(np.float64)
    raw = raw_of({"eog": noise(1, 90), "eeg": eeg}, 100.0)
    reading = model.embed(raw)
    assert len(reading.times_s) == 16 + 2
    expected = eeg[:, [5, 9]].T.astype(np.float32)
    np.testing.assert_array_equal(reading.values["last"][:2], expected)
    assert len(model.embed([raw, raw])) == 2
    with pytest.raises(NeuroFMError, match=r"sfreq +200.0 +100.0 +no exact"):
        model.embed(raw_of({"eeg": eeg}, 200.0))
    with pytest.raises(NeuroFMError, match=r"no eeg \(3 seeg, 1 stim\)"):
        model.embed(raw_of({"seeg": noise(3, 90), "stim": noise(1, 90)}, 100.0))


def test_a_raw_is_no_sound(model):
    with pytest.raises(NeuroFMError, match=r"no audio \(2 eeg, 1 misc\)") as error:
        model.embed(raw_of({"eeg": noise(2, 900), "misc": noise(1, 900)}, 800.0))
    assert "\n" not in str(error.value)


CONTRACT = ECHO.contract


def test_channels_are_brought_to_the_models_number():
    four = noise(4, 50)
    mono, _ = inputs.conform(CONTRACT, four[:2], 100.0)
    np.testing.assert_allclose(mono, rms_normalize(four[:2].mean(0)[None]), rtol=1e-6)
    first, _ = inputs.conform(CONTRACT, four, 100.0)
    np.testing.assert_allclose(first, rms_normalize(four[:1]), rtol=1e-6)
    two = Model(Echo(n_chans=2), {}).contract
    for given in (four[:1], four):
        both, found = inputs.conform(two, given, 100.0)
        np.testing.assert_allclose(both, rms_normalize(four[[0, 0]]), rtol=1e-6)
        assert [d.name for d in found] == ["n_chans"]


def test_loudness_is_that_of_the_whole_clip():
    wave, found = inputs.conform(CONTRACT, 0.01 * noise(1, 400), 100.0)
    assert not found
    np.testing.assert_allclose(np.sqrt((wave**2).mean()), 10 ** (-14 / 20), rtol=1e-5)
    silence, _ = inputs.conform(CONTRACT, np.zeros((1, 90), np.float32), 100.0)
    assert not silence.any()


def test_a_difference_without_a_conversion_is_refused_in_a_table():
    with pytest.raises(NeuroFMError) as error:
        inputs.conform(CONTRACT, noise(6, 50), 200.0)
    rows = [line.split() for line in str(error.value).splitlines()[1:]]
    assert rows[1] == ["n_chans", "6", "1", "no", "exact", "conversion"]
    assert rows[2][:3] == ["sfreq", "200.0", "100.0"]
    found = compare(CONTRACT, {"kind": "eeg", "unit": "V", "sfreq": 100.0})
    assert [(d.name, d.remedy) for d in found] == [("kind", None), ("unit", None)]


@pytest.mark.parametrize(
    ("given", "sfreq", "words"),
    [
        (np.zeros(50), None, "without sfreq"),
        (np.zeros((2, 3, 50)), 100.0, "as a list"),
        (np.zeros(50, complex), 100.0, "complex128"),
        (np.zeros((1, 0)), 100.0, "nothing to read"),
        (np.array([0.0, np.nan, np.inf] * 20), 100.0, "40 of 60 samples"),
        (np.zeros(10), 100.0, "shorter than one token"),
    ],
)
def test_arrays_that_are_no_sound_are_refused_with_the_reason(given, sfreq, words):
    with pytest.raises(NeuroFMError, match=words):
        ECHO.embed(given, sfreq)
