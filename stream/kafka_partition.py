"""What was fetched of a partition and not yet given: pieces of bounded size, and letters."""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from stream.blocks import Fetched
from stream.deadletters import RAW_BYTES
from stream.kafka_batches import I64, BadBatch, Record
from stream.kafka_fetch import Chunk, Messages
from stream.position import Offset, Partition
from stream.source import Rejected

PIECE_BYTES: Final = 4 << 20  # of messages, given at once, as a file log's read; one may be larger


class Records(NamedTuple):
    """The next messages of a partition, whole."""

    records: list[Record]
    next: int  # the offset after them, and after what was rejected
    rejected: tuple[Rejected, ...] = ()  # what has no value, or could not be read, among them


class PartitionBuffer:
    """Holds the chunks of one partition; from ``stop`` on nothing is given (None: no end)."""

    def __init__(self, partition: Partition, start: Offset, stop: int | None) -> None:
        self.partition = partition
        self._start = start
        self._stop = stop
        self._chunks: deque[Chunk] = deque()
        self._messages: Messages | None = None  # of which some may have been given
        self._offsets = np.zeros(0, np.int64)
        self._ends = np.zeros(0, np.int64)  # bytes up to and with each message
        self._given = 0
        self._next = start.message

    @property
    def filled(self) -> bool:
        """Whether there is something to give, or to find out that it holds no messages."""
        return self._messages is not None or bool(self._chunks)

    @property
    def position(self) -> int:
        """The offset that is to be fetched next."""
        return self._chunks[-1].end if self._chunks else self._next

    @property
    def fetched(self) -> bool:
        """Whether all up to ``stop`` has been fetched."""
        return self._stop is not None and self.position >= self._stop

    def fill(self, chunk: Chunk) -> None:
        """Take what was fetched behind all that was."""
        self._chunks.append(chunk)

    def fetch(self, most: int) -> Fetched | None:
        """Return at most ``most`` values, some 4 MiB of them; None where there are none."""
        rejected: list[Rejected] = []
        values: list[bytes] = []
        offsets: list[I64] = []
        for messages, some in self._pieces(most, rejected):
            found, at = messages.values(some), self._offsets[some]
            nulls = messages.nulls(some)
            if nulls.size:
                rejected += [self._no_value(int(offset)) for offset in at[nulls]]
                found = [value for value in found if value is not None]
                at = np.delete(at, nulls)
            values += found  # type: ignore[arg-type]  # no null is left
            offsets.append(at)
        if not values and not rejected:
            return None
        all_offsets = np.concatenate(offsets) if offsets else np.zeros(0, np.int64)
        return Fetched(values, all_offsets, self._next, tuple(rejected))

    def records(self, most: int) -> Records | None:
        """Return at most ``most`` messages, some 4 MiB of them; None where there are none."""
        rejected: list[Rejected] = []
        records: list[Record] = []
        for messages, some in self._pieces(most, rejected):
            records += messages.records(some)
        rejected += [self._no_value(r.offset) for r in records if r.value is None]
        records = [r for r in records if r.value is not None]
        return Records(records, self._next, tuple(rejected)) if records or rejected else None

    def _pieces(self, most: int, rejected: list[Rejected]) -> Iterator[tuple[Messages, slice]]:
        room = PIECE_BYTES
        while most > 0 and room > 0 and self._find(rejected):
            assert self._messages is not None
            first = self._given
            before = int(self._ends[first - 1]) if first else 0
            last = int(np.searchsorted(self._ends, before + room, "right"))
            last = min(max(last, first + 1), first + most, self._offsets.size)
            yield self._messages, slice(first, last)
            most -= last - first
            room -= int(self._ends[last - 1]) - before
            self._given = last
            self._next = int(self._offsets[last - 1]) + 1
            if last == self._offsets.size:
                self._messages = None
                self._forget()

    def _forget(self) -> None:
        """Let go of chunks of which all was given."""
        while self._chunks and self._chunks[0].empty:
            self._next = max(self._next, self._chunks.popleft().end)

    def _find(self, rejected: list[Rejected]) -> bool:
        """Go to the next messages, over what cannot be read; False where there are none."""
        while self._messages is None and self._chunks:
            found = self._chunks[0].take()
            if found is None:
                self._forget()
            elif isinstance(found, BadBatch):
                found = found._replace(next=min(found.next, self._chunks[0].end))
                if self._stop is None or found.first < self._stop:
                    rejected.append(self._rejected(found))
                    self._next = found.next
                self._forget()
            else:
                self._take(found)
        return self._messages is not None

    def _take(self, messages: Messages) -> None:
        offsets = messages.offsets()
        if self._stop is not None:
            offsets = offsets[: np.searchsorted(offsets, self._stop)]
        if offsets.size == 0:
            self._next = max(self._next, self._stop or 0)
            return
        self._messages, self._offsets, self._given = messages, offsets, 0
        self._ends = np.cumsum(messages.sizes()[: offsets.size])

    def _rejected(self, bad: BadBatch) -> Rejected:
        last = bad.next - 1
        which = f"offset {bad.first}" if last == bad.first else f"offsets {bad.first} to {last}"
        return Rejected(
            self.partition, bad.first, self._row(bad.first), bad.reason,
            f"{which}: {bad.detail}", bad.raw[:RAW_BYTES],
        )  # fmt: skip

    def _no_value(self, offset: int) -> Rejected:
        detail = "the message has no value, as one that deletes a key in a compacted topic"
        return Rejected(self.partition, offset, self._row(offset), "no_value", detail, b"")

    def _row(self, offset: int) -> int:
        """Return the row of a letter: not before the row at which reading began."""
        return self._start.row if offset == self._start.message else 0
