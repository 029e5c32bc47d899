"""What stops a run: numbers that are not finite, collapse, and signals."""

import math
import os
import signal
import threading

import pytest

from neurofm.errors import NeuroFMError
from neurofm.run.stop import SIGNALS, stop_signals
from neurofm.run.watch import CollapseWatch, check_finite

# ---- not finite ----------------------------------------------------------------------


def row(loss=0.5, **norms):
    groups = {"encoder": 1.0, "stem_0": 2.0, "mask_token": 0.0} | norms
    return {"train/loss": loss} | {f"optim/grad_norm/{k}": v for k, v in groups.items()}


def test_finite_numbers_pass_however_large():
    check_finite(3, row(loss=1e38, encoder=1e38))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(bad):
    with pytest.raises(NeuroFMError, match=rf"^step 41: the loss is {bad} and no grad"):
        check_finite(41, row(loss=bad))


def test_groups_whose_gradient_is_not_finite_are_named_and_no_others():
    with pytest.raises(NeuroFMError) as stop:
        check_finite(7, row(encoder=math.nan, stem_0=math.inf))
    message = str(stop.value)
    assert "step 7: the loss is 0.5 and gradients of encoder, stem_0 not" in message
    assert "mask_token" not in message
    assert "optim.lr" in message


# ---- collapse ------------------------------------------------------------------------


def collapsed_at(share, variances):
    """The logged steps, from 0, after which the watch says collapse."""
    watch, steps = CollapseWatch(share), []
    for step, variance in enumerate(variances):
        watch = watch.seen(variance)
        if watch.collapsed:
            steps.append(step)
    return steps


@pytest.mark.parametrize(
    ("share", "variances", "steps"),
    [
        (0.1, [2.0, 0.19, 0.1, 0.15, 0.19], [3, 4]),  # three in a row, then still
        (0.1, [2.0, 0.19, 0.19, 0.21, 0.19, 0.19], []),  # never three in a row
        (0.1, [2.0, 0.2, 0.2, 0.2, 0.2], []),  # at the limit is not under it
        (0.1, [0.0, 0.0, 0.0, 0.0, 0.0], []),  # the start decides, whatever it is
        (0.5, [1.0, 9.0, 0.4, 0.4, 0.4], [4]),  # the start counts, not the most
        (0.0, [1.0, 0.0, 0.0, 0.0, 0.0], []),  # 0 never stops
    ],
)
def test_collapse_is_three_logged_steps_in_a_row_under_the_share(
    share, variances, steps
):
    assert collapsed_at(share, variances) == steps


def test_a_watch_goes_on_from_what_a_checkpoint_keeps_of_it():
    watch = CollapseWatch(0.1).seen(2.0).seen(0.1).seen(0.1)
    again = CollapseWatch(0.1, start=watch.start, below=watch.below)
    assert not again.collapsed
    assert again.seen(0.1).collapsed


def test_the_user_is_told_the_step_the_numbers_and_the_ways_out():
    watch = CollapseWatch(0.25).seen(2.0)
    sentence = watch.sentence(60, 0.0123)
    for words in ("step 60", "1.23e-02", "0.25", "2.00e+00", "optim.lr", "ema_start"):
        assert words in sentence
    assert "train.collapse_share=0" in sentence


# ---- signals -------------------------------------------------------------------------


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_remembered_and_the_old_handlers_come_back(name):
    before = handlers()
    with stop_signals() as stop:
        assert stop.name is None
        os.kill(os.getpid(), getattr(signal, name))
        assert stop.name == name
    assert handlers() == before


def test_the_first_signal_decides_how_the_run_ends():
    with stop_signals() as stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.name == "SIGINT"


def test_a_second_ctrl_c_does_not_wait():
    # A shell starts what it runs in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupted_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted_twice():
    with pytest.raises(KeyboardInterrupt), stop_signals():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_entered_again_it_is_the_same_and_takes_back_what_a_library_took():
    before = handlers()
    with stop_signals() as outer:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with stop_signals() as inner:
            assert inner is outer
        os.kill(os.getpid(), signal.SIGTERM)
        assert (outer.name, outer.status) == ("SIGTERM", "preempted")
        with stop_signals() as later:
            assert later.name == "SIGTERM"
    assert handlers() == before
    with stop_signals() as fresh:
        assert fresh.name is None


def test_outside_the_main_thread_nothing_is_caught():
    before, seen = handlers(), []

    def enter():
        with stop_signals() as stop:
            seen.append((stop.name, handlers()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert seen == [(None, before)]
