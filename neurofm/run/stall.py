"""Says when a run stands still and what it waits for; it never ends anything."""

import logging
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

TIMES = 20  # the usual step, before a wait deserves a word
LEAST_S = 60.0  # evaluations and checkpoints of a small model are many steps long
LOOK_EVERY_S = 1.0

# Which part of the program is waited in, and where to look.
PLACES = {
    "neurofm.data.loader": "data: is the disk or store in reach, and read elsewhere?",
    "neurofm.checkpoint": "a checkpoint: is the disk or store in reach, and not full?",
    "neurofm.run.heldout": "the held-out evaluation (eval.crops says how long it is)",
    "neurofm.run.metrics": "the disk of the workdir",
    "neurofm.run.track": "a tracker (train.track)",
}
ELSEWHERE = "the devices, or another process of the run: is one of them gone?"


class StallWatch:
    """Warns once a stall; entered around the loop, in the thread that makes the steps.

    Args:
      now: a clock in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._took: deque[float] = deque(maxlen=101)  # seconds of recent steps
        self._last: float | None = None
        self._told = False
        self._thread = threading.get_ident()
        self._over = threading.Event()

    def __enter__(self) -> "StallWatch":
        threading.Thread(target=self._look, daemon=True, name="stall").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def step(self) -> None:
        """A step was made; the first one, which was compiled, has no duration."""
        now = self._now()
        if self._last is not None:
            self._took.append(now - self._last)
        self._last, self._told = now, False

    def stalled(self) -> tuple[float, float] | None:
        """Seconds without a step and those of a usual one, once a stall; or None."""
        took, last = tuple(self._took), self._last
        if not took or last is None or self._told:
            return None
        usual, since = statistics.median(took), self._now() - last
        if since < max(TIMES * usual, LEAST_S):
            return None
        self._told = True
        return since, usual

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            if found := self.stalled():
                log.warning(
                    "no step for %.0f s, where one takes %.2g s; waiting for %s",
                    *found,
                    waited_for(sys._current_frames().get(self._thread)),
                )


def waited_for(frame: FrameType | None) -> str:
    """What the innermost frame that `PLACES` knows is waiting for."""
    while frame is not None:
        if (module := frame.f_globals.get("__name__")) in PLACES:
            return PLACES[module]
        frame = frame.f_back
    return ELSEWHERE
