"""fMRI and features on one clock: values that tell their time say if it is theirs."""

import json
import logging

import numpy as np
import pytest
from tiny_brains import DELAY, TR, Follow, features, runs

from neurofm.config import Data, Eval, Experiment, Train
from neurofm.data import brains, loader, plan
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError
from neurofm.optim import Optim
from neurofm.run.metrics import read_rows
from neurofm.train import pretrain

LISTED = [
    ("02", "film", 0.0, 45, "train"),  # 67.5 s
    ("01", "film", 4.0, 30, ""),
    ("01", "story", 0.0, 20, ""),
    ("01", "story", 0.0, 20, "valid"),
    ("03", "silent", 0.0, 20, ""),  # nothing was made of this stimulus
]
WINDOW = 7 * TR


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    at = tmp_path_factory.mktemp("stores")
    pieces = [("film", 0.0, 60), ("film", 30.0, 75), ("story", 0.0, 60)]
    audio = features(at / "audio", pieces)
    text = features(at / "text", [("film", 2.0, 130)], "text", layers=1, width=2)
    brain = runs(at / "brain", LISTED, missing=[(1, 2)])
    other = [("01", "story", 0.0, 17, ""), ("04", "film", 0.0, 12, "")]
    lab = runs(at / "lab", other, names=("d", "b"), study="lab")
    return tuple(open_dataset(p) for p in (brain, lab, audio, text))


PLAIN = Data()


def made(stores, data=PLAIN, seed=3, held=False, **fields):
    task = Follow(**fields).fitted(stores)
    spec = task.batch_spec()
    if held:
        return task, plan.held_out(stores, spec, data, 100, 4)
    return task, plan.training(stores, spec, data, seed, 4)


def rows_of(task, rows_plan, n_steps, start=0, size=4, workers=0):
    """Rows of the first steps as (crop, arrays)."""
    spec = task.batch_spec()
    batches = iter(
        loader.batches(rows_plan, spec, size, np.arange(size), start, workers)
    )
    for step in range(start, start + n_steps):
        batch = next(batches)
        for i in range(size):
            row = {name: x[i] for name, x in batch.items()}
            yield rows_plan.crop(step * size + i), row


def test_what_a_task_must_know_follows_from_the_stores(stores):
    found = brains.facts(stores)
    assert found.modalities == {"audio": (2, 3), "text": (1, 2)}
    assert found.subjects == ("01", "02", "03", "lab/01", "lab/04")
    assert found.regions == ("a", "b", "c", "d")
    assert (found.tr_s, found.sfreq) == (TR, 2.0)


def test_features_and_volumes_of_a_window_are_of_its_times(stores):
    task, rows_plan = made(stores)
    n_volumes = 0
    for crop, row in rows_of(task, rows_plan, 30):
        dataset = stores[crop.dataset]
        about = {
            k: v[0] for k, v in dataset.items.slice(crop.item, 1).to_pydict().items()
        }
        # Volume j of a window faces the stimulus from here on.
        facing = crop.onset_s + np.arange(7) * TR + DELAY
        end = about["onset"] + about["n_samples"] * TR
        for j, t in enumerate(facing):
            column, mask = row["fmri/bold"][:, j], row["fmri/mask"][:, j]
            inside = about["onset"] + TR <= t < end - 2 * TR
            outside = t < about["onset"] - TR or t >= end
            names = [row_name for row_name, m in zip("abcd", mask, strict=True) if m]
            if inside:
                expected = list(dataset.info.ch_names)
                if (crop.dataset, crop.item) == (0, 1):
                    expected.remove("c")  # which this run lacks
                assert names == sorted(expected)
            if outside:
                assert not names
            assert not column[~mask].any()
            # Rounding is off by half a volume, or a whole one at the ends of a run.
            place = np.flatnonzero(mask)
            told = (column[mask] - place) / 100
            np.testing.assert_allclose(
                told, t, rtol=0, atol=(0.5 if inside else 1) * TR + 1e-3
            )
            n_volumes += len(names) > 0
        timeline = about["timeline"]
        steps = crop.onset_s + np.arange(21) / 2
        # Where two pieces of the film meet, at 30 s, both may fall on one step.
        ends = {"film": 67.5, "story": 30.0}
        for layer in range(2):
            for place in range(3):
                x = row["features/audio"][layer, place]
                told = (x - 10 * layer - place) / 100
                there = (steps >= 0.5) & (steps < ends[timeline] - 1)
                there &= abs(steps - 30) > 0.5
                np.testing.assert_allclose(told[there], steps[there], atol=0.501)
                gone = (steps < -0.5) | (steps >= ends[timeline])
                assert not x[gone].any()
        if timeline == "story":
            assert not row["features/text"].any()
        np.testing.assert_array_equal(
            row["features/present"], [True, timeline == "film"]
        )
        who = about["subject"] if crop.dataset == 0 else f"lab/{about['subject']}"
        assert task.subjects[row["subject"]] == who
    assert n_volumes > 200


def test_an_epoch_shows_every_window_once_moved_by_one_offset(stores):
    _, rows_plan = made(stores[:1] + stores[2:])
    n_windows = sum(-(-n * TR // WINDOW) for _, _, _, n, split in LISTED[:3])
    starts = []
    for epoch in range(3):
        crops = [
            rows_plan.crop(int(epoch * n_windows + i)) for i in range(int(n_windows))
        ]
        found = sorted((c.item, c.onset_s) for c in crops)
        onsets = np.array([s for _, s in found])
        first = {item: min(s for i, s in found if i == item) for item, _ in found}
        assert sorted(first) == [0, 1, 2]  # the valid run and the silent one are out
        offsets = {round(first[i] - LISTED[i][2] + DELAY, 6) for i in first}
        assert len(offsets) == 1
        (offset,) = offsets
        assert abs(offset) <= 10
        starts.append((offset, [(c.item, c.onset_s) for c in crops]))
        within = [s - first[i] for i, s in found]
        np.testing.assert_allclose(np.mod(np.add(within, 1e-9), WINDOW), 0, atol=1e-6)
        assert len(onsets) == n_windows
    assert len({offset for offset, _ in starts}) == 3
    assert starts[0][1] != starts[1][1]


def test_a_row_is_the_same_wherever_it_is_read(stores):
    task, rows_plan = made(stores)
    straight = list(rows_of(task, rows_plan, 5))
    resumed = list(rows_of(task, made(stores)[1], 2, start=3, workers=2))
    for (crop, row), (again, same) in zip(straight[12:], resumed, strict=True):
        assert crop == again
        for name in row:
            np.testing.assert_array_equal(row[name], same[name])
    other = list(rows_of(task, made(stores, seed=4)[1], 5))
    assert [c for c, _ in other] != [c for c, _ in straight]


def test_held_out_windows_lie_still_and_are_of_the_split(stores):
    task, rows_plan = made(stores, held=True)
    assert rows_plan.n_crops == 3
    starts = [rows_plan.crop(i).onset_s for i in range(3)]
    np.testing.assert_allclose(starts, -DELAY + WINDOW * np.arange(3))
    assert not rows_plan.crop(3).valid
    for crop, row in rows_of(task, rows_plan, 1):
        assert crop.item == 3
        if crop.valid:
            assert row["fmri/mask"].any()
    _, same = made(stores, seed=9, held=True)
    assert [same.crop(i) for i in range(3)] == [rows_plan.crop(i) for i in range(3)]


def test_runs_without_features_are_counted_and_the_rest_of_stores_too(stores):
    _, rows_plan = made(stores)
    assert rows_plan.counts[0]["used"] == 3
    assert rows_plan.counts[0]["no_features"] == 1
    assert rows_plan.counts[0]["valid"] == 1
    assert rows_plan.counts[2] == {"used": 3, "other_runs": 0}
    assert len(rows_plan.stores) == 4


def test_features_that_end_early_are_told(tmp_path, stores, caplog):
    short = open_dataset(features(tmp_path / "f", [("film", 0.0, 60)]))
    with caplog.at_level(logging.WARNING):
        _, rows_plan = made((stores[0], short))
    assert "run-0, 67.5 s, audio features 30.0 s" in caplog.text
    assert rows_plan.counts[0]["features_end_early"] == 2


def brain(tmp_path, name="other", **more):
    return open_dataset(runs(tmp_path / name, LISTED[:2], **more))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"tr_s": 2.0}, r"1\.5 s and .*other one of 2 s: .* --tr 1\.5"),
        ({"atlas": "numbers"}, "different atlases .*'letters', .*'numbers'"),
        ({"names": ("a", "x")}, r"1 regions that .* lacks \(the first is 'x'\)"),
    ],
)
def test_studies_that_do_not_fit_are_refused(tmp_path, stores, other, words):
    more = brain(tmp_path, **other)
    with pytest.raises(NeuroFMError, match=words):
        made((stores[0], more, stores[2]))


def test_features_that_do_not_fit_are_refused(tmp_path, stores):
    def store(name, **fields):
        return open_dataset(features(tmp_path / name, [("film", 0.0, 60)], **fields))

    with pytest.raises(NeuroFMError, match="different rates"):
        made((stores[0], stores[2], store("fast", modality="text", sfreq=4.0)))
    with pytest.raises(NeuroFMError, match="features of one model"):
        made((stores[0], stores[2], store("wide", width=4)))
    with pytest.raises(NeuroFMError, match="'film', which would be added up"):
        made((stores[0], stores[2], store("twice")))
    task = Follow().fitted(stores)
    extra = (*stores, store("video", modality="video"))
    with pytest.raises(NeuroFMError, match="modality 'video', which the model does no"):
        plan.training(extra, task.batch_spec(), Data(), 0, 4)
    with pytest.raises(NeuroFMError, match=r"data\.features names no such dataset"):
        made(stores[:1])


def test_an_unknown_subject_is_refused_in_words(tmp_path, stores):
    spec = Follow().fitted(stores).batch_spec()
    listed = [("77", "film", 0.0, 30, "")]
    more = open_dataset(runs(tmp_path / "new", listed))
    with pytest.raises(
        NeuroFMError, match="subject '77', whom the model does not know"
    ):
        plan.training((more, *stores[2:]), spec, Data(), 0, 4)
    held = Data(hold_out=("subject=77",))
    with pytest.raises(NeuroFMError, match=r"no run of .* is left .*held_out 1"):
        plan.training((more, *stores[2:]), spec, held, 0, 4)


def test_a_run_trains_on_several_studies_and_goes_on(tmp_path, stores):
    data = Data(
        path=tuple(str(s.path) for s in stores[:2]),
        features=tuple(str(s.path) for s in stores[2:]),
        weights=(2, 1),
        workers=1,
    )
    exp = Experiment(
        task=Follow(),
        data=data,
        optim=Optim(lr=1e-2),
        train=Train(steps=4, batch_size=4, log_every=1, checkpoint_every=2),
        eval=Eval(every=2, crops=3),
    ).resolved()
    outcome = pretrain(exp, tmp_path / "run")
    assert outcome.status == "done"
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["task"]["subjects"] == ["01", "02", "03", "lab/01", "lab/04"]
    assert saved["task"]["n_outputs"] == 4
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    assert [r["step"] for r in rows if "eval/mse" in r] == [0, 2, 4]
    again = pretrain(exp, tmp_path / "run")
    assert again.step == 4
