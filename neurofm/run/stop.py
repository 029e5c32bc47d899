"""SIGTERM and Ctrl-C as a flag that a run looks at where it can stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

Name = Literal["SIGTERM", "SIGINT"]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
UNWIND_S = 5.0  # launchers wait 30 s and more between SIGTERM and SIGKILL


class Terminated(BaseException):
    """SIGTERM came where nothing has to be saved; as KeyboardInterrupt for Ctrl-C."""


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

    def leave(self) -> None:
        """Raise what ends the program, if a signal came; for where nothing is lost."""
        if self.name:
            raise Terminated if self.name == "SIGTERM" else KeyboardInterrupt

    def hand_on(self) -> None:
        """Give a signal that came too late for a run to whoever listens after it."""
        if self.name and _entered is None and _in_main_thread():
            signal.raise_signal(getattr(signal, self.name))

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


@contextmanager
def terminable(end: Callable[[], None]) -> Iterator[None]:
    """While entered, SIGTERM raises `Terminated` in the main thread.

    What is left on the way out may wait for threads, a training among them: where that
    takes more than `UNWIND_S`, `end` is called, from another thread.
    """
    late = threading.Timer(UNWIND_S, end)
    late.daemon = True

    def raise_it(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        late.start()
        raise Terminated

    if not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        late.cancel()
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
