"""GPUs that a run can be planned for: memory and peak rate, from the data sheets.

Peaks are dense bfloat16 on tensor cores, the SXM form where there are several.
"""

import re
from dataclasses import dataclass

from neurofm.errors import NeuroFMError


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """`chips` GPUs of one kind; size and rate are per GPU."""

    kind: str
    chips: int
    hbm_gib: float
    bf16_flops: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.chips}"


# name -> memory in GiB, peak FLOP/s, and what jax calls the device where we know it
KINDS = {
    "a100-40": (40, 312e12, "NVIDIA A100-SXM4-40GB"),
    "a100-80": (80, 312e12, "NVIDIA A100-SXM4-80GB"),
    "h100": (80, 989e12, "NVIDIA H100 80GB HBM3"),
    "h200": (141, 989e12, "NVIDIA H200"),
    "l4": (24, 121e12, None),
}


def gpus(name: str) -> Gpus | None:
    """What `h100:8` or `h100` names; None where it begins with no GPU's name.

    Raises:
      NeuroFMError: a GPU's name followed by something that is no number of them.
    """
    kind, colon, count = name.lower().partition(":")
    if kind not in KINDS:
        return None
    if colon and not re.fullmatch(r"[1-9]\d*", count):
        raise NeuroFMError(f"{name!r} does not say how many: give {kind}:8, say")
    hbm_gib, bf16_flops, _ = KINDS[kind]
    return Gpus(
        kind=kind, chips=int(count or 1), hbm_gib=hbm_gib, bf16_flops=bf16_flops
    )
