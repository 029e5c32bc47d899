"""The suite crop-probe and the suite probe on runs of fMRI."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import quick
from tiny_fmri import NAMES, SEMANTOKS, store

from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError
from neurofm.eval.connectomes import connectivity, lagged_covariance, spectra
from neurofm.eval.crop_probe import number_metrics
from neurofm.evaluate import evaluate
from neurofm.model import abstract_variables, save
from neurofm.suites import crop_probe

TASK = replace(
    SEMANTOKS,
    regions=NAMES,
    network_names=("Vis", "Cont"),
    network_of=(0,) * 3 + (1,) * 3,
)
FEW = """kind = "crop-probe"
repeats = 2
crops = 3
epochs = 5
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "jit", quick.jit)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32),
        abstract_variables(TASK),
    )
    variables["buffers"] = jax.tree.map(np.ones_like, variables["buffers"])
    save(tmp_path / "model", TASK, variables, {})
    return tmp_path / "model"


def runs(folder, n=30):
    """A run of 61 volumes of each of `n` subjects, whose wave goes up or down."""
    listed = [(f"sub-{i}", 61, "train", ("up", "down")[i % 2]) for i in range(n)]
    return store(folder, listed)


def test_the_probe_on_crops_is_run_by_the_command_and_stands_beside_others(
    model, tmp_path
):
    (tmp_path / "few.toml").write_text(FEW)
    found = evaluate(
        [model],
        data=runs(tmp_path / "data"),
        out=tmp_path / "out",
        suite=tmp_path / "few.toml",
        target="direction",
    )
    assert found["metric"] == "balanced_accuracy"
    scores = found["scores"]
    assert {"model", "untrained", "connectivity", "chance", "single crops"} == set(
        scores
    )
    assert scores["chance"]["mean"] == 0.5
    assert scores["model"]["n"] == 6
    assert scores["model"]["mean"] >= 0.75  # a strong wave, in quadratic features
    own = [each["ensembled"]["balanced_accuracy"] for each in found["splits"]]
    assert scores["model"]["mean"] == pytest.approx(np.mean(own))
    assert len(own) == 2
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_group_is_on_one_side_of_every_split(tmp_path):
    listed = [(f"sub-{i // 3}", 30, "train", "up") for i in range(30)]
    dataset = open_dataset(store(tmp_path / "data", listed))
    settings = crop_probe.Settings(target="direction", groups="subject")
    examples = crop_probe.labelled(dataset, settings)
    seen = set()
    for seed in range(4):
        parts, _ = crop_probe.split(examples, (0.6, 0.2, 0.2), seed)
        people = [{int(row) // 3 for row in rows} for rows in parts.values()]
        assert [len(each) for each in people] == [6, 2, 2]
        assert len(set.union(*people)) == 10
        seen.add(tuple(sorted(people[2])))
    assert len(seen) > 1
    with pytest.raises(NeuroFMError, match="10 runs or groups leave none for valid"):
        crop_probe.split(examples, (0.98, 0.01, 0.01), 0)


def test_runs_of_one_timeline_are_on_one_side_of_every_split(tmp_path):
    listed = [(f"sub-{i}", 30, "train", "up") for i in range(30)]
    whose = [f"scan-{i // 3}" for i in range(30)]
    dataset = open_dataset(store(tmp_path / "data", listed, timelines=whose))
    examples = crop_probe.labelled(dataset, crop_probe.Settings(target="direction"))
    for seed in range(3):
        parts, _ = crop_probe.split(examples, (0.6, 0.2, 0.2), seed)
        scans = [{int(row) // 3 for row in rows} for rows in parts.values()]
        assert [len(each) for each in scans] == [6, 2, 2]
        assert len(set.union(*scans)) == 10


def test_a_number_of_one_test_run_has_an_error_alone():
    one = number_metrics(np.array([2.0]), np.array([5.0]))
    assert one == {"mae": 3.0}
    still = number_metrics(np.array([2.0, 2.0]), np.array([1.0, 3.0]))
    assert still == {"mae": 1.0, "r2": 0.0}


def test_what_cannot_be_cropped_is_refused(model, tmp_path):
    data = runs(tmp_path / "data", 6)
    told = {"data": data, "out": tmp_path / "out", "suite": "crop-probe"}
    with pytest.raises(NeuroFMError, match="the column of labels as --target"):
        evaluate([model], **told)
    other = store(tmp_path / "slow", [("a", 61, "train", "up")] * 6, tr_s=3.0)
    with pytest.raises(NeuroFMError, match="repetition time of 3 s"):
        evaluate([model], **{**told, "data": other}, target="direction")


def test_the_suite_probe_reads_runs_beside_connectivity_and_spectra(model, tmp_path):
    found = evaluate(
        [model],
        data=runs(tmp_path / "data", 16),
        out=tmp_path / "out",
        target="direction",
        split="kfold:2",
    )
    assert {"model", "untrained", "connectivity", "spectra"} < set(found["scores"])


def test_classic_features_are_what_numpy_says():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (5, 400))
    x[3] = 7.0  # never changes
    x[1, 1:] = x[0, :-1]  # region 1 follows region 0 by a volume
    live = [0, 1, 2, 4]
    z = connectivity(x, 0.5)
    assert z.shape == (10,)
    pairs = np.zeros((5, 5))
    pairs[np.triu_indices(5, 1)] = np.tanh(z)
    expected = np.triu(np.corrcoef(x[live]), 1)
    np.testing.assert_allclose(pairs[np.ix_(live, live)], expected, atol=1e-6)
    assert not pairs[3].any()
    lagged = lagged_covariance(x, 0.5).reshape(2, 5, 5)
    assert lagged[0, 1, 0] > 0.95
    assert abs(lagged[0, 0, 1]) < 0.2
    power = spectra(np.sin(2 * np.pi * 0.16 * np.arange(400))[None], 0.5)
    assert power.argmax() == 8  # 0.08 Hz in steps of 0.01
