"""Datasets in object stores: the same batches, few waits, faults met with patience."""

import json
import pickle
import time

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_store import slow_store, upload
from test_loader import make, spec, take, trained

from neurofm import config, stores
from neurofm.data import audio, loader
from neurofm.data.records import (
    DatasetInfo,
    Recording,
    open_dataset,
    write_dataset,
)
from neurofm.data.remote import RemoteShard
from neurofm.errors import NeuroFMError


@pytest.fixture
def slow():
    with slow_store() as store:
        yield store


@pytest.fixture
def no_waits(monkeypatch):
    waits = []
    monkeypatch.setattr(stores.time, "sleep", waits.append)
    return waits


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(
        st.one_of(st.integers(0, 50), st.integers(0, 400_000)), min_size=1, max_size=8
    ),
    seed=st.integers(0, 100),
)
def test_records_read_as_byte_ranges_are_those_that_were_written(
    tmp_path_factory, lengths, seed
):
    path = tmp_path_factory.mktemp("shard") / "00000.array_record"
    rng = np.random.default_rng(seed)
    records = [rng.bytes(n) for n in lengths]
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()
    shard = RemoteShard(f"file://{path}", path.stat().st_size)
    order = rng.permutation(len(records)).tolist()
    assert shard.read(order) == [records[i] for i in order]
    with pytest.raises(IndexError):
        shard.read([len(records)])


def test_a_chunk_that_would_end_beside_a_block_header_is_read_whole(tmp_path):
    """The padding rule of the format: every length around a block's end."""
    path = tmp_path / "00000.array_record"
    for length in range(65_300, 65_480):
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for record in (b"a" * length, b"b", b"c" * 70):
            writer.write(record)
        writer.close()
        shard = RemoteShard(f"file://{path}", path.stat().st_size)
        assert shard.read([1, 0, 2]) == [b"b", b"a" * length, b"c" * 70]


def test_a_store_gives_the_batches_of_the_folder_it_was_copied_from(tmp_path, slow):
    local, _ = make(tmp_path / "store")
    there = open_dataset(upload(tmp_path / "store", "slow://bucket/sound"))
    assert there.hash == local.hash
    assert len(there) == len(local)
    for got, wanted in zip(take(there, 5), take(local, 5), strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])
    again = pickle.loads(pickle.dumps(there))
    np.testing.assert_array_equal(again.read(3, 7, 390_001), local.read(3, 7, 390_001))


def test_the_segments_of_a_batch_are_fetched_at_the_same_time_and_once(tmp_path, slow):
    lengths = [400] * 40
    make(tmp_path / "store", lengths=lengths)
    there = open_dataset(upload(tmp_path / "store", "slow://bucket/sound"))
    plan = trained(there, crops_per_clip=2)
    there.read(0, 0, 1)  # the shard's index
    slow.reset(together=20)
    rows = np.arange(48)
    batches = iter(loader.batches(plan, spec(), 48, rows, workers=1))
    next(batches)
    batches.close()
    clips = {plan.crop(i).item for i in range(48)}
    assert slow.peak >= 20
    assert slow.reads <= 2 * len(clips)  # a batch or two, a segment a clip


def base_rate():
    """Crops a second that a TPU v5e chip takes: 40 % of 197 TFLOP/s, analytic FLOPs."""
    task = config.load("wavjepa/base").task
    return 197e12 * 0.4 / (task.flops(512) / 512)


@pytest.mark.slow
def test_reading_ahead_hides_fifty_milliseconds_a_read_at_the_base_rate(tmp_path, slow):
    """A tenth of a chip's rate on one core; the segments of a read do not shrink.

    Without reading ahead a batch would wait for its segments one after the other.
    """
    info = DatasetInfo(
        kind="audio", sfreq=16_000.0, unit="full_scale", ch_names=("mono",)
    )
    rng = np.random.default_rng(0)
    clips = [
        Recording(
            item=f"{i:03d}",
            samples=rng.uniform(-0.3, 0.3, (1, 160_000)).astype(np.float32),
        )
        for i in range(60)
    ]
    write_dataset(tmp_path / "store", info, clips)
    there = open_dataset(upload(tmp_path / "store", "slow://bucket/sound"))
    exp = config.load("wavjepa/base")
    contract = exp.task.batch_spec("train")
    plan = audio.training([there], contract.contract, exp.data, 0)
    batch, step_s = 64, 64 / (base_rate() / 10)
    slow.reset(latency_s=0.05)
    batches = iter(loader.batches(plan, contract, batch, np.arange(batch)))
    next(batches)
    waits = []
    for _ in range(10):
        time.sleep(step_s)
        asked = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - asked)
    batches.close()
    one_by_one = slow.reads / 11 * 0.05
    print(f"step {step_s:.2f} s, reads one by one {one_by_one:.2f} s, waits {waits}")
    assert np.median(waits) < 0.1 * step_s


def test_what_fails_in_passing_is_read_again_after_growing_waits(
    tmp_path, slow, no_waits
):
    local, _ = make(tmp_path / "store")
    there = open_dataset(upload(tmp_path / "store", "slow://bucket/sound"))
    slow.reset(faults=[TimeoutError("slow"), ConnectionError("reset"), OSError("503")])
    np.testing.assert_array_equal(there.read(0, 5, 100), local.read(0, 5, 100))
    assert [w for w in no_waits if w] == [0.5, 1.0, 2.0]


def test_what_keeps_failing_is_told_as_worth_a_retry(tmp_path, slow, no_waits):
    make(tmp_path / "store")
    there = open_dataset(upload(tmp_path / "store", "slow://bucket/sound"))
    slow.reset(faults=[OSError("503")] * 6)
    with pytest.raises(
        ConnectionError, match=r"00000.array_record failed 6 times.*503"
    ):
        there.read(0, 5, 100)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (PermissionError("forbidden"), "access is denied"),
        (FileNotFoundError("gone"), "it is not there"),
    ],
)
def test_what_waiting_cannot_mend_is_one_sentence_at_once(
    tmp_path, slow, no_waits, fault, words
):
    make(tmp_path / "store")
    there = open_dataset(upload(tmp_path / "store", "slow://bucket/sound"))
    slow.reset(faults=[fault])
    with pytest.raises(NeuroFMError, match=f"slow://bucket/.*{words}"):
        there.read(0, 5, 100)
    assert not any(no_waits)
    assert slow.reads == 1


def test_a_damaged_shard_in_a_store_is_named(tmp_path, slow):
    make(tmp_path / "store")
    (shard,) = (tmp_path / "store").glob("*.array_record")
    raw = bytearray(shard.read_bytes())
    for at, words in ((64 + 8, "chunk"), (len(raw) - 2**16 + 24 + 24, "chunk")):
        broken = bytearray(raw)
        broken[at] ^= 0x55
        shard.write_bytes(broken)
        address = upload(tmp_path / "store", f"slow://bucket/{at}")
        with pytest.raises(NeuroFMError, match=f"{address}.* is damaged .*{words}"):
            open_dataset(address).read(0, 5, 100)


def test_a_cut_or_absent_dataset_in_a_store_is_told(tmp_path, slow):
    make(tmp_path / "store")
    with pytest.raises(NeuroFMError, match=r"slow://bucket/none is not a dataset"):
        open_dataset("slow://bucket/none")
    (shard,) = (tmp_path / "store").glob("*.array_record")
    shard.write_bytes(shard.read_bytes()[:-1])
    address = upload(tmp_path / "store", "slow://bucket/cut")
    with pytest.raises(NeuroFMError, match=r"cut is damaged \(00000.array_record has"):
        open_dataset(address)


def test_an_unknown_or_undriven_store_says_what_to_do(monkeypatch):
    from fsspec.registry import _registry, known_implementations

    stores.filesystem.cache_clear()
    with pytest.raises(NeuroFMError, match="ftpx:// is no kind of store"):
        open_dataset("ftpx://host/data")
    for scheme, driver in (("gs", "gcsfs"), ("s3", "s3fs")):
        absent = {"class": "no_such_module.Store", "err": "install it"}
        monkeypatch.setitem(known_implementations, scheme, absent)
        monkeypatch.delitem(_registry, scheme, raising=False)
        with pytest.raises(NeuroFMError, match=f"pip install {driver}"):
            open_dataset(f"{scheme}://bucket/data")
    stores.filesystem.cache_clear()


def test_the_dataset_of_a_store_knows_its_contract(tmp_path, slow):
    local, _ = make(tmp_path / "store")
    there = open_dataset(upload(tmp_path / "store", "slow://bucket/sound") + "/")
    assert json.dumps(there.info.to_json()) == json.dumps(local.info.to_json())
    assert there.items.equals(local.items)
    assert there.path == "slow://bucket/sound"
