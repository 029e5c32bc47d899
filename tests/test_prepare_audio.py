"""Sound files into a store: exact, resumable, and unmoved by hostile files."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import shards, soundfiles
from data_pipelines.audio import prepare, read
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError
from neurofm.signals.audio import resample

DATA = Path(os.environ.get("NEUROFM_DATA", Path(__file__).parents[2] / "shared/data"))


def noise(n_samples, n_chans=1, seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(size=(n_samples, n_chans)) * 0.1, -1, 1)


def write(path, x, sfreq=16000, subtype="PCM_16", **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, sfreq, subtype=subtype, **kwargs)
    return path


@pytest.fixture
def folder(tmp_path):
    """Six good files of several rates and channel counts, in two folders."""
    for i in range(3):
        write(tmp_path / f"src/cat/{i}.wav", noise(3000 + i, seed=i), 8000)
        write(tmp_path / f"src/dog/{i}.flac", noise(9000 + i, 2, seed=9 + i), 44100)
    return tmp_path / "src"


def contents(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_sixteen_bit_sound_at_its_own_rate_is_kept_bit_for_bit(tmp_path):
    rng = np.random.default_rng(3)
    ints = rng.integers(-32768, 32768, size=20001).astype(np.int16)
    write(tmp_path / "src/a.wav", ints, 11025)
    prepare(tmp_path / "src", tmp_path / "d", sfreq=11025)
    dataset = open_dataset(tmp_path / "d")
    np.testing.assert_array_equal(
        dataset.read(0, 0, 20001)[0] * 32768, ints.astype(np.float32)
    )


def test_resampled_sound_is_within_half_a_sixteen_bit_step(tmp_path):
    path = write(tmp_path / "src/a.wav", noise(30000, 2), 44100)
    prepare(tmp_path / "src", tmp_path / "d", sfreq=16000)
    first = soundfile.read(path, dtype="float32")[0][:, 0]
    want = resample(first, 44100, 16000)
    got = open_dataset(tmp_path / "d").read(0, 0, len(want))[0]
    peak = np.abs(want).max()
    rounded = 8 * np.spacing(peak)  # sums of products, in another order for blocks
    assert np.abs(got - want).max() <= 0.5 * peak / 32767 + rounded


def test_a_float_store_keeps_float_sound_exactly(tmp_path):
    x = noise(5000).astype(np.float32)
    write(tmp_path / "src/a.wav", x, subtype="FLOAT")
    prepare(tmp_path / "src", tmp_path / "d", payload="float32")
    np.testing.assert_array_equal(
        open_dataset(tmp_path / "d").read(0, 0, 5000)[0], x[:, 0]
    )


@pytest.mark.parametrize(
    ("channels", "names", "reference"),
    [
        ("first", ("first",), lambda x: x[:, :1]),
        ("mean", ("mean",), lambda x: x.mean(axis=1, keepdims=True)),
        ("all", ("left", "right"), lambda x: x),
    ],
)
def test_channels_are_chosen_as_asked(tmp_path, channels, names, reference):
    path = write(tmp_path / "src/a.wav", noise(4000, 2))
    prepare(tmp_path / "src", tmp_path / "d", channels=channels)
    dataset = open_dataset(tmp_path / "d")
    want = reference(soundfile.read(path, dtype="float32")[0]).T
    assert dataset.info.ch_names == names
    np.testing.assert_allclose(dataset.read(0, 0, 4000), want, atol=2e-5)


def test_items_are_the_files_in_the_order_of_their_paths(folder, tmp_path):
    summary = prepare(folder, tmp_path / "d", subdirs="animal", licence="CC0")
    dataset = open_dataset(tmp_path / "d")
    items = dataset.items.to_pylist()
    names = [
        f"{kind}/{i}.{end}"
        for kind, end in (("cat", "wav"), ("dog", "flac"))
        for i in range(3)
    ]
    assert [row["item"] for row in items] == names
    assert [row["animal"] for row in items] == ["cat"] * 3 + ["dog"] * 3
    for row in items:
        content = (folder / row["file"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert items[1]["n_samples"] == 2 * 3001
    assert (summary.n_items, summary.status, summary.skipped) == (6, "prepared", ())
    assert summary.hours == pytest.approx(sum(r["duration"] for r in items) / 3600)
    assert dataset.info.licence == "CC0"


def test_no_byte_depends_on_the_number_of_workers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_SHARD_BYTES", (9000, 9000))
    done = []
    prepare(folder, tmp_path / "one", workers=1)
    prepare(folder, tmp_path / "two", workers=2, progress=lambda *a: done.append(a))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(open_dataset(tmp_path / "one").info.shards) == 4
    assert [n for n, _, _ in done][-1] == 6
    assert done[-1][2] == pytest.approx(
        sum(3000 + i for i in range(3)) / 8000
        + sum(9000 + i for i in range(3)) / 44100,
        abs=1e-3,
    )


class Killed(BaseException):
    """Stands for the process being killed: nothing may catch it."""


@pytest.fixture
def killed_after_two_shards(folder, tmp_path, monkeypatch):
    """A preparation that died in its third of four shards; gives the shards written."""
    monkeypatch.setattr(shards, "_SHARD_BYTES", (9000, 9000))
    write_shard, written = shards.write_shard, []

    def dies(job):
        written.append(job.number)
        if len(written) == 3:
            (job.data / "00002.array_record.tmp").write_bytes(b"half a shard")
            raise Killed
        return write_shard(job)

    monkeypatch.setattr(shards, "write_shard", dies)
    with pytest.raises(Killed):
        prepare(folder, tmp_path / "d", workers=1)
    assert not (tmp_path / "d").exists()
    return written


def test_a_killed_preparation_goes_on_where_it_stopped(
    folder, tmp_path, killed_after_two_shards
):
    summary = prepare(folder, tmp_path / "d", subdirs="animal", workers=1)
    assert summary.status == "resumed"
    assert killed_after_two_shards == [0, 1, 2, 2, 3]
    prepare(folder, tmp_path / "whole", subdirs="animal", workers=1)
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")
    assert not (tmp_path / "d.partial").exists()


@pytest.mark.usefixtures("killed_after_two_shards")
def test_a_restart_with_other_settings_is_refused(folder, tmp_path):
    with pytest.raises(NeuroFMError, match=r"sfreq 16000.0 and not 8000.0"):
        prepare(folder, tmp_path / "d", sfreq=8000)


@pytest.mark.usefixtures("killed_after_two_shards")
def test_a_restart_with_changed_files_is_refused(folder, tmp_path):
    write(folder / "cat/0.wav", noise(50), 8000)
    with pytest.raises(NeuroFMError, match="other source files"):
        prepare(folder, tmp_path / "d")


def test_settings_bind_only_what_was_begun_with_them(folder, tmp_path, monkeypatch):
    def killed(job):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, tmp_path / "d", sfreq=11025)
    assert (tmp_path / "d.partial").is_dir()
    prepare(folder, tmp_path / "d", sfreq=8000)
    assert open_dataset(tmp_path / "d").info.sfreq == 8000
    assert not (tmp_path / "d.partial").exists()


def test_a_folder_that_happens_to_be_called_partial_is_not_emptied(folder, tmp_path):
    (tmp_path / "d.partial").mkdir()
    (tmp_path / "d.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(NeuroFMError, match=r"give another --out"):
        prepare(folder, tmp_path / "d")
    assert (tmp_path / "d.partial" / "thesis.txt").read_text() == "years of work"


def test_a_finished_dataset_is_reported_and_never_made_anew(folder, tmp_path):
    first = prepare(folder, tmp_path / "d", pattern=r"(?P<take>\d)\.")
    before = contents(tmp_path / "d")
    again = prepare(folder, tmp_path / "d", pattern=r"(?P<take>\d)\.")
    assert (again.status, again.hash) == ("already prepared", first.hash)
    with pytest.raises(NeuroFMError, match=r"pattern .* and not None"):
        prepare(folder, tmp_path / "d")
    assert contents(tmp_path / "d") == before


def test_a_folder_of_something_else_is_never_written_over(folder, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/thesis.txt").write_text("years of work")
    with pytest.raises(NeuroFMError, match="exists already"):
        prepare(folder, tmp_path / "d")


def hostile_files(src):
    write(src / "good.wav", noise(4000))
    (src / "empty.wav").write_bytes(b"")
    (src / "text.wav").write_text("this is no sound\n" * 40)
    write(src / "no_samples.wav", noise(0))
    spoilt = noise(4000).astype(np.float32)
    spoilt[7] = np.nan
    spoilt[1000:1003] = np.inf
    write(src / "nan.wav", spoilt, subtype="FLOAT")
    write(src / "silent.wav", np.zeros(4000))
    write(src / "short.wav", noise(3))
    for name in ("cut.wav", "cut.flac", "cut.ogg", "head.flac"):
        subtype = "VORBIS" if name.endswith("ogg") else "PCM_16"
        path = write(src / name, noise(200_000), 44100, subtype)
        content = path.read_bytes()
        keep = 60 if name.startswith("head") else len(content) // 2
        path.write_bytes(content[:keep])
    (src / "notes.txt").write_text("not a sound file")
    (src / "._good.wav").write_bytes(b"resource fork")


def test_hostile_files_are_skipped_or_kept_with_a_reason(tmp_path):
    hostile_files(tmp_path / "src")
    summary = prepare(tmp_path / "src", tmp_path / "d")
    skipped, notes = dict(summary.skipped), dict(summary.notes)
    assert skipped.keys() == {
        "empty.wav",
        "text.wav",
        "no_samples.wav",
        "nan.wav",
        "head.flac",
    }
    assert "0 bytes" in skipped["empty.wav"]
    assert "not sound" in skipped["text.wav"]
    assert skipped["nan.wav"] == "4 of 4000 samples are NaN or infinite"
    assert notes.keys() == {"silent.wav", "cut.wav", "cut.flac", "cut.ogg"}
    assert all("cut" in notes[f"cut.{end}"] for end in ("wav", "flac", "ogg"))
    dataset = open_dataset(tmp_path / "d")
    seconds = dict(
        zip(
            *dataset.items.select(["item", "duration"]).to_pydict().values(),
            strict=True,
        )
    )
    assert seconds.keys() == {"good.wav", "short.wav", *notes}
    # Half the file holds about half of its 4.5 seconds; what can be decoded is kept.
    assert all(1.8 < seconds[f"cut.{end}"] < 2.7 for end in ("wav", "flac", "ogg"))
    assert (tmp_path / "d/skipped.tsv").read_text().count("\n") == 6


def test_what_decodes_of_a_cut_flac_is_the_sound_that_was_written(tmp_path):
    path = write(tmp_path / "a.flac", noise(100_000), 16000)
    whole = soundfile.read(path, dtype="float32")[0]
    path.write_bytes(path.read_bytes()[:-30_000])
    found = read(path)
    n = found.samples.shape[1]
    np.testing.assert_array_equal(found.samples[0], whole[:n])
    assert 75_000 < n < 100_000
    assert len(found.notes) == 1


@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(max_size=300),
    kind=st.sampled_from(["wav", "flac", "ogg"]),
    start=st.sampled_from([b"", b"RIFF\xff\0\0\0WAVEfmt ", b"fLaC", b"OggS"]),
)
def test_any_bytes_are_sound_or_unreadable(tmp_path_factory, content, kind, start):
    path = tmp_path_factory.mktemp("bytes") / f"a.{kind}"
    path.write_bytes(start + content)
    try:
        found = read(path, 8000)
    except soundfiles.Unreadable:
        return
    assert found.samples.shape[1] > 0


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.wav").write_bytes(b"")
    with pytest.raises(NeuroFMError, match=r"none of the 1 files .*0 bytes"):
        prepare(tmp_path / "src", tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_folder_without_sound_says_what_it_holds(tmp_path):
    (tmp_path / "a.edf").write_bytes(b"x")
    with pytest.raises(NeuroFMError, match=r"1 \.edf"):
        prepare(tmp_path, tmp_path / "d")
    with pytest.raises(NeuroFMError, match="does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "d")


def test_files_with_another_number_of_channels_are_skipped_when_all_are_kept(tmp_path):
    write(tmp_path / "src/a.wav", noise(900, 2))
    write(tmp_path / "src/b.wav", noise(900, 3))
    summary = prepare(tmp_path / "src", tmp_path / "d", channels="all")
    assert summary.skipped == (("b.wav", "3 channels, the dataset has left, right"),)


def test_a_full_disk_is_foreseen(folder, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NeuroFMError, match="GB are free"):
        prepare(folder, tmp_path / "d")


def test_a_file_read_in_blocks_equals_the_file_read_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", noise(50_001, 3), 22050)
    whole = read(path, 16000, "mean").samples
    monkeypatch.setattr(soundfiles, "_BLOCK", 3000)
    np.testing.assert_array_equal(read(path, 16000, "mean").samples, whole)
    x = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    np.testing.assert_allclose(whole[0], resample(x, 22050, 16000), atol=1e-6)


def test_labels_intervals_and_splits_come_with_the_dataset(tmp_path):
    write(tmp_path / "src/x_1.wav", noise(16000))
    write(tmp_path / "src/y_2.wav", noise(8000))
    rows = ["file\tonset_s\toffset_s\tlabel\tsplit", "x_1.wav\t0.5\t1.25\ta\ttest"]
    (tmp_path / "src/t.tsv").write_text("\n".join(rows))
    table = tmp_path / "src/t.tsv"
    summary = prepare(
        tmp_path / "src", tmp_path / "d", labels=table, pattern="(?P<bird>.)_"
    )
    dataset = open_dataset(tmp_path / "d")
    assert dataset.items["split"].to_pylist() == ["test", ""]
    assert dataset.items["bird"].to_pylist() == ["x", "y"]
    assert dataset.events.to_pylist() == [
        {"item": "x_1.wav", "onset": 0.5, "duration": 0.5, "trial_type": "a"}
    ]
    assert any("1 of 1 end past the end" in note for _, note in summary.notes)
    assert json.dumps(summary.to_json())


@pytest.mark.parametrize("name", ["fsdd", "esc10", "birdsong"])
def test_real_recordings_are_all_kept_with_their_labels(tmp_path, name):
    table = {"birdsong": "syllables.tsv"}.get(name, "labels.tsv")
    if not (DATA / name / table).is_file():
        pytest.skip(f"{name} is not there; NEUROFM_DATA names the folder that holds it")
    lines = (DATA / name / table).read_text().splitlines()[1:]
    files = sorted({line.split("\t")[0] for line in lines})
    kept = files[:: len(files) // 8]
    for file in kept:
        (tmp_path / "src" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / file).symlink_to(DATA / name / file)
    summary = prepare(tmp_path / "src", tmp_path / "d", labels=DATA / name / table)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.items["file"].to_pylist() == kept
    assert summary.skipped == ()
    n_rows = sum(line.split("\t")[0] in kept for line in lines)
    assert n_rows == (len(dataset.events) if name == "birdsong" else len(dataset))
    for i, file in enumerate(kept):
        info = soundfile.info(DATA / name / file)
        n_samples = -(-info.frames * 16000 // info.samplerate)
        assert dataset.items["n_samples"][i].as_py() == n_samples
