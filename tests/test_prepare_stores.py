"""Preparing from and into stores: the same bytes, whole or not at all, and restarts."""

import json

import fsspec
import pytest
from click.testing import CliRunner
from test_bucket_runs import held  # noqa: F401
from test_prepare_audio import Killed, contents, noise, write

from data_pipelines import in_store, shards
from data_pipelines.audio import prepare
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Seven sounds of two rates in four shards, and a file that is no sound."""
    monkeypatch.setattr(shards, "_SHARD_BYTES", (20_000, 2**30))
    for i in range(7):
        rate = (8000, 11025)[i % 2]
        write(tmp_path / f"src/{i % 3}/{i}.wav", noise(5003 + i, seed=i), rate)
    (tmp_path / "src/broken.wav").write_bytes(b"RIFF no sound")
    (tmp_path / "src/read me.txt").write_text("no sound")
    return tmp_path / "src"


@pytest.fixture
def memory():
    """A store in this process, by the names of its objects."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs.store
    fs.store.clear()


def of(store, prefix):
    """Contents of the objects below a prefix."""
    return {
        name.removeprefix(prefix): x.getvalue() if hasattr(x, "getvalue") else x[1]
        for name, x in store.items()
        if name.startswith(prefix)
    }


def test_a_dataset_in_a_store_is_that_of_a_disk_to_the_byte(tmp_path, folder, memory):
    given = {"subdirs": "group", "licence": "CC0", "workers": 1}
    here = prepare(folder, tmp_path / "here", **given)
    there = prepare(folder, "memory://bucket/there", **given)
    files = contents(tmp_path / "here")
    assert len([name for name in files if name.endswith(".array_record")]) == 4
    assert of(memory, "/bucket/there/") == files
    assert of(memory, "/bucket/there.partial") == {}
    assert (there.skipped, there.notes) == (here.skipped, here.notes)
    assert (there.hash, there.n_items) == (here.hash, 7)
    assert open_dataset("memory://bucket/there").items.equals(
        open_dataset(tmp_path / "here").items
    )
    again = prepare(folder, "memory://bucket/there", **given)
    assert again.status == "already prepared"


def test_recordings_are_read_from_a_store_as_from_a_disk(tmp_path, folder, memory):
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            fsspec.filesystem("memory").pipe_file(
                f"/bucket/src/{name}", path.read_bytes()
            )
    for channels in ("first", "all"):
        given = {"subdirs": "group", "workers": 1, "channels": channels}
        prepare(folder, tmp_path / f"here {channels}", **given)
        summary = prepare(
            "memory://bucket/src/", tmp_path / f"there {channels}", **given
        )
        assert summary.n_files == 8
        here, there = (
            contents(tmp_path / f"{name} {channels}") for name in ("here", "there")
        )
        info, other = (json.loads(x.pop("dataset.json")) for x in (here, there))
        assert there == here
        assert info["prepared"].pop("sources") != other["prepared"].pop("sources")
        assert other == info
    one = prepare("memory://bucket/src/0/3.wav", tmp_path / "one")
    assert (one.n_items, open_dataset(tmp_path / "one").items["file"][0].as_py()) == (
        1,
        "3.wav",
    )
    with pytest.raises(NeuroFMError, match=r"no sound file in memory://bucket/none"):
        prepare("memory://bucket/none", tmp_path / "none")


def test_a_preparation_into_a_bucket_goes_on_where_it_was_killed(
    tmp_path,
    folder,
    held,  # noqa: F811
    monkeypatch,
):
    out, work = "gs://bucket/out", in_store.write_shard

    def killed(job, out):
        if job.number == 2:
            raise Killed
        return work(job, out)

    monkeypatch.setattr(in_store, "write_shard", killed)
    with pytest.raises(Killed):
        prepare(folder, out, workers=1)
    assert "bucket/out/00001.array_record" in held.objects
    with pytest.raises(NeuroFMError, match=r"no dataset\.json"):
        open_dataset(out)
    with pytest.raises(NeuroFMError, match=r"gs://bucket/out\.partial was made with"):
        prepare(folder, out, sfreq=8000)

    monkeypatch.setattr(in_store, "write_shard", work)
    held.writes.clear()
    held.faults = [503, 503]
    assert prepare(folder, out, workers=1).status == "resumed"
    sent = [name for name in held.writes if name.endswith(".array_record")]
    assert sent == ["bucket/out/00002.array_record", "bucket/out/00003.array_record"]
    assert held.writes[-1] == "bucket/out/dataset.json"
    prepare(folder, tmp_path / "here", workers=1)
    assert of(held.objects, "bucket/out/") == contents(tmp_path / "here")
    assert of(held.objects, "bucket/out.partial") == {}


def test_what_others_keep_in_a_store_is_left_alone(folder, held):  # noqa: F811
    held.put("bucket/out/letter.txt", b"mine")
    words = ["prepare", "audio", str(folder), "--out", "gs://bucket/out"]
    told = CliRunner().invoke(cli, words)
    assert (told.exit_code, list(held.objects)) == (1, ["bucket/out/letter.txt"])
    assert "gs://bucket/out exists already" in told.output


@pytest.mark.filterwarnings("ignore")  # Beam's own, of several kinds
def test_beam_prepares_from_a_bucket_into_a_bucket(tmp_path, folder, held):  # noqa: F811
    pytest.importorskip("apache_beam", reason="pip install 'neurofm[beam]'")
    for path in folder.rglob("*.wav"):
        name = path.relative_to(folder).as_posix()
        held.put(f"bucket/src/{name}", path.read_bytes())
    given = {"workers": 1, "runner": "direct"}
    there = prepare("gs://bucket/src", "gs://bucket/out", **given)
    assert len(there.skipped) == 1
    prepare(folder, tmp_path / "here", workers=1)
    files = contents(tmp_path / "here")
    got = of(held.objects, "bucket/out/")
    assert files.pop("dataset.json") != got.pop("dataset.json")  # other sources
    assert got == files
    assert held.writes[-1] == "bucket/out/dataset.json"
