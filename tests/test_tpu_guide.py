"""The guide in tpu/: its commands as dry runs, its table, its links and texts."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from golden.compare import assert_golden
from launching import make_cloud, project, record_of, tpu

from neurofm.cli import cli
from neurofm.launch import record
from neurofm.parallel import accelerators

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "tpu" / "README.md"
PAGES = sorted((ROOT / "tpu").glob("*.md"))


def commands():
    """The numbered commands of the guide, in order."""
    blocks = re.findall(r"```sh\n(# \d+\..*?)```", GUIDE.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_guide_is_ten_commands():
    assert len(commands()) == 10
    assert all(line.startswith("neurofm ") for line in commands())


@pytest.mark.parametrize("number", range(1, 11))
def test_a_command_of_the_guide_does_as_a_dry_run_what_it_did(
    number, tmp_path, monkeypatch, capsys
):
    cloud = make_cloud(tmp_path, monkeypatch)
    monkeypatch.chdir(project(tmp_path / "code"))
    monkeypatch.setattr(record, "owner", lambda: "0123456789ab")
    monkeypatch.setattr("neurofm.launch.doctor.PROGRAMS", {})
    words = shlex.split(commands()[number - 1])[1:]
    dry = [word for word in words if word != "--yes"]
    if words[1] in ("status", "logs", "stop", "down") or "--on" not in words:
        kept = record_of(tmp_path / "code", ["neurofm", "pretrain"], tpu())
        kept.save()
        labels = {"neurofm-job": "base", "neurofm-owner": "0123456789ab"}
        there = {"name": "base", "labels": labels, "nodes": ["base"], "hosts": 2}
        there |= {"life": 0, "looks": 0, "state": "ACTIVE", "node": "READY"}
        (cloud.folder / "resource.json").write_text(json.dumps(there))
        for i in range(2):
            (cloud.folder / "hosts" / f"base-w-{i}").mkdir(parents=True)
    code = 0
    try:
        cli.main(dry)
    except SystemExit as stop:
        code = stop.code
    out, _ = capsys.readouterr()
    assert code == 0, out
    for path, name in [(tmp_path, ""), (ROOT, "/neurofm")]:
        out = out.replace(str(path), name)
    out = re.sub(r"\b[0-9a-f]{16}\b", "5" * 16, out)
    assert_golden(f"launch/guide-{number:02d}.txt", out)
    mutating = [w for w in cloud.calls() if set(w) & {"create", "delete", "scp"}]
    assert mutating == []


def test_the_table_of_types_is_that_of_the_code():
    assert accelerators.markdown() in GUIDE.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_the_guide_exist(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not link.startswith("https://"):
            assert (page.parent / link).exists(), link
    for name in re.findall(r"`(tpu/[\w.]+)`", page.read_text()):
        assert (ROOT / name).is_file(), name


def test_the_setup_is_done_once(tmp_path):
    from neurofm.launch.code import INSIDE, pack, tree

    made = tree(project(tmp_path / "code"))
    home = tmp_path / "home"
    home.mkdir()
    script = ROOT / "tpu" / "setup_vm.sh"
    for _ in range(2):
        pack(made, home / f"neurofm-launch-{made.sha256}.tar")
        done = subprocess.run(
            ["bash", str(script), made.sha256],
            env={"HOME": str(home), "PATH": "/usr/bin:/bin", "NEUROFM_EXTRA": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        there = home / "neurofm-launch" / made.sha256
        assert (there / "a file.txt").read_text() == "sent\n"
        assert (there / INSIDE / "run_worker.sh").is_file()
        (there / "mark").touch()
    assert sorted(p.name for p in home.iterdir()) == ["neurofm-launch"]
    assert (there / "mark").exists()
