"""Places in an input log that a join may go on from, each with what it must know of before."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from stream.position import Offset

MOST: Final = 1024  # marks of an input: a step is 1/512 of what must be read again, at most


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two events of an input."""

    offset: Offset  # the next to read
    clock: int  # the greatest event time read before it, ms; `NEVER`: nothing was
    before: int  # every event before it has a smaller or the same `at`, ms


class Marks:
    """The marks of one input, oldest first. Memory: at most `MOST`, thinned evenly beyond."""

    def __init__(self, first: Mark, step_ms: int) -> None:
        self._marks = deque([first])
        self._step = max(step_ms, 1)

    def add(self, mark: Mark) -> None:
        """Take a mark, if it is a step later than the last one."""
        if mark.before - self._marks[-1].before < self._step:
            return
        self._marks.append(mark)
        if len(self._marks) > MOST:  # inputs are far apart
            self._step *= 2
            first, *rest = self._marks
            self._marks = deque([first, *rest[1::2]])

    def latest(self, at_ms: int) -> Mark:
        """Return the latest mark before which every event is earlier than ``at_ms``."""
        found = self._marks[0]
        for mark in self._marks:
            if mark.before >= at_ms:
                break
            found = mark
        return found

    def forget(self, at_ms: int) -> None:
        """Let go of the marks before `latest` of ``at_ms``."""
        while len(self._marks) > 1 and self._marks[1].before < at_ms:
            self._marks.popleft()
