"""fMRI by itself: rows of subjects, a run killed and resumed, embeddings, weights."""

from dataclasses import replace

import numpy as np
import pytest
from parity.fixtures import find, load
from safetensors.numpy import save_file
from tiny_fmri import NAMES, SEMANTOKS, store

from neurofm import config
from neurofm import model as models
from neurofm.config import Data
from neurofm.data import brains, parcels, plan
from neurofm.data.embeddings import open_embeddings
from neurofm.data.records import open_dataset
from neurofm.embed import embed
from neurofm.errors import NeuroFMError
from neurofm.finetune import finetune
from neurofm.models.finetune import Finetune
from neurofm.run.metrics import read_rows
from neurofm.train import pretrain
from neurofm.weights.official import import_model

RUNS = [
    ("01", 40, "", "up"),
    ("01", 31, "", "up"),
    ("02", 24, "", "down"),
    ("03", 17, "", "down"),  # shorter than a window
    ("04", 7, "", "up"),  # than a patch
    ("05", 60, "valid", "down"),
]


@pytest.fixture
def data(tmp_path):
    return store(tmp_path / "fmri", RUNS, missing=[(2, 4), (3, 3), (3, 4), (3, 5)])


def task_of(folder):
    return replace(SEMANTOKS, network_names=(), network_of=(0,)).fitted(
        [open_dataset(folder)]
    )


# ---- rows ----------------------------------------------------------------------------


def test_networks_and_repetition_time_follow_from_the_store(data):
    task = task_of(data)
    assert task.regions == NAMES
    assert task.network_names == ("Vis", "Cont")
    assert task.network_of == (0, 0, 0, 1, 1, 1)
    assert task.tr_s == 2.0
    assert task.batch_spec("features").contract.channels == NAMES


def test_a_row_is_a_subject_in_two_crops_of_one_run(data):
    dataset, spec = open_dataset(data), task_of(data).batch_spec()
    rows = plan.training([dataset], spec, Data(path=str(data)), 0, 4)
    assert rows.counts == ({"used": 4, "held_out": 0, "valid": 1, "too_short": 1},)
    crops = [rows.crop(i) for i in range(300)]
    of = {0: "01", 1: "01", 2: "02", 3: "03"}
    for k in range(0, 300, 3):  # every epoch has every subject once
        assert sorted(of[c.item] for c in crops[k : k + 3]) == ["01", "02", "03"]
    assert {c.item for c in crops} == {0, 1, 2, 3}
    starts = [(c.start, c.second[0]) for c in crops if c.item == 0]
    assert {s for pair in starts for s in pair} == set(range(40 - 24 + 1))
    assert abs(np.corrcoef(np.array(starts).T)[0, 1]) < 0.3
    again = plan.training([dataset], spec, Data(path=str(data)), 0, 4)
    assert [again.crop(i) for i in range(50)] == crops[:50]
    other = plan.training([dataset], spec, Data(path=str(data)), 1, 4)
    assert [other.crop(i) for i in range(50)] != crops[:50]


def test_crops_hold_the_samples_and_zeros_where_there_are_none(data):
    dataset, spec = open_dataset(data), task_of(data).batch_spec()
    rows = plan.training([dataset], spec, Data(path=str(data)), 0, 4)
    crops = [rows.crop(i) for i in range(12)]
    batch = rows.fill(crops, spec)
    assert batch.keys() == rows.fields == set(spec.fields)
    for i, crop in enumerate(crops):
        x = dataset.read(crop.item, 0, RUNS[crop.item][1])
        for view, (start, stop) in enumerate(((crop.start, crop.stop), crop.second)):
            wanted = np.zeros((6, 24))
            wanted[:, : stop - start] = np.nan_to_num(x[:, start:stop])
            np.testing.assert_array_equal(batch["fmri/crops"][i, view], wanted)
        np.testing.assert_array_equal(batch["fmri/regions"][i], np.isfinite(x[:, 0]))
        assert (crop.stop - crop.start) == min(24, RUNS[crop.item][1])


def test_held_out_pairs_are_evenly_spaced_and_the_same_for_all_seeds(data):
    dataset, spec = open_dataset(data), task_of(data).batch_spec()
    rows = plan.held_out([dataset], spec, Data(path=str(data)), 10, 4)
    pairs = [(rows.crop(i).start, rows.crop(i).second[0]) for i in range(rows.n_crops)]
    assert pairs == [(0, 20), (5, 25), (10, 30), (15, 36)]
    assert not rows.crop(4).valid


def test_regions_in_another_order_are_put_in_that_of_the_model(tmp_path, data):
    turned = store(tmp_path / "turned", RUNS[:1], names=NAMES[::-1][1:])
    place = brains.placed(open_dataset(turned), NAMES, 6)
    assert place.tolist() == [4, 3, 2, 1, 0]
    spec = task_of(data).batch_spec("features")
    fill = parcels.filler([open_dataset(turned)], spec)
    crop = plan.training(
        [open_dataset(turned)], task_of(data).batch_spec(), Data(), 0, 1
    ).crop(0)
    batch = fill([crop], spec)
    assert batch["fmri/regions"][0].tolist() == [True] * 5 + [False]
    x = open_dataset(turned).read(0, crop.start, crop.stop)
    np.testing.assert_array_equal(batch["fmri/bold"][0, :5], x[::-1])


def refused(folder, data, **fields):
    task = replace(task_of(data), **fields)
    plan.training([open_dataset(folder)], task.batch_spec(), Data(), 0, 4)


def test_another_atlas_rate_or_scale_is_refused_in_words(tmp_path, data):
    names = [f"AAL_{i}" for i in range(6)]
    with pytest.raises(NeuroFMError, match=r"6 of 6 regions .* 'AAL_0'; the model has"):
        refused(store(tmp_path / "a", RUNS[:1], names=names), data)
    with pytest.raises(NeuroFMError, match=r"repetition time of 1.5 s .* --tr 2"):
        refused(store(tmp_path / "b", RUNS[:1], tr_s=1.5), data)
    with pytest.raises(NeuroFMError, match="unit none where the model takes z"):
        refused(store(tmp_path / "c", RUNS[:1], unit="none"), data)
    with pytest.raises(NeuroFMError, match=r"no run of .* \(too_short 1\)"):
        refused(store(tmp_path / "d", [("01", 5, "", "up")]), data)
    with pytest.raises(NeuroFMError, match="5 regions where the model takes 6, whose"):
        refused(store(tmp_path / "e", RUNS[:1], names=NAMES[:5]), data, regions=())


# ---- a run ---------------------------------------------------------------------------


def experiment(data):
    exp = config.load("brain_semantoks/tiny")
    task = replace(
        SEMANTOKS,
        network_names=(),
        network_of=(0,),
        network_share=exp.task.network_share,
        separate_mask_head=False,
        horizon=None,
    )
    return config.override(
        replace(exp, task=task),
        (
            f"data.path={data}",
            "train.steps=4",
            "train.batch_size=4",
            "train.checkpoint_every=2",
            "train.log_every=1",
            "eval.every=2",
        ),
    ).resolved()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store, and a run that was killed and started again."""
    folder = tmp_path_factory.mktemp("semantoks")
    data = store(folder / "fmri", RUNS, missing=[(3, 3), (3, 4), (3, 5)])

    def kill(step, row):
        if step == 3 and "train/loss" in row:
            raise KeyboardInterrupt

    exp = experiment(data)
    with pytest.raises(KeyboardInterrupt):
        pretrain(exp, folder / "run", kill)
    return data, folder / "run", pretrain(exp, folder / "run")


def test_a_run_killed_and_started_again_ends_as_if_in_peace(trained, tmp_path):
    data, cut, ended = trained
    whole = pretrain(experiment(data), tmp_path / "whole")
    assert whole.status == "done"
    rows = [read_rows(run / "metrics.jsonl") for run in (cut, tmp_path / "whole")]
    names = ("train/loss", "train/cls", "train/network", "eval/loss", "eval/item_var")
    told = [[row[n] for row in some for n in names if n in row] for some in rows]
    assert told[0] == told[1]
    assert np.isfinite(told[0]).all()
    assert len(told[0]) == 4 * 3 + 3 * 2
    assert ended.row["train/network"] == 0  # its share of the run is over


def test_the_teacher_embeds_tokens_means_and_networks(trained, tmp_path):
    data, run, _ = trained
    model = models.load(run)
    assert model.task.network_names == ("Vis", "Cont")
    dataset = open_dataset(data)
    told = embed(model, [data], tmp_path / "out", layers=("last", "cls_avg"))
    assert told["n_embeddings"] == len(RUNS)
    rows = open_embeddings(tmp_path / "out")
    values, times = rows.read(0, "cls_avg"), rows.times(0)
    assert values.shape == (5, 24)  # 40 volumes in patches of 8
    np.testing.assert_allclose(times, np.arange(5) * 16 + 8)
    x = dataset.read(0, 0, 40)
    reading = model.embed(5 * x + 3, 0.5, layers="cls_avg")
    np.testing.assert_allclose(reading.values["cls_avg"], values, atol=2e-4)
    pooled = model.embed(x, 0.5, layers="cls_avg", pool="mean")
    np.testing.assert_allclose(
        pooled.values["cls_avg"][0], values.mean(0), atol=2e-4, rtol=1e-3
    )
    by_network = model.embed(x, 0.5, want="sources").values
    assert by_network["networks"].shape == (5, 2 * 12)
    mean = by_network["networks"].reshape(5, 2, 12).mean(1)
    np.testing.assert_allclose(mean, values[:, :12], atol=2e-4)
    x[3:] = np.nan  # all of one network
    without = model.embed(x, 0.5, want="sources").values
    np.testing.assert_allclose(
        without["alone"][:, :24], by_network["alone"][:, :24], atol=2e-4
    )


def test_arrays_that_do_not_fit_are_refused_in_words(trained):
    model = models.load(trained[1])
    x = np.random.default_rng(0).normal(0, 1, (6, 40))
    with pytest.raises(NeuroFMError, match="without sfreq: give 1 over its repetition"):
        model.embed(x)
    with pytest.raises(NeuroFMError, match="n_chans"):
        model.embed(x[:5], 0.5)
    with pytest.raises(NeuroFMError, match="sfreq"):
        model.embed(x, 2.0)
    with pytest.raises(NeuroFMError, match="no region of this array has a signal"):
        model.embed(np.ones((6, 40)), 0.5)


@pytest.mark.slow
def test_a_model_is_fine_tuned_with_rates_that_fall_by_layer(trained, tmp_path):
    _, run, _ = trained
    listed = [
        (f"{i:02d}", 40, split, ("up", "down")[i % 2])
        for i, split in enumerate(["train"] * 8 + ["valid"] * 2 + ["test"] * 4)
    ]
    data = store(tmp_path / "labelled", listed)
    exp = config.load("brain_semantoks/finetune")
    assert isinstance(exp.task, Finetune)
    exp = config.override(
        exp,
        (
            f"data.path={data}",
            "data.target=direction",
            "train.epochs=2.0",
            "train.batch_size=4",
        ),
    )
    found = finetune(exp, run, tmp_path / "run")
    assert found.outcome.status == "done"
    assert found.scores["scores"]["model"]["n"] == 4
    assert found.scores["split"] == "test"


# ---- weights -------------------------------------------------------------------------


@pytest.mark.parametrize("path", find("brain_semantoks", ("w/*", "in/view1")), ids=str)
def test_imported_weights_come_back_from_a_folder_and_name_what_is_dead(path, tmp_path):
    f = load(path)
    tensors = {k.replace("w/", "module."): x for k, x in f.items() if k[:2] == "w/"}
    tensors = {k: np.ascontiguousarray(x) for k, x in tensors.items()}
    tensors["network_map_per_roi"] = f["network_map_per_roi"]
    save_file(tensors, tmp_path / "weights.safetensors")
    settings = path.with_suffix(".json")
    out = tmp_path / "model"
    report = import_model(
        "brain_semantoks", tmp_path / "weights.safetensors", out, settings
    )
    assert not report.missing
    assert not report.unused
    assert len(report.matched) + len(report.ignored) == len(tensors)
    dead = [n for n, why in report.ignored.items() if "never" in why]
    assert any("inter_network_transformer.norm." in name for name in dead)
    one = models.load(out)
    models.save(tmp_path / "again", one.task, one.variables, {})
    two = models.load(tmp_path / "again")
    assert two.task == one.task
    for name, x in models.leaves.named(one.variables):
        np.testing.assert_array_equal(dict(models.leaves.named(two.variables))[name], x)
    broken = {k: x for k, x in tensors.items() if "student_encoder.norm.bias" not in k}
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(NeuroFMError, match=r"1 tensors are missing \(student_encoder"):
        import_model("brain_semantoks", tmp_path / "broken.safetensors", out, settings)
