from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstream.inputs import Bounded
from stream.blocks import BlockRule, Fetched
from stream.events import EventColumns, EventSchema
from stream.example_blocks import ExampleRecord, read_examples
from stream.example_columns import ExampleColumns
from stream.example_order import ExampleOrder
from stream.examples import ExampleBlock, MissingFeature, NewerExamples, Progress, encode
from stream.order import OrderConfig
from stream.position import Offset, Partition, Position
from tests.stream.labelled import progress

SCHEMA = EventSchema(ids=("colour",), numbers=("price",), lists=(("seen", 2),))
PLACES = (Partition("examples", 0), Partition("examples", 1))
T0 = 1_700_000_000_000


def record(first, n, complete=None, schema=SCHEMA):
    """Return a record of examples shown at ``first``, … after T0."""
    examples = ExampleColumns.empty(schema, n)
    examples.at[:] = examples.ts[:] = T0 + first + np.arange(n)
    examples.impression[:] = examples.ids[:, 0] = first + np.arange(n)
    examples.origin_offset[:] = examples.impression
    examples.scene[:] = 7
    told = progress(None if complete is None else T0 + complete)
    block = ExampleBlock(examples=examples, schema=schema, progress=told, names={7: "home"})
    return ExampleRecord(*encode(block, schema))


class Log:
    """Records in memory, ``most`` of them at a time; more may be appended."""

    def __init__(self, *records, most=3, start=0) -> None:
        self.records, self._next, self._most = [*records], start, most

    def fetch(self, most):
        """Return the next records."""
        found = self.records[self._next : self._next + min(most, self._most)]
        if not found:
            return None
        first, self._next = self._next, self._next + len(found)
        return Fetched(found, np.arange(first, self._next), self._next)


def read(*logs, position=None, block_events=100, schema=SCHEMA, **options):
    """Yield the blocks of logs of the partitions."""
    places, position = PLACES[: len(logs)], position or Position()
    rule = BlockRule(block_events=block_events)
    yield from read_examples(places, logs, schema, position, rule, **options)


RECORDS = [record(0, 3, 2), record(3, 0, 3), record(3, 5, 7), record(8, 1, 9), record(9, 0, 12)]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 20))
def test_the_cut_makes_no_difference_nor_does_opening_it_anew(block_events, most, stop):
    """Progress comes with the last example of its record, never before."""
    found, told, position = [], [], Position()
    for number, block in enumerate(read(Log(*RECORDS, most=most), block_events=block_events)):
        if number == stop:
            break
        found.append(block.events)
        told += [(p.complete_to - T0, sum(map(len, found))) for p in block.progress.values()]
        position = block.position
    log = Log(*RECORDS, most=most, start=position.of(PLACES[0]).message)
    for block in read(log, position=position, block_events=block_events):
        found.append(block.events)
        told += [(p.complete_to - T0, sum(map(len, found))) for p in block.progress.values()]

    some = [x for x in found if len(x)]
    assert [*range(9)] == EventColumns.concat(some).impression.tolist()
    assert (12, 9) == told[-1]
    for complete, read_by_then in told:
        assert read_by_then >= sum(i < complete for i in range(9))
    offsets = EventColumns.concat(some).offset.tolist()
    assert [0, 0, 0, 2, 2, 2, 2, 2, 3] == offsets


def test_a_block_may_begin_inside_a_record():
    """Positions are of rows, as in every source."""
    block, _ = read(Log(RECORDS[0]), position=Position({PLACES[0]: Offset(0, 2)}))

    assert [(2, 0, 2)] == [
        *zip(block.events.impression, block.events.offset, block.events.row, strict=True)
    ]
    assert T0 + 2 == block.progress[0].complete_to


def test_a_record_that_no_worker_wrote_is_a_dead_letter():
    """Anybody may write to a topic; nothing else is lost for it."""
    value, headers = RECORDS[2]
    foreign = [
        ExampleRecord(b'{"impression_id": "a"}', ()),
        ExampleRecord(b"", headers),
        ExampleRecord(value[:200], headers),
        ExampleRecord(value, [(headers[0][0], b"{}")]),
    ]
    blocks = [*read(Log(RECORDS[0], *foreign, RECORDS[2]))]
    letters = [letter for block in blocks for letter in block.rejected]

    assert [(1, 0), (2, 0), (3, 0), (4, 0)] == [(x.offset, x.row) for x in letters]
    assert {"bad_examples"} == {x.reason for x in letters}
    assert b'{"impression_id": "a"}' == letters[0].raw
    assert 8 == sum(len(block.events) for block in blocks)


def test_a_record_of_a_newer_worker_ends_the_reading(monkeypatch):
    """As a dead letter it would be passed over, and never learned."""
    with monkeypatch.context() as newer:
        newer.setattr("stream.examples.FORMAT", 2)
        later = record(3, 5, 7)
    blocks = read(Log(RECORDS[0], later, most=1))
    next(blocks)

    with pytest.raises(NewerExamples, match="examples/0 at 1 holds"):
        next(blocks)


def test_a_feature_that_workers_do_not_write_is_named():
    """At the first record, and with what to do: not a model of zeros."""
    wanted = EventSchema(ids=("colour", "brand"), numbers=("price",), lists=(("seen", 2),))

    with pytest.raises(MissingFeature, match=r"'brand'.*workers"):
        next(read(Log(RECORDS[0]), schema=wanted))


def test_a_trainer_takes_the_features_that_it_knows():
    """Trainers of different models read one topic."""
    wanted = EventSchema(ids=("colour",))
    events = next(read(Log(RECORDS[0]), schema=wanted)).events

    assert ((3, 1), (3, 0), (3, 0)) == (events.ids.shape, events.numbers.shape, events.lists.shape)
    assert [0, 1, 2] == events.ids[:, 0].tolist()


def test_names_of_scenes_come_with_them():
    """Reports speak of scenes by name."""
    assert {7: "home"} == next(read(Log(RECORDS[0]))).names


def followed(*logs, until, step=1.0, idle_s=10, then=lambda now: None, **options):
    """Return by time which partitions were idle; ``then`` may write what is read next."""
    now, idle = [0.0], {}

    def wait():
        now[0] += step
        then(now[0])
        return now[0] >= until

    for block in read(*logs, wait=wait, clock=lambda: now[0], idle_s=idle_s, **options):
        idle[now[0]] = set(block.idle)
    return idle


def test_a_partition_is_idle_when_its_examples_no_longer_go_on():
    """One that is quiet says so, ever again, up to a later time; one without a worker is silent."""
    logs = [Log(RECORDS[0]), Log(RECORDS[0])]
    told = {1: 4, 9: 5, 11: 6}

    def then(now):
        if now in told:
            logs[0].records.append(record(0, 0, told[now]))

    idle = followed(*logs, until=23, then=then)

    assert set() == idle[0] == idle[9]
    assert {1} == idle[11] == idle[20]
    assert {0, 1} == idle[22]


def test_a_partition_that_says_the_same_again_does_not_go_on():
    """A worker that stands still may yet write: others must not wait for it for ever."""
    log = Log(RECORDS[0])
    idle = followed(log, until=20, then=lambda now: log.records.append(record(0, 0, 2)))

    assert {0} == idle[19]


def test_a_partition_that_is_read_again_has_a_worker():
    """After a crash nothing is complete for long; whoever recovers says how far it has read."""
    log = Log(RECORDS[0])

    def then(now):
        value, headers = record(0, 0, 2)
        told = Progress.decode(dict(headers)["keepstream-progress"])
        place = Partition("impressions", 0)
        at = {place: (Offset(0), None)}, {place: Offset(0)}, {place: Offset(int(now))}
        told = replace(told, resume=at[0], settled=at[1], read=at[2])
        header = ("keepstream-progress", told.encode())
        log.records.append(ExampleRecord(value, [header]))

    assert set() == followed(log, until=30, then=then)[29]


def test_time_in_which_nobody_could_look_is_no_silence():
    """A broker that was away for ten minutes has not made its workers idle."""
    assert set() == followed(Log(RECORDS[0]), until=1800, step=600)[1200]


def test_reading_to_the_end_waits_for_no_partition_without_a_record():
    """A user's partition may have no traffic yet; a trainer that goes on waits for its worker."""
    foreign = ExampleRecord(b"not ours", ())

    assert {1} == followed(Log(RECORDS[0]), Log(), until=2, until_end=True)[0]
    assert set() == followed(Log(RECORDS[0]), Log(), until=2)[0]
    assert set() == followed(Log(RECORDS[0]), Log(foreign), until=2, until_end=True)[0]


def test_reading_to_the_end_lets_go_what_others_hold_back_no_longer():
    """Else it ends well, and nothing was learned."""
    order = ExampleOrder(OrderConfig(), SCHEMA, PLACES)
    went = 0
    for block in Bounded(Ended(Log(record(0, 5, 4)), Log()), lambda: True, examples=True):
        went += len(order.feed(block).events)

    assert (4, 1) == (went, order.held)


class Ended:
    """A source that is followed, of partitions of examples."""

    partitions, schema = PLACES, SCHEMA

    def __init__(self, *logs):
        self._logs = logs

    def __iter__(self):
        return read(*self._logs, wait=lambda: False, idle_s=60, until_end=True)

    def close(self):
        """Nothing is open."""
