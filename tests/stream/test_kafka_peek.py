import pytest

from stream.kafka_peek import peek, values_of
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
from tests.stream.kafka_logs import write

pytestmark = pytest.mark.kafka


def test_single_messages_are_looked_at_wherever_they_are(kafka, topic):
    """Times, and what the last message of a partition says, without reading the topic."""
    name = topic("peek", partitions=3)
    with KafkaWriter(kafka) as writer:
        for n in range(10):
            value = b"x" * 200_000 if n == 9 else b"%d" % n
            writer.append(Partition(name, n % 2), value, key=b"k", at_ms=1_700_000_000_000 + n)
    places = {Partition(name, 0): 0, Partition(name, 1): 4}

    found = peek(kafka, places)

    assert [(0, b"0"), (4, b"x" * 200_000)] == [(r.offset, r.value) for r in found.values()]
    assert [1_700_000_000_000, 1_700_000_000_009] == [r.at_ms for r in found.values()]
    assert {} == peek(kafka, {})
    assert {Partition(name, 2): None} == peek(kafka, {Partition(name, 2): 0})


def test_all_that_is_in_a_topic_is_read_and_no_more(kafka, topic):
    """A command that shows a topic must end, also while somebody writes."""
    name = topic("values", partitions=2)
    with KafkaWriter(kafka) as writer:
        for n in range(3_000):
            writer.append(Partition(name, n % 2), b"%d" % n)
        writer.flush()
        refused = []
        values = values_of(kafka, name, refused.append)
        first = next(values)
        writer.append(Partition(name, 0), b"later")
        writer.append(Partition(name, 1), b"later")
        writer.flush()

        found = [first, *values]

    assert [b"%d" % n for n in (*range(0, 3_000, 2), *range(1, 3_000, 2))] == found
    assert [] == refused


def test_what_cannot_be_read_is_given_to_who_asks_for_the_rest(kafka, topic):
    """A message that is left out without a word is a message lost."""
    name, refused = topic("values"), []
    write(kafka, name, [b"0", {"key": b"k", "value": None}, b"2"])

    assert [b"0", b"2"] == list(values_of(kafka, name, refused.append))
    assert [(1, "no_value")] == [(r.offset, r.reason) for r in refused]
