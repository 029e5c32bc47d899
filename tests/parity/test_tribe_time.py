"""Words, runs and features on windows of a stimulus's clock, against TRIBE's code."""

import re

import numpy as np
from fixtures import each, load

from neurofm.signals import timegrid
from neurofm.signals.timegrid import Grid


def numbered(f, pattern):
    """The distinct prefixes of keys that match a pattern, in order."""
    found = (re.match(pattern, key) for key in f)
    return list(dict.fromkeys(m[0] for m in found if m))


@each("tribe", keys=("time::words*::grid",))
def test_words_fill_the_steps_that_the_released_code_fills(path):
    f = load(path)
    for words in numbered(f, r"time::words\d+"):
        vectors = f[f"{words}::word_vec"]
        onsets, durations = f[f"{words}::word_start"], f[f"{words}::word_duration"]
        start, length = f[f"{words}::window"]
        expected = f[f"{words}::grid"]
        window = Grid(start, expected.shape[-1] / length, expected.shape[-1])
        ours = timegrid.words_on_grid(window, vectors, onsets, durations)
        np.testing.assert_array_equal(ours, expected)
        used = [
            timegrid.overlap(*word, start, length) is not None
            for word in zip(onsets, durations, strict=True)
        ]
        np.testing.assert_array_equal(used, f[f"{words}::word_in_segment"])


@each("tribe", keys=("time::fmri::run", "time::fmri::window_starts"))
def test_runs_meet_windows_and_jittered_windows_as_released(path):
    f = load(path)
    run, starts = f["time::fmri::run"], f["time::fmri::window_starts"]
    tr_s, onset = 1.49, -3 * 1.49
    (n,) = {f[k].shape[-1] for k in f if re.fullmatch(r"time::fmri::window\d+", k)}
    stop = onset + run.shape[-1] * tr_s
    ours = timegrid.window_starts(onset, stop, n * tr_s)
    np.testing.assert_allclose(ours, starts, rtol=0, atol=1e-9)
    wanted = {f"time::fmri::window{i}": start for i, start in enumerate(starts)}
    for jitter in numbered(f, r"time::fmri::jitter\d+"):
        wanted[f"{jitter}::window"] = float(f[f"{jitter}::start"])
    for key, start in wanted.items():
        window = Grid(float(start), 1 / tr_s, n)
        cut = timegrid.signal_on_grid(window, [(onset, 1 / tr_s, run)])
        np.testing.assert_array_equal(cut, f[key], err_msg=key)


@each("tribe", keys=("time::audio::chunk*", "time::audio::window*::start"))
def test_pieces_of_features_join_in_a_window_as_released(path):
    f = load(path)
    sfreq, length = 2.0, 60.0  # what the set is made with: pieces of a minute at 2 Hz
    chunks = [f[k] for k in numbered(f, r"time::audio::chunk\d+$")]
    pieces = [(length * i, sfreq, chunk) for i, chunk in enumerate(chunks)]
    for key in numbered(f, r"time::audio::window\d+"):
        window = Grid(float(f[f"{key}::start"]), sfreq, f[key].shape[-1])
        np.testing.assert_array_equal(
            timegrid.signal_on_grid(window, pieces), f[key], err_msg=key
        )
