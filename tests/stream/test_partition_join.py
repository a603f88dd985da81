"""A join that is killed and begins again: what readers let through is what was always there."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream import partition_join
from stream.delivered import Delivered
from stream.encode import encode_event
from stream.examples import Progress, decode, encode
from stream.join import LabelJoin
from stream.listsource import ListSource
from stream.order import EventTimeOrder
from stream.partition_join import NotOneExample, PartitionJoin
from stream.policy import Emission, Emissions, Wait
from stream.position import Offset, Position
from tests.stream.joins import (
    CLICKED,
    INPUTS,
    JOIN,
    ORDER,
    SCHEMA,
    SHOWN,
    START_MS,
    Topic,
    begin,
    block_without_end,
    killed,
    letters,
    log_of,
    packed,
    read,
    undisturbed,
)


@settings(max_examples=30)
@given(st.integers(0, 10**9), st.sampled_from([1, 3, 20]))
@example(24540971, 1)  # inputs far apart: the one ahead has forgotten more
def test_a_join_that_is_killed_changes_nothing(seed, per_message):
    """Every impression comes out once, with its label, whoever dies, and whoever lives too long."""
    messages = packed(log_of(seed), per_message)
    expected = undisturbed(messages)
    topic = killed(messages, np.random.default_rng(seed))

    assert read(expected)[0] == read(topic)[0]
    assert 0 == read(expected)[1]
    assert letters(expected) == letters(topic)


def test_it_is_the_label_join():
    """Undisturbed it gives what the join of a trainer gives, in the same order."""
    messages = packed(log_of(5, 400), 7)
    source = ListSource(SCHEMA, messages)
    order, join = EventTimeOrder(ORDER, SCHEMA, INPUTS), LabelJoin(JOIN, Wait(), SCHEMA)
    shown, expected = [], []
    for block in source:
        events = order.feed(block_without_end(block)).events
        joined = join.feed(events)
        shown += events.impression[joined.accepted].tolist()
        for settled in (joined.settled, join.advance(order.watermark).settled):
            expected += zip(
                [shown[seq] for seq in settled.seq], settled.label, settled.label_at, strict=True
            )
    found = [row[:3] for row in read(undisturbed(messages))[0].values()]

    assert [(i, int(a), int(b)) for i, a, b in expected] == found
    assert Counter({0: 1, 1: 1}).keys() == {label for _, label, _ in found}


def test_without_enough_memory_of_before_it_would_differ(monkeypatch):
    """The property can fail: with a place to go on that lies too late, doubles are learned."""
    init = PartitionJoin.__init__

    def forgetful(self, *args):
        init(self, *args)
        self._memory = 0

    monkeypatch.setattr(partition_join.PartitionJoin, "__init__", forgetful)
    with pytest.raises(AssertionError):
        for seed in range(40):
            messages = packed(log_of(seed), 3)
            topic = killed(messages, np.random.default_rng(seed))
            assert read(undisturbed(messages))[0] == read(topic)[0]


def test_little_is_read_and_written_again():
    """What is read again is the memory of the join, what is written again a step of its marks."""
    messages = packed(log_of(2, 3000), 1)
    topic = Topic()
    steps = begin(messages, topic, 20)
    while topic.progress() is None or topic.progress().read[SHOWN].message < 2500:
        next(steps)
    progress = topic.progress()
    written = read(topic)[0]
    for _ in begin(messages, topic, 20):
        pass

    assert 1500 < progress.resume[SHOWN][0].message < progress.settled[SHOWN].message
    assert progress.settled[SHOWN].message < progress.read[SHOWN].message
    assert progress.resume[SHOWN][1] is not None
    assert read(topic)[1] < 60 < len(written)


def test_time_is_told_without_examples():
    """A reader of several partitions waits for none that has nothing to say."""
    join = PartitionJoin(3, INPUTS, ORDER, JOIN, Wait(), SCHEMA, None)
    events = [{"impression_id": f"i{k}", "user_id": 1, "item_id": 1, "ts": START_MS + k * 1000}
              for k in range(200)]  # fmt: skip
    clicks = [{"impression_id": "?", "user_id": 1, "ts": e["ts"], "action": "x"} for e in events]
    messages = {SHOWN: [encode_event(e) for e in events[:1] + events[150:]],
                CLICKED: [encode_event(e) for e in clicks]}  # fmt: skip
    told = []
    for block in ListSource(SCHEMA, messages, block_events=5):
        join.feed(block_without_end(block))
        told += [(len(made), made.progress.complete_to) for made in join.take()]
    times = [at for _, at in told]

    assert sorted(times) == times
    assert 0 in [n for n, _ in told]
    assert [] == join.take(at_least=1)


def test_a_reader_restores_what_it_has_let_through():
    """A trainer's checkpoint has it, so a trainer that is killed learns nothing twice either."""
    messages = packed(log_of(9), 3)
    topic = killed(messages, np.random.default_rng(9))
    one, other, expected, found = Delivered(), Delivered(), [], []
    for record in topic.records:
        block = decode(*record)
        x = block.examples
        place = (x.origin_partition, x.origin_offset, x.origin_row)
        expected.append(one.fresh(*place).tolist())
        found.append(other.fresh(*place).tolist())
        one.advance(block.progress)
        other.advance(block.progress)
        again = Delivered()
        again.restore(other.state())
        other = again

    assert expected == found
    assert sum(map(len, found)) > sum(map(sum, found))


def test_it_begins_where_it_is_told():
    """A worker opens its inputs there."""
    messages = packed(log_of(1), 1)
    topic = Topic()
    for _ in begin(messages, topic, 10):
        pass
    progress = topic.progress()
    join = PartitionJoin(3, INPUTS, ORDER, JOIN, Wait(), SCHEMA, progress)

    assert {p: o for p, (o, _) in progress.resume.items()} == dict(join.position.offsets)
    assert Position({p: Offset(0) for p in INPUTS}) != join.position


def test_clocks_go_with_the_place_to_begin():
    """Where a log begins two wrong clocks that agree are believed; in its midst they are not."""
    wrong = [10_000_000, 10_001_000]
    times = [*wrong, *range(0, 100_000, 1000)]
    events = [{"impression_id": f"i{k}", "user_id": 1, "item_id": 1, "ts": START_MS + ts}
              for k, ts in enumerate(times)]  # fmt: skip
    clicks = [{"impression_id": "?", "user_id": 1, "ts": e["ts"], "action": "x"} for e in events]
    messages = {SHOWN: [b""] * 5 + [encode_event(e) for e in events],
                CLICKED: [b""] * 5 + [encode_event(e) for e in clicks[2:]]}  # fmt: skip
    topic = Topic()
    join = PartitionJoin(
        3, INPUTS, ORDER, JOIN, Wait(), SCHEMA,
        Progress(
            resume=dict.fromkeys(INPUTS, (Offset(5), START_MS)),
            settled=dict.fromkeys(INPUTS, Offset(5)),
            complete_to=START_MS,
            read=dict.fromkeys(INPUTS, Offset(9)),
        ),
    )  # fmt: skip
    for block in ListSource(SCHEMA, messages, position=join.position):
        join.feed(block_without_end(block))
        topic.letters += join.take_refused()
        topic.records += [encode(made, SCHEMA) for made in join.take()]

    assert {(SHOWN, 5, 0, "time_jump"), (SHOWN, 6, 0, "time_jump")} == letters(topic)
    assert [START_MS + t for t in range(0, 75_000, 1000)] == [
        row[3] for row in read(topic)[0].values()
    ]


def test_a_log_without_its_head_is_read_from_where_it_begins():
    """Retention took it before there was a worker: nothing is missed, and nothing asked for."""
    join = PartitionJoin(3, INPUTS, ORDER, JOIN, Wait(), SCHEMA, None)
    assert Position() == join.position

    events = [{"impression_id": f"i{k}", "user_id": 1, "item_id": 1, "ts": START_MS + k * 1000}
              for k in range(60)]  # fmt: skip
    messages = {SHOWN: [b""] * 70 + [encode_event(e) for e in events]}
    source = ListSource(
        SCHEMA, {**messages, CLICKED: []}, position=Position({SHOWN: Offset(70)}), block_events=10
    )
    for block in source:
        there = {p: o for p, o in block.position.offsets.items() if p == SHOWN}
        join.feed(replace(block, position=Position(there), ended=block.ended - {1}))
    assert [SHOWN] == [*join.position.offsets]

    progress = join.take()[-1].progress
    assert (Offset(70), None) == progress.resume[SHOWN]
    again = PartitionJoin(3, INPUTS, ORDER, JOIN, Wait(), SCHEMA, progress)
    assert Position({SHOWN: Offset(70)}) == again.position


def test_a_policy_of_several_examples_is_refused():
    """Readers know an example by its impression, and would drop the second."""

    class Twice:
        emissions = Emissions(arrival=Emission(0), deadline_positive=Emission(1))

    with pytest.raises(NotOneExample, match="exactly one example"):
        PartitionJoin(3, INPUTS, ORDER, JOIN, Twice(), SCHEMA)
    for policy in (Wait("click"), Wait("deadline")):
        assert Position() == PartitionJoin(3, INPUTS, ORDER, JOIN, policy, SCHEMA).position


@pytest.mark.parametrize("rows", [1, 5000])
def test_records_are_bounded(monkeypatch, rows):
    """A broker takes a record of a million bytes, and a reader one at a time."""
    monkeypatch.setattr(partition_join, "BLOCK_ROWS", rows)
    topic = undisturbed(packed(log_of(3), 20))

    assert rows >= max(len(decode(*record)) for record in topic.records)


def test_the_first_records_of_a_log_without_its_head_name_what_is_there():
    """A worker that dies between them goes on at the first offset kept, not at one that is lost."""
    n = 9000
    join = PartitionJoin(3, INPUTS, ORDER, JOIN, Wait(), SCHEMA, None)
    events = [{"impression_id": f"i{k}", "user_id": 1, "item_id": 1, "ts": START_MS + k * 50}
              for k in range(n)]  # fmt: skip
    clicks = [{"impression_id": "?", "user_id": 1, "ts": START_MS + k, "action": "click"}
              for k in (0, 1000, n * 50)]  # fmt: skip
    messages = {
        SHOWN: [b""] * 1000 + [encode_event(e) for e in events],
        CLICKED: [b""] * 500 + [encode_event(e) for e in clicks],
    }
    kept = Position({SHOWN: Offset(1000), CLICKED: Offset(500)})
    for block in ListSource(SCHEMA, messages, position=kept):
        join.feed(block_without_end(block))
    made = join.take()

    assert len(made) > 1
    assert made[0].progress.complete_to is None
    assert kept == PartitionJoin(3, INPUTS, ORDER, JOIN, Wait(), SCHEMA, made[0].progress).position
    assert made[0].progress.settled == dict(kept.offsets)
