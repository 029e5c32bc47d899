"""The plan against brute force over small made-up manifests."""

import dataclasses
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.config import Data
from neurofm.contract import InputContract
from neurofm.data import audio
from neurofm.data.draws import below, draws_of_rows, stream_key
from neurofm.data.records import Dataset, DatasetInfo
from neurofm.data.rows import seen_sha256
from neurofm.errors import NeuroFMError

# At 100 Hz a block of activity is 5 samples, a window 8 blocks or 18 tokens.
CONTRACT = InputContract(
    kind="audio",
    sfreq=100.0,
    unit="full_scale",
    n_chans=1,
    window_samples=40,
    hop_samples=2,
    receptive_samples=6,
)
SHORTEST = 6 + 11 * 2  # twelve tokens


def store(lengths, splits=None, active=None, columns=None, hash="abc", n_chans=1):
    """A dataset that is a manifest alone; `active` is block by block."""
    n = len(lengths)
    active = active or [np.ones(-(-m // 5), bool) for m in lengths]
    info = DatasetInfo(
        kind="audio",
        sfreq=100.0,
        unit="full_scale",
        ch_names=tuple(f"c{i}" for i in range(n_chans)),
        hash=hash,
    )
    items = {
        "item": [f"item{i}" for i in range(n)],
        "sha256": [f"{hash}{i:02d}" for i in range(n)],
        "split": splits or [""] * n,
        "n_samples": pa.array(lengths, pa.int64()),
        "rms": np.ones(n),
        "active": pa.array([np.packbits(bits).tobytes() for bits in active]),
    }
    nothing = np.zeros(0, int)
    return Dataset(
        path=Path("store"),
        info=info,
        items=pa.table(items | (columns or {})),
        events=pa.table({}),
        n_chans=np.full(n, n_chans),
        _layouts={},
        _n_samples=np.array(lengths),
        _first=np.arange(n),
        _shard=nothing,
        _record=nothing,
    )


def train(*datasets, seed=0, **data):
    return audio.training(datasets, CONTRACT, Data(**data), seed)


def crops(made, n, start=0):
    return [made.crop(i) for i in range(start, start + n)]


def test_every_row_is_found_alone_and_by_any_process():
    datasets = [store([100, 33, 71]), store([50, 400], hash="def")]
    data = {"weights": (2.0, 1.0), "crops_per_clip": 3}
    in_order = crops(train(*datasets, **data), 200)
    order = np.random.default_rng(0).permutation(200)
    made = train(*datasets, **data)
    assert {int(i): made.crop(int(i)) for i in order} == dict(enumerate(in_order))


def test_an_epoch_shows_each_clip_with_its_crops_in_sequence_and_short_ones_once():
    dataset = store([100, 30, 71, 40, 35])
    rows = crops(train(dataset, crops_per_clip=3), 2 * 11)
    epochs = rows[:11], rows[11:]
    runs = [
        [(item, len(list(g))) for item, g in groupby(epoch, lambda c: c.item)]
        for epoch in epochs
    ]
    for run in runs:
        assert sorted(run) == [(0, 3), (1, 1), (2, 3), (3, 3), (4, 1)]
    assert runs[0] != runs[1]


def test_the_seed_and_the_data_change_the_rows():
    rows = crops(train(store([100] * 9)), 20)
    assert rows != crops(train(store([100] * 9), seed=1), 20)
    assert rows != crops(train(store([100] * 9, hash="other")), 20)


def test_starts_are_uniform_up_to_the_last_possible_one():
    rows = crops(train(store([46])), 7_000)
    counts = Counter(c.start for c in rows)
    assert sorted(counts) == list(range(7))
    # Chi-squared with 6 degrees of freedom: 22.5 is exceeded once in a thousand.
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 22.5
    assert {(c.stop - c.start, c.span) for c in rows} == {(40, (0, 40))}


@settings(deadline=None, max_examples=30)
@given(st.integers(SHORTEST, 39))
def test_a_short_clip_lies_where_it_keeps_all_its_tokens(length):
    rows = crops(train(store([length])), 300)
    windows = [(2 * t, 2 * t + 6) for t in range(18)]
    alone = sum(past <= length for _, past in windows)
    best = set()
    for first in range(0, 40 - length + 1, 2):  # whole hops
        span = (first, first + length)
        if sum(span[0] <= a and b <= span[1] for a, b in windows) == alone:
            best.add(span)
    assert {c.span for c in rows} == best
    assert {(c.start, c.stop, c.redraws) for c in rows} == {(0, length, 0)}


def test_clips_under_twelve_tokens_and_silent_clips_are_dropped_and_counted():
    active = [np.ones(8, bool) for _ in range(4)]
    active[2][:] = False
    dataset = store([SHORTEST, SHORTEST - 1, 40, 40], active=active)
    made = train(dataset)
    assert {c.item for c in crops(made, 50)} == {0, 3}
    assert made.items[0].tolist() == [0, 3]
    counts = made.counts[0]
    assert (counts["used"], counts["padded"]) == (2, 1)
    assert (counts["too_short"], counts["silent"]) == (1, 1)


def test_every_left_out_item_is_counted_once():
    splits = ["train", "", "valid", "test", "train", "train"]
    dataset = store(
        [100, 100, 100, 100, 5, 100], splits, columns={"who": list("aabbab")}
    )
    counts = train(dataset, hold_out=("who=b",)).counts[0]
    left = {k: n for k, n in counts.items() if n and k not in ("padded", "cut")}
    assert left == {"used": 2, "held_out": 3, "too_short": 1}


def active_share(bits, start):
    touched = range(start // 5, (start + 39) // 5 + 1)
    return np.mean([bits[b] if b < len(bits) else False for b in touched])


def test_silent_crops_are_drawn_again_until_one_is_active_enough():
    bits = np.zeros(40, bool)
    bits[13:29] = True
    rows = crops(train(store([200], active=[bits]), min_active=0.5), 400)
    assert all(active_share(bits, c.start) >= 0.5 for c in rows if c.redraws < 7)
    once = crops(train(store([200], active=[bits]), min_active=0.0), 400)
    assert {c.redraws for c in once} == {0}
    for first, kept in zip(once, rows, strict=True):
        was_silent = active_share(bits, first.start) < 0.5
        assert (kept.redraws > 0) == was_silent
        assert was_silent or kept == first
    assert sum(c.redraws for c in rows) > 100


def test_where_all_draws_are_silent_the_most_active_one_stands():
    bits = np.zeros(40, bool)
    bits[[20, 21]] = True
    rows = crops(train(store([200], active=[bits]), min_active=0.9), 200)
    words = draws_of_rows(stream_key("abc", 0, "crop"), 8)
    for i, c in enumerate(rows):
        starts = [below(word, 161) for word in words(i)]
        shares = [active_share(bits, s) for s in starts]
        assert c.redraws == 7
        assert c.start == starts[int(np.argmax(shares))]


def test_training_never_sees_test_or_validation_items_unless_told():
    dataset = store([100] * 4, ["train", "valid", "test", ""])
    assert seen_sha256(train(dataset)) == ["abc00", "abc03"]
    seen = seen_sha256(train(dataset, transductive=True))
    assert seen == ["abc00", "abc02", "abc03"]
    assert {c.item for c in crops(train(dataset), 100)} == {0, 3}


def test_held_out_values_are_never_seen():
    columns = {"speaker": list("xyxz"), "fold": [1, 2, 3, 4], "age": [1.0, 2.5, 1, 9]}
    dataset = store([100] * 4, columns=columns)
    seen = {
        rule: seen_sha256(train(dataset, hold_out=(rule,)))
        for rule in ("speaker=x", "fold=2", "age=1")
    }
    assert seen["speaker=x"] == seen["age=1"] == ["abc01", "abc03"]
    assert seen["fold=2"] == ["abc00", "abc02", "abc03"]
    other = store([100], hash="def")  # has no speakers
    assert seen_sha256(train(dataset, other, hold_out=("speaker=x",))) == [
        "abc01",
        "abc03",
        "def00",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"hold_out": ("speker=x",)}, "speker.* there are active, .*speaker"),
        ({"hold_out": ("speaker=q",)}, "meets no item; speaker is one of x, y"),
        ({"hold_out": ("speaker",)}, "column=value"),
        ({"hold_out": ("speaker=x", "speaker=y")}, r"no clip .*held_out 2"),
        ({"weights": (1.0, 2.0)}, r"data.weights .* 1 dataset"),
        ({"weights": (0.0,)}, "positive"),
    ],
)
def test_a_users_mistake_is_named(data, message):
    dataset = store([100, 100], columns={"speaker": ["x", "y"]})
    with pytest.raises(NeuroFMError, match=message):
        train(dataset, **data)


def test_data_the_model_cannot_take_is_refused_with_the_remedy():
    other = store([100], n_chans=2)
    other = dataclasses.replace(
        other, info=dataclasses.replace(other.info, sfreq=44_100.0)
    )
    with pytest.raises(
        NeuroFMError,
        match=r"sfreq 44100.0 .* n_chans 2 .* --sfreq 100 --channels first",
    ):
        train(store([100]), other)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_mixtures_keep_exact_proportions(weights):
    datasets = [store([100], hash=f"h{k}") for k in range(len(weights))]
    made = train(*datasets, weights=tuple(float(w) for w in weights), crops_per_clip=1)
    total = sum(weights)
    seen = [0] * len(weights)
    for row in range(3 * total):
        seen[made.crop(row).dataset] += 1
        for n, weight in zip(seen, weights, strict=True):
            assert abs(n - (row + 1) * weight / total) < len(weights)
        if (row + 1) % total == 0:
            assert seen == [(row + 1) // total * w for w in weights]


def test_each_dataset_of_a_mixture_goes_on_where_it_was():
    datasets = [store([100, 200, 300]), store([150, 250], hash="def")]
    alone = [crops(train(s, crops_per_clip=2), 30) for s in datasets]
    mixed = crops(train(*datasets, weights=(0.3, 0.1), crops_per_clip=2), 40)
    for number in (0, 1):
        rows = [c._replace(dataset=0) for c in mixed if c.dataset == number]
        assert rows == alone[number][: len(rows)]
    assert Counter(c.dataset for c in mixed) == {0: 30, 1: 10}


def test_the_released_rule_pads_and_cuts_to_ten_seconds():
    lengths = [10, 700, 2000]
    made = train(store(lengths), short="released", min_active=0.0)
    rows = crops(made, 3000)
    assert {c.span for c in rows} == {(0, 40)}
    assert made.counts[0]["used"] == 3
    assert (made.counts[0]["padded"], made.counts[0]["cut"]) == (2, 1)
    for item, length in enumerate(lengths):
        mine = [c for c in rows if c.item == item]
        assert len(mine) == 1000
        assert all(0 <= c.start <= c.stop <= min(length, 1000) for c in mine)
    assert max(c.stop for c in rows if c.item == 2) > 980
    padding_only = np.mean([c.start == c.stop for c in rows if c.item == 0])
    assert 0.97 < padding_only < 1  # 950 of 961 starts lie behind the clip's end


def test_the_held_out_plan_is_fixed_tiled_and_filled_up():
    active = [np.ones(-(-n // 5), bool) for n in (130, 35, 85, 100)]
    active[0][8:16] = False
    dataset = store(
        [130, 35, 85, 100], ["valid", "valid", "valid", "train"], active=active
    )
    made = audio.held_out([dataset], CONTRACT, Data(), limit=100)
    rows = crops(made, made.n_crops)
    # Item 0 has three tiles, the second silent; item 1 is padded; item 2 has two.
    assert sorted((c.item, c.start) for c in rows) == [
        (0, 0),
        (0, 80),
        (1, 0),
        (2, 0),
        (2, 40),
    ]
    assert all(c.valid for c in rows)
    assert made.counts[0]["silent_tiles"] == 1
    assert not made.crop(made.n_crops or 0).valid
    assert rows == crops(audio.held_out([dataset], CONTRACT, Data(), limit=100), 5)
    assert crops(audio.held_out([dataset], CONTRACT, Data(), limit=2), 2) == rows[:2]


def test_a_store_without_validation_items_has_an_empty_held_out_plan():
    assert audio.held_out([store([100])], CONTRACT, Data(), limit=10).n_crops == 0
