"""Whatever goes wrong, scripts get one JSON object and people one sentence."""

import errno
import json
import logging
import os

import pytest

from neurofm import check as checking
from neurofm import files
from neurofm.cli import cli


@pytest.fixture
def neurofm(capsys, monkeypatch):
    """Run a command in this process: exit code, stdout, stderr."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])  # commands set up their own

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(list(map(str, arguments)), prog_name="neurofm")
        return stop.value.code, *capsys.readouterr()

    yield run
    root.setLevel(level)


def fails_with(monkeypatch, error):
    def check(path):
        raise error

    monkeypatch.setattr(checking, "check", check)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["embed"],
        ["prepare", "video", "S", "--out", "x"],
        ["check", "-z"],
    ],
)
def test_with_json_a_usage_error_is_one_object_too(neurofm, arguments):
    code, out, err = neurofm(*arguments, "--json")
    assert code == 1
    assert json.loads(out)["error"] in err
    assert neurofm(*arguments)[:2] == (1, "")


def test_with_json_ctrl_c_is_one_object_too(neurofm, monkeypatch):
    fails_with(monkeypatch, KeyboardInterrupt())
    code, out, _ = neurofm("check", "x", "--json")
    assert code == 130
    assert json.loads(out) == {
        "error": "interrupted; the same command goes on from here"
    }


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EEXIST])
def test_a_place_that_cannot_be_written_to_is_the_users_to_mend(
    neurofm, monkeypatch, number
):
    fails_with(monkeypatch, OSError(number, os.strerror(number), "full/x"))
    code, out, err = neurofm("check", "x", "--json")
    assert code == 1
    assert err == f"error: {json.loads(out)['error']}\n"
    assert err.startswith(f"error: full/x: {os.strerror(number)}: ")


def test_a_full_disk_is_known_in_the_words_of_any_library(neurofm, monkeypatch):
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    fails_with(monkeypatch, RuntimeError(text))
    code, _, err = neurofm("check", "x")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: No space left on device: give a place")


def test_a_file_that_cannot_be_put_in_place_leaves_no_draft(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        files.write_text(tmp_path / "taken", "words")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_file_of_ours_that_is_gone_stays_a_fault(neurofm, monkeypatch):
    fails_with(monkeypatch, FileNotFoundError(errno.ENOENT, "no such file", "env.json"))
    code, _, err = neurofm("check", "x")
    assert code == 70
    assert "Traceback" in err


def test_a_results_folder_below_a_file_is_one_sentence(neurofm, tmp_path):
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.full(900, 0.1), 8000)
    code, out, err = neurofm(
        "prepare", "audio", tmp_path / "a.wav", "--out", tmp_path / "a.wav" / "d"
    )
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
