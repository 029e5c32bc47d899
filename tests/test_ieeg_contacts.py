"""Contacts by their names, and what they are measured against."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import welch

from data_pipelines.ieeg.contacts import contact, shafts
from data_pipelines.ieeg.signal import referenced, without_hum
from neurofm.errors import NeuroFMError

NAMES = ["LA1", "LA2", "LA3", "LA10", "L'1", "L'2", "DC01", "ECG1", "B4"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("LA10", ("LA", 10)),
        ("L'1", ("L'", 1)),
        ("POL B'12", ("B'", 12)),
        ("EEG C64-Ref", ("C", 64)),
        ("LT_03", ("LT", 3)),
        ("A1B-2", ("A1B", 2)),
        ("DC10", None),
        ("PREC5", ("PREC", 5)),
        ("PR", None),
        ("ECG", None),
        ("EKG2", None),
        ("Pulse Rate", None),
        ("LA", None),
        ("7", None),
    ],
)
def test_a_name_tells_its_shaft_and_its_number(name, place):
    assert contact(name) == place


@given(
    st.text("ABCXYZ'", min_size=1, max_size=3).filter(lambda s: s[0] != "'"),
    st.integers(1, 99),
)
def test_any_shaft_and_number_come_back(shaft, number):
    assert contact(f"{shaft}{number}") == (shaft, number)


@given(st.text(max_size=20))
def test_no_name_is_too_odd(name):
    found = contact(name)
    assert found is None or found.number >= 1


def test_what_was_understood_is_told():
    found = shafts(NAMES)
    assert found.sentence == "LA 1-3 10, L' 1-2, B 4"
    assert found.others == ["DC01", "ECG1"]
    assert found.neighbours() == {"LA2": ("LA1", "LA3")}
    assert found.pairs() == [("L'1", "L'2"), ("LA1", "LA2"), ("LA2", "LA3")]


def test_references_are_those_of_their_formulas():
    x = np.random.default_rng(0).normal(size=(len(NAMES), 50))
    found = shafts(NAMES)
    row = dict(zip(NAMES, x, strict=True))
    laplacian = referenced(x, NAMES, found, "laplacian")
    assert laplacian.names == ("LA2",)
    wanted = row["LA2"] - (row["LA1"] + row["LA3"]) / 2
    np.testing.assert_allclose(laplacian.samples[0], wanted, atol=1e-6)
    bipolar = referenced(x, NAMES, found, "bipolar")
    assert bipolar.names == ("L'1-L'2", "LA1-LA2", "LA2-LA3")
    np.testing.assert_allclose(bipolar.samples[1], row["LA1"] - row["LA2"], atol=1e-6)
    average = referenced(x, NAMES, found, "average")
    assert len(average.names) == 7
    np.testing.assert_allclose(average.samples.mean(0), 0, atol=1e-6)
    plain = referenced(x, NAMES, found, "none")
    np.testing.assert_allclose(plain.samples[3], row["LA10"], atol=1e-6)


def test_a_shaft_of_one_contact_has_no_laplacian():
    found = shafts(["LA1", "B4"])
    with pytest.raises(NeuroFMError, match="no contact has the neighbours"):
        referenced(np.zeros((2, 5)), ["LA1", "B4"], found, "laplacian")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["LA1", "LA01"], "both mean contact 1 of shaft LA"),
        (["Cz", "DC1"], "none of the channels is named as a contact"),
    ],
)
def test_names_that_tell_nothing_are_refused(names, message):
    with pytest.raises(NeuroFMError, match=message):
        shafts(names)


def test_hum_and_its_multiples_are_taken_out_and_the_past_stays():
    sfreq, n = 1000.0, 20_000
    rng = np.random.default_rng(1)
    t = np.arange(n) / sfreq
    noise = rng.normal(size=n)
    hum = sum(np.sin(2 * np.pi * f * t) for f in (50, 150))
    clean = without_hum((noise + 5 * hum)[None], sfreq, 50.0)[0]
    f, power = welch(clean[4000:], sfreq, nperseg=2000)
    _, before = welch((noise + 5 * hum)[4000:], sfreq, nperseg=2000)
    for hz in (50, 150):
        assert power[f == hz] < 1e-3 * before[f == hz]
    assert abs(np.log(power[(f > 60) & (f < 90)].mean() * sfreq / 2)) < 0.1
    later = np.where(t > 10, 0, noise + 5 * hum)
    again = without_hum(later[None], sfreq, 50.0)[0]
    np.testing.assert_array_equal(again[: n // 2], clean[: n // 2])


def test_real_names_are_understood():
    folder = os.environ.get("NEUROFM_DATA")
    if not folder:
        pytest.skip("NEUROFM_DATA does not name the folder of real recordings")
    mne = pytest.importorskip("mne")
    path = Path(folder) / "ieeg" / "sample_seeg.edf"
    raw = mne.io.read_raw_edf(path, verbose="error")
    found = shafts(raw.ch_names)
    assert len(found.contacts) == 88
    leads = {place.shaft for place in found.contacts.values()}
    assert leads == {"L'", "N'", "F'", "O'", "G'", "X'"}
    assert len(found.others) == 10
