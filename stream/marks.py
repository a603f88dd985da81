"""Places in input logs that a join may go on from, each with what it must know of before."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from stream.order import NEVER
from stream.position import Offset

MOST: Final = 1024  # marks of an input: a step is 1/512 of what must be read again, at most
_FEW: Final = MOST // 4  # so few are left that steps may be shorter again


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two events of an input."""

    offset: Offset  # the next to read
    clock: int  # the greatest event time read before it, ms; `NEVER`: nothing was
    before: int  # every event before it has a smaller or the same `at`, ms
    after: int  # none behind it has a smaller `at`, ms; `NEVER`: that is not known


class Marks:
    """The marks of one input, oldest first. Memory: at most `MOST`, thinned evenly beyond."""

    def __init__(self, first: Mark, step_ms: int) -> None:
        self._marks = deque([first])
        self._least = self._step = max(step_ms, 1)

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
        if len(self._marks) < _FEW and self._step > self._least:
            self._step //= 2


class GoOn(NamedTuple):
    """Where a join of the same inputs goes on, by input."""

    settled: list[Offset]  # every event before it has settled
    resume: list[Mark]  # from where it is to be read again
    forgotten: int  # ms: every event before `resume` has an earlier `at`; `NEVER`: not known


class InputMarks:
    """The marks of all inputs of a join."""

    def __init__(self, starts: Sequence[tuple[Offset, int]], step_ms: int, lateness_ms: int):
        """Begin at ``starts``: an offset and a clock for each input."""
        self._step = step_ms
        self._lateness = lateness_ms
        self.first = [offset for offset, _ in starts]  # where each began
        self._marks = [Marks(self._mark(*start, NEVER, NEVER), step_ms) for start in starts]

    def begin(self, i: int, offset: Offset) -> None:
        """Take note that the log of an input begins at ``offset``."""
        self.first[i] = offset
        self._marks[i] = Marks(self._mark(offset, NEVER, NEVER, NEVER), self._step)

    def add(self, i: int, offset: Offset, clock: int, watermark: int) -> None:
        """Take a place of an input: no event before it waits to be accepted or refused."""
        before = max(clock, watermark)
        if before != NEVER:
            self._marks[i].add(self._mark(max(offset, self.first[i]), clock, before, watermark))

    def _mark(self, offset: Offset, clock: int, before: int, watermark: int) -> Mark:
        # Silence moves the watermark past the clock of an input; what comes then is placed there.
        late = clock - self._lateness if clock != NEVER else NEVER
        return Mark(offset, clock, before, max(late, watermark))

    def going_on(self, settled_ms: int, memory_ms: int) -> GoOn:
        """Return where to go on if what is earlier than ``settled_ms`` has settled.

        What may have to do with an event is at most ``memory_ms`` older. Marks that are not needed
        any more are let go.
        """
        settled = [marks.latest(settled_ms) for marks in self._marks]
        after = min(mark.after for mark in settled)
        forgotten = after - memory_ms if after != NEVER else NEVER
        for marks in self._marks:
            marks.forget(forgotten)
        resume = [marks.latest(forgotten) for marks in self._marks]
        return GoOn([mark.offset for mark in settled], resume, forgotten)
