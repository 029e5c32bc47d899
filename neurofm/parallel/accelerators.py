"""Cloud TPU types: how slices are named, how large they are and what they can do.

Sources, all public pages of Google Cloud: cores, HBM, peak bfloat16 rate and bandwidths
from the pages of each type (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, tpu7x),
software versions from .../tpu/docs/runtimes, machine types and node labels from
.../kubernetes-engine/docs/concepts/plan-tpus. Interconnect bandwidth is the
bidirectional sum over all links of a chip; network bandwidth is what a chip has on
average of the data-centre network (v5e: that of the pod over its 256 chips). A value
that no page gives is None.
"""

import difflib
import math
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from neurofm.errors import NeuroFMError

Topology = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One generation of TPU; rates and sizes are per chip.

    Attributes:
      cloud_prefix: what stands before the number in the Cloud's name of a slice.
      counts: what that number counts.
      runtime: software version of the VMs; None where the TPU API has no such type.
      device_kind: what jax calls a device, where we know it.
      devices_per_chip: devices that jax shows (two for chips made of two chiplets).
      topology_options: what `jax.experimental.topologies` needs beside the name.
    """

    name: str
    cloud_prefix: str
    counts: str  # "chips" or "cores"
    cores_per_chip: int
    devices_per_chip: int = 1
    max_chips: int
    hbm_gib: float
    hbm_bytes_per_s: float
    bf16_flops: float
    ici_bytes_per_s: float | None
    dcn_bytes_per_s: float | None
    runtime: str | None
    gke_accelerator: str
    gke_machine: str
    chip_config: str | None = None
    device_kind: str | None = None

    @cached_property
    def topologies(self) -> dict[int, Topology]:
        """The default topology of every number of chips that can be had."""
        if self.name in ("v5e", "v6e"):
            shapes = [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
            return {math.prod(shape): shape for shape in shapes}
        found: dict[int, Topology] = {}
        for shape in sorted(self.shapes_3d(), key=sum, reverse=True):
            found[math.prod(shape)] = shape  # the last one is nearest to a cube
        return dict(sorted(found.items()))

    def shapes_3d(self) -> list[Topology]:
        """A <= B <= C, below a cube of 4 or in whole cubes; one host is 2x2x1."""
        small = [(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
        sides = range(4, self.max_chips // 16 + 1, 4)
        cubes = [
            (a, b, c)
            for a, b in product(sides, repeat=2)
            if a <= b and a * b * b <= self.max_chips
            for c in range(b, self.max_chips // (a * b) + 1, 4)
        ]
        return small + cubes


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="v4",
            device_kind="TPU v4",
            cloud_prefix="v4",
            counts="cores",
            cores_per_chip=2,
            max_chips=4096,
            hbm_gib=32,
            hbm_bytes_per_s=1200e9,
            bf16_flops=275e12,
            ici_bytes_per_s=None,
            dcn_bytes_per_s=None,
            runtime="tpu-ubuntu2204-base",
            gke_accelerator="tpu-v4-podslice",
            gke_machine="ct4p-hightpu",
            chip_config="megacore",
        ),
        Kind(
            name="v5e",
            device_kind="TPU v5 lite",
            cloud_prefix="v5litepod",
            counts="chips",
            cores_per_chip=1,
            max_chips=256,
            hbm_gib=16,
            hbm_bytes_per_s=819e9,
            bf16_flops=197e12,
            ici_bytes_per_s=400e9,
            dcn_bytes_per_s=6.4e12 / 8 / 256,
            runtime="v2-alpha-tpuv5-lite",
            gke_accelerator="tpu-v5-lite-podslice",
            gke_machine="ct5lp-hightpu",
        ),
        Kind(
            name="v5p",
            device_kind="TPU v5",
            cloud_prefix="v5p",
            counts="cores",
            cores_per_chip=2,
            max_chips=6144,
            hbm_gib=95,
            hbm_bytes_per_s=2765e9,
            bf16_flops=459e12,
            ici_bytes_per_s=1200e9,
            dcn_bytes_per_s=50e9 / 8,
            runtime="v2-alpha-tpuv5",
            gke_accelerator="tpu-v5p-slice",
            gke_machine="ct5p-hightpu",
        ),
        Kind(
            name="v6e",
            device_kind="TPU v6 lite",
            cloud_prefix="v6e",
            counts="chips",
            cores_per_chip=1,
            max_chips=256,
            hbm_gib=32,
            hbm_bytes_per_s=1638e9,
            bf16_flops=918e12,
            ici_bytes_per_s=800e9,
            dcn_bytes_per_s=100e9 / 8,
            runtime="v2-alpha-tpuv6e",
            gke_accelerator="tpu-v6e-slice",
            gke_machine="ct6e-standard",
        ),
        Kind(
            name="tpu7x",
            cloud_prefix="tpu7x",
            counts="cores",
            cores_per_chip=2,
            devices_per_chip=2,
            max_chips=9216,
            hbm_gib=192,
            hbm_bytes_per_s=7380e9,
            bf16_flops=2307e12,
            ici_bytes_per_s=1200e9,
            dcn_bytes_per_s=100e9 / 8,
            runtime=None,
            gke_accelerator="tpu7x",
            gke_machine="tpu7x-standard",
        ),
    )
}


@dataclass(frozen=True)
class Accelerator:
    """A slice of one kind of TPU; every rate and size is per chip.

    Attributes:
      kind: `v4`, `v5e`, `v5p`, `v6e` or `tpu7x`.
      topology: chips along each axis, two axes for v5e and v6e and three for the rest.
    """

    kind: str
    topology: Topology

    @property
    def info(self) -> Kind:
        return KINDS[self.kind]

    @property
    def chips(self) -> int:
        return math.prod(self.topology)

    @property
    def chips_per_host(self) -> int:
        """8 on a v5e or v6e slice of 8, which is one VM; else at most 4."""
        return 8 if self._one_vm_of_eight else min(self.chips, 4)

    @property
    def _one_vm_of_eight(self) -> bool:
        return self.topology == (2, 4)

    @property
    def hosts(self) -> int:
        """How many VMs, each of which runs one process."""
        return self.chips // self.chips_per_host

    @property
    def devices(self) -> int:
        """How many devices jax shows over all hosts."""
        return self.chips * self.info.devices_per_chip

    @property
    def hbm_gib(self) -> float:
        return self.info.hbm_gib

    @property
    def bf16_flops(self) -> float:
        """Peak bfloat16 FLOP/s."""
        return self.info.bf16_flops

    @property
    def topology_text(self) -> str:
        return "x".join(map(str, self.topology))

    @property
    def is_default(self) -> bool:
        """Whether the Cloud's name alone means this topology."""
        return self.info.topologies.get(self.chips) == self.topology

    @property
    def cloud_name(self) -> str:
        """The Cloud's name of a slice of this size, such as `v5litepod-16`."""
        number = self.chips * (
            self.info.cores_per_chip if self.info.counts == "cores" else 1
        )
        return f"{self.info.cloud_prefix}-{number}"

    @property
    def gke_machine(self) -> str:
        return f"{self.info.gke_machine}-{self.chips_per_host}t"

    @property
    def topology_name(self) -> str:
        """What `jax.experimental.topologies.get_topology_desc` calls it."""
        return f"{self.kind}:{self.topology_text}"

    @property
    def topology_options(self) -> dict[str, Any]:
        """Further arguments of `get_topology_desc`, so that hosts and chips are right.

        Tried with libtpu 0.0.52: v4 counts cores without the first, and VMs of one or
        eight chips need the second.
        """
        options: dict[str, Any] = {}
        if self.info.chip_config:
            options["chip_config_name"] = self.info.chip_config
        if self.chips == 1 or self._one_vm_of_eight:
            options["chips_per_host_bounds"] = (*self.topology, 1)
        return options

    def __str__(self) -> str:
        return self.topology_name


def markdown() -> str:
    """The table of types as a page shows it."""
    rows = [
        "| type | Cloud name | chips a host | HBM a chip | bfloat16 peak a chip | "
        "largest slice | software version | GKE node label |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS.values():
        largest = Accelerator(kind.name, kind.topologies[max(kind.topologies)])
        flat = len(largest.topology) == 2
        rows.append(
            f"| {kind.name} | `{kind.cloud_prefix}-N`, N {kind.counts} | "
            f"{'1, 4 or 8' if flat else 4} | {kind.hbm_gib:g} GiB | "
            f"{kind.bf16_flops / 1e12:g} TFLOP/s | {largest.topology_text} "
            f"({largest.chips} chips) | {f'`{kind.runtime}`' if kind.runtime else '-'} "
            f"| `{kind.gke_accelerator}` |"
        )
    return "\n".join(rows)


def accelerator(name: str) -> Accelerator:
    """The slice that `v5e:4x4` or the Cloud's `v5litepod-16` names.

    Raises:
      NeuroFMError: no such type, or no slice of this size, with the nearest ones.
    """
    if match := re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)+)", name):
        return _by_topology(name, *match.groups())
    if match := re.fullmatch(r"([a-z0-9]+)-(\d+)", name):
        return _by_cloud_name(name, match[1], int(match[2]))
    raise NeuroFMError(
        f"{name!r} is not a TPU slice: give type and topology, such as v5e:4x4, or the "
        "Cloud's name, such as v5litepod-16"
    )


def _by_topology(name: str, kind: str, text: str) -> Accelerator:
    if kind not in KINDS:
        raise _unknown(name, kind, list(KINDS))
    shape = tuple(map(int, text.split("x")))
    info = KINDS[kind]
    flat = len(next(iter(info.topologies.values()))) == 2
    known = list(info.topologies.values()) if flat else info.shapes_3d()
    if shape not in known:
        axes = 2 if flat else 3
        if len(shape) != axes:
            hint = f"a topology of {axes} numbers"
        else:
            near = sorted(known, key=lambda s: abs(math.prod(s) - math.prod(shape)))
            hint = " or ".join("x".join(map(str, s)) for s in near[:2])
        raise NeuroFMError(f"there is no {kind} slice of topology {text}: give {hint}")
    return Accelerator(kind, shape)


def _by_cloud_name(name: str, prefix: str, number: int) -> Accelerator:
    info = next((k for k in KINDS.values() if k.cloud_prefix == prefix), None)
    if info is None:
        raise _unknown(name, prefix, [k.cloud_prefix for k in KINDS.values()])
    unit = info.cores_per_chip if info.counts == "cores" else 1
    chips, rest = divmod(number, unit)
    if rest or chips not in info.topologies:
        below = [n for n in info.topologies if n * unit < number][-1:]
        above = [n for n in info.topologies if n * unit > number][:1]
        raise NeuroFMError(
            f"there is no slice {name} ({prefix} counts {info.counts}): give "
            + " or ".join(f"{prefix}-{n * unit}" for n in below + above)
        )
    return Accelerator(info.name, info.topologies[chips])


def _unknown(name: str, kind: str, known: list[str]) -> NeuroFMError:
    near = difflib.get_close_matches(kind, known, n=1) or known
    return NeuroFMError(
        f"{name!r}: there is no TPU type {kind!r}: give {' or '.join(near)}"
    )
