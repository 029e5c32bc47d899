"""Superlets made once: what a run on them is shown."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from data_pipelines import superlets as pipeline
from neurofm.cli import cli
from neurofm.config import Data
from neurofm.data import loader, plan
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.errors import NeuroFMError
from neurofm.models.brainbert import BrainBERT
from neurofm.signals.superlets import Superlets, scored

SFREQ, WINDOW = 512.0, 767  # 1.5 s without the last sample
TASK = BrainBERT(
    spectrogram="superlets", sfreq=SFREQ, window_frames=6, width=12, heads=3
)
LENGTHS = (2 * WINDOW + 90, WINDOW + 7, 500, WINDOW)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Noise of two electrodes; one stretch is marked bad, one recording is short."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("ieeg") / "d"

    def made():
        for i, n in enumerate(LENGTHS):
            bad = [{"onset": 0.1, "duration": 0.05, "trial_type": "BAD_spike"}]
            yield Recording(
                item=f"r{i}",
                samples=rng.normal(0, 2e-5, (2, n)).astype(np.float32),
                meta={"subject": f"s{i}", "split": "valid" if i == 3 else "train"},
                events=bad if i == 0 else [],
            )

    info = DatasetInfo(
        kind="ieeg",
        sfreq=SFREQ,
        unit="V",
        ch_names=("LA2", "LA3"),
        payload="float32",
        processing={"reference": "laplacian"},
    )
    write_dataset(path, info, made())
    return path


@pytest.fixture(scope="module")
def prepared(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("superlets") / "d"
    words = ["prepare", "superlets", str(recordings), "--out", str(out)]
    words += ["--segment", "1.5", "--workers", "1", "--json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["n_items"] == 8  # four windows of two electrodes
    assert [name for name, _ in told["skipped"]] == ["r2"]
    again = json.loads(CliRunner().invoke(cli, words).stdout)
    assert again["status"] == "already prepared"
    return open_dataset(out)


def test_an_item_is_the_superlets_of_an_electrodes_window(recordings, prepared):
    source, how = open_dataset(recordings), Superlets(sfreq=SFREQ)
    first = int(np.ceil(0.15 * SFREQ))  # behind what is bad
    starts = {"r0": (first, first + WINDOW), "r1": (0,), "r3": (0,)}
    names = prepared.items["item"].to_pylist()
    expected = [
        f"{item}@{start}/{electrode}"
        for item, places in starts.items()
        for start in places
        for electrode in ("LA2", "LA3")
    ]
    assert names == expected
    row = names.index(f"r0@{first + WINDOW}/LA3")
    x = source.read(0, first + WINDOW, first + 2 * WINDOW)[1].astype(float)
    np.testing.assert_array_equal(prepared.read(row, 0, 6), scored(x, how).T)
    assert prepared.items["onset"][row].as_py() == pytest.approx(
        (first + WINDOW) / SFREQ
    )
    assert prepared.items["subject"][row].as_py() == "s0"


def test_a_run_is_shown_every_window_once_an_epoch(prepared):
    spec, data = TASK.batch_spec(), Data()
    made = plan.training([prepared], spec, data, 3, 2)
    seen = [made.crop(i).item for i in range(12)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    batch = next(iter(loader.batches(made, spec, 2, np.arange(2), 0, 0)))
    stored = prepared.read(seen[1], 0, 6).T
    np.testing.assert_array_equal(batch["ieeg/superlets"][1], stored)
    scores, counted = TASK.spectra(jax.tree.map(jnp.asarray, batch))
    np.testing.assert_array_equal(scores[1], stored)
    assert counted.all()
    held_out = plan.held_out([prepared], spec, data, 10, 2)
    assert {held_out.crop(i).item for i in range(held_out.n_crops)} == {6, 7}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"window_frames": 7}, "windows of 6 frames where the model takes 7"),
        ({"reference": "bipolar"}, "reference laplacian where the model takes bipolar"),
        ({"n_freqs": 30}, "40"),
        ({"sfreq": 2048.0}, "10.24"),
    ],
)
def test_windows_of_another_kind_are_refused(prepared, change, told):
    spec = replace(TASK, **change).batch_spec()
    with pytest.raises(NeuroFMError, match=told):
        plan.training([prepared], spec, Data(), 0, 2)


def test_what_leaves_nothing_is_refused(recordings, tmp_path):
    with pytest.raises(NeuroFMError, match="has 9 s without bad marks"):
        pipeline.prepare(recordings, tmp_path / "a", segment_s=9.0)
    with pytest.raises(NeuroFMError, match=r"give more than 0\.98"):
        pipeline.prepare(recordings, tmp_path / "b", segment_s=0.9)
    for odd in (np.nan, np.inf):
        with pytest.raises(NeuroFMError, match="give seconds"):
            pipeline.prepare(recordings, tmp_path / "c", segment_s=odd)


def test_a_restart_makes_what_is_missing_alone(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_PER_SHARD", 3)
    whole = pipeline.prepare(recordings, tmp_path / "a", segment_s=1.5, workers=1)
    write, made = pipeline._write, []

    def broken(job):
        if job.number == 1:
            raise KeyboardInterrupt
        made.append(job.number)
        write(job)

    monkeypatch.setattr(pipeline, "_write", broken)
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(recordings, tmp_path / "b", segment_s=1.5, workers=1)
    monkeypatch.setattr(pipeline, "_write", write)
    again = pipeline.prepare(recordings, tmp_path / "b", segment_s=1.5, workers=1)
    assert made == [0]
    assert again.status == "resumed"
    assert again.hash == whole.hash
