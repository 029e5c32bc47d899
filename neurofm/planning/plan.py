"""Before asking for a chip: does it fit, how fast, how long, and what would mend it.

For a TPU the training step itself is compiled, with none attached, and memory and
traffic are those of the compiled program. Nothing is timed: the step time follows from
the analytic operations, the maker's peak and a share of it that is stated.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

import jax

from neurofm import config
from neurofm.config import Experiment
from neurofm.data import meeg
from neurofm.data.records import open_dataset
from neurofm.errors import NeuroFMError
from neurofm.model import abstract_batch
from neurofm.parallel.accelerators import Accelerator, accelerator
from neurofm.parallel.gpus import Gpus, gpus
from neurofm.planning.aot import Compiled, compile_step
from neurofm.planning.memory import (
    Memory,
    as_compiled,
    estimate,
    largest_batch,
    layout_of,
    mend,
)
from neurofm.planning.traffic import least_traffic
from neurofm.task import Task

SAFE = 0.95  # share of the memory that an estimate may fill


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would need and give.

    Attributes:
      on: the accelerator; `slices` of them joined by the data-centre network.
      exp: what was planned.
      mesh: size of every axis.
      memory: of one device.
      verdict: the compiler's; None for GPUs, where nothing is compiled.
      largest_batch: estimated, over all devices; 0 where not even the state fits.
      flops: analytic operations of a step, over all devices.
      moved: axes -> bytes one device sends in a step, as compiled.
      least: axes -> the same for the least that this layout of parameters needs.
      mfu: assumed share of the peak.
      step_s: seconds that a step then takes.
      widths: of sensors, and the share of steps that have each, where the data tells;
        memory is that of the widest, operations are the mean.
      change: the settings that make a misfit fit, as one types them; `changed` is the
        memory with them.
    """

    on: Accelerator | Gpus
    slices: int
    exp: Experiment
    mesh: dict[str, int]
    memory: Memory
    verdict: Compiled | None
    largest_batch: int
    flops: float
    moved: dict[str, int]
    least: dict[str, int]
    mfu: float
    step_s: float
    checkpoint_bytes: int
    widths: dict[int, float] = field(default_factory=dict)
    change: tuple[str, ...] = ()
    changed: Memory | None = None

    @property
    def chips(self) -> int:
        """Over all slices."""
        return self.on.chips * self.slices

    @property
    def examples_per_s(self) -> float:
        """Items a second, over all devices."""
        return self.exp.train.batch_size / self.step_s

    @property
    def hours_per_s(self) -> float:
        """Hours of signal a second."""
        contract = self.exp.task.batch_spec("train").contract
        return self.examples_per_s * contract.window_samples / contract.sfreq / 3600

    @property
    def disk_bytes(self) -> int:
        """All checkpoints that are kept, and the one being written."""
        return self.checkpoint_bytes * (self.exp.train.keep + 1)

    @property
    def hours(self) -> float:
        """Hours of steps to the config's end: no evaluation, saving or restarts."""
        return self.exp.train.steps * self.step_s / 3600


def plan(exp: Experiment, on: str, slices: int = 1, mfu: float = 0.4) -> Plan:
    """Plan `exp` on an accelerator; for a TPU this compiles once, for a misfit twice.

    Args:
      exp: a resolved experiment.
      on: `v5e:4x4`, `v5litepod-16`, `h100:8`, ...
      slices: how many of them, TPUs only.
      mfu: share of the peak that the step time assumes.

    Raises:
      NeuroFMError: an unknown accelerator, a mesh or batch that does not divide, a step
        that cannot be compiled for another reason than memory.
    """
    if not 0 < mfu <= 1:
        raise NeuroFMError(f"--mfu {mfu}: give a share above 0 and up to 1")
    target = gpus(on) or accelerator(on)
    platform = "gpu" if isinstance(target, Gpus) else "tpu"
    exp = replace(exp, task=exp.task.for_platform(platform))
    widths = steps_by_width(exp)
    if widths:
        exp = replace(exp, task=_of_width(exp, max(widths)))
    if isinstance(target, Gpus) and slices > 1:
        raise NeuroFMError(
            f"--slices {slices} is for TPUs: give {target.kind}:{target.chips * slices}"
        )
    per_chip = target.info.devices_per_chip if isinstance(target, Accelerator) else 1
    n_devices = target.chips * per_chip * slices
    layout = layout_of(exp, n_devices, slices)
    state, estimated = estimate(exp, layout, target.hbm_gib / per_chip)
    memory, verdict = estimated, None
    if isinstance(target, Accelerator):
        verdict = compile_step(exp, target, slices)
        memory = as_compiled(estimated, verdict)
    change: tuple[str, ...] = ()
    changed = None
    if not memory.fits:
        # What the estimate missed about the step as it stands, it will miss again.
        room = SAFE * memory.limit * estimated.needs / memory.needs
        change, changed = mend(exp, n_devices, slices, room, target.hbm_gib / per_chip)
        if change and isinstance(target, Accelerator):
            mended = config.override(exp, change).resolved()
            again = compile_step(mended, target, slices)
            assert changed is not None
            changed = as_compiled(changed, again)
    n = exp.train.batch_size
    flops = exp.task.flops(n)
    if widths:
        each = {w: _of_width(exp, w).flops(n) for w in widths}
        flops = sum(share * each[w] for w, share in widths.items())
    moved: Counter[str] = Counter()
    for transfer in verdict.collectives if verdict else ():
        # A loop whose rounds the program does not tell is counted as one round.
        moved["+".join(transfer.axes)] += round(transfer.sent * (transfer.trips or 1))
    return Plan(
        on=target,
        slices=slices,
        exp=exp,
        mesh=dict(layout.shape),
        memory=memory,
        verdict=verdict,
        largest_batch=largest_batch(exp, layout, memory),
        flops=flops,
        moved=dict(moved),
        least=least_traffic(state, layout),
        mfu=mfu,
        step_s=flops / (target.chips * slices * target.bf16_flops * mfu),
        widths=widths,
        checkpoint_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        change=change,
        changed=changed,
    )


def steps_by_width(exp: Experiment) -> dict[int, float]:
    """Widths of sensors of a run's steps and their shares; none without such data."""
    spec = exp.task.batch_spec("train")
    if not exp.data.path or spec.contract.kind != "meeg" or "label" in spec.fields:
        return {}
    datasets = [open_dataset(path) for path in exp.data.paths]
    return meeg.steps_by_width(datasets, spec.contract, exp.data)


def _of_width(exp: Experiment, n_sensors: int) -> Task:
    batch = abstract_batch(exp.task, exp.train.batch_size, "train")
    signal = batch["meeg/signal"]
    n, _, t = signal.shape
    wide = jax.ShapeDtypeStruct((n, n_sensors, t), signal.dtype)
    return exp.task.sized({**batch, "meeg/signal": wide})
