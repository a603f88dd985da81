"""What a stream without end does to the memory: every bound holds, and says what it cost."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from benchmarks.memory import WorldSource, bounded_config, bounds, endless_world, run
from keepstream.config import Config
from keepstream.reading import event_schema
from keepstream.wiring import build_ingest
from replay.world import World
from stream.encode import encode_event
from stream.events import EventSchema
from stream.filelog import create_topic
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.listsource import ListSource
from stream.order import EventTimeOrder, OrderConfig
from stream.pending import PendingRows
from stream.position import Partition
from stream.source import Source
from trainer import ingest as ingest_module
from trainer.ingest import MAX_NAMES
from trainer.items import LearnItem, ScoreItem

EVENTS = 600_000  # several times what the bounds of `bounded_config` hold
SHOWN, CLICKED = Partition("impressions", 0), Partition("feedback", 0)
START_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Return what was seen of a world that outgrows every bound, and the counts."""
    return run(EVENTS, tmp_path_factory.mktemp("endless"))


def test_no_structure_outgrows_its_bound(endless):
    """Invariant 7: join, rows, features, ids and metrics stay within what was configured."""
    looks, _ = endless
    limits = bounds(bounded_config())

    assert {} == {n: (size, limits[n]) for n, size in looks.largest().items() if size > limits[n]}


def test_every_bound_was_put_to_the_test(endless):
    """A bound that nothing comes near proves nothing."""
    looks, _ = endless
    limits, largest = bounds(bounded_config()), looks.largest()
    roomy = [name for name, limit in limits.items() if largest[name] < 0.75 * limit]

    assert [] == roomy


def test_what_a_bound_costs_is_counted(endless):
    """Nothing is evicted, forced or refused without a number that says so."""
    _, counts = endless

    told = ("hurried", "after_idle", "forced", "orphans", "refused_ids", "requests_cut_short")

    assert [] == [name for name in told if counts[name] == 0]
    assert counts["user_share"] < 1


def test_memory_stays_where_the_bounds_put_it(endless):
    """A leak of 200 bytes an event would show here; `benchmarks.memory` finds smaller ones."""
    looks, _ = endless
    rss_mb = [mb for events, mb in looks.rss_mb if events > EVENTS / 2]
    half = len(rss_mb) // 2

    assert np.median(rss_mb[half:]) - np.median(rss_mb[:half]) < 25


def lines(seconds: int, *, clicks: tuple[int, ...] = ()) -> dict[Partition, list[bytes]]:
    """Return ten impressions a second, and clicks at some of the seconds."""
    shown = [
        {"impression_id": i, "user_id": i % 9, "item_id": 1, "ts": START_MS + 100 * i}
        for i in range(10 * seconds)
    ]
    clicked = [
        {"impression_id": 10 * s, "user_id": 1, "ts": START_MS + 1000 * s, "action": "click"}
        for s in clicks
    ]
    return {SHOWN: [*map(encode_event, shown)], CLICKED: [*map(encode_event, clicked)]}


def most_held(source: Source, until: int) -> int:
    """Return the most events that wait for their turn while ``until`` events are read."""
    config = OrderConfig(lateness_s=2.0, idle_s=3.0)
    order, most, read = EventTimeOrder(config, source.schema, source.partitions), 0, 0
    for block in source:
        order.feed(block)
        most, read = max(most, order.held), read + len(block.events)
        if read == until:
            source.close()
    return most


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("clicks", [(), (0,), (0, 199)])
def test_a_log_with_little_or_no_feedback_is_not_held_back(tmp_path, follow, clicks):
    """A topic that brings nothing is ended, or silent: either way the others go on without it."""
    log = lines(200, clicks=clicks)
    for partition in log:
        create_topic(tmp_path, partition.topic, 1)
    with FileLogWriter(tmp_path, LogWriterConfig(fsync="never")) as writer:
        for partition, values in log.items():
            writer.append_many(partition, values)
    source = FileLogSource(
        tmp_path, ["impressions", "feedback"], EventSchema(), follow=follow, block_events=10
    )

    assert most_held(source, 2000 + len(clicks)) <= 110  # 5 s, a first look at each, and a block


def test_a_list_with_little_feedback_is_not_held_back():
    """The same of what lies in memory."""
    source = ListSource(EventSchema(), lines(200, clicks=(0, 199)), block_events=10)

    assert most_held(source, 2002) <= 110


def test_names_of_scenes_are_bounded_over_restarts(tmp_path):
    """Every restart begins with a new decoder, which may name as many scenes again."""
    ingest = build_ingest(Config(), (CLICKED, SHOWN), tmp_path)
    blocks = list(ListSource(event_schema(Config()), lines(1)))
    for first in range(0, 5 * MAX_NAMES, 1000):
        names = {k: f"s{k}" for k in range(first, first + 1000)}
        assert [] == list(ingest.feed(replace(blocks[0], names=names)))

    assert MAX_NAMES == len(ingest.names)


def work_of(config: Config, folder: Path, events: int) -> list[tuple[object, ...]]:
    """Return what the learner is asked to do by a small world that is drained at its end."""
    source = WorldSource(World(endless_world()), event_schema(config), events)
    ingest = build_ingest(config, source.partitions, folder)
    served, work = PendingRows({"seq": (np.int64, None)}), []
    items = chain(*map(ingest.feed, source), ingest.finish())
    for item in items:
        if isinstance(item, ScoreItem):
            n = len(item.batch)
            served.append({"seq": item.first_seq + np.arange(n)})
            work.append(("score", item.first_seq, n, int(item.batch.rows.sum())))
        elif isinstance(item, LearnItem):
            seq = item.examples["seq"]
            assert np.array_equal(seq, served.take(seq)["seq"])  # what was served is still there
            served.release(item.served_below)
            work.append(("learn", item.examples_digest, int(item.batch.rows.sum())))
    return work


@pytest.mark.parametrize("positive_at", ["deadline", "click"])
def test_a_backlog_gone_through_in_pieces_gives_the_same_examples(
    tmp_path, monkeypatch, positive_at
):
    """What a long silence or the end lets go at once is taken in pieces, to bound the memory."""
    config = bounded_config(
        train={"positive_at": positive_at, "batch_size": 12},
        order={"max_held": 1_000_000},
        join={"window_s": 300},
    )
    whole = work_of(config, tmp_path, 10_000)
    monkeypatch.setattr(ingest_module, "PIECE", 20)

    assert whole == work_of(config, tmp_path, 10_000)
