"""Intracranial recordings embedded, scored and looked at: arrays and stores."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import mne
import numpy as np
import pytest
import quick
from tiny_ieeg import BERT, DUIN, VQVAE

from neurofm import check_ieeg
from neurofm import model as models
from neurofm.check import check
from neurofm.data.embeddings import open_embeddings
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.sensors import Sensors
from neurofm.embed import embed
from neurofm.embedding import encode
from neurofm.errors import NeuroFMError
from neurofm.evaluate import evaluate
from neurofm.model import Model, abstract_variables
from neurofm.models.finetune import Finetune
from neurofm.task import Task

READ = quick.jit(
    encode._read_layers.__wrapped__, static_argnames=("task", "want", "layers")
)


@functools.partial(quick.jit, static_argnums=0)
def whole(task, variables, batch):
    got = task.read(variables, batch)
    return got.values["last"], got.times_s, got.mask


@pytest.fixture(autouse=True)
def _compiled_quickly(monkeypatch):
    monkeypatch.setattr(encode, "_read_layers", READ)
    monkeypatch.setattr(encode, "N_SIZES", 1)


@functools.cache
def drawn(task) -> Model:
    """A model of random numbers in all its places."""
    rng = np.random.default_rng(8)

    def fill(x):
        return abs(0.4 * rng.normal(size=x.shape)).astype(x.dtype)

    variables = jax.tree.map(fill, abstract_variables(task))
    return Model(task, variables, {"source": "random"})


def by_hand(task, signal, length, there=None, subject=0):
    """The task on one window that is filled up with zeros, and what is no padding."""
    n = task.batch_spec().contract.window_samples
    padded = np.zeros((1, len(signal), n), np.float32)
    padded[0, :, :length] = signal[:, :length]
    batch = {
        "ieeg/signal": padded,
        "ieeg/length": np.array([length], np.int32),
        "ieeg/channel_mask": np.ones((1, len(signal)), bool)
        if there is None
        else there,
        "subject": np.array([subject], np.int32),
    }
    with jax.default_matmul_precision("highest"):
        batch = jax.tree.map(jnp.asarray, batch)
        got = jax.device_get(whole(task, drawn(task).inference, batch))
    values, times, mask = (one[0] for one in got)
    return values[mask], times[mask]


def noise(c, n, seed=2):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2e-5, (c, n)).cumsum(-1).astype(np.float32)


def store(path, recordings=((3, 150), (3, 150)), task: Task = BERT, hear=3, **more):
    """Recordings of (channels, samples) with loud and faint words in turn, which the
    first `hear` channels follow."""
    contract = task.batch_spec().contract
    about = {"sfreq": contract.sfreq, "reference": contract.reference, **more}
    sfreq = about["sfreq"]

    def made():
        for i, (c, n) in enumerate(recordings):
            x, events = noise(c, n, i), []
            for k, onset in enumerate(np.arange(0.1, n / sfreq - 0.5, 0.45)):
                kind = ("loud", "faint")[k % 2]
                at = slice(round(onset * sfreq), round((onset + 0.4) * sfreq))
                x[:hear, at] *= 30 if kind == "loud" else 1
                events.append({"onset": onset, "duration": 0.4, "trial_type": kind})
            sensors = Sensors(
                names=tuple("ABCDEF"[:c]),
                kind=np.zeros(c, np.int32),
                pos=np.zeros((c, 6), np.float32),
                coil=("",) * c,
            )
            split = "test" if i == len(recordings) - 1 else "train"
            meta = {"split": split, "subject": about.get("subject", "ben")}
            yield Recording(
                item=f"r{i}", samples=x, meta=meta, events=events, sensors=sensors
            )

    info = DatasetInfo(
        kind="ieeg",
        sfreq=sfreq,
        unit="V",
        ch_names=(),
        payload="float32",
        processing={"reference": about["reference"]},
    )
    write_dataset(path, info, made())
    return path


# ---- arrays --------------------------------------------------------------------------


def test_each_electrode_is_read_by_itself_and_all_lie_side_by_side():
    n = BERT.window_samples
    x = noise(3, n + 66)
    got = drawn(BERT).embed(x, sfreq=256, batch_size=4)
    wanted = []
    for channel in x:
        first, at = by_hand(BERT, channel[None], n)
        second, later = by_hand(BERT, channel[None, n:], 66)
        wanted.append(np.concatenate([first, second]))
        np.testing.assert_allclose(
            got.times_s, np.concatenate([at, later + n / 256]), atol=1e-6
        )
    assert 0 < len(later) < len(at)
    np.testing.assert_allclose(got.values["last"], np.hstack(wanted), atol=2e-5)
    pooled = drawn(BERT).embed(x, sfreq=256, pool="mean").values["last"]
    np.testing.assert_allclose(pooled[0], np.hstack(wanted).mean(0), atol=2e-5)


def test_a_group_is_read_at_once_with_its_mask_and_by_the_map_of_its_subject():
    x = noise(3, 60 + 44)
    there = np.arange(5)[None] < 3
    full = np.concatenate([x, np.full((2, 104), 7, np.float32)])  # masked, so unread
    for subject, name in enumerate(VQVAE.trunk.subjects):
        got = drawn(DUIN).embed(x, sfreq=100, subject=name)
        first, at = by_hand(DUIN, full, 60, there, subject)
        second, later = by_hand(DUIN, full[:, 60:], 44, there, subject)
        assert len(later) == 4  # whole patches alone
        np.testing.assert_allclose(
            got.times_s, np.concatenate([at, later + 0.6]), atol=1e-6
        )
        wanted = np.concatenate([first, second])
        np.testing.assert_allclose(got.values["last"], wanted, atol=2e-5)
        assert not np.allclose(
            wanted, by_hand(DUIN, full, 60, there, subject - 1)[0][0]
        )


def test_an_mne_recording_gives_its_intracranial_channels():
    x = noise(3, 70)
    kinds: Any = ["seeg", "stim", "ecog"]
    info = mne.create_info(["A", "trigger", "B"], 100, kinds)
    raw = mne.io.RawArray(x, info, verbose="error")
    got = drawn(DUIN).embed(raw, subject="cleo")
    wanted = drawn(DUIN).embed(x[[0, 2]], sfreq=100, subject="cleo")
    np.testing.assert_allclose(got.values["last"], wanted.values["last"], atol=1e-6)


@pytest.mark.parametrize(
    ("task", "x", "given", "message"),
    [
        (BERT, noise(2, 150), {"sfreq": 200}, r"sfreq +200.0 +256.0 +no exact"),
        (BERT, noise(2, 150), {}, "was given without sfreq"),
        (BERT, noise(2, 150), {"sfreq": 256, "subject": "ben"}, "leave subject out"),
        (BERT, noise(2, 9), {"sfreq": 256}, "shorter than one token"),
        (BERT, noise(2, 150) + np.nan, {"sfreq": 256}, "2 of 2 channels have samples"),
        (BERT, "a.edf", {}, "a.edf is no prepared dataset"),
        (DUIN, noise(6, 60), {"sfreq": 100, "subject": "ben"}, r"n_chans +6 +5"),
        (DUIN, noise(2, 60), {"sfreq": 100}, "no subject was given .* anna, ben, cleo"),
        (DUIN, noise(2, 60), {"sfreq": 100, "subject": "dora"}, "subject is 'dora'"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(task, x, given, message):
    with pytest.raises(NeuroFMError, match=message):
        drawn(task).embed(x, **given)


# ---- stores --------------------------------------------------------------------------


def test_a_store_is_embedded_with_the_names_of_its_electrodes(tmp_path):
    store(tmp_path / "d", [(3, 150), (2, 119)])
    result = embed(drawn(BERT), [tmp_path / "d"], tmp_path / "e")
    assert result["n_embeddings"] == 2
    found = open_embeddings(tmp_path / "e")
    assert found.index["sensors"].to_pylist() == [["A", "B", "C"], ["A", "B"]]
    x = open_dataset(tmp_path / "d").read(1, 0, 119)
    wanted, at = by_hand(BERT, x[1:], 119)
    np.testing.assert_allclose(found.times(1), at, atol=1e-6)
    np.testing.assert_allclose(found.read(1)[:, BERT.width :], wanted, atol=2e-5)


def test_a_store_of_groups_is_read_by_the_map_of_each_subject(tmp_path):
    store(tmp_path / "d", [(3, 60), (5, 44)], DUIN)
    embed(drawn(DUIN), [tmp_path / "d"], tmp_path / "e", layers="all")
    found = open_embeddings(tmp_path / "e")
    x = open_dataset(tmp_path / "d").read(1, 0, 44)
    wanted, _ = by_hand(DUIN, x, 44, None, VQVAE.trunk.subjects.index("ben"))
    np.testing.assert_allclose(found.read(1), wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        (BERT, {"sfreq": 128.0}, r"sfreq +128.0 +256.0 +no exact conversion"),
        (BERT, {"reference": "average"}, r"reference +average +laplacian +no exact"),
        (DUIN, {"recordings": [(6, 60)]}, r"n_chans +6 +5 +no exact"),
        (DUIN, {"subject": "dora"}, "recordings of 'dora' where the model knows"),
    ],
)
def test_stores_that_the_model_does_not_take_are_refused(
    task, fields, message, tmp_path
):
    store(tmp_path / "d", **{"task": task, **fields})
    with pytest.raises(NeuroFMError, match=message):
        embed(drawn(task), [tmp_path / "d"], tmp_path / "e")


@pytest.mark.parametrize("task", [BERT, pytest.param(VQVAE, marks=pytest.mark.slow)])
def test_words_are_scored_beside_untrained_and_band_power(task, tmp_path):
    models.save(tmp_path / "m", task, drawn(task).variables, {})
    store(tmp_path / "d", [(3, 1200), (3, 1200)], task)
    result = evaluate(
        [tmp_path / "m"],
        data=tmp_path / "d",
        out=tmp_path / "out",
        target="trial_type",
        around=(0.0, 0.4),
    )
    scores = result["scores"]
    assert {"model", "untrained", "baseline", "band_power"} <= set(scores)
    assert scores["band_power"]["mean"] > 0.9  # loud and faint differ in power alone


def test_electrodes_probed_alone_score_as_if_they_were_recorded_alone(tmp_path):
    models.save(tmp_path / "m", BERT, drawn(BERT).variables, {})
    store(tmp_path / "three", [(3, 1200), (3, 1200)], hear=1)
    store(tmp_path / "one", [(1, 1200), (1, 1200)])

    def scores(name, **more):
        return evaluate(
            [tmp_path / "m"],
            data=tmp_path / name,
            out=tmp_path / "out",
            target="trial_type",
            around=(0.0, 0.4),
            **more,
        )

    alone = scores("one")["scores"]
    best = scores("three", best_electrodes=1)
    rows = best["electrodes"]
    for name in ("model", "untrained", "band_power"):
        (own,) = (r for r in rows if (r["system"], r["electrode"]) == (name, "A"))
        assert own["test"] == alone[name]["mean"]
    assert (tmp_path / "out" / "figures" / "electrodes.png").stat().st_size > 5000
    heard = [r for r in rows if r["system"] == "band_power"]
    assert [r["electrode"] for r in heard if r["chosen"]] == ["A"]
    assert best["scores"]["band_power"]["mean"] == alone["band_power"]["mean"] > 0.9
    every = scores("three", best_electrodes=3)["scores"]["band_power"]["mean"]
    np.testing.assert_allclose(every, np.mean([r["test"] for r in heard]))
    with pytest.raises(NeuroFMError, match=r"--best-electrodes is 4.* have 3"):
        scores("three", best_electrodes=4)
    with pytest.raises(NeuroFMError, match="--label-counts scores all"):
        scores("three", best_electrodes=2, label_counts=(2,))


def test_unlike_electrodes_are_not_laid_side_by_side_and_scored(tmp_path):
    models.save(tmp_path / "m", BERT, drawn(BERT).variables, {})
    store(tmp_path / "d", [(3, 400), (2, 400)])
    embed(drawn(BERT), [tmp_path / "d"], tmp_path / "e")
    for given in ("m", "e"):
        with pytest.raises(NeuroFMError, match="2 different sets of electrodes"):
            evaluate([tmp_path / given], data=tmp_path / "d", out=tmp_path / "o")


def test_check_tells_channels_and_what_to_type(tmp_path):
    found = check(store(tmp_path / "d", [(3, 150), (2, 119)]))
    assert (found.facts["fewest_channels"], found.facts["most_channels"]) == (2, 3)
    assert found.facts["subjects"] == ["ben"]
    assert found.facts["processing"]["reference"] == "laplacian"
    assert re.search("pretrain brainbert/", found.next[0])
    assert "--suite probe" in found.next[1]
    models.save(tmp_path / "m", BERT, drawn(BERT).variables, {})
    assert re.search(r"embed \S+ DATASET", check(tmp_path / "m").next[0])


@pytest.mark.parametrize("over", [None, "head"])
def test_check_tells_what_every_channel_contributes(over, tmp_path):
    variables = drawn(VQVAE).variables
    weights = abs(np.asarray(variables["params"]["subjects"]["kernel"]))
    task = VQVAE
    if over:
        task = Finetune(task=VQVAE, head="flat")
        params = {
            "head": {"bias": np.zeros(2, np.float32)},
            "task": variables["params"],
        }
        rest = {"slow": {}, "buffers": {}, "frozen": {"task": variables}}
        variables = {"params": params, **rest}
    found = check_ieeg.model_facts(Model(task, variables))["channel_contribution"]
    assert list(found) == list(VQVAE.trunk.subjects)
    np.testing.assert_allclose([*found.values()], weights.mean(-1), rtol=1e-5)
