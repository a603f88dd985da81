"""What sources over Kafka have in common, whatever their records hold."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final

from stream.events import EventSchema
from stream.kafka_reader import KafkaReader
from stream.position import Partition
from stream.source import Block

_POLL_S: Final = 0.1  # how soon what is new is seen, and how often a source says that it is idle


class TopicSource(ABC):
    """A `Source` over a `KafkaReader`; a subclass says how its records become blocks."""

    def __init__(self, reader: KafkaReader, schema: EventSchema, *, follow: bool) -> None:
        self._reader = reader
        self._schema = schema
        self._follow = follow

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those that are read, sorted."""
        return self._reader.partitions

    @property
    def schema(self) -> EventSchema:
        """What its events, or examples, carry."""
        return self._schema

    @property
    def topic_ids(self) -> dict[str, str]:
        """The id of each topic: one that is deleted and created anew has another."""
        return self._reader.topic_ids

    @property
    def grown(self) -> bool:
        """Whether reading ended because a topic has more partitions now."""
        return self._reader.grown

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks from the position it was opened at, until the end or `close`; once."""
        for block in self._blocks(self._wait if self._follow else None):
            if self._reader.is_over:  # what it then says of ends and idleness is not so
                return
            yield block

    def close(self) -> None:
        """End the reading, also from another thread and while it waits; idempotent."""
        self._reader.close()

    @abstractmethod
    def _blocks(self, wait: Callable[[], bool] | None) -> Iterator[Block]:
        """Yield blocks as `read_blocks` does, with ``wait`` where the topic is followed."""

    def _wait(self) -> bool:
        return self._reader.wait(_POLL_S)
