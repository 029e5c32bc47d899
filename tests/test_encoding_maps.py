"""Maps, pictures of a brain and a submission of `neurofm evaluate --suite encoding`."""

import dataclasses
import json
import re

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from nibabel.cifti2 import cifti2_axes
from tiny_encoding import DELAY, TR, N, brain, features

from neurofm.cli import cli
from neurofm.data.layout import DatasetInfo
from neurofm.encoding import maps, pictures
from neurofm.errors import NeuroFMError

AFFINE = np.array([[-8.0, 0, 0, 40], [0, 8, 0, -60], [0, 0, 8, -20], [0, 0, 0, 1]])
LABELS = (2, 3, 5, 7, 11, 13)


@pytest.fixture
def made(tmp_path):
    rng = np.random.default_rng(0)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, rng, ("01",))
    return tmp_path


def volume(path, labels=LABELS, code=4):
    grid = np.zeros((5, 6, 7), np.int16)
    for i, label in enumerate(labels):
        grid[1 + i % 3, 1 + i % 4, i] = label
    image = nibabel.Nifti1Image(grid, AFFINE)
    image.header.set_sform(AFFINE, code=code)
    nibabel.save(image, path)
    return grid


def run(folder, *more):
    words = ["evaluate", str(folder / "x"), "--suite", "encoding", "--json", *more]
    words += ["--data", str(folder / "y"), "--out", str(folder / "out")]
    done = CliRunner().invoke(cli, [*words, "--permutations", "9"])
    found = json.loads(done.stdout)
    if done.exit_code:
        return found["error"], done.stderr
    return pq.read_table(folder / "out" / "targets.parquet").to_pydict(), done.stderr


def test_voxels_of_an_atlas_hold_the_scores_of_their_regions(made):
    grid = volume(made / "atlas.nii.gz")
    table, _ = run(made, "--atlas", str(made / "atlas.nii.gz"))
    for score in ("r", "penalty", "q"):
        image = nibabel.load(made / "out" / "maps" / f"01_{score}.nii.gz")
        found = np.asarray(image.dataobj)
        for label, value in zip(LABELS, table[score], strict=True):
            np.testing.assert_allclose(found[grid == label], value, rtol=1e-6)
        assert (found[grid == 0] == 0).all()
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert int(image.header["sform_code"]) == 4
        array = np.load(made / "out" / "maps" / f"01_{score}.npy")
        np.testing.assert_allclose(array, table[score])
    assert (made / "out" / "figures" / "brain_r.png").stat().st_size > 10_000
    assert "mean over subjects" in (made / "out" / "report.html").read_text()


def test_without_known_anatomy_no_brain_is_drawn(made):
    (made / "out" / "figures").mkdir(parents=True)
    (made / "out" / "figures" / "brain_r.png").write_bytes(b"of an earlier evaluation")
    run(made)
    assert not list((made / "out" / "figures").glob("brain_*"))
    assert not list((made / "out" / "maps").glob("*.nii*"))
    volume(made / "own_space.nii", code=1)
    _, told = run(made, "--atlas", str(made / "own_space.nii"))
    assert "no brain is drawn" in told
    assert not list((made / "out" / "figures").glob("brain_*"))
    assert (made / "out" / "maps" / "01_r.nii.gz").is_file()


def test_another_atlas_is_refused(made):
    volume(made / "five.nii", LABELS[:5])
    error, _ = run(made, "--atlas", str(made / "five.nii"))
    assert "has 5 regions and the fMRI 6" in error
    (made / "text.nii").write_text("no image")
    error, _ = run(made, "--atlas", str(made / "text.nii"))
    assert "cannot be read" in error
    assert not (made / "out").exists()


def info(names, **prepared):
    return DatasetInfo(
        kind="fmri", sfreq=1 / TR, unit="z", ch_names=tuple(names), prepared=prepared
    )


def test_the_atlas_is_the_one_of_the_preparation(tmp_path):
    volume(tmp_path / "a.nii")
    told = info([f"p{i}" for i in range(6)], atlas="sha256:0")
    with pytest.raises(NeuroFMError, match="another image than the one"):
        maps.open_atlas(tmp_path / "a.nii", told)
    maps.open_atlas(tmp_path / "a.nii", dataclasses.replace(told, prepared={}))


def test_voxels_of_a_mask_go_where_their_names_say(tmp_path):
    grid = volume(tmp_path / "mask.nii", (1,) * 6)
    where = np.argwhere(grid)[::-1]
    told = info(["voxel-" + "-".join(map(str, at)) for at in where])
    mask = maps.open_atlas(tmp_path / "mask.nii", told)
    assert isinstance(mask, maps.Volume)
    values = np.arange(1.0, 7)
    found = np.asarray(mask.image(values).dataobj)
    np.testing.assert_array_equal(found[tuple(where.T)], values)
    assert (found != 0).sum() == 6
    outside = info(["voxel-0-0-0"])
    with pytest.raises(NeuroFMError, match="grid of the runs"):
        maps.open_atlas(tmp_path / "mask.nii", outside)


def test_parcels_of_a_cifti_atlas_hold_all_scores(tmp_path):
    cortex = cifti2_axes.BrainModelAxis.from_surface(np.arange(9), 20, "CORTEX_LEFT")
    of = np.array([[4, 0, 4, 2, 2, 2, 0, 9, 9]], np.float32)
    table = {i: (f"area {i}", (1, 0, 0, 1)) for i in (0, 2, 4, 9)}
    labels = cifti2_axes.LabelAxis(["areas"], [table])
    nibabel.save(nibabel.Cifti2Image(of, (labels, cortex)), tmp_path / "at.dlabel.nii")
    atlas = maps.open_atlas(tmp_path / "at.dlabel.nii", info(["b", "a", "c"]))
    scores = {"r": np.array([0.1, 0.2, np.nan]), "p": np.array([0.5, 0.6, 0.7])}
    maps.write(tmp_path / "maps", {"01": scores}, atlas)
    found = nibabel.load(tmp_path / "maps" / "01.pscalar.nii")
    np.testing.assert_allclose(found.get_fdata(), [scores["r"], scores["p"]], rtol=1e-6)
    named, parcels = (found.header.get_axis(i) for i in range(2))
    assert list(named.name) == ["r", "p"]
    assert list(parcels.name) == ["b", "a", "c"]
    assert [list(v["CIFTI_STRUCTURE_CORTEX_LEFT"]) for v in parcels.vertices] == [
        [3, 4, 5],
        [0, 2],
        [7, 8],
    ]
    assert found.nifti_header.get_intent()[0] == "ConnParcelScalr"
    dense = maps.open_atlas(tmp_path / "at.dlabel.nii", info(map(str, range(9))))
    maps.write(tmp_path / "maps", {"02": {"r": np.arange(9.0)}}, dense)
    found = nibabel.load(tmp_path / "maps" / "02.dscalar.nii")
    np.testing.assert_array_equal(found.get_fdata(), [np.arange(9)])


def test_vertices_of_fsaverage5_are_drawn_on_their_surface(tmp_path):
    values = np.linspace(-1, 1, 20484)
    values[:100] = np.nan
    pictures.draw_brains(tmp_path, {"01": {"r": values, "q": values}}, None)
    assert (tmp_path / "brain_r.png").stat().st_size > 10_000
    assert not (tmp_path / "brain_q.png").exists()
    pictures.draw_brains(tmp_path / "no", {"01": {"r": values[1:]}}, None)
    assert not (tmp_path / "no").exists()


def test_a_submission_holds_films_that_nobody_saw(tmp_path):
    rng = np.random.default_rng(0)
    shown = features(tmp_path / "x", rng)
    brain(tmp_path / "y", shown, np.random.default_rng(5), ("01", "02"), ("a", "b"))
    table = tmp_path / "runs.tsv"
    header = "subject\ttimeline\tvolumes\tchunk\n"
    table.write_text(f"{header}sub-01\tc\t70\ts7e1\nsub-02\tc\t80\t\n")
    run(tmp_path, "--submit", str(table))
    held = np.load(tmp_path / "out" / "submission.npy", allow_pickle=True).item()
    assert {who: list(chunks) for who, chunks in held.items()} == {
        "sub-01": ["s7e1"],
        "sub-02": ["c"],
    }
    guess = held["sub-01"]["s7e1"]
    assert guess.shape == (70, 6)
    assert guess.dtype == np.float32
    weights = np.random.default_rng(5)
    weights.standard_normal((3, 3))
    at = ((np.arange(N) + 0.5) * TR * 2).astype(int)
    truth = shown["c"][:, at].T @ weights.standard_normal((3, 3))
    for v in range(3):
        assert np.corrcoef(guess[DELAY:, v], truth[: 70 - DELAY, v])[0, 1] > 0.9
    assert (guess[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("subject\ttimeline\n01\tc\n", "no column 'volumes'"),
        ("subject\ttimeline\tvolumes\n01\tc\tmany\n", "line 2: 'many' is no number"),
        ("subject\ttimeline\tvolumes\n01\tc\t9\n01\tc\t9\n", "lists 01 c twice"),
        ("subject\ttimeline\tvolumes\n07\tc\t9\n", "subject 07 .* no run to fit"),
        ("subject\ttimeline\tvolumes\n01\tz\t9\n", "'z' is .* no features"),
    ],
)
def test_a_table_of_runs_to_predict_that_is_wrong(made, rows, words):
    (made / "runs.tsv").write_text(rows)
    error, _ = run(made, "--submit", str(made / "runs.tsv"))
    assert re.search(words, str(error))
