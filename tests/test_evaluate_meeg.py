"""Probes of events in EEG: pieces, their folds, and what stands beside a model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_meeg_rows import SFREQ, store
from tiny_meeg import OMNI, TOKENIZER, meeg_batch

from neurofm import model
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.eval import examples as exampling
from neurofm.eval import pieces
from neurofm.evaluate import evaluate


def rhythms(path, n_items=4, n_events=24):
    """Events of 1.5 s: a strong rhythm of 8 Hz or a weak one, over noise."""
    rng = np.random.default_rng(0)
    sensors = Sensors(
        names=("a", "b", "c"),
        kind=np.zeros(3, np.int32),
        pos=rng.normal(0, 0.1, (3, 6)).astype(np.float32),
        coil=("", "", ""),
    )

    def made():
        for i in range(n_items):
            n = (n_events + 1) * 80
            x = 1e-5 * rng.normal(0, 1, (3, n))
            events = []
            for k in range(n_events):
                strong = bool(rng.integers(2))
                at = 40 + 80 * k
                wave = np.sin(2 * np.pi * 8 * np.arange(60) / SFREQ + rng.uniform(0, 6))
                x[:, at : at + 60] += (3e-5 if strong else 3e-6) * wave
                name = "strong" if strong else "weak"
                events.append(
                    {"onset": at / SFREQ, "duration": 0.1, "trial_type": name}
                )
            split = "test" if i == n_items - 1 else "train"
            yield Recording(
                item=f"r{i}",
                samples=x.astype(np.float32),
                meta={"split": split, "subject": f"s{i}"},
                events=events,
                sensors=sensors,
            )

    info = DatasetInfo(kind="meeg", sfreq=SFREQ, unit="si", ch_names=())
    write_dataset(path, info, made())
    return open_dataset(path)


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """BrainOmni as it starts, as a model folder."""
    folder = tmp_path_factory.mktemp("omni") / "m"
    rows = jax.tree.map(jnp.asarray, meeg_batch(OMNI, 4))
    tokenizer = jax.jit(TOKENIZER.init)(jax.random.key(1), rows, {})
    fresh = jax.jit(OMNI.init)(jax.random.key(2), rows, {})
    variables = {**fresh, "frozen": {"tokenizer": TOKENIZER.inference(tokenizer)}}
    model.save(folder, OMNI, jax.device_get(variables), {})
    return folder


def test_events_are_scored_beside_untrained_and_band_power(tmp_path, omni):
    rhythms(tmp_path / "d")
    result = evaluate(
        [omni],
        data=tmp_path / "d",
        out=tmp_path / "out",
        target="trial_type",
        around=(0.0, 1.05),
    )
    scores = result["scores"]
    assert {"model", "untrained", "baseline", "chance", "band_power"} <= set(scores)
    assert scores["model"]["n"] == 24
    assert scores["band_power"]["mean"] > 0.8
    assert result["left_out"]["bad"] == result["left_out"]["outside"] == 0
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == result
    with pytest.raises(NeuroFMError, match=r"the target given is of whole recordings"):
        evaluate(
            [omni],
            data=tmp_path / "d",
            out=tmp_path / "o",
            target="rms",
            around=(0.0, 1.0),
        )


def test_a_piece_is_its_stretch_of_the_recording(tmp_path):
    events = [(0, 50, 54, "x"), (0, 90, 94, "y"), (1, 10, 14, "x"), (1, 100, 104, "y")]
    events += [(0, 92, 93, "BAD_blink"), (2, 60, 64, "x"), (2, 90, 94, "y")]
    dataset = store(tmp_path / "d", [(3, 130)] * 3, events=events)
    every = exampling.from_dataset(dataset, "trial_type", None, "kfold:3")
    found, examples = pieces.cut(dataset, every, (-0.25, 0.5))
    got = zip(found.row, found.start, found.stop, strict=True)
    whole = [(0, 40, 70), (1, 0, 30), (1, 90, 120), (2, 50, 80), (2, 80, 110)]
    assert sorted(got) == whole
    assert examples.left_out["bad"] == 1
    for i in range(len(examples.row)):
        x = dataset.read(int(found.row[i]), int(found.start[i]), int(found.stop[i]))
        np.testing.assert_array_equal(found.read(i, 0, 30), x)
        assert found.sensors(i).layout == dataset.sensors(int(found.row[i])).layout
    tested = np.concatenate([fold.test for fold in examples.folds])
    assert sorted(tested) == list(range(len(examples.row)))
    for fold in examples.folds:
        assert not set(found.row[fold.test]) & set(found.row[fold.train])
