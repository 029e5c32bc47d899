"""Corpora in their original layout, through tfds' array_record, into record stores."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from data_pipelines.tfds_names import folder_of
from data_pipelines.tfds_records import build, prepare
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError


def write(path, seed, sfreq=16000, n=1703):
    x = np.random.default_rng(seed).integers(-9000, 9000, n).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, x, sfreq, subtype="PCM_16")
    return x


def librispeech(root):
    waves = {}
    for part, speaker in (("train-clean-100", 103), ("dev-other", 116)):
        folder = root / "LibriSpeech" / part / str(speaker) / "1240"
        names = [f"{speaker}-1240-{i:04d}" for i in range(3)]
        for i, name in enumerate(names):
            file = f"{part}/{speaker}/1240/{name}.flac"
            waves[file] = write(folder / f"{name}.flac", seed=speaker + i, n=900 + i)
        lines = [f"{name} CHAPTER {i} OF IT\n" for i, name in enumerate(names)]
        (folder / f"{speaker}-1240.trans.txt").write_text("".join(lines))
    return waves


def speech_commands(root):
    files = ["yes/0a_nohash_0.wav", "yes/0b_nohash_1.wav", "no/0a_nohash_0.wav"]
    waves = {file: write(root / file, seed) for seed, file in enumerate(files)}
    write(root / "_background_noise_/pink.wav", 9)
    (root / "validation_list.txt").write_text("yes/0b_nohash_1.wav\n")
    (root / "testing_list.txt").write_text("no/0a_nohash_0.wav\n")
    return waves


def esc50(root):
    head = "filename,fold,target,category,esc10,src_file,take\n"
    names = ["1-100032-A-0.wav", "3-17367-B-10.wav"]
    rows = ["1-100032-A-0.wav,1,0,dog,True,100032,A\n"]
    rows.append("3-17367-B-10.wav,3,10,rain,False,17367,B\n")
    (root / "meta").mkdir(parents=True)
    (root / "meta/esc50.csv").write_text(head + "".join(rows))
    return {
        f"audio/{name}": write(root / "audio" / name, seed, 44100)
        for seed, name in enumerate(names)
    }


EXPECTED = {
    "librispeech": (
        librispeech,
        {"train": 3, "valid": 3},
        {"speaker": "116", "chapter": "1240", "text": "CHAPTER 2 OF IT"},
        "dev-other/116/1240/116-1240-0002.flac",
    ),
    "speech_commands": (
        speech_commands,
        {"train": 1, "valid": 1, "test": 1},
        {"word": "yes", "speaker": "0b", "split": "valid"},
        "yes/0b_nohash_1.wav",
    ),
    "esc50": (
        esc50,
        {"train": 2},
        {"category": "rain", "fold": 3, "esc10": False, "source": "17367"},
        "audio/3-17367-B-10.wav",
    ),
}


@pytest.mark.parametrize("corpus", EXPECTED)
def test_a_corpus_keeps_its_samples_splits_and_labels(tmp_path, corpus):
    make, splits, labels, file = EXPECTED[corpus]
    waves = make(tmp_path / "src")
    sfreq = 44100 if corpus == "esc50" else 16000
    done = prepare(tmp_path / "src", tmp_path / "d", corpus=corpus, sfreq=sfreq)
    assert done.n_items == len(waves)
    dataset = open_dataset(tmp_path / "d")
    rows = {row["file"]: (i, row) for i, row in enumerate(dataset.items.to_pylist())}
    assert set(rows) == set(waves)
    for name, wave in waves.items():
        got = dataset.read(rows[name][0], 0, len(wave))[0] * 32768
        np.testing.assert_array_equal(got, wave)
    found = [row["split"] for _, row in rows.values()]
    assert {split: found.count(split) for split in found} == splits
    row = rows[file][1]
    assert {name: row[name] for name in labels} == labels


def test_a_prepared_folder_is_taken_as_it_is_and_resampled(tmp_path):
    waves = esc50(tmp_path / "src")
    folder = build("esc50", tmp_path / "src", tmp_path / "tfds")
    prepare(folder, tmp_path / "d", sfreq=16000)
    dataset = open_dataset(tmp_path / "d")
    n = len(next(iter(waves.values())))
    assert dataset.items["n_samples"].to_pylist() == [-(-n * 16000 // 44100)] * 2
    with pytest.raises(NeuroFMError, match=r"no feature 'sound'; it has audio, "):
        prepare(folder, tmp_path / "e", audio="sound")


def test_a_name_is_found_where_tfds_prepared_it(tmp_path, monkeypatch):
    esc50(tmp_path / "src")
    folder = build("esc50", tmp_path / "src", tmp_path / "tfds")
    name = folder.parent.name
    older = folder.with_name("0.10.0")
    shutil.copytree(folder, older)
    assert folder_of(name, tmp_path / "tfds") == folder
    assert folder_of(f"{name}:0.10.0", tmp_path / "tfds") == older
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert prepare(name, tmp_path / "d", sfreq=44100).n_items == 2
    words = ["prepare", "tfds", name, "--out", str(tmp_path / "e"), "--json"]
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    missing = CliRunner().invoke(cli, words)
    assert f"no dataset {name} is prepared in {tmp_path}/tensor" in missing.output
    (tmp_path / "tfds").rename(tmp_path / "tensorflow_datasets")
    done = CliRunner().invoke(cli, words)
    assert json.loads(done.stdout)["n_items"] == 2


def test_a_name_that_leads_nowhere_or_two_ways_is_one_sentence(tmp_path):
    def made(place, form):
        (tmp_path / place).mkdir(parents=True)
        info = {} if form is None else {"fileFormat": form}
        (tmp_path / place / "dataset_info.json").write_text(json.dumps(info))

    made("old/1.0.0", None)
    made("two/en/2.9.0", "array_record")
    made("two/en/2.10.0", "array_record")
    made("two/fr/1.0.0", "array_record")
    made("two/fr/1.1.0", "tfrecord")
    assert folder_of("two/en", tmp_path) == tmp_path / "two/en/2.10.0"
    assert folder_of("two/fr", tmp_path) == tmp_path / "two/fr/1.0.0"
    for name, words in {
        "old": r"old is prepared in .* as tfrecord, which only TensorFlow reads: .*"
        r"`tfds build old --file_format=array_record`",
        "two": "two has several configurations: give one of two/en, two/fr$",
        "two/en:1.0.0": "no dataset two/en:1.0.0 is prepared in",
        "new": r"no dataset new is prepared in .* \(there is old, two\)",
        "No Name": "No Name is neither a folder nor the name",
    }.items():
        with pytest.raises(NeuroFMError, match=words):
            folder_of(name, tmp_path)
    with pytest.raises(NeuroFMError, match=r"gs://b/x is in a store, and prepare tfds"):
        prepare("gs://b/x", tmp_path / "d")


def test_tensorflow_is_never_imported(tmp_path):
    esc50(tmp_path / "src")
    (tmp_path / "trap").mkdir()
    trap = tmp_path / "trap" / "tensorflow.py"
    trap.write_text("raise SystemExit('tensorflow was imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(trap.parent)!r})\n"
        "from data_pipelines.tfds_records import prepare\n"
        f"prepare({str(tmp_path / 'src')!r}, {str(tmp_path / 'd')!r}, corpus='esc50')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_no_such_dataset_or_corpus_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NeuroFMError, match=r"no prepared version of a tfds dataset"):
        prepare(tmp_path / "empty", tmp_path / "d")
    with pytest.raises(NeuroFMError, match=r"no builder for 'esc51'"):
        prepare(tmp_path / "empty", tmp_path / "d", corpus="esc51")
    with pytest.raises(NeuroFMError, match=r"is not esc50 as it was published"):
        prepare(tmp_path / "empty", tmp_path / "d", corpus="esc50")


def test_the_command_takes_the_options_of_its_kind_and_no_others(tmp_path):
    esc50(tmp_path / "src")
    words = ["prepare", "tfds", str(tmp_path / "src"), "--out", str(tmp_path / "d")]
    done = CliRunner().invoke(cli, [*words, "--corpus", "esc50", "--json"])
    assert json.loads(done.stdout)["n_items"] == 2
    refused = CliRunner().invoke(cli, [*words, "--subdirs", "class"])
    assert refused.exit_code == 1
    assert "prepare tfds has no option --subdirs" in refused.output
