"""Segments of EEG and MEG: which row of a run is which, and what a batch holds."""

import itertools
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tiny_meeg import OMNI, TOKENIZER

from neurofm import config
from neurofm.config import Data, Eval, Experiment, Init, Train
from neurofm.data import loader, meeg
from neurofm.data.buckets import widths
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.rows import seen_sha256
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.optim import Optim
from neurofm.planning import plan as planning
from neurofm.planning.words import as_rows
from neurofm.train import pretrain

SPEC = TOKENIZER.batch_spec()
WINDOW = SPEC.contract.window_samples  # 42, of which a token's window is 16
SFREQ = SPEC.contract.sfreq


def store(path, recordings, seed=0, events=(), splits=()):
    """Recordings of (channels, samples); a sample tells its recording and place."""
    rng = np.random.default_rng(seed)

    def made():
        for i, (n_chans, n) in enumerate(recordings):
            sensors = Sensors(
                names=tuple(f"c{c}" for c in range(n_chans)),
                kind=rng.integers(0, 3, n_chans).astype(np.int32),
                pos=rng.normal(0, 0.1, (n_chans, 6)).astype(np.float32),
                coil=("",) * n_chans,
            )
            x = 1e-5 * (np.arange(n) + 1000 * i) + np.zeros((n_chans, 1))
            marks = [
                {"onset": a / SFREQ, "duration": (b - a) / SFREQ, "trial_type": kind}
                for item, a, b, kind in events
                if item == i
            ]
            meta = {"split": splits[i] if splits else ""}
            yield Recording(
                item=f"r{i}",
                samples=x.astype(np.float32),
                meta=meta,
                events=marks,
                sensors=sensors,
            )

    info = DatasetInfo(
        kind="meeg", sfreq=SFREQ, unit="si", ch_names=(), payload="float32"
    )
    write_dataset(path, info, made())
    return open_dataset(path)


def train(*datasets, batch_size=2, seed=3, **data):
    return meeg.training(datasets, SPEC.contract, Data(**data), seed, batch_size)


def rows(plan, n, start=0):
    return [plan.crop(i) for i in range(start, start + n)]


def n_chans(plan, crop):
    return int(plan.datasets[crop.dataset].n_chans[crop.item])


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_widths_pad_as_little_as_the_best_of_all_choices(recordings, most):
    sizes, weight = (np.array(x) for x in zip(*recordings, strict=True))

    def padding(cut):
        place = np.searchsorted(cut, sizes)
        return int(((np.array(cut)[place] - sizes) * weight).sum())

    found = widths(sizes, weight, most)
    assert len(found) <= most
    assert list(found) == sorted(set(found))
    choices = [
        cut
        for n in range(1, most + 1)
        for cut in itertools.combinations(sorted(set(sizes)), n)
        if cut[-1] == sizes.max()
    ]
    assert padding(found) == min(map(padding, choices))


def test_an_epoch_shows_every_segment_of_every_recording_once(tmp_path):
    lengths = [(5, 3 * WINDOW + 7), (3, WINDOW), (5, 20), (4, 2 * WINDOW - 1)]
    plan = train(store(tmp_path / "d", lengths), batch_size=1, buckets=1)
    n = 3 + 1 + 1 + 1
    for epoch in range(3):
        seen = rows(plan, n, epoch * n)
        assert sorted(c.item for c in seen) == [0, 0, 0, 1, 2, 3]
        first = sorted(c.start for c in seen if c.item == 0)
        assert np.diff(first).tolist() == [WINDOW, WINDOW]
        assert 0 <= first[0] <= 7
        (short,) = (c for c in seen if c.item == 2)
        assert (short.start, short.stop, short.span) == (0, 20, (0, 20))
    starts = {c.start for c in rows(plan, 40 * n) if c.item == 3}
    assert len(starts) > 20
    assert max(starts) <= WINDOW - 1


def test_a_step_has_one_width_and_steps_are_dealt_in_proportion(tmp_path):
    lengths = [(3, 4 * WINDOW), (4, 2 * WINDOW), (11, 2 * WINDOW), (12, WINDOW)]
    plan = train(store(tmp_path / "d", lengths), batch_size=3, buckets=2)
    widths_of_steps = []
    for step in range(90):
        sizes = {n_chans(plan, c) for c in rows(plan, 3, 3 * step)}
        assert sizes <= {3, 4} or sizes <= {11, 12}
        widths_of_steps.append(max(sizes) > 4)
    assert sum(widths_of_steps) == 30  # 3 of 9 segments are wide
    items = [c.item for c in rows(plan, 270)]
    assert [items.count(i) for i in range(4)] == [120, 60, 60, 30]


def test_datasets_are_mixed_by_weight_whatever_their_sizes(tmp_path):
    one = store(tmp_path / "a", [(3, 10 * WINDOW), (9, 10 * WINDOW)])
    other = store(tmp_path / "b", [(3, WINDOW)], seed=1)
    plan = train(one, other, batch_size=4, buckets=2, weights=(1.0, 2.0))
    where = [c.dataset for c in rows(plan, 4 * 60)]
    assert where.count(1) == 160


def test_what_is_marked_bad_is_in_no_segment(tmp_path):
    bad = [(0, 50, 60, "BAD_muscle"), (0, 95, 95, "bad_jump"), (1, 0, 80, "BAD")]
    told = [*bad, (0, 10, 20, "stimulus")]
    lengths = [(3, 3 * WINDOW), (3, 90), (3, 60)]
    dataset = store(tmp_path / "d", lengths, events=told)
    plan = train(dataset, batch_size=1)
    seen = rows(plan, 200)
    assert {c.item for c in seen} == {0, 2}
    for crop in seen:
        for item, a, b, _ in bad:
            assert crop.item != item or crop.stop <= a or crop.start >= max(b, a + 1)
    starts = {(c.start, c.stop) for c in seen if c.item == 0}
    assert (60, 95) in starts
    assert (96, 126) in starts
    assert {stop - start for start, stop in starts if stop <= 50} == {WINDOW}
    assert plan.counts[0]["bad"] == 1
    assert plan.counts[0]["used"] == 2


def test_rows_do_not_depend_on_what_was_asked_before_and_follow_the_seed(tmp_path):
    dataset = store(tmp_path / "d", [(3, 9 * WINDOW), (7, 5 * WINDOW + 9)])
    wanted = rows(train(dataset), 60)
    assert rows(train(dataset), 30, start=30) == wanted[30:]
    assert rows(train(dataset, seed=4), 60) != wanted
    assert rows(train(open_dataset(dataset.path)), 60) == wanted


def test_a_batch_holds_signals_sensors_and_nothing_where_none_are(tmp_path):
    dataset = store(tmp_path / "d", [(3, 100), (5, 30)])
    plan = train(dataset, batch_size=4, buckets=1)
    batches = iter(loader.batches(plan, SPEC, 4, np.array([1, 3]), workers=0))
    for step in range(3):
        batch = next(batches)
        assert set(batch) == {*SPEC.fields, "index", "valid", "redraws"}
        assert batch["meeg/signal"].shape == (2, 5, WINDOW)
        for place, row in enumerate((1, 3)):
            crop = plan.crop(4 * step + row)
            own, n = dataset.sensors(crop.item), crop.stop - crop.start
            c = len(own)
            x = batch["meeg/signal"][place]
            wanted = 1e-5 * (np.arange(crop.start, crop.stop) + 1000 * crop.item)
            np.testing.assert_allclose(x[:c, :n] - wanted, 0, atol=1e-9)
            assert not x[c:].any()
            assert not x[:, n:].any()
            np.testing.assert_array_equal(batch["meeg/pos"][place, :c], own.pos)
            mask = batch["meeg/sensor_mask"][place]
            assert mask.tolist() == [True] * c + [False] * (5 - c)
            assert batch["meeg/length"][place] == n
            kinds = batch["meeg/sensor_type"][place]
            np.testing.assert_array_equal(kinds[:c], own.kind)


def test_held_out_segments_come_once_width_by_width_with_fillers(tmp_path):
    splits = ["valid", "train", "valid", "valid"]
    lengths = [(3, 3 * WINDOW), (3, WINDOW), (9, 2 * WINDOW), (4, WINDOW)]
    dataset = store(tmp_path / "d", lengths, splits=splits)
    plan = meeg.held_out([dataset], SPEC.contract, Data(buckets=2), 100, 3)
    crops = rows(plan, plan.n_crops or 0)
    assert len(crops) == 6 + 3
    assert sum(c.valid for c in crops) == 4 + 2
    real = sorted((c.item, c.start) for c in crops if c.valid)
    assert real == [(0, 0), (0, 42), (0, 84), (2, 0), (2, 42), (3, 0)]
    for first in range(0, 9, 3):
        sizes = {n_chans(plan, c) for c in crops[first : first + 3]}
        assert sizes <= {3, 4} or sizes == {9}
    few = meeg.held_out([dataset], SPEC.contract, Data(), 2, 1)
    assert few.n_crops == 2
    none = meeg.held_out(
        [store(tmp_path / "e", [(3, 90)])], SPEC.contract, Data(), 9, 2
    )
    assert none.n_crops == 0
    assert len(seen_sha256(train(dataset))) == 1


def test_a_users_mistake_is_named(tmp_path):
    short = store(tmp_path / "d", [(3, 9)])
    with pytest.raises(NeuroFMError, match=r"no recording .* left .*too_short 1"):
        train(short)
    other = replace(SPEC.contract, sfreq=256.0)
    with pytest.raises(NeuroFMError, match=r"sfreq 40.* where the model takes 256"):
        meeg.training([short], other, Data(), 0, 2)


# ---- a run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Noise of 3 to 7 sensors, some held out."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("meeg") / "d"

    def made():
        for i, n_chans in enumerate((3, 7, 4, 7, 4)):
            sensors = Sensors(
                names=tuple(f"c{c}" for c in range(n_chans)),
                kind=np.zeros(n_chans, np.int32),
                pos=rng.normal(0, 0.1, (n_chans, 6)).astype(np.float32),
                coil=("",) * n_chans,
            )
            x = 2e-5 * rng.normal(0, 1, (n_chans, 300)).astype(np.float32)
            split = "valid" if i > 2 else "train"
            yield Recording(
                item=f"r{i}", samples=x, meta={"split": split}, sensors=sensors
            )

    info = DatasetInfo(kind="meeg", sfreq=SFREQ, unit="si", ch_names=())
    write_dataset(path, info, made())
    return path


def experiment(task, path, **fields):
    return Experiment(
        task=task,
        data=Data(path=str(path), workers=1, buckets=2),
        optim=Optim(lr=1e-3, warmup=0.0),
        train=Train(steps=4, batch_size=2, log_every=1, checkpoint_every=2),
        eval=Eval(every=4, crops=6),
        **fields,
    )


def assert_operations_are_those_of_each_steps_width(exp, shown):
    n = exp.train.batch_size
    plan = meeg.training(
        [open_dataset(exp.data.path)], SPEC.contract, exp.data, exp.seed, n
    )
    rates = [r for r in shown if "throughput/flops_per_s" in r]
    found = [r["throughput/flops_per_s"] * r["time/step_s"] for r in rates]
    widths = [
        max(n_chans(plan, c) for c in rows(plan, n, n * step))
        for step in range(1, exp.train.steps)
    ]
    assert len(set(widths)) > 1
    wanted = [replace(TOKENIZER, n_sensors=c).flops(n) for c in widths]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.slow
def test_both_stages_train_on_mixed_sensors_and_resume_bit_for_bit(
    recordings, tmp_path
):
    exp = experiment(TOKENIZER, recordings)
    shown = []
    done = pretrain(exp, tmp_path / "whole", lambda step, row: shown.append(row))
    assert done.status == "done"
    assert any("eval/loss" in row for row in shown)
    assert_operations_are_those_of_each_steps_width(exp, shown)

    def kill(step, row):
        if step == 3 and "train/loss" in row:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(exp, tmp_path / "cut", kill)
    again = pretrain(exp, tmp_path / "cut")
    assert again.row["train/loss"] == done.row["train/loss"]

    init = Init(frozen={"tokenizer": str(tmp_path / "whole")})
    second = experiment(OMNI, recordings, init=init)
    second = config.override(second, ("task.dropout=0.0",))
    assert pretrain(second, tmp_path / "omni").status == "done"


def test_a_plan_has_the_widest_steps_memory_and_the_mean_of_operations(tmp_path):
    lengths = [(3, 4 * WINDOW), (4, 2 * WINDOW), (11, 2 * WINDOW), (12, WINDOW)]
    dataset = store(tmp_path / "d", lengths)
    exp = experiment(TOKENIZER, dataset.path)
    found = planning.plan(exp, "h100:1")
    assert found.widths == {4: pytest.approx(2 / 3), 12: pytest.approx(1 / 3)}
    narrow, wide = (
        planning.plan(
            replace(exp, data=Data(), task=replace(TOKENIZER, n_sensors=c)), "h100:1"
        )
        for c in (4, 12)
    )
    assert found.memory == wide.memory
    assert narrow.flops < wide.flops
    assert found.flops == pytest.approx((2 * narrow.flops + wide.flops) / 3)
    assert "4 (67%), 12 (33%) sensors" in as_rows(found)["steps"]
    assert "steps" not in as_rows(narrow)


def test_meg_in_another_frame_than_the_model_knows_is_refused(tmp_path):
    dataset = store(tmp_path / "d", [(6, 2 * WINDOW)])  # of all three kinds
    released = replace(SPEC.contract, frame="released")
    with pytest.raises(NeuroFMError, match=r"'head' where .* --frame released"):
        meeg.training([dataset], released, Data(), 0, 2)
    only_eeg = replace(dataset.sensors(0), kind=np.zeros(6, np.int32))
    one = Recording(item="a", samples=np.ones((6, 99), np.float32), sensors=only_eeg)
    info = DatasetInfo(kind="meeg", sfreq=SFREQ, unit="si", ch_names=())
    write_dataset(tmp_path / "eeg", info, [one])
    meeg.training([open_dataset(tmp_path / "eeg")], released, Data(), 0, 2)
