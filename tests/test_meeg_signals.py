"""Reference, scale, positions and windows of EEG and MEG."""

import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.signals import meeg

RNG = np.random.default_rng(5)
KINDS = np.array([[0, 1, 0, 2, 1, 0, 2, 1], [0, 0, 0, 0, 0, 0, 0, 1]], np.int32)
UNIT = np.array([3e-5, 2e-12, 1e-11])[KINDS][..., None]
X = (RNG.normal(0, 1, (2, 8, 31)) * UNIT + UNIT).astype(np.float32)
COUNTED = np.array([[1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 0, 0, 0]], bool)
RECORDED = np.arange(31) < np.array([[31], [20]])
POS = RNG.normal(0.03, 0.1, (2, 8, 6)).astype(np.float32)
SIGNALS = tuple(map(jnp.asarray, (X, KINDS, COUNTED, RECORDED)))


def test_each_type_is_referenced_and_scaled_by_its_counted_sensors_alone():
    got = meeg.reference_and_scale(*SIGNALS)
    for row in range(2):
        n = RECORDED[row].sum()
        for kind, eps in enumerate((1e-5, 1e-13, 1e-13)):
            mine = KINDS[row] == kind
            counted = mine & COUNTED[row]
            if not counted.any():
                continue
            x = X[row, :, :n].astype(float)
            x = x - x[counted].mean(0)
            wanted = x[mine] / (x[counted].std() + eps)
            np.testing.assert_allclose(got[row, mine, :n], wanted, atol=1e-4)
        assert not got[row, :, n:].any()


def test_a_type_of_which_no_sensor_counts_stays_finite():
    got = meeg.reference_and_scale(*SIGNALS)
    assert not COUNTED[1, 7]
    assert np.isfinite(got).all()


def test_positions_of_eeg_and_meg_are_normalised_apart_and_directions_kept():
    got = np.asarray(meeg.normalise_positions(jnp.asarray(POS), *SIGNALS[1:3]))
    np.testing.assert_array_equal(got[..., 3:], POS[..., 3:])
    for is_eeg in (True, False):
        mine = (KINDS[0] == 0) == is_eeg
        xyz = got[0, mine & COUNTED[0], :3]
        np.testing.assert_allclose(xyz.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(np.square(xyz).sum(-1).mean(), 1 / 3, rtol=1e-5)


def test_a_lone_sensor_lies_at_zero():
    counted = np.zeros((2, 8), bool)
    counted[:, 7] = True
    kinds, counted = SIGNALS[1], jnp.asarray(counted)
    got = meeg.normalise_positions(jnp.asarray(POS), kinds, counted)
    np.testing.assert_array_equal(got[:, 7, :3], 0)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("remainder", ["padded", "dropped"])
@pytest.mark.parametrize("samples", [3, 8, 9, 15, 16, 31])
def test_windows_are_those_of_a_loop(samples, overlap, remainder):
    x = X[..., :samples]
    got = meeg.windows(jnp.asarray(x), 8, overlap, remainder)
    step = int(8 * (1 - overlap))
    starts, covered = [0], 8
    while covered < samples:
        full = starts[-1] + step + 8 <= samples
        if overlap == 0 and remainder == "dropped" and not full:
            break
        starts.append(starts[-1] + step)
        covered = starts[-1] + 8
    padded = np.pad(x, ((0, 0), (0, 0), (0, 16)))
    wanted = np.stack([padded[..., s : s + 8] for s in starts], axis=2)
    np.testing.assert_array_equal(got, wanted)
    counts = meeg.n_windows(jnp.asarray([samples, 8]), 8, overlap, remainder)
    np.testing.assert_array_equal(counts, [len(starts), 1])
