from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import EventColumns
from stream.order import EventTimeOrder, OrderConfig
from stream.source import Block
from stream.state import flatten, unflatten
from tests.stream.join_reference import (
    SCHEMA,
    Event,
    block_of,
    columns,
    cut,
    feedback,
    in_order,
    partitions,
    same,
    shown,
)

T0 = 1_700_000_000_000
CONFIG = OrderConfig(lateness_s=0.010, idle_s=0.020, max_jump_s=0.1, jump_confirmations=3)


def order(n: int = 1, config: OrderConfig = CONFIG) -> EventTimeOrder:
    """Return an order of ``n`` partitions."""
    return EventTimeOrder(config, SCHEMA, partitions(n))


def log(*times: int) -> list[Event]:
    """Return impressions at ``times`` after T0; their ids are their indices."""
    return [shown(i + 1, T0 + t) for i, t in enumerate(times)]


def at(events: EventColumns) -> list[int]:
    """Return the places of ``events``, relative to T0."""
    return [int(t) - T0 for t in events.at]


def ids(events: EventColumns) -> list[int]:
    """Return the impression ids of ``events``."""
    return [int(i) for i in events.impression]


times = st.one_of(st.integers(0, 60), st.integers(0, 60), st.integers(300, 380), st.just(5_000))
logs = st.lists(
    st.lists(
        st.builds(
            Event, st.integers(0, 1), times.map(lambda t: T0 + t), st.integers(1, 9), st.just(0)
        ),
        max_size=25,
    ),
    min_size=1,
    max_size=3,
)


def interleaved(
    whole: Sequence[Sequence[Event]], cuts: list[list[int]], turns: list[int]
) -> list[Block]:
    """Return the logs as blocks: each log cut at its ``cuts``, whose log is next by ``turns``."""
    waiting = [cut(columns(log, p), cuts[p]) for p, log in enumerate(whole)]
    blocks = []
    for turn in [*turns, *(list(range(len(whole))) * 8)]:
        p = turn % len(whole)
        if waiting[p]:
            events = waiting[p].pop(0)
            blocks.append(block_of(events, ended=frozenset(() if waiting[p] else (p,))))
    return blocks


def run(using: EventTimeOrder, blocks: Sequence[Block]) -> tuple[list[EventColumns], set]:
    """Feed ``blocks``, finish; return the events and who was refused."""
    steps = [*(using.feed(block) for block in blocks), using.finish()]
    refused = {(r.partition.number, 2 * r.offset + r.row) for s in steps for r in s.rejected}
    return [s.events for s in steps], refused


@settings(deadline=None)  # the first example may compile
@given(logs, st.data())
def test_cutting_and_interleaving_change_nothing(logs, data):
    """The sequence is a function of the logs: replay equals live, whatever the polls returned."""
    cuts = [data.draw(st.lists(st.integers(0, 25), max_size=6)) for _ in logs]
    turns = data.draw(st.lists(st.integers(0, 2), max_size=20))
    placed, refused = in_order(logs, lateness=10, max_jump=100, confirmations=3)
    actual, actually_refused = run(using := order(len(logs)), interleaved(logs, cuts, turns))
    events = EventColumns.concat(actual)

    assert placed == [
        (int(a), int(k), int(p), int(2 * o + r))
        for a, k, p, o, r in zip(
            events.at, events.kind, events.partition, events.offset, events.row, strict=True
        )
    ]
    assert refused == actually_refused
    assert (len(refused), 0, 0) == (using.jumps, using.after_idle, using.held)
    every = [columns(log, p) for p, log in enumerate(logs)]
    expected = [every[p].take(slice(i, i + 1)) for _, _, p, i in placed]
    if expected:
        assert same(EventColumns.concat(expected).with_at(events.at), events)


@settings(deadline=None)  # the first example may compile
@given(logs, st.data())
def test_a_restart_between_two_blocks_changes_nothing(logs, data):
    """Held events and clocks are in the state: what comes after is the same, bit for bit."""
    cuts = [data.draw(st.lists(st.integers(0, 25), max_size=6)) for _ in logs]
    blocks = interleaved(logs, cuts, data.draw(st.lists(st.integers(0, 2), max_size=20)))
    stop = data.draw(st.integers(0, len(blocks)))
    undisturbed = run(order(len(logs)), blocks)
    first = order(len(logs))
    before = [first.feed(block) for block in blocks[:stop]]
    second = order(len(logs))
    second.restore(unflatten(*flatten(first.state())))
    first.finish()  # a state is a copy: what the first does now cannot reach the second
    events, refused = run(second, blocks[stop:])

    refused |= {(r.partition.number, 2 * r.offset + r.row) for s in before for r in s.rejected}
    assert same(
        EventColumns.concat(undisturbed[0]),
        EventColumns.concat([*(s.events for s in before), *events]),
    )
    assert undisturbed[1] == refused


def test_nothing_goes_before_the_watermark_has_passed_it():
    """An event at the watermark may still get an equal one, of a lower partition, before it."""
    using = order()

    assert [0, 9] == at(using.feed(block_of(columns(log(0, 10, 9, 20)))).events)
    assert T0 + 10 == using.watermark
    assert [10] == at(using.feed(block_of(columns(log(21)))).events)


def test_a_late_event_is_placed_at_the_earliest_time_still_open():
    """Losing it would lose a click, placing it earlier would rewrite history."""
    using = order()
    events = EventColumns.concat(
        [using.feed(block_of(columns(log(100, 20)))).events, using.finish().events]
    )

    assert [2, 1] == ids(events)
    assert [90, 100] == at(events)
    assert 1 == using.late


def test_impressions_go_before_feedback_of_the_same_time():
    """Clocks of whole seconds must not turn clicks into early feedback."""
    using = order(2)
    using.feed(block_of(columns([feedback(1, T0)], 0)))
    using.feed(block_of(columns([shown(1, T0)], 1)))

    assert [0, 1] == using.finish().events.kind.tolist()


def test_a_partition_that_has_brought_nothing_holds_the_watermark():
    """It may be about to bring the oldest events of all."""
    using = order(2)

    assert 0 == len(using.feed(block_of(columns(log(0, 50, 90), 0))).events)
    assert [0, 50] == at(using.feed(block_of(columns(log(65, 70), 1))).events)


def test_an_ended_partition_holds_nothing():
    """It will never have more."""
    using = order(2)

    assert [0] == at(using.feed(block_of(columns(log(0, 50), 0), ended=frozenset({1}))).events)
    assert [50] == at(using.feed(block_of(columns([], 0), ended=frozenset({0}))).events)


def test_an_idle_partition_lets_go_after_its_time():
    """Otherwise a quiet topic would stop the learning of a busy one."""
    using = order(2)
    idle = frozenset({1})
    using.feed(block_of(columns(log(-1, 0), 1)))
    using.feed(block_of(columns(log(-1, 0), 0), idle=idle))

    assert 0 == len(using.feed(block_of(columns(log(19), 0), idle=idle)).events)
    assert [-1, -1, 0, 0] == at(using.feed(block_of(columns(log(20), 0), idle=idle)).events)
    assert T0 + 10 == using.watermark


def test_a_partition_that_is_behind_but_not_at_its_end_is_not_idle():
    """A slow reader is no reason to call its events late."""
    using = order(2)
    using.feed(block_of(columns(log(0), 1)))

    assert 0 == len(using.feed(block_of(columns(log(0, 90), 0), idle=frozenset({0}))).events)


def test_an_idle_partition_that_lags_keeps_its_time_to_speak():
    """Silence counts from its last event on: a feedback topic may lag by more than `idle_s`."""
    using = order(2)
    idle = frozenset({1})
    using.feed(block_of(columns(log(79, 80), 0)))
    using.feed(block_of(columns(log(-1, 0), 1), idle=idle))

    assert 0 == len(using.feed(block_of(columns(log(99), 0), idle=idle)).events)
    assert T0 - 10 == using.watermark
    using.feed(block_of(columns(log(100), 0), idle=idle))
    assert T0 + 90 == using.watermark


def test_a_partition_that_speaks_in_every_block_is_never_idle():
    """A live tail is read to its end in every block; that alone is no silence."""
    using = order(2)
    both = frozenset({0, 1})
    using.feed(block_of(EventColumns.concat([columns(log(-1), 0), columns(log(-1), 1)])))
    for t in range(0, 100, 10):
        events = EventColumns.concat([columns(log(t + 30), 0), columns(log(t), 1)])
        using.feed(block_of(events, idle=both))

        assert T0 + t - 10 == using.watermark


def test_what_an_idle_partition_brings_too_late_goes_at_the_watermark_and_is_counted():
    """The watermark never goes back; the count says that a replay would differ here."""
    using = order(2)
    idle = frozenset({1})
    using.feed(block_of(columns(log(-1, 0), 1)))
    using.feed(block_of(columns(log(-1, 0), 0), idle=idle))
    using.feed(block_of(columns(log(50), 0), idle=idle))
    events = using.feed(block_of(columns(log(5, 48, 60), 1))).events

    assert [] == at(events)
    assert [40, 48, 50, 60] == at(using.finish().events)
    assert 1 == using.after_idle


def test_silence_of_all_moves_the_watermark_with_the_callers_time():
    """Deadlines fire also where traffic stops for the night."""
    using = order(1)
    using.feed(block_of(columns(log(-1, 0)), idle=frozenset({0})))

    assert 0 == len(using.tick(19).events)
    assert [-1, 0] == at(using.tick(1).events)
    assert T0 + 10 == using.watermark
    using.tick(1_000)
    assert T0 + 1_010 == using.watermark


def test_time_that_the_caller_passed_is_not_counted_twice():
    """Wall time and event time tell of the same silence: their sum would end it early."""
    using = order(2)
    both = frozenset({0, 1})
    using.feed(block_of(columns(log(-1, 0), 1), idle=frozenset({1})))
    using.feed(block_of(columns(log(-1, 0), 0), idle=both))
    using.tick(12)
    using.feed(block_of(columns(log(12), 0), idle=both))

    assert T0 - 10 == using.watermark
    using.feed(block_of(columns(log(20), 0), idle=both))
    assert T0 + 10 == using.watermark


def test_an_absurd_time_is_refused_and_names_itself():
    """One wrong clock would make every event after it late."""
    using = order()
    ordered = using.feed(block_of(columns(log(0, 101, 50))))

    assert ["time_jump"] == [r.reason for r in ordered.rejected]
    assert [(0, 1)] == [(r.offset, r.row) for r in ordered.rejected]
    assert "events/0 at 0, row 1" in ordered.rejected[0].detail
    assert [0, 50] == at(EventColumns.concat([ordered.events, using.finish().events]))
    assert 1 == using.jumps


@pytest.mark.parametrize("absurd", [[9_000], [9_000] * 5, [9_000, 5_000], [5_000, 9_000, 9_000]])
def test_absurd_first_times_are_refused_and_cost_nothing_else(absurd):
    """One wrong clock in front of a log, or a request of one, would make all the rest late."""
    config = OrderConfig(lateness_s=0.010, max_jump_s=0.1)
    good = [*range(0, 3_000, 3)]
    parts, refused = run(using := order(1, config), [block_of(columns(log(*absurd, *good), 0))])

    assert good == at(EventColumns.concat(parts))
    assert {(0, i) for i in range(len(absurd))} == refused
    assert (len(absurd), 0, 0) == (using.jumps, using.late, using.after_idle)


def test_two_first_events_that_agree_begin_a_partition():
    """Who follows a live log must not wait for as many events as it takes to confirm a jump."""
    using = order()

    assert 0 == len(using.feed(block_of(columns(log(0)))).events)
    using.feed(block_of(columns(log(15), 0, 1)))
    assert T0 + 5 == using.watermark


def test_a_low_first_time_does_not_let_a_wrong_clock_confirm_itself():
    """Two events begin a partition, but not far ahead of one that came before them."""
    using = order()
    ordered = using.feed(block_of(columns(log(0, 5_000, 5_001, 2, 3))))

    assert [(0, 1), (1, 0)] == [(r.offset, r.row) for r in ordered.rejected]
    assert [0, 2, 3] == at(using.finish().events)


@pytest.mark.parametrize(
    ("times", "kept"),
    [([7], [7]), ([7, 7], [7, 7]), ([9_000, 7], [7]), ([7, 9_000], [7]), ([7, 2, 9_000], [2, 7])],
)
def test_a_log_too_short_to_confirm_its_start_is_decided_at_its_end(times, kept):
    """Two clicks are a log too: most of the events decide, the earliest among equals."""
    events, refused = run(order(), [block_of(columns(log(*times)), ended=frozenset({0}))])

    assert kept == at(EventColumns.concat(events))
    assert len(times) - len(kept) == len(refused)


def test_a_partition_whose_start_is_in_doubt_holds_the_others_until_it_is_idle():
    """It may be about to bring the oldest events of all, but a quiet topic must not stop others."""
    using = order(2)
    idle = frozenset({1})
    using.feed(block_of(columns(log(0), 1), idle=idle))

    assert 0 == len(using.feed(block_of(columns(log(0, 19), 0), idle=idle)).events)
    assert [0, 0, 19] == at(using.feed(block_of(columns(log(40), 0, 1), idle=idle)).events)
    assert T0 + 30 == using.watermark


def test_a_first_event_in_doubt_has_its_turn_when_the_watermark_passes_it():
    """The first click of a day is not late because the second is an hour away."""
    using = order(2)
    idle = frozenset({1})
    using.feed(block_of(columns(log(5), 1), idle=idle))
    before = [using.feed(block_of(columns(log(t), 0, t), idle=idle)) for t in range(0, 60, 2)]
    state = using.state()
    using = order(2)
    using.restore(unflatten(*flatten(state)))
    after = [using.feed(block_of(columns(log(60), 1, 1))), using.finish()]

    events = EventColumns.concat([s.events for s in [*before, *after]])
    assert sorted([5, *range(0, 60, 2), 60]) == at(events)
    assert (0, 0, 0, 0) == (using.late, using.after_idle, using.jumps, using.held)


def test_an_absurd_first_event_is_refused_also_where_its_partition_was_idle():
    """Silence confirms nothing."""
    using = order(2)
    idle = frozenset({1})
    using.feed(block_of(columns(log(9_000), 1), idle=idle))
    for t in range(0, 60, 2):
        using.feed(block_of(columns(log(t), 0, t), idle=idle))
    ordered = using.feed(block_of(columns(log(60, 61), 1, 1)))

    assert [(0, 0)] == [(r.offset, r.row) for r in ordered.rejected]
    using.finish()
    assert (0, 0, 1, 0) == (using.late, using.after_idle, using.jumps, using.held)


def test_a_gap_in_the_traffic_costs_no_event():
    """A site that sleeps over the weekend loses nothing: enough events in a row agree."""
    using = order()
    first = using.feed(block_of(columns(log(0, 5_000, 5_001))))
    state = using.state()
    using = order()
    using.restore(state)
    second = using.feed(block_of(columns(log(5_002))))

    assert ((), ()) == (first.rejected, second.rejected)
    events = EventColumns.concat([first.events, second.events, using.finish().events])
    assert [0, 5_000, 5_001, 5_002] == at(events)


def test_jumps_that_disagree_do_not_confirm_each_other():
    """Three broken clocks are three broken clocks."""
    using = order()
    ordered = using.feed(block_of(columns(log(0, 1_000, 5_000, 9_000, 10))))

    assert 3 == len(ordered.rejected) == using.jumps
    assert [0, 10] == at(using.finish().events)


def test_doubted_events_are_refused_at_the_end():
    """Nothing can confirm them any more, and nothing may vanish."""
    using = order()

    assert () == using.feed(block_of(columns(log(0, 5_000)))).rejected
    assert [(0, 1)] == [(r.offset, r.row) for r in using.finish().rejected]
    assert 0 == using.held


def test_one_event_blocks_stay_cheap_to_hold():
    """A live stream comes in tiny blocks: the number of chunks must not grow with them."""
    using = order()
    for i in range(300):
        using.feed(block_of(columns([shown(i + 1, T0 + i % 10)], 0, i)))

    assert 300 == using.held
    assert len(using._held._chunks) <= 10


def test_what_waits_is_bounded_however_far_a_partition_is_behind():
    """A wrong clock or a stalled partition must not fill the memory; a count says so."""
    config = OrderConfig(lateness_s=0.010, idle_s=0.020, max_held=40)
    using = order(2, config)
    using.feed(block_of(columns(log(0), 1)))
    parts = []
    for i in range(0, 300, 3):
        parts.append(using.feed(block_of(columns(log(i, i + 1, i + 2), 0, i))).events)
        assert using.held <= 40

    state = using.state()
    using = order(2, config)
    using.restore(state)
    parts += [using.feed(block_of(columns(log(1, 299), 1, 1))).events, using.finish().events]
    went = at(EventColumns.concat(parts))

    assert 303 == len(went)
    assert sorted(went) == went
    assert 261 == using.hurried  # all but the first forty, of either partition
    assert 1 == using.after_idle  # what came at 1 was overtaken


def test_a_moment_without_end_is_bounded_too():
    """A log whose times are whole days keeps a day at one moment, and the watermark below it."""
    using = order(1, OrderConfig(max_held=40))
    went = [using.feed(block_of(columns(log(*[0] * 30), 0, i))).events for i in range(0, 300, 30)]
    events = EventColumns.concat([*went, using.finish().events])

    assert 300 == len(events)
    assert using.hurried > 200
    assert at(events)[-1] < 10  # every time that room is made, time goes on by a millisecond


def test_a_config_without_sense_is_refused():
    """A negative lateness would let events go before they are read."""
    with pytest.raises(ValueError, match="lateness_s is -1"):
        OrderConfig(lateness_s=-1)
    with pytest.raises(ValueError, match="jump_confirmations is 0"):
        OrderConfig(jump_confirmations=0)
    with pytest.raises(ValueError, match="max_held is 0"):
        OrderConfig(max_held=0)
