"""The benchmark of encoding models on real recordings, beside their baselines."""

import importlib.util
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("NEUROFM_DATA", ROOT.parent / "shared/data"))
SCRIPT = ROOT / "benchmarks" / "encoding.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("encoding_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def real(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not there; NEUROFM_DATA names the folder that holds it")
    return DATA


def test_a_segment_is_matched_with_its_own_or_not(script):
    x = np.random.default_rng(0).standard_normal((37, 5))
    assert script.matched(x, x) == 1
    assert script.matched(x, np.roll(x, 15, 0)) == 0
    noisy = x + 8 * np.random.default_rng(1).standard_normal(x.shape)
    assert 0 < script.matched(x, noisy) < 1


def test_rates_of_spikes_follow_the_sound_as_the_baseline_has_it(script):
    rows = [row.scores for row in script.grasshopper(real("spikes_grasshopper"))]
    published = (0.274, 0.181)
    for counts, baseline in zip(rows[::2], published, strict=True):
        assert counts["baseline"] == pytest.approx(baseline, abs=0.005)
        assert counts["ridge"] > baseline
    for scores in rows:
        assert abs(scores["control"]) < 0.1


def test_bold_follows_events_better_than_the_baseline(script):
    (row,) = script.nitime(real("fmri_nitime"))
    assert row.scores["baseline"] == pytest.approx(0.498, abs=0.005)
    assert row.scores["ridge"] > 0.5
    assert abs(row.scores["control"]) < 0.1


@pytest.mark.slow
def test_voxels_follow_categories_of_pictures(script, tmp_path):
    (row,) = script.haxby(real("fmri_haxby_slice"), tmp_path)
    assert 0.14 < row.scores["ridge"] < 0.2
    assert abs(row.scores["control"]) < 0.01
    image = nibabel.load(tmp_path / "scores" / "maps" / "1_r.nii.gz")
    assert (np.asarray(image.dataobj) != 0).sum() == 530


@pytest.mark.slow
def test_a_listener_is_told_from_others_in_time_never_fitted(script):
    found = script.pieman(real("fmri_pieman_story"), people=4)
    r, segments = (row.scores for row in found)
    assert r["baseline"] > 0.1
    assert r["ridge"] > 0.1
    assert abs(r["control"]) < 0.05
    assert segments["ridge"] > 3 * segments["control"]
