"""A peer tells how far it is; its rate is taken between the first event and the last."""

import json
import sys
import time
from typing import Any


class Rate:
    """Counts events and joined pairs, and prints them as JSON twice a second."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._events = self._joined = 0
        self._first = self._told = 0.0

    def event(self, events: int = 1) -> None:
        """Take note of events that have been gone through."""
        now = time.perf_counter()
        if not self._events:
            self._first = self._told = now
        self._events += events
        if now - self._told > 0.5 or self._events >= self._total:
            self._told = now
            self._tell(seconds=now - self._first)

    def pair(self) -> None:
        """Take note of a click that has found its impression."""
        self._joined += 1

    def _tell(self, **more: Any) -> None:
        line = {"events": self._events, "joined": self._joined, **more}
        sys.__stdout__.write(json.dumps(line) + "\n")  # type: ignore[union-attr]  # there is one
        sys.__stdout__.flush()  # type: ignore[union-attr]  # Faust takes sys.stdout away
