import itertools
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from tiny_models import ECHO, tiny

from neurofm.data import embeddings
from neurofm.data.embeddings import open_embeddings
from neurofm.data.records import DatasetInfo, Recording, write_dataset
from neurofm.embed import embed
from neurofm.embedding import encode, inputs, recordings
from neurofm.errors import NeuroFMError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture
def folder(tmp_path):
    """Seven files of one to three windows, one of them in a folder of its own."""
    src = tmp_path / "src"
    (src / "far").mkdir(parents=True)
    for i, n in enumerate((73, 40, 160, 219, 80, 30)):
        soundfile.write(src / f"{i}.wav", noise(n, seed=i), 100, subtype="FLOAT")
    soundfile.write(src / "far" / "6.flac", noise(150, seed=6), 100)
    return src


@pytest.fixture
def dataset(tmp_path):
    """Two prepared recordings of 3 s with labels, five events in the first."""
    info = DatasetInfo(
        kind="audio",
        sfreq=100.0,
        unit="full_scale",
        ch_names=("mono",),
        payload="float32",
    )
    spans = [(0.2, 0.5), (1.0, 1.0), (2.9, 0.05), (0.3, 0.0), (1.105, 0.04)]
    events = [
        {"onset": on, "duration": length, "trial_type": f"syllable {i}", "dim": i}
        for i, (on, length) in enumerate(spans)
    ]
    meta = {"split": "train", "subject": "bird", "layers": "a label"}
    rows = [
        Recording(item=f"song {i}", samples=noise(1, 300, seed=i), meta=meta, events=e)
        for i, e in enumerate((events, []))
    ]
    write_dataset(tmp_path / "data", info, rows)
    return tmp_path / "data"


def expected(path) -> encode.Reading:
    return ECHO.embed(path)


def test_a_folder_of_files_is_embedded_with_its_times(folder, tmp_path):
    result = embed(ECHO, [folder], tmp_path / "out", batch_size=4)
    assert result["n_embeddings"] == 7
    assert result["dim"] == 1
    assert result["skipped"] == []
    assert result["hours_per_s"] > 0
    out = open_embeddings(tmp_path / "out")
    index = out.index.to_pylist()
    assert [row["item"] for row in index] == [
        *(f"{i}.wav" for i in range(6)), "far/6.flac"
    ]  # fmt: skip
    for i, row in enumerate(index):
        whole = expected(folder / row["item"])
        np.testing.assert_array_equal(out.read(i), whole.values["last"])
        np.testing.assert_array_equal(out.times(i), whole.times_s)
        assert row["n_tokens"] == len(whole.times_s)
        assert (row["first_s"], row["last_s"]) == tuple(whole.times_s[[0, -1]])
        assert row["layers"] == ["last"]
    with pytest.raises(NeuroFMError, match="holds no layer 'layer_09'"):
        out.read(0, "layer_09")


def test_all_formats_hold_the_same(folder, tmp_path):
    outs = []
    for format in embeddings.SUFFIXES:
        embed(ECHO, [folder], tmp_path / format, layers="all", format=format)
        outs.append(open_embeddings(tmp_path / format))
    first = outs[0].index.drop_columns("shard")
    for out in outs[1:]:
        assert out.index.drop_columns("shard").equals(first)
        for i, layer in itertools.product(range(7), ("last", "layer_01", "row")):
            np.testing.assert_array_equal(out.read(i, layer), outs[0].read(i, layer))
            np.testing.assert_array_equal(out.times(i), outs[0].times(i))
        assert len({p.stat().st_mode for p in out.path.iterdir()}) == 1
    with np.load(tmp_path / "npz" / "embeddings-00000.npz") as arrays:
        assert "far/6.flac/last" in arrays
    with pytest.raises(NeuroFMError, match="format 'csv' is unknown"):
        embed(ECHO, [folder], tmp_path / "csv", format="csv")


def test_an_interrupted_run_goes_on_and_ends_as_an_unbroken_one(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(embeddings, "SHARD_ITEMS", 2)
    embed(ECHO, [folder], tmp_path / "whole", batch_size=1)
    read = []

    def count(self, contract, original=recordings.File.take):
        read.append(self.item)
        return original(self, contract)

    monkeypatch.setattr(recordings.File, "take", count)

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(ECHO, [folder], tmp_path / "out", batch_size=1, progress=stop)
    partial = tmp_path / "out.partial"
    finished = [t for f in partial.glob("rows-*") for t in pq.read_table(f)["item"]]
    assert 2 <= len(finished) < 6
    assert not (tmp_path / "out").exists()
    (partial / "draft-embeddings-00009.safetensors").write_text("half a shard")
    with pytest.raises(NeuroFMError, match="is not finished: run the same"):
        open_embeddings(tmp_path / "out")

    read.clear()
    embed(ECHO, [folder], tmp_path / "out", batch_size=1)
    assert len(read) == 7 - len(finished)
    names = sorted(os.listdir(tmp_path / "whole"))
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert len([n for n in names if n.endswith(".safetensors")]) == 4
    for name in names:
        if name != "embeddings.json":
            same = (tmp_path / "out" / name).read_bytes()
            assert same == (tmp_path / "whole" / name).read_bytes(), name
    assert not partial.exists()


def test_the_same_request_again_gives_the_same_answer_at_once(
    folder, tmp_path, monkeypatch
):
    first = embed(ECHO, [folder], tmp_path / "out")
    monkeypatch.setattr(encode, "embed_waves", None)
    assert embed(ECHO, [folder], tmp_path / "out") == first


def test_another_request_does_not_mix_with_what_is_there(folder, tmp_path):
    embed(ECHO, [folder], tmp_path / "out")
    with pytest.raises(NeuroFMError, match=r"other in: pool\)"):
        embed(ECHO, [folder], tmp_path / "out", pool="mean")
    soundfile.write(folder / "3.wav", noise(300), 100)
    with pytest.raises(NeuroFMError, match=r"other in: inputs\)"):
        embed(ECHO, [folder], tmp_path / "out")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(NeuroFMError, match="exists and is not empty"):
        embed(ECHO, [folder], tmp_path / "mine")


def test_bad_files_are_skipped_and_listed(folder, tmp_path, caplog):
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is no sound")
    soundfile.write(folder / "nan.wav", [0, np.nan, 0.5] * 30, 100, subtype="FLOAT")
    soundfile.write(folder / "short.wav", noise(10), 100)
    soundfile.write(folder / "six.wav", noise(90, 6), 100)
    (folder / "notes.txt").write_text("left alone")
    seen = []
    result = embed(
        ECHO,
        [folder],
        tmp_path / "out",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result["n_embeddings"] == 7
    reasons = {os.path.basename(s["file"]): s["reason"] for s in result["skipped"]}
    assert sorted(reasons) == [
        "empty.wav", "nan.wav", "short.wav", "six.wav", "text.wav"
    ]  # fmt: skip
    assert "0 bytes" in reasons["empty.wav"]
    assert "NaN" in reasons["nan.wav"]
    assert "shorter than one token" in reasons["short.wav"]
    assert "n_chans" in reasons["six.wav"]
    assert (tmp_path / "out" / "skipped.tsv").read_text().count("wav") >= 5
    assert seen == [(i, 12) for i in range(1, 13)]
    for name in reasons:
        assert f"skipped {folder / name}" in caplog.text


def test_only_bad_files_are_an_error(tmp_path):
    (tmp_path / "empty.wav").touch()
    with pytest.raises(NeuroFMError, match=r"none of 1 .*empty\.wav: .*0 bytes"):
        embed(ECHO, [tmp_path / "empty.wav"], tmp_path / "out")
    soundfile.write(tmp_path / "empty.wav", noise(90), 100)  # mended
    assert embed(ECHO, [tmp_path / "empty.wav"], tmp_path / "out")["n_embeddings"] == 1
    with pytest.raises(NeuroFMError, match="is not there"):
        embed(ECHO, [tmp_path / "none"], tmp_path / "other")
    (tmp_path / "dir").mkdir()
    with pytest.raises(NeuroFMError, match="neither sound files nor"):
        embed(ECHO, [tmp_path / "dir"], tmp_path / "other")


def test_a_dataset_brings_its_labels(dataset, tmp_path):
    result = embed(ECHO, [dataset], tmp_path / "out", pool="mean")
    assert result["n_embeddings"] == 2
    out = open_embeddings(tmp_path / "out")
    for i, row in enumerate(out.index.to_pylist()):
        wave, _ = inputs.conform(ECHO.contract, noise(1, 300, seed=i), 100.0)
        ((_, mean),) = encode.embed_waves(ECHO, [(i, wave)], pool="mean")
        np.testing.assert_allclose(out.read(i), mean.values["last"], atol=1e-6)
        assert (row["item"], row["split"], row["subject"]) == (
            f"song {i}", "train", "bird"
        )  # fmt: skip
        assert row["layers"] == ["last"]
        assert row["label_layers"] == "a label"


def test_events_are_embedded_in_context_one_row_each(dataset, tmp_path):
    result = embed(ECHO, [dataset], tmp_path / "out", events=True)
    assert result["n_embeddings"] == 5
    out = open_embeddings(tmp_path / "out")
    wave, _ = inputs.conform(ECHO.contract, noise(1, 300), 100.0)
    ((_, whole),) = encode.embed_waves(ECHO, [("song 0", wave)])
    n_nearest = 0
    for i, row in enumerate(out.index.to_pylist()):
        onset, past = row["onset"], row["onset"] + row["duration"]
        inside = [
            x
            for t, x in zip(whole.times_s, whole.values["last"][:, 0], strict=True)
            if onset <= t < past
        ]
        if not inside:
            n_nearest += 1
            distance = np.abs(whole.times_s - (onset + past) / 2)
            inside = [whole.values["last"][distance.argmin(), 0]]
        np.testing.assert_allclose(out.read(i), [[np.mean(inside)]], rtol=1e-5)
        assert row["embedding"] == f"song 0#{i}"
        assert row["trial_type"] == f"syllable {i}"
        assert (row["dim"], row["label_dim"], row["subject"]) == (1, i, "bird")
    assert n_nearest == 2


def test_events_need_events_and_token_centres(folder, dataset, tmp_path):
    with pytest.raises(NeuroFMError, match="no interval events"):
        embed(ECHO, [folder], tmp_path / "out", events=True)
    with pytest.raises(NeuroFMError, match="token centres"):
        embed(ECHO, [dataset], tmp_path / "out", events=True, times="released")


def test_a_dataset_of_another_kind_is_refused_in_a_table(tmp_path):
    info = DatasetInfo(
        kind="eeg", sfreq=100.0, unit="V", ch_names=("Cz",), payload="float32"
    )
    rows = [Recording(item="a", samples=noise(1, 300))]
    write_dataset(tmp_path / "eeg", info, rows)
    with pytest.raises(NeuroFMError, match=r"kind\s+eeg\s+audio\s+no exact conversion"):
        embed(ECHO, [tmp_path / "eeg"], tmp_path / "out")


def test_files_of_one_name_in_two_folders_are_kept_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "x.wav", noise(90), 100)
    embed(ECHO, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    items = open_embeddings(tmp_path / "out").index["item"].to_pylist()
    assert [item[-7:] for item in items] == ["a/x.wav", "b/x.wav"]
    with pytest.raises(NeuroFMError, match="given twice"):
        embed(ECHO, [tmp_path / "a", tmp_path / "a"], tmp_path / "twice")


def test_conversions_are_in_the_result(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(200, 2), 200)
    result = embed(ECHO, [tmp_path / "x.wav"], tmp_path / "out")
    assert len(result["converted"]) == 2
    assert "resampled from 200 to 100 Hz" in result["converted"][1]


def test_a_real_model_gives_files_what_it_gives_arrays(folder, tmp_path):
    model = tiny(sfreq=100.0)
    embed(model, [folder], tmp_path / "out", layers=("1", "last"), overlap_s=0.5)
    out = open_embeddings(tmp_path / "out")
    for i, row in enumerate(out.index.to_pylist()):
        alone = model.embed(folder / row["item"], layers="all", overlap_s=0.5)
        for layer in ("layer_01", "last"):
            np.testing.assert_allclose(
                out.read(i, layer), alone.values[layer], atol=1e-5
            )


@pytest.mark.parametrize("format", embeddings.SUFFIXES)
def test_a_damaged_shard_is_named(folder, tmp_path, format):
    embed(ECHO, [folder], tmp_path / "out", format=format)
    (shard,) = (tmp_path / "out").glob("embeddings-*")
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(NeuroFMError, match=f"{shard.name} is damaged"):
        open_embeddings(tmp_path / "out").read(0)


@pytest.mark.parametrize(
    ("info", "words"), [({"version": 99}, "layout version 99"), (None, "no embeddings")]
)
def test_folders_that_are_no_embeddings_are_refused(tmp_path, info, words):
    if info:
        (tmp_path / "embeddings.json").write_text('{"version": 99}')
    with pytest.raises(NeuroFMError, match=words):
        open_embeddings(tmp_path)


def test_a_request_that_fails_leaves_nothing_behind(folder, tmp_path):
    for wrong in ({"batch_size": 0}, {"window_s": 9.0}, {"layers": ["layer_9"]}):
        with pytest.raises(NeuroFMError):
            embed(ECHO, [folder], tmp_path / "out", **wrong)
    (tmp_path / "bad.wav").write_text("no sound")
    with pytest.raises(NeuroFMError, match="none of 1 recordings"):
        embed(ECHO, [tmp_path / "bad.wav"], tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"src", "bad.wav"}


def test_why_a_recording_was_skipped_is_one_line(folder, tmp_path):
    soundfile.write(folder / "six.wav", noise(200, 6), 100)
    result = embed(ECHO, [folder], tmp_path / "out")
    assert [skipped["reason"] for skipped in result["skipped"]] == [
        "n_chans is 6, the model takes 1"
    ]
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    assert len(lines) == 2


@pytest.mark.parametrize("file", ["embeddings.json", "index.parquet"])
def test_a_damaged_table_or_description_is_one_sentence(folder, tmp_path, file):
    embed(ECHO, [folder], tmp_path / "out")
    (tmp_path / "out" / file).write_text("[")
    with pytest.raises(NeuroFMError, match="are damaged"):
        open_embeddings(tmp_path / "out")
