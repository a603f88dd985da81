"""A source over messages in memory: for tests, and for small logs."""

import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stream.blocks import BLOCK_EVENTS, BlockRule, Fetched, read_blocks
from stream.decode import Decoder
from stream.events import EventSchema
from stream.position import Offset, Partition, Position
from stream.source import Block


class ListSource:
    """Reads the message values of each partition, whose offsets are their places in the lists."""

    def __init__(
        self,
        schema: EventSchema,
        messages: Mapping[Partition, Sequence[bytes]],
        *,
        position: Position | None = None,
        block_events: int = BLOCK_EVENTS,
    ) -> None:
        self._schema = schema
        self._messages = dict(sorted(messages.items()))
        self._position = position or Position()
        self._rule = BlockRule(block_events=block_events)
        self._closed = threading.Event()

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those it was given, sorted."""
        return tuple(self._messages)

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        return self._schema

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks from the position it was opened at; every partition ends."""
        logs = [_List(m, self._position.of(p)) for p, m in self._messages.items()]
        decoder = Decoder(self._schema)
        for block in read_blocks(self.partitions, logs, decoder, self._position, self._rule):
            yield block
            if self._closed.is_set():
                return

    def close(self) -> None:
        """End the reading; idempotent."""
        self._closed.set()


class _List:
    def __init__(self, messages: Sequence[bytes], start: Offset) -> None:
        self._messages = messages
        self._next = start.message

    def fetch(self, most: int) -> Fetched | None:
        messages = self._messages[self._next : self._next + most]
        if not messages:
            return None
        first, self._next = self._next, self._next + len(messages)
        return Fetched(messages, np.arange(first, self._next, dtype=np.int64), self._next)
