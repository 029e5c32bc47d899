"""The rim: looks, lets the machine decide, acts, and writes down what was done."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from neurofm.errors import NeuroFMError
from neurofm.launch import code, local, machine, tpu_vm
from neurofm.launch.actions import Action, Pack, Run, Wait
from neurofm.launch.job import Local
from neurofm.launch.machine import Limits, Seen, State, Verb, Worker
from neurofm.launch.record import Record

LOCAL_LIMITS = Limits(backoff_s=1, longest_s=60, straggler_s=60, grace_s=300)
GONE = "NOT_FOUND"
Told = subprocess.CompletedProcess[str]


class Failed(NeuroFMError):
    """A command of a plan did not succeed; the message ends with what it said."""

    def __init__(self, action: Run, told: Told):
        lines = [line for line in told.stderr.splitlines() if line.strip()]
        said = next((x for x in lines if "ERROR" in x), lines[-1] if lines else "")
        self.said = told.stderr
        super().__init__(
            f"could not {action.why}: {Path(action.argv[0]).name} ended with "
            f"{told.returncode}: {said.strip() or 'it said nothing'}"
        )


def execute(action: Action, record: Record) -> Told | None:
    """Do one action and note it in the journal.

    Raises:
      NeuroFMError: the program is not installed, or it failed.
    """
    if isinstance(action, Pack):
        pack(action)
        record.journal({"why": action.why, "shell": action.shell(), "code": 0})
        return None
    if isinstance(action, Wait):
        raise TypeError("a wait is for people; the machine looks again by itself")
    told = call(action)
    record.journal(
        {"why": action.why, "shell": action.shell(), "code": told.returncode}
    )
    if told.returncode:
        raise Failed(action, told)
    return told


def pack(action: Pack) -> None:
    """Make the archive, unless it is there: its name says what it holds."""
    out = Path(action.out)
    if out.is_file():
        return
    made = code.tree(Path(action.root))
    if made.sha256 not in out.name:
        raise NeuroFMError(
            f"{action.root} changed while it was packed: run the same command again"
        )
    code.pack(made, out)


def call(action: Run) -> Told:
    """Run a program, its output kept."""
    try:
        return subprocess.run(
            action.argv, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise NeuroFMError(
            f"{action.argv[0]} is not installed here, and it is needed to "
            f"{action.why}: see `neurofm launch doctor`"
        ) from error


# ---- looking -------------------------------------------------------------------------


def look(record: Record, now: float) -> Seen:
    """One look at the job: its resource, whose it is, and its workers."""
    seen = Seen(
        time=now,
        resource="active",
        expected=record.job.workers,
        stop_asked=record.stop_asked,
    )
    if isinstance(record.job.where, Local):
        return replace(seen, workers=_ask(record))
    told = call(tpu_vm.describe(record.job))
    if told.returncode:
        if GONE in told.stderr:
            return replace(seen, resource="absent")
        said = [line for line in told.stderr.splitlines() if line.strip()]
        reason = said[-1] if said else f"gcloud ended with {told.returncode}"
        return replace(seen, resource="unknown", reason=reason)
    described = json.loads(told.stdout)
    state, reason = tpu_vm.resource(described)
    ours = tpu_vm.owned(described, record.job, record.owner)
    seen = replace(seen, resource=state, reason=reason, ours=ours)
    if state != "active" or not ours:
        return seen
    listed = call(tpu_vm.nodes(record.job))
    if listed.returncode == 0 and tpu_vm.taken(json.loads(listed.stdout), record.job):
        return replace(seen, resource="preempted")
    return replace(seen, workers=_ask(record))


def _ask(record: Record) -> tuple[Worker, ...]:
    if isinstance(record.job.where, Local):
        actions = local.status(record.job, str(record.folder))
    else:
        actions = tpu_vm.status(record.job)
    found: list[Worker] = []
    for action in actions:
        if isinstance(action, Run):
            found += Worker.parse(call(action).stdout)
    return tuple(found)


# ---- acting --------------------------------------------------------------------------


def actions(verb: Verb, record: Record, seen: Seen, state: State) -> list[Action]:
    """What a verb of the machine means for this job."""
    job, folder = record.job, str(record.folder)
    if isinstance(job.where, Local):
        table = {
            "start": lambda: local.start(job, state.attempt, folder, record.code[0]),
            "stop": lambda: local.stop(job, folder),
            "kill": lambda: local.kill(job, folder),
        }
        return table[verb]() if verb in table else []
    _, sha256 = record.code
    there = bool(seen.workers) and all(w.tree == sha256 for w in seen.workers)
    sync = [] if there else tpu_vm.sync(job, sha256, folder)
    return {
        "create": lambda: tpu_vm.create(job, record.owner),
        "delete": lambda: tpu_vm.delete(job),
        "start": lambda: sync + tpu_vm.start(job, state.attempt, sha256, folder),
        "stop": lambda: tpu_vm.stop(job),
        "kill": lambda: tpu_vm.kill(job),
    }[verb]()


def advance(
    record: Record, limits: Limits, now: float, show: Callable[[str], None], keep: bool
) -> tuple[State, Seen]:
    """Look once and do what the machine says; its memory is kept before it acts."""
    seen = look(record, now)
    before = record.state()
    state, verbs = machine.step(before, seen, limits)
    record.keep(state)
    if state.sentence != before.sentence:
        show(state.sentence)
    for verb in verbs:
        if verb == "delete" and keep and state.phase == "ended":
            show(f"kept, as asked: `neurofm launch down {record.job.name}` deletes it")
            continue
        if verb == "delete" and seen.resource == "active":
            fetch_logs(record)
        for action in actions(verb, record, seen, state):
            show(f"$ {action.shell()}")
            try:
                execute(action, record)
            except Failed as error:
                if state.phase == "ended" or (verb == "create" and not state.attempt):
                    raise  # nothing is at work: a mistake that its user can mend
                # The next look tells what came of it, and tries are bounded.
                show(str(error))
                break
    return state, seen


def watch(
    record: Record,
    show: Callable[[str], None],
    keep: bool,
    until: Callable[[State, Seen], bool],
    limits: Limits | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> State:
    """Look, decide and act until the job has ended, or `until` says so."""
    here = isinstance(record.job.where, Local)
    usual, poll_s = (LOCAL_LIMITS, 1.0) if here else (Limits(), 30.0)
    with only_watch(record):
        while True:
            state, seen = advance(record, limits or usual, clock(), show, keep)
            if state.phase == "ended" or until(state, seen):
                return state
            sleep(poll_s)


@contextmanager
def only_watch(record: Record) -> Iterator[None]:
    """Two watches of one job would act twice, so the second is refused."""
    import fcntl

    with (record.folder / "watch").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NeuroFMError(
                f"{record.job.name} is watched by another `neurofm launch up`: look at "
                "it with `neurofm launch status`"
            ) from error
        yield


def fetch_logs(record: Record, lines: int = 1000) -> None:
    """Keep the end of every first worker's log before its disk is gone."""
    job = record.job
    if isinstance(job.where, Local):
        return
    for action in tpu_vm.logs(job, lines, 0):
        if isinstance(action, Run):
            told = call(action)
            node = action.argv[5]
            if told.returncode == 0 and told.stdout:
                (record.folder / f"{node}.log").write_text(told.stdout)
