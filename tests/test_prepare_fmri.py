"""Runs of fMRI of every form into a store, against arrays that are known."""

import json
import os
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from nibabel.cifti2 import cifti2_axes

from data_pipelines.fmri import algonauts, images
from data_pipelines.fmri.prepare import prepare
from data_pipelines.fmri.settings import Settings
from neurofm.cli import cli
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError

DATA = Path(os.environ.get("NEUROFM_DATA", Path(__file__).parents[2] / "shared/data"))
RNG = np.random.default_rng(5)
BOLD = RNG.normal(9500, 40, (5, 13)).astype(np.float32)
TIME_FIRST = Settings(axes=("time", "region"), atlas="five", source_tr=1.5)


def real(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not there; NEUROFM_DATA names the folder that holds it")
    return DATA / name


def scaled(x):
    x = x.astype(np.float64)
    return (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True)


def held(out):
    """The dataset in a folder, and its runs by name."""
    dataset = open_dataset(out)
    names = dataset.items["item"].to_pylist()
    sizes = dataset.items["n_samples"].to_pylist()
    return dataset, {n: dataset.read(i, 0, sizes[i]) for i, n in enumerate(names)}


def notes(out, name="notes.tsv"):
    return (out / name).read_text()


def test_arrays_of_unequal_length_are_scaled_run_by_run(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    np.save(src / "sub-01_task-film_run-1_bold.npy", BOLD.T)
    np.save(src / "sub-02_task-film_run-2_bold.npy", BOLD[:, :8].T)
    settings = Settings(**{**vars(TIME_FIRST), "timeline": ("task", "run")})
    summary = prepare(src, tmp_path / "d", settings=settings)
    dataset, found = held(tmp_path / "d")
    one, two = found.values()
    np.testing.assert_allclose(one, scaled(BOLD), atol=1e-5)
    np.testing.assert_allclose(two, scaled(BOLD[:, :8]), atol=1e-5)
    info = dataset.info
    assert (info.kind, info.unit, summary.n_items) == ("fmri", "z", 2)
    assert info.sfreq == 1 / 1.5
    assert info.ch_names == tuple(f"region-000{i}" for i in range(1, 6))
    told = info.processing
    assert (told["tr_s"], told["atlas"], told["ddof"]) == (1.5, "five", 1)
    assert dataset.items["subject"].to_pylist() == ["01", "02"]
    assert dataset.items["timeline"].to_pylist() == ["film_1", "film_2"]
    again = prepare(src, tmp_path / "d", settings=settings)
    assert again.status == "already prepared"
    assert again.hash == summary.hash


def test_the_order_of_axes_is_never_guessed(tmp_path):
    np.save(tmp_path / "x.npy", BOLD)
    with pytest.raises(NeuroFMError, match="is 5 x 13, and --axes tells nothing"):
        prepare(tmp_path / "x.npy", tmp_path / "d", settings=Settings(atlas="a"))
    settings = Settings(axes=("region", "time"), atlas="a")
    with pytest.raises(NeuroFMError, match="does not tell its repetition time"):
        prepare(tmp_path / "x.npy", tmp_path / "d", settings=settings)
    settings = Settings(axes=("region", "time"), source_tr=2.0)
    with pytest.raises(NeuroFMError, match="atlas is not told"):
        prepare(tmp_path / "x.npy", tmp_path / "d", settings=settings)
    with pytest.raises(NeuroFMError, match="tells a repetition time of 1490 s"):
        Settings(source_tr=1490.0)


def test_an_array_of_many_runs_is_taken_apart(tmp_path):
    people = RNG.normal(size=(2, 3, 7, 5))
    np.savez(
        tmp_path / "all.npz",
        weights=people,
        subject=["ann", "bob"],
        tr=np.float32(1.1),
        others=np.zeros((2, 2)),
    )
    axes = ("subject", "run", "time", "region")
    settings = Settings(axes=axes, atlas="a", array="weights", scale="none")
    prepare(tmp_path / "all.npz", tmp_path / "d", settings=settings)
    dataset, found = held(tmp_path / "d")
    np.testing.assert_allclose(
        found["all.npz#bob,03"], people[1, 2].T.astype(np.float32)
    )
    assert len(found) == 6
    assert dataset.info.processing["tr_s"] == 1.1  # though kept as a float32
    assert set(dataset.items["subject"].to_pylist()) == {"ann", "bob"}
    settings = Settings(axes=axes, atlas="a")
    with pytest.raises(NeuroFMError, match="say which are the runs with --array"):
        prepare(tmp_path / "all.npz", tmp_path / "e", settings=settings)


def test_missing_partial_and_constant_regions_are_masked_and_told(tmp_path):
    x = BOLD.copy()
    x[0], x[2, 4], x[3] = np.nan, np.nan, 7.0
    np.save(tmp_path / "x.npy", x.T)
    prepare(tmp_path / "x.npy", tmp_path / "d", settings=TIME_FIRST)
    _, found = held(tmp_path / "d")
    np.testing.assert_array_equal(np.isnan(found["x.npy"]).all(1), [1, 0, 1, 1, 0])
    np.testing.assert_allclose(found["x.npy"][[1, 4]], scaled(BOLD[[1, 4]]), atol=1e-5)
    told = notes(tmp_path / "d")
    assert "1 of 5 regions have no value and are masked" in told
    assert "1 of 5 regions lack values in some volumes" in told
    assert (
        "1 of 5 regions are constant and are masked (the first is region-0004)" in told
    )


def write_tsv(path, x, names):
    lines = ["\t".join(names)]
    lines += ["\t".join("n/a" if np.isnan(v) else f"{v}" for v in row) for row in x.T]
    path.write_text("\n".join(lines) + "\n")


def test_tables_are_put_in_one_order_and_lack_what_they_lack(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    write_tsv(src / "sub-1_atlas-abc_timeseries.tsv", BOLD[:3], ["a", "b", "c"])
    write_tsv(src / "sub-2_atlas-abc_timeseries.tsv", BOLD[[2, 0]], ["c", "a"])
    write_tsv(src / "sub-3_atlas-abc_timeseries.tsv", BOLD[:2], ["a", "z"])
    write_tsv(src / "sub-1_desc-confounds_timeseries.tsv", BOLD[:2], ["x", "y"])
    (src / "sub-4_atlas-abc_timeseries.tsv").write_text("a\tb\tc\n1\t2\n3\tx\t4\n")
    (src / "timeseries.json").write_text(json.dumps({"RepetitionTime": 0.8}))
    prepare(src, tmp_path / "d")
    dataset, found = held(tmp_path / "d")
    assert dataset.info.ch_names == ("a", "b", "c")
    assert dataset.info.processing["atlas"] == "abc"
    assert dataset.info.processing["tr_s"] == 0.8
    two = found["sub-2_atlas-abc_timeseries.tsv"]
    np.testing.assert_allclose(two[[0, 2]], scaled(BOLD[[0, 2]]), atol=1e-5)
    assert np.isnan(two[1]).all()
    skipped = notes(tmp_path / "d", "skipped.tsv")
    assert "1 regions that the dataset has not (the first is 'z')" in skipped
    assert "sub-4_atlas-abc_timeseries.tsv" in skipped
    assert len(found) == 2


def test_another_tr_is_skipped_in_words_or_interpolated(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    line = np.arange(12.0)
    for name, tr, n in (("a", 1.5, 12), ("b", 1.0, 9)):
        x = np.stack([(line[:n] + 0.5) * tr, -(line[:n] + 0.5) * tr])
        np.savez(src / f"{name}.npz", bold=x, tr=tr)
    settings = Settings(axes=("region", "time"), atlas="two", scale="none")
    prepare(src, tmp_path / "d", settings=settings)
    skipped = notes(tmp_path / "d", "skipped.tsv")
    assert "a repetition time of 1 s, the dataset has 1.5 s: give --tr 1.5" in skipped
    settings = Settings(**{**vars(settings), "tr": 1.5})
    prepare(src, tmp_path / "e", settings=settings)
    dataset, found = held(tmp_path / "e")
    assert dataset.info.processing["interpolated"]
    # A volume's value is the time of its middle, at any repetition time.
    np.testing.assert_allclose(found["b.npz"][0], (np.arange(6) + 0.5) * 1.5, atol=1e-5)
    np.testing.assert_allclose(found["a.npz"][0], (line + 0.5) * 1.5, atol=1e-5)


def test_the_algonauts_layout_is_known_and_split(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    runs = {
        "ses-001_task-s01e02a": (9, "train"),
        "ses-001_task-s01e02b": (8, "valid"),
        "ses-070_task-s07e02b": (7, "test"),
        "ses-002_task-bourne07": (6, "valid"),
        "ses-003_task-figures01_run-2": (5, "train"),
    }
    name = "sub-03_task-all_space-MNI_atlas-Schaefer18_parcel-1000Par7Net_bold.h5"
    arrays = {key: RNG.normal(size=(n, 5)) for key, (n, _) in runs.items()}
    with h5py.File(src / name, "w") as file:
        for key, x in arrays.items():
            file[key] = x
        file["about"] = np.arange(3)
    prepare(src, tmp_path / "d", settings=Settings(split="algonauts2025"))
    dataset, found = held(tmp_path / "d")
    for key, x in arrays.items():
        np.testing.assert_allclose(found[f"{name}#{key}"], scaled(x.T), atol=1e-5)
    rows = {r["item"].split("#")[1]: r for r in dataset.items.to_pylist()}
    assert {k: r["split"] for k, r in rows.items()} == {
        k: split for k, (_, split) in runs.items()
    }
    row = rows["ses-003_task-figures01_run-2"]
    assert (row["subject"], row["session"], row["run"]) == ("03", "003", "2")
    assert (row["timeline"], row["task"]) == ("figures01", "figures01")
    assert dataset.info.processing["tr_s"] == 1.49
    assert dataset.info.processing["atlas"] == "Schaefer18_1000Par7Net"
    assert "taken as 1.49 s" in notes(tmp_path / "d")


def test_chunks_of_all_seasons_are_validated_on_together():
    def split(task):
        return algonauts.split(task, "algonauts2025")

    for season in range(1, 7):
        held_ = [
            f"e{e:02d}{c}"
            for e in range(1, 26)
            for c in "abcd"
            if split(f"s{season:02d}e{e:02d}{c}") == "valid"
        ]
        listed = "e02b e12a e12d e15b e18b e18c e23a e23d e24c"
        assert held_ == listed.split()
    assert split("s07e02b") == split("chaplin1") == "test"
    assert split("life08") == "valid"
    assert algonauts.split("s06e01a", "algonauts2025-season") == "valid"
    assert algonauts.split("s05e02b", "algonauts2025-season") == "train"
    with pytest.raises(NeuroFMError, match="knows no task 'rest'"):
        split("rest")


AFFINE = np.diag([2.0, 2, 2, 1])


def nifti(x, affine=AFFINE, tr=2.0):
    image = nibabel.Nifti1Image(x, affine)
    if x.ndim == 4:
        image.header.set_zooms((2, 2, 2, tr))
        image.header.set_xyzt_units("mm", "sec")
    return image


@pytest.fixture(scope="module")
def volumes():
    """A run, and an atlas on a grid twice as coarse, of which a label lies outside."""
    x = RNG.normal(100, 5, (4, 4, 2, 11)).astype(np.float32)
    coarse = np.zeros((4, 4, 3), np.int16)
    middle = coarse[:, :, 1]
    middle[1, 1], middle[2, 1], middle[1, 2], middle[3, 3] = 3, 1, 7, 9
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -3  # so that [1, 1, 1] covers the first two voxels of each axis
    fine = np.zeros((4, 4, 2), int)
    fine[:2, :2], fine[2:, :2], fine[:2, 2:] = 3, 1, 7
    return x, nibabel.Nifti1Image(coarse, affine), fine


def test_images_are_averaged_in_the_regions_of_an_atlas(tmp_path, volumes):
    x, atlas, fine = volumes
    src = tmp_path / "src"
    src.mkdir()
    nibabel.save(nifti(x), src / "sub-01_task-a_desc-preproc_bold.nii.gz")
    nibabel.save(nifti(x[..., 0]), src / "sub-01_task-a_boldref.nii.gz")
    nibabel.save(atlas, tmp_path / "blocks.nii.gz")
    (tmp_path / "names.tsv").write_text("index\tname\n7\tg\n1\te\n3\tf\n9\tgone\n")
    settings = Settings(
        atlas=str(tmp_path / "blocks.nii.gz"),
        names=str(tmp_path / "names.tsv"),
        scale="none",
    )
    prepare(src, tmp_path / "d", settings=settings)
    dataset, found = held(tmp_path / "d")
    assert dataset.info.ch_names == ("e", "f", "g", "gone")
    assert dataset.info.processing["tr_s"] == 2.0
    (run,) = found.values()
    expected = [x[fine == label].mean(0) for label in (1, 3, 7)]
    np.testing.assert_allclose(run[:3], expected, rtol=1e-5)
    assert np.isnan(run[3]).all()
    assert "the first is gone" in notes(tmp_path / "d")


def test_voxels_of_a_mask_are_regions(tmp_path, volumes):
    x, _, fine = volumes
    nibabel.save(nifti(x), tmp_path / "bold.nii.gz")
    nibabel.save(nifti((fine == 1).astype(np.int16)), tmp_path / "mask.nii.gz")
    settings = Settings(mask=str(tmp_path / "mask.nii.gz"), scale="none")
    prepare(tmp_path / "bold.nii.gz", tmp_path / "d", settings=settings)
    dataset, found = held(tmp_path / "d")
    np.testing.assert_allclose(found["bold.nii.gz"], x[fine == 1])
    assert dataset.info.ch_names[0] == "voxel-2-0-0"
    plain = Settings(atlas="a")
    with pytest.raises(NeuroFMError, match="give the file of an atlas"):
        prepare(tmp_path / "bold.nii.gz", tmp_path / "e", settings=plain)


def test_confounds_are_regressed_out_and_unsteady_volumes_cut(tmp_path, volumes):
    x, atlas, fine = volumes
    src = tmp_path / "src"
    src.mkdir()
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    moved = RNG.normal(size=(11, 6))
    steady = np.zeros((11, 1))
    steady[0] = 1
    table = np.hstack([moved[:, :1], np.zeros((11, 5)), steady])
    header = [*names, "non_steady_state_outlier00"]
    stem = "sub-01_task-a_run-1"
    lines = ["\t".join(header), *("\t".join(map(str, row)) for row in table)]
    (src / f"{stem}_desc-confounds_timeseries.tsv").write_text("\n".join(lines) + "\n")
    (src / f"{stem}_desc-confounds_timeseries.json").write_text("{}")
    image = src / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    nibabel.save(nifti(x), image)
    nibabel.save(atlas, tmp_path / "blocks.nii.gz")
    settings = Settings(
        atlas=str(tmp_path / "blocks.nii.gz"),
        confounds=("motion",),
        scale="none",
    )
    # nilearn's `motion` takes derivatives and squares as well; these tables lack them.
    with pytest.raises(NeuroFMError, match="its confounds cannot be read"):
        prepare(src, tmp_path / "d", settings=settings)
    full = [f"{n}{end}" for n in names for end in ("_derivative1", "_power2", "")]
    full += [f"{n}_derivative1_power2" for n in names]
    wide = np.zeros((11, len(full) + 1))
    wide[:, full.index("trans_x")] = moved[:, 0]
    wide[:, -1:] = steady
    lines = ["\t".join([*full, header[-1]])]
    lines += ["\t".join(map(str, row)) for row in wide]
    (src / f"{stem}_desc-confounds_timeseries.tsv").write_text("\n".join(lines) + "\n")
    prepare(src, tmp_path / "e", settings=settings)
    dataset, found = held(tmp_path / "e")
    (run,) = found.values()
    assert dataset.items["onset"].to_pylist() == [2.0]
    design = np.stack([np.ones(10), moved[1:, 0]], 1)
    for row, label in zip(run, (1, 3, 7), strict=False):
        y = x[fine == label].mean(0)[1:].astype(float)
        fit = design[:, 1] - design[:, 1].mean()
        expected = y - fit * (fit @ y) / (fit @ fit)
        got = row - row.mean()
        np.testing.assert_allclose(got, expected - expected.mean(), atol=1e-3)
    with pytest.raises(NeuroFMError, match="scrub takes volumes out"):
        Settings(confounds=("motion", "scrub"))


def test_grayordinates_and_parcels_of_cifti_are_read(tmp_path):
    series = cifti2_axes.SeriesAxis(0, 0.72, 6, unit="SECOND")
    vertices = np.arange(7)
    brain = cifti2_axes.BrainModelAxis.from_surface(vertices, 20, "CORTEX_LEFT")
    x = RNG.normal(size=(6, 7)).astype(np.float32)
    nibabel.save(nibabel.Cifti2Image(x, (series, brain)), tmp_path / "a.dtseries.nii")
    table = {0: ("???", (0, 0, 0, 0)), 4: ("V1", (1, 0, 0, 1)), 2: ("V2", (0, 1, 0, 1))}
    labels = cifti2_axes.LabelAxis(["areas"], [table])
    of = np.array([[4, 0, 4, 2, 2, 2, 0]], np.float32)
    nibabel.save(nibabel.Cifti2Image(of, (labels, brain)), tmp_path / "at.dlabel.nii")
    settings = Settings(atlas=str(tmp_path / "at.dlabel.nii"), scale="none")
    prepare(tmp_path / "a.dtseries.nii", tmp_path / "d", settings=settings)
    dataset, found = held(tmp_path / "d")
    assert dataset.info.ch_names == ("V2", "V1")
    assert dataset.info.processing["tr_s"] == 0.72
    expected = [x[:, 3:6].mean(1), x[:, [0, 2]].mean(1)]
    np.testing.assert_allclose(found["a.dtseries.nii"], expected, rtol=1e-5)
    prepare(
        tmp_path / "a.dtseries.nii", tmp_path / "e", settings=Settings(scale="none")
    )
    np.testing.assert_array_equal(held(tmp_path / "e")[1]["a.dtseries.nii"], x.T)


def test_both_hemispheres_of_a_surface_are_one_run(tmp_path):
    rng = np.random.default_rng(0)
    halves = {"L": rng.normal(size=(4, 9)), "R": rng.normal(size=(3, 9))}

    def half(name, x):
        arrays = [
            nibabel.gifti.GiftiDataArray(
                v.astype(np.float32), "NIFTI_INTENT_TIME_SERIES"
            )
            for v in x.T
        ]
        image = nibabel.gifti.GiftiImage(darrays=arrays)
        nibabel.save(image, tmp_path / f"sub-{name}_space-fsaverage5_bold.func.gii")

    for side, x in halves.items():
        half(f"01_task-film_hemi-{side}", x)
    half("02_task-film_hemi-L", halves["L"])  # alone
    half("03_task-film_hemi-L", halves["L"])
    half("03_task-film_hemi-R", halves["R"][:, :5])
    settings = Settings(source_tr=1.5, scale="none", timeline=("task",))
    prepare(tmp_path, tmp_path / "d", settings=settings, workers=1)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.items["subject"].to_pylist() == ["01"]
    assert dataset.info.ch_names[3:5] == ("vertex-L-00003", "vertex-R-00000")
    assert dataset.info.processing["atlas"] == "vertices of fsaverage5"
    wanted = np.concatenate(list(halves.values()))
    np.testing.assert_allclose(dataset.read(0, 0, 9), wanted, rtol=1e-6)
    skipped = (tmp_path / "d" / "skipped.tsv").read_text()
    assert "its other hemisphere is not there" in skipped
    assert "9 volumes, its other hemisphere 5" in skipped
    told = Settings(source_tr=1.5, confounds=("motion",))
    with pytest.raises(NeuroFMError, match="no confounds are taken out"):
        prepare(tmp_path, tmp_path / "e", settings=told, workers=1)
    for file in tmp_path.glob("sub-01*"):
        file.rename(tmp_path / file.name.replace("fsaverage5", "fsLR"))
    with pytest.raises(NeuroFMError, match="they name several"):
        prepare(tmp_path, tmp_path / "e", settings=settings, workers=1)


def test_damaged_files_are_skipped_in_words(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    np.save(src / "a.npy", BOLD.T)
    (src / "b.npy").write_bytes((src / "a.npy").read_bytes()[:90])
    (src / "c.npz").write_bytes(b"PK\3\4 nothing")
    (src / "d.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    np.save(src / "e.npy", BOLD[:3].T)
    np.save(src / "f.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(src / "g.npy", BOLD[:, :1].T)
    prepare(src, tmp_path / "d", settings=TIME_FIRST)
    skipped = notes(tmp_path / "d", "skipped.tsv")
    for name in ("b.npy", "c.npz", "d.h5", "e.npy", "f.npy", "g.npy"):
        assert f"\n{name}\t" in skipped
    assert "3 regions, the dataset has 5" in skipped
    assert list(held(tmp_path / "d")[1]) == ["a.npy"]


def test_a_table_of_events_places_runs_on_their_timelines(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    for name in ("a", "b"):
        np.save(src / f"{name}.npy", BOLD.T)
    table = tmp_path / "events.tsv"
    rows = ["type\tonset\tduration\ttimeline\tsubject\tfile"]
    rows += ["word\t1\t1\tfilm\t\t", "fmri\t-6\t20\tfilm\t07\tsrc/a.npy"]
    table.write_text("\n".join([*rows, "fmri\t12.5\tn/a\tfilm\t08\tb.npy"]) + "\n")
    summary = prepare(src, tmp_path / "d", settings=TIME_FIRST, events=table)
    dataset, _ = held(tmp_path / "d")
    assert dataset.items["onset"].to_pylist() == [-6.0, 12.5]
    assert dataset.items["timeline"].to_pylist() == ["film", "film"]
    assert dataset.items["subject"].to_pylist() == ["07", "08"]
    other = prepare(src, tmp_path / "e", settings=TIME_FIRST)
    assert other.hash != summary.hash  # as a batch would hold other things
    table.write_text("\n".join(rows) + "\n")
    with pytest.raises(NeuroFMError, match=r"for 1 of 2 runs \(the first is b\.npy\)"):
        prepare(src, tmp_path / "f", settings=TIME_FIRST, events=table)


def test_the_command_tells_and_check_shows(tmp_path):
    np.save(tmp_path / "sub-01_bold.npy", BOLD.T)
    words = ["prepare", "fmri", str(tmp_path / "sub-01_bold.npy"), "--json"]
    words += ["--out", str(tmp_path / "d"), "--axes", "time,region", "--atlas", "five"]
    done = CliRunner().invoke(
        cli, [*words, "--source-tr", "1.49", "--detrend", "linear"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_items"] == 1
    told = CliRunner().invoke(cli, ["check", str(tmp_path / "d"), "--json"])
    facts = json.loads(told.stdout)
    assert facts["tr_s"] == 1.49
    assert facts["atlas"] == "five"
    assert facts["n_regions"] == 5
    assert facts["detrend"] == "linear"
    assert facts["subjects"] == ["01"]
    refused = CliRunner().invoke(cli, [*words, "--sfreq", "2"])
    assert "give --tr in seconds" in refused.output


def test_real_story_listeners_are_prepared(tmp_path):
    src = real("fmri_pieman_story")
    settings = Settings(axes=("subject", "time", "region"), atlas="hubs")
    pattern = "(?P<timeline>pieman)"
    prepare(src, tmp_path / "d", settings=settings, pattern=pattern)
    dataset, found = held(tmp_path / "d")
    with np.load(src / "pieman_htfa_weights.npz") as file:
        weights, subjects = file["weights"], file["subject"]
    for name, x in zip(subjects, weights, strict=True):
        ours = found[f"pieman_htfa_weights.npz#{name}"]
        np.testing.assert_allclose(ours, scaled(x.T), atol=1e-4)
    assert set(dataset.items["timeline"].to_pylist()) == {"pieman"}
    assert dataset.info.processing["tr_s"] == 1.5


def test_real_rest_is_prepared(tmp_path):
    src = real("fmri_hcp_aal2")
    prepare(src, tmp_path / "d", settings=Settings(axes=("region", "time")))
    dataset, _ = held(tmp_path / "d")
    assert dataset.info.processing["atlas"] == "AAL2"
    assert dataset.info.processing["tr_s"] == 0.72
    assert dataset.items["subject"].to_pylist() == [f"0{i}" for i in range(1, 7)]
    with np.load(src / "sub-04_task-rest_atlas-AAL2_bold.npz") as file:
        expected = scaled(file["bold"])
    np.testing.assert_allclose(dataset.read(3, 0, 1200), expected, atol=1e-4)


def test_regions_are_means_whatever_the_order_of_labels():
    label = RNG.integers(0, 5, 40)
    x = RNG.normal(size=(40, 3))
    ours = images.averages(x, label, (4, 1, 9))
    expected = [x[label == 4].mean(0), x[label == 1].mean(0), np.full(3, np.nan)]
    np.testing.assert_allclose(ours, expected)


def test_a_tail_without_values_is_cut_and_runs_are_filtered_in_words(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    at, rng = 2.0 * np.arange(90), np.random.default_rng(1)
    within = np.sin(2 * np.pi * 0.05 * at + rng.uniform(0, 6, (3, 1)))
    x = within + np.sin(2 * np.pi * 0.2 * at)
    x[:, 80:] = np.nan
    np.savez(src / "a.npz", bold=x, tr=2.0)
    np.savez(src / "b.npz", bold=x[:, :30], tr=2.0)
    plain = Settings(axes=("region", "time"), atlas="three", ddof=0)
    settings = Settings(**{**vars(plain), "filter": (0.01, 0.1)})
    prepare(src, tmp_path / "d", settings=settings)
    dataset, found = held(tmp_path / "d")
    assert dataset.info.processing["filter_hz"] == [0.01, 0.1]
    assert found["a.npz"].shape == (3, 80)
    middle = slice(25, 55)
    for got, slow in zip(found["a.npz"][:, middle], within[:, middle], strict=True):
        assert np.corrcoef(got, slow[: len(got)])[0, 1] > 0.98
    assert "10 volumes without any value at its end were cut off" in notes(
        tmp_path / "d"
    )
    assert "30 volumes are too few to filter" in notes(tmp_path / "d", "skipped.tsv")
    first = Settings(**{**vars(plain), "scale": "none", "tr": 1.5, "grid": "first"})
    prepare(src, tmp_path / "e", settings=first)
    _, found = held(tmp_path / "e")
    place = np.arange(int(90 * 2 / 1.5)) * 0.75
    kept = place[place <= 79]  # what lies beyond the last value is cut again
    wanted = np.interp(kept, np.arange(80), x[0, :80])
    np.testing.assert_allclose(found["a.npz"][0], wanted, atol=1e-5)


def test_a_filter_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(NeuroFMError, match=r"--filter 0.1,0.01: give rising"):
        Settings(filter=(0.1, 0.01))
    np.savez(tmp_path / "a.npz", bold=np.eye(3, 50), tr=6.0)
    settings = Settings(axes=("region", "time"), atlas="x", filter=(0.01, 0.1))
    with pytest.raises(NeuroFMError, match=r"shows less than 0.0833333 Hz"):
        prepare(tmp_path / "a.npz", tmp_path / "out", settings=settings)


def test_plain_arrays_are_read_whatever_their_names(tmp_path):
    x = np.random.default_rng(6).normal(0, 1, (50, 4)).astype(np.float32)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["recording-00001"] = x
    axes = ("time", "region")
    settings = Settings(atlas="four", source_tr=2.0, scale="none", axes=axes)
    prepare(tmp_path / "all.h5", tmp_path / "d", settings=settings)
    (found,) = held(tmp_path / "d")[1].values()
    np.testing.assert_array_equal(found, x.T)


def test_stacked_recordings_of_several_atlases_are_taken_apart(tmp_path):
    rng = np.random.default_rng(6)
    sizes = {"buckner7": 2, "schaefer400": 4, "tian3": 3}
    stacks = {
        name: rng.normal(0, 1, (3, n, 50)).astype(np.float16)
        for name, n in sizes.items()
    }
    for x in stacks.values():
        x[1, :, 41:] = np.nan
    with h5py.File(tmp_path / "all.h5", "w") as file:
        for name, x in stacks.items():
            file[f"timeseries/{name}"] = x
        file["long_subject_id"] = np.array([b"s1", b"s2", b"s1"])
        file["age"] = np.array([30.0, 40.0, 30.0])
    settings = Settings(atlas="three together", source_tr=2.0, ddof=0)
    prepare(tmp_path / "all.h5", tmp_path / "d", settings=settings)
    dataset, found = held(tmp_path / "d")
    assert dataset.info.ch_names[:5] == (
        *(f"schaefer400-00{i}" for i in (1, 2, 3, 4)),
        "tian3-001",
    )
    assert sorted(dataset.items["subject"].to_pylist()) == ["s1", "s1", "s2"]
    second = found["all.h5#recording-00001"]
    order = ("schaefer400", "tian3", "buckner7")
    x = np.concatenate([stacks[n][1, :, :41] for n in order]).astype(np.float64)
    wanted = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(second, wanted, atol=1e-5)
