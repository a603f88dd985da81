"""Reads impressions and feedback from Kafka, to its end or following it as it grows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from stream.blocks import BLOCK_EVENTS, BlockRule, read_blocks
from stream.decode import Decoder
from stream.events import EventSchema
from stream.kafka import KafkaConfig, KafkaError
from stream.kafka_reader import KafkaReader
from stream.position import Partition, Position
from stream.source import Block

_POLL_S: Final = 0.1  # how often a source says that it is idle


class KafkaSource:
    """Reads topics of Kafka, each partition on its own, the one furthest behind first.

    Positions are the caller's; no group is joined. A broker that is away is waited for, and never
    taken for a log that is silent. Where a followed topic gets more partitions the iteration ends
    with ``grown`` set: a source opened anew at the last position reads them too. What was deleted
    before it was read (`kafka.lost` "skip"), and batches that cannot be read, are `Rejected`;
    everything else that is not as it was raises a `KafkaError`: see `KafkaReader`.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Sequence[str],
        schema: EventSchema,
        *,
        partitions: Iterable[Partition] | None = None,
        position: Position | None = None,
        follow: bool = False,
        from_ms: int | None = None,
        until_ms: int | None = None,
        start_ms: int | None = None,
        topic_ids: Mapping[str, str] | None = None,
        block_events: int = BLOCK_EVENTS,
        raw: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open it: all partitions of ``topics``, or only some ``partitions`` of them.

        ``start_ms``: a partition that ``position`` does not name begins with the first message
        whose time, as its producer gave it, is no earlier. ``topic_ids``: as an earlier source's;
        a topic with another id is refused. Without ``follow`` it ends where the topics end now.
        """
        if follow and until_ms is not None:
            raise KafkaError(
                "A topic that is followed has no end in time, as late events may always come: "
                "leave out until_ms, or do not follow."
            )
        self._schema = schema
        self._position = position or Position()
        self._follow = follow
        self._rule = BlockRule(block_events=block_events, from_ms=from_ms, until_ms=until_ms)
        self._reader = KafkaReader(
            config, topics, partitions=partitions, position=position, follow=follow,
            start_ms=start_ms, topic_ids=topic_ids, raw=raw, say=say,
        )  # fmt: skip

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those that are read, sorted."""
        return self._reader.partitions

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
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
        reader = self._reader
        blocks = read_blocks(
            reader.partitions,
            reader.logs,
            Decoder(self._schema),
            self._position,
            self._rule,
            (lambda: reader.wait(_POLL_S)) if self._follow else None,
        )
        for block in blocks:
            if reader.is_over:  # what it then says of ends and idleness is not so
                return
            yield block

    def close(self) -> None:
        """End the reading, also from another thread and while it waits; idempotent."""
        self._reader.close()
