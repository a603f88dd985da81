"""Reads the examples that workers have written to Kafka, to their end or following them."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np

from stream.blocks import BLOCK_EVENTS, BlockRule, Fetched
from stream.events import EventSchema
from stream.example_blocks import ExampleRecord, read_examples
from stream.kafka import KafkaConfig
from stream.kafka_reader import KafkaReader
from stream.position import Position
from stream.source import Block
from stream.topic_source import TopicSource

IDLE_S: Final = 60.0  # workers take over from one that died within seconds, and write every second
_FETCH_BYTES: Final = 4 << 20  # of records decoded at once: some 16,384 examples
_FIRST_RECORDS: Final = 4  # until their size is known: some 2 MB where they are full
_MOST_RECORDS: Final = 1024  # where they are small


class ExamplesSource(TopicSource):
    """Reads a topic of examples; its blocks are of `ExampleColumns`, with their progress.

    As `KafkaSource` it joins no group: any number of trainers read the topic, each by positions
    of its own. What workers wrote twice is read twice: `ExampleOrder` lets it through once. A
    record that no worker wrote is `Rejected` (`bad_examples`); `MissingFeature` is raised where
    examples lack what ``schema`` asks for.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topic: str,
        schema: EventSchema,
        *,
        position: Position | None = None,
        follow: bool = False,
        start_ms: int | None = None,
        topic_ids: Mapping[str, str] | None = None,
        block_events: int = BLOCK_EVENTS,
        idle_s: float = IDLE_S,
        until_end: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open it; see `KafkaSource` for what is alike.

        ``idle_s``: a followed partition whose examples do not go on for so long, while its log is
        at its end, has no worker, and holds the others back no longer. ``until_end``: it is read up
        to its end only, and one without any record holds nothing back: no worker is waited for.
        """
        self._position = position or Position()
        self._idle_s = idle_s
        self._until_end = until_end
        self._rule = BlockRule(block_events=block_events)
        reader = KafkaReader(
            config, [topic], position=position, follow=follow, start_ms=start_ms,
            topic_ids=topic_ids, say=say,
        )  # fmt: skip
        super().__init__(reader, schema, follow=follow)

    def _blocks(self, wait: Callable[[], bool] | None) -> Iterator[Block]:
        reader = self._reader
        return read_examples(
            reader.partitions,
            [_Log(reader, i) for i in range(len(reader.partitions))],
            self._schema,
            self._position,
            self._rule,
            wait=wait,
            clock=time.monotonic,
            idle_s=self._idle_s,
            until_end=self._until_end,
        )


class _Log:
    """One partition, fetched so much at a time that decoding it takes little memory."""

    def __init__(self, reader: KafkaReader, i: int) -> None:
        self._reader, self._i = reader, i
        self._most = _FIRST_RECORDS

    def fetch(self, most: int) -> Fetched | None:
        found = self._reader.records(self._i, min(most, self._most))
        if found is None:
            return None
        records = [ExampleRecord(r.value, r.headers) for r in found.records if r.value is not None]
        if size := sum(len(r.value) for r in records):
            fitting = _FETCH_BYTES * len(records) // size
            self._most = min(max(fitting, 1), 2 * self._most, _MOST_RECORDS)
        offsets = np.array([r.offset for r in found.records if r.value is not None], np.int64)
        return Fetched(records, offsets, found.next, found.rejected)
