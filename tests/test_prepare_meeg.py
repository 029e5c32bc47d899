"""Folders of EEG and MEG into a store: exact, resumable, unmoved by hostile files."""

import os
import struct
from pathlib import Path

import mne
import numpy as np
import pytest
from brain_files import CAP, eeg, meg, noise, write_edf
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from mne.transforms import apply_trans
from test_prepare_audio import Killed, contents

from data_pipelines import shards
from data_pipelines.meeg import files
from data_pipelines.meeg.prepare import ReadMeeg, prepare
from data_pipelines.meeg.recording import from_raw
from data_pipelines.meeg.settings import Settings
from data_pipelines.unreadable import Unreadable
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError

DATA = Path(os.environ.get("NEUROFM_DATA", Path(__file__).parents[2] / "shared/data"))
QUIET = Settings(notch=(), band=(1, 96))


def real(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not there; NEUROFM_DATA names the folder that holds it")
    return DATA / name


def save(raw, path, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw.save(path, verbose="error", **kwargs)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four recordings of two formats, of different sensors, rates and lengths."""
    src = tmp_path_factory.mktemp("meeg") / "src"
    save(meg(with_eeg=True), src / "a/lab_raw.fif")
    for i in range(2):
        x = noise(5, 1536 + 256 * i, seed=i, scale=10)
        write_edf(src / f"b/s{i}.edf", x, [f"EEG {n.upper()}-REF" for n in CAP[:5]])
    save(eeg(seconds=5, sfreq=500, seed=7), src / "c/x_raw.fif")
    return src


def test_recordings_of_any_sensors_share_a_store(folder, tmp_path):
    summary = prepare(folder, tmp_path / "d", settings=QUIET, subdirs="lab", workers=1)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.info.kind == "meeg"
    assert (dataset.info.unit, dataset.info.sfreq) == ("si", 256.0)
    names = ["a/lab_raw.fif", "b/s0.edf", "b/s1.edf", "c/x_raw.fif"]
    assert dataset.items["item"].to_pylist() == names
    assert dataset.items["lab"].to_pylist() == ["a", "b", "b", "c"]
    assert dataset.n_chans.tolist() == [17, 5, 5, 9]
    assert dataset.items["n_samples"].to_pylist() == [2048, 1536, 1792, 1280]
    assert dataset.items["reference"].to_pylist() == ["", "REF", "REF", ""]
    assert dataset.sensors(1).names == CAP[:5]
    assert dataset.info.processing["band"] == [1, 96]
    assert (summary.n_items, summary.skipped) == (4, ())
    # Sixteen bits of a segment's peak: far below the noise of a sensor.
    x = dataset.read(0, 0, 2048)
    want = from_raw(meg(with_eeg=True), QUIET).samples
    np.testing.assert_array_less(
        np.abs(x - want).max(1), 1.01 * np.abs(want).max(1) / 32767
    )


def test_no_byte_depends_on_the_number_of_workers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_SHARD_BYTES", (1000, 1000))
    prepare(folder, tmp_path / "one", settings=QUIET, workers=1)
    prepare(folder, tmp_path / "two", settings=QUIET, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(open_dataset(tmp_path / "one").info.shards) == 4


def test_a_killed_preparation_goes_on_where_it_stopped(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_SHARD_BYTES", (1000, 1000))
    write_shard, written = shards.write_shard, []

    def dies(job):
        written.append(job.number)
        if len(written) == 3:
            raise Killed
        return write_shard(job)

    monkeypatch.setattr(shards, "write_shard", dies)
    with pytest.raises(Killed):
        prepare(folder, tmp_path / "d", settings=QUIET, workers=1)
    with pytest.raises(NeuroFMError, match=r"band \[1, 96\] and not \[2, 96\]"):
        prepare(folder, tmp_path / "d", settings=Settings(notch=(), band=(2, 96)))
    summary = prepare(folder, tmp_path / "d", settings=QUIET, workers=1)
    assert (summary.status, written) == ("resumed", [0, 1, 2, 2, 3])
    prepare(folder, tmp_path / "whole", settings=QUIET, workers=1)
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")
    again = prepare(folder, tmp_path / "d", settings=QUIET)
    assert again.status == "already prepared"


def test_a_full_disk_is_foreseen(folder, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NeuroFMError, match="GB are free"):
        prepare(folder, tmp_path / "d", settings=QUIET)


def test_parts_of_a_split_file_and_derived_files_are_not_counted_twice(tmp_path):
    src = tmp_path / "src"
    raw = eeg(seconds=60, sfreq=1000)
    save(raw, src / "long_raw.fif", split_size="2MB", buffer_size_sec=1)
    assert (src / "long_raw-1.fif").is_file()
    save(raw, src / "sub-1_split_raw.fif", split_size="2MB", split_naming="bids")
    for name in ("long-ave.fif", "long-epo.fif", "x_trans.fif", "notes.txt"):
        (src / name).write_bytes(b"something else")
    found, others = files.find(src)
    assert [name for name in found if "split" not in name] == ["long_raw.fif"]
    assert len([name for name in found if "split" in name]) == 1
    assert others[".txt"] == 1
    prepare(src, tmp_path / "d", settings=QUIET, workers=1)
    assert open_dataset(tmp_path / "d").items["duration"].to_pylist() == [60.0, 60.0]


def write_brainvision(folder, x, names, sfreq=500):
    """BrainVision by hand: a header, markers, and 16-bit numbers of 0.1 µV."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = [f"Ch{i + 1}={name},,0.1,µV" for i, name in enumerate(names)]
    header = [
        "Brain Vision Data Exchange Header File Version 1.0",
        "[Common Infos]",
        "Codepage=UTF-8",
        "DataFile=x.eeg",
        "MarkerFile=x.vmrk",
        "DataFormat=BINARY",
        "DataOrientation=MULTIPLEXED",
        f"NumberOfChannels={len(names)}",
        f"SamplingInterval={1e6 / sfreq:g}",
        "[Binary Infos]",
        "BinaryFormat=INT_16",
        "[Channel Infos]",
        *channels,
    ]
    marker = [
        "Brain Vision Data Exchange Marker File, Version 1.0",
        "[Common Infos]",
        "DataFile=x.eeg",
        "[Marker Infos]",
        "Mk1=Stimulus,S  7,1001,1,0",
    ]
    (folder / "x.vhdr").write_text("\n".join(header), encoding="utf-8")
    (folder / "x.vmrk").write_text("\n".join(marker), encoding="utf-8")
    (folder / "x.eeg").write_bytes(np.rint(x.T * 10).astype("<i2").tobytes())


def test_the_files_of_one_recording_count_once_and_bind_a_restart(tmp_path):
    write_brainvision(tmp_path / "src", noise(5, 4000, scale=10), CAP[:5])
    found, others = files.find(tmp_path / "src")
    assert (found, others) == (["x.vhdr"], {".eeg": 1, ".vmrk": 1})
    prepare(tmp_path / "src", tmp_path / "d", settings=QUIET)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.items["duration"].to_pylist() == [8.0]
    events = dataset.events.to_pylist()
    assert [(e["onset"], e["trial_type"]) for e in events] == [(2.0, "Stimulus/S  7")]
    again = prepare(tmp_path / "src", tmp_path / "d", settings=QUIET)
    assert again.status == "already prepared"
    write_brainvision(tmp_path / "src", noise(5, 3000, scale=10), CAP[:5])
    with pytest.raises(NeuroFMError, match="other source files"):
        prepare(tmp_path / "src", tmp_path / "d", settings=QUIET)


def hostile_files(src):
    names = list(CAP[:5])
    good = noise(5, 2048, scale=10)
    write_edf(src / "good.edf", good, names)
    write_edf(src / "microvolts_as_volts.edf", good, names, unit="V")
    write_edf(src / "twice.edf", good, ["Fp1", "Fp1", "C3", "C4", "O1"])
    write_edf(src / "place.edf", good, ["T3", "T7", "C3", "C4", "O1"])
    flat = good.copy()
    flat[1] = 0
    write_edf(src / "flat.edf", flat, names)
    write_edf(src / "short.edf", good[:, :768], names)
    write_edf(src / "unknown.edf", good, ["X1", "X2", "X3", "X4", "X5"])
    raw = eeg(seconds=20, seed=4)
    raw._data[1, 300:400] = np.nan
    save(raw, src / "nan_raw.fif")
    whole = save(eeg(seconds=20), src / "cut_raw.fif").read_bytes()
    (src / "cut_raw.fif").write_bytes(whole[: len(whole) // 2])
    whole = write_edf(src / "cut.edf", noise(5, 5120, scale=10), names).read_bytes()
    (src / "cut.edf").write_bytes(whole[: len(whole) * 2 // 3])
    (src / "text.edf").write_text("this is no EDF\n" * 40)
    (src / "empty.set").write_bytes(b"")
    (src / "readme.txt").write_text("not a recording")


def test_hostile_files_are_skipped_or_kept_with_a_reason(tmp_path):
    hostile_files(tmp_path / "src")
    chosen = Settings(notch=(), band=(0.1, 96))
    summary = prepare(tmp_path / "src", tmp_path / "d", settings=chosen, workers=1)
    skipped = dict(summary.skipped)
    assert skipped.keys() == {
        "microvolts_as_volts.edf",
        "unknown.edf",
        "cut_raw.fif",
        "text.edf",
        "empty.set",
    }
    assert "give --unit uV" in skipped["microvolts_as_volts.edf"]
    assert "--electrodes FILE.tsv" in skipped["unknown.edf"]
    assert "was cut" in skipped["cut_raw.fif"]
    notes = {}
    for file, sentence in summary.notes:
        notes[file] = f"{notes.get(file, '')} {sentence}"
    assert "marked BAD_nan" in notes["nan_raw.fif"]
    assert "not unique" in notes["twice.edf"]
    assert "one place, both kept: Fp1 and Fp1-1" in notes["twice.edf"]
    assert "one place, both kept: T3 and T7" in notes["place.edf"]
    assert "nothing changes in it: Fp2" in notes["flat.edf"]
    assert "3.0 s are shorter" in notes["short.edf"]
    assert "cut, or never closed" in notes["cut.edf"]
    dataset = open_dataset(tmp_path / "d")
    kept = dict(zip(dataset.items["item"].to_pylist(), dataset.n_chans, strict=True))
    assert kept == {
        "cut.edf": 5,
        "flat.edf": 4,
        "good.edf": 5,
        "nan_raw.fif": 9,
        "place.edf": 5,
        "short.edf": 5,
        "twice.edf": 5,
    }
    types = dataset.events["trial_type"].to_pylist()
    assert types.count("BAD_nan") == 1


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Bytes of a small recording of each of two formats."""
    folder = tmp_path_factory.mktemp("intact")
    write_edf(folder / "a.edf", noise(3, 768, scale=10), CAP[:3])
    save(meg(seconds=2, n_places=2), folder / "a_raw.fif")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["a.edf", "a_raw.fif"]),
    changes=st.lists(
        st.tuples(st.integers(0, 9000), st.integers(0, 255)), min_size=1, max_size=8
    ),
    kept=st.floats(0.1, 1.0),
)
def test_a_damaged_recording_is_read_or_unreadable(
    intact, tmp_path_factory, name, changes, kept
):
    content = bytearray(intact[name])
    for place, value in changes:
        content[place % len(content)] = value
    folder = tmp_path_factory.mktemp("damaged")
    (folder / name).write_bytes(content[: max(1, int(kept * len(content)))])
    try:
        found = ReadMeeg(QUIET)(folder, name, [])
    except Unreadable:
        return
    assert np.isfinite(found.samples).all()
    assert found.samples.shape[0] == len(found.sensors)


def test_a_fif_file_whose_tags_go_in_circles_is_unreadable(intact, tmp_path):
    content = bytearray(intact["a_raw.fif"])
    (size,) = struct.unpack(">i", content[8:12])
    second = 16 + size  # the tag behind the first one: send it back to the start
    content[second + 12 : second + 16] = struct.pack(">i", second)
    (tmp_path / "a_raw.fif").write_bytes(content)
    with pytest.raises(Unreadable, match="in a circle"):
        files.open_raw(tmp_path / "a_raw.fif", [])


def test_one_unit_settles_files_with_right_and_with_wrong_labels(tmp_path):
    x = noise(5, 2048, scale=10)
    write_edf(tmp_path / "src/right.edf", x, CAP[:5], unit="uV")
    write_edf(tmp_path / "src/wrong.edf", x, CAP[:5], unit="V")
    chosen = Settings(notch=(), band=(1, 96), unit=("uV",))
    prepare(tmp_path / "src", tmp_path / "d", settings=chosen, workers=1)
    dataset = open_dataset(tmp_path / "d")
    a, b = (dataset.read(i, 0, 2048) for i in range(2))
    assert 1e-6 < a.std() < 1e-4
    np.testing.assert_allclose(a, b, atol=2e-3 * a.std())


def test_annotations_of_edf_become_events(tmp_path):
    marks = [(0.5, None, "go"), (2.0, 1.5, "BAD_move")]
    write_edf(
        tmp_path / "src/a.edf", noise(5, 2048, scale=10), CAP[:5], annotations=marks
    )
    prepare(tmp_path / "src", tmp_path / "d", settings=QUIET, workers=1)
    rows = open_dataset(tmp_path / "d").events.to_pylist()
    found = [(r["onset"], r["duration"], r["trial_type"]) for r in rows]
    assert found == [(0.5, 0.0, "go"), (2.0, 1.5, "BAD_move")]


def test_labels_come_with_recordings_and_win_over_their_columns(tmp_path):
    write_edf(tmp_path / "src/p1_rest.edf", noise(5, 2048, scale=10), CAP[:5])
    summary = prepare(
        tmp_path / "src",
        tmp_path / "d",
        settings=QUIET,
        pattern=r"(?P<subject>p\d)_(?P<device>\w+)\.",
    )
    row = open_dataset(tmp_path / "d").items.to_pylist()[0]
    assert (row["subject"], row["device"]) == ("p1", "rest")
    assert any(where == "column device" for where, _ in summary.notes)


def test_a_folder_without_recordings_says_what_it_holds(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(NeuroFMError, match=r"1 \.wav"):
        prepare(tmp_path, tmp_path / "d")
    with pytest.raises(NeuroFMError, match="does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "d")
    with pytest.raises(NeuroFMError, match="does not exist"):
        prepare(tmp_path / "nowhere.ds", tmp_path / "d")


def test_the_command_prepares_and_tells(folder, tmp_path):
    out = str(tmp_path / "d")
    words = ["prepare", "meeg", str(folder / "b"), "--out", out, "--notch", "50,60"]
    done = CliRunner().invoke(cli, [*words, "--band", "1,90", "--sfreq", "200"])
    assert done.exit_code == 0, done.output
    assert open_dataset(out).info.sfreq == 200
    assert "s0.edf and 1 more" in done.output
    assert "EEG FP1-REF is Fp1" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--channels", "all"], "no option --channels"),
        (["--subject", "01"], "no option --subject"),
        (["--band", "1"], "expected LOW,HIGH"),
        (["--notch", "mains"], "no list of numbers"),
        (["--montage", "standard_9"], "neither a file nor a montage"),
        (["--montage", "a", "--electrodes", "b.tsv"], "leave one"),
        (["--unit", "eV"], "not known"),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_sentence(
    folder, tmp_path, words, told
):
    words = ["prepare", "meeg", str(folder), "--out", str(tmp_path / "d"), *words]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert told in done.output


def test_a_real_eeglab_recording_is_read_with_positions_and_events(tmp_path):
    chosen = Settings(line_freq=60.0)
    prepare(real("eeglab_visual32"), tmp_path / "d", settings=chosen)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.n_chans.tolist() == [30]
    types = dataset.events["trial_type"].to_pylist()
    assert (types.count("square"), types.count("rt")) == (80, 74)
    assert dataset.items["duration"].to_pylist() == [pytest.approx(238.3, abs=0.1)]
    x = dataset.read(0, 0, 61008)
    power = np.abs(np.fft.rfft(x[:, :60928].reshape(30, -1, 512))) ** 2
    freqs = np.fft.rfftfreq(512, 1 / 256)
    band = (freqs > 7) & (freqs < 13)
    assert freqs[band][power.mean((0, 1))[band].argmax()] == pytest.approx(
        10.25, abs=0.3
    )


def test_real_meg_lies_where_mne_puts_it(tmp_path):
    src = real("meg_neuromag306")
    prepare(src, tmp_path / "d", settings=QUIET)
    dataset = open_dataset(tmp_path / "d")
    sensors = dataset.sensors(0)
    assert [int((sensors.kind == kind).sum()) for kind in (0, 1, 2)] == [60, 101, 202]
    raw = mne.io.read_raw(next(src.glob("*_raw.fif")), verbose="error")
    assert sensors.names == tuple(n for n in raw.ch_names if n[:3] in ("MEG", "EEG"))
    head = apply_trans(raw.info["dev_head_t"], raw.info["chs"][0]["loc"][:3])
    np.testing.assert_allclose(sensors.pos[0, :3], head, atol=1e-6)
    assert dataset.events["trial_type"].to_pylist() == ["2", "3", "1"]
