"""Epochs of a store against MNE's, and what is left out of them."""

import mne
import numpy as np
import pytest
from brain_files import CAP, eeg

from neurofm.data.epochs import epochs
from neurofm.data.records import DatasetInfo, Recording, open_dataset, write_dataset
from neurofm.data.sensors import Sensors
from neurofm.errors import NeuroFMError
from neurofm.signals.meeg import EEG, MAG

ONSETS = (0.1, 2.0, 3.25, 5.5, 7.9)
TYPES = ("a", "b", "a", "a", "b")


def sensors(names, kind=EEG):
    pos = np.zeros((len(names), 6), np.float32)
    pos[:, 0] = np.arange(len(names)) / 100
    kinds = np.full(len(names), kind, np.int32)
    return Sensors(tuple(names), kinds, pos, ("",) * len(names))


def recording(item, seed=0, names=CAP, extra=(), kind=EEG):
    events = [
        {"onset": onset, "duration": 0.0, "trial_type": name}
        for onset, name in zip(ONSETS, TYPES, strict=True)
    ]
    events += [
        {"onset": on, "duration": length, "trial_type": name}
        for on, length, name in extra
    ]
    x = eeg(names, seed=seed).get_data().astype(np.float32)
    return Recording(item=item, samples=x, sensors=sensors(names, kind), events=events)


def store(tmp_path, *recordings):
    info = DatasetInfo(
        kind="meeg", sfreq=256.0, unit="si", ch_names=(), payload="float32"
    )
    write_dataset(tmp_path / "d", info, recordings)
    return open_dataset(tmp_path / "d")


def mnes(types, tmin, tmax, **kwargs):
    raw = eeg()
    raw._data[:] = raw._data.astype(np.float32)
    samples = [round(onset * 256) for onset in ONSETS]
    codes = {"a": 1, "b": 2}
    rows = [[s, 0, codes[t]] for s, t in zip(samples, TYPES, strict=True)]
    wanted = {name: codes[name] for name in types}
    found = mne.Epochs(
        raw,
        np.array(rows),
        wanted,
        tmin,
        tmax - 1 / 256,
        preload=True,
        verbose="error",
        **kwargs,
    )
    return found.get_data()


@pytest.mark.parametrize("baseline", [None, (-0.2, 0.0)])
@pytest.mark.parametrize("types", [("a",), ("b", "a")])
def test_epochs_are_mnes_but_for_its_last_sample(tmp_path, types, baseline):
    dataset = store(tmp_path, recording("x"))
    (found,) = epochs(dataset, types, -0.25, 0.5, baseline=baseline)
    inside = None if baseline is None else (-0.2, -1 / 256)
    want = mnes(types, -0.25, 0.5, baseline=inside)
    np.testing.assert_allclose(found.samples, want, atol=1e-10)
    assert found.times_s[0] == -0.25
    assert found.samples.shape == (len(found.table), len(CAP), 192)
    assert found.dropped == {"outside": sum(t in types for t in ("a", "b"))}


def test_each_layout_has_epochs_of_its_own(tmp_path):
    dataset = store(
        tmp_path,
        recording("x"),
        recording("y", seed=1, names=CAP[:4]),
        recording("z", seed=2),
    )
    first, second = epochs(dataset, "a", 0, 0.25)
    assert first.table["item"].to_pylist() == ["x"] * 3 + ["z"] * 3
    assert second.table["item"].to_pylist() == ["y"] * 3
    assert second.samples.shape == (3, 4, 64)
    assert second.sensors.names == CAP[:4]
    np.testing.assert_array_equal(second.samples[1], dataset.read(1, 832, 832 + 64))


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ((3.4, 0.01), [0.1, 5.5]),
        ((3.5, 0.5), [0.1, 3.25, 5.5]),
        ((3.0, 0.25), [0.1, 5.5]),
        ((3.3, 0.0), [0.1, 5.5]),
        ((0.0, 8.0), []),
    ],
)
def test_what_meets_a_bad_stretch_is_left_out(tmp_path, bad, kept):
    dataset = store(tmp_path, recording("x", extra=[(*bad, "BAD_move")]))
    (found,) = epochs(dataset, "a", 0, 0.25)
    assert found.table["onset"].to_pylist() == kept
    assert found.samples.shape == (len(kept), len(CAP), 64)
    assert found.dropped.get("bad", 0) == 3 - len(kept)
    (all_of_them,) = epochs(dataset, "a", 0, 0.25, keep_bad=True)
    assert len(all_of_them.table) == 3


def test_epochs_that_exceed_a_limit_are_left_out_by_kind(tmp_path):
    loud = recording("x")
    loud.samples[4, 850:860] += 1e-3
    dataset = store(tmp_path, loud)
    (found,) = epochs(dataset, "a", 0, 0.25, reject={"eeg": 5e-4, "mag": 0.0})
    assert found.table["onset"].to_pylist() == [0.1, 5.5]
    assert found.dropped == {"reject": 1}
    magnetic = store(tmp_path / "m", recording("x", kind=MAG))
    (none,) = epochs(magnetic, "a", 0, 0.25, reject={"mag": 0.0})
    assert none.dropped == {"reject": 3}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("c", 0, 1), "no event 'c'; it has a, b"),
        (("a", 1, 1), "no samples"),
        (("a", 0, 1, (-0.5, -0.1)), "outside of the epochs"),
        (("a", 0, 1, None, {"ecg": 1.0}), "expected eeg, mag, grad"),
    ],
)
def test_epochs_that_cannot_be_are_refused(tmp_path, given, told):
    dataset = store(tmp_path, recording("x"))
    name, tmin, tmax, *more = given
    words = dict(zip(("baseline", "reject"), more, strict=False))
    with pytest.raises(NeuroFMError, match=told):
        epochs(dataset, name, tmin, tmax, **words)
