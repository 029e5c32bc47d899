"""Whole lives of a job on a stand-in cloud whose workers are shells on this machine."""

import json
import subprocess
import sys
import threading
import time

import pytest
from launching import ACTIVE, TRAIN, make_cloud, project, record_of, tpu

from neurofm.errors import NeuroFMError
from neurofm.launch import life
from neurofm.launch.machine import Limits


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = make_cloud(tmp_path, monkeypatch)
    yield made
    for run in made.folder.glob("hosts/*/neurofm-launch/*/run"):
        subprocess.run(["kill", "-9", run.read_text().split()[1]], check=False)


def train(tmp_path, step_s="0.05", **options):
    (tmp_path / "shared").mkdir(exist_ok=True)
    words = ["bash", "-c", TRAIN, "train", str(tmp_path / "shared"), step_s]
    return record_of(tmp_path / "code", words, **options)


def steps(tmp_path):
    return [int(p.read_text()) for p in sorted((tmp_path / "shared").glob("state-?"))]


# ---- preempted, suspended, failed ----------------------------------------------------


def test_a_preempted_job_is_made_again_and_goes_on_where_it_was(tmp_path, cloud):
    cloud.lives({**ACTIVE, "at_step": 5, "then": "ACTIVE"}, ACTIVE)
    state = cloud.up(train(tmp_path))
    assert (state.code, state.sentence) == (0, "done")
    assert steps(tmp_path) == [12, 12]
    assert state.attempt == 2
    assert len(cloud.asked("create")) == 2
    assert len(cloud.asked("delete")) == 2  # the preempted one, and the last
    assert any(line.startswith("preempted; again in 30 s") for line in cloud.shown)
    kept = (tmp_path / "launch" / "base" / "base.log").read_text()
    begun = int(kept.split("going on from ")[1].split()[0])
    assert begun >= 5, "it began again"

    # A second time there is nothing to do, and nothing is done.
    before = len(cloud.calls())
    state = cloud.up(train(tmp_path))
    assert state.sentence == "done before: nothing to do"
    assert len(cloud.calls()) == before


def test_suspended_and_failed_requests_are_made_again(tmp_path, cloud):
    cloud.lives(
        {"states": ["WAITING_FOR_RESOURCES", "FAILED"]},
        {**ACTIVE, "at_step": 2, "then": "SUSPENDED"},
        ACTIVE,
    )
    state = cloud.up(train(tmp_path))
    assert (state.code, steps(tmp_path)) == (0, [12, 12])
    assert len(cloud.asked("create")) == 3
    assert any("failed (no capacity); again in 30 s" in line for line in cloud.shown)
    assert any("suspended; again in" in line for line in cloud.shown)


def test_capacity_that_never_comes_is_given_up_and_nothing_is_left(tmp_path, cloud):
    cloud.lives({"states": ["FAILED"]})
    state = cloud.up(train(tmp_path), limits=Limits(backoff_s=1, fruitless=2))
    assert state.code == 70
    assert "3 recoveries brought no new step: gave up" in state.sentence
    assert cloud.resource["state"] == "DELETING"


def test_a_wrong_command_ends_at_once_and_its_log_is_kept(tmp_path, cloud):
    words = ["bash", "-c", "echo it is wrong >&2; exit 1"]
    state = cloud.up(record_of(tmp_path / "code", words, tpu("v4-8")))
    assert (state.code, len(cloud.asked("create"))) == (1, 1)
    assert cloud.resource["state"] == "DELETING"
    assert life.logs("base", 0, 5) == "it is wrong"


def test_two_slices_are_one_job_and_no_worker_is_started_twice(tmp_path, cloud):
    record = train(tmp_path, "0.3", where=tpu("v4-8", slices=2))
    state = cloud.up(record, no_watch=True)
    assert state.code is None
    assert cloud.resource["nodes"] == ["base-0", "base-1"]
    starts = [w for w in cloud.calls() if any("start base 1" in x for x in w)]
    assert len(starts) == 2  # one a node
    state = cloud.up(record)
    assert (state.code, steps(tmp_path)) == (0, [12, 12])
    assert starts == [w for w in cloud.calls() if any("start base" in x for x in w)]


# ---- stop, down, what is not ours ----------------------------------------------------


def test_stop_saves_and_gives_the_chips_back_and_up_goes_on(tmp_path, cloud):
    record = train(tmp_path, "0.3")
    ended = []
    watch = threading.Thread(target=lambda: ended.append(cloud.up(record)))
    watch.start()
    while not (tmp_path / "shared" / "state-1").exists():
        time.sleep(0.02)
    life.stop("base", act=True)
    watch.join(timeout=30)
    (state,) = ended
    assert (state.code, state.sentence) == (42, "stopped")
    assert cloud.resource["state"] == "DELETING"
    assert max(steps(tmp_path)) < 12

    state = cloud.up(life.known("base"))
    assert (state.code, steps(tmp_path), state.attempt) == (0, [12, 12], 2)


def test_a_resource_that_others_made_is_neither_used_nor_deleted(tmp_path, cloud):
    theirs = {
        "name": "base",
        "labels": {"neurofm-job": "base", "neurofm-owner": "another"},
        "nodes": ["base"],
        "hosts": 2,
        "life": 0,
        "looks": 0,
        "state": "ACTIVE",
        "node": "READY",
    }
    (cloud.folder / "resource.json").write_text(json.dumps(theirs))
    state = cloud.up(train(tmp_path))
    assert state.code == 1
    assert "this job did not make: choose another name" in state.sentence
    with pytest.raises(NeuroFMError, match="was not made by this job, so it stays"):
        life.down("base", act=True)
    assert cloud.resource == theirs
    assert cloud.asked("delete") == cloud.asked("ssh") == cloud.asked("create") == []


def test_down_gives_back_what_the_job_made_and_frees_its_name(tmp_path, cloud):
    cloud.up(train(tmp_path, "0.3"), no_watch=True)
    shown = life.down("base", act=False)
    assert cloud.asked("delete") == []
    assert life.down("base", act=True) == shown
    assert cloud.resource["state"] == "DELETING"
    with pytest.raises(NeuroFMError, match="no job 'base' was launched from here"):
        life.status("base")


def test_a_request_the_cloud_refuses_is_told_in_its_words(tmp_path, cloud):
    where = tpu(runtime="no-such-version")
    with pytest.raises(NeuroFMError, match="NOT_FOUND: runtime no-such-version"):
        cloud.up(train(tmp_path, where=where))


def test_another_job_of_the_same_name_is_refused(tmp_path, cloud):
    cloud.up(train(tmp_path, "0.3"), no_watch=True)
    other = record_of(tmp_path / "code", ["true"])
    with pytest.raises(NeuroFMError, match="launched before with other settings"):
        cloud.up(other)
    life.down("base", act=True)


# ---- what arrives --------------------------------------------------------------------

WORDS = [
    *("a b", "", "'", '"', 'it\'s "so"', "$HOME", "${x}", "$(id)", "`id`", "\\", "\\n"),
    *("two\nlines\n", "\t", "*", "~", "!!", "#", "a;b", "a&b", "|", ">x", "--", "-x"),
    *("é ☃ 音", "%s", "{process_id}", "--quiet", " lead", "trail "),
]


def test_words_variables_and_code_arrive_byte_for_byte(tmp_path, cloud, monkeypatch):
    secret = "s3cret 'with' $(quotes)\nand lines"
    monkeypatch.setenv("MY_TOKEN", secret)
    program = (
        "import json, os, sys; json.dump([sys.argv[2:], os.environ['MY_TOKEN'], "
        "open('a file.txt').read()], open(sys.argv[1], 'w'))"
    )
    out = tmp_path / "told.json"
    words = [sys.executable, "-c", program, str(out), *WORDS]
    record = record_of(tmp_path / "code", words, tpu("v4-8"), env=("MY_TOKEN",))
    assert cloud.up(record, keep=True).code == 0
    assert json.loads(out.read_text()) == [WORDS, secret, "sent\n"]

    # The value is on no command line, in no record, and no longer in any file.
    for path in [*tmp_path.rglob("*")]:
        if path.is_file() and path != out:
            assert b"s3cret" not in path.read_bytes(), path
    assert "s3cret" not in "\n".join(cloud.shown)


def test_a_variable_that_is_not_set_is_told_before_anything_is_asked_for(
    tmp_path, cloud
):
    record = record_of(tmp_path / "code", ["true"], env=("NO_SUCH_VARIABLE",))
    with pytest.raises(NeuroFMError, match="NO_SUCH_VARIABLE: it is not set here"):
        cloud.up(record)
    assert cloud.calls() == []


def test_the_code_sent_is_that_of_the_launch_though_it_changes_later(tmp_path, cloud):
    cloud.lives({**ACTIVE, "at_step": 3, "then": "SUSPENDED"}, ACTIVE)
    script = TRAIN + '\ncp "a file.txt" "$1/seen"'
    (tmp_path / "shared").mkdir()
    words = ["bash", "-c", script, "train", str(tmp_path / "shared")]
    record = record_of(tmp_path / "code", words, tpu("v4-8"))
    real = cloud.sleep

    def sleep(seconds):
        (tmp_path / "code" / "a file.txt").write_text("changed\n")
        real(seconds)

    cloud.sleep = sleep
    assert cloud.up(record).code == 0
    assert (tmp_path / "shared" / "seen").read_text() == "sent\n"


def test_the_hash_of_the_code_knows_names_contents_and_execute_bits(tmp_path):
    from neurofm.launch.code import pack, tree

    root = project(tmp_path / "code")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text("runs/\n")
    (root / "runs").mkdir()
    (root / "runs" / "big").write_text("not sent")
    first = tree(root)
    assert first.files == (".gitignore", "a file.txt", "pyproject.toml")
    assert tree(root) == first
    pack(first, tmp_path / "1.tar")
    pack(tree(root), tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    hashes = {first.sha256}
    (root / "a file.txt").chmod(0o755)
    hashes.add(tree(root).sha256)
    (root / "a file.txt").write_text("other\n")
    hashes.add(tree(root).sha256)
    (root / "a file.txt").rename(root / "b")
    hashes.add(tree(root).sha256)
    assert len(hashes) == 4
    with pytest.raises(NeuroFMError, match=r"has no pyproject\.toml"):
        tree(tmp_path)
