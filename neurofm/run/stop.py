"""SIGTERM and Ctrl-C as a flag that a run looks at where it can stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

Name = Literal["SIGTERM", "SIGINT"]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """The first stop signal of this process, None while there was none."""

    def __init__(self):
        self.name: Name | None = None

    @property
    def status(self) -> Literal["preempted", "interrupted"]:
        """How a run ends that stops for it; where another process had it, preempted."""
        return "interrupted" if self.name == "SIGINT" else "preempted"

    def listen(self) -> None:
        """Take both signals, again if a library took them since, until one came."""
        if self.name is None and _in_main_thread():
            for number in SIGNALS:
                signal.signal(number, self._remember)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.name is None:
            self.name = "SIGTERM" if number == signal.SIGTERM else "SIGINT"
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


_entered: Stop | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """While entered, the first stop signal is remembered and nothing dies of it.

    Entered within itself it is the same one, so that a command can listen before it
    imports anything and the loop later sees what came. A second Ctrl-C is not caught,
    for those who cannot wait. Outside the main thread, where Python allows no handlers,
    it does nothing.
    """
    global _entered
    before = {number: signal.getsignal(number) for number in SIGNALS}
    outer, _entered = _entered, _entered or Stop()
    _entered.listen()
    try:
        yield _entered
    finally:
        _entered = outer
        if outer is None and _in_main_thread():
            for number, handler in before.items():
                # None: a handler of C code, which cannot be put back
                signal.signal(number, handler or signal.SIG_DFL)
