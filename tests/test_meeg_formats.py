"""Formats besides EDF and FIF, from bytes on the disk to a store.

BDF is written by edfio; GDF by hand, from its specification (Schlögl, arXiv
cs/0608052). Nothing writes CTF or KIT, so those are left to MNE's own tests.
"""

import struct

import numpy as np
import pytest
from brain_files import CAP, eeg

from data_pipelines.meeg.prepare import prepare
from data_pipelines.meeg.recording import from_raw
from data_pipelines.meeg.settings import Settings
from neurofm.data.records import open_dataset

QUIET = Settings(notch=(), band=(1, 96))
SFREQ, NAMES = 256, CAP[:5]
MARKS = ((512, 769), (900, 770))  # sample from 0, code


def write_gdf(path, x, names, sfreq, marks):
    """`x` [C, N] in volts as 16 bits of microvolts, in records of a second."""
    n_chans, n = x.shape
    top = np.abs(x * 1e6).max()

    def each(form, *values):
        return struct.pack(f"<{n_chans}{form}", *(values * n_chans)[:n_chans])

    fixed = b"".join(
        [
            b"GDF 2.10",
            b"X X".ljust(66),
            bytes(10 + 4),
            b"made by hand".ljust(64),
            bytes(16 + 8 + 8),  # where, when, birthday
            struct.pack("<H", 1 + n_chans),  # header, in blocks of 256 bytes
            bytes(6 + 8 + 6 + 6 + 12 + 12),
            struct.pack("<qIIHH", n // sfreq, 1, 1, n_chans, 0),
        ]
    )
    assert len(fixed) == 256
    channels = b"".join(
        [
            *(name.encode().ljust(16) for name in names),
            bytes(80 * n_chans + 6 * n_chans),
            each("H", 4275),  # microvolts
            each("d", -top),
            each("d", top),
            each("d", -32767.0),
            each("d", 32767.0),
            bytes(68 * n_chans),
            each("f", 100.0) + each("f", 0.1) + each("f", 50.0),
            each("I", sfreq),
            each("I", 3),  # int16
            bytes((12 + 20) * n_chans),
        ]
    )
    assert len(channels) == 256 * n_chans
    steps = np.rint(x * 1e6 / top * 32767).astype("<i2")
    records = steps.reshape(n_chans, -1, sfreq).swapaxes(0, 1)
    at, codes = zip(*marks, strict=True)
    events = b"".join(
        [
            bytes([1]) + len(marks).to_bytes(3, "little"),
            struct.pack("<f", sfreq),
            (np.array(at) + 1).astype("<u4").tobytes(),  # counted from 1
            np.array(codes, "<u2").tobytes(),
        ]
    )
    path.write_bytes(fixed + channels + records.tobytes() + events)


def write_bdf(path, x, names, sfreq, marks):
    """`x` in volts as 24 bits of microvolts, codes in a channel `Status`."""
    from edfio import Bdf, BdfSignal

    signals = [
        BdfSignal(
            row * 1e6,
            sampling_frequency=sfreq,
            label=name,
            physical_dimension="uV",
            physical_range=(-500.0, 500.0),
        )
        for name, row in zip(names, x, strict=True)
    ]
    status = np.zeros(x.shape[1])
    for at, code in marks:
        status[at : at + 10] = code
    low, high = -(2**23), 2**23 - 1
    signals.append(
        BdfSignal(
            status,
            sampling_frequency=sfreq,
            label="Status",
            physical_dimension="Boolean",
            physical_range=(low, high),
            digital_range=(low, high),
        )
    )
    Bdf(signals).write(path)


@pytest.mark.parametrize(
    ("write", "name"), [(write_gdf, "a.gdf"), (write_bdf, "a.bdf")]
)
def test_samples_names_and_events_are_those_that_were_written(write, name, tmp_path):
    raw = eeg(NAMES, seconds=6, sfreq=SFREQ)
    (tmp_path / "src").mkdir()
    write(tmp_path / "src" / name, raw.get_data(), NAMES, SFREQ, MARKS)
    summary = prepare(tmp_path / "src", tmp_path / "d", settings=QUIET, workers=1)
    assert (summary.n_items, summary.skipped) == (1, ())
    dataset = open_dataset(tmp_path / "d")
    assert dataset.sensors(0).names == NAMES
    wanted = from_raw(raw, QUIET).samples
    got = dataset.read(0, 0, wanted.shape[1])
    assert np.abs(got - wanted).max() < 3e-4 * np.abs(wanted).max()
    events = dataset.events.select(["onset", "trial_type"]).to_pylist()
    assert [(e["onset"], e["trial_type"]) for e in events] == [
        (at / SFREQ, str(code)) for at, code in MARKS
    ]
