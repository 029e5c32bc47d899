"""`check` says what a path holds, what is wrong with it and what to type next."""

import io
import json
import shlex

import jax
import numpy as np
import pytest
import soundfile
from rich.console import Console
from tiny_models import tiny

from data_pipelines.audio import prepare
from neurofm import check as checking
from neurofm.check import check, render
from neurofm.errors import NeuroFMError


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).normal(size=n_samples) * 0.1


@pytest.fixture
def sounds(tmp_path):
    """Two labelled classes, one file that cannot be read and one that is silent."""
    src = tmp_path / "my sounds"
    for kind in ("cat", "dog"):
        (src / kind).mkdir(parents=True)
    soundfile.write(src / "cat/a.wav", noise(8000), 8000)
    soundfile.write(src / "cat/b.wav", noise(16000, 1), 8000)
    soundfile.write(src / "dog/c.flac", noise(44100, 2), 44100)
    soundfile.write(src / "dog/quiet.flac", np.zeros(44100), 44100)
    (src / "dog/empty.wav").write_bytes(b"")
    (src / "read me").write_text("hello")
    (src / "labels.tsv").write_text("file\twho\tsplit\ncat/a.wav\tx\ttrain\n")
    return src


def shown(findings):
    console = Console(file=io.StringIO(), width=100)
    render(findings, console)
    return console.file.getvalue()


def test_a_folder_of_sound_is_counted_by_format(sounds):
    found = check(sounds)
    rows = [tuple(row.values()) for row in found.facts["formats"]]
    assert rows == [
        ("FLAC PCM_16", 44100, 1, 2, pytest.approx(2 / 3600)),
        ("WAV PCM_16", 8000, 1, 2, pytest.approx(3 / 3600)),
    ]
    assert (found.kind, found.facts["n_files"], found.facts["n_readable"]) == (
        "sound",
        5,
        4,
    )
    assert found.facts["other_files"] == {"no suffix": 1, ".tsv": 1}
    problems = dict(found.problems)
    assert problems["dog/empty.wav"] == "skipped: empty file (0 bytes)"
    assert "silence" in problems["dog/quiet.flac"]
    assert json.loads(json.dumps(found.to_json()))["hours"] == pytest.approx(5 / 3600)


def test_the_next_command_prepares_the_folder_as_it_lies(sounds, tmp_path):
    words = shlex.split(check(sounds).next[0])
    assert words[:4] == ["neurofm", "prepare", "audio", str(sounds)]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given.keys() == {"--out", "--labels", "--subdirs"}
    prepare(
        words[3],
        tmp_path / given["--out"],
        labels=given["--labels"],
        subdirs=given["--subdirs"],
    )
    found = check(tmp_path / given["--out"])
    assert found.facts["labels"]["class"]["most"] == {"cat": 2, "dog": 2}


def test_only_headers_are_read_beyond_the_budget(sounds, monkeypatch):
    monkeypatch.setattr(checking, "_DECODED_BYTES", 20_000)
    found = check(sounds)
    assert found.facts["n_decoded"] < found.facts["n_readable"] == 4


def test_a_single_file_is_checked_too(sounds):
    found = check(sounds / "cat/b.wav")
    assert (found.kind, found.facts["longest_s"]) == ("sound", 2.0)


def test_a_dataset_shows_contract_splits_labels_and_what_was_skipped(sounds, tmp_path):
    summary = prepare(sounds, tmp_path / "d", labels=sounds / "labels.tsv")
    found = check(tmp_path / "d")
    facts = found.facts
    assert (facts["n_items"], facts["sfreq"], facts["hash"]) == (4, 16000, summary.hash)
    assert facts["splits"] == {
        "none": {"n_items": 3, "hours": pytest.approx(4 / 3600, rel=1e-3)},
        "train": {"n_items": 1, "hours": pytest.approx(1 / 3600, rel=1e-3)},
    }
    assert facts["labels"] == {"who": {"n_values": 1, "n_missing": 3, "most": {"x": 1}}}
    assert ("dog/empty.wav", "skipped: empty file (0 bytes)") in found.problems
    assert any("who" in command for command in found.next)
    json.dumps(found.to_json())


def test_the_same_file_in_two_splits_is_named(tmp_path):
    (tmp_path / "src").mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"src/{name}.wav", noise(800, name == "c"), 16000)
    rows = ["file\tsplit", "a.wav\ttrain", "b.wav\ttest", "c.wav\ttest"]
    (tmp_path / "t.tsv").write_text("\n".join(rows))
    prepare(tmp_path / "src", tmp_path / "d", labels=tmp_path / "t.tsv")
    problems = dict(check(tmp_path / "d").problems)
    assert "a.wav" in problems["b.wav"]
    assert problems.keys() == {"b.wav"}


def test_a_model_shows_its_step_size_and_contract(tmp_path):
    from neurofm.model import save

    model = tiny()
    variables = model.variables
    save(tmp_path / "m", model.task, variables, {"step": 7})
    found = check(tmp_path / "m")
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in variables.items()
    }
    assert found.kind == "model"
    assert found.facts["step"] == 7
    assert found.facts["n_params"] == sizes["params"]
    assert found.facts["n_params_total"] == sum(sizes.values())
    assert found.facts["contract"]["window_samples"] == 250
    assert len(found.facts["params_sha256"]) == 64
    json.dumps(found.to_json())


def test_what_neurofm_does_not_read_is_named_as_such(tmp_path):
    (tmp_path / "a.xyz").write_text("")
    found = check(tmp_path)
    assert (found.kind, found.facts["other_files"]) == ("unknown", {".xyz": 1})
    assert check(tmp_path / "a.xyz").kind == "unknown"
    with pytest.raises(NeuroFMError, match="does not exist"):
        check(tmp_path / "nothing")


def test_an_unfinished_dataset_asks_for_the_same_command_again(tmp_path):
    (tmp_path / "d.partial").mkdir()
    with pytest.raises(NeuroFMError, match="not finished"):
        check(tmp_path / "d")


def test_a_screen_shows_facts_problems_and_the_next_command(sounds):
    text = shown(check(sounds))
    assert "FLAC PCM_16" in text
    assert "empty file" in text
    assert "neurofm prepare audio" in text


def test_a_screen_says_how_many_problems_it_leaves_out(tmp_path):
    for i in range(23):
        (tmp_path / f"{i:02d}.wav").write_bytes(b"")
    text = shown(check(tmp_path))
    assert "19.wav" in text
    assert "20.wav" not in text
    assert "and 3 more" in text
