import pytest

from stream.encode import pack
from stream.kafka_source import KafkaSource
from tests.stream.kafka_logs import Renamed, write
from tests.stream.source_contract import CHECKS, SCHEMA

pytestmark = pytest.mark.kafka


@pytest.fixture(params=[True, False], ids=["raw", "stock"])
def make(request, kafka, topic):
    """Yield a function that opens a source over a log, which is written once for each cut."""
    topics, opened = {}, []

    def make(log, position, cut):
        key = repr(sorted(log.items())), cut.per_message
        if key not in topics:
            topics[key] = {p.topic: topic(p.topic) for p in log}
            for p, lines in log.items():
                write(kafka, topics[key][p.topic], pack(lines, cut.per_message))
        names = topics[key]

        def open_source(position):
            return KafkaSource(
                kafka, list(names.values()), SCHEMA,
                position=position, block_events=cut.block_events, raw=request.param,
            )  # fmt: skip

        opened.append(Renamed(open_source, names, position))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_topic_keeps_the_contract(check, make):
    """What is learned from a file log and from Kafka must be the same."""
    check(make)
