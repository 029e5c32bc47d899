"""Plans for processes on this machine, run by the very script that TPU VMs use."""

from neurofm.launch.actions import Action, Run
from neurofm.launch.code import scripts
from neurofm.launch.job import Job, Local


def _call(folder: str, i: int, why: str, *words: str) -> Run:
    home = f"NEUROFM_LAUNCH_HOME={folder}/worker-{i}"
    script = str(scripts() / "run_worker.sh")
    return Run(why, ("env", home, "bash", script, *words))


def _each(job: Job, folder: str, why: str, *words: str) -> list[Action]:
    verb, *rest = words
    return [_call(folder, i, why, verb, job.name, *rest) for i in range(job.workers)]


def command(job: Job, process: int) -> tuple[str, ...]:
    """The command of one process; of several, each is told who it is by its options."""
    assert isinstance(job.where, Local)
    if job.where.processes == 1:
        return job.command
    return (
        *job.command,
        f"--coordinator=127.0.0.1:{job.where.port}",
        f"--num-processes={job.where.processes}",
        f"--process-id={process}",
    )


def start(job: Job, attempt: int, folder: str, cwd: str) -> list[Action]:
    """Start every process in the folder `cwd`, whatever folder this is asked from."""
    actions: list[Action] = []
    for i in range(job.workers):
        why = f"start attempt {attempt} of process {i}"
        words = "start", job.name, str(attempt), "-", *command(job, i)
        _, *rest = _call(folder, i, why, *words).argv
        actions.append(Run(why, ("env", f"--chdir={cwd}", *rest)))
    return actions


def status(job: Job, folder: str) -> list[Action]:
    return _each(job, folder, "ask every process", "status")


def logs(job: Job, folder: str, lines: int, worker: int) -> list[Action]:
    why = f"the end of process {worker}'s log"
    return [_call(folder, worker, why, "logs", job.name, str(lines))]


def stop(job: Job, folder: str) -> list[Action]:
    why = "SIGTERM: all save the same step and exit 42"
    return _each(job, folder, why, "stop")


def kill(job: Job, folder: str) -> list[Action]:
    return _each(job, folder, "SIGKILL to what hangs", "kill")


def plan(job: Job, folder: str, cwd: str) -> list[Action]:
    """All that a launch does, in order."""
    return [*start(job, 1, folder, cwd), *status(job, folder)]
