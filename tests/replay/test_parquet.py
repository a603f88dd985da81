import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import InputCorrupt, InputError, InputUnsorted, MappingError
from replay.mapping import ParquetMapping
from replay.parquet import ParquetSource
from replay.relog import parquet_lines
from stream.events import FEEDBACK, IMPRESSION, EventColumns, EventSchema
from stream.listsource import ListSource
from stream.order import EventTimeOrder, OrderConfig
from stream.position import Partition, Position
from stream.source import Rejected
from tests.replay.tables import SCHEMA, START, TABLE, assert_same, ordered, read, shown, write
from tests.stream.source_contract import CHECKS, CLICKED, SHOWN
from tests.stream.source_contract import SCHEMA as CONTRACT

MAPPING = ParquetMapping.from_table(TABLE)
ROWS = 300


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return the path of a table of `ROWS` rows."""
    return write(tmp_path_factory.mktemp("table") / "shown.parquet", shown(ROWS))


def _json(path, mapping=MAPPING, **options):
    """Return the source of the JSON messages that say what the table says."""
    messages = {Partition("feedback", 0): [], Partition("impressions", 0): []}
    for line in parquet_lines(path, mapping, **options):
        messages[Partition(line.topic, 0)].append(line.line)
    return ListSource(SCHEMA, messages)


def test_a_table_says_what_its_json_says(table):
    """Replay from Parquet must give the model the very columns that the live log gave it."""
    assert_same(ordered(_json(table)), ordered(ParquetSource(table, MAPPING, SCHEMA)))


@given(st.integers(1, 40), st.integers(0, 2**32), st.integers(1, 50))
def test_any_table_in_any_blocks_says_what_its_json_says(tmp_path_factory, n, seed, block):
    """Equality must not rest on one lucky table, nor on how it is cut."""
    path = write(tmp_path_factory.mktemp("t") / "t.parquet", shown(n, seed), row_group=7)
    source = ParquetSource(path, MAPPING, SCHEMA, block_events=block)

    assert_same(ordered(_json(path)), ordered(source))


def test_every_block_can_be_resumed_at(table):
    """A checkpoint may fall behind any block: nothing may come twice or be skipped."""
    blocks = list(ParquetSource(table, MAPPING, SCHEMA, block_events=37))
    for k, block in enumerate(blocks[:-1]):
        position = Position.from_json(block.position.to_json())
        rest = EventColumns.concat([b.events for b in blocks[k + 1 :]])
        resumed, _ = read(ParquetSource(table, MAPPING, SCHEMA, position=position, block_events=11))
        for partition in (0, 1):
            assert_same(
                rest.take(rest.partition == partition),
                resumed.take(resumed.partition == partition),
            )


def test_feedback_comes_no_later_than_the_next_impressions(table):
    """What waits for its turn in the order of the stream has to stay small."""
    blocks = list(ParquetSource(table, MAPPING, SCHEMA, block_events=16))

    assert max(len(b.events) for b in blocks) <= 16
    ends = [b.events.ts[b.events.kind == FEEDBACK].max(initial=0) for b in blocks]
    begins = [b.events.ts[b.events.kind == IMPRESSION].min(initial=2**62) for b in blocks]
    for k in range(len(blocks) - 1):
        assert ends[k] <= min(begins[k + 1 :])


@pytest.mark.parametrize("clicked", [[], [1999], [0, 1999]])
def test_impressions_do_not_wait_for_a_click_that_is_far(tmp_path, clicked):
    """A night without clicks, or a log without any, must not fill the memory with impressions."""
    columns = shown(2000)
    labels = np.zeros(2000, np.int8)
    labels[clicked] = 1
    path = write(tmp_path / "quiet.parquet", columns | {"click": pa.array(labels)})
    source = ParquetSource(path, MAPPING, SCHEMA, block_events=16)
    order = EventTimeOrder(OrderConfig(lateness_s=1, idle_s=5), SCHEMA, source.partitions)
    events, most = [], 0
    for block in source:
        events.append(order.feed(block).events)
        most = max(most, order.held)

    assert most <= 60
    assert 2000 + len(clicked) == sum(map(len, events)) + len(order.finish().events)
    assert 0 == order.after_idle


CONTRACT_MAPPING = ParquetMapping.from_table(
    {
        "columns": {
            "impression_id": "impression_id",
            "user_id": "user_id",
            "item_id": "item_id",
            "ts": "ts",
            "scene": "scene",
            "label": "clicked",
        },
        "feedback": {"time_column": "clicked_at", "value": "value"},
        "features": {"category": "category", "age": "age", "topics": "topics"},
    }
)


def make(log, position, cut):
    """Open a table that says what a log says; for a line that is no event, a row without item."""
    clicks = {e["impression_id"]: e for e in log[CLICKED] if e["ts"] > 12}
    rows = []
    for line in log[SHOWN]:
        if isinstance(line, bytes):
            rows.append({"item_id": None})
            continue
        click = clicks.get(line["impression_id"])
        told = {"clicked_at": click["ts"], "value": click["value"]} if click else {}
        topics = [str(topic) for topic in line["features"]["topics"]]
        row = {**line, **line["features"], "topics": topics, "clicked": click is not None}
        rows.append({**row, **told})
    kinds = {"impression_id": "string", "user_id": "int32", "item_id": "int64", "ts": "int64",
             "scene": "string", "clicked": "bool", "clicked_at": "int64", "value": "float",
             "category": "string", "age": "double"}  # fmt: skip
    fields = [(name, pa.type_for_alias(kind)) for name, kind in kinds.items()]
    table = pa.Table.from_pylist(rows, pa.schema([*fields, ("topics", pa.list_(pa.string()))]))
    path = Path(tempfile.mkdtemp()) / "log.parquet"
    pq.write_table(table, path, row_group_size=5)
    return ParquetSource(
        path, CONTRACT_MAPPING, CONTRACT, position=position, block_events=cut.block_events
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_table_keeps_the_contract(check, tmp_path, monkeypatch):
    """What reads a log from a table must not differ from what reads it from anywhere else."""
    if check.__name__ == "check_bad_lines_come_out_with_their_reason":
        pytest.skip("a table has no malformed lines: see the tests of bad rows")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check(make)


def test_both_partitions_end(table):
    """The last events can only settle when nothing can come any more."""
    blocks = list(ParquetSource(table, MAPPING, SCHEMA, block_events=50))

    assert frozenset({0, 1}) == blocks[-1].ended
    assert frozenset() == blocks[0].ended


@pytest.mark.parametrize("sort", [False, True])
def test_from_and_until_choose_by_each_events_own_time(table, sort):
    """Two replays that meet at a time must give every event once."""
    everything, _ = read(ParquetSource(table, MAPPING, SCHEMA))
    cut = START + 60_000
    before = ParquetSource(table, MAPPING, SCHEMA, until_ms=cut, sort=sort)
    after = ParquetSource(table, MAPPING, SCHEMA, from_ms=cut, sort=sort)
    parts = [read(before)[0], read(after)[0]]

    assert all(len(part) for part in parts)
    assert parts[0].ts.max() < cut <= parts[1].ts.min()
    for kind in (FEEDBACK, IMPRESSION):
        met = EventColumns.concat([p.take(p.kind == kind) for p in parts])
        assert_same(everything.take(everything.kind == kind), met)


def test_several_files_are_one_table(tmp_path):
    """Logs come a file a day; the cut between days is nobody's business."""
    columns = shown(100)
    write(tmp_path / "day-1.parquet", {k: c.slice(0, 33) for k, c in columns.items()})
    write(tmp_path / "day-2.parquet", {k: c.slice(33) for k, c in columns.items()})
    whole = write(tmp_path / "whole.parquet", columns)

    expected, _ = read(ParquetSource(whole, MAPPING, SCHEMA))
    assert_same(expected, read(ParquetSource(tmp_path / "day-*.parquet", MAPPING, SCHEMA))[0])


def test_rows_out_of_order_are_refused_with_the_way_out(tmp_path):
    """Read as they are they would all count as late; nobody wants that unknowingly."""
    order = np.random.default_rng(1).permutation(ROWS)
    mixed = write(tmp_path / "mixed.parquet", {k: c.take(order) for k, c in shown(ROWS).items()})

    with pytest.raises(InputUnsorted, match=r"row \d+ is earlier.*sort = true"):
        ParquetSource(mixed, MAPPING, SCHEMA)


def test_sorting_gives_the_events_of_the_sorted_table(table, tmp_path):
    """With sort a table may come in any order; equal times keep the order of their rows."""
    columns = shown(ROWS)
    columns["time"] = pa.array(START + 10 * np.arange(ROWS), pa.timestamp("ms"))
    order = np.random.default_rng(1).permutation(ROWS)
    plain = write(tmp_path / "plain.parquet", columns)
    mixed = write(tmp_path / "mixed.parquet", {k: c.take(order) for k, c in columns.items()})

    expected, _ = read(ParquetSource(plain, MAPPING, SCHEMA))
    assert_same(expected, read(ParquetSource(mixed, MAPPING, SCHEMA, sort=True))[0])


def test_bad_rows_become_dead_letters_and_nothing_else_is_lost(tmp_path):
    """A null where an id should be is one row's fault."""
    columns = shown(8)
    columns["user"] = pa.array([None, 1, 1, 1, 1, 1, 1, 1], pa.int64())
    columns["item"] = pa.array(["i0", None, "i2", "", "i4", "i5", "i6", "i7"])
    columns["time"] = pa.array(
        [START, START, None, START, START, 7, START, START + 1], pa.timestamp("ms")
    )
    columns["device"] = pa.array([None, 1.0, 1.0, 1.0, 2.5, 1.0, 1.0, 1.0])
    columns["price"] = pa.array([None, 1.0, 1.0, 1.0, 2.5, 1.0, 1e300, float("inf")])
    columns["click"] = pa.array([1, 1, 1, 1, 1, 1, 0, 1])
    path = write(tmp_path / "bad.parquet", columns)

    events, rejected = read(ParquetSource(path, MAPPING, SCHEMA, block_events=3))

    expected = [
        (0, "missing_field", "row 0: user is null or empty"),
        (1, "missing_field", "row 1: item is null"),
        (2, "missing_field", "row 2: time is null"),
        (3, "missing_field", "row 3: item is null or empty"),
        (4, "wrong_type", "row 4: device is not an id: it has a fraction"),
        (5, "bad_time", "row 5: time is not between 2001 and 2100"),
        (6, "wrong_type", "row 6: price is larger than 32 bits hold"),
    ]
    assert expected == [(r.offset, r.reason, r.detail) for r in rejected]
    assert b'"item":null' in rejected[1].raw
    assert events.offset[events.kind == IMPRESSION].tolist() == [7]
    assert np.isnan(events.numbers[events.kind == IMPRESSION, 0]).all()


def _bad(column, value, kind=None):
    """Return what spoils a third of the rows of a column."""

    def spoil(columns):
        values = columns[column].to_pylist()
        values[::3] = [value] * len(values[::3])
        return {**columns, column: pa.array(values, kind)}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told_into"),
    [
        (_bad("item", None), True),
        (_bad("item", ""), True),
        (_bad("scene", 0.5), True),
        (_bad("device", 1.5), False),
        (_bad("price", 1e300), False),
        (_bad("price", Decimal(10) ** 45, pa.decimal256(50)), False),
        (_bad("tags", [1.0, 2.5], pa.list_(pa.float64())), False),
    ],
)
def test_the_click_of_a_row_that_is_no_impression_goes_with_it(spoil, told_into, tmp_path):
    """It would be an orphan, counted as if the log had lost its impression."""
    columns = shown(60)
    columns["price"] = pa.array([None] * 60, pa.float64())
    columns["tags"] = pa.array([None] * 60, pa.list_(pa.float64()))
    columns["scene"] = pa.array([1.0] * 60)
    columns["click"] = pa.array([1] * 60)
    path = write(tmp_path / "bad.parquet", spoil(columns))
    source = ParquetSource(path, MAPPING, SCHEMA, block_events=7)

    events, rejected = read(source)

    impressions, clicks = (events.take(events.kind == k) for k in (IMPRESSION, FEEDBACK))
    assert [*range(0, 60, 3)] == [r.offset for r in rejected]
    assert sorted(impressions.impression) == sorted(clicks.impression)
    assert 40 == len(clicks)
    if told_into:
        into = [*parquet_lines(path, MAPPING)]
        letters = [line for line in into if isinstance(line, Rejected)]
        assert [(r.offset, r.reason, r.detail) for r in rejected] == [
            (r.offset, r.reason, r.detail) for r in letters
        ]
        assert 40 == sum(1 for x in into if getattr(x, "topic", "") == "feedback")


def test_a_click_without_its_time_is_told_and_its_row_stays(tmp_path):
    """The impression happened; only when it was clicked is unknown."""
    columns = shown(4)
    columns["click"] = pa.array([1, 1, 0, 1])
    columns["clicked_at"] = pa.array([START + 9_000, None, None, 5], pa.timestamp("ms"))
    mapping = ParquetMapping.from_table({**TABLE, "feedback": {"time_column": "clicked_at"}})
    path = write(tmp_path / "t.parquet", columns)

    events, rejected = read(ParquetSource(path, mapping, SCHEMA))

    assert [(r.offset, r.reason) for r in rejected] == [(1, "bad_time"), (3, "bad_time")]
    assert (events.kind == IMPRESSION).sum() == 4
    assert events.ts[events.kind == FEEDBACK].tolist() == [START + 9_000]


def test_without_an_id_column_the_row_is_the_id(tmp_path):
    """Most tables have no key; the row number is one, and feedback must carry the same."""
    columns = {k: v for k, v in TABLE["columns"].items() if k != "impression_id"}
    mapping = ParquetMapping.from_table({**TABLE, "columns": columns})
    path = write(tmp_path / "t.parquet", shown(50))

    events, _ = read(ParquetSource(path, mapping, SCHEMA))

    impressions, feedback = (events.take(events.kind == k) for k in (IMPRESSION, FEEDBACK))
    assert len(np.unique(impressions.impression)) == 50
    assert np.isin(feedback.impression, impressions.impression).all()


def test_integers_as_time_need_no_unit(tmp_path):
    """Seconds, milliseconds and microseconds of this century cannot be confused."""
    columns = shown(20)
    times = columns["time"].cast(pa.int64()).to_numpy() // 1000 * 1000
    found = []
    for name, values in (("s", times // 1000), ("ms", times), ("us", times * 1000)):
        columns["time"] = pa.array(values)
        found.append(read(ParquetSource(write(tmp_path / name, columns), MAPPING, SCHEMA))[0])

    assert times.tolist() == found[0].ts[found[0].kind == IMPRESSION].tolist()
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_times_before_the_streams_can_be_moved(tmp_path):
    """A log of 1997 is worth replaying; the message says how."""
    columns = shown(5)
    columns["time"] = pa.array([874_724_710 + k for k in range(5)])
    path = write(tmp_path / "old.parquet", columns)

    with pytest.raises(MappingError, match="ts_shift_s"):
        ParquetSource(path, MAPPING, SCHEMA)
    moved = {**TABLE, "columns": {**TABLE["columns"], "ts_shift_s": 315_705_600}}
    events, _ = read(ParquetSource(path, ParquetMapping.from_table(moved), SCHEMA))
    assert events.ts[events.kind == IMPRESSION][0] == (874_724_710 + 315_705_600) * 1000


def test_ratings_count_from_a_threshold(tmp_path):
    """A rating log has no clicks, but it says what was liked."""
    columns = shown(5)
    columns["click"] = pa.array([1, 3, 4, 5, None])
    liked = {**TABLE, "columns": {**TABLE["columns"], "label_at_least": 4}}
    path = write(tmp_path / "t.parquet", columns)

    events, _ = read(ParquetSource(path, ParquetMapping.from_table(liked), SCHEMA))

    assert (events.kind == FEEDBACK).sum() == 2


def test_scenes_are_named_once(table):
    """Reports speak of scenes by name; hashes mean nothing to a person."""
    blocks = list(ParquetSource(table, MAPPING, SCHEMA, block_events=64))

    assert {"front", "rare"} == set().union(*(set(b.names.values()) for b in blocks))
    assert sum(len(b.names) for b in blocks) == 2


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda data: b"", InputCorrupt, "is empty"),
        (lambda data: b"a,b\n1,2\n", InputCorrupt, "not a Parquet file"),
        (lambda data: data[: len(data) // 2], InputCorrupt, "cut off"),
        (lambda data: data[:-20] + b"\xff" * 12 + data[-8:], InputCorrupt, "cannot be read"),
        (lambda data: data[:4] + b"\xff" * 900 + data[904:], InputCorrupt, "damaged inside"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(table, tmp_path, damage, error, says):
    """A copy that broke off is the usual case: say which file, and what to do."""
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(damage(table.read_bytes()))

    with pytest.raises(error, match=says) as raised:
        read(ParquetSource(broken, MAPPING, SCHEMA))
    assert "\n" not in str(raised.value)
    assert "broken.parquet" in str(raised.value)


def test_a_missing_file_is_named_with_those_that_are_there(table):
    """A mistyped name is corrected faster when the right one is shown."""
    with pytest.raises(InputError, match=r"No file is at .*show\.parquet.*'shown\.parquet'"):
        ParquetSource(table.parent / "show.parquet", MAPPING, SCHEMA)


def test_a_table_without_rows_is_an_error(tmp_path):
    """Nothing would be learned from it, and nobody would know why."""
    path = write(tmp_path / "none.parquet", {k: c.slice(0, 0) for k, c in shown(1).items()})

    with pytest.raises(InputError, match="holds no rows"):
        ParquetSource(path, MAPPING, SCHEMA)


def test_a_column_that_is_not_there_is_named_with_the_nearest(table):
    """The columns are listed, so that the mapping can be mended without looking."""
    wrong = ParquetMapping.from_table({**TABLE, "columns": {**TABLE["columns"], "ts": "tme"}})

    with pytest.raises(MappingError, match=r"\[input.columns\] ts .*'tme'.*nearest is 'time'"):
        ParquetSource(table, wrong, SCHEMA)


@pytest.mark.parametrize(
    ("part", "key", "column"),
    [("columns", "ts", "tags"), ("columns", "label", "scene"), ("columns", "user_id", "time")],
)
def test_a_column_of_the_wrong_kind_is_refused(table, part, key, column):
    """A time is no id and text is no label: better said now than as nonsense learned."""
    wrong = ParquetMapping.from_table({**TABLE, part: {**TABLE[part], key: column}})

    with pytest.raises(MappingError, match=f"{key} names the column '{column}'"):
        ParquetSource(table, wrong, SCHEMA)


@pytest.mark.parametrize(
    "schema",
    [
        EventSchema(ids=("tags",)),
        EventSchema(numbers=("tags",)),
        EventSchema(lists=(("price", 3),)),
        EventSchema(ids=("colour",)),
    ],
)
def test_features_that_do_not_fit_the_table_are_refused(table, schema):
    """A list is no number; a feature that no column holds would be absent for ever."""
    with pytest.raises(MappingError, match=r"feature|asks for"):
        ParquetSource(table, MAPPING, schema)


def test_rows_are_read_as_they_are_needed(table):
    """A log larger than memory must be replayable: opening it may hold its clicks, not its rows."""
    source = iter(ParquetSource(table, MAPPING, SCHEMA, block_events=10))
    next(source)
    before = pa.total_allocated_bytes()
    for _ in range(5):
        next(source)

    assert pa.total_allocated_bytes() - before < pq.read_table(table).nbytes


@pytest.mark.data
def test_the_news_log_reads_whole(real_data):
    """The main data set: 278,139 rows, of which 24,829 are clicked."""
    mapping = ParquetMapping.from_table(
        {
            "columns": {
                "impression_id": ["impression_id", "item_id"],
                "request_id": "impression_id",
                "user_id": "user_id",
                "item_id": "item_id",
                "ts": "impression_time",
                "scene": "scenario",
                "label": "click",
            },
            "features": {"device": "device_type"},
        }
    )
    schema = EventSchema(ids=("device",))
    events, rejected = read(
        ParquetSource(real_data / "ebnerd_week1_events.parquet", mapping, schema)
    )

    assert rejected == []
    assert ((events.kind == IMPRESSION).sum(), (events.kind == FEEDBACK).sum()) == (278_139, 24_829)
    assert len(np.unique(events.impression)) == 278_139
