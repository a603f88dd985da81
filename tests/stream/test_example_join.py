from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.events import FEEDBACK, EventColumns
from stream.example_columns import ExampleColumns
from stream.example_join import ExampleJoin
from tests.stream.join_reference import SCHEMA
from tests.stream.labelled import reborn

T0 = 1_700_000_000_000


def examples(*clicked_after, first=0):
    """Return an example a second: clicked after so many seconds, None: not clicked."""
    n = len(clicked_after)
    made = ExampleColumns.empty(SCHEMA, n)
    made.at[:] = made.ts[:] = T0 + 1000 * (first + np.arange(n))
    made.impression[:] = made.origin_offset[:] = made.offset[:] = first + np.arange(n)
    for i, after in enumerate(clicked_after):
        if after is not None:
            made.label[i], made.label_at[i] = 1, made.at[i] + 1000 * after
            made.click_partition[i], made.click_offset[i], made.click_row[i] = 1, i, 0
    return made


def in_turn(made):
    """Return examples and their clicks in order of time, clicks behind."""
    events = made.with_clicks()
    return events.take(np.lexsort((events.kind, events.at)))


def test_an_example_settles_as_it_comes_with_the_label_it_has():
    """A worker has waited: nothing does so again."""
    joined = ExampleJoin().feed(in_turn(examples(None, 3, None)))

    assert [0, 1, 2] == joined.settled.seq.tolist()
    assert [0, 1, 0] == joined.settled.label.tolist()
    assert [-1, T0 + 4000, -1] == joined.settled.label_at.tolist()
    assert joined.settled.before.tolist() == (1 + joined.accepted).tolist()


def test_a_click_finds_its_example_when_its_time_has_come():
    """Whatever else was shown and clicked meanwhile."""
    joined = ExampleJoin().feed(in_turn(examples(5, None, 1, 4)))

    assert [2, 0, 3] == joined.matched_seq.tolist()
    assert joined.matched_is_label.all()


def test_a_click_that_was_there_before_its_example_comes_with_it():
    """So does the join: its time is that of the impression."""
    made = examples(None, 0)
    made.click_partition[1], made.click_offset[1] = 0, 1  # the place of its own impression
    join = ExampleJoin()
    events = in_turn(made)
    joined = join.feed(events)

    assert 2 == len(events)
    assert [(1, 1)] == [*zip(joined.matched_event, joined.matched_seq, strict=True)]
    assert (1, 0) == (join.counts()["early"], join.counts()["waiting"])


def test_rows_are_needed_until_the_click_of_the_oldest_has_come():
    """Features let a click count by the keys that its impression had."""
    join = ExampleJoin()
    events = in_turn(examples(None, 9, 3, None))
    needed = []
    for i in range(len(events)):
        join.feed(events.take(slice(i, i + 1)))
        needed.append(join.first_pending)

    assert [1, 1, 1, 1, 1, 4] == needed
    assert 4 == join.next_seq == join.drain().first_seq == join.advance(T0).first_seq


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=60),
    st.lists(st.integers(1, 20), max_size=12),
    st.integers(0, 12),
)
def test_cutting_and_restarting_change_nothing(clicked_after, cuts, stop):
    """The state has what waits for its click."""
    events = in_turn(examples(*clicked_after))
    whole = ExampleJoin().feed(events)
    join, shown, matched, first = ExampleJoin(), 0, [], 0
    for number, size in enumerate([*cuts, len(events)]):
        some = events.take(slice(first, first + size))
        first += size
        if number == stop:
            state, join = join.state(), ExampleJoin()
            join.restore(reborn(state))
        joined = join.feed(some)
        shown += len(joined.settled)
        matched += joined.matched_seq.tolist()

    assert whole.matched_seq.tolist() == matched
    assert len(clicked_after) == shown == join.counts()["impressions"]
    assert 0 == join.counts()["waiting"]


def test_what_it_remembers_does_not_grow_with_the_stream():
    """Only of those is anything kept whose click is to come, however old the oldest of them is."""
    join = ExampleJoin()
    old = in_turn(examples(10**6))
    join.feed(old.take(old.kind != FEEDBACK))
    for first in range(1, 20_001, 100):
        join.feed(in_turn(examples(*[2, None] * 50, first=first)))

    assert (1, 0) == (join.counts()["waiting"], join.first_pending)
    assert len(join._waiting) <= 256
    assert len(join._by_example) <= 2048


def test_examples_of_two_partitions_are_told_apart():
    """The same place in the logs of two workers is two places."""
    mine, other = examples(3), examples(3)
    other = replace(other, partition=np.ones(1, np.int16))
    names = EventColumns.concat([mine.with_clicks(), other.with_clicks()]).example.tolist()

    assert names[0] == names[1] != names[2] == names[3]
