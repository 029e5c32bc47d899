"""What is to be run and where, checked when it is made."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from neurofm.errors import NeuroFMError
from neurofm.parallel.accelerators import Accelerator, accelerator

# A node of a multi-slice request is `NAME-I`, and the longest name a VM may have is 63.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,53}[a-z0-9])?")
PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]")
ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+-[a-z]")
ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROVISIONING = ("spot", "reserved", "on-demand")


@dataclass(frozen=True, kw_only=True)
class Local:
    """Processes on this machine; the first listens on `port` for the others."""

    processes: int = 1
    port: int = 8476

    def __post_init__(self):
        if self.processes < 1:
            raise NeuroFMError(f"local:{self.processes}: give local:1 or more")
        if not 0 < self.port < 65536:
            raise NeuroFMError(f"port {self.port}: give a number from 1 to 65535")

    @property
    def workers(self) -> int:
        return self.processes


@dataclass(frozen=True, kw_only=True)
class TpuVM:
    """TPU VMs from a queued resource, one process a host.

    Attributes:
      slices: how many slices of this accelerator; above one they form a multi-slice.
      provisioning: `spot` may be taken away at any moment, `reserved` draws on a
        reservation, `on-demand` is neither.
      runtime: software version of the VMs; default that of the accelerator.
      internal_ips: no external addresses; ssh then needs a way into the network.
    """

    accelerator: str
    zone: str
    project: str
    slices: int = 1
    provisioning: Literal["spot", "reserved", "on-demand"] = "spot"
    runtime: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None
    internal_ips: bool = False

    def __post_init__(self):
        slice_ = accelerator(self.accelerator)
        if slice_.info.runtime is None:
            raise NeuroFMError(
                f"{self.accelerator}: the TPU API has no {slice_.kind}, which runs on "
                "GKE: use `neurofm launch render --to jobset`"
            )
        if not slice_.is_default and slice_.kind != "v4":
            usual = slice_.info.topologies[slice_.chips]
            raise NeuroFMError(
                f"{self.accelerator}: the TPU API gives {slice_.chips} {slice_.kind} "
                f"chips as {'x'.join(map(str, usual))} only: give {slice_.cloud_name}"
            )
        if not ZONE.fullmatch(self.zone):
            raise NeuroFMError(
                f"--zone {self.zone!r} is not a zone: give one such as europe-west4-b"
            )
        if not PROJECT.fullmatch(self.project):
            raise NeuroFMError(
                f"--project {self.project!r} is not a project id (6 to 30 lower-case "
                "letters, digits and hyphens): `gcloud projects list` shows yours"
            )
        if self.slices < 1:
            raise NeuroFMError(f"--slices {self.slices}: give 1 or more")
        if self.provisioning not in PROVISIONING:
            raise NeuroFMError(
                f"provisioning {self.provisioning!r}: give {', '.join(PROVISIONING)}"
            )

    @property
    def slice(self) -> Accelerator:
        return accelerator(self.accelerator)

    @property
    def workers(self) -> int:
        return self.slice.hosts * self.slices


@dataclass(frozen=True, kw_only=True)
class Gke:
    """Pods of a JobSet on GKE, one a host of a slice; `image` holds the code."""

    accelerator: str
    image: str
    slices: int = 1
    spot: bool = True
    restarts: int = 50

    @property
    def slice(self) -> Accelerator:
        return accelerator(self.accelerator)

    @property
    def workers(self) -> int:
        return self.slice.hosts * self.slices


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """One process a node, with all GPUs of the node."""

    nodes: int = 1
    gpus_per_node: int = 1
    time: str = "24:00:00"
    partition: str | None = None
    port: int = 8476

    def __post_init__(self):
        if self.nodes < 1 or self.gpus_per_node < 1:
            raise NeuroFMError(
                f"{self.nodes} nodes with {self.gpus_per_node} GPUs each: give 1 or "
                "more of both"
            )
        if not re.fullmatch(r"(\d+-)?\d+(:\d\d){0,2}", self.time):
            raise NeuroFMError(
                f"--time {self.time!r} is not a time of SLURM: give one such as "
                "24:00:00 or 3-00:00:00"
            )

    @property
    def workers(self) -> int:
        return self.nodes


Where = Local | TpuVM | Gke | Slurm
KINDS = {"local": Local, "tpu_vm": TpuVM, "gke": Gke, "slurm": Slurm}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A named command, where it runs, and what it needs from the environment.

    Attributes:
      name: the same for the cloud resources, the folder on the workers and the record
        kept here, by which the job is found again.
      command: program and arguments, which arrive on every worker byte for byte.
      env: names of variables whose values are handed over from the environment of
        whoever starts the job; values are neither kept nor shown.
    """

    name: str
    where: Where
    command: tuple[str, ...]
    env: tuple[str, ...] = field(default=())

    def __post_init__(self):
        if not NAME.fullmatch(self.name):
            raise NeuroFMError(
                f"{self.name!r} cannot name a job: give a lower-case letter, then up "
                "to 54 lower-case letters, digits and hyphens, no hyphen at the end"
            )
        if not self.command:
            raise NeuroFMError("there is no command: give it after `--`")
        if any("\0" in word for word in self.command):
            raise NeuroFMError("a NUL byte cannot be part of a command: leave it out")
        for name in self.env:
            if not ENV.fullmatch(name):
                raise NeuroFMError(
                    f"--env {name!r} is not the name of a variable: give the name "
                    "alone; its value is taken from your environment"
                )
        folder = self.workdir
        if isinstance(self.where, TpuVM) and folder and not folder.startswith("gs://"):
            raise NeuroFMError(
                f"--workdir {folder} is on the disk of a TPU VM, which is gone after a "
                "preemption: give a bucket, --workdir gs://BUCKET/FOLDER"
            )

    @property
    def workdir(self) -> str | None:
        """What `--workdir` of a neurofm command says."""
        words = list(self.command)
        if words[0].rpartition("/")[2] == "neurofm":
            for word, after in zip(words, [*words[1:], None], strict=True):
                if word.startswith("--workdir="):
                    return word.partition("=")[2]
                if word == "--workdir":
                    return after
        return None

    @property
    def workers(self) -> int:
        """How many processes the job has."""
        return self.where.workers

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the TPU nodes, one a slice; none elsewhere."""
        if not isinstance(self.where, TpuVM):
            return ()
        if self.where.slices == 1:
            return (self.name,)
        return tuple(f"{self.name}-{i}" for i in range(self.where.slices))

    def to_json(self) -> dict[str, Any]:
        kind = next(k for k, made in KINDS.items() if isinstance(self.where, made))
        return {**asdict(self), "where": {"kind": kind, **asdict(self.where)}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Job":
        where = dict(value["where"])
        made = KINDS[where.pop("kind")](**where)
        return cls(
            name=value["name"],
            where=made,
            command=tuple(value["command"]),
            env=tuple(value["env"]),
        )
