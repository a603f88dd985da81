import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource

from benchmarks.broker import Broker, kafka_home
from stream import kafka_writer
from stream.kafka import KafkaConfig, KafkaError, NoSuchTopicInKafka, consumer_settings
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter, MessageTooLarge, NotDelivered
from stream.position import Partition

pytestmark = pytest.mark.kafka
MakeTopic = Callable[..., str]


def written(config: KafkaConfig, topic: str) -> dict[int, list[Any]]:
    """Return the messages of a topic, by partition in log order."""
    with (
        Topics(config) as topics,
        closing(KafkaConsumer(**consumer_settings(config))) as consumer,
    ):
        count = topics.describe([topic])[topic].partitions
        places = [Partition(topic, n) for n in range(count)]
        ends = topics.ends(places)
        consumer.assign([TopicPartition(*p) for p in places])
        consumer.seek_to_beginning()
        found: dict[int, list[Any]] = {n: [] for n in range(count)}
        deadline = time.monotonic() + 60
        while any(consumer.position(TopicPartition(*p)) < end for p, end in ends.items()):
            assert time.monotonic() < deadline
            for place, records in consumer.poll(timeout_ms=200).items():
                found[place.partition] += records
        return found


def values(config: KafkaConfig, topic: str) -> dict[int, list[bytes]]:
    """Return the values of a topic's messages."""
    return {n: [r.value for r in records] for n, records in written(config, topic).items()}


@pytest.fixture(scope="module")
def one_to_break(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Yield a broker of these tests' own."""
    if kafka_home() is None:
        pytest.skip("there is no Kafka to start: set KAFKA_HOME to an unpacked Kafka 4 download")
    with Broker(tmp_path_factory.mktemp("broken")) as broker:
        yield broker


@pytest.fixture
def frail(one_to_break: Broker) -> Broker:
    """Return a broker that may be killed and paused; it runs, whatever a test before has done."""
    if not one_to_break.pids:
        one_to_break.start()
    one_to_break.resume()
    return one_to_break


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Yield what a writer has said."""
    yield []


def made(config: KafkaConfig, hint: str) -> Partition:
    """Return the one partition of a new topic."""
    name = f"{hint}-{uuid.uuid4().hex[:12]}"
    with Topics(config) as topics:
        topics.create(name, 1)
    return Partition(name, 0)


def wait_for(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_flushed_is_there_in_order(kafka: KafkaConfig, topic: MakeTopic) -> None:
    """Order within a partition is what everything else is built on."""
    name = topic("order", 3)
    expected: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    with KafkaWriter(kafka) as writer:
        for i in range(5000):
            expected[i % 3].append(b"%d" % i)
            writer.append(Partition(name, i % 3), b"%d" % i)
        writer.flush()
        assert expected == values(kafka, name)
        writer.append(Partition(name, 0), b"last")

    assert expected[0] + [b"last"] == values(kafka, name)[0]  # closing flushes


def test_keys_headers_and_times_come_through(kafka: KafkaConfig, topic: MakeTopic) -> None:
    """Examples carry their progress in headers, letters their place in the key."""
    name = topic("whole")
    headers = [("a", b"1"), ("ä", b""), ("a", b"\x00\xff")]
    with KafkaWriter(kafka) as writer:
        writer.append(Partition(name, 0), b"v", key=b"k", headers=headers, at_ms=1_700_000_000_123)
        writer.append(Partition(name, 0), b"")

    first, second = written(kafka, name)[0]
    assert (b"v", b"k", headers, 1_700_000_000_123) == (
        first.value,
        first.key,
        list(first.headers),
        first.timestamp,
    )
    assert (b"", None, []) == (second.value, second.key, list(second.headers))
    assert second.timestamp > first.timestamp  # now


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_carries_what_cannot_be_compressed(
    kafka: KafkaConfig, topic: MakeTopic, compression: Any
) -> None:
    """A message of exactly the limit passes, also where a codec makes it larger."""
    name = topic("random", max_message_bytes=100_000)
    config = KafkaConfig(bootstrap=kafka.bootstrap, compression=compression)
    with KafkaWriter(config) as writer:
        sizes = [writer.limit(name), 1, writer.limit(name), 50_000, 60_000]
        messages = [random.Random(i).randbytes(size) for i, size in enumerate(sizes)]
        for message in messages:
            writer.append(Partition(name, 0), message)

    assert messages == values(config, name)[0]


def test_a_message_that_is_too_large_is_refused_and_the_next_is_written(
    kafka: KafkaConfig, topic: MakeTopic
) -> None:
    """A broker that refuses one message ends a producer: it must not get to see it."""
    name = topic("large", max_message_bytes=10_000)
    with KafkaWriter(kafka) as writer:
        limit = writer.limit(name)
        writer.append(Partition(name, 0), b"before")
        with pytest.raises(MessageTooLarge, match=r"10,001 bytes .*max.message.bytes = 10000.*per"):
            writer.append(Partition(name, 0), bytes(10_001))
        with pytest.raises(MessageTooLarge):  # key and headers count
            writer.append(Partition(name, 0), bytes(limit - 100), key=bytes(101))
        with pytest.raises(MessageTooLarge):
            writer.append(Partition(name, 0), bytes(limit - 100), headers=[("h", bytes(100))])
        writer.append(Partition(name, 0), b"after")
        assert 9_000 < limit < 10_000

    assert [b"before", b"after"] == values(kafka, name)[0]


def test_many_small_messages_do_not_make_a_batch_that_is_too_large(
    kafka: KafkaConfig, topic: MakeTopic
) -> None:
    """The limit is one of batches: a topic with a small one gets small batches."""
    small, large = topic("small", max_message_bytes=5_000), topic("usual")
    messages = [random.Random(i).randbytes(400) for i in range(500)]
    with KafkaWriter(kafka) as writer:
        writer.append(Partition(large, 0), b"before")
        for message in messages:
            writer.append(Partition(small, 0), message)
        writer.append(Partition(large, 0), b"after")

    assert messages == values(kafka, small)[0]
    assert [b"before", b"after"] == values(kafka, large)[0]


def test_a_limit_lowered_meanwhile_fails_one_flush_and_not_the_writer(
    kafka: KafkaConfig, topic: MakeTopic
) -> None:
    """Where a broker refuses all the same, the failure is told once and a new producer goes on."""
    name = topic("lowered")
    config = KafkaConfig(bootstrap=kafka.bootstrap, compression="none")
    lower = ConfigResource("topic", name, {"max.message.bytes": "500"})
    with KafkaWriter(config) as writer, Topics(config) as topics:
        writer.append(Partition(name, 0), b"before")
        writer.flush()
        with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap)) as admin:
            admin.alter_configs([lower])
        wait_for(lambda: "500" == topics.describe([name])[name].settings["max.message.bytes"])
        writer.append(Partition(name, 0), bytes(2_000))
        with pytest.raises(NotDelivered, match=rf"{name}/0 was not written.*max.message.bytes"):
            writer.flush()
        with pytest.raises(MessageTooLarge):  # the limit was asked for anew
            writer.append(Partition(name, 0), bytes(2_000))
        writer.append(Partition(name, 0), b"after")

    assert [b"before", b"after"] == values(config, name)[0]


def test_a_missing_topic_or_partition_is_named_within_seconds(
    kafka: KafkaConfig, topic: MakeTopic
) -> None:
    """kafka-python would wait a minute, and then not say for what."""
    name = topic("there", 2)
    begin = time.monotonic()
    with KafkaWriter(kafka) as writer:
        with pytest.raises(NoSuchTopicInKafka, match=r"no topic missing; it has \w"):
            writer.append(Partition("missing", 0), b"x")
        with pytest.raises(NoSuchTopicInKafka, match=f"{name}/2 is not in Kafka.* 0 to 1"):
            writer.append(Partition(name, 2), b"x")
        writer.append(Partition(name, 1), b"x")

    assert time.monotonic() - begin < 10
    assert {0: [], 1: [b"x"]} == values(kafka, name)


def test_partitions_that_were_added_can_be_written(kafka: KafkaConfig, topic: MakeTopic) -> None:
    """A topic grows while it is written."""
    name = topic("grown", 1)
    with KafkaWriter(kafka) as writer:
        writer.append(Partition(name, 0), b"old")
        with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap)) as admin:
            admin.create_partitions({name: 2})
            wait_for(lambda: 2 == len(admin.describe_topics([name])[0]["partitions"]))
        writer.append(Partition(name, 1), b"new")

    assert {0: [b"old"], 1: [b"new"]} == values(kafka, name)


def test_a_topic_deleted_while_it_is_written_is_named(
    kafka: KafkaConfig, topic: MakeTopic, said: list[str]
) -> None:
    """kafka-python looks for its leader for ten minutes, without a word."""
    name = topic("deleted")
    writer = KafkaWriter(kafka, say=said.append)
    with closing(writer), Topics(kafka) as topics:
        writer.append(Partition(name, 0), b"x")
        writer.flush()
        topics.delete([name])
        wait_for(lambda: not topics.find([name]))
        writer.append(Partition(name, 0), b"y")
        with pytest.raises(NotDelivered, match=f"the topic {name} is gone"):
            writer.flush()
        with pytest.raises(NoSuchTopicInKafka, match=name):
            writer.append(Partition(name, 0), b"z")


def test_what_waits_is_bounded(frail: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away must not fill the memory: the one who appends waits instead."""
    monkeypatch.setattr(kafka_writer, "BUFFER_BYTES", 200_000)
    config = frail.config(compression="none")
    place = made(config, "bounded")
    appended: list[int] = []
    with KafkaWriter(config) as writer:
        writer.append(place, b"first")
        writer.flush()
        frail.pause()

        def fill() -> None:
            for i in range(500):
                writer.append(place, bytes(1000))
                appended.append(i)

        filling = threading.Thread(target=fill)
        filling.start()
        wait_for(lambda: len(appended) >= 130)
        filling.join(0.5)
        assert 130 <= len(appended) <= 140  # 200,000 / (1,000 + what a message costs)
        frail.resume()
        filling.join(60)
        assert 500 == len(appended)

    assert 501 == len(values(config, place.topic)[0])


@pytest.mark.chaos
def test_a_broker_that_dies_loses_nothing_and_doubles_nothing(frail: Broker) -> None:
    """Killed again and again while messages come: every one is there once, in its place."""
    config = frail.config()
    place = made(config, "killed")
    count, stop = 0, threading.Event()

    def kill() -> None:
        try:
            for _ in range(2):
                reached = count + 500
                wait_for(lambda: count >= reached)  # noqa: B023  at once
                frail.kill()
                frail.start()
        finally:
            stop.set()

    killing = threading.Thread(target=kill)
    with KafkaWriter(config) as writer:
        killing.start()
        while not stop.wait(0.001):
            for _ in range(5):  # messages before, during and after each death
                writer.append(place, b"%d" % count)
                count += 1
        killing.join()

    assert [b"%d" % i for i in range(count)] == values(config, place.topic)[0]
    assert count >= 1000


@pytest.mark.chaos
@pytest.mark.parametrize("how", ["killed", "paused"])
def test_a_broker_that_is_away_is_told_and_waited_for(
    frail: Broker, said: list[str], how: str
) -> None:
    """Whoever looks at a program that stands still must see why, and when it is over."""
    config = frail.config()
    place = made(config, "away")
    with KafkaWriter(config, say=said.append) as writer:
        writer.append(place, b"before")
        writer.flush()
        if how == "killed":
            frail.kill()
        else:
            frail.pause()
        writer.append(place, b"meanwhile")
        with pytest.raises(KafkaError, match=rf"1 messages for {place} .*not acknowledged after 0"):
            writer.flush(timeout_s=0.5)
        flushing = threading.Thread(target=writer.flush)
        flushing.start()
        wait_for(lambda: said)
        assert f"{frail.bootstrap} has taken nothing for {place} for " in said[0]
        assert ("Nobody listens" if how == "killed" else "says nothing") in said[0]
        if how == "killed":
            frail.start()
        else:
            frail.resume()
        flushing.join(60)
        assert not flushing.is_alive()
        assert "is back after" in said[-1]

    assert [b"before", b"meanwhile"] == values(config, place.topic)[0]


def test_leaving_with_an_error_does_not_wait_for_a_broker(
    frail: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is to be seen now, not after the ten minutes that a broker is given."""
    monkeypatch.setattr(kafka_writer, "LEAVE_S", 0.5)
    place = made(frail.config(), "left")
    threads = set(threading.enumerate())
    begin = 0.0
    with pytest.raises(ZeroDivisionError), KafkaWriter(frail.config()) as writer:
        writer.append(place, b"x")
        writer.flush()
        frail.pause()
        writer.append(place, b"y")
        begin = time.monotonic()
        raise ZeroDivisionError
    assert time.monotonic() - begin < 10
    frail.resume()
    wait_for(lambda: not set(threading.enumerate()) - threads)


def test_a_closed_writer_takes_nothing(kafka: KafkaConfig, topic: MakeTopic) -> None:
    """Closing twice is nothing; appending after it is a mistake."""
    name = topic("closed")
    writer = KafkaWriter(kafka)
    writer.close()
    writer.close()

    with pytest.raises(KafkaError, match="closed"):
        writer.append(Partition(name, 0), b"x")


def test_it_is_not_slower_than_the_client_needs(kafka: KafkaConfig, topic: MakeTopic) -> None:
    """Far below what is measured (`benchmarks`): only a mistake of a whole order shows here."""
    name = topic("speed")
    with KafkaWriter(kafka) as writer:
        writer.append(Partition(name, 0), b"first")
        writer.flush()
        begin = time.process_time()
        for _ in range(10_000):
            writer.append(Partition(name, 0), bytes(200))
        writer.flush()
        assert time.process_time() - begin < 2.0  # 200 µs a message; measured: 10 to 20
