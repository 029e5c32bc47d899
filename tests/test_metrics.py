"""The log of a run, what a person sees of it, and where its time goes."""

import contextlib
import io
import json
import logging
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.run.clock import BUCKETS, Clock, duration
from neurofm.run.metrics import MetricsLog, Progress, describe, read_rows

names = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda n: n != "step")
rows = st.builds(
    lambda step, numbers: {"step": step, **numbers},
    st.integers(0, 10**9),
    st.dictionaries(names, st.floats(), max_size=4),
)


@settings(deadline=None)
@given(st.lists(rows, max_size=5))
def test_rows_come_back_as_they_were_written(tmp_path_factory, given_rows):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    for row in given_rows:
        MetricsLog(path).append(row)
    back = read_rows(path)
    assert len(back) == len(given_rows)
    for a, b in zip(back, given_rows, strict=True):
        np.testing.assert_equal(a, b)


def test_every_line_is_strict_json(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(
        {"step": np.int32(3), "a": np.float32(0.5), "b": math.nan, "c": -math.inf}
    )

    def refuse(word):
        raise AssertionError(word)

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {
        "step": 3,
        "a": 0.5,
        "b": "NaN",
        "c": "-Infinity",
    }


def test_rows_after_the_restored_step_are_cut(tmp_path, caplog):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (5, 10, 10, 15, 20):
        log.append({"step": step, "train/loss": step / 2})

    with caplog.at_level(logging.INFO):
        log.cut_back(10)

    assert [row["step"] for row in read_rows(log.path)] == [5, 10, 10]
    assert "cut back to step 10, dropping 2 later rows" in caplog.text
    log.append({"step": 15, "train/loss": 1.0})
    assert [row["step"] for row in read_rows(log.path)] == [5, 10, 10, 15]


def test_a_run_that_begins_anew_keeps_no_row(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.cut_back(-1)
    assert not log.path.exists()
    log.append({"step": 0, "eval/loss": 1.0})
    log.cut_back(-1)
    assert read_rows(log.path) == []


@settings(deadline=None)
@given(cut=st.integers(0, 200))
def test_a_row_torn_at_any_byte_is_dropped_and_the_rest_kept(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.append({"step": step, "train/loss": 0.25, "note/µ": 1e-7})
    whole = path.read_bytes()
    n = len(whole) - cut % len(whole)
    path.write_bytes(whole[:n])

    log.cut_back(3)
    log.append({"step": 4})

    kept = whole[:n].count(b"\n")
    assert [row["step"] for row in read_rows(path)] == [*range(1, kept + 1), 4]
    assert path.read_bytes().startswith(whole[: whole[:n].rfind(b"\n") + 1])


def test_a_log_that_is_whole_is_not_rewritten(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1})
    before = log.path.stat().st_ino
    log.cut_back(1)
    assert log.path.stat().st_ino == before


TRAIN = {
    "train/loss": 0.12345,
    "throughput/examples_per_s": 1234.5,
    "throughput/hours_per_s": 0.6892,
    "time/data_wait": 0.0312,
    "time/pace_s": 12.0,
}


def test_a_line_names_step_loss_rates_wait_and_eta():
    assert describe(50, 1000, TRAIN) == (
        "step 50/1000  loss 0.1235  ETA 3 h 10 min  1,234.5 examples/s  "
        "0.689 h of signal/s  data wait 3%"
    )
    assert describe(50, 1000, {"eval/loss": 2}) == "step 50/1000  held-out loss 2.0000"


def test_progress_without_a_terminal_is_one_plain_line_a_row(capsys):
    with Progress(1000) as progress:
        progress.show(50, TRAIN)
        progress.show(50, {"eval/loss": 2.0})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        describe(50, 1000, TRAIN),
        "step 50/1000  held-out loss 2.0000",
    ]


def test_progress_on_a_terminal_keeps_log_lines_apart(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    try:
        with Progress(1000) as progress:
            progress.show(50, TRAIN)
            logging.getLogger("neurofm").warning("a [b]word[/b] aside")
            progress.show(50, {"eval/loss": 2.0})
        assert handler.stream is terminal
    finally:
        logging.getLogger().removeHandler(handler)
    shown = terminal.getvalue()
    assert "a [b]word[/b] aside\n" in shown
    assert "held-out loss 2.0000\n" in shown
    assert describe(50, 1000, TRAIN) in shown


class FakeTime:
    """A clock that moves when told to."""

    def __init__(self):
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def passes(self, seconds: float) -> None:
        self.at += seconds


def run_steps(clock: Clock, now: FakeTime, n: int, wait: float, work: float) -> None:
    for _ in range(n):
        now.passes(wait)
        with clock.step(wait, items=6, item_s=1.5, flops=8e9):
            now.passes(work)


def test_rates_are_of_the_steps_since_the_last_row():
    now = FakeTime()
    clock = Clock(now=now)
    now.passes(20)  # restoring
    run_steps(clock, now, 1, wait=3, work=40)  # compiling
    assert "time/step_s" not in clock.row(1)

    run_steps(clock, now, 10, wait=0.25, work=0.75)
    row = clock.row(n_devices=4)

    assert row["time/step_s"] == pytest.approx(1.0)
    assert row["time/data_wait"] == pytest.approx(0.25)
    assert row["throughput/examples_per_s"] == pytest.approx(6)
    assert row["throughput/hours_per_s"] == pytest.approx(6 * 1.5 / 3600)
    assert row["throughput/flops_per_s"] == pytest.approx(8e9)
    assert row["data/hours"] == pytest.approx(11 * 6 * 1.5 / 3600)
    assert row["time/hours"] == pytest.approx((20 + 43 + 10) / 3600)
    assert row["time/goodput"] == pytest.approx(7.5 / 73)
    assert row["time/badput/wait"] == pytest.approx(2.5 / 73)
    assert row["time/badput/compile"] == pytest.approx(40 / 73)
    assert row["time/badput/start"] == pytest.approx(23 / 73)
    assert row["time/wall_hours"] == pytest.approx(73 / 3600)

    run_steps(clock, now, 2, wait=0, work=3)
    assert clock.row(1)["time/step_s"] == pytest.approx(3.0)


def test_evaluation_and_checkpoints_slow_the_pace_but_not_the_step():
    now = FakeTime()
    clock = Clock(now=now)
    run_steps(clock, now, 1, wait=0, work=5)
    run_steps(clock, now, 4, wait=0, work=1)
    with clock.bucket("eval"):
        now.passes(6)
    with contextlib.suppress(KeyError), clock.bucket("checkpoint"):
        now.passes(2)
        raise KeyError
    row = clock.row(1)
    assert row["time/step_s"] == pytest.approx(1.0)
    assert row["time/pace_s"] == pytest.approx((4 + 6 + 2) / 4)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step", "eval", "checkpoint", "row", "restart"]),
            st.floats(0, 10),
        ),
        max_size=20,
    )
)
def test_the_buckets_add_up_to_the_time_that_passed(moments):
    now = FakeTime()
    clock = Clock(now, now)
    for what, seconds in moments:
        if what == "step":
            run_steps(clock, now, 1, wait=seconds, work=seconds / 2)
        elif what == "row":
            now.passes(seconds)
            clock.row(1)
        elif what == "restart":
            saved = json.loads(json.dumps(clock.to_json()))
            now.passes(seconds)  # killed after more work, then off for a while
            clock = Clock(now, now)
            clock.go_on(saved)
            run_steps(clock, now, 1, wait=1, work=2)
        else:
            with clock.bucket(what):
                now.passes(seconds)
    seconds = clock.to_json()["seconds"]
    assert tuple(seconds) == BUCKETS
    assert min(seconds.values()) >= 0
    assert sum(seconds.values()) == pytest.approx(now.at - 1000, abs=1e-6)


def test_hours_go_on_after_a_restart():
    now = FakeTime()
    first = Clock(now, now)
    run_steps(first, now, 5, wait=0, work=720)
    saved = json.loads(json.dumps(first.to_json()))

    now.passes(1800)  # steps that no checkpoint kept, and the night
    again = Clock(now, now)
    again.go_on(saved)
    assert again.goodput()["wall_hours"] == pytest.approx(1.0)  # nothing goes on yet
    run_steps(again, now, 5, wait=0, work=720)

    row = again.row(1)
    assert row["time/hours"] == pytest.approx(2.0)
    assert row["data/hours"] == pytest.approx(10 * 6 * 1.5 / 3600)
    assert row["time/wall_hours"] == pytest.approx(2.5)
    assert row["time/badput/lost"] == pytest.approx(0.2)
    assert row["time/badput/compile"] == pytest.approx(2 * 720 / 9000)
    assert row["time/goodput"] == pytest.approx(8 * 720 / 9000)
    assert again.sentence() == "64% of 2 h 30 min in steps"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (600, "10 min"),
        (3 * 3600 + 5 * 60, "3 h 05 min"),
        (2 * 86400 + 4 * 3600, "2 d 04 h"),
    ],
)
def test_a_duration_is_said_in_words(seconds, words):
    assert duration(seconds) == words
