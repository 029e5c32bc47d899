"""What the commands do to a launched job: up, status, logs, stop, down."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from neurofm.errors import NeuroFMError
from neurofm.launch import local, runner, tpu_vm
from neurofm.launch.actions import Action, Run
from neurofm.launch.job import Local
from neurofm.launch.machine import DONE, Limits, Seen, State
from neurofm.launch.record import Record


def known(name: str) -> Record:
    return Record.load(name)


def going(record: Record) -> str:
    """What to say of a job that was launched before and goes on, or is done."""
    if not (record.folder / "job.json").is_file():
        return ""
    state = Record.load(record.job.name).state()
    if state.phase == "going":
        told = state.sentence or "not started"
        return f"{record.job.name} was launched before ({told}): --yes watches it."
    return f"{record.job.name} is done: nothing to do." if state.code == DONE else ""


def up(
    record: Record,
    show: Callable[[str], None],
    no_watch: bool = False,
    keep: bool = False,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> State:
    """Launch the job, or go on with it, and watch until it ends.

    A job that is done stays done. One that ended otherwise starts again from what it
    saved, now with the code and the command given.

    Raises:
      NeuroFMError: a variable that is not set, another job of this name, a request that
        the cloud refuses.
    """
    for name in record.job.env:
        if name not in os.environ:
            raise NeuroFMError(f"--env {name}: it is not set here: export it first")
    if (record.folder / "job.json").is_file():
        before = Record.load(record.job.name)
        state = before.state()
        if state.phase == "going" or state.code == DONE:
            if before.job != record.job:
                raise NeuroFMError(
                    f"{record.job.name} was launched before with other settings: give "
                    f"`neurofm launch up {record.job.name} --yes` to go on with it, or "
                    f"`neurofm launch down {record.job.name}` first, or another name"
                )
            if before.code != record.code:
                show("the code has changed since: the job goes on with its own")
            record = before
        else:  # it ended with less than success, and is tried again
            record.keep(State(attempt=state.attempt + 1, best_step=state.best_step))
    record.save()
    if record.state().phase == "ended":
        return replace(record.state(), sentence="done before: nothing to do")
    record.go_on()
    if not isinstance(record.job.where, Local):
        runner.execute(tpu_vm.pack(*record.code, str(record.folder)), record)

    def started(state: State, seen: Seen) -> bool:
        running = [worker for worker in seen.workers if worker.state == "running"]
        return no_watch and len(running) == seen.expected

    return runner.watch(record, show, keep, started, limits, clock, sleep)


def status(name: str) -> dict[str, Any]:
    """One look, and what the machine remembers."""
    record = Record.load(name)
    seen, state = runner.look(record, time.time()), record.state()
    return {
        "name": name,
        "chips": "this machine"
        if isinstance(record.job.where, Local)
        else seen.resource
        if seen.ours
        else "of another job",
        "attempt": state.attempt,
        "step": max([state.best_step, *(w.step or -1 for w in seen.workers)]),
        "last": state.sentence or "not started",
        "exit_code": state.code,
        "workers": [asdict(worker) for worker in seen.workers],
    }


def logs(name: str, worker: int, lines: int) -> str:
    """The end of a worker's log: from the worker, or what was kept of it."""
    record = Record.load(name)
    job = record.job
    if not 0 <= worker < job.workers:
        raise NeuroFMError(f"--worker {worker}: give 0 to {job.workers - 1}")
    if isinstance(job.where, Local):
        actions = local.logs(job, str(record.folder), lines, worker)
    else:
        node, number = divmod(worker, job.workers // len(job.nodes))
        actions = [tpu_vm.logs(job, lines, number)[node]]
    told = [runner.call(action) for action in actions if isinstance(action, Run)]
    if all(one.returncode == 0 for one in told):
        return "".join(one.stdout for one in told).rstrip("\n")
    kept = [path.read_text() for path in sorted(record.folder.glob("*.log"))]
    if not kept:
        raise NeuroFMError(
            f"no worker of {name} can be reached and no log was kept: see `neurofm "
            f"launch status {name}`"
        )
    return "\n".join("\n".join(text.splitlines()[-lines:]) for text in kept)


def stop(name: str, act: bool) -> list[Action]:
    """Ask every process to save and end; whoever watches the job sees it through."""
    record = Record.load(name)
    if isinstance(record.job.where, Local):
        actions = local.stop(record.job, str(record.folder))
    else:
        actions = tpu_vm.stop(record.job)
    if act:
        record.ask_to_stop()
        for action in actions:
            runner.execute(action, record)
    return actions


def down(name: str, act: bool) -> list[Action]:
    """Give back what the job made, and nothing else.

    Raises:
      NeuroFMError: what carries the name is not ours, or cannot be looked at.
    """
    record = Record.load(name)
    seen = runner.look(record, time.time())
    if isinstance(record.job.where, Local):
        running = [worker for worker in seen.workers if worker.state == "running"]
        actions = local.kill(record.job, str(record.folder)) if running else []
    else:
        if seen.resource == "unknown":
            raise NeuroFMError(f"cannot look at {name}: {seen.reason}")
        if not seen.ours and seen.resource != "absent":
            raise NeuroFMError(
                f"what is called {name} was not made by this job, so it stays: see "
                f"`{tpu_vm.describe(record.job).shell()}`"
            )
        there = seen.resource not in ("absent", "leaving")
        actions = tpu_vm.delete(record.job) if there else []
    if act:
        with runner.only_watch(record):
            for action in actions:
                runner.execute(action, record)
            record.forget()
    return actions
