"""Record stores whose recordings have sensors of their own."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.sensors import Sensors, from_table, to_table
from neurofm.errors import NeuroFMError

SFREQ = 100.0


def sensors(n, seed=0, frame="head"):
    rng = np.random.default_rng(seed)
    return Sensors(
        names=tuple(f"ch {i}" for i in range(n)),
        kind=rng.integers(0, 3, n).astype(np.int32),
        pos=rng.normal(0, 0.1, (n, 6)).astype(np.float32),
        coil=tuple("POINT_MAGNETOMETER" if i % 2 else "" for i in range(n)),
        frame=frame,
    )


def info(**fields):
    return DatasetInfo(kind="meeg", sfreq=SFREQ, unit="si", ch_names=(), **fields)


def recordings(sizes=((5, 230), (3, 70_000), (5, 99)), seed=0):
    rng = np.random.default_rng(seed)
    for i, (n_chans, n) in enumerate(sizes):
        x = (rng.normal(0, 1, (n_chans, n)) * 1e-5).astype(np.float32)
        yield Recording(item=f"r{i}", samples=x, sensors=sensors(n_chans, n_chans))


def test_each_recording_comes_back_with_its_own_sensors_and_samples(tmp_path):
    write_dataset(tmp_path / "d", info(payload="float32"), recordings())
    dataset = open_dataset(tmp_path / "d")
    assert dataset.n_chans.tolist() == [5, 3, 5]
    for row, given in enumerate(recordings()):
        assert given.sensors is not None
        assert isinstance(given.samples, np.ndarray)
        found = dataset.sensors(row)
        assert (found.names, found.coil) == (given.sensors.names, given.sensors.coil)
        np.testing.assert_array_equal(found.pos, given.sensors.pos)
        np.testing.assert_array_equal(found.kind, given.sensors.kind)
        n = given.samples.shape[1]
        np.testing.assert_array_equal(dataset.read(row, 0, n), given.samples)
    assert len(pq.read_table(tmp_path / "d" / "sensors.parquet")) == 5 + 3


def test_whole_numbers_hold_volts_to_a_part_of_their_peak(tmp_path):
    write_dataset(tmp_path / "d", info(), recordings())
    dataset = open_dataset(tmp_path / "d")
    for row, given in enumerate(recordings()):
        assert isinstance(given.samples, np.ndarray)
        found = dataset.read(row, 0, given.samples.shape[1])
        peak = np.abs(given.samples).max()
        assert np.abs(found - given.samples).max() <= peak / 32767


@pytest.mark.parametrize(
    ("name", "value"), [("pos", 1.0), ("kind", 1), ("coil", "X"), ("frame", "device")]
)
def test_a_layout_is_named_by_all_it_holds(name, value):
    one, other = sensors(4), sensors(4)
    assert one.layout == other.layout
    fields = dict(vars(other))
    if name in ("pos", "kind"):
        fields[name] = fields[name].copy()
        fields[name][1] = value + fields[name][1]
    else:
        fields[name] = (value, *fields[name][1:]) if name == "coil" else value
    assert Sensors(**fields).layout != one.layout


def test_the_hash_counts_sensors_and_processing(tmp_path):
    def hash_of(name, seed, **fields):
        x = np.ones((2, 9), np.float32)
        one = Recording(item="a", samples=x, sensors=sensors(2, seed))
        return write_dataset(tmp_path / name, info(**fields), [one]).hash

    assert hash_of("a", 0) == hash_of("b", 0)
    assert hash_of("a2", 0) != hash_of("c", 1)
    assert hash_of("a3", 0) != hash_of("d", 0, processing={"band": [0.1, 96.0]})


def test_a_table_whose_sensors_were_moved_is_refused(tmp_path):
    write_dataset(tmp_path / "d", info(), recordings())
    path = tmp_path / "d" / "sensors.parquet"
    table = pq.read_table(path)
    x = np.array(table["x"].to_pylist(), np.float32) + 0.01
    pq.write_table(table.set_column(3, "x", [x]), path)
    with pytest.raises(NeuroFMError, match=r"is damaged .* layout"):
        open_dataset(tmp_path / "d")


def test_tables_keep_each_layout_once():
    layouts = [sensors(3), sensors(4, 1), sensors(3)]
    table = to_table(layouts)
    assert len(table) == 7
    assert list(from_table(table)) == [layouts[0].layout, layouts[1].layout]


def test_mistaken_sensors_are_named(tmp_path):
    one = sensors(3)
    with pytest.raises(NeuroFMError, match="two channels are named 'a'"):
        Sensors(("a", "b", "a"), one.kind, one.pos, one.coil)
    lost = one.pos.copy()
    lost[1, 2] = np.nan
    with pytest.raises(NeuroFMError, match="position of channel b is not known"):
        Sensors(("a", "b", "c"), one.kind, lost, one.coil)
    x = np.ones((2, 9), np.float32)
    with pytest.raises(NeuroFMError, match="2 channels, the recording's sensors 3"):
        write_dataset(
            tmp_path / "d", info(), [Recording(item="a", samples=x, sensors=one)]
        )
    with pytest.raises(NeuroFMError, match="lacks sensors of its own"):
        write_dataset(tmp_path / "d", info(), [Recording(item="a", samples=x)])
    audio = DatasetInfo(kind="audio", sfreq=1.0, unit="full_scale", ch_names=("a", "b"))
    with pytest.raises(NeuroFMError, match="has sensors of its own"):
        write_dataset(
            tmp_path / "e", audio, [Recording(item="a", samples=x, sensors=one)]
        )


def test_datasets_with_channel_names_have_no_table_of_sensors(tmp_path):
    audio = DatasetInfo(kind="audio", sfreq=1.0, unit="full_scale", ch_names=("a", "b"))
    x = np.ones((2, 9), np.float32)
    write_dataset(tmp_path / "d", audio, [Recording(item="a", samples=x)])
    assert not (tmp_path / "d" / "sensors.parquet").exists()
    assert "sensors" not in json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert open_dataset(tmp_path / "d").n_chans.tolist() == [2]
