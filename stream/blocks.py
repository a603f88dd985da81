"""From the messages of several partitions to a source's blocks: whose turn it is, where to cut."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stream.decode import Decoded
from stream.events import EventColumns, EventSchema
from stream.position import Offset, Partition, Position
from stream.source import Block, Rejected

BLOCK_EVENTS: Final = 16_384  # amortises the cost of a block; some 4 MB of columns
_FIRST_MESSAGES: Final = 64  # of each partition: enough to know where in time it begins
_LAST_EVENTS: Final = 64  # a partition's time is the median of them: one absurd time moves it not


class Fetched(NamedTuple):
    """The next messages (m,) of a partition."""

    messages: Sequence[Any]  # values as bytes, or what else the decoder takes
    offsets: npt.NDArray[np.int64]  # (m,)
    next: int  # the offset after them, and after what was rejected
    rejected: tuple[Rejected, ...] = ()  # what is no message, among them or behind


class PartitionLog(Protocol):
    """One partition, read once from a position on."""

    def fetch(self, most: int) -> Fetched | None:
        """Return at most ``most`` messages, None where there are no more for now."""
        ...


class Decodes(Protocol):
    """Makes events of messages: `stream.decode.Decoder`, or one for messages of another kind."""

    schema: EventSchema

    def decode(
        self,
        messages: Sequence[Any],
        offsets: npt.NDArray[np.int64],
        partition_index: int,
        partition: Partition,
    ) -> Decoded:
        """Decode the messages (m,) at ``offsets`` (m,) of one partition."""
        ...


@dataclass(frozen=True, kw_only=True)
class BlockRule:
    """How blocks are cut, and which events they keep."""

    block_events: int = BLOCK_EVENTS  # events and rejected lines together
    from_ms: int | None = None  # events before it are left out; None: all
    until_ms: int | None = None  # events from it on are left out; None: all

    def keep(self, events: EventColumns) -> EventColumns:
        """Return the events of the time asked for."""
        if self.from_ms is None and self.until_ms is None:
            return events
        inside = np.ones(len(events), np.bool_)
        if self.from_ms is not None:
            inside &= events.ts >= self.from_ms
        if self.until_ms is not None:
            inside &= events.ts < self.until_ms
        return events.take(inside)


def read_blocks(
    partitions: Sequence[Partition],
    logs: Sequence[PartitionLog],
    decoder: Decodes,
    position: Position,
    rule: BlockRule,
    wait: Callable[[], bool] | None = None,
) -> Iterator[Block]:
    """Yield the blocks of ``logs``, which begin at ``position``; each is of one partition.

    The partition furthest behind in event time comes first. With ``wait`` the logs may grow: where
    none has more it is called, and ends the reading by returning True. Holds at most one fetch of
    each.
    """
    everyone = frozenset(range(len(logs)))
    clocks = [-1] * len(logs)  # where in event time each has got to; -1: not known yet
    at_end: frozenset[int] = frozenset()
    found: dict[int, Fetched] = {}
    while True:
        for i in at_end if wait else ():  # told idle only while it is: idleness moves the watermark
            if (more := logs[i].fetch(rule.block_events)) is not None:
                found[i] = more
                at_end -= {i}
        for i in sorted(everyone - at_end, key=clocks.__getitem__):
            most = _FIRST_MESSAGES if clocks[i] < 0 else rule.block_events
            fetched = found.pop(i, None) or logs[i].fetch(most)
            if fetched is None:
                at_end |= {i}
                continue
            decoded = decoder.decode(fetched.messages, fetched.offsets, i, partitions[i])
            if len(decoded.events):
                clocks[i] = int(np.median(decoded.events.ts[-_LAST_EVENTS:]))
            elif clocks[i] < 0:
                clocks[i] = 0
            start, names = position.of(partitions[i]), decoded.names
            for events, rejected, after in cut(decoded, fetched, start, rule.block_events):
                position = position.moved(partitions[i], after)
                yield Block(
                    events=rule.keep(events),
                    position=position,
                    rejected=rejected,
                    ended=at_end if wait is None else frozenset(),
                    idle=frozenset() if wait is None else at_end,
                    names=names,
                )
                names = {}
            break
        else:
            nothing = EventColumns.empty(decoder.schema)
            if wait is None:
                yield Block(nothing, position, ended=everyone)
                return
            yield Block(nothing, position, idle=everyone)
            if wait():
                return


def cut(
    decoded: Decoded, fetched: Fetched, start: Offset, most: int
) -> Iterator[tuple[EventColumns, tuple[Rejected, ...], Offset]]:
    """Yield what was decoded from ``start`` on, ``most`` events and rejected lines at a time.

    With each comes the place of what follows it. At least one is yielded, if an empty one.
    """
    events, rejected = decoded.events, [*decoded.rejected, *fetched.rejected]
    if fetched.rejected:
        rejected.sort(key=lambda letter: (letter.offset, letter.row))
    if start.row > 0:
        late = (events.offset > start.message) | (events.row >= start.row)
        events = events.take(late)
        rejected = [r for r in rejected if (r.offset, r.row) >= start]
    offset, row = events.offset, events.row
    is_event = np.ones(len(events), np.bool_)
    if rejected:
        offset = np.concatenate([offset, np.array([r.offset for r in rejected], np.int64)])
        row = np.concatenate([row, np.array([r.row for r in rejected], np.int32)])
        order = np.lexsort((row, offset))
        offset, row, is_event = offset[order], row[order], order < len(events)
    ends = [*range(most, offset.size, most), offset.size]
    first_event = first_rejected = 0
    for end in ends:
        last_event = first_event + int(np.count_nonzero(is_event[max(end - most, 0) : end]))
        if offset.size == end:
            last_event = len(events)
            after = Offset(fetched.next)
        else:
            after = Offset(int(offset[end]), int(row[end]))
        last_rejected = end - last_event
        yield (
            events.take(slice(first_event, last_event)),
            tuple(rejected[first_rejected:last_rejected]),
            after,
        )
        first_event, first_rejected = last_event, last_rejected
