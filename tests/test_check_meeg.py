"""`check` on EEG and MEG: what is there, what is wrong, and what to type next."""

import shlex

import pytest
from brain_files import CAP, meg, noise, write_edf
from click.testing import CliRunner

from data_pipelines.meeg.prepare import prepare
from data_pipelines.meeg.settings import Settings
from neurofm import check_meeg
from neurofm.check import check
from neurofm.cli import cli


@pytest.fixture
def folder(tmp_path):
    """Two files of EEG, one in a wrong unit, one of MEG, and a table."""
    src = tmp_path / "my recordings"
    x = noise(5, 2048, scale=10)
    write_edf(src / "a/one.edf", x, ["EEG FP1-REF", *CAP[1:4], "X7"])
    write_edf(src / "a/two.edf", x, ["EEG FP1-REF", *CAP[1:4], "X7"])
    write_edf(src / "a/wrong.edf", x, CAP[:5], unit="V")
    raw = meg(seconds=12)
    raw.info["line_freq"] = 50.0
    raw.save(src / "lab_raw.fif", verbose="error")
    (src / "notes.tsv").write_text("a\tb\n")
    return src


def test_a_folder_is_counted_by_format_sensors_and_hours(folder):
    found = check(folder)
    facts = found.facts
    assert (found.kind, facts["n_files"], facts["n_readable"]) == ("recordings", 4, 3)
    rows = [tuple(row.values()) for row in facts["formats"]]
    assert rows == [
        ("EDF", 256.0, 4, 0, 0, 2, pytest.approx(16 / 3600)),
        ("FIF", 250.0, 0, 4, 8, 1, pytest.approx(12 / 3600)),
    ]
    assert facts["sensors"] == {"eeg": 8, "mag": 4, "grad": 8}
    assert facts["sensors_without_position"] == 2
    assert facts["line_frequencies"] == {"unknown": 2, "50 Hz": 1}
    assert facts["implausible_units"] == 1
    assert facts["other_files"] == {".tsv": 1}


def test_problems_name_the_mapping_the_unit_and_the_line_once(folder):
    problems = check(folder).problems
    told = {what: where for where, what in problems}
    mapping = next(what for what in told if "EEG FP1-REF is Fp1" in what)
    assert told[mapping] == "a/one.edf and 1 more"
    wrong = next(what for what in told if "give --unit uV" in what)
    assert (told[wrong], wrong.startswith("skipped: ")) == ("a/wrong.edf", True)
    assert [what for where, what in problems if where == "line frequency unknown"] == [
        "in 2 files: give --line-freq, or --notch, to take out hum"
    ]


def test_the_next_command_works_as_it_stands(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = check(folder).next
    words = shlex.split(command)
    assert words[:3] == ["neurofm", "prepare", "meeg"]
    done = CliRunner().invoke(cli, words[1:])
    assert done.exit_code == 0, done.output
    assert check(tmp_path / words[-1]).facts["n_items"] == 3


def test_what_is_beyond_the_budget_is_judged_by_its_header(folder, monkeypatch):
    monkeypatch.setattr(check_meeg, "_READ_BYTES", 0)
    facts = check(folder).facts
    assert (facts["n_read"], facts["n_readable"]) == (0, 4)
    assert facts["sensors"] == {"eeg": 13, "mag": 4, "grad": 8}


def test_a_file_and_a_tree_are_told_by_name(folder, tmp_path):
    found = check(folder / "lab_raw.fif")
    assert found.facts["n_files"] == 1
    assert "prepare meeg" in found.next[0]
    name = "sub-1/eeg/sub-1_task-x_eeg.edf"
    write_edf(tmp_path / "tree" / name, noise(5, 2048, scale=10), CAP[:5])
    found = check(tmp_path / "tree")
    assert found.facts["layout"] == "a BIDS tree"
    assert "prepare bids" in found.next[0]


def test_a_store_tells_its_sensors_and_filters(folder, tmp_path):
    settings = Settings(notch=(), band=(1, 96))
    prepare(folder, tmp_path / "d", settings=settings, pattern=r"(?P<who>one|two)")
    found = check(tmp_path / "d")
    facts = found.facts
    assert facts["sensors"] == {"eeg": 8, "mag": 4, "grad": 8}
    assert (facts["fewest_sensors"], facts["most_sensors"]) == (4, 12)
    assert facts["line_frequencies"] == {"unknown": 2, "50 Hz": 1}
    assert facts["frames"] == ["head"]
    assert facts["processing"]["band"] == [1, 96]
    assert facts["labels"].keys() == {"who"}
    assert found.next[0].startswith("neurofm pretrain brainomni/tokenizer")
