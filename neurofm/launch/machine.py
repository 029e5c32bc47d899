"""What to do next with a job, as a pure function of what was done and what is seen.

`step` never deletes a resource that is not ours, starts an attempt only while no
earlier one runs, waits longer after every recovery that brought no new training step,
and ends after a bounded number of them.
"""

from dataclasses import dataclass, replace
from typing import Literal

DONE, USER_ERROR, PREEMPTED, FAULT, INTERRUPTED = 0, 1, 42, 70, 130
NOT_A_PROGRAM = (126, 127)  # what a shell says of a command it cannot run

Resource = Literal[
    "absent",  # nothing of this name
    "waiting",  # in the queue, or being made
    "active",  # its workers can be reached
    "preempted",  # taken away
    "suspended",  # taken away, and all of its nodes gone
    "failed",  # the request could not be met
    "leaving",  # being deleted
    "unknown",  # we could not look
]
Verb = Literal["create", "delete", "start", "stop", "kill"]


TRYING = {
    "create": "asking for the chips",
    "start": "starting the workers",
    "delete": "giving the chips back",
}


@dataclass(frozen=True)
class Worker:
    """One process of the job, as its host tells it."""

    state: Literal["absent", "running", "exited", "lost"]
    attempt: int = 0
    code: int | None = None
    step: int | None = None
    tree: str = "-"  # hash of the code it runs, where that was sent

    @classmethod
    def parse(cls, text: str) -> "tuple[Worker, ...]":
        """The lines that `run_worker.sh status` writes; other lines are passed over."""
        found = []
        for line in text.splitlines():
            if line.startswith("neurofm-worker host="):
                facts = dict(word.split("=", 1) for word in line.split()[1:])
                code, step = facts["code"], facts.get("step")
                found.append(
                    cls(
                        facts["state"],  # pyright: ignore[reportArgumentType]
                        int(facts["attempt"]),
                        int(code) if code != "-" else None,
                        int(step) if step else None,
                        facts["tree"],
                    )
                )
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look at the job.

    Attributes:
      time: seconds on a clock that does not go back.
      ours: whether what is there was made by us for this job.
      workers: those that answered, of `expected`.
      reason: what the cloud gives as the reason of a failure.
    """

    time: float
    resource: Resource
    ours: bool = True
    workers: tuple[Worker, ...] = ()
    expected: int = 1
    stop_asked: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to give up, and how long to wait before another attempt."""

    backoff_s: float = 30
    longest_s: float = 1800
    fruitless: int = 20  # recoveries without a new step
    same_step: int = 3  # crashes at one step
    tries: int = 6  # requests, starts or returns in a row that had no effect
    unseen: int = 60  # looks in a row that found nobody
    straggler_s: float = 120  # for the rest, once one process has failed
    grace_s: float = 600  # between SIGTERM and SIGKILL

    def backoff(self, recoveries: int) -> float:
        return min(self.longest_s, self.backoff_s * 2 ** max(0, recoveries - 1))


@dataclass(frozen=True, kw_only=True)
class State:
    """What is remembered between looks; kept on disk, so that a watch can go on.

    Attributes:
      attempt: number of the latest start; unique over all resources of the job.
      best_step: the furthest training step that was seen.
      fruitless: recoveries since that step.
      crashes: how often the job died at `crash_step` in a row.
      not_before: earliest time of the next start or request.
      straggling: since when a part of the processes has ended badly.
      stopping: since when the job was asked to stop.
      tries: how often the same thing was done without effect.
      giving_back: a resource was taken away, and we asked for its deletion.
      unseen: looks in a row that found nobody.
      code: exit code, once the job has ended.
      sentence: what to tell the user.
    """

    phase: Literal["going", "ended"] = "going"
    attempt: int = 0
    best_step: int = -1
    fruitless: int = 0
    crash_step: int | None = None
    crashes: int = 0
    not_before: float = 0.0
    straggling: float | None = None
    stopping: float | None = None
    tries: int = 0
    giving_back: bool = False
    unseen: int = 0
    code: int | None = None
    sentence: str = ""


Next = tuple[State, tuple[Verb, ...]]


def step(state: State, seen: Seen, limits: Limits) -> Next:
    """The new state, and what to do now; nothing to do means wait and look again."""
    if state.phase == "ended":
        return state, ()
    if seen.resource != "absent" and not seen.ours:
        told = "there is a resource of this name that this job did not make"
        return _end(state, USER_ERROR, f"{told}: choose another name", ())
    if seen.resource == "unknown":
        return _unseen(state, seen, limits, "the cloud does not answer")
    if seen.stop_asked:
        return _stop(state, seen, limits)
    if seen.resource == "absent":
        state = replace(state, giving_back=False, unseen=0)
        return _try(state, seen, limits, "create")
    if seen.resource in ("waiting", "leaving"):
        words = {"waiting": "in the queue", "leaving": "being deleted"}
        return replace(state, sentence=words[seen.resource], unseen=0, tries=0), ()
    if seen.resource in ("preempted", "suspended", "failed"):
        why = seen.resource + (f" ({seen.reason})" if seen.reason else "")
        if state.giving_back:
            return _try(replace(state, not_before=0.0), seen, limits, "delete")
        state = replace(state, giving_back=True)
        return _recover(state, seen, limits, why, ("delete",))
    return _active(state, seen, limits)


def _try(state: State, seen: Seen, limits: Limits, verb: Verb) -> Next:
    """Do it, unless it is too early, or was done too often without effect."""
    if seen.time < state.not_before:
        return replace(state, sentence=f"waiting, then {TRYING[verb]}"), ()
    if state.tries >= limits.tries:
        told = f"{TRYING[verb]} had no effect {state.tries} times: see the journal"
        if verb == "start":
            return _end(state, FAULT, f"{told}; gave up")
        return _end(state, FAULT, f"{told}; gave up, and left all as it is", ())
    after = seen.time + limits.backoff(state.tries) if state.tries else seen.time
    state = replace(state, tries=state.tries + 1, not_before=after)
    return replace(state, sentence=TRYING[verb]), (verb,)


def _active(state: State, seen: Seen, limits: Limits) -> Next:
    if len(seen.workers) < seen.expected:
        told = f"{len(seen.workers)} of {seen.expected} workers answer"
        return _unseen(state, seen, limits, told)
    workers = seen.workers
    newest = max(worker.attempt for worker in workers)
    state = replace(state, unseen=0, attempt=max(state.attempt, newest))
    furthest = max((w.step for w in workers if w.step is not None), default=-1)
    if furthest > state.best_step:
        state = replace(state, best_step=furthest, fruitless=0)
    running = [worker for worker in workers if worker.state == "running"]
    old = [worker for worker in running if worker.attempt < state.attempt]
    if old:  # left by a start that reached only some, or by a worker that hangs
        return _straggle(state, seen, limits.straggler_s)
    behind = [worker for worker in workers if worker.attempt < state.attempt]
    if state.attempt == 0 or behind:
        state = replace(state, attempt=max(1, state.attempt))
        return _try(state, seen, limits, "start")
    state = replace(state, tries=0, not_before=0.0)
    ended = [worker for worker in workers if worker.state != "running"]
    if not ended:
        told = f"running, attempt {state.attempt}"
        told += f", step {state.best_step}" if state.best_step >= 0 else ""
        return replace(state, straggling=None, sentence=told), ()
    if running and all(worker.code == DONE for worker in ended):
        return _straggle(state, seen, limits.grace_s)  # they may be writing a report
    if running:
        return _straggle(state, seen, limits.straggler_s)
    return _verdict(replace(state, straggling=None), seen, limits)


def _verdict(state: State, seen: Seen, limits: Limits) -> Next:
    """All processes of the attempt have ended: is the job over, or tried again?"""
    codes = [FAULT if w.code is None else w.code for w in seen.workers]
    steps = [w.step for w in seen.workers if w.step is not None]
    at = max(steps, default=-1)
    if all(code == DONE for code in codes):
        return _end(state, DONE, "done")
    if USER_ERROR in codes:
        told = "the command ended with an error of its user (exit 1): see the log"
        return _end(state, USER_ERROR, told)
    if any(code in NOT_A_PROGRAM for code in codes):
        told = "the command cannot be run on the workers (exit 126 or 127): see the log"
        return _end(state, USER_ERROR, told)
    if INTERRUPTED in codes:
        return _end(state, INTERRUPTED, "interrupted on a worker; saved")
    if PREEMPTED in codes:
        return _recover(state, seen, limits, "saved and stopped (exit 42)", ())
    crashes = state.crashes + 1 if state.crash_step == at else 1
    state = replace(state, crash_step=at, crashes=crashes)
    where = f"at step {at}" if at >= 0 else "before its first step"
    if crashes >= limits.same_step:
        told = f"crashed {crashes} times {where}: see the log"
        return _end(state, FAULT, told)
    code = next(code for code in codes if code != DONE)
    return _recover(state, seen, limits, f"died {where} (exit {code})", ())


def _recover(
    state: State, seen: Seen, limits: Limits, why: str, verbs: tuple[Verb, ...]
) -> Next:
    """Another attempt, later each time that the last one brought no new step."""
    fruitless = state.fruitless + 1
    if fruitless > limits.fruitless:
        told = f"{why}; {fruitless} recoveries brought no new step: gave up"
        return _end(state, FAULT, told, verbs)
    after = limits.backoff(fruitless)
    return (
        replace(
            state,
            attempt=state.attempt + 1,
            fruitless=fruitless,
            not_before=seen.time + after,
            straggling=None,
            tries=0,
            unseen=0,
            sentence=f"{why}; again in {after:g} s",
        ),
        verbs,
    )


def _straggle(state: State, seen: Seen, patience_s: float) -> Next:
    """Some processes have ended, or run an old attempt: the rest cannot go on."""
    since = seen.time if state.straggling is None else state.straggling
    state = replace(state, straggling=since, sentence="waiting for the rest to end")
    return state, ("kill",) if seen.time - since >= patience_s else ()


def _stop(state: State, seen: Seen, limits: Limits) -> Next:
    since = seen.time if state.stopping is None else state.stopping
    told = replace(state, stopping=since, sentence="stopping")
    if seen.resource == "leaving":
        return told, ()
    if seen.resource != "active":
        verbs: tuple[Verb, ...] = () if seen.resource == "absent" else ("delete",)
        return _end(told, PREEMPTED, "stopped", verbs)
    if len(seen.workers) < seen.expected:
        return _unseen(told, seen, limits, "not all workers answer")
    if any(worker.state == "running" for worker in seen.workers):
        if state.stopping is None:
            return told, ("stop",)
        return told, ("kill",) if seen.time - since >= limits.grace_s else ()
    done = all(worker.code == DONE for worker in seen.workers)
    return _end(told, DONE if done else PREEMPTED, "done" if done else "stopped")


def _unseen(state: State, seen: Seen, limits: Limits, what: str) -> Next:
    unseen = state.unseen + 1
    told = f"{what}{': ' + seen.reason if seen.reason else ''}"
    if unseen >= limits.unseen:
        # It may be our connection that is broken, so nothing is deleted.
        return _end(state, FAULT, f"{told}; gave up looking, and left all as it is", ())
    return replace(state, unseen=unseen, sentence=told), ()


def _end(
    state: State, code: int, sentence: str, verbs: tuple[Verb, ...] = ("delete",)
) -> Next:
    return replace(state, phase="ended", code=code, sentence=sentence), verbs
