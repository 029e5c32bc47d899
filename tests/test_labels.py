"""Labels from tables, file names and folders; bad tables are met with a sentence."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines import label_columns, labels
from neurofm.errors import NeuroFMError

FILES = ["a/0_george_1.wav", "a/1_theo_2.wav", "b/2_theo_3.wav"]


def table(tmp_path, *rows, name="labels.tsv", folder=""):
    path = tmp_path / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    return path


def manifest(**durations):
    """Rows as the writer makes them: one a segment; durations of a file's segments."""
    rows = [
        {"file": f"{name}.wav", "item": f"{name}.wav", "duration": d, "subject": ""}
        for name, parts in durations.items()
        for d in parts
    ]
    return pa.Table.from_pylist(rows)


def test_named_groups_become_columns():
    found = labels.from_pattern(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_", FILES)
    assert found.columns["digit"] == dict(zip(FILES, "012", strict=True))
    assert found.columns["speaker"][FILES[1]] == "theo"
    assert found.notes == ()


def test_files_that_do_not_match_are_counted_with_the_first():
    found = labels.from_pattern(r"(?P<who>theo)", FILES)
    assert found.columns["who"] == {FILES[1]: "theo", FILES[2]: "theo"}
    assert len(found.notes) == 1
    assert "1 of 3" in found.notes[0][1]
    assert FILES[0] in found.notes[0][1]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "no regular expression"),
        (r"\d", "no named group"),
        ("(?P<x>ß)", "none of"),
    ],
)
def test_a_useless_pattern_is_refused(pattern, words):
    with pytest.raises(NeuroFMError, match=words):
        labels.from_pattern(pattern, FILES)


def test_sub_folders_become_columns_level_by_level():
    files = ["x/y/1.wav", "x/z/2.wav", "w/3.wav"]
    assert labels.from_subdirs("class", files).columns == {
        "class": {"x/y/1.wav": "x", "x/z/2.wav": "x", "w/3.wav": "w"}
    }
    deep = labels.from_subdirs("speaker/chapter", files)
    assert deep.columns["chapter"] == {"x/y/1.wav": "y", "x/z/2.wav": "z"}
    assert "1 of 3" in deep.notes[0][1]


@pytest.mark.parametrize(("names", "files"), [("class", ["1.wav"]), ("a//b", FILES)])
def test_sub_folders_that_are_not_there_are_refused(names, files):
    with pytest.raises(NeuroFMError, match=r"sub-folder"):
        labels.from_subdirs(names, files)


@pytest.mark.parametrize("prefix", ["", "./", "../src/"])
def test_a_file_is_found_relative_to_the_source_or_to_the_table(tmp_path, prefix):
    src = tmp_path / "src"
    rows = [[f"{prefix}{file}", str(i)] for i, file in enumerate(FILES)]
    beside = table(tmp_path, ["file", "n"], *rows, folder="src" if prefix else "other")
    found = labels.from_table(beside, src, FILES)
    assert found.columns == {"n": dict(zip(FILES, "012", strict=True))}


def test_a_table_above_the_source_may_name_the_path_down_to_it(tmp_path):
    path = table(tmp_path, ["file", "n"], ["src/a/0_george_1.wav", "5"])
    found = labels.from_table(path, tmp_path / "src", FILES)
    assert found.columns == {"n": {FILES[0]: "5"}}
    assert [note for _, note in found.notes] == [
        f"2 of 3 files have no row, and so no labels (first: {FILES[1]})"
    ]


def test_rows_without_a_file_and_repeated_rows_are_counted(tmp_path):
    row = [FILES[0], "x"]
    path = table(tmp_path, ["file", "n"], row, ["gone.wav", "y"], row)
    notes = " ".join(note for _, note in labels.from_table(path, tmp_path, FILES).notes)
    assert "1 of 3 rows name no sound file that is there (first: line 3)" in notes
    assert "1 of 2 rows repeat another one (first: line 4)" in notes


def test_columns_that_are_measured_are_left_out_with_a_note(tmp_path):
    path = table(tmp_path, ["file", "n_samples", "who"], [FILES[0], "5", "x"])
    found = labels.from_table(path, tmp_path, FILES)
    assert list(found.columns) == ["who"]
    assert any("n_samples" in note for _, note in found.notes)


def test_intervals_are_sorted_and_keep_their_other_columns(tmp_path):
    path = table(
        tmp_path,
        ["file", "onset_s", "offset_s", "label", "who"],
        [FILES[0], "1.5", "2", "b", "x"],
        [FILES[0], "0.25", "0.5", "a", "n/a"],
        [FILES[0], "1.5", "2", "b", "x"],
    )
    found = labels.from_table(path, tmp_path, FILES)
    assert found.events == {
        FILES[0]: [
            {"onset": 0.25, "duration": 0.25, "trial_type": "a"},
            {"onset": 1.5, "duration": 0.5, "trial_type": "b", "who": "x"},
        ]
    }
    assert any("1 of 3 rows repeat" in note for _, note in found.notes)


def test_bids_words_mark_intervals_as_well(tmp_path):
    path = table(
        tmp_path,
        ["file", "onset", "duration", "trial_type", "label", "split"],
        [FILES[1], "3", "0", "go", "l", "test"],
    )
    found = labels.from_table(path, tmp_path, FILES)
    assert found.events[FILES[1]] == [
        {"onset": 3.0, "duration": 0.0, "trial_type": "go", "label": "l"}
    ]
    assert found.columns == {"split": {FILES[1]: "test"}}


INTERVAL = ["file", "onset_s", "offset_s"]
BAD_TABLES = {
    "no column 'file'": [["name"], ["x"]],
    "header and no rows": [["file", "n"]],
    "unnamed or repeated": [["file", "n", "n"], [FILES[0], "1", "2"]],
    "line 3 of .* has 1 fields": [["file", "n"], [FILES[0], "1"], [FILES[1]]],
    "none of the 1 rows": [["file", "n"], ["nowhere.wav", "1"]],
    "twice and differently": [["file", "n"], [FILES[0], "1"], [FILES[0], "2"]],
    "neither 'offset_s' nor 'duration'": [["file", "onset_s"], [FILES[0], "1"]],
    "lasts -1 s": [INTERVAL, [FILES[0], "2", "1"]],
    "from -2 s": [INTERVAL, [FILES[0], "-2", "1"]],
    "expected seconds": [INTERVAL, [FILES[0], "soon", "1"]],
    "'nan'; expected seconds": [INTERVAL, [FILES[0], "0", "nan"]],
    "two splits": [
        [*INTERVAL, "split"],
        [FILES[0], "0", "1", "train"],
        [FILES[0], "1", "2", "test"],
    ],
    "expected train, valid or test": [["file", "split"], [FILES[0], "dev"]],
}


@pytest.mark.parametrize("words", BAD_TABLES)
def test_a_bad_table_is_met_with_one_sentence(tmp_path, words):
    path = table(tmp_path, *BAD_TABLES[words])
    with pytest.raises(NeuroFMError, match=words) as caught:
        labels.gather(tmp_path, FILES, table=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_table_that_cannot_be_read_is_met_with_one_sentence(tmp_path, content):
    path = tmp_path / "labels.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NeuroFMError, match="cannot be read"):
        labels.from_table(path, tmp_path, FILES)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "labels.tsv"
    path.write_bytes(b"\xef\xbb\xbffile\twho\r\n" + FILES[0].encode() + b"\tx\r\n")
    assert labels.from_table(path, tmp_path, FILES).columns == {"who": {FILES[0]: "x"}}


@given(text=st.text(alphabet="file\t\r\n\x00\u2028\"'a.wv0", max_size=60))
def test_any_text_is_a_table_or_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("t") / "labels.tsv"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        found = labels.from_table(path, path.parent, ["a.wav", "0"])
    except NeuroFMError:
        return
    assert all(set(values) <= {"a.wav", "0"} for values in found.columns.values())


def test_a_column_from_two_sources_is_refused(tmp_path):
    path = table(tmp_path, ["file", "who"], [FILES[0], "x"])
    with pytest.raises(NeuroFMError, match="'who' is given by"):
        labels.gather(tmp_path, FILES, table=path, pattern="(?P<who>.)")


def test_sources_are_joined(tmp_path):
    path = table(tmp_path, ["file", "n"], *[[file, "1"] for file in FILES])
    found = labels.gather(Path(tmp_path), FILES, path, "(?P<speaker>theo)", "folder")
    assert list(found.columns) == ["n", "speaker", "folder"]


def test_a_column_that_looks_like_a_split_is_pointed_out(tmp_path):
    rows = [[FILES[0], "train", "test"], [FILES[1], "test", "test"]]
    path = table(tmp_path, ["file", "official", "mood"], *rows)
    notes = [note for _, note in labels.gather(tmp_path, FILES[:2], path).notes]
    assert len(notes) == 1
    assert "data.hold_out=official=test" in notes[0]


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "-20", None], pa.int64(), [1, -20, None]),
        (["1", "2.5", "3e2"], pa.float64(), [1.0, 2.5, 300.0]),
        (["007", "8"], pa.string(), ["007", "8"]),
        (["1", "x"], pa.string(), ["1", "x"]),
        (["nan", "1"], pa.string(), ["nan", "1"]),
        ([None, None], pa.string(), [None, None]),
        (["9" * 30], pa.float64(), [1e30]),
    ],
)
def test_a_column_is_numbers_only_where_every_text_is_one(texts, kind, values):
    column = label_columns.typed(texts)
    assert column.type == kind
    assert column.to_pylist() == values


def test_attached_labels_reach_every_segment_and_keep_bids_columns_text():
    found = labels.Labels({"subject": {"a.wav": "03"}, "fold": {"a.wav": "2"}})
    rows, _, _ = labels.attach(manifest(a=[8.0, 1.0], b=[4.0]), found)
    assert rows["subject"].to_pylist() == ["03", "03", ""]
    assert rows["fold"].to_pylist() == [2, 2, None]


def test_intervals_past_the_end_are_cut_or_left_out_and_counted():
    events = [
        {"onset": 0.0, "duration": 1.0, "trial_type": "in"},
        {"onset": 8.5, "duration": 0.5004, "trial_type": "rounded"},
        {"onset": 8.5, "duration": 2.0, "trial_type": "over"},
        {"onset": 9.0, "duration": 1.0, "trial_type": "out"},
    ]
    found = labels.Labels(events={"a.wav": events})
    _, kept, notes = labels.attach(manifest(a=[8.0, 1.0]), found)
    assert kept["trial_type"].to_pylist() == ["in", "rounded", "over"]
    assert kept["duration"].to_pylist() == [1.0, 0.5, 0.5]
    assert kept["item"].to_pylist() == ["a.wav"] * 3
    assert [note.split(" (")[0] for _, note in notes] == [
        "1 of 4 begin past the end and are left out",
        "1 of 4 end past the end and are cut there",
    ]
