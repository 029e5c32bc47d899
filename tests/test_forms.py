"""Stored embeddings in the forms of other tools."""

import json
import sys

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from saved_embeddings import save
from tiny_models import ECHO

from neurofm.cli import cli
from neurofm.data.embeddings import Writer, open_embeddings
from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.embed import embed
from neurofm.embedding import forms
from neurofm.errors import NeuroFMError

PEOPLE = [("ann", "1"), ("ann", "1"), ("ann", "2"), ("b-ob", None)]


@pytest.fixture
def dataset(tmp_path):
    """Four recordings of unlike lengths of two people, two alike in all but length."""
    info = DatasetInfo(
        kind="audio",
        sfreq=100.0,
        unit="full_scale",
        ch_names=("mono",),
        payload="float32",
    )
    rng = np.random.default_rng(0)
    events = [{"onset": at, "duration": 0.3, "trial_type": "tone"} for at in (0.1, 0.5)]
    rows = []
    for i, (subject, session) in enumerate(PEOPLE):
        wave = 0.1 * rng.standard_normal((1, 90 + 30 * i), np.float32)
        meta = {"subject": subject, "session": session, "age": i or None}
        one = Recording(item=f"r{i}", samples=wave, meta=meta, events=events)
        rows.append(one)
    write_dataset(tmp_path / "data", info, rows)
    return tmp_path / "data"


def read_bids(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.h5"))


def test_bids_holds_a_file_and_a_sidecar_a_recording(dataset, tmp_path):
    out = tmp_path / "new" / "derivatives"
    embed(ECHO, [dataset], tmp_path / "e", layers=("last", "layer_01"))
    assert forms.write(tmp_path / "e", out, "bids")["n_embeddings"] == 4
    end = "desc-echo_embeddings.h5"
    ann = "sub-ann/ses-1/beh/sub-ann_ses-1"
    names = [
        f"{ann}_run-1_{end}",
        f"{ann}_run-2_{end}",
        f"sub-ann/ses-2/beh/sub-ann_ses-2_{end}",
        f"sub-bob/beh/sub-bob_{end}",
    ]
    assert read_bids(out) == names
    stored = open_embeddings(tmp_path / "e")
    for i, name in enumerate(names):
        with h5py.File(out / name) as file:
            assert set(file) == {"last", "layer_01", "times_s"}
            np.testing.assert_array_equal(file["last"], stored.read(i))
            np.testing.assert_array_equal(file["times_s"], stored.times(i))
        told = json.loads((out / name).with_suffix(".json").read_text())
        assert told["Rows"][0]["subject"] == PEOPLE[i][0]
        assert told["Layers"] == ["last", "layer_01"]
        assert told["Input"]["sfreq"] == 100.0
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "neurofm"


def test_events_of_a_recording_share_its_file(dataset, tmp_path):
    embed(ECHO, [dataset], tmp_path / "e", events=True)
    forms.write(tmp_path / "e", tmp_path / "b", "bids")
    stored = open_embeddings(tmp_path / "e")
    name = "sub-bob/beh/sub-bob_desc-echo_embeddings"
    with h5py.File(tmp_path / "b" / f"{name}.h5") as file:
        assert set(file) == {"0", "1"}
        np.testing.assert_array_equal(file["1/last"], stored.read(7))
    told = json.loads((tmp_path / "b" / f"{name}.json").read_text())
    assert [row["onset"] for row in told["Rows"]] == [0.1, 0.5]


def test_bids_asks_for_people_and_for_names_of_their_own(tmp_path):
    x = {"last": np.zeros((2, 3))}
    save(tmp_path / "a", x)
    with pytest.raises(NeuroFMError, match=r"2 of 2 recordings have none \(r00\)"):
        forms.write(tmp_path / "a", tmp_path / "b", "bids")
    save(tmp_path / "c", x, {"subject": ["s1", "s1"], "run": ["01", "01"]})
    with pytest.raises(NeuroFMError, match="2 recordings are called sub-s1_run-01"):
        forms.write(tmp_path / "c", tmp_path / "b", "bids")
    save(tmp_path / "d", x, {"subject": ["s 1", "s1"]})  # two people, one label
    with pytest.raises(NeuroFMError, match="would be called sub-s1 in BIDS"):
        forms.write(tmp_path / "d", tmp_path / "b", "bids")
    save(tmp_path / "e", x, {"subject": ["--", "s1"]})
    with pytest.raises(NeuroFMError, match="would be called sub- in BIDS"):
        forms.write(tmp_path / "e", tmp_path / "b", "bids")
    three = {"last": np.zeros((3, 3))}
    save(tmp_path / "f", three, {"subject": ["s1"] * 3, "run": [None, "2", None]})
    with pytest.raises(NeuroFMError, match="2 recordings are called sub-s1_run-2"):
        forms.write(tmp_path / "f", tmp_path / "b", "bids")
    assert not (tmp_path / "b").exists()


def test_what_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    folder = save(tmp_path / "a", {"last": np.zeros((2, 3))})
    with pytest.raises(NeuroFMError, match="use one of zarr, netcdf, bids"):
        forms.write(folder, tmp_path / "o", "csv")
    with pytest.raises(NeuroFMError, match="o holds no embeddings"):
        forms.write(tmp_path / "o", tmp_path / "p", "bids")
    with pytest.raises(NeuroFMError, match="a exists: choose another"):
        forms.write(folder, folder, "zarr")
    words = ["export", str(folder), "--out", str(tmp_path / "o"), "--form", "bids"]
    result = CliRunner().invoke(cli, [*words, "--trunk"])
    assert (result.exit_code, "leave one of them out" in result.output) == (1, True)
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.setitem(sys.modules, "zarr", None)
    for form in ("zarr", "netcdf"):
        with pytest.raises(NeuroFMError, match=r"pip install 'neurofm\[arrays\]'"):
            forms.write(folder, tmp_path / "o", form)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("form", ["zarr", "netcdf"])
def test_arrays_come_back_with_names_times_and_columns(dataset, tmp_path, form):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    embed(ECHO, [dataset], tmp_path / "e", layers=("last", "layer_01"))
    words = ["export", str(tmp_path / "e"), "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--form", form], prog_name="neurofm")
    assert stop.value.code == 0
    opening = {"zarr": {"engine": "zarr"}, "netcdf": {"engine": "scipy"}}[form]
    stored = open_embeddings(tmp_path / "e")
    with xarray.open_dataset(tmp_path / "o", **opening) as found:
        assert set(found) == {"last", "layer_01"}
        assert found["last"].dims == ("presentation", "feature", "time")
        assert found["presentation"].values.tolist() == ["r0", "r1", "r2", "r3"]
        assert found["subject"].values.tolist() == ["ann", "ann", "ann", "b-ob"]
        assert found["session"].values.tolist() == ["1", "1", "2", ""]
        np.testing.assert_array_equal(found["age"], [np.nan, 1, 2, 3])
        for i, n in enumerate(found["n_tokens"].values):
            one = found.isel(presentation=i)
            np.testing.assert_array_equal(one["last"][:, :n].T, stored.read(i))
            np.testing.assert_array_equal(one["time_s"][:n], stored.times(i))
            assert np.isnan(one["last"][:, n:]).all()
        made = json.loads(found.attrs["neurofm"])
        assert made["request"]["task"]["name"] == "echo"


def test_layers_may_differ_in_width_and_recordings_may_not(tmp_path):
    pytest.importorskip("xarray")
    x = np.arange(24.0)
    layers = {"a": x.reshape(2, 3, 4), "b": x.reshape(2, 3, 4)[..., :1]}
    columns = {"feature": ["x", "y"]}
    found = forms.to_xarray(save(tmp_path / "a", layers, columns))
    assert found["a"].dims == ("presentation", "a_feature", "time")
    np.testing.assert_array_equal(found["a"].values, layers["a"].swapaxes(1, 2))
    assert found["b"].shape == (2, 1, 3)
    assert found["label_feature"].values.tolist() == ["x", "y"]
    for name, rows, words in (
        ("b", [{"a": x[:6, None]}, {"a": x.reshape(6, 4)}], "widths of a .1 and 4"),
        ("c", [{"a": x[:6, None]}, {"b": x[:6, None]}], "layers .a and b"),
    ):
        told = {"format": "npz", "task": {"name": "t"}}
        writer = Writer(tmp_path / name, told)
        for i, values in enumerate(rows):
            writer.add(str(i), [(str(i), values, x[:6], {"file": "f"})], 1.0)
        writer.finish({}, [])
        with pytest.raises(NeuroFMError, match=f"of unlike {words}"):
            forms.to_xarray(tmp_path / name)


def test_shorter_codes_end_in_minus_one():
    codes = [np.arange(6, dtype=np.int32).reshape(3, 2), np.ones((1, 2), np.int32)]
    found = forms._padded(codes, [3, 1])
    assert found.dtype == np.int32
    assert found.tolist() == [[[0, 2, 4], [1, 3, 5]], [[1, -1, -1], [1, -1, -1]]]
