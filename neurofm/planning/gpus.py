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


KINDS = {
    "a100-40": (40, 312e12),
    "a100-80": (80, 312e12),
    "h100": (80, 989e12),
    "h200": (141, 989e12),
    "l4": (24, 121e12),
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
    hbm_gib, bf16_flops = KINDS[kind]
    return Gpus(
        kind=kind, chips=int(count or 1), hbm_gib=hbm_gib, bf16_flops=bf16_flops
    )
