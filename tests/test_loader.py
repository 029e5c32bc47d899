"""Batches against the samples that were written, one step at a time."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from neurofm.config import Data
from neurofm.contract import BatchSpec, Field, InputContract
from neurofm.data import audio, loader
from neurofm.data.records import (
    Dataset,
    DatasetInfo,
    Recording,
    open_dataset,
    write_dataset,
)
from neurofm.errors import NeuroFMError
from neurofm.parallel.sharding import batch_sharding

SFREQ, WINDOW = 1000.0, 200


def spec(n_chans=1):
    fields = {
        "audio/wave": Field(shape=(n_chans, WINDOW), axes=("chan", "sample")),
        "audio/span": Field(shape=(2,), axes=("edge",), dtype="int32"),
    }
    contract = InputContract(
        kind="audio",
        sfreq=SFREQ,
        unit="full_scale",
        n_chans=n_chans,
        window_samples=WINDOW,
        hop_samples=10,
        receptive_samples=15,
    )
    return BatchSpec(fields=fields, contract=contract)


def make(path, lengths=(500, 150, 230, 400_000), n_chans=1, split="train"):
    """A store of noise, and the noise; the longest item fills several segments."""
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.3, 0.3, (n_chans, n)).astype(np.float32) for n in lengths]
    info = DatasetInfo(
        kind="audio",
        sfreq=SFREQ,
        unit="full_scale",
        ch_names=tuple(f"c{i}" for i in range(n_chans)),
        payload="float32",
    )
    meta = [{"sha256": f"{i:02d}", "split": split} for i in range(len(waves))]
    recordings = [
        Recording(item=f"item{i}", samples=w, meta=m)
        for i, (w, m) in enumerate(zip(waves, meta, strict=True))
    ]
    write_dataset(path, info, recordings)
    return open_dataset(path), waves


@pytest.fixture(scope="module")
def mono(tmp_path_factory):
    return make(tmp_path_factory.mktemp("stores") / "mono")


def trained(dataset, n_chans=1, **data):
    return audio.training([dataset], spec(n_chans).contract, Data(**data), seed=3)


def take(dataset, n, batch_size=5, rows=None, n_chans=1, start_step=0, workers=2):
    rows = np.arange(batch_size) if rows is None else np.asarray(rows)
    made = trained(dataset, n_chans)
    iterator = iter(
        loader.batches(made, spec(n_chans), batch_size, rows, start_step, workers)
    )
    out = [next(iterator) for _ in range(n)]
    iterator.close()
    return out


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name])


@pytest.mark.parametrize("n_chans", [1, 2])
def test_a_row_is_the_loudness_normalised_clip_inside_its_span_and_zero_outside(
    tmp_path, n_chans
):
    dataset, waves = make(tmp_path / "store", n_chans=n_chans)
    made = trained(dataset, n_chans)
    items = set()
    for step, batch in enumerate(take(dataset, 8, n_chans=n_chans)):
        assert batch["audio/wave"].dtype == np.float32
        assert batch["audio/wave"].shape == (5, n_chans, WINDOW)
        assert batch["audio/span"].dtype == batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["index"], np.arange(5))
        assert batch["valid"].all()
        for row in range(5):
            crop = made.crop(step * 5 + row)
            items.add(crop.item)
            clip = waves[crop.item]
            clip = clip * 10 ** (-14 / 20) / np.sqrt(np.mean(clip.astype(float) ** 2))
            first, past = batch["audio/span"][row]
            assert (first, past) == crop.span
            expected = np.zeros((n_chans, WINDOW))
            expected[:, first:past] = clip[:, crop.start : crop.stop]
            np.testing.assert_allclose(batch["audio/wave"][row], expected, atol=1e-6)
    assert items == {0, 1, 2, 3}


def test_a_run_goes_on_at_any_step_with_any_number_of_threads(mono):
    whole = take(mono[0], 7)
    for workers in (0, 1, 3):
        rest = take(mono[0], 3, start_step=4, workers=workers)
        for got, wanted in zip(rest, whole[4:], strict=True):
            assert_same(got, wanted)


def test_processes_read_their_own_rows_and_together_make_the_batch(mono):
    whole = take(mono[0], 3)
    parts = [take(mono[0], 3, rows=rows) for rows in ([0, 3], [1, 2, 4])]
    for step, wanted in enumerate(whole):
        for name, value in wanted.items():
            joined = np.empty_like(value)
            joined[[0, 3]], joined[[1, 2, 4]] = (part[step][name] for part in parts)
            np.testing.assert_array_equal(joined, value)


def test_an_all_zero_clip_stays_zero(tmp_path):
    dataset, _ = make(tmp_path / "noise", lengths=(300,))
    silent = Recording(item="zero", samples=np.zeros((1, 300), np.float32))
    write_dataset(tmp_path / "zeros", dataset.info, [silent])
    zeros = open_dataset(tmp_path / "zeros")
    made = audio.training([zeros], spec().contract, Data(min_active=0.0), seed=0)
    batch = next(iter(loader.batches(made, spec(), 2, np.arange(2), workers=0)))
    np.testing.assert_array_equal(batch["audio/wave"], np.zeros((2, 1, WINDOW)))


def test_a_store_with_other_channels_is_refused_with_the_remedy(mono):
    with pytest.raises(NeuroFMError, match=r"n_chans 1 .* takes 2: .* --channels all"):
        trained(mono[0], n_chans=2)


def test_a_task_that_wants_other_fields_is_refused(mono):
    field = Field(shape=(3, 100), axes=("chan", "sample"))
    other = BatchSpec(fields={"eeg/signal": field}, contract=spec().contract)
    with pytest.raises(NeuroFMError, match="eeg/signal"):
        loader.batches(trained(mono[0]), other, 2, np.arange(2))


def test_a_damaged_store_stops_the_loader_by_name(tmp_path):
    dataset, _ = make(tmp_path / "store", lengths=(500, 400))
    (shard,) = (tmp_path / "store").glob("*.array_record")
    shard.unlink()
    with pytest.raises(NeuroFMError, match="is damaged"):
        take(dataset, 1)


def single_device():
    axes = ("replica", "data", "fsdp", "tensor")
    types = (AxisType.Auto,) * 4
    return batch_sharding(jax.make_mesh((1, 1, 1, 1), axes, types))


def test_the_held_out_split_is_delivered_once_with_fillers_at_its_end(tmp_path):
    dataset, _ = make(tmp_path / "store", lengths=(400, 170, 650), split="valid")
    made = audio.held_out([dataset], spec().contract, Data(), limit=100)
    rows = np.arange(4)
    local = loader.batches(made, spec(), 4, rows)
    got = [d.batch for d in loader.device_batches(local, single_device(), 4, rows)]
    assert made.n_crops == 6
    assert np.concatenate([b["index"] for b in got]).tolist() == list(range(8))
    assert (
        np.concatenate([b["valid"] for b in got]).tolist() == [True] * 6 + [False] * 2
    )
    assert all(np.abs(b["audio/wave"]).max() > 0 for b in got)
    assert set(got[0]) == {"audio/wave", "audio/span", "index", "valid"}


def test_device_batches_are_the_local_batches(mono):
    rows = np.arange(5)
    local = loader.batches(trained(mono[0]), spec(), 5, rows)
    deliveries = loader.device_batches(local, single_device(), 5, rows)
    for wanted in take(mono[0], 3):
        delivery = next(deliveries)
        assert delivery.redraws == wanted.pop("redraws").sum()
        assert all(isinstance(v, jax.Array) for v in delivery.batch.values())
        assert_same(delivery.batch, wanted)
    deliveries.close()


def test_the_next_batch_is_made_while_the_step_runs_and_waits_are_measured(
    mono, monkeypatch
):
    gate, reads, read = threading.Event(), [], Dataset.read_many

    def gated(self, spans):
        assert gate.wait(10)
        reads.extend(spans)
        return read(self, spans)

    monkeypatch.setattr(Dataset, "read_many", gated)
    rows = np.arange(2)
    local = loader.batches(trained(mono[0]), spec(), 2, rows, workers=0)
    deliveries = loader.device_batches(local, single_device(), 2, rows)
    threading.Timer(0.3, gate.set).start()
    waited = next(deliveries).wait_s
    assert waited > 0.2  # until the gate opened
    deadline = time.monotonic() + 10
    while len(reads) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(reads) >= 4  # the second batch, which nobody has asked for yet
    assert next(deliveries).wait_s < waited
    deliveries.close()
