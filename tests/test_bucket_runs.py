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
    no_report,
    peaceful,
    pretrain_words,
    run,
)

from neurofm import stores
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
    told = CliRunner().invoke(cli, ["check", "gs://bucket/a run", "--json"])
    assert json.loads(told.stdout)["step"] == 8, told.output


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
    told = CliRunner().invoke(cli, words)
    assert told.exit_code == 1
    assert "local disk" in told.output
    words = ["pretrain", "wavjepa/tiny", "--workdir", "memory://x"]
    assert "s3://" in CliRunner().invoke(cli, words).output
