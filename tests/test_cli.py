"""The command line: help, exit codes, errors in one sentence, one JSON object."""

import contextlib
import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from golden.compare import assert_golden, golden_names
from tiny_models import tiny

from neurofm import __main__ as entry
from neurofm import check as checking
from neurofm.cli import cli
from neurofm.errors import NeuroFMError
from neurofm.model import save

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(cli.commands)
GROUPS = {n: c for n, c in cli.commands.items() if isinstance(c, click.Group)}
ALL = ["", *COMMANDS, *(f"{n} {each}" for n in GROUPS for each in GROUPS[n].commands)]


@pytest.fixture
def neurofm(capsys, monkeypatch):
    """Run a command in this process: exit code, stdout, stderr."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])  # commands set up their own
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        try:
            code = cli.main(list(map(str, arguments)), prog_name="neurofm") or 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield run
    root.setLevel(level)


def python(code: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


# ---- help ----------------------------------------------------------------------------


def golden_name(command: str) -> str:
    return command.replace(" ", "-") or "neurofm"


@pytest.mark.parametrize("command", ALL)
def test_help_is_what_it_was(neurofm, command):
    code, out, err = neurofm(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert_golden(f"help/{golden_name(command)}.txt", out)


def test_no_golden_help_is_left_of_a_command_that_is_gone():
    assert golden_names("help", ".txt") == sorted(map(golden_name, ALL))


def test_help_answers_in_less_than_a_second():
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime  # CPU time: others may be at work here

    before = spent()
    python("from neurofm.cli import cli; cli.main(['--help'])")
    assert spent() - before < 1.0


def test_no_help_and_no_usage_error_imports_what_is_slow():
    heavy = ("jax", "numpy", "scipy", "pyarrow", "matplotlib", "sklearn", "orbax")
    told = python(
        f"""
import sys
from neurofm.cli import cli
for arguments in [[], ["pretrain"], *([name] for name in cli.commands)]:
    try:
        cli.main([*arguments, "--help"])
        cli.main([*arguments, "--no-such-option"])
    except SystemExit as stop:
        assert stop.code == 1
print([name for name in {heavy} if name in sys.modules])
"""
    )
    assert told.stdout.splitlines()[-1] == "[]"


# ---- a user's mistakes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretain"], "Did you mean 'pretrain'?"),
        (["pretrain", "wavjepa/tiny"], "Missing option '--workdir'"),
        (["pretrain", "wavjepa/tiny", "--work-dir", "x"], "'--work-dir'"),
        (["prepare", "video", "SRC", "--out", "x"], "'video' is not"),
        (["embed", "MODEL", "--out", "x"], "Missing argument 'INPUTS...'"),
        (["embed", "M", "I", "--out", "x", "--batch-size", "all"], "not a valid"),
    ],
)
def test_a_command_that_is_not_understood_exits_1_with_its_usage(
    neurofm, arguments, words
):
    code, out, err = neurofm(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("Usage: neurofm ")
    assert words in err
    assert "Traceback" not in err


MISTAKES = [
    (
        ["pretrain", "wavjepa/bas", "--workdir", "run"],
        "there is no config 'wavjepa/bas': did you mean wavjepa/base",
    ),
    (
        ["pretrain", "wavjepa/tiny", "--workdir", "run"],
        "data.path is empty: prepare a dataset (`neurofm prepare audio SRC --out DIR`)",
    ),
    (
        ["pretrain", "wavjepa/tiny", "--workdir", "run", "data.path=gone"],
        "gone is not a dataset",
    ),
    (
        ["pretrain", "wavjepa/tiny", "--workdir", "run", "train.stps=1"],
        "there is no setting 'train.stps': did you mean train.steps",
    ),
    (
        ["pretrain", "wavjepa/tiny", "--workdir", "run", "--num-processes", "2"],
        "--coordinator and --process-id not given",
    ),
    (["check", "gone"], "gone does not exist"),
    (["embed", "gone", "sound.wav", "--out", "x"], "gone"),
    (["export", "gone", "--out", "x"], "gone"),
    (["import", "wavjepa", "gone.safetensors", "--out", "x"], "gone.safetensors"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_exits_1_with_one_sentence_and_writes_nothing(
    neurofm, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    code, out, err = neurofm(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "words"), MISTAKES[:2])
def test_with_json_a_mistake_is_one_object_on_stdout(
    neurofm, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    code, out, _ = neurofm(*arguments, "--json")
    assert code == 1
    assert words in json.loads(out)["error"]


def test_options_of_eeg_are_refused_for_a_model_of_sound(neurofm, tmp_path):
    one = tiny()
    save(tmp_path / "model", one.task, one.variables, {})
    given = ("x.wav", "--out", tmp_path / "out", "--unit", "uV")
    code, _, err = neurofm("embed", tmp_path / "model", *given)
    assert code == 1
    assert "--unit: of EEG and MEG alone, and this model takes audio" in err
    assert not (tmp_path / "out").exists()


def test_debug_shows_where_a_mistake_was_found(neurofm, tmp_path):
    with pytest.raises(NeuroFMError, match="does not exist"):
        neurofm("check", tmp_path / "gone", "--debug")


# ---- results, faults, Ctrl-C ---------------------------------------------------------


def test_a_result_is_words_or_one_json_object(neurofm, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    code, out, _ = neurofm("check", tmp_path)
    assert code == 0
    assert "holds none of what neurofm reads" in " ".join(out.split())
    code, out, _ = neurofm("check", tmp_path, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["kind"], found["path"]) == ("unknown", str(tmp_path))
    assert found["other_files"] == {".txt": 1}


def fails_with(error):
    def check(path):
        raise error

    return check


@pytest.mark.parametrize("as_json", [False, True])
def test_a_fault_of_ours_exits_70_with_its_traceback(neurofm, monkeypatch, as_json):
    monkeypatch.setattr(checking, "check", fails_with(RuntimeError("out of paper")))
    code, out, err = neurofm("check", "x", *["--json"] * as_json)
    assert code == 70
    assert "Traceback" in err
    assert "out of paper" in err
    if as_json:
        assert json.loads(out) == {"error": "RuntimeError: out of paper"}
    else:
        assert out == ""


def test_ctrl_c_exits_130_without_a_traceback(neurofm, monkeypatch):
    monkeypatch.setattr(checking, "check", fails_with(KeyboardInterrupt()))
    code, out, err = neurofm("check", "x")
    assert (code, out) == (130, "")
    assert err == "interrupted; the same command goes on from here\n"


# ---- the allocator -------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """What `main` starts in place of itself, or runs: for a command line."""
    told = []
    monkeypatch.setattr(entry.sys, "platform", "linux")
    monkeypatch.setattr("neurofm.cli.cli", lambda: told.append("run"))
    monkeypatch.delenv(entry.MARK, raising=False)

    def execve(path, arguments, environment):
        told.append((arguments, environment))
        raise SystemExit  # the real one does not return

    monkeypatch.setattr(entry.os, "execve", execve)

    def start(*words):
        monkeypatch.setattr(entry.sys, "argv", ["neurofm", *words])
        monkeypatch.setattr(entry.sys, "orig_argv", ["python", "-m", "neurofm", *words])
        told.clear()
        with contextlib.suppress(SystemExit):
            entry.main()
        return told[0]

    return start


def test_a_command_that_computes_starts_once_more_with_the_allocator_set(
    started, monkeypatch
):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    words = ["pretrain", "wavjepa/tiny", "--workdir", "a b"]
    arguments, environment = started(*words)
    assert arguments == [sys.executable, "-m", "neurofm", *words]
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert environment["MALLOC_ARENA_MAX"] == "7"  # the user's own stays
    monkeypatch.setenv(entry.MARK, environment[entry.MARK])
    assert started("pretrain", "wavjepa/tiny") == "run"


@pytest.mark.parametrize("words", [[], ["--help"], ["check", "pretrain"]])
def test_other_commands_run_as_they_are(started, words):
    assert started(*words) == "run"
