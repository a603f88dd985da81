"""Ctrl-C and SIGTERM end a run cleanly: stop reading, learn what was read, save, report."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any


class Interruption:
    """Within the `with` block the first signal calls what `then` was told; a second ends at once.

    A signal that comes before `then` is not lost: it is called as soon as it is known.
    """

    def __init__(self, finishing: str | None = "finishing the batches that were read") -> None:
        """At the signal ``finishing`` is what it says; None: nothing."""
        self._finishing = finishing
        self._stop: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def then(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` at a signal."""
        self._stop = stop
        if self.received is not None:
            stop()

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
        said = self._finishing
        line = f"{self.received.name}: {said}; again to quit now.\n" if said else ""
        with suppress(OSError):  # nobody reads it any more
            os.write(2, line.encode())  # print is not for handlers: it may be what was interrupted
        if self._stop is not None:
            self._stop()
