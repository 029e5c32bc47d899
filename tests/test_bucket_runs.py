"""Runs whose data and workdir lie in a bucket, through gcsfs, orbax and tensorstore."""

import dataclasses
import json
import logging

import fsspec
import pytest
from bucket import bucket
from click.testing import CliRunner
from etils import epath
from test_train import (  # noqa: F401
    assert_as_if_in_peace,
    assert_close_rows,
    assert_ends_close_to_peace,
    no_report,
    peaceful,
    pretrain_words,
    run,
    tasks_of_srun,
    told,
)

from neurofm import stores
from neurofm.checkpoint import read_meta
from neurofm.cli import cli
from neurofm.config import Data
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError
from neurofm.files import Journal, write_text
from neurofm.model import load
from neurofm.stores import place
from neurofm.train import pretrain

pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install gcsfs")


@pytest.fixture
def held(monkeypatch):
    from fsspec.config import conf

    with bucket() as there:
        for name, value in there.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(conf, "gcs", {"token": "anon"})
        monkeypatch.setitem(conf, "gs", {"token": "anon"})
        stores.filesystem.cache_clear()
        yield there
        fsspec.get_filesystem_class("gs").clear_instance_cache()


@pytest.mark.slow
def test_a_run_killed_in_a_bucket_and_started_again_ends_as_if_in_peace(
    held,
    peaceful,  # noqa: F811
    tmp_path,
):
    for file in (peaceful.workdir.parent / "records").iterdir():
        held.put(f"bucket/records/{file.name}", file.read_bytes())
    words = pretrain_words(peaceful, tmp_path, "data.path=gs://bucket/records")
    words[words.index("--workdir") + 1] = "gs://bucket/a run"
    code, _, err = run(*words, stop="SIGKILL record 6", **held.environment())
    assert code == -9, err
    killed = {name for name in held.objects if "/checkpoints/" in name}
    assert "bucket/a run/checkpoints/3/meta.json" in killed
    assert "bucket/a run/checkpoints/6/meta.json" not in killed
    rows = held.text("bucket/a run/metrics.jsonl").splitlines()
    assert json.loads(rows[-1])["step"] >= 6  # uploaded before the checkpoint is made

    held.latency_s, held.faults = 0.005, [503, 503]
    exp = dataclasses.replace(peaceful.exp, data=Data(path="gs://bucket/records"))
    shown = []
    outcome = pretrain(exp, "gs://bucket/a run", lambda step, row: shown.append(step))
    assert outcome.status == "done"
    assert min(shown) == 4  # from checkpoint 3
    assert "gs://bucket/a run" in outcome.sentence
    workdir = epath.Path("gs://bucket/a run")
    assert_as_if_in_peace(workdir, peaceful)
    log = held.text("bucket/a run/log.txt")
    assert "passing over step 6" in log
    assert len(held.text("bucket/a run/pretrained_on.txt").split()) == 9
    assert load("gs://bucket/a run").meta["step"] == 8
    checked = CliRunner().invoke(cli, ["check", "gs://bucket/a run", "--json"])
    assert json.loads(checked.stdout)["step"] == 8, checked.output


@pytest.mark.slow
def test_two_processes_write_each_object_of_a_checkpoint_once_and_go_on_in_a_bucket(
    held,
    peaceful,  # noqa: F811
    tmp_path,
):
    for file in (peaceful.workdir.parent / "records").iterdir():
        held.put(f"bucket/records/{file.name}", file.read_bytes())
    held.writes.clear()
    held.latency_s = 0.003
    words = ("--workdir", "gs://bucket/a run", "data.path=gs://bucket/records")
    for code, result, err in tasks_of_srun(
        2, peaceful, tmp_path, *words, first="row 4"
    ):
        assert code == 42, err
        assert result["message"].startswith("preempted at step 5 of 8, saved")

    def objects(step):
        return [
            n for n in held.writes if n.startswith(f"bucket/a run/checkpoints/{step}/")
        ]

    workdir = place("gs://bucket/a run")
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["3", "5"]
    for step in (3, 5):
        assert len(objects(step)) == len(set(objects(step))) > 3
        assert objects(step)[-1] == f"bucket/a run/checkpoints/{step}/meta.json"
    assert read_meta(workdir / "checkpoints" / "5")["mesh"]["data"] == 2
    wanted = [row for row in told(peaceful.workdir) if row["step"] <= 5]
    assert_close_rows(told(workdir), wanted)

    # As if the last one had not become whole.
    del held.objects["bucket/a run/checkpoints/5/meta.json"]
    for code, result, err in tasks_of_srun(2, peaceful, tmp_path, *words):
        assert (code, result["step"]) == (0, 8), err
    assert "passing over step 5" in held.text("bucket/a run/log.txt")
    assert_close_rows(told(workdir), told(peaceful.workdir))
    assert_ends_close_to_peace(workdir, peaceful)
    assert load("gs://bucket/a run").meta["step"] == 8


def test_a_file_that_grows_is_uploaded_for_a_hundredth_of_the_time(held):
    class Clock:
        time = 0.0

        def __call__(self):
            self.time += 0.5  # an upload asks twice, so it takes half a second
            return self.time

    write_text("gs://bucket/metrics.jsonl", "before\n")
    held.writes.clear()
    clock = Clock()
    journal = Journal("gs://bucket/metrics.jsonl", clock)
    for i in range(1000):
        journal.write_line(f"line {i}")
    spent = 0.5 * len(held.writes)
    assert len(held.writes) > 2
    assert spent < 0.02 * clock.time
    journal.upload()
    lines = held.text("bucket/metrics.jsonl").splitlines()
    assert lines == ["before", *(f"line {i}" for i in range(1000))]
    before = len(held.writes)
    journal.upload()
    assert len(held.writes) == before


def test_a_log_in_a_bucket_may_tell_of_its_own_reading(held):
    write_text("gs://bucket/log.txt", "before\n")
    journal, library = Journal("gs://bucket/log.txt"), logging.getLogger("fsspec")
    handler, level = logging.StreamHandler(journal), library.level
    library.addHandler(handler)
    library.setLevel(logging.DEBUG)
    try:
        library.info("a request")
        journal.upload()
    finally:
        library.removeHandler(handler)
        library.setLevel(level)
    lines = place("gs://bucket/log.txt").read_text().splitlines()
    assert lines[0] == "before"
    assert "a request" in lines


def test_a_forbidden_bucket_is_one_sentence(held):
    held.faults = [403] * 3
    with pytest.raises(NeuroFMError, match=r"gs://bucket/data.*: check the address"):
        open_dataset("gs://bucket/data")


def test_what_has_to_be_local_says_so():
    words = ["export", "model", "--out", "gs://bucket/x"]
    checked = CliRunner().invoke(cli, words)
    assert checked.exit_code == 1
    assert "local disk" in checked.output
    words = ["pretrain", "wavjepa/tiny", "--workdir", "memory://x"]
    assert "s3://" in CliRunner().invoke(cli, words).output
