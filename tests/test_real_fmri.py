"""The benchmark of Brain-Semantoks on real recordings: baselines and matching."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("NEUROFM_DATA", ROOT.parent / "shared/data"))
SCRIPT = ROOT / "benchmarks" / "real_fmri.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("real_fmri_benchmark", SCRIPT)
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


def test_a_segment_is_like_its_own_or_not(script):
    x = np.random.default_rng(0).standard_normal((40, 200))
    assert script.shares(x, x) == 1
    assert script.shares(x, np.roll(x, 15, 0)) == 0
    # What overlaps a segment cannot win against it.
    assert script.shares(x, x + 3 * np.roll(x, 2, 0)) > 0.8


def test_regions_that_rise_together_are_a_network(script):
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(script.N_NETWORKS), 3)
    runs = [
        rng.standard_normal((script.N_NETWORKS, 200))[of]
        + 0.5 * rng.standard_normal((len(of), 200))
        for _ in range(2)
    ]
    found = script.clusters(runs)
    assert len(set(found)) == script.N_NETWORKS
    assert len(set(zip(of, found, strict=True))) == script.N_NETWORKS


def test_who_someone_is_by_connectivity(script):
    windows, who, fold = script.hcp_windows(real("fmri_hcp_aal2"))
    right = script.logistic(script.pairs(windows), who, fold)
    assert len(right) == 60
    assert right.mean() == pytest.approx(0.867, abs=0.04)


def test_pictures_by_block_means(script):
    _, blocks, shown, run = script.haxby_blocks(real("fmri_haxby_slice"))
    means = np.stack([x.mean(1) for x in blocks])
    folds = [script.left_out(run, name) for name in np.unique(run)]
    right = [script.logistic(means, shown, fold).mean() for fold in folds]
    assert len(blocks) == 80
    # The page has 0.525, of volumes that are scaled by rest and not by all of a run.
    assert 0.5 < np.mean(right) < 0.65


def test_segments_by_the_mean_of_others(script):
    runs = script.pieman_runs(real("fmri_pieman_story"))
    found = script.matched(
        np.stack([x.ravel() for x in script.segments(runs)]), len(runs)
    )
    assert found.mean() == pytest.approx(0.207, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hcp", "pieman", "haxby"])
def test_two_steps_go_all_the_way(script, tmp_path, name):
    folder = {"hcp": "hcp_aal2", "pieman": "pieman_story", "haxby": "haxby_slice"}
    data = real(f"fmri_{folder[name]}")
    asked = SimpleNamespace(seed=0, steps=2, overrides=[])
    points = script.SETS[name](data, tmp_path / "runs", asked)
    items = set(points["baseline"])
    for system in ("pretrained", "untrained"):
        assert set(points[system]) == items
