"""One recording of EEG and MEG: its sensors, signals and events against MNE's own."""

import json

import mne
import numpy as np
import pytest
from brain_files import CAP, CTF_GRAD, MAGNES_GRAD, eeg, meg, noise, standard_1005
from hypothesis import given
from hypothesis import strategies as st
from mne.transforms import apply_trans

from data_pipelines.meeg import montages, signal
from data_pipelines.meeg.recording import from_raw
from data_pipelines.meeg.sensors import Given, coil_name, kind_of
from data_pipelines.meeg.settings import Settings
from data_pipelines.unreadable import Unreadable
from neurofm.errors import NeuroFMError
from neurofm.signals.meeg import EEG, GRAD, MAG

QUIET = Settings(notch=(), band=(1, 96))  # short filters for short recordings


def read(raw, settings=QUIET, **more):
    return from_raw(raw, settings, **more)


def test_electrodes_without_positions_take_those_of_a_montage_in_the_head_frame():
    raw = eeg()
    item = read(raw)
    raw.set_montage(standard_1005())
    want = np.array([ch["loc"][:3] for ch in raw.info["chs"]])
    np.testing.assert_allclose(item.sensors.pos[:, :3], want, atol=1e-7)
    assert not item.sensors.pos[:, 3:].any()
    assert item.sensors.names == CAP
    assert (item.sensors.kind == EEG).all()
    assert any("positions from standard_1005: Fp1, Fp2" in n for n in item.notes)


def test_positions_in_the_file_go_before_names_and_given_ones_before_both():
    raw = eeg(montage=mne.channels.make_standard_montage("biosemi32"), names=CAP[:4])
    inside = np.array([ch["loc"][:3] for ch in raw.info["chs"]])
    np.testing.assert_allclose(read(raw).sensors.pos[:, :3], inside, atol=1e-7)
    mine = {name: np.array([0.01 * i, 0.05, 0.09]) for i, name in enumerate(CAP)}
    item = read(raw, given=Given(mine, "mine.tsv"))
    np.testing.assert_allclose(item.sensors.pos[2, :3], mine[CAP[2]], atol=1e-7)


def test_clinical_names_are_resolved_and_the_mapping_is_told():
    item = read(eeg(["EEG FP1-REF", "EEG T3-REF", "eeg pz-ref", "O1..", "EKG"]))
    assert item.sensors.names == ("Fp1", "T3", "Pz", "O1")
    assert item.meta["reference"] == "REF"
    told = " ".join(item.notes)
    assert "EEG FP1-REF is Fp1, EEG T3-REF is T3, eeg pz-ref is Pz, O1.. is O1" in told
    assert "neither EEG nor MEG: EKG" in told


def test_a_channel_without_a_place_is_absent_and_told_never_filled():
    item = read(eeg([*CAP[:4], "X9"]))
    assert item.sensors.names == CAP[:4]
    assert len(item.samples) == 4
    assert any("X9; give --montage or --electrodes" in n for n in item.notes)


def test_names_of_another_system_are_no_electrodes_of_the_default_montage():
    names = [f"{group}{i}" for group in "AB" for i in range(1, 9)]
    with pytest.raises(Unreadable, match="--montage NAME or FILE"):
        read(eeg(names))
    cap = Settings(notch=(), band=(1, 96), montage="biosemi128")
    assert len(read(eeg(names), cap).sensors) == 16


def test_meg_lies_in_the_head_frame_as_mne_transforms_it():
    raw = meg(with_eeg=True)
    item = read(raw)
    to_head = raw.info["dev_head_t"]
    for row in range(12):
        loc = raw.info["chs"][row]["loc"]
        planar = row % 3 < 2
        axis = loc[3:6] if planar else loc[9:12]
        place = apply_trans(to_head, loc[:3])
        tip = apply_trans(to_head, loc[:3] + axis)
        np.testing.assert_allclose(item.sensors.pos[row, :3], place, atol=1e-6)
        np.testing.assert_allclose(item.sensors.pos[row, 3:], tip - place, atol=1e-6)
        assert item.sensors.kind[row] == (GRAD if planar else MAG)
    assert item.sensors.coil[:3] == ("VV_PLANAR_T1", "VV_PLANAR_T1", "VV_MAG_T1")
    assert item.sensors.frame == "head"
    cap = np.array([ch["loc"][:3] for ch in raw.info["chs"][12:]])
    np.testing.assert_allclose(item.sensors.pos[12:, :3], cap, atol=1e-7)


def test_the_released_frame_leaves_meg_in_the_device():
    raw = meg()
    item = read(raw, Settings(notch=(), band=(1, 96), frame="released"))
    loc = raw.info["chs"][2]["loc"]
    np.testing.assert_allclose(item.sensors.pos[2], [*loc[:3], *loc[9:12]], atol=1e-7)
    assert item.sensors.frame == "released"


def test_meg_without_a_head_position_names_the_option():
    raw = meg()
    raw.info["dev_head_t"] = None
    with pytest.raises(Unreadable, match="--frame released"):
        read(raw)


def test_coil_codes_tell_gradiometers_and_the_released_rule_goes_by_the_name():
    kinds = {
        coil_name(code): (
            kind_of(coil_name(code), "code"),
            kind_of(coil_name(code), "released"),
        )
        for code in (3012, 3022, 2, 2000, 2001, MAGNES_GRAD, 4001, CTF_GRAD, 6001, 8001)
    }
    assert coil_name(3 << 16 | CTF_GRAD) == "CTF_GRAD"  # compensated, as CTF is
    assert kinds == {
        "VV_PLANAR_T1": (GRAD, GRAD),
        "VV_MAG_T1": (MAG, MAG),
        "NM_122": (GRAD, GRAD),
        "POINT_MAGNETOMETER": (MAG, MAG),
        "AXIAL_GRAD_5CM": (GRAD, GRAD),
        "MAGNES_GRAD": (GRAD, MAG),
        "MAGNES_MAG": (MAG, MAG),
        "CTF_GRAD": (GRAD, GRAD),
        "KIT_GRAD": (GRAD, GRAD),
        "QUSPIN_ZFOPM_MAG": (MAG, MAG),
    }


@pytest.mark.parametrize("sfreq", [200.0, 256.0, 501.5])
def test_signals_equal_mnes_own_notch_resampling_and_band_pass(sfreq):
    raw = eeg(CAP[:5], seconds=21, sfreq=sfreq)
    settings = Settings(line_freq=50.0, band=(0.5, 90.0), bads="keep")
    item = read(raw, settings)
    want = raw.copy().notch_filter([50.0], verbose="error")
    if sfreq != 256:
        want.resample(256.0, verbose="error")
    want.filter(0.5, 90.0, verbose="error")
    assert item.samples.shape == want.get_data().shape
    scale = want.get_data().std()
    np.testing.assert_allclose(item.samples, want.get_data(), atol=1e-5 * scale)
    assert item.meta["line_freq"] == 50.0


def test_filtering_a_few_channels_at_a_time_changes_no_bit(monkeypatch):
    raw = eeg()
    whole = read(raw).samples
    monkeypatch.setattr(signal, "_CHUNK", 2 * raw.n_times)
    np.testing.assert_array_equal(read(raw).samples, whole)


def test_an_unknown_line_frequency_is_told_and_a_known_one_taken_out():
    raw = eeg(seconds=10)
    hum = np.sin(2 * np.pi * 50 * raw.times)
    raw._data += 1e-5 * hum
    left = read(raw, Settings(band=(1, 96)))
    assert any("line frequency is not known" in note for note in left.notes)
    raw.info["line_freq"] = 50.0
    gone = read(raw, Settings(band=(1, 96)))
    middle = slice(512, -512)
    level = [np.abs((i.samples[0] * hum)[middle].mean()) for i in (left, gone)]
    assert level[1] < 0.02 * level[0]


def test_a_unit_that_is_wrong_is_named_and_the_option_settles_it():
    raw = eeg(scale=10.0)  # microvolts, labelled volts
    with pytest.raises(
        Unreadable, match=r"looks like uV .* 1e\+06 too large; give --unit uV"
    ):
        read(raw)
    item = read(raw, Settings(notch=(), band=(1, 96), unit=("µV",)))
    want = read(eeg(scale=1e-5)).samples
    np.testing.assert_allclose(item.samples, want, rtol=1e-4, atol=1e-11)


def test_files_without_a_label_are_taken_for_what_mne_takes_them():
    class RawEEGLAB(mne.io.RawArray):
        """MNE takes the numbers of EEGLAB files for microvolts."""

    inside = eeg(scale=1e-5).get_data()  # volts, in the file
    raw = RawEEGLAB(inside * 1e-6, eeg().info, verbose="error")
    with pytest.raises(Unreadable, match=r"V read as uV, 1e\+06 too small.*--unit V"):
        read(raw)
    item = read(raw, Settings(notch=(), band=(1, 96), unit=("V",)))
    want = read(eeg(scale=1e-5)).samples
    np.testing.assert_allclose(item.samples, want, rtol=1e-4, atol=1e-11)


@pytest.mark.parametrize(
    ("factor", "advice"),
    [(1e3, "--unit mV"), (1e-6, "1e.06 too small"), (1e-12, "give --unit V")],
)
def test_other_units_are_named_too(factor, advice):
    with pytest.raises(Unreadable, match=advice):
        read(eeg(scale=2e-5 * factor))


def test_meg_in_femtotesla_is_named():
    raw = meg()
    raw._data *= 1e15
    with pytest.raises(Unreadable, match="--unit fT"):
        read(raw, Settings(notch=(), band=(1, 96), picks=("mag",)))


def test_missing_numbers_are_interpolated_and_marked():
    raw = eeg(seconds=10)
    want = read(raw).samples
    raw._data[2, 700:732] = np.nan
    item = read(raw)
    marks = [e for e in item.events if e["trial_type"] == "BAD_nan"]
    assert [(m["onset"], m["duration"]) for m in marks] == [(700 / 256, 32 / 256)]
    assert np.isfinite(item.samples).all()
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(item.samples[others], want[others])
    assert any("marked BAD_nan" in note for note in item.notes)


def test_flat_and_empty_channels_are_left_out_by_name():
    raw = eeg()
    raw._data[1] = 3e-6
    raw._data[4, 100:] = np.nan
    item = read(raw)
    assert item.sensors.names == tuple(n for n in CAP if n not in ("Fp2", "C3"))
    told = " ".join(item.notes)
    assert "nothing changes in it: Fp2" in told
    assert "numbers are missing: C3" in told


def test_two_sensors_at_one_place_are_both_kept_and_told():
    item = read(eeg([*CAP[:4], "T3", "T7"]))
    assert len(item.sensors) == 6
    assert any("at one place, both kept: T3 and T7" in note for note in item.notes)


def odd_one_out():
    raw = eeg(CAP, seconds=12)
    rng = np.random.default_rng(5)
    raw._data[3] = rng.normal(size=raw.n_times) * 3e-3
    return raw


def test_a_channel_with_an_odd_spectrum_is_interpolated_as_mne_does():
    raw = odd_one_out()
    raw.set_montage(standard_1005())
    item = read(raw)
    assert item.meta["bads"] == "F4"
    want = raw.copy().filter(1, 96, verbose="error")
    want.info["bads"] = ["F4"]
    want.interpolate_bads(origin=(0, 0, 0.04), verbose="error")
    np.testing.assert_allclose(
        item.samples[3], want.get_data()[3], atol=1e-4 * want.get_data()[3].std()
    )
    assert any("F4 (odd spectrum); interpolated" in note for note in item.notes)


@pytest.mark.parametrize(("bads", "n_chans"), [("drop", 7), ("keep", 9)])
def test_bad_channels_are_left_out_or_kept_as_asked(bads, n_chans):
    raw = odd_one_out()
    raw.info["bads"] = ["O1"]
    item = read(raw, Settings(notch=(), band=(1, 96), bads=bads))
    assert item.samples.shape[0] == len(item.sensors) == n_chans
    assert item.meta["bads"] == "F4, O1"


def test_the_spectrum_rule_is_the_written_one():
    x = noise(7, 4000, 1).astype(np.float32)
    x[5] *= 1000
    assert signal.odd_spectra(x, Settings()) == [5]
    assert signal.odd_spectra(np.delete(x, 5, 0), Settings()) == []


def test_bad_meg_channels_are_dropped():
    raw = meg()
    raw.info["bads"] = ["MEG 12"]
    item = read(raw)
    assert "MEG 12" not in item.sensors.names
    assert len(item.sensors) == 11


def test_picks_are_mnes():
    assert (
        len(
            read(
                meg(with_eeg=True), Settings(notch=(), band=(1, 96), picks=("mag",))
            ).sensors
        )
        == 4
    )
    item = read(eeg(), Settings(notch=(), band=(1, 96), picks=("Fp1", "O1")))
    assert item.sensors.names == ("Fp1", "O1")
    with pytest.raises(Unreadable, match="--picks nothing"):
        read(eeg(), Settings(picks=("nothing",)))


def test_reference_and_other_channels_are_left_out():
    raw = meg(with_eeg=True)
    raw.set_channel_types(
        {"Fp1": "eog", "Fp2": "stim"}, verbose="error", on_unit_change="ignore"
    )
    raw.rename_channels({"F3": "HEO", "F4": "EMG1"})
    item = read(raw)
    assert item.sensors.names[12:] == ("C3",)


def test_low_rank_data_is_recorded_and_warned_about():
    raw = meg(seconds=10, n_places=4)
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 6)))
    scale = raw.get_data().std(1, keepdims=True)
    raw._data = scale * (basis @ (basis.T @ (raw.get_data() / scale)))
    item = read(raw)
    assert item.meta["rank"] == "meg 6/12"
    assert any("low rank: its 12 MEG" in note for note in item.notes)
    assert read(meg(seconds=10)).meta["rank"] == "meg 12/12"


def test_an_average_reference_takes_one_and_is_no_news():
    raw = eeg(seconds=10)
    raw.set_eeg_reference("average", verbose="error")
    item = read(raw)
    assert item.meta["rank"] == "eeg 8/9"
    assert not any("low rank" in note for note in item.notes)


def test_the_state_of_the_recording_becomes_columns():
    raw = meg()
    meta = read(raw).meta
    assert (meta["n_eeg"], meta["n_meg"]) == (0, 12)
    assert (meta["source_sfreq"], meta["lowpass"]) == (250.0, 125.0)
    assert meta["compensation"] == "0"
    rows = np.array(json.loads(meta["dev_head_t"]))
    np.testing.assert_allclose(rows, raw.info["dev_head_t"]["trans"], atol=1e-6)


def test_annotations_count_from_the_first_sample_and_bad_ones_stay():
    raw = eeg(seconds=10)
    raw.set_meas_date(1e9)
    raw.set_annotations(
        mne.Annotations([2, 4, 6], [1, 0, 0.5], ["go", "boundary", "bad_jump"])
    )
    raw.crop(1.0, verbose="error")
    found = [(e["onset"], e["duration"], e["trial_type"]) for e in read(raw).events]
    want = [(1, 1, "go"), (3, 0, "BAD_boundary"), (5, 0.5, "BAD_jump")]
    assert [(pytest.approx(a), b, c) for a, b, c in want] == found
    given = read(raw, events=[{"onset": 0.5, "duration": 0.0, "trial_type": "x"}])
    names = [e["trial_type"] for e in given.events]
    assert names == ["x", "BAD_boundary", "BAD_jump"]


def test_codes_of_the_trigger_channel_are_events_where_nothing_else_is():
    raw = eeg([*CAP, "STI 014"], seconds=10)
    raw.set_channel_types({"STI 014": "stim"}, verbose="error", on_unit_change="ignore")
    raw._data[-1] = 0
    raw._data[-1, 512:522] = 7
    raw._data[-1, 1024:1030] = 3
    found = [(e["onset"], e["trial_type"]) for e in read(raw).events]
    assert found == [(2.0, "7"), (4.0, "3")]


def test_a_three_second_recording_is_kept_and_told():
    item = read(eeg(seconds=3), Settings(notch=()))
    assert item.samples.shape == (9, 768)
    assert any("3.0 s are shorter than the filters" in note for note in item.notes)


@pytest.mark.parametrize(
    "given",
    [
        {"band": (0.1, 200)},
        {"band": (5, 5)},
        {"unit": ("eV",)},
        {"unit": ("uV", "mV")},
        {"band": (0.1, 128)},
    ],
)
def test_settings_that_cannot_be_are_refused(given):
    with pytest.raises(NeuroFMError):
        Settings(**given)


def test_electrodes_come_from_tables_with_units_and_landmarks(tmp_path):
    head = {
        "Cz": (0, 1, 120),
        "C3": (-65, 2, 80),
        "O2": (30, -90, 30),
        "Fz": (0, 60, 100),
    }
    marks = {"NAS": (0, 100, 0), "LPA": (-75, 0, 0), "RPA": (75, 0, 0)}
    lines = ["name\tx\ty\tz\tunit"]
    for name, xyz in (head | marks).items():
        x, y, z = xyz
        # Turned by a quarter about z and moved: landmarks bring it back.
        lines.append(f"{name}\t{y + 5}\t{-x - 7}\t{z + 11}\tmm")
    path = tmp_path / "electrodes.tsv"
    path.write_text("\n".join(lines))
    found = montages.montage(path)
    assert found.keys() == head.keys()
    for name, xyz in head.items():
        np.testing.assert_allclose(found[name], np.array(xyz) / 1e3, atol=1e-9)
    path.write_text("\n".join(lines[:5]).replace("\tmm", "\tm"))
    with pytest.raises(NeuroFMError, match="tell their unit"):
        montages.montage(path)
    with pytest.raises(NeuroFMError, match="neither a file nor a montage"):
        montages.montage("standard_9999")


def test_projectors_maxwell_filters_and_tracking_coils_are_recorded():
    raw = meg(seconds=10)
    names = [name for name in raw.ch_names if name.endswith("1")]
    data = {
        "col_names": names,
        "row_names": None,
        "data": np.ones((1, 4)) / 2,
        "nrow": 1,
        "ncol": 4,
    }
    with raw.info._unlock():
        raw.info["projs"] = [mne.Projection(active=True, data=data, desc="PCA", kind=1)]
        sss = {"sss_info": {"in_order": 8}, "max_st": {"buflen": 10.0}}
        raw.info["proc_history"] = [{"max_info": sss}]
        raw.info["hpi_subsystem"] = {"hpi_coils": [{}] * 5}
    meta = read(raw).meta
    assert (meta["ssp"], meta["sss"]) == ("1 projectors, 1 applied", "sss, st 10 s")
    assert meta["chpi"] == "5 coils"
    assert read(eeg()).meta["dev_head_t"] == read(eeg()).meta["ssp"] == ""


def test_a_line_frequency_in_the_file_goes_before_the_option_and_is_told():
    raw = eeg(seconds=10)
    raw.info["line_freq"] = 50.0
    item = read(raw, Settings(band=(1, 96), line_freq=60.0))
    assert item.meta["line_freq"] == 50.0
    assert any("50 Hz, goes before the 60 Hz" in note for note in item.notes)


def test_a_notch_above_what_was_recorded_is_told():
    item = read(eeg(sfreq=100.0, seconds=10), Settings(notch=(60.0,), band=(1, 40)))
    assert any("nothing to take out at 60 Hz" in note for note in item.notes)


@pytest.mark.parametrize("x", [np.zeros(9), np.r_[1.0, np.nan, np.nan, 4.0, 5.0]])
def test_mending_draws_a_line_over_a_gap(x):
    gone = np.isnan(x)
    want = np.arange(1.0, 6.0) if gone.any() else x.copy()
    signal.mend(x, gone)
    np.testing.assert_allclose(x, want)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_spans_are_the_runs_of_a_mask(mask):
    rebuilt = np.zeros(len(mask), bool)
    found = signal.spans(np.array(mask), 4.0)
    for onset, duration in found:
        first = round(onset * 4)
        assert not rebuilt[max(first - 1, 0) : first + 1].any()
        rebuilt[first : first + round(duration * 4)] = True
    assert rebuilt.tolist() == mask
