"""Signals rebuilt at sensors that were shown or not, in their own units."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import mne
import numpy as np
import pytest
import quick
from brain_files import CAP, eeg, meg, standard_1005, write_edf
from click.testing import CliRunner
from test_embed_meeg import FIRST, MODEL, SFREQ
from tiny_meeg import TOKENIZER
from tiny_models import ECHO

from data_pipelines.meeg.sensors import place
from data_pipelines.meeg.settings import Settings
from neurofm import model as models
from neurofm.cli import cli
from neurofm.data.sensors import Sensors
from neurofm.embedding import encode, rebuild
from neurofm.embedding.recorded import Recorded
from neurofm.errors import NeuroFMError
from neurofm.model import Model
from neurofm.models.braintokenizer import BrainTokenizer
from neurofm.objectives import waveform
from neurofm.report.error_map import error_map, flattened
from neurofm.signals import meeg
from neurofm.task import Reading

READ = quick.jit(
    encode._read_layers.__wrapped__, static_argnames=("task", "want", "layers")
)


@pytest.fixture(autouse=True)
def _compiled_quickly(monkeypatch):
    monkeypatch.setattr(encode, "_read_layers", READ)


@dataclass(frozen=True, kw_only=True)
class Oracle(BrainTokenizer):
    """Gives the true windows of all sensors, each with unit deviation."""

    name: ClassVar[str] = "oracle"

    def read(self, variables, batch, want="features"):
        x = meeg.windows(batch["meeg/signal"], 16, 0.0, "padded")
        b, c, n, length = x.shape
        true = waveform.standardized(1e6 * x).reshape(b, c, -1).swapaxes(1, 2)
        at = jnp.arange(n * length)
        mask = at < batch["meeg/length"][:, None]
        times = jnp.broadcast_to((at + 0.5) / self.sfreq, mask.shape)
        return Reading({"reconstruction": true, "signal": true}, times, mask)


ORACLE = Model(
    Oracle(
        sfreq=SFREQ, segment_samples=42, window_samples=16, ratios=(8,), n_sensors=7
    ),
    {"params": {}, "slow": {}, "buffers": {}},
)


def cap(n, seed=0, seconds=2.5, loud=1.0):
    """EEG of `n` sensors with 10 uV everywhere, on a head."""
    rng = np.random.default_rng(seed)
    pos = rng.normal(size=(n, 3))
    pos[:, 2] = np.abs(pos[:, 2])
    pos = 0.09 * pos / np.linalg.norm(pos, axis=1, keepdims=True)
    sensors = Sensors(
        tuple(f"e{i}" for i in range(n)),
        np.zeros(n, np.int32),
        np.pad(pos, ((0, 0), (0, 3))).astype(np.float32),
        ("",) * n,
    )
    x = rng.normal(size=(n, round(seconds * SFREQ)))
    return Recorded((1e-5 * loud * x).astype(np.float32), sensors)


# ---- amplitudes ----------------------------------------------------------------------


def test_what_the_oracle_gives_comes_out_in_volts_in_every_window():
    one = cap(7)
    got = rebuild.rebuild(ORACLE, one, frozenset({"e2"}))
    x = one.samples.astype(float)
    x = x - x[[0, 1, 3, 4, 5, 6]].mean(0)
    for start in (0, 42, 84):
        for a in range(start, min(start + 42, 100), 16):
            part = slice(a, min(a + 16, start + 42, 100))
            x[:, part] -= x[:, part].mean(1, keepdims=True)
    np.testing.assert_allclose(got.truth, x, atol=1e-11)
    assert got.rebuilt.all()
    assert got.shown.tolist() == [True, True, False, True, True, True, True]
    # The reference of others is in a signal, and its deviation is guessed from theirs.
    assert got.r2.min() > 0.75
    loud = rebuild.rebuild(ORACLE, cap(7, loud=3.0), frozenset({"e2"}))
    np.testing.assert_allclose(loud.samples, 3 * got.samples, atol=2e-10)


def test_the_gain_is_that_of_least_squares_over_what_was_shown():
    rng = np.random.default_rng(4)
    unit, truth = rng.normal(size=(2, 6, 20))
    kind = np.array([0, 0, 0, 1, 1, 0])
    shown = np.array([1, 1, 0, 1, 1, 0], bool)
    near = rng.uniform(size=(1, 6, 6)) * (kind[:, None] == kind) * shown
    near /= near.sum(-1, keepdims=True)
    spans = [(0, 12), (12, 20)]
    got, gain = rebuild.amplitudes(unit, truth, kind, shown, near, spans)
    for i, (a, b) in enumerate(spans):
        for k in (0, 1):
            power = [(truth[d, a:b] ** 2).mean() if shown[d] else 0 for d in range(6)]
            size = [np.sqrt(np.dot(near[0, c], power)) for c in range(6)]
            rows = [c for c in range(6) if shown[c] and kind[c] == k]
            x = np.concatenate([size[c] * unit[c, a:b] for c in rows])
            y = np.concatenate([truth[c, a:b] for c in rows])
            (wanted,) = np.linalg.lstsq(x[:, None], y, rcond=None)[0]
            np.testing.assert_allclose(gain[i, k], wanted, rtol=1e-6)
            for c in np.flatnonzero(kind == k):
                np.testing.assert_allclose(
                    got[c, a:b], wanted * size[c] * unit[c, a:b], rtol=1e-5
                )
    assert np.isnan(gain[:, 2]).all()


# ---- what the model is shown ---------------------------------------------------------


def test_what_is_hidden_has_no_part_in_what_is_rebuilt():
    one, row, hidden = cap(7, seconds=1.5), 3, frozenset({"e3"})
    louder = one.samples.copy()
    louder[row] *= -3
    for model in (FIRST, MODEL):
        got = rebuild.rebuild(model, one, hidden)
        other = rebuild.rebuild(model, one._replace(samples=louder), hidden)
        np.testing.assert_array_equal(got.samples, other.samples)
        assert got.r2[row] != other.r2[row]
    bad = rebuild.rebuild(FIRST, one._replace(bads=tuple(hidden)))
    np.testing.assert_array_equal(
        bad.samples, rebuild.rebuild(FIRST, one, hidden).samples
    )
    assert np.isnan(bad.r2[row])
    assert not bad.shown[row]


def test_sensors_asked_for_where_there_are_some_give_the_signals_of_those():
    one = cap(5, seconds=1.5)
    own = rebuild.rebuild(FIRST, one)
    got = rebuild.rebuild(FIRST, one, at=one.sensors)
    size = own.samples.std()
    assert size > 0
    np.testing.assert_allclose(got.samples / size, own.samples / size, atol=5e-3)
    assert np.isnan(got.r2).all()
    assert (got.n_shown, got.shown.any()) == (5, False)


def test_a_raw_is_rebuilt_with_its_bad_channels_filled_in():
    raw = eeg(seconds=2, sfreq=SFREQ, montage=standard_1005())
    raw.info["bads"] = ["F3"]
    got = FIRST.reconstruct(raw, hide=["C4"])
    assert got.sensors.names == CAP
    row = CAP.index("F3")
    assert not got.shown[row]
    assert np.isnan(got.r2).tolist() == [n == "F3" for n in CAP]
    assert np.isfinite(got.samples).all()
    assert got.samples[row].std() > 0
    assert error_map(got).get_figwidth() > 0
    sparse = FIRST.reconstruct(raw, at="biosemi16")
    assert len(sparse.sensors) == 16


# ---- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (ECHO, {}, "this model takes audio and rebuilds no sensors"),
        (FIRST, {"hidden": frozenset({"Cz"})}, "Cz were to be hidden and are not"),
        (
            FIRST,
            {"hidden": frozenset(f"e{i}" for i in range(4))},
            "fewer than two sensors of eeg are shown",
        ),
        (
            Model(replace(TOKENIZER, target="logspec"), FIRST.variables),
            {},
            "no waveform",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_said(model, more, message):
    with pytest.raises(NeuroFMError, match=message):
        rebuild.rebuild(model, cap(4), **more)


# ---- the command ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "first"
    models.save(path, TOKENIZER, FIRST.variables, {})
    return path


def run(*words):
    done = CliRunner().invoke(cli, ["reconstruct", *map(str, words), "--json"])
    return done.exit_code, done.stdout.splitlines()[-1]


def test_a_file_is_rebuilt_as_fif_and_npz_with_a_picture(saved, tmp_path):
    x = eeg(seconds=4, sfreq=100).get_data() * 1e6
    src = write_edf(tmp_path / "a.edf", x, [f"EEG {n}-REF" for n in CAP], sfreq=100)
    code, said = run(saved, src, "--out", tmp_path / "o.npz", "--hide", "C3")
    assert code == 0, said
    result = json.loads(said)
    assert (result["channels"], result["shown"], result["seconds_lost"]) == (9, 8, 0)
    assert set(result["r2"]["eeg"]) == {"shown", "hidden"}
    with np.load(tmp_path / "o.npz") as arrays:
        assert arrays["samples"].shape == (9, 160)
        assert arrays["names"].tolist() == list(CAP)
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"

    code, said = run(
        saved, src, "--out", tmp_path / "o_raw.fif", "--montage", "biosemi16"
    )
    assert code == 0, said
    raw = mne.io.read_raw_fif(tmp_path / "o_raw.fif", verbose="error")
    assert (len(raw.ch_names), raw.info["sfreq"], raw.n_times) == (16, SFREQ, 160)
    found = rebuild.electrodes("biosemi16")
    np.testing.assert_allclose(raw.info["chs"][3]["loc"][:3], found.pos[3, :3])
    assert not list(tmp_path.glob(".draft*"))

    code, said = run(saved, src, "--out", tmp_path / "o.txt")
    assert code == 1
    assert "give a file .fif or .npz" in said


def test_rebuilt_meg_lies_in_a_fif_file_as_in_the_recording(saved, tmp_path):
    given, out = tmp_path / "m_raw.fif", tmp_path / "n_raw.fif"
    source = meg(seconds=4, sfreq=100, n_places=2, with_eeg=True)
    for channel in source.info["chs"][:6]:
        channel["coil_type"] |= 3 << 16  # compensated, as CTF's are
    source.save(given, verbose="error")
    code, said = run(saved, given, "--out", out)
    assert code == 0, said
    code, said = run(saved, given, "--out", tmp_path / "n.npz")
    assert code == 0, said
    got = mne.io.read_raw_fif(out, verbose="error")
    assert got.ch_names == source.ch_names
    assert got.get_channel_types() == source.get_channel_types()
    with np.load(tmp_path / "n.npz") as arrays:
        size = np.abs(arrays["samples"]).max(1, keepdims=True)
        np.testing.assert_allclose(got.get_data() / size, arrays["samples"] / size)
    for mine, its in zip(got.info["chs"][:6], source.info["chs"], strict=False):
        np.testing.assert_allclose(mine["loc"], its["loc"], atol=1e-6)
        assert mine["coil_type"] == its["coil_type"] & 0xFFFF
        for name in ("kind", "unit", "coord_frame"):
            assert mine[name] == its[name]
    moved = got.info["dev_head_t"]["trans"]
    np.testing.assert_allclose(moved, source.info["dev_head_t"]["trans"], atol=1e-6)
    as_given, again = (
        place(raw, range(11), None, Settings(sfreq=40.0, band=(0.1, 15)), []).sensors
        for raw in (mne.io.read_raw_fif(given, verbose="error"), got)
    )
    np.testing.assert_allclose(again.pos, as_given.pos, atol=1e-6)


def test_on_the_map_angles_from_the_top_of_a_sphere_are_kept():
    angle, turn = np.meshgrid([0.3, 0.9, 1.5], [0.0, 1.0, 2.5, 4.0])
    angle, turn = angle.ravel(), turn.ravel()
    ball = np.stack(
        [np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], 1
    )
    at = flattened(0.09 * ball + [0.01, -0.02, 0.04])
    np.testing.assert_allclose(np.hypot(*at.T) / np.hypot(*at.T).max(), angle / 1.5)
    np.testing.assert_allclose(np.cos(np.arctan2(at[:, 1], at[:, 0]) - turn), 1)
