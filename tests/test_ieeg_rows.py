"""Windows of intracranial recordings: which row is which, and what a batch holds."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_ieeg import BERT, DUIN, VQVAE

from neurofm import finetune
from neurofm.config import Data, Eval, Experiment, Init, Train
from neurofm.data import ieeg, labelled
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.model import load
from neurofm.models.finetune import Finetune
from neurofm.optim import Optim
from neurofm.train import pretrain

ALONE, GROUP = BERT.batch_spec(), VQVAE.batch_spec()
WINDOW = GROUP.contract.window_samples


def store(path, recordings, task=VQVAE, subjects=("anna", "ben"), **processing):
    """Recordings of (channels, samples); a sample tells recording, channel and place.

    The last one is held out.
    """

    def made():
        for i, (c, n) in enumerate(recordings):
            words = [
                {"onset": t, "duration": 0.1, "trial_type": "word", "word": "ab"[k % 2]}
                for k, t in enumerate(np.arange(0.3, n / 100 - 0.5, 0.4))
            ]
            sensors = Sensors(
                names=tuple(f"LA{k + 1}" for k in range(c)),
                kind=np.zeros(c, np.int32),
                pos=np.zeros((c, 6), np.float32),
                coil=("",) * c,
            )
            x = np.arange(n) + 1000 * (np.arange(c)[:, None] + 10 * i)
            split = "valid" if i == len(recordings) - 1 else "train"
            subject = subjects[i % len(subjects)]
            meta = {"split": split, "subject": subject, "sha256": f"{i}"}
            yield Recording(
                item=f"r{i}",
                samples=x.astype(np.float32),
                meta=meta,
                events=words,
                sensors=sensors,
            )

    info = DatasetInfo(
        kind="ieeg",
        sfreq=task.batch_spec().contract.sfreq,
        unit="V",
        ch_names=(),
        payload="float32",
        processing=processing,
    )
    write_dataset(path, info, made())
    return open_dataset(path)


def test_every_electrode_of_every_window_is_seen_once_an_epoch(tmp_path):
    n = ALONE.contract.window_samples
    data = store(tmp_path / "d", [(3, 2 * n + 9), (2, n), (1, n)], BERT)
    plan = ieeg.training([data], ALONE, Data(), 3)
    rows = 3 * 2 + 2
    for epoch in range(2):
        seen = [plan.crop(i) for i in range(epoch * rows, (epoch + 1) * rows)]
        assert len({(c.item, c.start, c.channel) for c in seen}) == rows
        assert sorted({c.channel for c in seen if c.item == 0}) == [0, 1, 2]
        (first, second) = sorted({c.start for c in seen if c.item == 0})
        assert second - first == n
    batch = plan.fill(seen, ALONE)
    assert batch["ieeg/signal"].shape == (rows, 1, n)
    for x, crop in zip(batch["ieeg/signal"], seen, strict=True):
        assert x[0, 0] == crop.start + 1000 * (crop.channel + 10 * crop.item)


def test_a_group_is_padded_with_channels_and_knows_its_subject(tmp_path):
    data = store(tmp_path / "d", [(3, WINDOW), (5, 44), (4, WINDOW)])
    task = VQVAE.fitted([data])
    assert task.trunk.subjects == ("anna", "ben")
    assert task.trunk.n_chans == 5
    spec = task.batch_spec()
    plan = ieeg.training([data], spec, Data(), 0)
    (batch,) = (plan.fill([plan.crop(i) for i in range(2)], spec),)
    order = [plan.crop(i).item for i in range(2)]
    np.testing.assert_array_equal(batch["subject"], order)
    n = np.array([3, 5])[order]
    np.testing.assert_array_equal(batch["ieeg/channel_mask"].sum(1), n)
    np.testing.assert_array_equal(batch["ieeg/length"], np.array([WINDOW, 44])[order])
    short = batch["ieeg/signal"][order.index(1)]
    np.testing.assert_array_equal(short[:, 44:], 0)


def test_held_out_rows_are_those_of_the_valid_split(tmp_path):
    data = store(tmp_path / "d", [(3, WINDOW), (2, 3 * WINDOW)])
    spec = VQVAE.fitted([data]).batch_spec()
    plan = ieeg.held_out([data], spec, Data(), 100)
    assert plan.n_crops == 3
    starts = sorted(plan.crop(i).start for i in range(3))
    assert starts == [0, WINDOW, 2 * WINDOW]
    assert {plan.crop(i).item for i in range(3)} == {1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"recordings": [(6, 60), (6, 60)]},
            "recordings of 6 channels where the model",
        ),
        ({"reference": "average"}, "reference average where the model takes bipolar"),
        ({"subjects": ("dora",)}, "recordings of 'dora' where the model knows"),
        ({"task": BERT}, r"sfreq 256\.0 where the model takes 100\.0"),
        ({"recordings": [(3, 7), (3, 60)]}, "is left to train on"),
    ],
)
def test_recordings_that_the_model_does_not_take_are_refused(fields, message, tmp_path):
    data = store(tmp_path / "d", **{"recordings": [(3, 60), (3, 60)], **fields})
    with pytest.raises(NeuroFMError, match=message):
        ieeg.training([data], GROUP, Data(), 0)


def test_a_stranger_who_is_held_out_is_in_nobodys_way(tmp_path):
    people = ("dora", None)
    data = store(tmp_path / "d", [(3, 60), (3, 60)], subjects=people)
    with pytest.raises(NeuroFMError, match="recordings of 'dora' where"):
        ieeg.training([data], GROUP, Data(), 0)
    with pytest.raises(NeuroFMError, match="recordings of 'nobody' where"):
        ieeg.held_out([data], GROUP, Data(), 9)
    data = store(tmp_path / "e", [(3, 60), (3, 60)], subjects=("anna", "dora"))
    held = Data(hold_out=("subject=dora",))
    plan = ieeg.training([data], GROUP, held, 0)
    batch = plan.fill([plan.crop(i) for i in range(3)], GROUP)
    assert {plan.crop(i).item for i in range(3)} == {0}
    assert set(batch["subject"]) == {GROUP.fields["subject"].words.index("anna")}


def test_one_subject_needs_no_name(tmp_path):
    data = store(tmp_path / "d", [(3, 60), (3, 60)], subjects=("",))
    spec = VQVAE.fitted([data]).batch_spec()
    plan = ieeg.training([data], spec, Data(), 0)
    np.testing.assert_array_equal(plan.fill([plan.crop(0)], spec)["subject"], [0])


def experiment(task, path, **fields):
    return Experiment(
        task=task,
        data=Data(path=str(path), workers=1),
        optim=Optim(lr=1e-3, warmup=0.0),
        train=Train(steps=2, batch_size=4, checkpoint_every=2, log_every=1),
        eval=Eval(every=2, crops=4),
        **fields,
    )


@pytest.mark.slow
def test_both_stages_are_trained_one_upon_the_other(tmp_path):
    store(tmp_path / "d", [(3, 300), (5, 300), (4, 200)])
    quiet = replace(VQVAE, trunk=replace(VQVAE.trunk, dropout=0.0))
    first = pretrain(experiment(quiet, tmp_path / "d"), tmp_path / "a")
    assert first.status == "done"
    assert {"monitor/perplexity", "monitor/dead_codes"} <= set(first.row)
    init = Init(frozen={"tokenizer": str(tmp_path / "a")})
    second = pretrain(experiment(DUIN, tmp_path / "d", init=init), tmp_path / "b")
    assert second.status == "done"
    assert load(tmp_path / "b").task.trunk.subjects == ("anna", "ben")


def test_a_word_is_a_window_around_its_onset(tmp_path):
    data = store(tmp_path / "d", [(3, 300), (5, 300), (4, 300)])
    task = Finetune(task=VQVAE.fitted([data]), classes=("a", "b"), head="flat")
    spec, asked = task.batch_spec(), Data(target="word", around=(-0.2, 0.4))
    plan = labelled.training([data], spec, asked, 0, 4)
    crops = [plan.crop(i) for i in range(6)]
    batch = plan.fill(crops, spec)
    assert set(batch) | {"index", "valid"} >= set(spec.fields)
    assert all(c.stop - c.start == WINDOW for c in crops)
    for crop, label in zip(crops, batch["label"], strict=True):
        onset = crop.start / 100 + 0.2
        assert label == round((onset - 0.3) / 0.4) % 2


def test_accuracies_are_told_by_subject(tmp_path):
    data = store(tmp_path / "d", [(3, 300), (5, 300), (4, 300)])
    task = Finetune(task=VQVAE.fitted([data]), classes=("a", "b"), head="flat")
    spec, asked = task.batch_spec(), Data(target="word", around=(-0.2, 0.4))
    found = labelled.find([data], spec, asked, "train")  # the third is held out
    truth = labelled.labels(found, spec)
    right = (found.item == 0) | (np.arange(len(found)) % 3 == 0)
    made = np.eye(2)[np.where(right, truth, 1 - truth)]
    by = finetune.by_subject([data], found, made, truth)
    assert by["anna"] == {"accuracy": 1.0, "n": int((found.item == 0).sum())}
    assert by["ben"]["accuracy"] == right[found.item == 1].mean() < 1
    assert set(by) == {"anna", "ben"}


def test_electrodes_are_labelled_one_at_a_time(tmp_path):
    data = store(tmp_path / "d", [(3, 300), (3, 300)], BERT)
    spec = Finetune(task=BERT, classes=("a", "b")).batch_spec()
    with pytest.raises(
        NeuroFMError, match="recordings of 3 electrodes, and this model"
    ):
        labelled.find([data], spec, Data(target="word", around=(-0.2, 0.2)), "train")


def test_one_electrode_is_trained_alone(tmp_path):
    n = ALONE.contract.window_samples
    store(tmp_path / "d", [(3, 4 * n), (2, 2 * n)], BERT)
    lamb = Optim(algorithm="lamb", lr=1e-3, schedule="stairs", weight_decay=0.0)
    exp = replace(experiment(BERT, tmp_path / "d"), optim=lamb)
    found = pretrain(exp, tmp_path / "a")
    assert found.status == "done"
    assert 0 < found.row["monitor/masked"] < 1
