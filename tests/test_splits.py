"""Splits that do not leak: gaps, recordings and stimuli on one side, files."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TINY

from neurofm.config import Data
from neurofm.data import labelled
from neurofm.data.candidates import candidates
from neurofm.data.layout import DatasetInfo
from neurofm.data.records import Recording, open_dataset, write_dataset
from neurofm.data.sides import sides
from neurofm.errors import NeuroFMError
from neurofm.eval import leaks, split_file
from neurofm.eval.examples import from_dataset
from neurofm.eval.places import Places
from neurofm.eval.splits import Fold
from neurofm.models.finetune import Finetune

RATE = 100.0


def store(path, rows, events=(), seconds=20.0):
    """Recordings of noise, one a row; `events` as (number of the row, event)."""
    info = DatasetInfo(kind="audio", sfreq=RATE, unit="full_scale", ch_names=("mono",))
    rng = np.random.default_rng(0)
    made = []
    for i, meta in enumerate(rows):
        wave = rng.normal(0, 0.1, (1, int(seconds * RATE))).astype(np.float32)
        own = [event for row, event in events if row == i]
        made.append(Recording(item=f"r{i}", samples=wave, meta=meta, events=own))
    write_dataset(path, info, made)
    return open_dataset(path)


@pytest.fixture
def two(tmp_path):
    """Two recordings of 20 s with an event of 0.2 s every half second."""
    events = [
        (row, {"onset": at, "duration": 0.2, "trial_type": "ab"[i % 2], "song": i % 5})
        for row in (0, 1)
        for i, at in enumerate(np.arange(0, 19.5, 0.5))
    ]
    return store(tmp_path / "two", [{"room": "x"}, {"room": "x"}], events)


def places(timeline, span):
    names = np.array([f"e{i}" for i in range(len(span))])
    span = np.asarray(span, float)
    line = np.asarray(timeline, str)
    return Places(names, line, line, line, span, span, frozenset(names.tolist()))


spans = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 6)),
    min_size=4,
    max_size=14,
)


@given(spans, st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_a_guard_leaves_out_all_that_is_near_and_nothing_else(drawn, gap, data):
    where = places([r for r, _, _ in drawn], [(a, a + n + 1) for _, a, n in drawn])
    side = np.array(data.draw(st.lists(st.integers(0, 2), min_size=14, max_size=14)))
    rows = [np.flatnonzero(side[: len(drawn)] == k) for k in range(3)]
    fold = Fold(train=rows[0], valid=rows[1], test=rows[2])

    def far(row, others):
        a, b = where.span[row]
        return all(
            where.timeline[row] != where.timeline[o]
            or max(where.span[o][0] - b, a - where.span[o][1]) >= gap
            for o in others
        )

    valid = [r for r in rows[1] if far(r, rows[2])]
    train = [r for r in rows[0] if far(r, [*rows[2], *valid])]
    if not train:
        with pytest.raises(NeuroFMError, match="leaves no training example"):
            leaks.guarded(fold, where, gap)
        return
    kept, lost = leaks.guarded(fold, where, gap)
    assert kept.train.tolist() == train
    assert kept.valid.tolist() == valid
    assert lost == len(rows[0]) + len(rows[1]) - len(train) - len(valid)
    leaks.refuse([kept], where, gap)


def test_blocks_are_tested_in_turn_and_keep_their_gap(two):
    found = from_dataset(two, "trial_type", None, "blocks:4", gap_s=1.0)
    assert len(found.folds) == 4
    tested = np.concatenate([fold.test for fold in found.folds])
    assert sorted(tested.tolist()) == list(range(78))
    for i, fold in enumerate(found.folds):
        middle = found.span[fold.test].mean(1)
        assert (middle // 5 == i).all()
        for row in (0, 1):
            test = found.span[fold.test[found.row[fold.test] == row]]
            train = found.span[fold.train[found.row[fold.train] == row]]
            apart = np.maximum(
                test[:, None, 0] - train[None, :, 1],
                train[None, :, 0] - test[:, None, 1],
            )
            assert apart.min() >= 1.0
    assert found.left_out["near_another_side"] > 0
    assert found.over == "blocks"
    assert len(np.unique(found.clusters)) == 8


def test_events_are_held_apart_by_what_is_read_around_them(two):
    narrow = from_dataset(two, "trial_type", None, "blocks:4", None, 1.0)
    wide = from_dataset(two, "trial_type", None, "blocks:4", (-1.0, 2.0), 1.0)
    key = "near_another_side"
    assert wide.left_out[key] > narrow.left_out[key]


def test_an_event_without_a_duration_is_a_moment_that_gaps_hold_for(tmp_path):
    events = [
        (0, {"onset": at, "duration": None, "trial_type": "ab"[i % 2]})
        for i, at in enumerate(np.arange(0.25, 19.5, 0.5))
    ]
    found = from_dataset(
        store(tmp_path / "d", [{}], events), "trial_type", None, "blocks:4", gap_s=0.6
    )
    for fold in found.folds:
        onset = [found.span[rows, 0] for rows in (fold.train, fold.test)]
        assert abs(onset[0][:, None] - onset[1]).min() >= 0.6
    assert found.left_out["near_another_side"] > 0


def test_a_recording_on_two_sides_is_refused(tmp_path, two):
    with pytest.raises(NeuroFMError, match="timeline r0 is in the splits train and te"):
        from_dataset(two, "trial_type", None, "song=1")
    rows = [
        {
            "word": "ab"[i % 2],
            "part": ["train", "test"][i // 4],
            "timeline": f"t{i % 5}",
        }
        for i in range(8)
    ]
    shared = store(tmp_path / "shared", rows, seconds=1)
    with pytest.raises(NeuroFMError, match="timeline t0 is in the splits train and te"):
        from_dataset(shared, "word", None, "part")
    twice = [
        Recording(
            item=f"r{i}",
            samples=np.full((1, 50), 0.1 * (i % 4), np.float32) + 0.1,
            meta={"word": "ab"[i % 2], "part": ["train", "test"][i // 4]},
        )
        for i in range(8)
    ]
    write_dataset(tmp_path / "twice", shared.info, twice)
    with pytest.raises(NeuroFMError, match=r"sha256 .* \(4 such in all\).*leaks"):
        from_dataset(open_dataset(tmp_path / "twice"), "word", None, "part")


def test_folds_of_recordings_keep_a_timeline_whole(tmp_path):
    rows = [{"word": "ab"[i % 2], "timeline": f"t{i // 3}"} for i in range(18)]
    data = store(tmp_path / "d", rows, seconds=1)
    for fold in from_dataset(data, "word", None, "kfold:3").folds:
        assert not set(fold.train // 3) & set(fold.test // 3)


def test_a_stimulus_on_two_sides_is_refused_where_it_is_declared(two):
    by_item = {"split": "item=r1"}
    from_dataset(two, "trial_type", None, **by_item)
    with pytest.raises(
        NeuroFMError, match="stimulus 0 is in the splits train and test"
    ):
        from_dataset(two, "trial_type", None, stimulus="song", **by_item)
    with pytest.raises(NeuroFMError, match="no column 'sing' to use as stimulus"):
        from_dataset(two, "trial_type", None, stimulus="sing", **by_item)


def test_a_file_gives_the_same_split_again(tmp_path, two):
    made = from_dataset(two, "trial_type", None, "blocks:4", gap_s=1.0)
    path = tmp_path / "split.json"
    path.write_text(json.dumps(made.split))
    again = from_dataset(two, "trial_type", None, str(path))
    assert again.split == made.split
    for one, other in zip(made.folds, again.folds, strict=True):
        assert one.name == other.name
        for side in split_file.SIDES:
            assert getattr(one, side).tolist() == getattr(other, side).tolist()
    moved = from_dataset(two, "trial_type", None, "blocks:4", gap_s=2.0)
    assert moved.split["sha256"] != made.split["sha256"]
    with pytest.raises(NeuroFMError, match="says itself what is kept apart"):
        from_dataset(two, "trial_type", None, str(path), gap_s=1.0)


def test_a_file_of_recordings_parts_their_events(tmp_path, two):
    made = from_dataset(two, "room", None, "item=r1")
    (tmp_path / "split.json").write_text(json.dumps(made.split))
    found = from_dataset(two, "trial_type", None, str(tmp_path / "split.json"))
    (fold,) = found.folds
    assert (found.row[fold.test] == 1).all()
    assert len(fold.test) == len(fold.train) == 39


def test_a_draw_has_its_seed(tmp_path):
    data = store(tmp_path / "d", [{"word": "ab"[i % 2]} for i in range(12)], seconds=1)
    zero, same, other = (
        [fold.test.tolist() for fold in from_dataset(data, "word", None, split).folds]
        for split in ("kfold:3", "kfold:3:0", "kfold:3:1")
    )
    assert zero == same != other


def changed(told, **changes):
    """The file with other content, signed anew."""
    told = {k: v for k, v in {**told, **changes}.items() if k != "sha256"}
    return {**told, "sha256": split_file._sha256(told)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: {**told, "gap_s": 0.5}, "was changed after it was made"),
        (lambda told: changed(told, data="feed"), "split of other data .hash feed"),
        (lambda told: {"folds": []}, "is no split"),
        (lambda told: {**told, "folds": [{"name": "0"}]}, "cannot be read as a split"),
        (lambda told: 7, "cannot be read as a split"),
        (
            lambda told: changed(
                told,
                folds=[
                    {"name": "0", "train": ["r0", "x"], "valid": [], "test": ["r1"]}
                ],
            ),
            "names 1 examples that the data lack .first: x",
        ),
        (
            lambda told: changed(
                told, folds=[{"name": "0", "train": ["r0"], "valid": [], "test": []}]
            ),
            "the fold 0 of .* has 39 training and 0 test",
        ),
        (
            lambda told: changed(told, gap_s=5.0),
            "lies nearer than 5 s to an example of",
        ),
        (lambda told: changed(told, gap_s=None), "timeline r0 is in the splits"),
        (lambda told: changed(told, groups="song"), "5 groups are in training and in"),
        (lambda told: changed(told, gap_s="1"), "is no split"),
        (lambda told: changed(told, gap_s=-1.0), "is -1.0 s: give 0 or more"),
        (lambda told: changed(told, data=7), "is no split"),
        (lambda told: changed(told, groups=["song"]), "is no split"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, two, change, words):
    told = from_dataset(two, "trial_type", None, "blocks:4", gap_s=1.0).split
    path = tmp_path / "split.json"
    path.write_text(json.dumps(change(told)))
    with pytest.raises(NeuroFMError, match=words):
        from_dataset(two, "trial_type", None, str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "blocks:4"}, "name the seconds between .* as --gap"),
        ({"split": "blocks:2", "gap_s": 1.0}, "3 or more blocks"),
        ({"split": "blocks:4", "gap_s": 30.0}, "leaves no training example"),
        ({"split": "no.json"}, "cannot be read as a split"),
        ({"split": "blocks:4", "gap_s": -1.0}, "is -1.0 s: give 0 or more seconds"),
        ({"split": "blocks:4", "gap_s": float("nan")}, "is nan s: give 0 or more"),
    ],
)
def test_a_split_in_time_that_cannot_be_is_one_sentence(two, options, words):
    with pytest.raises(NeuroFMError, match=words):
        from_dataset(two, "trial_type", None, **options)


def test_whole_recordings_have_no_blocks(tmp_path):
    data = store(tmp_path / "d", [{"word": "ab"[i % 2]} for i in range(6)], seconds=1)
    with pytest.raises(NeuroFMError, match="leaves the block 0 without examples"):
        from_dataset(data, "word", None, "blocks:3", gap_s=0.0)


# ---- fine-tuning takes the same splits


def sides_of(dataset, **data):
    """Names on each side of the examples that fine-tuning finds."""
    asked = Data(path=str(dataset.path), **data)
    spec = Finetune(task=TINY).batch_spec("train")
    found = {
        use: labelled.find([dataset], spec, asked, use) for use in split_file.SIDES
    }
    return {use: set(examples.name) for use, examples in found.items()}


@pytest.fixture
def spoken(tmp_path):
    """Two words by six speakers, at the rate of the smallest model."""
    info = DatasetInfo(
        kind="audio", sfreq=TINY.sfreq, unit="full_scale", ch_names=("mono",)
    )
    rng = np.random.default_rng(0)
    made = [
        Recording(
            item=f"r{i:02d}",
            samples=rng.normal(0, 0.1, (1, TINY.window_samples)).astype(np.float32),
            meta={"word": "ab"[i % 2], "speaker": f"s{i // 4}"},
        )
        for i in range(24)
    ]
    write_dataset(tmp_path / "spoken", info, made)
    return open_dataset(tmp_path / "spoken")


@pytest.mark.parametrize("as_file", [False, True])
def test_evaluate_and_finetune_part_alike(tmp_path, spoken, as_file):
    asked = from_dataset(spoken, "word", "speaker", "groupkfold:3")
    data = {"split": "groupkfold:3", "groups": "speaker"}
    if as_file:
        (tmp_path / "split.json").write_text(json.dumps(asked.split))
        data = {"split": str(tmp_path / "split.json")}
    for fold in asked.folds:
        found = sides_of(spoken, target="word", fold=fold.name, **data)
        assert found["test"] == set(asked.names[fold.test])
        assert found["train"] | found["valid"] == set(asked.names[fold.train])
        speakers = [{int(n[1:]) // 4 for n in found[use]} for use in ("train", "valid")]
        assert all(speakers)
        assert not speakers[0] & speakers[1]


def test_validation_shares_no_stimulus_with_training(tmp_path):
    # Songs 0 and 1 are heard by two people, songs 2 to 5 by one each.
    heard = [(0, 0), (0, 1), (1, 1), (1, 0), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]
    dataset = store(
        tmp_path / "songs",
        [
            {"subject": f"p{person}", "song": song, "word": "ab"[i % 2]}
            for i, (person, song) in enumerate(heard)
        ],
        seconds=1.0,
    )
    data = Data(
        path=str(dataset.path),
        target="word",
        split="subject=p6",
        groups="subject",
        stimulus="song",
    )
    every = candidates(dataset, data)
    word = sides(dataset, data, every).word
    assert set(word) == {"train", "valid", "test"}
    for column in zip(*heard, strict=True):
        told = {
            use: {v for v, w in zip(column, word, strict=True) if w == use}
            for use in ("train", "valid")
        }
        assert not told["train"] & told["valid"]


def test_events_have_the_same_names_in_both(two):
    asked = from_dataset(two, "trial_type", None, "blocks:4", gap_s=1.0)
    data = Data(path=str(two.path), target="trial_type", split="blocks:4", gap=1.0)
    every = candidates(two, data)
    for fold in asked.folds:
        found = sides(two, dataclasses.replace(data, fold=fold.name), every)
        for side in split_file.SIDES:
            names = [
                one.name for one, w in zip(every, found.word, strict=True) if w == side
            ]
            assert names == asked.names[getattr(fold, side)].tolist()
        assert found.content == asked.split


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"split": "groupkfold:3", "groups": "speaker"},
            "3 folds .0, 1, 2. and data.fo",
        ),
        ({"split": "speaker=s1", "fold": "s1"}, "1 folds .test. and data.fold is 's1'"),
        ({"split": "logo"}, "needs groups"),
        ({"fold": "1"}, "data.fold belongs to data.split, which is empty"),
        ({"gap": 0.0}, "data.gap belongs to data.split"),
        ({"split": "logo", "transductive": True}, "with data.transductive"),
        ({"split": "logo", "target": ""}, "without data.target"),
    ],
)
def test_a_split_that_finetune_cannot_take_is_one_sentence(spoken, data, words):
    with pytest.raises(NeuroFMError, match=words):
        sides_of(spoken, **{"target": "word", **data})
