import random
import time

import pytest
from kafka import KafkaProducer
from kafka.structs import TopicPartition

from stream import kafka_fetch
from stream.kafka_fetch import RawFetch, StockFetch, can_hook, fetch_of
from stream.kafka_reader import KafkaReader
from stream.position import Offset, Partition, Position
from tests.stream.kafka_logs import make_topic, numbered, until, write

pytestmark = pytest.mark.kafka


def read_both(kafka, topic, start=0, most=lambda: 1000, **options):
    """Return the (offset, value) of partition 0 from ``start`` on, by each way to unpack."""
    found = {}
    for raw in (True, False):
        position = Position({Partition(topic, 0): Offset(start)})
        reader = KafkaReader(kafka, [topic], position=position, raw=raw, **options)
        found[raw] = []
        while (more := reader.fetch(0, most())) is not None:
            assert len(more.messages) <= 1000
            found[raw] += zip(more.offsets.tolist(), more.messages, strict=True)
        reader.close()
    return found[True], found[False]


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_polls_of_any_size_give_the_same(kafka, topic, codec):
    """What is fetched at once, and taken at once, must change nothing."""
    name = topic()
    values = [b"%d " % i * (i % 50) for i in range(2000)]
    write(kafka, name, values, compression_type=codec)
    rng = random.Random(7)

    for fetch_bytes in (1, 3000, 1 << 20):
        config = kafka.__class__(bootstrap=kafka.bootstrap, fetch_bytes=fetch_bytes)
        start = rng.randrange(1900) if fetch_bytes == 1 else rng.randrange(1000)
        raw, stock = read_both(config, name, start, lambda: rng.choice([1, 7, 300, 1000]))

        assert list(enumerate(values))[start:] == raw
        assert raw == stock


def test_what_a_transaction_took_back_is_not_read(kafka, topic):
    """Nor are the markers that end transactions; what lies between is, in order."""
    name = topic()
    producers = [
        KafkaProducer(bootstrap_servers=kafka.bootstrap.split(","), transactional_id=f"{name}-{i}")
        for i in range(2)
    ]
    for producer in producers:
        producer.init_transactions()
    expected = []
    rng = random.Random(3)
    sent = 0
    for _ in range(8):
        for producer in producers:
            producer.begin_transaction()
        commits = [rng.random() < 0.5 for _ in producers]
        for _ in range(rng.randrange(1, 6)):
            k = rng.randrange(2)
            future = producers[k].send(name, b"%d" % sent, partition=0)
            producers[k].flush()
            expected += [(future.get().offset, b"%d" % sent)] if commits[k] else []
            sent += 1
        for k, producer in enumerate(producers):
            (producer.commit_transaction if commits[k] else producer.abort_transaction)()
    expected += zip(write(kafka, name, [b"after"]), [b"after"], strict=True)
    for producer in producers:
        producer.close()

    for start in (0, 1, expected[len(expected) // 2][0], expected[-1][0]):
        raw, stock = read_both(kafka, name, start)
        assert [pair for pair in expected if pair[0] >= start] == raw
        assert raw == stock


def test_an_open_transaction_is_the_end_for_now(kafka, topic):
    """What may still be taken back must not be learned; it comes when it is committed."""
    name = topic()
    write(kafka, name, [b"before"])
    servers = kafka.bootstrap.split(",")
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id=name)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(name, b"inside", partition=0)
    producer.flush()
    write(kafka, name, [b"behind"])
    reader = KafkaReader(kafka, [name], follow=True)
    values = []

    def more():
        while (found := reader.fetch(0, 10)) is not None:
            values.extend(found.messages)
        return values

    try:
        assert [b"before"] == more()
        producer.commit_transaction()
        until(lambda: len(more()) == 3)
        assert [b"before", b"inside", b"behind"] == values
    finally:
        reader.close()
        producer.close()


def test_what_compaction_took_is_a_gap(broker):
    """Offsets are not without gaps: neither inside a batch nor at its end, nor where one was."""
    often = {"log.cleaner.backoff.ms": 100, "log.retention.check.interval.ms": 300}
    kafka = broker(properties=often)
    settings = {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": 0.01, "segment_ms": 300}
    make_topic(kafka.config(), "keyed", **settings)
    for turn in range(3):
        pairs = [{"key": b"%d" % (i % (9 - turn)), "value": b"%d" % i} for i in range(40)]
        write(kafka.config(), "keyed", pairs)
        time.sleep(0.4)  # the segment's age

    def compacted():
        write(kafka.config(), "keyed", [{"key": b"new", "value": b"segment"}])
        return len(read_both(kafka.config(), "keyed")[0]) < 60

    def agree(start):
        """Whether both ways give the same: what was compacted meanwhile is gone for the second."""
        everything = read_both(kafka.config(), "keyed")[1]
        raw, stock = read_both(kafka.config(), "keyed", start)
        return raw == stock == [pair for pair in everything if pair[0] >= start]

    until(compacted)
    offsets = [offset for offset, _ in read_both(kafka.config(), "keyed")[0]]

    assert offsets != list(range(offsets[0], offsets[-1] + 1))
    for start in (0, 1, offsets[0], offsets[0] + 1, 20, offsets[len(offsets) // 2], offsets[-1]):
        until(lambda start=start: agree(start))


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "stock"])
def test_whole_messages_carry_key_headers_and_time(kafka, topic, raw):
    """What examples say of themselves is in their headers."""
    name = topic()
    headers = [("one", b"1"), ("empty", b""), ("", b"\xff")]
    one = {"value": b"v", "key": b"k", "headers": headers, "timestamp_ms": 1_700_000_000_123}
    write(kafka, name, [one, {"value": None, "key": b"k"}, b"bare"])
    reader = KafkaReader(kafka, [name], raw=raw)
    found = reader.records(0, 10)
    reader.close()

    assert (0, 1_700_000_000_123, b"k", b"v", tuple(headers)) == found.records[0]
    assert (2, None, b"bare", ()) == (found.records[1][0], *found.records[1][2:])
    assert [(1, "no_value")] == [(r.offset, r.reason) for r in found.rejected]
    assert 3 == found.next


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "stock"])
def test_partitions_are_read_whole_in_any_turn(kafka, topic, raw):
    """One that is not wanted now is paused: what was fetched of it must not be forgotten."""
    name = topic(partitions=3)
    for partition in range(3):
        write(kafka, name, numbered(1500), partition=partition)
    reader = KafkaReader(kafka, [name], raw=raw)
    rng = random.Random(5)
    offsets = {i: [] for i in range(3)}
    while any(len(found) < 1500 for found in offsets.values()):
        i = rng.randrange(3)
        if (found := reader.fetch(i, rng.choice([1, 100, 700]))) is not None:
            offsets[i] += found.offsets.tolist()
    reader.close()

    assert [list(range(1500))] * 3 == list(offsets.values())


def test_reading_begins_at_a_time(kafka, topic):
    """A live topic goes on where a history ends; before and behind all of it too."""
    name = topic(partitions=2)
    write(kafka, name, [{"value": b"%d" % i, "timestamp_ms": 1000 * i} for i in range(1, 9)])

    def first(start_ms):
        reader = KafkaReader(kafka, [name], start_ms=start_ms)
        found = reader.fetch(0, 1)
        assert reader.fetch(1, 1) is None
        reader.close()
        return found and found.offsets.tolist()

    assert [[0], [2], [3], None] == [first(ms) for ms in (0, 3000, 3001, 9000)]


def test_an_unknown_version_is_read_the_stock_way(kafka, topic, monkeypatch):
    """The hook is private to kafka-python: another version may have it elsewhere."""
    name = topic()
    write(kafka, name, numbered(3))
    reader = KafkaReader(kafka, [name])
    assert isinstance(fetch_of(reader._consumer), RawFetch)
    assert can_hook(reader._consumer)
    monkeypatch.setattr(kafka_fetch, "HOOKED", ("2.",))
    assert isinstance(fetch_of(reader._consumer), StockFetch)
    reader.close()

    assert [b"value 0", b"value 1", b"value 2"] == [value for _, value in read_both(kafka, name)[0]]


def test_other_consumers_are_not_touched(kafka, topic):
    """Whoever uses kafka-python beside us gets what it always gave."""
    from kafka import KafkaConsumer

    name = topic()
    write(kafka, name, numbered(3))
    reader = KafkaReader(kafka, [name])
    other = KafkaConsumer(bootstrap_servers=kafka.bootstrap.split(","), auto_offset_reset="none")
    tp = TopicPartition(name, 0)
    other.assign([tp])
    other.seek(tp, 0)
    found = []
    until(lambda: found.extend(other.poll(100).get(tp, [])) or len(found) == 3)
    other.close()
    reader.close()

    assert numbered(3) == [record.value for record in found]
