"""SIGTERM and Ctrl-C as flags that the loop looks at between steps."""

import signal
from types import FrameType
from typing import Literal

Name = Literal["SIGTERM", "SIGINT"]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While entered, remembers the first stop signal instead of dying of it.

    A second Ctrl-C is not caught, for those who cannot wait for the step to end.
    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self):
        self.name: Name | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        try:
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._remember)
        except ValueError:  # not the main thread
            self._before.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.name is None:
            self.name = "SIGTERM" if number == signal.SIGTERM else "SIGINT"
        signal.signal(signal.SIGINT, signal.default_int_handler)
