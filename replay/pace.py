"""Event time on the wall: a log at the speed it was lived, N times that, or as fast as it goes."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from replay.errors import InputError
from stream.events import EventColumns, EventSchema
from stream.position import Offset, Partition, Position
from stream.source import Block, Rejected, Source

_GRAIN_S = 0.05  # events due within one step of waiting come together: at most 20 blocks a second
_OUTLIER_MS = 86_400_000  # a time a day ahead of what follows it is a wrong clock: nobody waits


class Pacer:
    """When an event of event time ``ts`` is due: the first at once, the others in proportion.

    ``sleep(seconds)`` returns something true where the wait is to be broken off (as
    `threading.Event.wait` does once the event is set); ``now()`` returns seconds that only grow.
    """

    def __init__(
        self, speed: float, sleep: Callable[[float], object], now: Callable[[], float]
    ) -> None:
        if not speed > 0:
            raise InputError(f"The speed is {speed}: give a number above 0, such as 1 or 60.")
        self._speed, self._sleep, self._now = speed, sleep, now
        self._start: tuple[int, float] | None = None  # event time and wall time of the beginning

    def due_ms(self, first_ms: int) -> int:
        """Return the event time that has been reached; ``first_ms`` begins it."""
        if self._start is None:
            self._start = (first_ms, self._now())
        began_ms, began = self._start
        return began_ms + int((self._now() - began) * self._speed * 1000)

    def wait(self, ts: int) -> bool:
        """Wait until the event time ``ts``; return whether the wait was broken off."""
        while (due := self.due_ms(ts)) < ts:
            if self._sleep(max((ts - due) / 1000 / self._speed, _GRAIN_S)):
                return True
        return False


class Rate:
    """So many events a second of wall time, evenly; ``sleep`` and ``now`` as for `Pacer`."""

    def __init__(
        self, per_s: float, sleep: Callable[[float], object], now: Callable[[], float]
    ) -> None:
        if not per_s > 0:
            raise InputError(f"The rate is {per_s}: give a number above 0, events a second.")
        self._per_s, self._sleep, self._now = per_s, sleep, now
        self._start: float | None = None
        self._events = 0

    def wait(self, events: int) -> bool:
        """Wait until ``events`` more are due; return whether the wait was broken off."""
        if self._start is None:
            self._start = self._now()
        self._events += events
        while (left := self._start + self._events / self._per_s - self._now()) > _GRAIN_S:
            if self._sleep(left):
                return True
        return False


class Pace:
    """A source whose events come no sooner than they are due, in the blocks that this makes.

    The events, their order within each partition and what positions mean stay as they are.
    ``speed`` None hands every block on as it is. Holds one block.
    """

    def __init__(
        self,
        source: Source,
        speed: float | None,
        sleep: Callable[[float], object],
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._pacer = None if speed is None else Pacer(speed, sleep, now)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those of the source."""
        return self._source.partitions

    @property
    def schema(self) -> EventSchema:
        """That of the source."""
        return self._source.schema

    def __iter__(self) -> Iterator[Block]:
        """Yield the source's blocks in pieces, each when its events are due."""
        for block in self._source:
            if self._pacer is None:
                yield block
            elif (yield from self._paced(block, self._pacer)):
                return

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _paced(self, block: Block, pacer: Pacer) -> Generator[Block, None, bool]:
        """Yield the pieces of ``block``; return whether to stop."""
        events = block.events
        if len(events) == 0:
            yield block
            return False
        due_at = due_times(events)
        left = np.argsort(due_at, kind="stable")  # in a partition that is log order: it never falls
        waiting, names = list(block.rejected), block.names
        while left.size:
            first = int(due_at[left[0]])
            if pacer.wait(first):
                return True
            now = int(np.searchsorted(due_at[left], pacer.due_ms(first), side="right"))
            piece, left = np.sort(left[:now]), np.sort(left[now:])
            position = block.position
            for index in left[np.unique(events.partition[left], return_index=True)[1]]:
                offset = Offset(int(events.offset[index]), int(events.row[index]))
                position = position.moved(self.partitions[events.partition[index]], offset)
            if left.size == 0:
                yield replace(
                    block, events=events.take(piece), rejected=tuple(waiting), names=names
                )
                return False
            told = [r for r in waiting if _before(r, position, block.position)]
            waiting = [r for r in waiting if not _before(r, position, block.position)]
            yield Block(
                events=events.take(piece),
                position=position,
                rejected=tuple(told),
                idle=block.idle - frozenset(events.partition[left].tolist()),
                names=names,
            )
            names = {}
            left = left[np.argsort(due_at[left], kind="stable")]
        return False


def _before(rejected: Rejected, position: Position, end: Position) -> bool:
    """Whether input was read before ``position``, in a block that ends at ``end``."""
    here = position.of(rejected.partition)
    done = here == end.of(rejected.partition)
    return done or (rejected.offset, rejected.row) < here


def due_times(events: EventColumns) -> npt.NDArray[np.int64]:
    """Return when each event (n,) is due, in event time; in a partition it never falls.

    A time more than a day ahead of what follows it is due with what follows it.
    """
    due = np.empty(len(events), np.int64)
    for partition in np.unique(events.partition):
        index = np.flatnonzero(events.partition == partition)
        ts = events.ts[index]
        later = np.minimum.accumulate(ts[::-1])[::-1]
        ts = np.where(ts - later > _OUTLIER_MS, later, ts)
        due[index] = np.maximum.accumulate(ts)
    return due
