"""Intracranial recordings into a store: which contacts, measured against what."""

import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from brain_files import noise, write_edf
from click.testing import CliRunner

from data_pipelines.ieeg.prepare import prepare
from data_pipelines.ieeg.settings import Settings
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError

DATA = Path(os.environ.get("NEUROFM_DATA", Path(__file__).parents[2] / "shared/data"))
NAMES = ["LA1", "LA2", "LA3", "LA4", "B5", "DC01", "ECG1"]
SFREQ = 250.0
PLAIN = Settings(sfreq=SFREQ, notch=(), reference="none")


def wave(seed=0, n=1000):
    return noise(len(NAMES), n, seed, 50.0)  # uV


class First(NamedTuple):
    """The first recording of a store."""

    samples: np.ndarray
    names: tuple[str, ...]


def store(src, out, settings=PLAIN, **kwargs):
    summary = prepare(src, out / "d", settings=settings, workers=1, **kwargs)
    dataset = open_dataset(out / "d")
    notes = " | ".join(sentence for _, sentence in summary.notes)
    n = dataset.items["n_samples"][0].as_py()
    return dataset, First(dataset.read(0, 0, n), dataset.sensors(0).names), notes


def write_hdf5(path, x, names=NAMES, table=True, **attributes):
    """Rows as `data/electrode_<i>` from 8 on: 10 is before 9 where text is sorted."""
    with h5py.File(path, "w") as file:
        for i, row in enumerate(x):
            file[f"data/electrode_{8 + i}"] = row
        file.attrs.update(attributes)
    if table:
        rows = [f"{8 + i}\t{name}" for i, name in enumerate(names)]
        beside = path.with_name(f"{path.stem}_electrodes.tsv")
        beside.write_text("\n".join(["index\tname", *rows, ""]))
    return path


def test_contacts_of_an_edf_are_volts_of_kind_ieeg(tmp_path):
    x = wave()
    path = write_edf(tmp_path / "s.edf", x, NAMES, SFREQ)
    dataset, one, notes = store(path, tmp_path)
    assert (dataset.info.kind, dataset.info.unit) == ("ieeg", "V")
    assert dataset.info.processing["reference"] == "none"
    assert one.names == tuple(NAMES[:5])
    np.testing.assert_allclose(one.samples, x[:5] * 1e-6, atol=2e-8)
    assert "2 left out, as they are no contacts: DC01, ECG1" in notes
    assert "contacts: LA 1-4, B 5; 2 of 5 have a neighbour on both sides" in notes


@pytest.mark.parametrize(
    ("reference", "names", "weights", "lost"),
    [
        ("laplacian", ["LA2", "LA3"], [[-0.5, 1, -0.5, 0], [0, -0.5, 1, -0.5]], 3),
        (
            "bipolar",
            ["LA1-LA2", "LA2-LA3", "LA3-LA4"],
            [[1, -1, 0, 0], [0, 1, -1, 0], [0, 0, 1, -1]],
            1,
        ),
    ],
)
def test_neighbours_are_taken_off_and_a_lone_contact_is_told(
    reference, names, weights, lost, tmp_path
):
    x = wave()
    path = write_edf(tmp_path / "s.edf", x, NAMES, SFREQ)
    settings = Settings(sfreq=SFREQ, notch=(), reference=reference)
    dataset, one, notes = store(path, tmp_path, settings)
    assert dataset.info.processing["reference"] == reference
    assert one.names == tuple(names)
    np.testing.assert_allclose(one.samples, weights @ x[:4] * 1e-6, atol=3e-8)
    assert f"{lost} left out, as the reference {reference} needs" in notes


def test_a_dead_electrode_is_left_out_before_others_are_measured_against_it(tmp_path):
    x = wave()
    x[1] = 3.0
    path = write_edf(tmp_path / "s.edf", x, NAMES, SFREQ)
    settings = Settings(sfreq=SFREQ, notch=(), reference="average")
    _, one, notes = store(path, tmp_path, settings)
    assert one.names == ("LA1", "LA3", "LA4", "B5")
    rest = x[[0, 2, 3, 4]] * 1e-6
    np.testing.assert_allclose(one.samples, rest - rest.mean(0), atol=3e-8)
    assert "nothing changes in it: LA2" in notes


def test_hdf5_is_named_by_its_table_in_the_order_of_numbers(tmp_path):
    x = wave()
    write_hdf5(tmp_path / "s.h5", x, sfreq=SFREQ, unit="uV")
    _, one, _ = store(tmp_path, tmp_path / "out")
    assert one.names == tuple(NAMES[:5])
    np.testing.assert_allclose(one.samples, x[:5] * 1e-6, atol=2e-8)


def write_nwb(path, x, labels=NAMES, rate=SFREQ, n_series=1):
    """Whole numbers of 0.5 uV, of channel 1 twice that; channels from the last on."""
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        if labels:
            file["general/extracellular_ephys/electrodes/label"] = labels
        for i in range(n_series):
            series = file.create_group(f"acquisition/ieeg{i}")
            series.attrs["neurodata_type"] = "ElectricalSeries"
            series["data"] = np.round(x[::-1].T).astype(np.int16)
            series["data"].attrs["conversion"] = np.float32(5e-7)
            series["channel_conversion"] = np.where(np.arange(len(x)) == 1, 2.0, 1.0)
            series["electrodes"] = np.arange(len(x))[::-1]
            series["starting_time"] = 0.0
            if rate:
                series["starting_time"].attrs["rate"] = np.float32(rate)
    return path


def test_nwb_is_scaled_and_named_by_its_own_table(tmp_path):
    x = np.round(10 * wave())
    path = write_nwb(tmp_path / "s.nwb", x)
    _, one, _ = store(path, tmp_path)
    assert one.names == ("B5", "LA4", "LA3", "LA2", "LA1")
    np.testing.assert_allclose(one.samples, x[4::-1] * 5e-7, atol=2e-8)
    table = tmp_path / "s_electrodes.tsv"
    names = ["DC1", "A1", "A2", "A3", "DC2", "A5", "A6"]
    table.write_text("\n".join(["name", *names, ""]))
    _, one, _ = store(path, tmp_path / "other")
    assert one.names == ("A6", "A5", "A3", "A2", "A1")
    want = x[[6, 5, 3, 2, 1]] * 5e-7 * np.array([[1, 2, 1, 1, 1]]).T
    np.testing.assert_allclose(one.samples, want, atol=4e-8)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"labels": None}, "no column label or channel_name .* give --electrodes"),
        ({"labels": NAMES[:3]}, "its table of electrodes has no row 6"),
        ({"labels": ["A1", *NAMES[1:6], "A1"]}, "two of its channels are named A1"),
        ({"rate": None}, "has times of samples and no rate: give --source-sfreq"),
        ({"n_series": 2}, "it holds 2 ElectricalSeries .* expected one"),
    ],
)
def test_an_nwb_that_cannot_be_used_is_one_sentence(made, message, tmp_path):
    path = write_nwb(tmp_path / "s.nwb", wave(), **made)
    with pytest.raises(NeuroFMError, match=message):
        store(path, tmp_path)


def test_missing_numbers_are_interpolated_and_marked(tmp_path):
    x = wave()
    x[2, 100:125] = np.nan
    write_hdf5(tmp_path / "s.h5", x, sfreq=SFREQ, unit="uV")
    dataset, one, _ = store(tmp_path, tmp_path / "out")
    between = np.linspace(x[2, 99], x[2, 125], 27)[1:-1] * 1e-6
    np.testing.assert_allclose(one.samples[2, 100:125], between, atol=2e-8)
    (gap,) = dataset.events.to_pylist()
    assert (gap["trial_type"], gap["onset"]) == ("BAD_nan", 0.4)
    assert gap["duration"] == pytest.approx(0.1)


def test_channels_that_the_table_marks_bad_are_left_out(tmp_path):
    path = write_edf(tmp_path / "s.edf", wave(), NAMES, SFREQ)
    table = tmp_path / "s_electrodes.tsv"
    table.write_text("name\tstatus\nLA1\tgood\nLA3\tbad\n")
    dataset, one, notes = store(path, tmp_path)
    assert one.names == ("LA1", "LA2", "LA4", "B5")
    assert "1 left out, as they are marked bad: LA3" in notes
    assert dataset.items["bads"].to_pylist() == ["LA3"]


def test_hum_is_taken_out_at_the_line_and_the_rate_converted(tmp_path):
    sfreq, n = 500.0, 4000
    t = np.arange(n) / sfreq
    slow, hum = np.sin(2 * np.pi * 7 * t), np.sin(2 * np.pi * 60 * t)
    x = np.array([slow, slow + 5 * hum]) * 50
    write_hdf5(tmp_path / "s.h5", x, ["A1", "A2"])
    settings = Settings(
        sfreq=SFREQ, reference="none", line_freq=60, source_sfreq=sfreq, unit="uV"
    )
    _, one, notes = store(tmp_path, tmp_path / "out", settings)
    assert one.samples.shape == (2, n // 2)
    still = one.samples[:, 600:-100] * 1e6
    expected = 50 * slow[::2][600:-100]
    np.testing.assert_allclose(still, [expected, expected], atol=2.5)
    assert "line frequency" not in notes
    _, _, notes = store(tmp_path / "s.h5", tmp_path / "other", HDF5_TOLD)
    assert "its line frequency is not known" in notes


HDF5_TOLD = Settings(sfreq=500.0, reference="none", source_sfreq=500, unit="uV")


def test_words_become_events_and_those_after_the_end_are_counted(tmp_path):
    path = write_edf(tmp_path / "s.edf", wave(), NAMES, SFREQ)  # 4 s
    words = tmp_path / "words.tsv"
    rows = ["onset\tduration\tword\tpitch", "0.5\t0.2\tich\t101.5", "3.9\t0.5\tbin\t"]
    words.write_text("\n".join([*rows, "4.2\t0.1\tspät\t90", ""]), encoding="utf-8")
    dataset, _, notes = store(path, tmp_path, words=words)
    events = dataset.events.to_pylist()
    assert [e["word"] for e in events] == ["ich", "bin"]
    assert [e["trial_type"] for e in events] == ["word", "word"]
    assert [e["pitch"] for e in events] == [101.5, None]
    np.testing.assert_allclose([e["onset"] for e in events], [0.5, 3.9])
    np.testing.assert_allclose([e["duration"] for e in events], [0.2, 0.1], atol=1e-6)
    assert "1 of 3 begin past the end and are left out" in notes


def test_words_of_several_recordings_name_their_file(tmp_path):
    for name in "ab":
        write_edf(tmp_path / f"src/{name}.edf", wave(), NAMES, SFREQ)
    words = tmp_path / "words.tsv"
    words.write_text("onset\tduration\tword\n1\t0.2\tda\n")
    with pytest.raises(NeuroFMError, match="no column 'file'"):
        store(tmp_path / "src", tmp_path, words=words)
    words.write_text("file\tonset\tduration\tword\nb.edf\t1\t0.2\tda\n")
    dataset, _, _ = store(tmp_path / "src", tmp_path, words=words)
    assert dataset.events["item"].to_pylist() == ["b.edf"]


def test_sidecars_of_a_bids_tree_tell_what_the_file_does_not(tmp_path):
    root = tmp_path / "tree"
    stem = root / "sub-07/ieeg/sub-07_task-read_run-02"
    path = write_edf(Path(f"{stem}_ieeg.edf"), wave(), NAMES, SFREQ)
    write_edf(root / "sub-07/eeg/sub-07_task-read_eeg.edf", wave(), NAMES, SFREQ)
    write_edf(root / "derivatives/x" / path.name, wave(), NAMES, SFREQ)
    rows = "name\ttype\tunits\tstatus\nLA1\tSEEG\tuV\tbad\nB5\tMISC\tuV\tgood\n"
    Path(f"{stem}_channels.tsv").write_text(rows)
    Path(f"{stem}_ieeg.json").write_text('{"PowerLineFrequency": 60}')
    Path(f"{stem}_events.tsv").write_text("onset\tduration\ttrial_type\n1\t2\tgo\n")
    (root / "participants.tsv").write_text("participant_id\tage\nsub-07\t31\n")
    dataset, one, _ = store(root, tmp_path, Settings(sfreq=SFREQ, reference="none"))
    assert one.names == ("LA2", "LA3", "LA4")
    told = dataset.items.to_pylist()
    assert [(r["subject"], r["task"], r["run"]) for r in told] == [("07", "read", "02")]
    assert [(r["line_freq"], r["age"]) for r in told] == [(60.0, 31)]
    assert [e["trial_type"] for e in dataset.events.to_pylist()] == ["go"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"names": ["A1", "B2", "C5"]}, "has the neighbours that the reference laplac"),
        (
            {"names": ["LA1", "LA01", "LA2"]},
            "LA1 and LA01 both mean contact 1 of shaft",
        ),
        ({"names": ["x", "y", "z"]}, "none of the channels is named as a contact"),
        ({"table": False}, "no table names its electrodes: give --electrodes"),
        ({"names": ["LA1", "LA2"]}, "the electrode table has no row for electrode_10"),
        ({"names": ["LA1", "LA1", "LA2"]}, "line 3 of .* repeats the electrode LA1"),
        ({"sfreq": "fast"}, "its attribute sfreq is 'fast'; expected Hz"),
        ({"unit": "furlong"}, "the unit 'furlong' is none of voltage"),
        ({"unit": None}, "does not tell its unit: give --unit"),
        ({"sfreq": None}, "does not tell its sampling rate: give --source-sfreq"),
        ({"x": np.ones((3, 50))}, "nothing changes in any of its contacts"),
        ({"x": [np.ones(5), np.ones(6)]}, "its electrodes are not of one length"),
        ({"x": []}, "it holds no dataset data/electrode_<i>"),
    ],
)
def test_an_hdf5_that_cannot_be_used_is_one_sentence(made, message, tmp_path):
    told = {"x": wave()[:3], "names": NAMES[:3], "sfreq": SFREQ, "unit": "uV", **made}
    told = {name: value for name, value in told.items() if value is not None}
    write_hdf5(tmp_path / "s.h5", **told)
    with pytest.raises(NeuroFMError, match=message) as error:
        store(tmp_path, tmp_path / "out", Settings(sfreq=SFREQ, notch=()))
    assert "\n" not in str(error.value)


def test_no_hdf5_and_no_recording_are_one_sentence(tmp_path):
    (tmp_path / "s.txt").write_text("")
    with pytest.raises(NeuroFMError, match=r"no intracranial EEG in .* 1 \.txt"):
        store(tmp_path, tmp_path / "out")
    (tmp_path / "s.h5").write_text("no HDF5")
    with pytest.raises(NeuroFMError, match="HDF5 cannot open it"):
        store(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"reference": "monopolar"}, "the reference 'monopolar' is not known"),
        ({"unit": "fT"}, "the unit 'fT' is none of voltage"),
        ({"sfreq": 0.0}, "--sfreq is 0; expected Hz above 0"),
        ({"notch": (0.0,)}, "--notch is 0; expected Hz above 0"),
        ({"electrodes": "gone.tsv"}, "gone.tsv does not exist"),
    ],
)
def test_settings_that_mean_nothing_are_refused(words, message):
    with pytest.raises(NeuroFMError, match=message):
        Settings(**words)


def test_the_command_shows_shafts_and_what_was_left_out(tmp_path):
    path = write_edf(tmp_path / "s.edf", wave(), NAMES, SFREQ)
    words = ["prepare", "ieeg", path, "--out", tmp_path / "d", "--reference", "bipolar"]
    words += ["--sfreq", "100", "--line-freq", "50", "--workers", "1"]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "contacts: LA 1-4, B 5" in result.output
    info = open_dataset(tmp_path / "d").info
    assert (info.sfreq, info.processing["line_freq"]) == (100.0, 50.0)


def test_real_recordings_keep_contacts_alone(tmp_path):
    src = DATA / "ieeg"
    if not src.is_dir():
        pytest.skip("ieeg is not there; NEUROFM_DATA names the folder that holds it")
    settings = Settings(sfreq=500.0, line_freq=60, reference="bipolar")
    summary = prepare(src, tmp_path / "d", settings=settings, workers=1)
    dataset = open_dataset(tmp_path / "d")
    n = dict(zip(dataset.items["item"].to_pylist(), dataset.n_chans, strict=True))
    # 88 contacts on shafts without gaps; a grid of 64 and strips of 6.
    assert n["sample_ecog.edf"] == 63 + 5 + 5
    assert 70 <= n["sample_seeg.edf"] < 88
    notes = " | ".join(sentence for _, sentence in summary.notes)
    assert "10 left out, as they are no contacts" in notes
    assert "C has 64 contacts, more than a shaft" in notes
