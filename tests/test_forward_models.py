"""Potentials and fields of dipoles in a sphere, against MNE and closed forms."""

import numpy as np
import pytest

from neurofm.simulate import eeg_sphere, layouts, meg_sphere

RADIUS = 0.088


@pytest.fixture(scope="module")
def dipoles():
    rng = np.random.default_rng(5)
    out = rng.standard_normal((9, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out * rng.uniform(0.01, 0.066, (9, 1))


@pytest.fixture(scope="module")
def forward(dipoles):
    """MNE's lead field of an Info in a sphere, as [C, P, 3]."""
    mne = pytest.importorskip("mne")
    sphere = mne.make_sphere_model(
        (0, 0, 0),
        RADIUS,
        relative_radii=eeg_sphere.RADII,
        sigmas=eeg_sphere.CONDUCTIVITY,
        verbose="error",
    )
    up = np.tile([0, 0, 1.0], (len(dipoles), 1))
    source = mne.setup_volume_source_space(
        pos={"rr": dipoles, "nn": up}, sphere=sphere, verbose="error"
    )

    def solve(info):
        eeg = "eeg" in info.get_channel_types()
        options = {"bem": sphere, "mindist": 0, "verbose": "error"}
        found = mne.make_forward_solution(
            info, None, source, eeg=eeg, meg=not eeg, **options
        )
        return found["sol"]["data"].reshape(-1, len(dipoles), 3)

    return solve


def coils_info(places, frames, kinds, coils):
    import mne

    info = mne.create_info(len(places), 256.0, kinds)
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", np.eye(4))
        for channel, place, frame, coil in zip(
            info["chs"], places, frames, coils, strict=True
        ):
            channel["loc"] = np.concatenate([place, frame.ravel()])
            channel["coil_type"] = coil
    return info


def error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_potentials_of_three_shells_are_those_of_mne(dipoles, forward):
    mne = pytest.importorskip("mne")
    place = RADIUS * layouts.layout("eeg32").place
    info = mne.create_info(32, 256.0, "eeg")
    named = dict(zip(info["ch_names"], place, strict=True))
    info.set_montage(mne.channels.make_dig_montage(named, coord_frame="head"))
    ours = eeg_sphere.potential(place, dipoles, RADIUS)
    # MNE stands three dipoles in a single sphere for the shells (Berg and Scherg).
    assert error(ours, forward(info)) < 0.006


def test_shells_of_one_conductivity_are_a_single_sphere(dipoles):
    place = RADIUS * layouts.layout("eeg19").place
    ours = eeg_sphere.potential(place, dipoles, RADIUS, conductivity=(0.3, 0.3, 0.3))
    # A current source in a sphere, with its sink at the centre (Frank 1952, in the
    # closed form of Wilson and Bayley 1950); a dipole is its slope.
    step = 1e-5

    def source(at):
        apart = np.linalg.norm(place[:, None] - at, axis=-1)
        angle = place @ at.T
        mirror = np.log(2 * RADIUS**2 / (RADIUS**2 - angle + RADIUS * apart))
        return (2 / apart + mirror / RADIUS) / (4 * np.pi * 0.3)

    for axis in range(3):
        shift = step * np.eye(3)[axis]
        slope = (source(dipoles + shift) - source(dipoles - shift)) / (2 * step)
        np.testing.assert_allclose(ours[..., axis], slope, rtol=1e-4, atol=1e-2)


def test_a_dipole_at_the_centre_has_no_preferred_direction():
    place = RADIUS * layouts.layout("eeg19").place
    centre = eeg_sphere.potential(place, np.zeros((1, 3)), RADIUS)
    near = eeg_sphere.potential(place, np.array([[1e-9, 0, 0]]), RADIUS)
    np.testing.assert_allclose(centre, near, rtol=1e-5, atol=1e-3)


def test_fields_at_points_are_those_of_mne_and_radial_dipoles_are_silent(
    dipoles, forward
):
    helmet = layouts.layout("meg306")
    places, frames = helmet.place[:40], helmet.frames[:40]
    info = coils_info(places, frames, ["mag"] * 40, [2000] * 40)  # point magnetometers
    field = meg_sphere.field(places, dipoles)
    ours = np.einsum("cj,cpjq->cpq", frames[:, 2], field)
    assert error(ours, forward(info)) < 1e-5
    radial = np.einsum("cpjq,pq->cpj", field, dipoles)
    assert np.abs(radial).max() < 1e-12 * np.abs(field).max()


def test_coils_of_a_helmet_measure_what_those_of_mne_do(dipoles, forward):
    helmet = layouts.layout("meg306")
    kinds = ["mag"] * 102 + ["grad"] * 204
    coils = [3024] * 102 + [3012] * 204
    assert helmet.coil == ("VV_MAG_T3",) * 102 + ("VV_PLANAR_T1",) * 204
    theirs = forward(coils_info(helmet.place, helmet.frames, kinds, coils))
    parts: dict[meg_sphere.Coil, slice] = {
        "mag": slice(0, 102),
        "grad": slice(102, 306),
    }
    for coil, of in parts.items():
        ours = meg_sphere.measured(helmet.place[of], helmet.frames[of], dipoles, coil)
        # Both average over the coil; MNE's points are elsewhere.
        assert error(ours, theirs[of]) < 0.02


@pytest.mark.parametrize("name", layouts.NAMES)
def test_layouts_spread_their_sensors_on_both_sides_of_the_head(name):
    made = layouts.layout(name)
    assert len(set(made.names)) == len(made.place) == int(name[3:])
    places = np.unique(np.round(made.place, 9), axis=0)
    unit = places / np.linalg.norm(places, axis=1, keepdims=True)
    nearest = np.sort(np.arccos(np.clip(unit @ unit.T, -1, 1)), axis=1)[:, 1]
    assert nearest.min() > 0.5 * np.median(nearest)
    assert np.abs(unit.mean(0)[:2]).max() < 0.05
    if name == "meg306":
        turned = made.frames @ made.frames.swapaxes(1, 2)
        np.testing.assert_allclose(turned, np.tile(np.eye(3), (306, 1, 1)), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(made.frames), 1)
