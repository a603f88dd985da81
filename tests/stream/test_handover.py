import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstream.reading import event_schema
from keepstream.wiring import build_ingest
from stream.filelog import create_topic
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.handover import (
    HISTORY,
    OVER,
    HandOver,
    history_over,
    history_position,
    live_position,
    newest_impression,
)
from stream.listsource import ListSource
from stream.position import Offset, Partition, Position
from tests.stream.handovers import SETTINGS, handed_over, learned, packed, written
from tests.trainer.parts import CLICKED, SHOWN, START_MS, clicked, log, shown
from trainer.items import LearnItem

SCHEMA = event_schema(SETTINGS)


def digest(items):
    """Return the digest of the examples that were learned."""
    return [i.examples_digest for i in items if isinstance(i, LearnItem)][-1]


def ingests(partitions, scratch):
    """Return what makes an ingest of these partitions."""
    return lambda: build_ingest(SETTINGS, tuple(sorted(partitions)), scratch)


def both(lines):
    """Return the partitions of a history and of what is live."""
    return [*lines, *(Partition(HISTORY + p.topic, p.number) for p in lines)]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    partitions=st.integers(1, 3),
    cut_s=st.integers(-10, 420),
    per_message=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    block_events=st.integers(1, 60),
    stops=st.lists(st.integers(0, 12), max_size=4),
)
def test_a_history_and_what_is_live_give_what_one_log_gives(
    seed, partitions, cut_s, per_message, block_events, stops
):
    """Wherever they are parted, however they are cut, and whenever it was killed in between."""
    lines = written(seed, 200, partitions)
    with tempfile.TemporaryDirectory() as name:
        whole, expected = learned(
            ingests(lines, Path(name)),
            lambda position: ListSource(SCHEMA, packed(lines, 7), position=position),
        )
        ingest, actual = learned(
            ingests(both(lines), Path(name)),
            lambda position: handed_over(
                SCHEMA, lines, START_MS + 1000 * cut_s, per_message, block_events, position
            ),
            stops,
        )

    assert digest(expected) == digest(actual)
    assert whole.counts() == ingest.counts()
    assert (0, 0) == (ingest.counts().late, ingest.counts().after_idle)


def test_the_history_is_learned_while_what_is_live_waits_for_its_turn(tmp_path):
    """Months of history must not wait in memory for a partition that is not looked at yet."""
    lines = written(1, 400, 1)
    patient = replace(SETTINGS, order=replace(SETTINGS.order, idle_s=100_000))
    ingest = build_ingest(patient, tuple(sorted(both(lines))), tmp_path)
    source = handed_over(SCHEMA, lines, START_MS + 600_000, (1, 1), 20, Position())

    held = 0
    for block in source:
        list(ingest.feed(block))
        held = max(held, ingest.counts().held)

    assert held < 120 < 400 < ingest.counts().events


def test_a_live_partition_is_not_idle_because_the_history_took_long(tmp_path):
    """It was not looked at meanwhile: what it holds must come before the watermark passes it."""
    messages = log(100)
    create_topic(tmp_path / "log", "impressions", 1)
    create_topic(tmp_path / "log", "feedback", 1)
    live = [shown(i, i) for i in range(120, 140)]
    ingest = build_ingest(SETTINGS, tuple(sorted(both(messages))), tmp_path)
    source = HandOver(
        SCHEMA,
        ListSource(SCHEMA, messages),
        sorted(messages),
        lambda position: FileLogSource(
            tmp_path / "log", ("impressions", "feedback"), SCHEMA, position=position, follow=True
        ),
    )
    with FileLogWriter(tmp_path / "log", LogWriterConfig(fsync="never")) as writer:
        writer.append_many(SHOWN, live)
        blocks = iter(source)
        for block in blocks:
            list(ingest.feed(block))
            if len(block.events) and live_position(block.position).offsets:
                break
        clicks = [clicked(i, i + 1) for i in range(120, 135)]
        writer.append_many(CLICKED, clicks)
        seen = 0
        for block in blocks:
            list(ingest.feed(block))
            seen += len(block.events)
            if seen >= len(clicks):
                source.close()

    assert (0, 0) == (ingest.counts().after_idle, ingest.counts().join["orphans"])


def test_its_position_tells_the_phase(tmp_path):
    """A restart must neither learn the history again nor need its files once it is over."""
    lines = written(2, 60, 1)
    blocks = list(handed_over(SCHEMA, lines, START_MS + 100_000, (3, 3), 10, Position()))

    phases = [history_over(b.position) for b in blocks]
    assert sorted(phases) == phases
    assert {False, True} == set(phases)
    over = next(b for b in blocks if history_over(b.position))
    assert {OVER} == set(history_position(over.position).offsets.values())
    assert {} == dict(live_position(over.position).offsets)
    assert frozenset({1, 2}) == over.ended
    assert not any(b.later for b in blocks[phases.index(True) :])
    before = blocks[phases.index(True) - 1]
    assert lines.keys() == history_position(before.position).offsets.keys()
    assert not history_over(Position())


def test_partitions_of_the_history_are_told_from_live_ones(tmp_path):
    """They may be of the same topics: a letter must name the one it came from."""
    messages = {SHOWN: [b"{", shown(1, 1)], CLICKED: []}
    source = HandOver(
        SCHEMA,
        ListSource(SCHEMA, messages),
        sorted(messages),
        lambda position: ListSource(SCHEMA, messages, position=position),
    )

    blocks = list(source)

    names = [str(p) for p in source.partitions]
    assert ["feedback/0", "history:feedback/0", "history:impressions/0", "impressions/0"] == names
    letters = [str(r.partition) for b in blocks for r in b.rejected]
    assert ["history:impressions/0", "impressions/0"] == letters
    events = [names[i] for b in blocks for i in b.events.partition.tolist()]
    assert ["history:impressions/0", "impressions/0"] == events
    assert frozenset({0, 1, 2, 3}) == blocks[-1].ended


def test_live_begins_where_it_was_told_to(tmp_path):
    """Where it begins is found before the history is learned: retention goes on meanwhile."""
    messages = {SHOWN: [shown(i, i) for i in range(5)], CLICKED: []}
    source = HandOver(
        SCHEMA,
        ListSource(SCHEMA, {SHOWN: [], CLICKED: []}),
        sorted(messages),
        lambda position: ListSource(SCHEMA, messages, position=position),
        position=Position({SHOWN: Offset(3)}),
    )

    blocks = list(source)

    assert all(Offset(3) <= b.position.of(SHOWN) for b in blocks)
    assert [3, 4] == [int(o) for b in blocks for o in b.events.offset]


def test_other_live_partitions_than_were_known_end_it(tmp_path):
    """They came while the history was learned: whoever runs it opens it anew with all of them."""
    messages = {SHOWN: [shown(1, 1)], CLICKED: []}
    more = {**messages, Partition("impressions", 1): [shown(2, 2)]}
    source = HandOver(
        SCHEMA,
        ListSource(SCHEMA, messages),
        sorted(messages),
        lambda position: ListSource(SCHEMA, more, position=position),
    )

    blocks = list(source)

    assert source.grown
    assert history_over(blocks[-1].position)
    assert 1 == sum(len(b.events) for b in blocks)


@pytest.mark.parametrize("closed_at", [0, 1, 5])
def test_closing_ends_it_in_either_phase(closed_at):
    """What stops a run must not be taken for the end of the history."""
    lines = written(3, 60, 1)
    source = handed_over(SCHEMA, lines, START_MS + 60_000, (3, 3), 20, Position())
    blocks = []
    for number, block in enumerate(source):
        blocks.append(block)
        if number == closed_at:
            source.close()
            source.close()

    assert len(blocks) <= closed_at + 2
    assert closed_at > 2 or not history_over(blocks[-1].position)


def test_the_newest_impression_is_not_that_of_a_wrong_clock():
    """A hand-over at the end of the century would learn nothing live, for ever."""
    messages = log(100)
    messages[SHOWN].insert(50, shown(1000, 400_000_000))

    assert START_MS + 99_000 == newest_impression(ListSource(SCHEMA, messages), SETTINGS.order)
    assert None is newest_impression(ListSource(SCHEMA, {SHOWN: []}), SETTINGS.order)


def test_clicks_after_the_last_impression_do_not_move_the_hand_over():
    """A table's clicks reach further than what it shows: between lies what nobody would learn."""
    messages = log(100)
    messages[CLICKED].append(clicked(99, 5000))

    assert START_MS + 99_000 == newest_impression(ListSource(SCHEMA, messages), SETTINGS.order)
