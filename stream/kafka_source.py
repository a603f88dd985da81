"""Reads impressions and feedback from Kafka, to its end or following it as it grows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from stream.blocks import BLOCK_EVENTS, BlockRule, Decodes, read_blocks
from stream.decode import Decoder
from stream.events import EventSchema
from stream.kafka import KafkaConfig, KafkaError
from stream.kafka_reader import KafkaReader
from stream.position import Partition, Position
from stream.source import Block
from stream.topic_source import TopicSource


class KafkaSource(TopicSource):
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
        decoder: Decodes | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open it: all partitions of ``topics``, or only some ``partitions`` of them.

        ``start_ms``: a partition that ``position`` does not name begins with the first message
        whose time, as its producer gave it, is no earlier. ``topic_ids``: as an earlier source's;
        a topic with another id is refused. Without ``follow`` it ends where the topics end now.
        ``decoder``: of its messages, in place of the schema's.
        """
        if follow and until_ms is not None:
            raise KafkaError(
                "A topic that is followed has no end in time, as late events may always come: "
                "leave out until_ms, or do not follow."
            )
        self._position = position or Position()
        self._decoder = decoder
        self._rule = BlockRule(block_events=block_events, from_ms=from_ms, until_ms=until_ms)
        reader = KafkaReader(
            config, topics, partitions=partitions, position=position, follow=follow,
            start_ms=start_ms, topic_ids=topic_ids, raw=raw, say=say,
        )  # fmt: skip
        super().__init__(reader, schema, follow=follow)

    def _blocks(self, wait: Callable[[], bool] | None) -> Iterator[Block]:
        reader = self._reader
        return read_blocks(
            reader.partitions,
            reader.logs,
            self._decoder or Decoder(self._schema),
            self._position,
            self._rule,
            wait,
        )
