import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstream.reading import event_schema
from keepstream.wiring import build_ingest
from stream.listsource import ListSource
from stream.position import Partition
from tests.stream.handovers import SETTINGS, TOPICS, learned, packed, written
from tests.trainer.parts import START_MS, equal
from trainer.growth import OtherPartitions, places_of, renumbered
from trainer.items import LearnItem

SCHEMA = event_schema(SETTINGS)


def grown(lines, more, at_ms):
    """Return a log whose topics have ``more`` partitions from a time on."""
    count = len(lines) // len(TOPICS)
    result = {p: [] for t in TOPICS for n in range(count + more) for p in [Partition(t, n)]}
    for p, here in lines.items():
        for ts, line in here:
            user = json.loads(line)["user_id"]
            number = p.number if ts < at_ms else user % (count + more)
            result[Partition(p.topic, number)].append((ts, line))
    return dict(sorted(result.items()))


def first_of(lines, partitions):
    """Return the least time of the partitions that there were not."""
    return min(
        (ts for p, here in lines.items() if p not in partitions for ts, _ in here), default=0
    )


def before_growth(ingest_of, source, until_ms, stop):
    """Read until a block, at most until the watermark; return the state, and what was learned."""
    ingest, kept, items = ingest_of(), None, []
    for number, block in enumerate(source):
        new = list(ingest.feed(block))
        if number > stop or ingest.barrier().watermark > until_ms:
            break
        kept, items = ingest.state(), items + new
    return kept, items


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    partitions=st.integers(1, 3),
    more=st.integers(1, 3),
    grows_s=st.integers(20, 300),
    stop=st.integers(0, 60),
    block_events=st.integers(1, 40),
    as_served=st.booleans(),
)
def test_more_partitions_give_what_a_run_gives_that_had_them_from_the_start(
    seed, partitions, more, grows_s, stop, block_events, as_served
):
    """What waits in the order, for its label and in the batch is kept, wherever it came from."""
    config = replace(SETTINGS, train=replace(SETTINGS.train, as_served=as_served))
    few = written(seed, 200, partitions)
    lines = grown(few, more, START_MS + 1000 * grows_s)
    old = {p: messages for p, messages in packed(lines, 3).items() if p in few}

    def opened(position):
        return ListSource(SCHEMA, packed(lines, 3), position=position, block_events=block_events)

    with tempfile.TemporaryDirectory() as name:

        def ingest_of(here=lines):
            return build_ingest(config, tuple(here), Path(name))

        whole, expected = learned(ingest_of, opened)
        source = ListSource(SCHEMA, old, block_events=block_events)
        state, actual = before_growth(lambda: ingest_of(few), source, first_of(lines, few), stop)
        ingest = ingest_of()
        if state is not None:
            ingest.restore(state)
            assert (state["order"]["ticked"], state["events"]) == (0, ingest.counts().events)
        for block in opened(ingest.position):
            actual += ingest.feed(block)
        actual += ingest.finish()

    assert [i.examples_digest for i in expected if isinstance(i, LearnItem)] == [
        i.examples_digest for i in actual if isinstance(i, LearnItem)
    ]
    assert whole.counts() == ingest.counts()
    assert 0 == ingest.counts().after_idle


def test_what_was_in_flight_is_kept_and_named_anew(tmp_path):
    """A letter written later must name the partition that the event came from."""
    few = written(5, 200, 2)
    lines = grown(few, 1, START_MS)
    ingest = build_ingest(SETTINGS, tuple(sorted(few)), tmp_path)
    for block in ListSource(SCHEMA, packed(few, 3), block_events=30):
        list(ingest.feed(block))
        if ingest.counts().held and ingest.counts().pending and ingest.counts().events > 150:
            break
    more = build_ingest(SETTINGS, tuple(lines), tmp_path)

    more.restore(ingest.state())

    assert ingest.counts() == more.counts()
    before, after = ingest.state(), more.state()
    held, now = before["order"]["held"], after["order"]["held"]
    named = [sorted(few)[i] for i in held["partition"]]
    assert named == [list(lines)[i] for i in now["partition"]]
    assert 2 < len(set(named))
    rows, kept = before["pending"]["chunks"]["0"], after["pending"]["chunks"]["0"]
    assert [sorted(few)[i] for i in rows["partition"]] == [
        list(lines)[i] for i in kept["partition"]
    ]
    for part in ("join", "features", "ids", "rehearsal"):
        assert equal(before[part], after[part])


def test_a_new_partition_holds_back_until_it_has_brought_something(tmp_path):
    """Its events may be as old as the growth itself: they must not be placed after others."""
    few = written(6, 100, 1)
    one = build_ingest(SETTINGS, tuple(sorted(few)), tmp_path)
    blocks = list(ListSource(SCHEMA, packed(few, 3), block_events=30))
    for block in blocks[:3]:
        list(one.feed(block))
    lines = grown(few, 1, 0)
    two = build_ingest(SETTINGS, tuple(lines), tmp_path)
    two.restore(one.state())
    watermark = two.barrier().watermark
    old = [p for p in lines if p in few]

    for block in blocks[3:-1]:
        at = np.array([list(lines).index(old[i]) for i in (0, 1)], np.int16)
        moved = replace(block.events, partition=at[block.events.partition])
        list(two.feed(replace(block, events=moved, ended=frozenset())))

    assert watermark == two.barrier().watermark


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["a/0", "b/0"], ["a/0"]),
        (["a/0", "a/1"], ["a/0", "a/2"]),
        (["a/0"], ["a/0", "b/0"]),
        (["a/0"], ["a/0", "history:a/0"]),
        (["a/0"], ["b/0"]),
    ],
)
def test_anything_but_growth_is_refused(before, now):
    """A topic that comes or goes is another experiment, a partition that goes is a loss."""
    with pytest.raises(OtherPartitions, match="--run another folder"):
        places_of(before, now)


def test_partitions_are_found_by_name():
    """The new ones come between the old: places move."""
    before, now = ["a/0", "b/0", "b/1"], ["a/0", "a/1", "b/0", "b/1", "b/10", "b/2"]

    assert [0, 2, 3] == places_of(before, now).tolist()
    assert None is places_of(now, now)
    column = np.array([2, 0, 1], np.int16)
    state = renumbered({"x": {"partition": column, "offset": column}}, places_of(before, now))
    assert [3, 0, 2] == state["x"]["partition"].tolist()
    assert [2, 0, 1] == state["x"]["offset"].tolist()
