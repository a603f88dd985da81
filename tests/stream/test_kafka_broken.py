"""What can go wrong between Kafka and a reader: each has its rule, its words and its test."""

import threading
import time
from dataclasses import replace

import pytest
from kafka.admin import KafkaAdminClient, NewPartitions, NewTopic
from kafka.structs import TopicPartition

from stream.events import EventSchema
from stream.kafka import NoSuchTopicInKafka
from stream.kafka_reader import KafkaReader, OffsetsLost, PositionBeyondEnd
from stream.kafka_source import KafkaSource
from stream.kafka_watch import TopicDeleted, TopicRecreated
from stream.position import Offset, Partition, Position
from tests.stream.kafka_logs import WITHIN_S, numbered, until, write

pytestmark = pytest.mark.kafka


@pytest.fixture
def admin(kafka):
    """Yield a stock admin client."""
    client = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    yield client
    client.close()


@pytest.fixture
def read(kafka):
    """Yield a function that opens a reader of topics; all are closed at the end."""
    opened = []

    def read(*topics, config=kafka, **options):
        opened.append(KafkaReader(config, topics, **options))
        return opened[-1]

    yield read
    for reader in opened:
        reader.close()


def at(topic, message, row=0):
    """Return the position of a message of a topic's only partition."""
    return Position({Partition(topic, 0): Offset(message, row)})


def drain(reader, i=0):
    """Return the offsets that are there, and the letters."""
    offsets, letters = [], []
    while (found := reader.fetch(i, 1000)) is not None:
        offsets += found.offsets.tolist()
        letters += found.rejected
    return offsets, letters


def delete_before(admin, topic, offset):
    """Take the oldest messages away, as retention does."""
    admin.delete_records({TopicPartition(topic, 0): offset})


def test_a_topic_that_is_not_there_is_named_with_those_that_are(read, topic):
    """A wrong name must not wait for ever, as it does in the stock client."""
    there = topic()

    with pytest.raises(NoSuchTopicInKafka, match=r"no topic nowhere; .*keepstream topics create"):
        read(there, "nowhere")
    with pytest.raises(NoSuchTopicInKafka, match=rf"{there}/3 is not there: {there} has 1"):
        read(there, partitions=[Partition(there, 3)])


def test_messages_deleted_before_they_were_read_stop_the_reading(kafka, read, topic, admin):
    """The stock client goes on elsewhere without a word."""
    name = topic()
    write(kafka, name, numbered(10))
    delete_before(admin, name, 6)

    with pytest.raises(OffsetsLost, match=rf"offsets 2 to 5 of {name}/0 .*kafka\.lost"):
        read(name, position=at(name, 2))
    assert ([6, 7, 8, 9], []) == drain(read(name))
    assert ([6, 7, 8, 9], []) == drain(read(name, position=at(name, 6)))


def test_messages_deleted_may_be_passed_over_with_a_letter(kafka, read, topic, admin):
    """Who asks for it goes on, and learns from the dead letters what was lost."""
    name = topic()
    write(kafka, name, numbered(10))
    delete_before(admin, name, 6)
    skip = replace(kafka, lost="skip")

    offsets, letters = drain(read(name, config=skip, position=at(name, 2, row=5)))

    assert [6, 7, 8, 9] == offsets
    assert [(2, 5, "offsets_lost")] == [(r.offset, r.row, r.reason) for r in letters]
    assert letters[0].detail.startswith("offsets 2 to 5: ")


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "stock"])
@pytest.mark.parametrize("lost", ["stop", "skip"])
def test_messages_deleted_under_a_slow_reader(kafka, read, topic, admin, lost, raw):
    """What is fetched already is read; the rest is the same rule as at the start."""
    name = topic()
    write(kafka, name, numbered(5))
    reader = read(name, config=replace(kafka, lost=lost), follow=True, raw=raw)
    assert ([0, 1, 2, 3, 4], []) == drain(reader)
    until(lambda: not reader._consumer._fetcher.in_flight_fetches())  # nothing is on its way
    write(kafka, name, numbered(5))
    delete_before(admin, name, 8)

    if lost == "stop":
        with pytest.raises(OffsetsLost, match="offsets 5 to 7"):
            until(lambda: drain(reader) != ([], []))
    else:
        found = []
        until(lambda: found.append(drain(reader)) or found[-1] != ([], []))
        assert ([8, 9], [(5, "offsets_lost")]) == (
            found[-1][0],
            [(r.offset, r.reason) for r in found[-1][1]],
        )


def test_a_position_behind_the_end_is_refused(kafka, read, topic):
    """A truncated topic, or a position of another cluster: to wait for it would skip messages."""
    name = topic()
    write(kafka, name, numbered(3))

    with pytest.raises(PositionBeyondEnd, match=rf"{name}/0 ends at offset 3, and 7 is wanted"):
        read(name, config=replace(kafka, watch_s=0.3), position=at(name, 7))


def test_a_topic_deleted_while_it_is_read_is_told(kafka, read, topic, admin):
    """The stock client reads nothing for ever."""
    name, other = topic(), topic()
    reader = read(name, other, config=replace(kafka, watch_s=0.3), follow=True)
    assert reader.fetch(0, 9) is None
    admin.delete_topics([name])

    with pytest.raises(TopicDeleted, match=f"{name} was deleted while it was read"):
        until(lambda: reader.wait(0.1))


@pytest.mark.parametrize("messages", [2, 9], ids=["shorter", "longer"])
def test_a_topic_created_anew_is_told(kafka, read, topic, admin, messages):
    """Its messages are others, whether or not it has as many by now as were read of the old."""
    name = topic()
    write(kafka, name, numbered(5))
    reader = read(name, config=replace(kafka, watch_s=0.3), follow=True)
    ids = reader.topic_ids
    assert ([0, 1, 2, 3, 4], []) == drain(reader)
    admin.delete_topics([name])
    until(lambda: name not in admin.list_topics())
    admin.create_topics([NewTopic(name, 1, 1)])

    with pytest.raises(TopicRecreated, match=f"{name} was deleted and created again"):
        until(lambda: reader.wait(0.1))
    write(kafka, name, numbered(messages))
    with pytest.raises(TopicRecreated, match=ids[name]):
        read(name, topic_ids=ids, position=at(name, 5))


def test_new_partitions_end_the_reading_cleanly(kafka, topic, admin):
    """Whoever reads opens anew at the last position, with the new partitions too."""
    name = topic("impressions")
    source = KafkaSource(replace(kafka, watch_s=0.3), [name], EventSchema(), follow=True)
    blocks = iter(source)
    next(blocks)
    admin.create_partitions({name: NewPartitions(3)})

    list(blocks)

    assert source.grown
    source.close()


def test_new_partitions_do_not_end_what_is_read_to_an_end(kafka, read, topic, admin):
    """What a topic held when it was opened is read whole, whatever it becomes."""
    name = topic()
    write(kafka, name, numbered(5))
    reader = read(name, config=replace(kafka, watch_s=0.2))
    admin.create_partitions({name: NewPartitions(3)})
    until(lambda: reader._watch.look() or reader._watch.grown)

    assert not reader.grown
    assert ([0, 1, 2, 3, 4], []) == drain(reader)


def test_new_partitions_are_not_the_matter_of_who_reads_some(kafka, read, topic, admin):
    """A worker is told by its group which partitions are its."""
    name = topic()
    mine = [Partition(name, 0)]
    reader = read(name, partitions=mine, config=replace(kafka, watch_s=0.2), follow=True)
    admin.create_partitions({name: NewPartitions(3)})
    until(lambda: reader.wait(0.1) or reader._watch.grown)

    assert not reader.grown
    assert not reader.is_over


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "stock"])
def test_messages_without_a_value_are_letters(kafka, read, topic, raw):
    """A compacted topic deletes a key so: it is no event, and does not vanish."""
    name = topic()
    write(kafka, name, [b"a", {"value": None, "key": b"k"}, b"c", b""])

    reader = read(name, raw=raw)
    found = reader.fetch(0, 10)

    assert ([b"a", b"c", b""], [0, 2, 3], 4) == (found.messages, found.offsets.tolist(), found.next)
    assert [(1, "no_value")] == [(r.offset, r.reason) for r in found.rejected]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "stock"])
def test_a_message_of_20_megabytes_comes_whole(kafka, topic, raw):
    """It is five times what is fetched at once; its lines are judged as any."""
    name = topic("impressions", max_message_bytes=30_000_000)
    good = b'{"impression_id":1,"user_id":1,"item_id":1,"ts":1700000000000}'
    large = b"\n".join([good, b"x" * 20_000_000, good])
    write(kafka, name, [good, large, good], max_request_size=30_000_000)

    source = KafkaSource(kafka, [name], EventSchema(), raw=raw)
    blocks = list(source)
    source.close()

    assert [(0, 0), (1, 0), (1, 2), (2, 0)] == [
        (o, r) for b in blocks for o, r in zip(b.events.offset, b.events.row, strict=True)
    ]
    assert [(1, 1, "oversize")] == [(r.offset, r.row, r.reason) for b in blocks for r in b.rejected]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "stock"])
@pytest.mark.parametrize("elsewhere", [0, 10], ids=["back", "forth"])
def test_wherever_the_client_thinks_it_is_nothing_comes_twice(kafka, read, topic, raw, elsewhere):
    """After a change of leader kafka-python may put its position back to one it had before."""
    name = topic()
    write(kafka, name, numbered(10))
    reader = read(name, raw=raw, config=replace(kafka, fetch_bytes=1), follow=True)
    offsets = reader.fetch(0, 5).offsets.tolist()
    reader._consumer.seek(TopicPartition(name, 0), elsewhere)

    until(lambda: offsets.extend(drain(reader)[0]) or len(offsets) >= 10)

    assert list(range(10)) == offsets


def test_closing_ends_the_waiting_at_once(kafka, read, topic):
    """A run that is stopped must not wait for the next message."""
    source = KafkaSource(kafka, [topic("impressions")], EventSchema(), follow=True)
    seen = threading.Event()
    blocks = []

    def follow():
        for block in source:
            blocks.append(block)
            seen.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert seen.wait(WITHIN_S)
    began = time.monotonic()
    source.close()
    thread.join(WITHIN_S)

    assert time.monotonic() - began < 1.0
    assert all(block.idle for block in blocks)


@pytest.mark.parametrize("follow", [True, False])
def test_a_source_that_is_closed_says_nothing_more(kafka, topic, follow):
    """That a partition has ended, or is idle, moves the watermark: closing must not."""
    name = topic("impressions")
    write(kafka, name, [b'{"impression_id":1,"user_id":1,"item_id":1,"ts":1700000000000}'] * 9)
    source = KafkaSource(kafka, [name], EventSchema(), follow=follow, block_events=3)
    blocks = iter(source)
    next(blocks)
    source.close()

    assert [] == list(blocks)
