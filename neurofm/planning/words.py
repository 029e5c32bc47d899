"""A plan in words and as JSON."""

from typing import Any

from neurofm.parallel.gpus import Gpus
from neurofm.planning.memory import GIB, Memory
from neurofm.planning.plan import Plan
from neurofm.run.clock import duration

NAMES = {"params": "parameters", "slow": "slow copies", "opt": "optimizer"}


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values; the memory is that of a chip, which may hold two devices."""
    found: dict[str, Any] = {
        "fits": plan.memory.fits,
        "on": str(plan.on),
        "slices": plan.slices,
        "chips": plan.chips,
        "mesh": plan.mesh,
        "batch_size": plan.exp.train.batch_size,
        "hbm_gib_per_chip": _gib(plan, plan.memory.needs),
        "hbm_gib_limit": _gib(plan, plan.memory.limit),
        "hbm_compiled": plan.memory.compiled,
        "held_gib": {k: _gib(plan, v) for k, v in plan.memory.held.items()},
        "temporaries_gib": _gib(plan, plan.memory.temporaries),
        "largest_batch_estimate": plan.largest_batch,
        "flops_per_step": plan.flops,
        "steps_by_width": plan.widths,
        "bytes_sent_per_step": plan.moved,
        "least_bytes_sent_per_step": plan.least,
        "mfu_assumed": plan.mfu,
        "step_s": plan.step_s,
        "examples_per_s": plan.examples_per_s,
        "hours_of_signal_per_s": plan.hours_per_s,
        "steps": plan.exp.train.steps,
        "days": plan.hours / 24,
        "chip_hours": plan.hours * plan.chips,
        "checkpoint_gib": plan.checkpoint_bytes / GIB,
        "disk_gib": plan.disk_bytes / GIB,
        "compile_s": plan.verdict.compile_s if plan.verdict else None,
    }
    if not plan.memory.fits:
        found["largest_arrays"] = list(plan.verdict.largest) if plan.verdict else []
        found["change"] = list(plan.change)
        found["change_fits"] = plan.changed.fits if plan.changed else None
        found["change_hbm_gib_per_chip"] = (
            _gib(plan, plan.changed.needs) if plan.changed else None
        )
    return found


def as_rows(plan: Plan) -> dict[str, str]:
    """Two columns for a person."""
    exp, memory = plan.exp, plan.memory
    axes = " x ".join(f"{axis} {n}" for axis, n in plan.mesh.items() if n > 1)
    parts = ", ".join(
        f"{NAMES.get(name, name)} {_gib(plan, n):.2f}"
        for name, n in memory.held.items()
        if n
    )
    how = "as compiled" if memory.compiled else "estimated, nothing was compiled"
    slices = f"{plan.slices} slices of " if plan.slices > 1 else ""
    rows = {
        "on": f"{slices}{plan.on} ({plan.chips} chips), mesh {axes or 'of one device'}",
        "fits": f"{'yes' if memory.fits else 'NO'}, {_need(plan, memory)} ({how})",
        "held": f"{parts} GiB a chip",
        "temporaries": f"{_gib(plan, memory.temporaries):.2f} GiB a chip",
        "batch": f"{exp.train.batch_size} items, at most about {plan.largest_batch} "
        "(estimated)",
    }
    if plan.widths:
        told = ", ".join(f"{w} ({share:.0%})" for w, share in plan.widths.items())
        rows["steps"] = f"of {told} sensors: memory of the widest, the mean of all else"
    for axis in sorted({*plan.moved, *plan.least}):
        moved = f"{plan.moved.get(axis, 0) / GIB:.3f} GiB a step, " * bool(plan.verdict)
        least = plan.least.get(axis)
        rows[f"over {axis}"] = moved + (
            "no least is known" if least is None else f"{least / GIB:.3f} at the least"
        )
    rows |= {
        "operations": f"{plan.flops:.3g} FLOP a step (analytic)",
        "step": f"{plan.step_s:.3g} s at {plan.mfu:.0%} of the peak (assumed)",
        "rate": f"{plan.examples_per_s:.4g} items/s, "
        f"{plan.hours_per_s:.3g} hours of signal a second",
        "to the end": f"{duration(plan.hours * 3600)} for {exp.train.steps:,} steps, "
        f"{plan.hours * plan.chips:,.0f} chip-hours",
        "disk": f"{plan.disk_bytes / GIB:.2f} GiB for {exp.train.keep} checkpoints and "
        "the one being written",
    }
    if plan.verdict:
        rows["compiled in"] = duration(plan.verdict.compile_s)
    if not memory.fits:
        for number, array in enumerate(plan.verdict.largest if plan.verdict else (), 1):
            rows[f"largest array {number}"] = array
        rows["to make it fit"] = _advice(plan)
    return rows


def _advice(plan: Plan) -> str:
    if plan.changed is None:
        more = "more or larger chips"
        return f"no change of these settings is enough: give it {more}"
    told = " ".join(plan.change)
    if plan.changed.fits:
        return f"{told} ({_need(plan, plan.changed)})"
    return f"{told} is still too much ({_need(plan, plan.changed)}): give it more chips"


def _need(plan: Plan, memory: Memory) -> str:
    needs, limit = _gib(plan, memory.needs), _gib(plan, memory.limit)
    return f"{needs:.2f} of {limit:.2f} GiB a chip"


def _gib(plan: Plan, per_device: int) -> float:
    devices = 1 if isinstance(plan.on, Gpus) else plan.on.info.devices_per_chip
    return per_device * devices / GIB
