"""Looks at topics: single messages, or all that is there now, without following."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from stream.kafka import KafkaConfig
from stream.kafka_batches import Record
from stream.kafka_reader import KafkaReader
from stream.position import Offset, Partition, Position
from stream.source import Rejected

_LOOK_BYTES: Final = 64 << 10  # a message, not what lies behind it; a larger one comes whole
_RECORDS: Final = 1_000


def peek(config: KafkaConfig, offsets: Mapping[Partition, int]) -> dict[Partition, Record | None]:
    """Return the message at each offset, or the next one behind it; None where there is none.

    The offsets lie between the beginning and the end of their partition. Raises what `KafkaReader`
    raises.
    """
    if not offsets:
        return {}
    position = Position({p: Offset(offset) for p, offset in offsets.items()})
    reader = KafkaReader(
        replace(config, fetch_bytes=min(_LOOK_BYTES, config.fetch_bytes)),
        {p.topic for p in offsets},
        partitions=list(offsets),
        position=position,
    )
    try:
        return {p: _first(reader, i) for i, p in enumerate(reader.partitions)}
    finally:
        reader.close()


def values_of(
    config: KafkaConfig,
    topic: str,
    refused: Callable[[Rejected], None],
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[bytes]:
    """Yield the values of all messages that are in a topic now, partition by partition.

    ``refused`` is given what cannot be read: damaged batches, messages without a value. Memory:
    what a `KafkaReader` holds. Raises what it raises.
    """
    reader = KafkaReader(config, [topic], say=say)
    try:
        for i in range(len(reader.partitions)):
            while (fetched := reader.fetch(i, _RECORDS)) is not None:
                yield from fetched.messages
                for rejected in fetched.rejected:
                    refused(rejected)
    finally:
        reader.close()


def _first(reader: KafkaReader, i: int) -> Record | None:
    while (found := reader.records(i, 1)) is not None:
        if found.records:
            return found.records[0]
    return None
