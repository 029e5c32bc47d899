import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.contract import InputContract
from neurofm.embedding import windows
from neurofm.errors import NeuroFMError

CONTRACT = InputContract(
    kind="audio",
    sfreq=100.0,
    unit="full_scale",
    n_chans=1,
    window_samples=73,
    hop_samples=4,
    receptive_samples=11,
)


def token_centers(n_valid: int) -> np.ndarray:
    """Centres of the tokens that fit into `n_valid` samples, in samples."""
    return np.arange(max(0, (n_valid - 11) // 4 + 1)) * 4 + 5.5


def stitched(plan: windows.Windows, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the tokens kept of a recording, and the window each comes from."""
    wave = np.ones((1, n_samples), np.float32)
    starts = plan.starts(n_samples)
    centers, origins = [], []
    for k, start in enumerate(starts):
        at = start + token_centers(wave[:, start : start + plan.length].shape[1])
        own = plan.owned(at, starts, k)
        centers.append(at[own])
        origins.append(np.full(own.sum(), start))
    return np.concatenate(centers), np.concatenate(origins)


@pytest.mark.parametrize(
    ("n_samples", "starts"),
    [(1, [0]), (72, [0]), (73, [0]), (74, [0, 73]), (146, [0, 73])],
)
def test_an_exact_multiple_of_the_window_adds_no_window(n_samples, starts):
    assert windows.plan(CONTRACT).starts(n_samples) == starts


def test_without_overlap_windows_hold_every_sample_once():
    wave = np.arange(200, dtype=np.float32)[None].repeat(3, axis=0)
    plan = windows.plan(CONTRACT, window_s=0.5)
    parts = [wave[:, start : start + plan.length] for start in plan.starts(200)]
    assert [part.shape for part in parts] == [(3, 50)] * 4
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), wave)


@settings(max_examples=300, deadline=None)
@given(
    n_samples=st.integers(1, 500),
    overlap=st.integers(1, 68),
    length=st.integers(20, 73),
)
def test_with_overlap_tokens_are_one_grid_without_gap_or_repetition(
    n_samples, overlap, length
):
    try:
        plan = windows.plan(CONTRACT, length / 100, overlap / 100)
    except NeuroFMError:
        assert length - max(overlap, 7) < 4
        return
    assert plan.length - plan.hop >= overlap
    centers, _ = stitched(plan, n_samples)
    np.testing.assert_allclose(centers, token_centers(n_samples))


def test_with_overlap_each_token_comes_from_the_window_that_holds_it_most_centrally():
    plan = windows.plan(CONTRACT, overlap_s=0.4)
    starts = plan.starts(300)
    assert len(starts) > 5
    for center, origin in zip(*stitched(plan, 300), strict=True):
        holds = [s for s in starts if s + 5.5 <= center <= s + 73 - 5.5]
        nearest = min(abs(center - s - 73 / 2) for s in holds)
        assert abs(center - origin - 73 / 2) == nearest


def test_with_overlap_the_last_window_is_as_full_as_the_grid_allows():
    plan = windows.plan(CONTRACT, overlap_s=0.2)
    for n_samples in range(74, 300):
        start = plan.starts(n_samples)[-1]
        assert 73 - 4 < n_samples - start <= 73
        assert start % 4 == 0


@pytest.mark.parametrize(
    ("window_s", "overlap_s", "word"),
    [
        (0.74, 0, "window"),
        (0.1, 0, "window"),
        (None, 0.72, "overlap"),
        (0.5, -0.1, "overlap"),
    ],
)
def test_impossible_windows_are_refused(window_s, overlap_s, word):
    with pytest.raises(NeuroFMError, match=word):
        windows.plan(CONTRACT, window_s, overlap_s)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_windows_of_no_number_are_refused(wrong):
    for asked in ({"window_s": wrong}, {"overlap_s": wrong}):
        with pytest.raises(NeuroFMError, match="give numbers of seconds"):
            windows.plan(CONTRACT, **asked)
