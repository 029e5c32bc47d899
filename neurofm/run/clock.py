"""Where the time of a run goes, and how fast it is, over all of its restarts.

Every moment since the first start belongs to one bucket, so that they add up:

    start       imports aside, until the first step of a process: opening, restoring
    compile     of the fresh state and of the first step of a process
    train       steps
    wait        steps that could not begin for want of data
    eval, checkpoint
    lost        from the checkpoint a process goes on from until that process began:
                steps that are made again, and the time it was not running

The device runs behind the host, which waits for it where metrics are read; rates are
therefore taken from one logged row to the next and not around a single step.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from neurofm.parallel import accelerators, gpus

Bucket = Literal["start", "compile", "train", "wait", "eval", "checkpoint", "lost"]
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)

# Peak dense bfloat16 FLOP/s of a device by its `device_kind`.
PEAK_FLOPS = {
    kind.device_kind: kind.bf16_flops / kind.devices_per_chip
    for kind in accelerators.KINDS.values()
    if kind.device_kind
}
PEAK_FLOPS |= {device: peak for _, peak, device in gpus.KINDS.values() if device}


@dataclass
class Tally:
    """Seconds by bucket, steps, items the model saw, signal in them, operations."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(BUCKETS, 0.0)
    )
    steps: int = 0
    items: int = 0
    signal_s: float = 0.0
    flops: float = 0.0

    def copy(self) -> "Tally":
        """The tally as it is now."""
        return replace(self, seconds=dict(self.seconds))

    def since(self, before: "Tally") -> "Tally":
        """What came on top of an earlier copy."""
        seconds = {b: s - before.seconds[b] for b, s in self.seconds.items()}
        return Tally(
            seconds,
            self.steps - before.steps,
            self.items - before.items,
            self.signal_s - before.signal_s,
            self.flops - before.flops,
        )


class Clock:
    """Measures a run; `to_json` goes into its checkpoints, and `go_on` takes it."""

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ):
        self.total = Tally()
        self._now, self._wall = now, wall
        self._mark, self._made_at = now(), wall()
        self._lost = 0.0  # counted once a step is made: a finished run loses nothing
        self._bucket: Bucket = "start"
        self._begun: Tally | None = None  # at the end of this process's first step
        self._row: Tally | None = None  # at the last row

    def _lap(self) -> None:
        now = self._now()
        self.total.seconds[self._bucket] += now - self._mark
        self._mark = now

    @contextmanager
    def bucket(self, name: Literal["compile", "eval", "checkpoint"]) -> Iterator[None]:
        """Count the time inside as `name`."""
        self._lap()
        outside, self._bucket = self._bucket, name
        try:
            yield
        finally:
            self._lap()
            self._bucket = outside

    @contextmanager
    def step(
        self, wait_s: float, items: int, item_s: float, flops: float
    ) -> Iterator[None]:
        """Around the call of one step.

        Args:
          wait_s: seconds the host waited for this step's data, just before.
          items: items in the step, over all devices.
          item_s: seconds of signal in one item.
          flops: floating-point operations of this step, over all devices.
        """
        self._lap()
        if self._begun is None:
            self._bucket = "compile"
            self.total.seconds["lost"] += self._lost
        else:
            waited = min(wait_s, self.total.seconds["train"])
            self.total.seconds["train"] -= waited
            self.total.seconds["wait"] += waited
        yield
        self._lap()
        self.total.steps += 1
        self.total.items += items
        self.total.signal_s += items * item_s
        self.total.flops += flops
        if self._begun is None:  # no rate can be told from a step that was compiled
            self._bucket = "train"
            self._begun = self._row = self.total.copy()

    def row(self, n_devices: int) -> dict[str, float]:
        """Rates since the last row, and the run so far; call it when metrics are read.

        Args:
          n_devices: devices that share a step.

        Returns:
          time/hours (of the run, without what was lost), data/hours (of signal seen),
          throughput/flops_total (of all steps and devices), time/wall_hours (since the
          first start), time/goodput (share of those spent in steps), time/badput/*
          (shares of the other buckets); and, once a step was not the process's first,
          time/step_s (waiting included), time/data_wait (share of it spent waiting),
          time/pace_s (with evaluation and checkpoints, since the process began),
          throughput/examples_per_s, throughput/hours_per_s (of signal),
          throughput/flops_per_s (of all devices) and, where the peak of the device is
          known, throughput/mfu.
        """
        goodput = self.goodput()
        kept = sum(self.total.seconds.values()) - self.total.seconds["lost"]
        row = {
            "time/hours": kept / 3600,
            "data/hours": self.total.signal_s / 3600,
            "throughput/flops_total": self.total.flops,
            "time/wall_hours": goodput.pop("wall_hours"),
            "time/goodput": goodput.pop("train"),
            **{f"time/badput/{name}": share for name, share in goodput.items()},
        }
        if (
            self._begun is None
            or self._row is None
            or self.total.steps == (self._row.steps)
        ):
            return row
        lately, session = self.total.since(self._row), self.total.since(self._begun)
        self._row = self.total.copy()
        spent = max(lately.seconds["train"] + lately.seconds["wait"], 1e-9)
        row |= {
            "time/step_s": spent / lately.steps,
            "time/data_wait": lately.seconds["wait"] / spent,
            "time/pace_s": sum(session.seconds.values()) / session.steps,
            "throughput/examples_per_s": lately.items / spent,
            "throughput/hours_per_s": lately.signal_s / 3600 / spent,
            "throughput/flops_per_s": lately.flops / spent,
        }
        import jax  # the report reads durations without it

        if peak := PEAK_FLOPS.get(jax.devices()[0].device_kind):
            row["throughput/mfu"] = row["throughput/flops_per_s"] / (peak * n_devices)
        return row

    def goodput(self) -> dict[str, float]:
        """`wall_hours` since the first start, and each bucket's share of them."""
        self._lap()
        elapsed = sum(self.total.seconds.values())
        shares = {b: s / max(elapsed, 1e-9) for b, s in self.total.seconds.items()}
        return {"wall_hours": elapsed / 3600, **shares}

    def sentence(self) -> str:
        """The goodput in a few words."""
        goodput = self.goodput()
        wall = duration(3600 * goodput["wall_hours"])
        return f"{goodput['train']:.0%} of {wall} in steps"

    def to_json(self) -> dict[str, Any]:
        """The tally so far and when that was, as plain values."""
        self._lap()
        return {**vars(self.total.copy()), "saved_at": self._wall()}

    def go_on(self, saved: dict[str, Any]) -> None:
        """Add the tally of a checkpoint, and count what was lost since."""
        before = Tally(**{k: v for k, v in saved.items() if k != "saved_at"})
        for bucket, seconds in before.seconds.items():
            self.total.seconds[bucket] += seconds
        self.total.steps += before.steps
        self.total.items += before.items
        self.total.signal_s += before.signal_s
        self.total.flops += before.flops
        self._lost = max(0.0, self._made_at - saved.get("saved_at", self._made_at))


def duration(seconds: float) -> str:
    """Seconds in words, e.g. `45 s`, `12 min`, `3 h 05 min`, `2 d 04 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"
