"""Where events come from: Kafka, a file log, an old Parquet log, or a list in a test."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from stream.events import EventColumns, EventSchema
from stream.position import Partition, Position

if TYPE_CHECKING:  # who reads events needs no Arrow
    from stream.examples import Progress


@dataclass(frozen=True)
class Rejected:
    """A piece of input that is no event, with the reason: a dead letter."""

    partition: Partition
    offset: int
    row: int
    reason: str  # one of `stream.deadletters.REASONS`: what metrics count by
    detail: str  # one line for a person: what was wrong, where
    raw: bytes  # the input itself, cut at 4 KiB


@dataclass(frozen=True)
class Block:
    """The next events of a source, and where to read after them.

    ``events`` are in log order within each partition; between partitions no order is promised.
    """

    events: EventColumns
    position: Position  # the next event to read, so that resuming here repeats and skips nothing
    rejected: tuple[Rejected, ...] = ()
    ended: frozenset[int] = frozenset()  # partitions (indices) that will never have more
    idle: frozenset[int] = frozenset()  # partitions with nothing up to here that may yet have more
    later: frozenset[int] = frozenset()  # whose turn is after others have ended: hold nothing back
    names: Mapping[int, str] = field(default_factory=dict)  # new scene hash → its name
    progress: "Mapping[int, Progress]" = field(default_factory=dict)  # of partitions of examples


class Source(Protocol):
    """A log of events, read in blocks of any size.

    The promises, which `tests/stream/source_contract.py` holds every source to: the events of a
    partition come in log order; a source opened at a block's position continues exactly after
    that block, row by row; how the log is cut into messages and blocks changes no event; bad
    input comes out as `Rejected` with its reason and nothing else is lost; between partitions the
    one furthest behind in event time is read first, so that what waits for its turn stays small.
    """

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions it reads, sorted; `EventColumns.partition` is an index into these."""
        ...

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        ...

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks from the position it was opened at.

        A finite source stops after its last event. One that follows a growing log yields an empty
        block, every partition ``idle``, about ten times a second while nothing comes.
        """
        ...

    def close(self) -> None:
        """Release files and connections; idempotent."""
        ...
