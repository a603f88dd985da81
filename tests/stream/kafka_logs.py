"""What tests of Kafka's readers share: messages written by the stock client, sources read whole."""

import time
from dataclasses import replace

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from stream.position import Partition, Position

WITHIN_S = 60.0


def until(condition):
    """Wait for a condition; fail where it does not come."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def make_topic(kafka, name, partitions=1, replication=1, **settings):
    """Make a topic on a broker of the test's own."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap.split(","))
    configs = {key.replace("_", "."): str(value) for key, value in settings.items()}
    admin.create_topics([NewTopic(name, partitions, replication, topic_configs=configs)])
    admin.close()


def write(kafka, topic, values, *, partition=0, **settings):
    """Send values (or keyword arguments of ``send``) to a partition; return their offsets."""
    with_settings = {"linger_ms": 5, **settings}
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap.split(","), **with_settings)
    try:
        sent = []
        for value in values:
            more = value if isinstance(value, dict) else {"value": value}
            sent.append(producer.send(topic, partition=partition, **more))
        producer.flush()
        return [future.get().offset for future in sent]
    finally:
        producer.close()


class Renamed:
    """A source whose topics have other names: tests share a broker, each has topics of its own."""

    def __init__(self, open_source, names, position):
        self._to = {name: topic for topic, name in names.items()}
        offsets = {Partition(names[p.topic], p.number): o for p, o in position.offsets.items()}
        self._source = open_source(Position(offsets))

    def _back(self, partition):
        return Partition(self._to[partition.topic], partition.number)

    @property
    def partitions(self):
        """Under the names that the test gave them."""
        return tuple(self._back(p) for p in self._source.partitions)

    def __iter__(self):
        for block in self._source:
            offsets = {self._back(p): o for p, o in block.position.offsets.items()}
            rejected = [replace(r, partition=self._back(r.partition)) for r in block.rejected]
            yield replace(block, position=Position(offsets), rejected=tuple(rejected))

    def close(self):
        """Close the source."""
        self._source.close()


def numbered(count):
    """Return values that tell their number."""
    return [b"value %d" % i for i in range(count)]
