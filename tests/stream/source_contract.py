# ruff: noqa: D401  # a docstring gives the reason of its check, as a test's does
"""What every `Source` keeps: run each ``check_*`` with a function that opens yours over a log.

    @pytest.mark.parametrize("check", CHECKS)
    def test_it_keeps_the_contract(check, make): check(make)

``make(log, position, cut)`` returns the source; it may be called many times with the same log, and
must then read the same bytes, cut as ``cut`` says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream.decode import Decoder
from stream.encode import encode_event
from stream.events import EventColumns, EventSchema
from stream.position import Partition, Position
from stream.source import Block, Source

Line = Mapping[str, Any] | bytes  # an event, or a line that is none
Log = Mapping[Partition, Sequence[Line]]

SCHEMA = EventSchema(ids=("category",), numbers=("age",), lists=(("topics", 2),))
START_MS = 1_700_000_000_000
CLICKED, SHOWN = Partition("feedback", 0), Partition("impressions", 0)
PLACE = ("partition", "offset", "row")  # the columns that depend on how a log is cut


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a log is cut: for a source without messages only the blocks count."""

    per_message: int = 3
    block_events: int = 7


Make = Callable[[Log, Position, Cut], Source]


def sample_log(events: int = 60, *, bad: bool = False) -> dict[Partition, list[Line]]:
    """Return two partitions of ``events`` each, ten events a second, with bad lines where asked."""
    log: dict[Partition, list[Line]] = {SHOWN: [], CLICKED: []}
    for i in range(events):
        ids = {"impression_id": f"i{i}", "user_id": i % 7, "ts": START_MS + 100 * i}
        features = {"category": f"c{i % 3}", "age": i / 2, "topics": [i % 5, "x"]}
        log[SHOWN].append({**ids, "item_id": i % 11, "scene": "home", "features": features})
        log[CLICKED].append({**ids, "ts": START_MS + 100 * i + 50, "action": "click", "value": i})
        if bad and i % 4 == 1:
            log[SHOWN].append(b'{"impression_id": "cut o')
            log[CLICKED].append({**ids, "action": "click", "ts": 12})
    return log


def expected_of(log: Log) -> dict[Partition, EventColumns]:
    """Return the events that a log holds, line by line."""
    lines = {p: [x if isinstance(x, bytes) else encode_event(x) for x in log[p]] for p in log}
    return {p: Decoder(SCHEMA).decode(lines[p], np.arange(len(lines[p])), 0, p).events for p in log}


def read(source: Source) -> list[Block]:
    """Return all blocks of a finite source."""
    blocks = list(source)
    source.close()
    return blocks


def by_partition(source: Source, blocks: Sequence[Block]) -> dict[Partition, EventColumns]:
    """Return the events of each partition in the order in which they came."""
    events = EventColumns.concat([EventColumns.empty(SCHEMA), *(b.events for b in blocks)])
    return {p: events.take(events.partition == i) for i, p in enumerate(source.partitions)}


def assert_same(expected: EventColumns, actual: EventColumns, *, but: Sequence[str] = ()) -> None:
    """Compare column by column, NaN equal to NaN."""
    for name, column in expected.columns().items():
        if name not in but:
            np.testing.assert_array_equal(actual.columns()[name], column, err_msg=name)


def check_its_partitions_are_sorted(make: Make) -> None:
    """An index into the partitions must mean the same in the run that resumes."""
    source = make(sample_log(3), Position(), Cut())

    assert tuple(sorted(source.partitions)) == tuple(source.partitions)
    assert set(source.partitions) == {SHOWN, CLICKED}
    source.close()


def check_it_reads_all_in_log_order(make: Make) -> None:
    """The events of a partition come in log order, none twice and none lost."""
    log = sample_log()
    source = make(log, Position(), Cut())
    found = by_partition(source, read(source))

    for partition, events in expected_of(log).items():
        assert_same(events, found[partition], but=PLACE)
        places = np.stack([found[partition].offset, found[partition].row])
        ascending = np.diff(places[0] * 1_000_000 + places[1])
        assert (ascending > 0).all()


def check_the_cut_makes_no_difference(make: Make) -> None:
    """How a log is cut into messages and blocks changes no event, and no rejected line."""
    log = sample_log(bad=True)
    found = []
    for cut in (
        Cut(),
        Cut(per_message=1, block_events=1),
        Cut(per_message=1000),
        Cut(block_events=10**6),
    ):
        source = make(log, Position(), cut)
        blocks = read(source)
        letters = sorted((r.partition, r.reason, r.raw) for block in blocks for r in block.rejected)
        found.append((by_partition(source, blocks), letters))

    for events, letters in found[1:]:
        assert letters == found[0][1]
        for partition in log:
            assert_same(found[0][0][partition], events[partition], but=PLACE)


def check_blocks_are_bounded(make: Make) -> None:
    """Whatever the size of a message, a block is no larger than it was asked to be."""
    for block in read(make(sample_log(bad=True), Position(), Cut(per_message=50, block_events=4))):
        assert len(block.events) <= 4


def check_it_resumes_exactly(make: Make) -> None:
    """A source opened at a block's position continues exactly after that block, row by row."""
    log = sample_log(30, bad=True)
    for cut in (Cut(), Cut(per_message=20, block_events=3), Cut(per_message=1, block_events=2)):
        whole = make(log, Position(), cut)
        blocks = read(whole)
        everything = by_partition(whole, blocks)
        letters = [r for b in blocks for r in b.rejected]
        for i, block in enumerate(blocks):
            position = Position.from_json(block.position.to_json())
            source = make(log, position, cut)
            rest = read(source)
            found = by_partition(source, [*blocks[: i + 1], *rest])
            for partition, events in everything.items():
                assert_same(events, found[partition])
            resumed = [r for b in [*blocks[: i + 1], *rest] for r in b.rejected]
            assert sorted(letters, key=_place) == sorted(resumed, key=_place)


def check_bad_lines_come_out_with_their_reason(make: Make) -> None:
    """Bad input comes out as `Rejected`, and nothing else is lost."""
    log = sample_log(bad=True)
    source = make(log, Position(), Cut())
    blocks = read(source)
    found = by_partition(source, blocks)
    letters = [r for block in blocks for r in block.rejected]

    assert {(SHOWN, "bad_json"), (CLICKED, "bad_time")} == {
        (r.partition, r.reason) for r in letters
    }
    lines = sum(map(len, log.values()))
    assert lines == len(letters) + sum(map(len, found.values()))
    for partition, events in expected_of(log).items():
        assert_same(events, found[partition], but=PLACE)


def check_a_finite_source_ends(make: Make) -> None:
    """The watermark goes on only when a partition is known to have no more, even an empty one."""
    source = make({SHOWN: sample_log(9)[SHOWN], CLICKED: []}, Position(), Cut())
    blocks = read(source)

    assert frozenset({0, 1}) == frozenset().union(*(b.ended for b in blocks))
    assert not any(b.idle for b in blocks)
    for i in range(len(blocks)):
        later = EventColumns.concat([b.events for b in blocks[i:]])
        told = frozenset().union(*(b.ended for b in blocks[:i]))
        assert not set(later.partition.tolist()) & told


def check_the_partition_furthest_behind_comes_first(make: Make) -> None:
    """What waits for its turn in event time stays small, however long the log."""
    source = make(sample_log(400), Position(), Cut(per_message=2, block_events=10))
    clocks = {0: START_MS, 1: START_MS}
    lead = 0
    for block in read(source):
        for i in set(block.events.partition.tolist()):
            clocks[i] = int(block.events.ts[block.events.partition == i].max())
        lead = max(lead, abs(clocks[0] - clocks[1]))

    assert lead <= 100 * 128


def check_names_of_scenes_come_with_them(make: Make) -> None:
    """Reports speak of scenes by name, columns by hash."""
    names: dict[int, str] = {}
    for block in read(make(sample_log(20), Position(), Cut())):
        names |= block.names
        assert set(block.events.scene.tolist()) - {0} <= names.keys()

    assert list(names.values()) == ["home"]


def check_closing_ends_it(make: Make) -> None:
    """Whoever stops a run waits for its source: `close` is idempotent and ends the reading."""
    source = make(sample_log(), Position(), Cut())
    blocks: Iterator[Block] = iter(source)
    next(blocks)
    source.close()
    source.close()

    assert len(list(blocks)) <= 1


def _place(letter: Any) -> tuple[Partition, int, int]:
    return letter.partition, letter.offset, letter.row


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]
