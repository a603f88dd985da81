"""Joins of a partition over logs in memory, what they write, and what a reader makes of it."""

from dataclasses import replace

import numpy as np

from stream.delivered import Delivered
from stream.encode import encode_event, pack
from stream.events import EventSchema
from stream.examples import decode, encode
from stream.join import JoinConfig
from stream.listsource import ListSource
from stream.order import OrderConfig
from stream.partition_join import PartitionJoin
from stream.policy import Wait
from stream.position import Partition

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
