import random
from dataclasses import replace
from pathlib import Path

import pytest

from keepstream.config import load
from keepstream.inputs import lines_of
from keepstream.reading import event_schema
from keepstream.wiring import build_ingest
from replay.into import replay_into
from replay.simulate import TOPICS
from stream.filelog import create_topic
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.kafka_source import KafkaSource
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
from trainer.items import LearnItem

pytestmark = [pytest.mark.kafka, pytest.mark.data, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


class Renamed:
    """A writer to topics of this test's own."""

    def __init__(self, writer: KafkaWriter, names: dict[str, str]) -> None:
        self._writer, self._names = writer, names

    def append(self, partition: Partition, value: bytes) -> None:
        """Append a message."""
        self._writer.append(Partition(self._names[partition.topic], partition.number), value)


def digest_of(config, source, scratch) -> tuple[str, dict[str, int]]:
    """Return the digest of all examples that a source gives, and what became of its events."""
    ingest = build_ingest(config, source.partitions, scratch)
    digest = ""
    for items in (*map(ingest.feed, source), ingest.finish()):
        for item in items:
            if isinstance(item, LearnItem):
                digest = item.examples_digest
    source.close()
    return digest, ingest.counts().join


@pytest.mark.parametrize("partitions", [1, 4, 12])
def test_a_week_of_news_through_kafka_is_the_week_from_files(
    kafka, topic, real_data, tmp_path, partitions
):
    """Replay equals live on real traffic, however it is packed, cut into partitions and polled."""
    config = load(ROOT / "examples" / "ebnerd.toml")
    schema = event_schema(config)
    week = [real_data / "ebnerd_week1_events.parquet"]
    lines = [*lines_of(config, week, from_ms=None, until_ms=None)]
    for name in TOPICS:
        create_topic(tmp_path / "log", name, partitions)
    with FileLogWriter(tmp_path / "log", LogWriterConfig(fsync="never")) as writer:
        written = replay_into(lines, writer, partitions=partitions, per_message=20)
    expected = digest_of(config, FileLogSource(tmp_path / "log", TOPICS, schema), tmp_path)
    assert 278_139 == written.impressions
    assert 24_000 < written.feedback
    assert 278_139 == expected[1]["impressions"]
    rng = random.Random(partitions)
    for per_message in (1, 7, 100):
        names = {name: topic(name, partitions) for name in TOPICS}
        with KafkaWriter(kafka) as writer:
            replay_into(lines, Renamed(writer, names), partitions=partitions,
                        per_message=per_message)  # fmt: skip
        source = KafkaSource(
            replace(kafka, fetch_bytes=rng.randrange(1 << 14, 1 << 22)),
            tuple(names.values()),
            schema,
            block_events=rng.randrange(100, 20_000),
        )
        assert expected == digest_of(config, source, tmp_path)
