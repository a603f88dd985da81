"""Ctrl-C and SIGTERM end a run cleanly: stop reading, learn what was read, save, report."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interruption:
    """Within the `with` block the first signal calls ``stop``; a second one ends at once."""

    def __init__(self, stop: Callable[[], None], say: Callable[[str], None]) -> None:
        self._stop = stop
        self._say = say
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        self._say(f"{self.received.name}: finishing the batches that were read; again to quit now.")
        self._stop()
