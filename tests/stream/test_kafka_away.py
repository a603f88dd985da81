"""Brokers that die, hang, come back, or hold damaged files: a reader waits, says so and goes on."""

import gc
import logging
import struct
import threading
import time
import uuid
import warnings

import crc32c
import pytest
from kafka import KafkaProducer

from benchmarks.broker import Broker, kafka_home
from stream import kafka_reader
from stream.kafka_peek import values_of
from stream.kafka_reader import KafkaReader
from tests.stream.kafka_logs import make_topic, numbered, until, write

SOCKETS = "ignore:unclosed <socket:ResourceWarning"  # of kafka-python: those that fail to connect
pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.filterwarnings(SOCKETS)]


@pytest.fixture(autouse=True)
def collected():
    """Let go of the sockets that failed to connect, before another test does."""
    logger = logging.getLogger("kafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the errors it logs hold on to the sockets
    yield
    logger.setLevel(level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Yield a broker that tests may break; it closes connections that are idle for a second."""
    if kafka_home() is None:
        pytest.skip("there is no Kafka to start and break: set KAFKA_HOME")
    with Broker(
        tmp_path_factory.mktemp("kafka"), properties={"connections.max.idle.ms": 1000}
    ) as broker:
        yield broker


@pytest.fixture
def own(started):
    """Yield the broker, whole again."""
    if 1 in started.pids:
        started.resume()
    else:
        started.start()
    return started


@pytest.fixture
def name(own):
    """Yield a topic of two partitions."""
    name = f"impressions-{uuid.uuid4().hex[:8]}"
    make_topic(own.config(), name, 2)
    return name


class Follower:
    """Follows a topic in a thread of its own; keeps what it read and what it was told."""

    def __init__(self, config, topic, **options):
        """Begin at the beginning."""
        self.offsets, self.values, self.letters, self.said = [], [], [], []
        self.longest_s = 0.0  # between two messages
        self.error = None
        self.reader = KafkaReader(config, [topic], follow=True, say=self.said.append, **options)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        last = time.monotonic()
        try:
            while not self.reader.wait(0.05):
                while (found := self.reader.fetch(0, 100)) is not None:
                    self.offsets += found.offsets.tolist()
                    self.values += found.messages
                    self.letters += found.rejected
                    now = time.monotonic()
                    self.longest_s, last = max(self.longest_s, now - last), now
        except Exception as error:  # noqa: BLE001  # the test says what it expects
            self.error = error

    def close(self):
        """Stop following; return how long that took, in seconds."""
        began = time.monotonic()
        self.reader.close()
        self._thread.join(30)
        assert not self._thread.is_alive()
        return time.monotonic() - began


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_a_broker_that_is_away_is_waited_for(own, name, how):
    """A log that cannot be read is not a silent one: nothing may go on as if it had ended."""
    write(own.config(), name, numbered(10))
    follower = Follower(own.config(), name)
    try:
        until(lambda: len(follower.offsets) == 10)
        (own.kill if how == "killed" else own.pause)()
        until(lambda: follower.said)
        assert "does not answer for 3 s: waiting" in follower.said[0]
        (own.start if how == "killed" else own.resume)()
        back = time.monotonic()
        write(own.config(), name, numbered(10))
        until(lambda: len(follower.offsets) == 20 or follower.error)
        assert time.monotonic() - back < 5.0
        until(lambda: len(follower.said) == 2)
        assert "answers again, after" in follower.said[1]
    finally:
        (own.kill if how == "killed" else own.pause)()
        closing_s = follower.close()

    assert follower.error is None
    assert list(range(20)) == follower.offsets
    assert closing_s < 2.0  # also while it is away


def test_nothing_is_at_its_end_while_nobody_confirms_it(own, name):
    """An idle partition lets the watermark pass: that must not happen because a broker died."""
    reader = KafkaReader(own.config(), [name], follow=True)
    assert reader.fetch(0, 1) is None
    own.kill()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(_ask_for(reader, 1.0)))
    thread.start()
    thread.join(1.5)
    waits = thread.is_alive()
    reader.close()
    thread.join(10)

    assert waits  # inside `fetch`: it was told nothing


def _ask_for(reader, seconds):
    deadline = time.monotonic() + seconds
    while reader.fetch(0, 1) is None and time.monotonic() < deadline:
        reader.wait(0.05)


def test_damage_on_a_brokers_disk_costs_its_batches_only(own, name):
    """Brokers do not look into what they hold: who reads it finds out, and says which offsets."""
    for _ in range(5):
        write(own.config(), name, numbered(3))  # a batch each
    own.stop()
    log = own.folder / "data-1" / f"{name}-0" / f"{0:020}.log"
    raw = bytearray(log.read_bytes())
    starts = _batches(raw)
    raw[starts[1] + 65] ^= 1
    raw[starts[3] + 22] |= 7  # a codec that nobody knows, and a checksum that fits
    end = starts[4]
    raw[starts[3] + 17 : starts[3] + 21] = struct.pack(
        ">I", crc32c.crc32c(bytes(raw[starts[3] + 21 : end]))
    )
    log.write_bytes(raw)
    own.start()

    refused = []
    assert 9 == len(list(values_of(own.config(), name, refused.append)))
    assert [3, 9] == [r.offset for r in refused]
    for unpack in (True, False):
        reader = KafkaReader(own.config(), [name], raw=unpack)
        offsets, letters = [], []
        while (found := reader.fetch(0, 100)) is not None:
            offsets += found.offsets.tolist()
            letters += found.rejected
        reader.close()

        assert [0, 1, 2, 6, 7, 8, 12, 13, 14] == offsets
        assert [(3, "corrupt_batch"), (9, "unknown_compression")] == [
            (r.offset, r.reason) for r in letters
        ]
        assert [r.detail.partition(":")[0] for r in letters] == [
            "offsets 3 to 5",
            "offsets 9 to 11",
        ]


def _batches(raw):
    starts, at = [], 0
    while at < len(raw):
        starts.append(at)
        at += 12 + struct.unpack_from(">i", raw, at + 8)[0]
    return starts


def test_a_step_longer_than_every_time_out_loses_nothing(own, name, monkeypatch):
    """A learner may take minutes: nobody is expelled, and a closed connection is opened again."""
    short = {"request_timeout_ms": 600, "connections_max_idle_ms": 900, "metadata_max_age_ms": 500}
    monkeypatch.setattr(kafka_reader, "SETTINGS", kafka_reader.SETTINGS | short)
    for partition in (0, 1):
        write(own.config(), name, numbered(50), partition=partition)
    reader = KafkaReader(own.config(fetch_bytes=200), [name], follow=True)
    read = {0: [], 1: []}
    try:
        for _ in range(3):
            read[0] += reader.fetch(0, 5).offsets.tolist()
            idle = threading.Event()
            idle.wait(2.5)  # the step: longer than a request, a connection, a session may last
        for i in (0, 1):
            until(lambda i=i: _more(reader, i, read[i]) == 50)
    finally:
        reader.close()

    assert {0: list(range(50)), 1: list(range(50))} == read


def _more(reader, i, offsets):
    while (found := reader.fetch(i, 7)) is not None:
        offsets += found.offsets.tolist()
    return len(offsets)


@pytest.mark.chaos
def test_the_death_of_a_leader_loses_nothing_and_takes_seconds(broker):
    """Replication is what a cluster is for: a reader goes on with the next leader."""
    kafka = broker(brokers=3)
    make_topic(kafka.config(), "impressions", replication=3)
    follower = Follower(kafka.config(), "impressions")
    writing = threading.Event()
    sent = []

    def load():
        servers = kafka.bootstrap.split(",")
        producer = KafkaProducer(bootstrap_servers=servers, reconnect_backoff_max_ms=1000)
        while not writing.wait(0.005):
            sent.append(producer.send("impressions", b"%d" % len(sent), partition=0))
        producer.flush()
        producer.close()

    writer = threading.Thread(target=load)
    writer.start()
    try:
        until(lambda: len(follower.offsets) >= 100)
        leader = _leader(follower.reader)
        kafka.kill(leader)
        read = len(follower.offsets)
        until(lambda: len(follower.offsets) >= read + 200 or follower.error)
        kafka.start(leader)
        read = len(follower.offsets)
        until(lambda: len(follower.offsets) >= read + 200 or follower.error)
        writing.set()
        writer.join(60)
        until(lambda: len(follower.offsets) >= len(sent) or follower.error)
    finally:
        writing.set()
        writer.join(60)
        follower.close()

    assert follower.error is None
    assert list(range(len(sent))) == follower.offsets
    assert [b"%d" % i for i in range(len(sent))] == follower.values
    assert follower.longest_s < 15.0


def _leader(reader):
    return reader._watch._cluster.leader_for_partition(reader._tps[0])
