"""The supervising machine against worlds that do their worst."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.launch.machine import Limits, Seen, State, Worker, step

LIMITS = Limits(fruitless=5, unseen=4, tries=3)
LAST_STEP = 4
EVENTS = [
    *("progress", "progress", "progress"),
    *("preempt", "suspend", "fail", "unknown", "slow", "deaf"),
    *("crash", "crash all", "save", "lose", "reboot", "finish one"),
]


class World:
    """A cloud with one resource, told what happens at every look."""

    def __init__(self, hosts=3, resource="absent", ours=True):
        self.resource, self.ours, self.hosts = resource, ours, hosts
        self.workers = [Worker("absent")] * hosts
        self.time, self.step, self.hide, self.deaf = 0.0, 0, False, False
        self.launched: list[tuple[int, int]] = []  # (attempt, worker)
        self.done: list[tuple[float, str]] = []

    def happen(self, event):
        self.hide = event == "unknown"
        self.deaf = event == "deaf"
        if event == "slow":
            return
        if self.resource == "leaving":
            self.resource = "absent"
        elif self.resource == "waiting":
            self.resource = "failed" if event == "fail" else "active"
        elif self.resource == "active":
            self.strike(event)

    def strike(self, event):
        if event in ("preempt", "suspend"):
            self.resource = {"suspend": "suspended"}.get(event, "preempted")
            self.workers = [Worker("absent")] * self.hosts
        running = [i for i, w in enumerate(self.workers) if w.state == "running"]
        if not running:
            return
        if event == "reboot":
            self.workers[running[0]] = replace(self.workers[running[0]], state="lost")
        codes = {"crash": 70, "lose": -9, "finish one": 0}
        if event in codes:
            i = running[0]
            self.workers[i] = replace(
                self.workers[i], state="exited", code=codes[event]
            )
        whole = {"crash all": 139, "save": 42}
        ended = whole.get(event)
        if event == "progress" and len(running) == self.hosts:
            self.step += 1
            ended = 0 if self.step == LAST_STEP else None
        for i in running:
            if event in ("progress", *whole):
                self.workers[i] = replace(
                    self.workers[i],
                    step=self.step,
                    state="running" if ended is None else "exited",
                    code=ended,
                )

    def seen(self):
        answering = self.workers[1:] if self.deaf else self.workers
        return Seen(
            time=self.time,
            resource="unknown" if self.hide else self.resource,
            ours=self.ours or self.resource == "absent",
            workers=tuple(answering) if self.resource == "active" else (),
            expected=self.hosts,
        )

    def do(self, verb, attempt):
        self.done.append((self.time, verb))
        if verb == "create":
            assert self.resource == "absent"
            self.resource, self.ours = "waiting", True
        elif verb == "delete":
            assert self.ours, "deleted what is not ours"
            self.resource = "leaving" if self.resource != "absent" else "absent"
            self.workers = [Worker("absent")] * self.hosts
        elif verb == "start":
            for i, worker in enumerate(self.workers):
                if worker.attempt < attempt:  # what run_worker.sh sees to
                    assert worker.state != "running", "two attempts at once"
                    self.launched.append((attempt, i))
                    self.workers[i] = Worker("running", attempt)
        elif verb in ("stop", "kill"):
            for i, worker in enumerate(self.workers):
                if worker.state == "running":
                    code = 42 if verb == "stop" else 137
                    self.workers[i] = replace(worker, state="exited", code=code)


def live(world, events, then="progress", looks=4000, state=None, stop_after=None):
    state = state or State()
    for look in range(looks):
        world.happen(events[look] if look < len(events) else then)
        seen = world.seen()
        seen = replace(seen, stop_asked=stop_after is not None and look >= stop_after)
        state, verbs = step(state, seen, LIMITS)
        for verb in verbs:
            world.do(verb, state.attempt)
        if state.phase == "ended":
            return state
        world.time += 30
    raise AssertionError(f"still going after {looks} looks: {state}")


events = st.lists(st.sampled_from(EVENTS), max_size=120)


@settings(max_examples=150, deadline=None)
@given(events, st.sampled_from([e for e in EVENTS if e not in ("slow", "fail")]))
def test_it_always_ends_and_starts_no_attempt_twice(early, then):
    world = World()
    state = live(world, early, then)
    assert len(set(world.launched)) == len(world.launched)
    if state.code == 0:
        assert world.step == LAST_STEP or then == "finish one" or "finish one" in early
    assert state.sentence


@settings(max_examples=100, deadline=None)
@given(events)
def test_a_world_that_calms_down_is_trained_to_the_end_or_said_to_be_hopeless(early):
    state = live(World(), early)
    if state.code != 0:
        assert state.code == 70
        assert any(
            words in state.sentence
            for words in ("gave up", "crashed 3 times", "had no effect")
        )


@settings(max_examples=100, deadline=None)
@given(
    events,
    st.sampled_from(["waiting", "active", "suspended", "preempted", "failed"]),
)
def test_a_resource_of_somebody_else_is_neither_used_nor_deleted(early, resource):
    world = World(resource=resource, ours=False)
    calm = [event for event in early if event != "unknown"]
    state = live(world, calm)
    assert state.code == 1
    assert world.done == []


@settings(max_examples=100, deadline=None)
@given(events, st.integers(0, 60))
def test_after_a_wish_to_stop_nothing_is_started_and_it_ends(early, after):
    world = World()
    state = live(world, early, stop_after=after)
    since = after * 30
    assert not [v for t, v in world.done if t >= since and v in ("create", "start")]
    assert state.phase == "ended"


def test_each_fruitless_recovery_waits_longer():
    world = World()
    state = live(world, [], then="preempt")
    assert "5 recoveries" in state.sentence or "6 recoveries" in state.sentence
    asked = [t for t, verb in world.done if verb == "create"]
    given_back = [t for t, verb in world.done if verb == "delete"][: len(asked) - 1]
    waits = [b - a for a, b in zip(given_back, asked[1:], strict=True)]
    assert waits == sorted(waits)
    for n, wait in enumerate(waits, 1):
        assert LIMITS.backoff(n) <= wait < LIMITS.backoff(n) + 60


def test_a_new_step_makes_it_patient_again():
    cycle = ["x", "x", "progress", "preempt", *["x"] * 20]
    state = live(World(), cycle * 10, then="progress")
    assert (state.code, state.fruitless) == (0, 0)


@pytest.mark.parametrize(
    ("codes", "ends", "words"),
    [
        ((0, 0), 0, "done"),
        ((1, 134), 1, "error of its user"),
        ((127, 127), 1, "cannot be run"),
        ((130, 42), 130, "interrupted"),
        ((42, 42), None, "saved and stopped (exit 42); again in 30 s"),
        ((42, 70), None, "saved and stopped"),
        ((70, 134), None, "died at step 7 (exit 70); again in 30 s"),
        ((None, 0), None, "died at step 7"),
    ],
)
def test_the_exit_codes_say_what_comes_next(codes, ends, words):
    seen = Seen(
        time=0,
        resource="active",
        expected=2,
        workers=tuple(Worker("exited", 1, code, 7) for code in codes),
    )
    state, verbs = step(State(attempt=1), seen, Limits())
    assert state.code == ends
    assert words in state.sentence
    assert verbs == (("delete",) if ends is not None else ())


def test_three_crashes_at_one_step_end_it_and_crashes_further_on_do_not():
    state = State(attempt=1)
    for at in (3, 5, 5, 6, 6, 6):
        workers = (Worker("exited", state.attempt, 70, at),)
        seen = Seen(time=1e6, resource="active", workers=workers)
        state, _ = step(state, seen, Limits())
    assert state.sentence == "crashed 3 times at step 6: see the log"
    assert state.code == 70


def test_when_one_process_fails_the_rest_is_given_time_and_then_killed():
    workers = (Worker("exited", 1, 70, 3), Worker("running", 1, None, 3))
    seen = Seen(time=0, resource="active", expected=2, workers=workers)
    state, verbs = step(State(attempt=1), seen, Limits())
    assert verbs == ()
    late = replace(seen, time=Limits().straggler_s)
    assert step(state, late, Limits())[1] == ("kill",)


def test_workers_that_cannot_be_reached_are_left_as_they_are():
    seen = Seen(time=0, resource="active", expected=2, workers=(Worker("running", 1),))
    state = State(attempt=1)
    for _ in range(Limits().unseen):
        state, verbs = step(state, seen, Limits())
        assert verbs == ()
    assert (state.code, "left all as it is" in state.sentence) == (70, True)


def test_workers_that_never_start_are_given_back():
    seen = Seen(time=0, resource="active", workers=(Worker("absent"),))
    state, done = State(), []
    while state.phase == "going":
        seen = replace(seen, time=seen.time + 30)
        state, verbs = step(state, seen, LIMITS)
        done += verbs
    assert done == ["start"] * LIMITS.tries + ["delete"]
    assert state.sentence.startswith("starting the workers had no effect 3 times")


def test_the_lines_of_the_worker_script_are_read_among_others():
    text = (
        "Using ssh batch size of 4.\n"
        "neurofm-worker host=w-0 state=running attempt=2 tree=ab code=- step=12\n"
        "neurofm-worker host=w-1 state=exited attempt=2 tree=ab code=42 step=\n"
        "neurofm-worker host=w-2 state=absent attempt=0 tree=- code=-\n"
    )
    assert Worker.parse(text) == (
        Worker("running", 2, None, 12, "ab"),
        Worker("exited", 2, 42, None, "ab"),
        Worker("absent"),
    )
