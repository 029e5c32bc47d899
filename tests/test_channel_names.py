"""Names of clinical files mean the electrodes that a reader of them would say."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.meeg.montages import standard
from data_pipelines.meeg.names import is_auxiliary, resolve

TEN_TWENTY = [
    "Fp1",
    "Fp2",
    "F7",
    "F3",
    "Fz",
    "F4",
    "F8",
    "T7",
    "C3",
    "Cz",
    "C4",
    "T8",
    "P7",
    "P3",
    "Pz",
    "P4",
    "P8",
    "O1",
    "O2",
    "A1",
    "A2",
]


@functools.cache
def electrodes():
    return tuple(standard("standard_1005").ch_names)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("EEG FP1-REF", "Fp1"),
        ("EEG Fpz-LE", "Fpz"),
        ("eeg:Cz", "Cz"),
        ("POL F3", "F3"),
        ("O1..", "O1"),
        ("Fc5.", "FC5"),
        ("  fp2 ", "Fp2"),
        ("C3-A2", "C3"),
        ("P3_REF", "P3"),
        ("T3", "T3"),
        ("T3/T7", "T3"),
        ("Cz-0", "Cz"),
        ("AF Z", "AFz"),
        ("EEG A1-REF", "A1"),
    ],
)
def test_a_clinical_name_means_its_electrode(written, meant):
    assert resolve([written], electrodes()).electrodes == {written: meant}


def test_old_names_mean_the_new_ones_where_only_these_are_known():
    found = resolve(["T3", "EEG T6-REF", "T8"], TEN_TWENTY).electrodes
    assert found == {"T3": "T7", "EEG T6-REF": "P8", "T8": "T8"}
    assert resolve(["T7"], ["T3"]).electrodes == {"T7": "T3"}


@pytest.mark.parametrize("written", ["Fp1-F7", "EEG F3-C3", "E12", "X", "", "1", "-"])
def test_a_difference_and_a_number_mean_no_electrode(written):
    assert resolve([written], electrodes()).electrodes == {}


def test_an_electrode_that_all_are_measured_against_is_a_reference():
    names = ["F3-Cz", "F4-Cz", "P3-Cz", "P4-Cz"]
    found = resolve(names, electrodes())
    assert list(found.electrodes.values()) == ["F3", "F4", "P3", "P4"]
    assert found.references == ("CZ",)
    assert resolve([*names, "O1-O2"], electrodes()).electrodes == {}
    assert resolve(names[:3], electrodes()).electrodes == {}


@given(
    electrode=st.sampled_from(sorted(set(TEN_TWENTY) - {"T7", "T8", "P7", "P8"})),
    case=st.sampled_from([str.upper, str.lower, str.title]),
    system=st.sampled_from(["", "EEG ", "EEG:", "POL ", "eeg_"]),
    reference=st.sampled_from(["", "-REF", "-LE", "-Ref", "-A2", "_REF"]),
    padding=st.text(" .", max_size=4),
)
def test_dressing_a_name_up_changes_nothing(
    electrode, case, system, reference, padding
):
    written = f"{system}{case(electrode)}{reference}{padding}"
    assert resolve([written], electrodes()).electrodes == {written: electrode}


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_names_resolve_to_known_electrodes_or_to_none(names):
    found = resolve(names, electrodes()).electrodes
    assert set(found) <= set(names)
    assert set(found.values()) <= set(electrodes())


@pytest.mark.parametrize(
    "name",
    [
        "EOG1",
        "HEOG",
        "VEO",
        "HEO",
        "EKG",
        "ECG1",
        "EMG",
        "STI014",
        "Status",
        "PHOTIC",
        "ROC",
        "EEG_EKG",
    ],
)
def test_what_does_not_record_the_brain_is_known_by_its_name(name):
    assert is_auxiliary(name)


def test_no_electrode_is_taken_for_something_else():
    for montage in ("standard_1005", "biosemi256", "GSN-HydroCel-128", "easycap-M1"):
        names = standard(montage).ch_names
        assert not [name for name in names if is_auxiliary(name)]
