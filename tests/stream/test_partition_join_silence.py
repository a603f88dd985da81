"""A join over inputs of which one is silent, for a while or always, killed and begun again."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.encode import encode_event
from stream.events import IMPRESSION, EventColumns
from stream.examples import encode
from stream.listsource import ListSource
from stream.partition_join import PartitionJoin
from stream.policy import Wait
from stream.position import Offset, Position
from stream.source import Block
from tests.stream.joins import (
    CLICKED,
    INPUTS,
    JOIN,
    ORDER,
    SCHEMA,
    SHOWN,
    START_MS,
    Topic,
    block_without_end,
    letters,
    log_of,
    packed,
    read,
)


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
    assert {*learned.values()} <= {1}  # all may have been too late
    assert [] == [name for name in shown if name not in learned and not shown[name] & refused]


def silent_log(seed):
    """Return what arrives, in order: now one input is silent, for long, now the other, or both.

    Each is a time, a partition and a line. Impressions are sent again, unchanged, at any later
    time; one in three logs has no feedback at all.
    """
    rng = np.random.default_rng(seed)
    now, shown, arrivals = START_MS, [], []
    modes = [(1, 0), (0, 0)] if rng.random() < 0.33 else [(1, 1), (1, 0), (0, 1), (0, 0)]
    for phase in range(int(rng.integers(3, 9))):
        shows, clicks = modes[int(rng.integers(len(modes)))] if phase else modes[0]
        end = now + int(rng.choice([20_000, 90_000, 550_000, 2_000_000]))
        pace = max(500, (end - now) // 25)
        while now < end:
            now += int(rng.integers(1, 2 * pace))
            if shows and (not shown or rng.random() < 0.8):
                event = {"impression_id": f"i{len(shown)}", "user_id": 1, "item_id": 1}
                shown.append(event | {"ts": now - int(rng.choice([0, 2000, 30_000]))})
                arrivals.append((now, SHOWN, encode_event(shown[-1])))
            if rng.random() < (0.3 if shows else 0.1):
                again = shown[int(rng.integers(len(shown)))]
                arrivals.append((now, SHOWN, encode_event(again)))
            if clicks and rng.random() < 0.8:
                of = shown[-1 - int(rng.integers(min(len(shown), 6)))]["impression_id"]
                event = {"impression_id": of, "user_id": 1, "ts": now - 500, "action": "click"}
                arrivals.append((now, CLICKED, encode_event(event)))
            if rng.random() < 0.04:
                arrivals.append((now, INPUTS[int(rng.integers(2))], b"{no event"))
    return arrivals


class World:
    """Two logs that grow, to be read as a source that follows them would."""

    def __init__(self, arrivals):
        self.arrivals = arrivals
        messages = {p: [line for _, q, line in arrivals if q == p] for p in INPUTS}
        self.blocks = [*ListSource(SCHEMA, messages)]
        self.events = EventColumns.concat([b.events for b in self.blocks])
        self.rejected = [letter for b in self.blocks for letter in b.rejected]
        self.now = 0  # how many have arrived

    def ends(self):
        """Return how long each log is by now."""
        came = Counter(p for _, p, _ in self.arrivals[: self.now])
        return [came[p] for p in INPUTS]

    def block(self, position, i, n):
        """Return the next ``n`` messages of an input; who has no more is idle."""
        first, ends = position.of(INPUTS[i]).message, self.ends()
        end = min(first + n, ends[i])
        x = self.events
        x = x.take((x.partition == i) & (x.offset >= first) & (x.offset < end))
        letters = (r for r in self.rejected if r.partition == INPUTS[i] and first <= r.offset < end)
        there = position.moved(INPUTS[i], Offset(end))
        idle = frozenset(
            k for k, p in enumerate(INPUTS) if k != i and there.of(p).message == ends[k]
        )
        return Block(x, there, tuple(letters), idle=idle)


def follow(world, topic, rng, *, to_the_end=False):
    """Begin a worker's join, as steps: it reads what there is, then what comes, and in silence."""
    join = PartitionJoin(
        3, INPUTS, replace(ORDER, idle_s=6), JOIN, Wait(), SCHEMA, topic.progress()
    )
    position, told = Position({p: join.position.of(p) for p in INPUTS}), world.now

    def written():
        topic.letters += join.take_refused()
        for made in join.take():
            topic.records.append(encode(made, SCHEMA))
            yield

    def steps():
        nonlocal position, told
        while True:
            ends = world.ends()
            unread = [i for i, p in enumerate(INPUTS) if position.of(p).message < ends[i]]
            if unread:
                i = unread[int(rng.integers(len(unread)))]
                block = world.block(position, i, int(rng.integers(1, 6)))
                position = block.position
                join.feed(block)
            else:
                join.feed(Block(EventColumns.empty(SCHEMA), position, idle=frozenset({0, 1})))
                if to_the_end and world.now == len(world.arrivals):
                    break
                if told < world.now:
                    passed = world.arrivals[world.now - 1][0] - world.arrivals[told][0]
                    join.tick(min(passed, int(rng.integers(1, 20_000))))
                    told = world.now
                yield
            yield from written()
        join.finish()
        yield from written()

    return steps()


def lived(seed):
    """Return the world of a seed, and what workers wrote that died and went on in it."""
    world, topic, rng = World(silent_log(seed)), Topic(), np.random.default_rng(seed)
    workers = [follow(world, topic, rng)]
    while world.now < len(world.arrivals):
        world.now += int(min(rng.integers(1, 4), len(world.arrivals) - world.now))
        for _ in range(int(rng.choice([1, 2, 8, 30]))):
            next(workers[-1])
        if len(workers) > 1 and rng.random() < 0.3:
            next(workers[0])  # it was expelled, and does not know
        if rng.random() < 0.04:
            workers = [workers[-1]] if rng.random() < 0.3 else []
            workers.append(follow(world, topic, rng))
    for _ in follow(world, topic, rng, to_the_end=True):
        pass
    return world, topic


def check_each_once(world, topic):
    """Raise `AssertionError` where an impression was learned twice, or vanished."""
    shown = {}
    for p, *place, kind, name in zip(
        *(getattr(world.events, n) for n in ("partition", "offset", "row", "kind", "impression")),
        strict=True,
    ):
        if kind == IMPRESSION:
            shown.setdefault(int(name), set()).add((int(p), *map(int, place)))
    learned = Counter(row[0] for row in read(topic, ordered=False)[0].values())
    refused = {(INPUTS.index(x.partition), x.offset, x.row) for x in topic.letters}
    assert {1} == {*learned.values()}
    assert [] == [name for name in shown if name not in learned and not shown[name] & refused]


@settings(max_examples=20)
@given(st.integers(0, 10**9))
def test_after_a_long_silence_it_is_still_each_once(seed):
    """Little is read again then, and what was sent again meanwhile is still known as a double."""
    check_each_once(*lived(seed))


def test_what_is_sent_again_after_a_silence_was_there_before():
    """Who goes on has not read the first of the two; the other's time tells that there was one."""
    shown = [{"impression_id": f"i{k}", "user_id": 1, "item_id": 1, "ts": START_MS + 1000 * k}
             for k in range(10)]  # fmt: skip
    clicks = [{"impression_id": "?", "user_id": 1, "ts": START_MS + 1000 * k, "action": "click"}
              for k in range(500)]  # fmt: skip
    again = START_MS + 500_000
    arrivals = [(e["ts"], SHOWN, encode_event(e)) for e in shown]
    arrivals += [(e["ts"], CLICKED, encode_event(e)) for e in clicks]
    arrivals += [
        (again, SHOWN, encode_event(e))
        for e in (shown[3], {**shown[0], "impression_id": "new", "ts": again})
    ]
    world, topic = World(sorted(arrivals, key=lambda arrival: arrival[0])), Topic()
    steps = follow(world, topic, np.random.default_rng(1))
    while world.now < len(world.arrivals) - 2:
        world.now += 1
        for _ in range(3):
            next(steps)
    assert Offset(10) == topic.progress().resume[SHOWN][0]
    world.now += 2
    for _ in follow(world, topic, np.random.default_rng(1), to_the_end=True):
        pass

    assert [(SHOWN, 10, 0, "too_late")] == sorted(letters(topic))
    check_each_once(world, topic)


@pytest.mark.parametrize("clicks", [0, 1, 3])
def test_a_silent_input_costs_no_reading_from_where_its_silence_began(clicks):
    """Else recovery takes the longer the longer nobody clicks, until retention makes it fail."""
    n = 500
    events = [{"impression_id": f"i{k}", "user_id": 1, "item_id": 1, "ts": START_MS + 20_000 * k}
              for k in range(n)]  # fmt: skip
    first = [{"impression_id": "i0", "user_id": 1, "ts": START_MS + k, "action": "click"}
             for k in range(clicks)]  # fmt: skip
    arrivals = [(0, CLICKED, encode_event(e)) for e in first]
    world = World([*arrivals, *((e["ts"], SHOWN, encode_event(e)) for e in events)])
    topic = Topic()
    steps = follow(world, topic, np.random.default_rng(1))
    while world.now < len(world.arrivals):
        world.now += 1
        for _ in range(3):
            next(steps)
    progress = topic.progress()

    assert progress.resume[SHOWN][0].message > n - 20
    assert Offset(clicks) == progress.resume[CLICKED][0]
    assert [None, None, None, START_MS + 2][clicks] == progress.resume[CLICKED][1]
