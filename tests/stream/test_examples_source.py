import time

import numpy as np
import pytest
from kafka.admin import KafkaAdminClient, NewPartitions

from stream.events import EventColumns, EventSchema
from stream.example_columns import ExampleColumns
from stream.examples import ExampleBlock, MissingFeature, encode
from stream.examples_source import ExamplesSource
from stream.kafka import NoSuchTopicInKafka
from stream.kafka_writer import KafkaWriter
from stream.position import Partition, Position
from tests.stream.labelled import progress

pytestmark = pytest.mark.kafka

SCHEMA = EventSchema(ids=("colour",), numbers=("price",))
T0 = 1_700_000_000_000
WITHIN_S = 30.0


def record(first, n, schema=SCHEMA):
    """Return the value and headers of examples numbered from ``first``, complete to the next."""
    examples = ExampleColumns.empty(schema, n)
    examples.at[:] = examples.ts[:] = T0 + first + np.arange(n)
    examples.impression[:] = examples.ids[:, 0] = 1 + first + np.arange(n)
    told = progress(T0 + first + n)
    return encode(ExampleBlock(examples=examples, schema=schema, progress=told), schema)


def write(kafka, topic, *records, partition=0):
    """Append records, each (value, headers)."""
    with KafkaWriter(kafka) as writer:
        for value, headers in records:
            writer.append(Partition(topic, partition), value, headers=headers)


@pytest.fixture
def opened(kafka):
    """Yield a function that opens a source; all are closed."""
    sources = []

    def open_source(topic, schema=SCHEMA, **options):
        sources.append(ExamplesSource(kafka, topic, schema, **options))
        return sources[-1]

    yield open_source
    for source in sources:
        source.close()


def numbers(blocks):
    """Return the numbers of the examples in blocks, as they came."""
    events = EventColumns.concat([ExampleColumns.empty(SCHEMA), *(b.events for b in blocks)])
    return (events.impression.astype(int) - 1).tolist()


def test_trainers_of_different_models_read_one_topic_each_by_its_own_position(kafka, topic, opened):
    """Workers join once; who reads, and how far, is nobody else's concern."""
    name = topic("examples")
    write(kafka, name, *(record(i, 10) for i in range(0, 300, 10)))
    one, other = opened(name), opened(name, EventSchema(numbers=("price",)), block_events=7)
    first = next(iter(other))

    assert [*range(300)] == numbers(one)
    assert (0, 1) == (first.events.ids.shape[1], first.events.numbers.shape[1])
    rest = opened(name, other.schema, position=first.position)
    events = EventColumns.concat([first.events, *(b.events for b in rest if len(b.events))])
    assert [*range(1, 301)] == events.impression.tolist()


def test_it_goes_on_exactly_from_any_position_and_says_what_is_complete(kafka, topic, opened):
    """A trainer that is killed between two rows of a record learns no example twice."""
    name = topic("examples", 2)
    for partition in (0, 1):
        sizes = [5, 0, 9, 1]
        starts = [0, 5, 5, 14]
        records = (record(a, n) for a, n in zip(starts, sizes, strict=True))
        write(kafka, name, *records, partition=partition)
    blocks = [*opened(name, block_events=4)]
    told = {p: told.complete_to for block in blocks for p, told in block.progress.items()}

    assert {0: T0 + 15, 1: T0 + 15} == told
    assert frozenset({0, 1}) == blocks[-1].ended
    for i, block in enumerate(blocks):
        position = Position.from_json(block.position.to_json())
        rest = [*opened(name, position=position)]
        assert sorted([*range(15)] * 2) == sorted(numbers([*blocks[: i + 1], *rest]))
        progressed = {p for b in [*blocks[: i + 1], *rest] for p in b.progress}
        assert {0, 1} == progressed


def test_a_foreign_record_is_a_dead_letter_and_stops_nothing(kafka, topic, opened):
    """Anybody who may write to the topic may err."""
    name = topic("examples")
    value, headers = record(3, 2)
    write(kafka, name, record(0, 3), (b"hello", []), (value[:99], headers), record(3, 2))
    blocks = [*opened(name)]
    letters = [letter for block in blocks for letter in block.rejected]

    assert [0, 1, 2, 3, 4] == numbers(blocks)
    assert [(1, "bad_examples"), (2, "bad_examples")] == [(x.offset, x.reason) for x in letters]
    assert Partition(name, 0) == letters[0].partition


def test_a_feature_that_workers_do_not_write_ends_the_run_at_its_start(kafka, topic, opened):
    """With its name and what to do, before anything was learned without it."""
    name = topic("examples")
    write(kafka, name, record(0, 3))

    with pytest.raises(MissingFeature, match=r"'brand'.*\[features\]"):
        next(iter(opened(name, EventSchema(ids=("colour", "brand")))))


def test_a_topic_that_is_not_there_is_named(opened):
    """As for the topics of events."""
    with pytest.raises(NoSuchTopicInKafka, match="no-examples-here"):
        opened("no-examples-here")


def test_small_records_come_in_large_blocks(kafka, topic, opened):
    """Quiet hours are written record by record; whoever catches up must not pay for each."""
    name = topic("examples")
    write(kafka, name, *(record(i, 1) for i in range(1_000)))
    blocks = [*opened(name)]

    assert [*range(1_000)] == numbers(blocks)
    assert len(blocks) < 40


def test_it_follows_a_topic_and_tells_which_partition_has_no_worker(kafka, topic, opened):
    """Partitions hold each other back: what no worker labels must not hold for ever."""
    name = topic("examples", 2)
    for partition in (0, 1):
        write(kafka, name, record(0, 3), partition=partition)
    source = opened(name, follow=True, idle_s=1.0)
    deadline, found, written = time.monotonic() + WITHIN_S, [], 3
    for block in source:
        found.append(block)
        assert time.monotonic() < deadline
        if block.idle or not len(block.events):
            if frozenset({1}) == block.idle:
                break
            write(kafka, name, record(written, 1))  # the other one goes on
            written += 1

    assert {0, 1, 2} < set(numbers(found))
    assert not any(block.idle for block in found[:2])


def test_a_topic_that_grows_ends_the_reading(kafka, topic, opened):
    """It is opened anew with all its partitions, and goes on where it was."""
    name = topic("examples")
    write(kafka, name, record(0, 3))
    source = opened(name, follow=True)
    blocks = iter(source)
    position = next(blocks).position
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_partitions({name: NewPartitions(2)})
    admin.close()
    write(kafka, name, record(0, 2), partition=1)
    last = [*blocks]

    assert source.grown
    assert 0 == sum(len(block.events) for block in last)
    again = opened(name, position=position)
    assert 2 == len(again.partitions)
    assert [0, 1] == numbers(again)


def test_a_reading_that_is_broken_off_tells_of_no_end(kafka, topic, opened):
    """A trainer that is stopped half-way must not settle the order as if its log had ended."""
    name = topic("examples", 2)
    for partition in (0, 1):
        write(kafka, name, *(record(i, 10) for i in range(0, 300, 10)), partition=partition)
    source = opened(name, block_events=5)
    blocks = iter(source)
    next(blocks)
    source.close()

    assert not any(block.ended for block in blocks)
