"""What a run shows of itself while it runs: stalls, profiles, hosts, trackers."""

import gzip
import json
import logging
import sys
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neurofm.errors import NeuroFMError
from neurofm.run import hosts, stall, track
from neurofm.run.metrics import MetricsLog
from neurofm.run.profile import Profile, window
from neurofm.run.stall import StallWatch, waited_for

# ---- stalls --------------------------------------------------------------------------


class FakeTime:
    def __init__(self):
        self.at = 500.0

    def __call__(self) -> float:
        return self.at


def watched(durations, now=None):
    """A watch after a first, compiled step and steps of these durations."""
    now = now or FakeTime()
    watch = StallWatch(now)
    watch.step()
    for seconds in durations:
        now.at += seconds
        watch.step()
    return watch, now


def test_a_stall_is_twenty_usual_steps_told_once_and_again_after_the_next_step():
    watch, now = watched([5, 5, 900, 5, 5])
    now.at += 99
    assert watch.stalled() is None
    now.at += 2
    assert watch.stalled() == (101, 5)
    now.at += 1000
    assert watch.stalled() is None
    watch.step()
    now.at += 101
    assert watch.stalled() == (101, 5)


def test_short_steps_are_given_a_minute():
    watch, now = watched([0.1] * 9)
    now.at += 59
    assert watch.stalled() is None
    now.at += 2
    assert watch.stalled()


def test_nothing_is_said_of_a_step_that_is_still_compiling():
    watch, now = watched([])
    now.at += 1e6
    assert watch.stalled() is None


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (["neurofm.train", "neurofm.data.loader", "queue"], "data:"),
        (["neurofm.train", "neurofm.checkpoint", "orbax"], "a checkpoint"),
        (["neurofm.train", "neurofm.run.heldout", "jax"], "the held-out evaluation"),
        (["neurofm.train", "neurofm.run.heldout", "neurofm.data.loader"], "data:"),
        (["neurofm.train", "jax"], "the devices"),
        ([], "the devices"),
    ],
)
def test_what_is_waited_for_is_told_by_where_the_program_is(modules, words):
    def call():
        return waited_for(sys._getframe())

    for name in reversed(modules):
        scope = {"__name__": name, "call": call}
        exec("def here(): return call()", scope)
        call = scope["here"]
    assert call().startswith(words)


def test_every_place_that_is_looked_for_is_a_module():
    for name in stall.PLACES:
        __import__(name)


def test_the_watch_reads_the_place_of_the_thread_that_steps(monkeypatch, caplog):
    monkeypatch.setattr(stall, "LEAST_S", 0.05)
    monkeypatch.setattr(stall, "LOOK_EVERY_S", 0.01)
    loader = {"__name__": "neurofm.data.loader", "time": time}
    exec("def read(): time.sleep(0.5)", loader)
    with caplog.at_level(logging.WARNING), StallWatch() as watch:
        for _ in range(5):
            watch.step()
        loader["read"]()
    told = [r.getMessage() for r in caplog.records if "no step for" in r.getMessage()]
    assert len(told) == 1
    assert "waiting for data" in told[0]
    assert threading.active_count() < 50


# ---- profiles ------------------------------------------------------------------------


def test_a_window_is_two_steps_of_the_run():
    assert window("100:105", 105) == (100, 105)
    for text in ("100", "5:5", "9:3", "-1:4", "a:b", "1:2:3", "100:106"):
        with pytest.raises(NeuroFMError, match="START < STOP"):
            window(text, 105)


def made_in_steps(profile, first, last):
    """Run tiny steps under a profile, each a named jitted program."""
    state = jnp.zeros(3)
    with profile:
        for step in range(first, last):
            profile.before(step, state)
            with jax.profiler.TraceAnnotation(f"step_{step + 1}"):
                state = state + 1
        profile.before(last, state)


def steps_in(folder):
    (path,) = folder.rglob("*.trace.json.gz")
    trace = json.loads(gzip.decompress(path.read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    return sorted(name for name in names if name.startswith("step_"))


def test_the_steps_of_the_window_are_traced_and_no_others(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        made_in_steps(Profile((3, 5), tmp_path / "profile"), 0, 8)
    assert steps_in(tmp_path / "profile") == ["step_4", "step_5"]
    assert f"steps 4 to 5 are profiled in {tmp_path / 'profile'}" in caplog.text


def test_a_run_that_starts_inside_the_window_or_ends_there_is_traced_as_far(tmp_path):
    made_in_steps(Profile((3, 9), tmp_path), 6, 7)
    assert steps_in(tmp_path) == ["step_7"]


def test_a_window_that_is_over_is_said_once(tmp_path, caplog):
    made_in_steps(Profile((3, 5), tmp_path / "profile"), 5, 9)
    assert caplog.text.count("nothing is profiled") == 1
    assert not (tmp_path / "profile").exists()


# ---- hosts ---------------------------------------------------------------------------


def test_skew_is_the_widest_difference_and_who_waits_longest():
    each = np.array([[3.0, 2.0, 0.1], [4.5, 2.5, 0.2], [4.0, 2.0, 0.9]])
    assert hosts.shared(each) == {
        "memory/peak_gib": 4.5,
        "time/skew_s": pytest.approx(0.8),
        "time/skew_process": 2,
    }


def test_a_process_alone_has_no_skew_and_a_platform_that_is_silent_no_memory():
    assert hosts.shared(np.array([[0.0, 2.0, 0.1]])) == {}


def test_the_fullest_device_counts(monkeypatch):
    def device(stats):
        return SimpleNamespace(memory_stats=lambda: stats)

    given = [device({"peak_bytes_in_use": 3 * 2**29}), device(None), device({})]
    monkeypatch.setattr(jax, "local_devices", lambda: given)
    assert hosts.peak_gib() == 1.5


# ---- trackers ------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    track.require(())
    for name in ("tensorboard", "wandb"):
        with pytest.raises(NeuroFMError, match=r"neurofm\[track\]"):
            track.require((name,))


def test_every_row_that_is_written_is_mirrored(tmp_path):
    rows = []
    written = MetricsLog(tmp_path / "metrics.jsonl")
    written.mirrors = [rows.append]
    written.append({"step": 3, "train/loss": float("nan"), "data/hours": 1.5})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert rows == [json.loads(line)]


def scalars(folder):
    """(tag, step) -> value of all event files, later ones cutting off earlier ones.

    TFRecord framing and the protobuf of an event are read by tensorboardX's own
    messages; a session start at step s hides what came before it from s on.
    """
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.HasField("session_log"):
                found = {key: v for key, v in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard_shows_the_rows_and_hides_what_is_made_again(tmp_path):
    pytest.importorskip("tensorboardX", reason="pip install 'neurofm[track]'")
    for start, steps, scale in ((0, (0, 2, 4, 6), 1), (4, (6, 8), 10)):
        with track.mirrors(("tensorboard",), tmp_path, {}, start) as (write,):
            for step in steps:
                write({"step": step, "train/loss": scale * step, "a": "NaN"})
        time.sleep(1.1)  # the names of event files hold whole seconds
    found = scalars(tmp_path / "tensorboard")
    losses = {step: v for (tag, step), v in found.items() if tag == "train/loss"}
    assert losses == {0: 0, 2: 2, 4: 4, 6: 60, 8: 80}
    assert all(np.isnan(v) for (tag, _), v in found.items() if tag == "a")


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'neurofm[track]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start in (0, 4):
        with track.mirrors(("wandb",), tmp_path, {"seed": 1}, start) as (write,):
            write({"step": start, "train/loss": 0.5, "bad": "NaN"})
    name = (tmp_path / track.WANDB_ID).read_text()
    runs = [p.name for p in (tmp_path / "wandb").iterdir() if "run-" in p.name]
    assert runs
    assert all(run.endswith(name) for run in runs)
