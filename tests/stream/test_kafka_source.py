import pytest

from stream.encode import encode_event, pack
from stream.events import EventColumns
from stream.ids import hash_ids
from stream.kafka import KafkaError
from stream.kafka_source import KafkaSource
from stream.position import Partition
from tests.stream.kafka_logs import Renamed, write
from tests.stream.source_contract import CHECKS, SCHEMA, START_MS

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


def event(i):
    """Return an impression; its user is its number."""
    return encode_event(
        {"impression_id": f"i{i}", "user_id": i, "item_id": 1, "ts": START_MS + 1000 * i}
    )


def test_it_ends_where_the_topic_ended_when_it_was_opened(kafka, topic):
    """A backlog that is learned once must not turn into a stream that never ends."""
    name = topic("impressions")
    write(kafka, name, [event(i) for i in range(5)])
    source = KafkaSource(kafka, [name], SCHEMA)
    write(kafka, name, [event(i) for i in range(5, 9)])
    blocks = list(source)
    source.close()

    assert list(range(5)) == [int(o) for b in blocks for o in b.events.offset]
    assert frozenset({0}) == blocks[-1].ended


def test_it_follows_a_topic_as_it_grows(kafka, topic):
    """It says that it is idle while it waits, and goes on within a moment of the next message."""
    name = topic("impressions")
    source = KafkaSource(kafka, [name], SCHEMA, follow=True)
    offsets, idle = [], 0
    for block in source:
        offsets += block.events.offset.tolist()
        idle += frozenset({0}) == block.idle
        assert not block.ended
        if len(offsets) < 3 and idle > 2 * len(offsets):
            write(kafka, name, [event(len(offsets))])
        if len(offsets) == 3:
            break
    source.close()

    assert [0, 1, 2] == offsets


def test_only_events_of_the_time_asked_for_are_kept(kafka, topic):
    """What is handed over at a time must be neither given twice nor left out."""
    name = topic("impressions")
    write(kafka, name, [event(i) for i in range(9)])
    window = {"from_ms": START_MS + 3000, "until_ms": START_MS + 6000}
    source = KafkaSource(kafka, [name], SCHEMA, **window)
    blocks = list(source)
    source.close()

    assert [3, 4, 5] == [int(o) for b in blocks for o in b.events.offset]
    with pytest.raises(KafkaError, match="has no end in time"):
        KafkaSource(kafka, [name], SCHEMA, follow=True, until_ms=1)


def test_some_partitions_may_be_read(kafka, topic):
    """A worker reads those it was given, and indexes them as it was given them."""
    name = topic("impressions", partitions=4)
    for number in range(4):
        write(kafka, name, [event(number)], partition=number)
    wanted = [Partition(name, 3), Partition(name, 1)]
    source = KafkaSource(kafka, [name], SCHEMA, partitions=wanted)
    blocks = list(source)
    source.close()

    assert (Partition(name, 1), Partition(name, 3)) == source.partitions
    users = EventColumns.concat([b.events for b in blocks])
    assert {(0, int(hash_ids([1])[0])), (1, int(hash_ids([3])[0]))} == set(
        zip(users.partition.tolist(), users.user.tolist(), strict=True)
    )
