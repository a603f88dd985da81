"""A join that is killed and begins again: what readers let through is what was always there."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream import partition_join
from stream.delivered import Delivered
from stream.encode import encode_event, pack
from stream.events import IMPRESSION, EventSchema
from stream.examples import Progress, decode, encode
from stream.join import JoinConfig, LabelJoin
from stream.listsource import ListSource
from stream.marks import MOST, Mark, Marks
from stream.order import NEVER, EventTimeOrder, OrderConfig
from stream.partition_join import NotOneExample, PartitionJoin
from stream.policy import Emission, Emissions, Wait
from stream.position import Offset, Partition, Position
from stream.source import Block

START_MS = 1_700_000_000_000
SHOWN, CLICKED = Partition("impressions", 3), Partition("feedback", 3)
INPUTS = (CLICKED, SHOWN)
SCHEMA = EventSchema(
    ids=("category",), numbers=("age",), lists=(("topics", 2),), actions=("click", "buy")
)
ORDER = OrderConfig(lateness_s=5, idle_s=100_000, max_jump_s=600, jump_confirmations=3)
JOIN = JoinConfig(window_s=20, early_s=10, remember_s=15)


def log_of(seed, n=150, *, again=True):
    """Return a log of all that happens: late, doubled, early, absurd, malformed, and silences.

    With ``again`` an id may come once more with another time.
    """
    rng = np.random.default_rng(seed)
    written = {SHOWN: [], CLICKED: []}
    ts, ids = START_MS, []
    for i in range(n):
        ts += int(rng.choice([0, 200, 900, 2500, 60_000], p=[0.1, 0.4, 0.3, 0.18, 0.02]))
        shown = ts - int(rng.choice([0, 3000, 9000, 50_000], p=[0.8, 0.1, 0.07, 0.03]))
        event = {"impression_id": f"i{i}", "user_id": i % 5, "item_id": i % 7, "ts": shown}
        event["features"] = {"category": i % 3, "age": i / 7, "topics": [i, "x"]}
        event["scene"] = f"s{i % 2}"
        ids.append((ts, event))
        written[SHOWN].append((ts, event))
        if rng.random() < 0.25:  # again, sooner or later, sometimes with another time
            come = ts + int(rng.choice([100, 8000, 16_000, 30_000, 40_000, 70_000]))
            other = {} if rng.random() < 0.7 or not again else {"ts": shown + 15_000}
            written[SHOWN].append((come, {**event, **other}))
        for action in ("click", "buy", "other"):
            if rng.random() < 0.3:
                after = int(rng.choice([-12_000, -4000, 0, 2000, 19_999, 20_000, 30_000, 50_000]))
                feedback = {"impression_id": f"i{i}", "user_id": i % 5, "ts": shown + after}
                come = max(START_MS, ts + after) + int(rng.integers(0, 4000))
                written[CLICKED].append((come, {**feedback, "action": action}))
        if rng.random() < 0.05:
            written[SHOWN if rng.random() < 0.5 else CLICKED].append((ts, b"{no event"))
        if rng.random() < 0.04:
            written[SHOWN].append((ts, {**event, "impression_id": f"w{i}", "ts": ts + 7_000_000}))
    for end in range(2):  # at last, all of it settles
        for partition in written:
            last = {"impression_id": f"end{end}", "user_id": 0, "ts": ts + 300_000 + end}
            last |= {"item_id": 1} if partition == SHOWN else {"action": "click"}
            written[partition].append((ts + 300_000 + end, last))
    return {
        partition: [
            x if isinstance(x, bytes) else encode_event(x)
            for _, x in sorted(lines, key=lambda pair: pair[0])
        ]
        for partition, lines in written.items()
    }


def packed(log, per_message):
    """Return the messages of a log."""
    return {p: list(pack(lines, per_message)) for p, lines in log.items()}


class Topic:
    """The records of one partition of examples, and the dead letters."""

    def __init__(self):
        self.records = []
        self.letters = []

    def progress(self):
        """Return what the last record says."""
        return decode(*self.records[-1]).progress if self.records else None


def begin(messages, topic, block_events):
    """Return a worker's join that goes on where the topic says, as steps: a record or more each."""
    join = PartitionJoin(3, INPUTS, ORDER, JOIN, Wait(), SCHEMA, topic.progress())
    source = ListSource(SCHEMA, messages, position=join.position, block_events=block_events)
    assert source.partitions == INPUTS

    def steps():
        for block in source:
            join.feed(block_without_end(block))
            topic.letters += join.take_refused()
            for made in join.take():
                topic.records.append(encode(made, SCHEMA))
                yield

    return steps()


def block_without_end(block):
    """Return a block of a log that goes on: a worker's topics have no end."""
    return replace(block, ended=frozenset())


def read(topic, *, ordered=True):
    """Return what a reader lets through: place → what was learned, and how often."""
    delivered, found = Delivered(), {}
    again = 0
    newest = -(1 << 62)
    for record in topic.records:
        block = decode(*record)
        x = block.examples
        fresh = delivered.fresh(x.origin_partition, x.origin_offset, x.origin_row)
        assert not ordered or (x.at[fresh] >= newest).all(), "complete_to has lied"
        again += int((~fresh).sum())
        for row in np.flatnonzero(fresh).tolist():
            place = (
                int(x.origin_partition[row]),
                int(x.origin_offset[row]),
                int(x.origin_row[row]),
            )
            assert place not in found
            found[place] = tuple(
                np.asarray(getattr(x, name)[row]).tolist()
                for name in ("impression", "label", "label_at", "at", "actions", "click_offset",
                             "click_row", "ids", "lists", "scene")
            )  # fmt: skip
        delivered.advance(block.progress)
        if block.progress.complete_to is not None:
            newest = max(newest, block.progress.complete_to)
    return found, again


def letters(topic):
    """Return the dead letters by place: those that were written again are the same."""
    return {(x.partition, x.offset, x.row, x.reason) for x in topic.letters}


def undisturbed(messages):
    """Return the topic after one worker that lived."""
    topic = Topic()
    for _ in begin(messages, topic, 10_000):
        pass
    return topic


def killed(messages, rng):
    """Return the topic after workers that died after a record, some living on for a while."""
    topic = Topic()
    zombies = []
    for _ in range(int(rng.integers(1, 6))):
        steps = begin(messages, topic, int(rng.choice([1, 3, 17, 400])))
        for _ in range(int(rng.integers(1, 60))):
            next(steps, None)
            for zombie in zombies:
                if rng.random() < 0.3:
                    next(zombie, None)
        if rng.random() < 0.3:
            zombies.append(steps)
    for _ in begin(messages, topic, 50):
        for zombie in zombies:
            next(zombie, None)
    return topic


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


def tired(messages, topic, rng, *, last=False):
    """Begin as `begin` does, over a log whose inputs seem to be at their ends now and then."""
    order = replace(ORDER, idle_s=6)
    join = PartitionJoin(3, INPUTS, order, JOIN, Wait(), SCHEMA, topic.progress())
    source = ListSource(
        SCHEMA, messages, position=join.position, block_events=int(rng.choice([1, 3, 17, 400]))
    )

    def written():
        topic.letters += join.take_refused()
        for made in join.take():
            topic.records.append(encode(made, SCHEMA))
            yield

    def steps():
        for block in map(block_without_end, source):
            came = set(block.events.partition.tolist())
            if rng.random() < 0.5:
                block = replace(block, idle=frozenset({0, 1} - came))
            join.feed(block)
            yield from written()
            if rng.random() < 0.2:
                nothing = block.events.take(slice(0, 0))
                join.feed(Block(nothing, block.position, idle=frozenset({0, 1})))
                for _ in range(int(rng.integers(1, 30))):
                    join.tick(1000)
                yield from written()
        if last:
            join.finish()
            yield from written()

    return steps()


@settings(max_examples=20)
@given(st.integers(0, 10**9), st.sampled_from([1, 3, 20]))
def test_where_time_went_on_in_silence_it_is_still_each_once(seed, per_message):
    """Silence is of the clock, and not in the log: times may differ then, and nothing else."""
    messages, rng = packed(log_of(seed, again=False), per_message), np.random.default_rng(seed)
    topic, zombies = Topic(), []
    for _ in range(int(rng.integers(1, 6))):
        steps = tired(messages, topic, rng)
        for _ in range(int(rng.integers(1, 60))):
            next(steps, None)
            for zombie in zombies:
                if rng.random() < 0.3:
                    next(zombie, None)
        if rng.random() < 0.3:
            zombies.append(steps)
    for _ in tired(messages, topic, rng, last=True):
        for zombie in zombies:
            next(zombie, None)

    shown = {}
    for block in ListSource(SCHEMA, messages):
        events = block.events.take(block.events.kind == IMPRESSION)
        for *place, name in zip(
            events.partition, events.offset, events.row, events.impression, strict=True
        ):
            shown.setdefault(int(name), set()).add(tuple(map(int, place)))
    learned = Counter(row[0] for row in read(topic, ordered=False)[0].values())
    refused = {(INPUTS.index(x.partition), x.offset, x.row) for x in topic.letters}
    assert {1} == {*learned.values()}
    assert [] == [name for name in shown if name not in learned and not shown[name] & refused]


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


def test_marks_are_bounded():
    """Inputs that are far apart in time take no more memory."""
    marks = Marks(Mark(Offset(0), NEVER, NEVER), 10)
    for k in range(1, 20_000):
        marks.add(Mark(Offset(k), k * 7, k * 7))

    assert len(marks._marks) <= MOST
    assert 0 == marks.latest(5).offset.message
    late = marks.latest(100_000)
    assert late.before < 100_000
    assert 100_000 - late.before < 2 * marks._step + 14
    marks.forget(100_000)
    assert late == marks._marks[0]


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
