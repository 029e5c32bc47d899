"""A window of steps under jax's profiler, when a user asks for one."""

import logging
from typing import Any

import jax

from neurofm.errors import NeuroFMError
from neurofm.stores import Place

log = logging.getLogger(__name__)

Window = tuple[int, int]


def window(text: str | None, steps: int) -> Window | None:
    """`100:105`: trace from when 100 steps are done until 105 are.

    Raises:
      NeuroFMError: no such pair, or one that ends after the run.
    """
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last) <= steps):
        raise NeuroFMError(
            f"--profile {text}: give START:STOP, two step numbers of this run with "
            f"START < STOP and STOP at most {steps}, for example 100:105"
        )
    return int(first), int(last)


class Profile:
    """Traces the steps of a window in the first process; entered around the loop."""

    def __init__(self, steps: Window | None, folder: Place):
        """Trace nothing where `steps` is None; write below `folder`."""
        self._steps = steps if jax.process_index() == 0 else None
        self._folder = folder
        self._tracing = False

    def __enter__(self) -> "Profile":
        return self

    def before(self, step: int, state: Any) -> None:
        """Start or stop where the window says so.

        Args:
          step: steps handed to the devices so far.
          state: what they return, waited for so that the trace holds whole steps.
        """
        if self._steps is None:
            return
        first, last = self._steps
        if self._tracing and step >= last:
            jax.block_until_ready(state)
            self._stop(f"steps {first + 1} to {last}")
        elif not self._tracing and first <= step < last:
            jax.block_until_ready(state)
            self._folder.mkdir(exist_ok=True)
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        elif not self._tracing and step >= last:
            log.warning("nothing is profiled: the run is at step %d already", step)
            self._steps = None

    def _stop(self, what: str) -> None:
        self._steps, self._tracing = None, False
        jax.profiler.stop_trace()
        log.info(
            "%s are profiled in %s: open the .trace.json.gz in it at ui.perfetto.dev, "
            "or the folder with xprof",
            what,
            self._folder,
        )

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._stop("the steps until the run ended")
