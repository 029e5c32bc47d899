"""The record store: what is written comes back, and damage is met with a sentence."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.data import segments
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.errors import NeuroFMError


def info(n_chans=1, sfreq=8000.0, payload="int16", unit="full_scale"):
    names = tuple(f"ch{i + 1}" for i in range(n_chans))
    return DatasetInfo(
        kind="audio", sfreq=sfreq, unit=unit, ch_names=names, payload=payload
    )


def noise(n_chans, n_samples, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_chans, n_samples)).astype(dtype) * np.float32(0.1)


def pcm16(n_chans, n_samples, seed=0):
    rng = np.random.default_rng(seed)
    ints = rng.integers(-32768, 32768, size=(n_chans, n_samples))
    return (ints / 32768).astype(np.float32)


@pytest.fixture
def small_segments(monkeypatch):
    """Segments of a few dozen samples, so that short recordings have many."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 256)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_span_of_any_recording_reads_as_numpy_slices_it(tmp_path_factory, data):
    n_chans = data.draw(st.integers(1, 5))
    payload = data.draw(st.sampled_from(["int16", "float32"]))
    lengths = data.draw(st.lists(st.integers(1, 500), min_size=1, max_size=4))
    sources = [pcm16(n_chans, n, seed) for seed, n in enumerate(lengths)]
    out = tmp_path_factory.mktemp("store") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", 256)
        contract = info(n_chans, sfreq=100.0, payload=payload)
        recordings = [Recording(item=str(i), samples=x) for i, x in enumerate(sources)]
        write_dataset(out, contract, recordings)
        dataset = open_dataset(out)
        for item, x in enumerate(sources):
            start = data.draw(st.integers(0, x.shape[1]))
            stop = data.draw(st.integers(start, x.shape[1]))
            np.testing.assert_array_equal(
                dataset.read(item, start, stop), x[:, start:stop]
            )


@given(
    data=st.data(),
    dc=st.sampled_from([0.0, 1e-6, 0.3, -40.0, 3e4]),
    spread=st.sampled_from([0.0, 1e-30, 1e-7, 0.5, 200.0]),
    n_chans=st.integers(1, 5),
)
def test_sixteen_bits_round_by_at_most_half_a_step(data, dc, spread, n_chans):
    n_samples = data.draw(st.integers(1, 60))
    seed = data.draw(st.integers(0, 1000))
    x = noise(n_chans, n_samples, seed) * np.float32(spread) + np.float32(dc)
    back = segments.unpack(segments.pack(x, "int16"), 0, n_samples)
    peak = np.abs(x).max(axis=1, keepdims=True)
    step = peak / 32767
    representable = np.spacing(peak.astype(np.float32))
    assert (np.abs(back - x) <= 0.501 * step + 2 * representable).all()


def test_a_large_constant_costs_no_resolution():
    quiet = noise(2, 301) * np.float32(1e-3)
    x = quiet + np.asarray([[0.0], [5.0]], np.float32)
    back = segments.unpack(segments.pack(x, "int16"), 0, 301)
    half_range = np.ptp(x, axis=1) / 2
    # One channel around zero, one around 5: the step follows the range of each. A
    # float32 near 5 is itself only good to 2.4e-7.
    error = np.abs(back - x).max(axis=1)
    assert error[0] < 0.51 * np.abs(x[0]).max() / 32767
    assert error[1] < 0.51 * half_range[1] / 32767 + 5e-7


def test_zero_stays_exactly_zero_in_sixteen_bits():
    x = noise(1, 100)
    x[0, ::3] = 0
    back = segments.unpack(segments.pack(x, "int16"), 0, 100)
    assert (back[0, ::3] == 0).all()


def test_quantisation_is_far_below_the_noise_of_sixteen_bit_microphones():
    x = noise(1, 50000)  # 0.1 rms
    back = segments.unpack(segments.pack(x, "int16"), 0, 50000)
    error_db = 20 * np.log10(np.std(back - x) / np.std(x))
    assert error_db < -85


@pytest.mark.parametrize("spread", [1e-30, 1e-4, 1.0, 1e6])
def test_half_floats_keep_eleven_bits_of_every_number(spread):
    x = noise(3, 301, seed=2) * np.float32(spread)
    x[1] *= 1e-3
    x[2] = 0
    packed = segments.pack(x, "float16")
    back = segments.unpack(packed, 20, 301)
    peak = np.abs(x).max(1, keepdims=True)
    error = np.abs(back - x[:, 20:])
    assert (error <= np.abs(x[:, 20:]) * 2**-10.9 + peak * 2**-24).all()
    assert len(packed) < 0.6 * len(segments.pack(x, "float32"))


def test_a_full_segment_holds_about_256_kib():
    for n_chans, sfreq, payload in [(1, 16000, "int16"), (5, 1000, "float32")]:
        n = segments.segment_samples(n_chans, sfreq, payload)
        n_bytes = len(segments.pack(noise(n_chans, n), payload))
        assert 230 * 1024 < n_bytes < 257 * 1024


def test_activity_bits_mark_the_blocks_that_hold_sound(tmp_path, small_segments):
    block = 400  # 50 ms at 8 kHz
    x = np.zeros((2, 20 * block + 7), np.float32)
    x[:] = 0.25  # a constant is not sound
    x[1, 3 * block + 5 : 3 * block + 300] += noise(1, 295)[0]
    x[0, 17 * block : 18 * block] += noise(1, block)[0] * 1e-5  # far below -80 dB
    x[0, 20 * block :] += noise(1, 7)[0]
    write_dataset(tmp_path / "d", info(2), [Recording(item="a", samples=x)])
    packed = open_dataset(tmp_path / "d").items["active"][0].as_py()
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    assert np.flatnonzero(bits).tolist() == [3, 20]
    assert len(bits) == 24


def test_items_carry_what_was_given_and_measured(tmp_path, small_segments):
    x, y = noise(2, 5003), noise(2, 90, seed=1)
    events = [{"onset": 0.25, "duration": 1, "trial_type": "ba", "who": "x"}]
    meta = {"file": "b.wav", "split": "test", "subject": "03", "digit": 7}
    recordings = [
        Recording(item="a", samples=x, events=events),
        Recording(item="b", samples=y, meta=meta),
    ]
    write_dataset(tmp_path / "d", info(2), recordings)
    dataset = open_dataset(tmp_path / "d")
    a, b = dataset.items.to_pylist()
    assert (a["n_samples"], a["duration"], a["split"]) == (5003, 5003 / 8000, "")
    assert a["rms"] == pytest.approx(np.sqrt(np.mean(np.square(x))), rel=1e-4)
    assert (b["file"], b["split"], b["subject"], b["digit"]) == (
        "b.wav",
        "test",
        "03",
        7,
    )
    assert (a["timeline"], a["digit"]) == ("a", None)
    assert dataset.events.to_pylist() == [{"item": "a", **events[0]}]
    assert str(dataset.events.schema.field("duration").type) == "double"


def test_the_manifest_has_a_row_for_every_segment(tmp_path, small_segments):
    import pyarrow.parquet as pq

    contract = info(1, sfreq=100.0)
    write_dataset(
        tmp_path / "d", contract, [Recording(item="a", samples=noise(1, 300))]
    )
    rows = pq.read_table(tmp_path / "d/manifest.parquet").to_pylist()
    assert [(r["segment"], r["onset"], r["duration"]) for r in rows] == [
        (0, 0.0, 1.2),
        (1, 1.2, 1.2),
        (2, 2.4, 0.6),
    ]


def test_blocks_of_any_length_write_the_same_store_as_the_whole(tmp_path):
    x = noise(3, 200_001)
    cuts = np.split(x, [1, 2, 50_000, 50_000, 131_072, 199_999], axis=1)
    write_dataset(tmp_path / "w", info(3), [Recording(item="a", samples=x)])
    write_dataset(tmp_path / "b", info(3), [Recording(item="a", samples=iter(cuts))])
    for name in ("00000.array_record", "manifest.parquet", "dataset.json"):
        assert (tmp_path / "w" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()


def test_the_hash_follows_content_split_and_order_but_not_names(tmp_path):
    x, y = noise(1, 900), noise(1, 901, seed=1)

    def hash_of(name, *recordings, **contract):
        return write_dataset(tmp_path / name, info(**contract), recordings).hash

    base = hash_of("1", Recording(item="a", samples=x), Recording(item="b", samples=y))
    named = [
        Recording(item="c", samples=x, meta={"label": 3}),
        Recording(item="d", samples=y, meta={"subject": "1"}),
    ]
    assert hash_of("2", *named) == base
    others = [
        hash_of("3", *reversed(named)),
        hash_of("4", *named, sfreq=16000.0),
        hash_of("5", named[0]),
        hash_of("6", Recording(item="a", samples=x, meta={"split": "test"}), named[1]),
        hash_of("7", Recording(item="a", samples=x * 2), named[1]),
    ]
    assert len({base, *others}) == 6


def test_many_threads_read_the_same_samples(tmp_path, small_segments):
    sources = [pcm16(2, 2000 + i, seed=i) for i in range(7)]
    recordings = (Recording(item=str(i), samples=x) for i, x in enumerate(sources))
    write_dataset(tmp_path / "d", info(2, sfreq=100.0), recordings)
    dataset = pickle.loads(pickle.dumps(open_dataset(tmp_path / "d")))

    def differs(seed):
        rng = np.random.default_rng(seed)
        item = int(rng.integers(7))
        start, stop = np.sort(rng.integers(0, 2000, size=2))
        read = dataset.read(item, int(start), int(stop))
        return not np.array_equal(read, sources[item][:, start:stop])

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(differs, range(400))) == 0


def test_shards_beyond_the_open_limit_are_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr("neurofm.data.writer.ITEMS_PER_SHARD", 2)
    monkeypatch.setattr("neurofm.data.records._MAX_OPEN", 2)
    sources = [pcm16(1, 30 + i, seed=i) for i in range(8)]
    recordings = [Recording(item=str(i), samples=x) for i, x in enumerate(sources)]
    written = write_dataset(tmp_path / "d", info(), recordings)
    dataset = open_dataset(tmp_path / "d")
    assert len(written.shards) == 4
    for i in [0, 7, 1, 3, 0, 5, 7]:
        np.testing.assert_array_equal(dataset.read(i, 0, 30 + i), sources[i])


def test_a_span_outside_the_recording_is_an_index_error(tmp_path):
    write_dataset(tmp_path / "d", info(), [Recording(item="a", samples=noise(1, 50))])
    dataset = open_dataset(tmp_path / "d")
    assert dataset.read(0, 50, 50).shape == (1, 0)
    for start, stop in [(-1, 5), (0, 51), (9, 8)]:
        with pytest.raises(IndexError):
            dataset.read(0, start, stop)


def bad_recordings():
    spoilt = noise(1, 40)
    spoilt[0, 9] = np.nan
    good = noise(1, 40)
    return {
        "NaN": [Recording(item="a", samples=spoilt)],
        "has 2 channels": [Recording(item="a", samples=noise(2, 40))],
        "holds no samples": [Recording(item="a", samples=noise(1, 0))],
        "are named 'a'": [Recording(item="a", samples=good)] * 2,
        "measured by the writer": [Recording(item="a", samples=good, meta={"rms": 1})],
        "split 'dev'": [Recording(item="a", samples=good, meta={"split": "dev"})],
        "no recording": [],
    }


@pytest.mark.parametrize("words", bad_recordings())
def test_a_recording_that_cannot_be_stored_is_refused_and_leaves_nothing(
    tmp_path, words
):
    with pytest.raises(NeuroFMError, match=words):
        write_dataset(tmp_path / "d", info(), bad_recordings()[words])
    assert not (tmp_path / "d").exists()


def test_an_existing_folder_is_never_written_over(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("years of work")
    with pytest.raises(NeuroFMError, match="exists already"):
        write_dataset(
            tmp_path / "d", info(), [Recording(item="a", samples=noise(1, 9))]
        )
    assert (tmp_path / "d" / "thesis.txt").read_text() == "years of work"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    out = tmp_path_factory.mktemp("stored") / "d"
    recordings = [Recording(item=str(i), samples=noise(1, 40000, i)) for i in range(5)]
    write_dataset(out, info(), recordings)
    return out


def cut_shard(folder):
    shard = folder / "00000.array_record"
    shard.write_bytes(shard.read_bytes()[:-1000])


def cut_manifest(folder):
    file = folder / "manifest.parquet"
    file.write_bytes(file.read_bytes()[:-50])


def other_payload(folder):
    file = folder / "dataset.json"
    file.write_text(file.read_text().replace('"int16"', '"int99"'))


def other_hash(folder):
    text = (folder / "dataset.json").read_text()
    digest = json.loads(text)["hash"]
    (folder / "dataset.json").write_text(text.replace(digest, "0" * 64))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_shard, "00000.array_record has"),
        (lambda d: (d / "00000.array_record").unlink(), "has 0 bytes"),
        (cut_manifest, "tables cannot be read"),
        (lambda d: (d / "events.parquet").unlink(), "tables cannot be read"),
        (other_hash, "disagree"),
        (other_payload, "int99"),
        (lambda d: (d / "dataset.json").write_text("{"), "dataset.json"),
        (lambda d: (d / "dataset.json").write_text("[]"), "dataset.json"),
        (lambda d: (d / "dataset.json").write_text('{"version": 99}'), "version 99"),
        (lambda d: (d / "dataset.json").write_text('{"version": 1}'), "dataset.json"),
        (lambda d: (d / "dataset.json").unlink(), "not a dataset"),
        (lambda d: shutil.move(d, d.with_name("d.partial")), "not finished"),
    ],
)
def test_a_damaged_or_foreign_folder_is_met_with_one_sentence(
    stored, tmp_path, damage, words
):
    folder = tmp_path / "d"
    shutil.copytree(stored, folder)
    damage(folder)
    with pytest.raises(NeuroFMError, match=words) as caught:
        open_dataset(folder)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_is_found_when_its_record_is_read(stored, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(stored, folder)
    shard = folder / "00000.array_record"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    dataset = open_dataset(folder)
    failed = []
    for item in range(5):
        try:
            dataset.read(item, 0, 40000)
        except NeuroFMError as error:
            failed.append(str(error))
    assert len(failed) == 1
    assert "damaged at record" in failed[0]


@given(text=st.text(max_size=40))
@settings(max_examples=30, deadline=None)
def test_any_text_as_dataset_json_gives_a_sentence(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(NeuroFMError):
        open_dataset(folder)
