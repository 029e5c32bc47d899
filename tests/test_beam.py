"""The same store, to the byte, whether processes or Apache Beam prepare it."""

import pytest
from test_prepare_audio import contents, noise, write

from data_pipelines import shards
from data_pipelines.audio import prepare
from neurofm.errors import NeuroFMError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Nine sounds of two rates in several shards, and a file that is no sound."""
    monkeypatch.setattr(shards, "_SHARD_BYTES", (20_000, 2**30))
    for i in range(9):
        rate = (8000, 11025)[i % 2]
        write(tmp_path / f"src/{i % 3}/{i}.wav", noise(5003 + i, seed=i), rate)
    (tmp_path / "src/broken.wav").write_bytes(b"RIFF no sound")
    return tmp_path / "src"


@pytest.mark.filterwarnings("ignore")  # Beam's own, of several kinds
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_beam_makes_the_same_files_to_the_byte(tmp_path, folder, workers):
    pytest.importorskip("apache_beam", reason="pip install 'neurofm[beam]'")
    given = {"subdirs": "group", "licence": "CC0", "workers": workers}
    here = prepare(folder, tmp_path / "here", **given)
    there = prepare(folder, tmp_path / "there", runner="direct", **given)
    assert there.skipped == here.skipped
    assert len(here.skipped) == 1
    files = contents(tmp_path / "here")
    assert len([name for name in files if name.endswith(".array_record")]) > 2
    assert contents(tmp_path / "there") == files
    assert not (tmp_path / "there.partial").exists()


def test_without_beam_one_is_told_how_to_get_it(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(NeuroFMError, match=r"pip install 'neurofm\[beam\]'"):
        prepare(folder, tmp_path / "out", runner="direct")
