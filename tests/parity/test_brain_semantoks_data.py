"""How Brain-Semantoks prepares and cuts runs, against its released loader."""

import re

import numpy as np
from fixtures import each, load

from neurofm.data.parcels import even_starts, window_of
from neurofm.signals import bold

BAND, STORED_TR = (0.01, 0.1), 2.0  # of the released recipe


def atlases(f, prefix):
    return [k.removeprefix(prefix) for k in f if k.startswith(prefix)]


@each("brain_semantoks", keys=("in/raw_*", "out/bandpassed_*"))
def test_filter_and_scale_are_the_released_ones(path):
    f = load(path)
    for atlas in atlases(f, "in/raw_"):
        for subject, raw in enumerate(f[f"in/raw_{atlas}"]):
            filtered = bold.bandpassed(raw, STORED_TR, *BAND)
            scaled = bold.prepared(filtered, scale="zscore", ddof=0)
            for name, got in (("bandpassed", filtered), ("zscored", scaled)):
                wanted = f[f"out/{name}_{atlas}"][subject]
                np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=name)


@each("brain_semantoks", keys=("in/stored_*", "out/crops_sub*"))
def test_runs_are_scaled_interpolated_and_cut_as_released(path):
    f = load(path)
    stored = np.concatenate([f[k] for k in f if k.startswith("in/stored_")], axis=1)
    names = [k for k in f if re.fullmatch(r"out/crops_(resampled_)?sub\d+", k)]
    assert any("resampled" in name for name in names)
    for name in names:
        wanted, subject = f[name], int(re.findall(r"\d+", name)[0])
        n_crops, regions, window = wanted.shape
        x = stored[subject].astype(np.float64)
        tail = x.shape[1] - bold.recorded(x)
        x = bold.prepared(x[:, : x.shape[1] - tail], scale="zscore", ddof=0)
        if "resampled" in name:
            whole = np.pad(x, ((0, 0), (0, tail)), constant_values=np.nan)
            x = bold.at_tr(whole, STORED_TR, float(f["cfg/target_tr"]), "first")
            x = x[:, : bold.recorded(x)]
        starts = even_starts(x.shape[1], window, n_crops)
        assert starts == f[name.replace("crops", "crop_starts")].tolist(), name
        x, place = x.astype(np.float32), np.arange(regions)
        for start, crop in zip(starts, wanted, strict=True):
            got, there = window_of(x[:, start : start + window], place, regions, window)
            np.testing.assert_allclose(got, crop, atol=1e-5, err_msg=name)
            assert there.all()
