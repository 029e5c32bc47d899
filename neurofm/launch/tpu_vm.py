"""Plans for TPU VMs: each function gives the gcloud commands for one purpose.

Commands and flags are those of `gcloud compute tpus` (528.0.0). What runs on a worker
is one shell word for ssh, so it is quoted here once and arrives unchanged.
"""

import shlex
from typing import Any

from neurofm.launch.actions import Action, Pack, Run, Wait
from neurofm.launch.code import INSIDE
from neurofm.launch.job import Job, TpuVM
from neurofm.launch.machine import Resource

HOME = "neurofm-launch"  # below the home folder of a worker
LABEL, OWNER = "neurofm-job", "neurofm-owner"
TPUS = ("gcloud", "compute", "tpus")

STATES: dict[str, Resource] = {
    "CREATING": "waiting",
    "ACCEPTED": "waiting",
    "WAITING_FOR_RESOURCES": "waiting",
    "PROVISIONING": "waiting",
    "ACTIVE": "active",
    "SUSPENDING": "leaving",
    "DELETING": "leaving",
    "SUSPENDED": "suspended",
    "FAILED": "failed",
}
TAKEN = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING")


def _where(job: Job) -> TpuVM:
    assert isinstance(job.where, TpuVM)
    return job.where


def _place(job: Job) -> tuple[str, ...]:
    where = _where(job)
    return f"--zone={where.zone}", f"--project={where.project}"


# ---- the resource --------------------------------------------------------------------


def create(job: Job, owner: str) -> list[Action]:
    """Ask for the slices, marked as ours."""
    where = _where(job)
    slice_ = where.slice
    flags = [*_place(job)]
    if slice_.is_default:
        flags.append(f"--accelerator-type={slice_.cloud_name}")
    else:
        flags += [f"--type={slice_.kind}", f"--topology={slice_.topology_text}"]
    flags.append(f"--runtime-version={where.runtime or slice_.info.runtime}")
    if where.slices == 1:
        flags.append(f"--node-id={job.name}")
    else:
        flags += [f"--node-count={where.slices}", f"--node-prefix={job.name}"]
    flags.append(f"--labels={LABEL}={job.name},{OWNER}={owner}")
    flags += {"spot": ["--spot"], "reserved": ["--reserved"]}.get(
        where.provisioning, []
    )
    for name in ("network", "subnetwork", "service_account"):
        if value := getattr(where, name):
            flags.append(f"--{name.replace('_', '-')}={value}")
    if where.internal_ips:
        flags.append("--internal-ips")
    chips = slice_.chips * where.slices
    why = f"ask for {chips} {slice_.kind} chips ({where.provisioning}) in {where.zone}"
    argv = (*TPUS, "queued-resources", "create", job.name, *flags, "--async")
    return [Run(why, (*argv, "--quiet"))]


def describe(job: Job) -> Run:
    argv = (*TPUS, "queued-resources", "describe", job.name, *_place(job))
    return Run("look at the request", (*argv, "--format=json"))


def nodes(job: Job) -> Run:
    label = f"--filter=labels.{LABEL}={job.name}"
    argv = (*TPUS, "tpu-vm", "list", *_place(job), label, "--format=json")
    return Run("look at its nodes", argv)


def delete(job: Job) -> list[Action]:
    """Give the slices back. Only for a resource that `owned` has told to be ours."""
    argv = (*TPUS, "queued-resources", "delete", job.name, *_place(job))
    why = "give the chips back, with their nodes"
    return [Run(why, (*argv, "--force", "--async", "--quiet"))]


# ---- its workers ---------------------------------------------------------------------


def _ssh(job: Job, why: str, command: str, worker: str = "all") -> list[Action]:
    return [
        Run(
            why + (f" ({node})" if len(job.nodes) > 1 else ""),
            (
                *TPUS,
                "tpu-vm",
                "ssh",
                node,
                *_place(job),
                f"--worker={worker}",
                f"--command={command}",
                "--quiet",
            ),
        )
        for node in job.nodes
    ]


def _scp(job: Job, why: str, source: str, target: str) -> list[Action]:
    return [
        Run(
            why + (f" ({node})" if len(job.nodes) > 1 else ""),
            (
                *TPUS,
                "tpu-vm",
                "scp",
                source,
                f"{node}:{target}",
                *_place(job),
                "--worker=all",
                "--quiet",
            ),
        )
        for node in job.nodes
    ]


def pack(root: str, sha256: str, folder: str) -> Pack:
    """Keep the code as it is now: every start of the job uses this archive."""
    out = f"{folder}/neurofm-launch-{sha256}.tar"
    return Pack("pack the code, named by its hash", root, out)


def sync(job: Job, sha256: str, folder: str) -> list[Action]:
    """Bring the code to every worker and install it; what is there stays."""
    name = f"neurofm-launch-{sha256}.tar"
    script = f"{INSIDE}/setup_vm.sh"
    setup = f"tar -xf {name} {script} && bash {script} {sha256}"
    return [
        *_scp(job, "copy the code to every worker", f"{folder}/{name}", name),
        *_ssh(job, "unpack and install it there", setup),
    ]


def start(job: Job, attempt: int, sha256: str, folder: str) -> list[Action]:
    """Start the command on every worker, apart from this connection; once."""
    actions: list[Action] = []
    if job.env:
        file = f"{folder}/env"
        # The values stay in the file: they are in no command line and in no log.
        write = 'umask 077; declare -px "${@:2}" > "$1"'
        argv = ("bash", "-c", write, "env", file, *job.env)
        actions.append(Run("write the variables it needs, for you alone", argv))
        make = f"mkdir -p -m 700 {HOME}/{job.name}"
        actions += _ssh(job, "make the job's folder on the workers", make)
        target = f"{HOME}/{job.name}/env"
        actions += _scp(job, "hand the variables over", file, target)
        actions.append(Run("and forget them here", ("rm", "-f", file)))
    words = ["start", job.name, str(attempt), sha256, *job.command]
    script = f"{HOME}/{sha256}/{INSIDE}/run_worker.sh"
    why = f"start attempt {attempt} on every worker"
    return actions + _ssh(job, why, shlex.join(["bash", script, *words]))


def _on_worker(*words: str, otherwise: str = "true") -> str:
    """A call of the worker script of whatever code is there; harmless without any."""
    return (
        f"for s in {HOME}/*/{INSIDE}/run_worker.sh; do "
        f'test -f "$s" && exec bash "$s" {shlex.join(words)}; done; {otherwise}'
    )


def status(job: Job) -> list[Action]:
    absent = (
        'echo "neurofm-worker host=$(hostname) state=absent attempt=0 tree=- code=-"'
    )
    command = _on_worker("status", job.name, otherwise=absent)
    return _ssh(job, "ask every worker", command)


def logs(job: Job, lines: int, worker: int) -> list[Action]:
    command = _on_worker("logs", job.name, str(lines))
    return _ssh(job, f"the end of worker {worker}'s log", command, str(worker))


def stop(job: Job) -> list[Action]:
    why = "SIGTERM to every worker: all save the same step and exit 42"
    return _ssh(job, why, _on_worker("stop", job.name))


def kill(job: Job) -> list[Action]:
    return _ssh(job, "SIGKILL to what hangs", _on_worker("kill", job.name))


def plan(job: Job, owner: str, root: str, sha256: str, folder: str) -> list[Action]:
    """All that a first launch does, in order."""
    look = describe(job).argv[:-1]
    return [
        pack(root, sha256, folder),
        *create(job, owner),
        Wait("wait for it", 30, (*look, "--format=value(state.state)"), "ACTIVE"),
        *sync(job, sha256, folder),
        *start(job, 1, sha256, folder),
        *status(job),
    ]


# ---- what gcloud tells ---------------------------------------------------------------


def resource(told: dict[str, Any]) -> tuple[Resource, str]:
    """The state of a described queued resource, and the reason of a failure."""
    state = told.get("state", {})
    reason = state.get("failedData", {}).get("error", {}).get("message", "")
    return STATES.get(state.get("state", ""), "unknown"), reason


def owned(told: dict[str, Any], job: Job, owner: str) -> bool:
    """Whether a described queued resource carries the labels that `create` gave it."""
    specs = told.get("tpu", {}).get("nodeSpec", [])
    marks = [spec.get("node", {}).get("labels", {}) for spec in specs]
    ours = {LABEL: job.name, OWNER: owner}
    return bool(marks) and all(ours.items() <= found.items() for found in marks)


def taken(told: list[dict[str, Any]], job: Job) -> bool:
    """Whether a node of an active resource was preempted or is gone."""
    states = {node["name"].rpartition("/")[2]: node.get("state") for node in told}
    return any(states.get(name) in (*TAKEN, None) for name in job.nodes)
