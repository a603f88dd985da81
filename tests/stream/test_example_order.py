import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.events import FEEDBACK, EventColumns
from stream.example_columns import ExampleColumns
from stream.example_join import ExampleJoin
from stream.example_order import ExampleOrder
from stream.join import JoinConfig, LabelJoin
from stream.order import EventTimeOrder, OrderConfig
from stream.policy import Wait
from stream.position import Partition, Position
from stream.source import Block
from tests.stream.join_reference import SCHEMA, columns, feedback, shown
from tests.stream.labelled import labelled, pieces, progress, reborn, story

T0 = 1_700_000_000_000
ORDER = OrderConfig(lateness_s=0.010, max_jump_s=1.0, jump_confirmations=1)
JOIN = JoinConfig(window_s=0.020, early_s=0.010, remember_s=1.0)
INPUTS = 2  # of a worker's unit

times = st.integers(0, 12).map(lambda t: T0 + 3 * t)  # many at the same time
ids = st.integers(1, 9)
events = st.one_of(
    st.builds(shown, ids, times),
    st.builds(feedback, ids, times, st.sampled_from([0, 0, 1])),
)
unit = st.tuples(*[st.lists(events, max_size=14)] * INPUTS)


def placed(log, number, partition):
    """Return a log's events as a partition's; ids of different units differ."""
    return columns([e._replace(id=e.id * 10 + number) for e in log], partition)


def joined_at_once(units):
    """Return the story of a trainer that joins all partitions itself."""
    n = len(units)
    partitions = tuple(Partition(t, p) for t in ("t0", "t1") for p in range(n))
    order, join = EventTimeOrder(ORDER, SCHEMA, partitions), LabelJoin(JOIN, Wait(), SCHEMA)
    events = [placed(logs[t], p, t * n + p) for p, logs in enumerate(units) for t in range(INPUTS)]
    steps = [order.feed(Block(EventColumns.concat(events), Position())), order.finish()]
    events = EventColumns.concat([s.events for s in steps])
    return story(events, join.feed(events))


def examples_of(units):
    """Return what a worker makes of each unit."""
    return [
        labelled(
            EventColumns.concat([placed(logs[t], p, t) for t in range(INPUTS)]),
            p,
            INPUTS,
            ORDER,
            JOIN,
            SCHEMA,
        )
        for p, logs in enumerate(units)
    ]


def blocks_of(examples, cuts, turns, again):
    """Return blocks of every partition's examples: cut, some repeated, interleaved by ``turns``."""
    lanes = []
    for p, some in enumerate(examples):
        lane = []
        for piece in pieces(len(some), cuts[p], again):
            left = some.at[piece.stop :]
            complete = int(left[0]) if left.size else T0 + 10_000
            lane.append(Block(some.take(piece), Position(), progress={p: progress(complete)}))
        lanes.append(lane)
    blocks = []
    for turn in [*turns, *(list(range(len(lanes))) * 20)]:
        if lanes[turn % len(lanes)]:
            blocks.append(lanes[turn % len(lanes)].pop(0))
    return blocks


def made(n):
    """Return an order and a join of ``n`` partitions of examples."""
    partitions = tuple(Partition("examples", p) for p in range(n))
    return ExampleOrder(ORDER, SCHEMA, partitions), ExampleJoin()


@given(st.lists(unit, min_size=1, max_size=3), st.data())
def test_examples_tell_the_story_of_the_join_that_labelled_them(units, data):
    """Redelivered, cut and interleaved anyhow, restarted anywhere: as if joined here at once."""
    examples = examples_of(units)
    cuts = [data.draw(st.lists(st.integers(1, 12), max_size=4)) for _ in units]
    turns = data.draw(st.lists(st.integers(0, 2), max_size=12))
    blocks = blocks_of(examples, cuts, turns, data.draw(st.integers(0, 5)))
    restarts = data.draw(st.sets(st.integers(0, len(blocks)), max_size=3))
    (order, join), actual = made(len(units)), []
    for i, block in enumerate(blocks):
        if i in restarts:
            states = reborn(order.state()), reborn(join.state())
            order, join = made(len(units))
            order.restore(states[0])
            join.restore(states[1])
        events = order.feed(block).events
        actual += story(events, join.feed(events))
    events = order.finish().events
    actual += story(events, join.feed(events))

    whole = joined_at_once(units)
    expected = [x for x in whole if x[2] < order.watermark]
    assert expected == actual
    assert (0, 0) == (order.after_idle, order.hurried)
    assert len(whole) - len(expected) == join.counts()["waiting"] == order.held


def some(*at, partition=0, first=0):
    """Return negatives shown at ``at`` after T0, a record each."""
    examples = ExampleColumns.empty(SCHEMA, len(at))
    examples.at[:] = examples.ts[:] = T0 + np.array(at, np.int64)
    examples.offset[:] = examples.origin_offset[:] = first + np.arange(len(at))
    examples.impression[:] = 1 + examples.origin_offset + 1000 * partition
    examples.partition[:] = partition
    return examples


def fed(order, examples, complete=None, **said):
    """Feed examples of one partition, complete up to a time; return the `at` of what goes."""
    p = said.pop("partition", int(examples.partition[0]) if len(examples) else 0)
    told = {} if complete is None else {p: progress(T0 + complete)}
    ordered = order.feed(Block(examples, Position(), progress=told, **said))
    return [int(t) - T0 for t in ordered.events.at]


def test_nothing_goes_before_every_partition_is_complete_to_it():
    """What another worker has yet to write may lie before it."""
    order, _ = made(2)

    assert [] == fed(order, some(0, 5, 9), complete=9)
    assert [0, 3] == fed(order, some(3, 7, partition=1), complete=5)
    assert [5, 7] == fed(order, some(), complete=20, partition=1)
    assert [9] == fed(order, some(), complete=10)
    assert T0 + 10 == order.watermark


def test_an_ended_partition_holds_nothing():
    """It will never have more."""
    order, _ = made(2)

    assert [0] == fed(order, some(0, 5), complete=5, ended=frozenset({1}))
    assert [5] == fed(order, some(), ended=frozenset({0}))


def test_a_partition_without_a_worker_holds_nothing():
    """The source says which: others must not wait for ever for what nobody labels."""
    order, _ = made(2)

    assert [] == fed(order, some(0, 5), complete=5)
    assert [0] == fed(order, some(), idle=frozenset({1}))
    assert [] == fed(order, some(), idle=frozenset({0, 1}))
    assert T0 + 5 == order.watermark


def test_what_comes_after_others_had_gone_on_goes_at_the_watermark_and_is_counted():
    """The watermark never goes back; the count says that a replay would differ here."""
    order, _ = made(2)
    fed(order, some(0, 5), complete=9, idle=frozenset({1}))

    assert [] == fed(order, some(3, 12, partition=1), complete=12)
    assert [9] == fed(order, some(), complete=15)
    assert (1, T0 + 12) == (order.after_idle, order.watermark)


def test_what_was_delivered_before_is_dropped_and_counted():
    """A worker that starts again writes again what it may not have written."""
    order, _ = made(1)

    assert [0, 5] == fed(order, some(0, 5), complete=6)
    assert [7] == fed(order, some(0, 5, 7), complete=8)
    assert 2 == order.redelivered


def test_what_waits_is_bounded_however_far_a_partition_is_behind():
    """A worker that stands still must not fill the memory; a count says so."""
    config = OrderConfig(max_held=40)
    order = ExampleOrder(config, SCHEMA, (Partition("examples", 0), Partition("examples", 1)))
    went = []
    for i in range(0, 300, 3):
        went += fed(order, some(i, i + 1, i + 2, first=i), complete=i + 2)
        assert order.held <= 40
    went += fed(order, some(5, partition=1), complete=5)
    went += [int(t) - T0 for t in order.finish().events.at]

    assert 301 == len(went)
    assert sorted(went) == went
    assert order.hurried > 250
    assert 1 == order.after_idle


def test_a_click_goes_at_its_own_time_behind_its_example():
    """Features count it when it happened, not when the label was read."""
    order, _ = made(1)
    examples = some(0, 5, 9)
    examples.label[0], examples.label_at[0] = 1, T0 + 5
    examples.click_partition[0], examples.click_offset[0], examples.click_row[0] = 0, 7, 0
    events = order.feed(Block(examples, Position(), progress={0: progress(T0 + 9)})).events

    assert [1, 2, 1] == events.impression.tolist()
    assert [0, 0, FEEDBACK] == events.kind.tolist()
    assert [0, 5, 5] == [int(t) - T0 for t in events.at]


def test_clicks_after_the_last_example_wait_for_the_log_to_go_on():
    """An end is where reading ended, not time: what is written later was shown before them."""
    order, join = made(1)
    examples = some(0, 5)
    examples.label[0], examples.label_at[0] = 1, T0 + 8
    examples.click_partition[0], examples.click_offset[0], examples.click_row[0] = 0, 7, 0
    order.feed(Block(examples, Position()))
    join.feed(order.finish().events)

    assert (T0 + 6, 1, 0) == (order.watermark, order.held, join.first_pending)
    state = order.state()
    order, _ = made(1)
    order.restore(reborn(state))
    order.reopen()
    assert [7, 8, 9] == fed(order, some(7, 9, 10, first=2), complete=10)
    assert 0 == order.after_idle


def test_a_state_of_fewer_partitions_is_taken_up():
    """A topic that grows keeps what is in flight; the new partition begins with its log."""
    order, _ = made(1)
    fed(order, some(0, 5, 9), complete=5)
    state = order.state()
    order, _ = made(2)
    order.restore(reborn(state), np.array([0], np.int16))

    assert [] == fed(order, some(), complete=10)
    assert [5, 9] == fed(order, some(12, partition=1), complete=10)
    assert [] == fed(order, some(0, 5, 9), complete=11)
    assert 3 == order.redelivered
