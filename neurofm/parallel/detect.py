"""Whether a launcher started this process among others, told by its environment.

The decision is ours and pure, so that one host never waits for others that do not come;
addresses are then found by jax's own detection of the same name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from neurofm.errors import NeuroFMError

LAUNCHERS = {
    "ompi": "Open MPI",
    "slurm": "SLURM",
    "gketpu": "TPU hosts on GKE",
    "gcetpu": "the TPU slice",
    "k8s": "Kubernetes",
}


@dataclass(frozen=True)
class Group:
    """Who started this process, and what is known of the others before they meet.

    Attributes:
      by: a key of `LAUNCHERS`, jax's name of the detection; "alone" for one process.
      num_processes: how many there are; None where jax has to ask for it.
      gpus: of this process, numbers among those it sees; "all" of them; None leaves it
        to jax, which takes the one with the process's number on its host.
      note: what the user should know about the decision.
    """

    by: str
    num_processes: int | None = None
    gpus: tuple[int, ...] | Literal["all"] | None = None
    note: str = ""


ALONE = Group("alone", 1)


def detect(env: Mapping[str, str], tpu: bool, kubernetes: bool) -> Group:
    """The group this process belongs to; launchers in the order in which jax asks.

    Args:
      env: environment variables, after the import of jax, which sets
        `TPU_SKIP_MDS_QUERY` where it finds no TPU chip.
      tpu: whether jax may use TPUs here.
      kubernetes: whether the package `kubernetes`, which jax asks, is installed.

    Raises:
      NeuroFMError: there are others, but nothing says where they meet.
    """
    if (size := _int(env, "OMPI_COMM_WORLD_SIZE")) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in env:  # it went away with Open MPI 5
            raise _unknown_meeting_place("Open MPI", size)
        here = _int(env, "OMPI_COMM_WORLD_LOCAL_SIZE")
        me = _int(env, "OMPI_COMM_WORLD_LOCAL_RANK", 0)
        return Group("ompi", size, _gpus(env, here, me))
    in_step = {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"}
    tasks = _int(env, "SLURM_STEP_NUM_TASKS", _int(env, "SLURM_NTASKS"))
    if in_step <= env.keys() and tasks > 1:
        here = _tasks_here(env)
        return Group("slurm", tasks, _gpus(env, here, _int(env, "SLURM_LOCALID", 0)))
    if (size := _int(env, "PMI_SIZE")) > 1:
        raise _unknown_meeting_place("MPI", size)
    if tpu:
        hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
        if hosts:
            n = len(hosts.split(",")) * _int(env, "MEGASCALE_NUM_SLICES")
            return Group("gketpu", n) if n > 1 else ALONE
        if "TPU_SKIP_MDS_QUERY" not in env:
            return Group("gcetpu")
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys():
        if kubernetes:
            return Group("k8s")
        if _int(env, "JOB_COMPLETION_INDEX", 0) > 0:
            raise _unknown_meeting_place("an indexed Kubernetes job", None)
        return Group(
            "alone",
            1,
            note="in an indexed Kubernetes job, of whose other pods nothing is known "
            "without the package `kubernetes`: this process runs alone",
        )
    if _int(env, "SLURM_NTASKS") > 1 and not in_step <= env.keys():
        return Group(
            "alone",
            1,
            note=f"a SLURM job of {env['SLURM_NTASKS']} tasks, but this process was "
            "not started by srun: it runs alone",
        )
    return ALONE


def _int(env: Mapping[str, str], name: str, default: int = 1) -> int:
    text = env.get(name, "")
    return int(text) if text.isdigit() else default


def _tasks_here(env: Mapping[str, str]) -> int:
    """Tasks of a SLURM step on this node, from a list such as `4(x2),3`."""
    counts: list[int] = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        count, _, times = part.partition("(x")
        if count.isdigit():
            counts += [int(count)] * int(times.rstrip(")") or 1)
    node = _int(env, "SLURM_NODEID", 0)
    return counts[node] if node < len(counts) else 1


def _gpus(
    env: Mapping[str, str], here: int, me: int
) -> tuple[int, ...] | Literal["all"] | None:
    """The GPUs of process `me` of the `here` on this host, an equal share each.

    jax would take GPU number `me` alone: too few where a process has several, and one
    that does not exist where the launcher already shows each process its own.
    """
    if here == 1:
        return "all"
    visible = env.get("CUDA_VISIBLE_DEVICES")
    n = len(visible.split(",")) if visible else _int(env, "SLURM_GPUS_ON_NODE", 0)
    if n == 0:
        return None
    share = n // here if n >= here else n
    first = me * share if n >= here else 0
    return tuple(range(first, first + share))


def _unknown_meeting_place(what: str, size: int | None) -> NeuroFMError:
    number = "several" if size is None else f"{size}"
    return NeuroFMError(
        f"{what} started {number} processes, but nothing tells them where to meet: "
        "give each --coordinator HOST:PORT, --num-processes and --process-id, or "
        "--num-processes 1 to run alone"
    )
