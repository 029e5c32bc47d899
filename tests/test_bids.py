"""BIDS trees, written by mne-bids, into a store; sidecars are read as BIDS says."""

import json
import os
import shutil
from pathlib import Path

import mne
import mne_bids
import numpy as np
import pytest
from brain_files import CAP, meg, noise, standard_1005, write_edf
from click.testing import CliRunner

from data_pipelines.meeg import sidecars
from data_pipelines.meeg.bids import prepare
from data_pipelines.meeg.settings import Settings
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError

DATA = Path(os.environ.get("NEUROFM_DATA", Path(__file__).parents[2] / "shared/data"))
QUIET = Settings(band=(1, 96))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two subjects of EEG and one of MEG, as mne-bids writes them."""
    root = tmp_path_factory.mktemp("bids") / "tree"
    made = tmp_path_factory.mktemp("made")
    for number, subject in enumerate(("01", "02")):
        marks = [(1.0, 0.5, "go"), (3.0, None, "stop")]
        x = noise(9, 2048, number, 10)
        path = write_edf(made / f"{subject}.edf", x, CAP, annotations=marks)
        raw = mne.io.read_raw(path, verbose="error")
        raw.set_montage(standard_1005())
        raw.info["line_freq"] = 50.0
        raw.set_channel_types({"O1": "eog"}, verbose="error")
        raw.info["bads"] = ["P4"]
        where = mne_bids.BIDSPath(
            root=root, subject=subject, session="a", task="rest", datatype="eeg"
        ).update(run=f"{number + 1:02d}")
        mne_bids.write_raw_bids(raw, where, verbose="error")
    raw = meg(seconds=8)
    raw.info["line_freq"] = 60.0
    raw.save(made / "m_raw.fif", verbose="error")
    where = mne_bids.BIDSPath(root=root, subject="03", task="rest", datatype="meg")
    raw = mne.io.read_raw(made / "m_raw.fif", verbose="error")
    mne_bids.write_raw_bids(raw, where, verbose="error")
    copy = root / "derivatives/clean/sub-01/eeg"
    copy.mkdir(parents=True)
    shutil.copy(next(root.glob("sub-01/ses-a/eeg/*.edf")), copy)
    return root


def test_a_tree_of_mne_bids_is_read_as_mne_bids_reads_it(tree, tmp_path):
    summary = prepare(tree, tmp_path / "d", settings=QUIET, workers=1)
    dataset = open_dataset(tmp_path / "d")
    items = dataset.items.to_pylist()
    assert (summary.n_items, summary.skipped) == (3, ())
    assert [r["subject"] for r in items] == ["01", "02", "03"]
    assert [(r["session"], r["run"], r["task"]) for r in items] == [
        ("a", "01", "rest"),
        ("a", "02", "rest"),
        ("", "", "rest"),
    ]
    assert [r["line_freq"] for r in items] == [50.0, 50.0, 60.0]
    assert dataset.sensors(0).names == CAP[:8]  # O1 is an EOG by channels.tsv
    assert items[0]["bads"] == "P4"
    path = mne_bids.BIDSPath(
        root=tree, subject="01", session="a", task="rest", run="01", datatype="eeg"
    )
    raw = mne_bids.read_raw_bids(path, verbose="error")
    positions = np.array([ch["loc"][:3] for ch in raw.info["chs"][:8]])
    np.testing.assert_allclose(dataset.sensors(0).pos[:, :3], positions, atol=2e-4)
    rows = [e for e in dataset.events.to_pylist() if e["item"] == items[0]["item"]]
    found = [(r["onset"], r["duration"], r["trial_type"]) for r in rows]
    assert found == [(1.0, 0.5, "go"), (3.0, 0.0, "stop")]


@pytest.mark.parametrize(
    ("words", "subjects"),
    [
        (["--subject", "02"], {"02"}),
        (["--subject", "sub-01,sub-02", "--run", "01"], {"01"}),
        (["--datatype", "meg"], {"03"}),
        (["--session", "a", "--task", "rest"], {"01", "02"}),
    ],
)
def test_entities_filter_recordings(tree, tmp_path, words, subjects):
    out = str(tmp_path / "d")
    words = ["prepare", "bids", str(tree), "--out", out, "--band", "1,96", *words]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert set(open_dataset(out).items["subject"].to_pylist()) == subjects


def test_a_filter_that_leaves_nothing_tells_what_there_is(tree, tmp_path):
    with pytest.raises(NeuroFMError, match="there are subject: 01, 02, 03"):
        prepare(tree, tmp_path / "d", only={"subject": ["07"]})
    (tmp_path / "x").mkdir()
    write_edf(tmp_path / "x/a.edf", noise(4, 1024), CAP[:4])
    with pytest.raises(NeuroFMError, match="neurofm prepare meeg"):
        prepare(tmp_path / "x", tmp_path / "d")


def by_hand(root, name="sub-7/ses-b/eeg/sub-7_ses-b_task-go_run-1_eeg.edf", **kwargs):
    return write_edf(root / name, noise(5, 2048, scale=10), CAP[:5], **kwargs)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_sidecars_are_inherited_and_the_nearest_wins(tmp_path):
    root = tmp_path / "tree"
    by_hand(root)
    write(root / "task-go_eeg.json", '{"PowerLineFrequency": 60, "EEGReference": "Cz"}')
    write(root / "sub-7/sub-7_task-go_eeg.json", '{"PowerLineFrequency": 50}')
    write(root / "sub-7/sub-7_task-stop_eeg.json", '{"PowerLineFrequency": 16}')
    write(
        root / "task-go_events.tsv",
        "onset\tduration\ttrial_type\tcode\n0.5\tn/a\tgo\t3\n-1\t0\tlost\t4\n"
        "2\t0.25\tn/a\t5\n",
    )
    write(root / "participants.tsv", "participant_id\tage\tgroup\nsub-7\t31\tn/a\n")
    prepare(root, tmp_path / "d", settings=QUIET, workers=1)
    dataset = open_dataset(tmp_path / "d")
    row = dataset.items.to_pylist()[0]
    assert (row["line_freq"], row["reference"], row["age"]) == (50.0, "Cz", 31)
    found = [
        (e["onset"], e["duration"], e["trial_type"], e["code"])
        for e in dataset.events.to_pylist()
    ]
    assert found == [(0.5, 0.0, "go", 3), (2.0, 0.25, "event", 5)]


def test_channels_tsv_gives_types_and_bad_channels_and_told_contradictions(tmp_path):
    root = tmp_path / "tree"
    by_hand(root)
    lines = ["name\ttype\tunits\tstatus", "Fp1\tVEOG\tuV\tgood", "F3\tEEG\tmV\tbad"]
    lines += ["Fp2\tEEG\tuV\tgood", "Q9\tEEG\tuV\tgood"]
    name = "sub-7/ses-b/eeg/sub-7_ses-b_task-go_run-1_channels.tsv"
    write(root / name, "\n".join(lines))
    settings = Settings(band=(1, 96), bads="drop")
    summary = prepare(root, tmp_path / "d", settings=settings, workers=1)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.sensors(0).names == ("Fp2", "F4", "C3")
    told = " ".join(sentence for _, sentence in summary.notes)
    assert "1 channels that are not there: Q9" in told
    assert "F3 is in uV in the file and mV in the table" in told


def electrodes(root, system, scale=1.0, turned=False):
    lines = ["name\tx\ty\tz"]
    for i, name in enumerate(CAP[:5]):
        x, y, z = np.array([0.01 * i - 0.02, 0.06 - 0.03 * i, 0.07]) * scale
        if turned:
            x, y = y, -x
        lines.append(f"{name}\t{x}\t{y}\t{z}")
    stem = "sub-7/ses-b/eeg/sub-7_ses-b_space-X"
    write(root / f"{stem}_electrodes.tsv", "\n".join(lines))
    if system:
        write(root / f"{stem}_coordsystem.json", json.dumps(system))
    return np.array([[0.01 * i - 0.02, 0.06 - 0.03 * i, 0.07] for i in range(5)])


@pytest.mark.parametrize(
    ("system", "scale", "turned"),
    [
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "mm"}, 1e3, False),
        ({"EEGCoordinateSystem": "CTF", "EEGCoordinateUnits": "cm"}, 1e2, True),
        (
            {
                "EEGCoordinateSystem": "Other",
                "EEGCoordinateUnits": "m",
                "AnatomicalLandmarkCoordinates": {
                    "NAS": [0.1, 0, 0],
                    "LPA": [0, 0.07, 0],
                    "RPA": [0, -0.07, 0],
                },
                "AnatomicalLandmarkCoordinateUnits": "m",
            },
            1.0,
            True,
        ),
    ],
)
def test_measured_electrodes_are_brought_into_the_head_frame(
    tmp_path, system, scale, turned
):
    root = tmp_path / "tree"
    by_hand(root)
    want = electrodes(root, system, scale, turned)
    prepare(root, tmp_path / "d", settings=QUIET, workers=1)
    sensors = open_dataset(tmp_path / "d").sensors(0)
    np.testing.assert_allclose(sensors.pos[:, :3], want, atol=1e-6)


@pytest.mark.parametrize(
    ("system", "told"),
    [
        (None, "no coordsystem.json"),
        ({"EEGCoordinateSystem": "ICBM152NLin6Sym"}, "no landmarks"),
        ({"EEGCoordinateSystem": "CapTrak", "EEGCoordinateUnits": "mm"}, "no head"),
    ],
)
def test_electrodes_that_cannot_be_placed_are_told_and_names_are_used(
    tmp_path, system, told
):
    root = tmp_path / "tree"
    by_hand(root)
    electrodes(root, system)
    summary = prepare(root, tmp_path / "d", settings=QUIET, workers=1)
    sentences = " ".join(sentence for _, sentence in summary.notes)
    assert told in sentences
    assert "positions from standard_1005" in sentences


def test_entities_are_those_that_mne_bids_reads():
    for name in (
        "sub-01/ses-2/eeg/sub-01_ses-2_task-go_acq-x_run-03_eeg.vhdr",
        "sub-A/meg/sub-A_task-rest_proc-sss_split-01_meg.fif",
    ):
        want = mne_bids.get_entities_from_fname(name)
        names = {"subject": "sub", "session": "ses", "acquisition": "acq"}
        names |= {"processing": "proc", "task": "task", "run": "run", "split": "split"}
        found = sidecars.entities(name)
        for key, short in names.items():
            assert found.get(short) == want.get(key)


def test_real_runs_are_read_with_their_events(tmp_path):
    src = DATA / "muse_erp"
    if not src.is_dir():
        pytest.skip(
            "muse_erp is not there; NEUROFM_DATA names the folder that holds it"
        )
    only = {"subject": ["01"], "task": ["n170"]}
    settings = Settings(line_freq=60.0)
    prepare(src, tmp_path / "d", settings=settings, only=only, workers=1)
    dataset = open_dataset(tmp_path / "d")
    files = sorted(src.glob("sub-01/*/eeg/*task-n170*_eeg.edf"))
    assert len(dataset) == len(files) > 0
    for row, file in enumerate(files):
        events = file.with_name(file.name.replace("_eeg.edf", "_events.tsv"))
        n_events = len(events.read_text().splitlines()) - 1
        item = dataset.items["item"][row].as_py()
        found = [e for e in dataset.events["item"].to_pylist() if e == item]
        assert len(found) == n_events
    assert set(dataset.events["trial_type"].to_pylist()) == {"face", "house"}
    assert dataset.sensors(0).names == ("TP9", "AF7", "AF8", "TP10")
