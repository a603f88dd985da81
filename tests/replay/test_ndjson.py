import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.errors import InputCorrupt, InputError
from replay.ndjson import NdjsonSource
from stream.encode import encode_event, pack
from stream.events import EventSchema
from stream.listsource import ListSource
from stream.position import Partition, Position
from tests.replay.tables import START, assert_same, ordered, read
from tests.stream.source_contract import CHECKS
from tests.stream.source_contract import SCHEMA as CONTRACT

SCHEMA = EventSchema(ids=("device",))
PACKED = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "gz members": lambda data: gzip.compress(data[:997]) + gzip.compress(data[997:]),
    "zst frames": lambda data: zstandard.compress(data[:997]) + zstandard.compress(data[997:]),
}


def _lines(n, seed=0):
    """Return ``n`` impressions, a third of them clicked a second later, as lines in time order."""
    rng = np.random.default_rng(seed)
    events = []
    for k, ts in enumerate((START + np.cumsum(rng.integers(0, 500, n))).tolist()):
        shown = {"impression_id": k, "user_id": k % 5, "item_id": f"é{k % 9}", "ts": ts}
        events.append((ts, {**shown, "features": {"device": f"d{k % 3}"}}))
        if rng.random() < 0.3:
            click = {"impression_id": k, "user_id": k % 5, "ts": ts + 1000, "action": "click"}
            events.append((ts + 1000, click))
    return [encode_event(event) for _, event in sorted(events, key=lambda e: e[0])]


def _source(path, **options):
    return NdjsonSource(path, SCHEMA, **options)


@pytest.mark.parametrize("packing", PACKED)
def test_a_file_says_what_its_lines_say_however_it_is_packed(tmp_path, packing):
    """Archives are compressed; the model must not notice."""
    lines = _lines(400)
    path = tmp_path / "log.ndjson.any"
    path.write_bytes(PACKED[packing](b"\n".join(lines) + b"\n"))

    expected, _ = read(ListSource(SCHEMA, {Partition("log.ndjson.any", 0): lines}))
    found, rejected = read(_source(path, block_events=100))
    assert rejected == []
    assert_same(expected, found)


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32))
def test_every_block_of_several_files_can_be_resumed_at(tmp_path_factory, n, block, seed):
    """A position is a line number of each file, compressed or not."""
    folder = tmp_path_factory.mktemp("logs")
    (folder / "a.ndjson").write_bytes(b"\n".join(_lines(n, seed)))
    (folder / "b.ndjson.gz").write_bytes(
        gzip.compress(b"\n".join([*_lines(n, seed + 1), b"x", b""]))
    )
    blocks = list(_source(folder / "*", block_events=block))
    half = len(blocks) // 2
    position = Position.from_json(blocks[half].position.to_json())
    resumed = list(_source(folder / "*", block_events=7, position=position))

    def told(blocks):
        places = [zip(b.events.partition, b.events.offset, strict=True) for b in blocks]
        events = [(int(partition), int(offset)) for some in places for partition, offset in some]
        return sorted(events + [(9, r.offset) for b in blocks for r in b.rejected])

    assert told(blocks[half + 1 :]) == told(resumed)


def make(log, position, cut):
    """Open a file a partition, a line a message."""
    folder = Path(tempfile.mkdtemp())
    for partition, lines in log.items():
        path = folder / f"{partition.topic}.ndjson"
        path.write_bytes(b"\n".join(pack(lines)))
    return NdjsonSource(folder / "*", CONTRACT, position=position, block_events=cut.block_events)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_files_keep_the_contract(check, tmp_path, monkeypatch):
    """A file of lines is a log like any other."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check(make)


def test_topics_are_named_by_files(tmp_path):
    """A dead letter or a position names its file, two files of one name by number."""
    for name in ("clicks.jsonl", "shown.ndjson.zst", "old/shown.ndjson.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    source = _source([tmp_path / "clicks.jsonl", *sorted(tmp_path.rglob("shown*"))])

    named = [("clicks", 0), ("shown", 0), ("shown", 1)]
    assert [Partition(*n) for n in named] == list(source.partitions)


def test_the_file_furthest_behind_in_time_is_read_first(tmp_path):
    """An hour's file must not be held in memory while the hour before it is read."""
    lines = _lines(4_000)
    for k in range(4):
        part = lines[k * len(lines) // 4 : (k + 1) * len(lines) // 4]
        (tmp_path / f"hour-{k}.ndjson").write_bytes(b"\n".join(part))

    events = [b.events for b in _source(tmp_path / "*.ndjson", block_events=100)]

    seen = [int(e.partition[0]) for e in events if len(e) == 100]
    assert seen == sorted(seen)


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_cut_off_archive_ends_with_a_letter_and_keeps_what_came_before(tmp_path, packing):
    """A copy that broke off holds good events up to there, and the loss must be told."""
    rng = np.random.default_rng(0)
    lines = [line + b" " * int(rng.integers(0, 50)) for line in _lines(3_000)]
    data = PACKED[packing](b"\n".join(lines))
    path = tmp_path / "log"
    path.write_bytes(data[: len(data) * 2 // 3])

    blocks = list(_source(path, block_events=100))
    events, rejected = read(blocks)

    assert 1_000 < len(events) < 3_000
    assert [r.reason for r in rejected] == ["corrupt_frame"]
    assert f"after {len(events):,} lines" in rejected[0].detail
    assert np.array_equal(np.arange(len(events)), events.offset)
    assert frozenset({0}) == blocks[-1].ended

    again, told = read(_source(path, position=blocks[-1].position))
    assert (len(again), len(told)) == (0, 0)


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_damaged_archive_ends_with_a_letter(tmp_path, packing):
    """Flipped bytes are found by the format; nothing behind them can be trusted."""
    data = bytearray(PACKED[packing](b"\n".join(_lines(3_000))))
    data[len(data) // 2 : len(data) // 2 + 64] = b"\xff" * 64
    (tmp_path / "log").write_bytes(data)

    _, rejected = read(_source(tmp_path / "log"))

    assert rejected[-1].reason == "corrupt_frame"
    assert sum(r.reason == "corrupt_frame" for r in rejected) == 1


@pytest.mark.parametrize("packing", ["plain", "gz", "zst"])
def test_a_line_of_ten_megabytes_is_refused_without_being_held(tmp_path, packing):
    """One accident in a log must not take the memory of the process, nor its neighbours."""
    lines = _lines(50)
    lines.insert(20, b'{"x": "' + b"x" * 10_000_000 + b'"}')
    path = tmp_path / "log"
    path.write_bytes(PACKED[packing](b"\n".join(lines)))

    events, rejected = read(_source(path, block_events=8))

    assert len(lines) - 1 == len(events)
    assert [(r.offset, r.reason) for r in rejected] == [(20, "oversize")]
    assert "10,000,009 bytes" in rejected[0].detail
    assert len(rejected[0].raw) == 4096
    assert events.offset[20] == 21


def test_bad_lines_are_told_by_their_number(tmp_path):
    """A person must find the line."""
    lines = _lines(10)
    (tmp_path / "log").write_bytes(b"\r\n".join([*lines[:3], b"{", b"", *lines[3:], b""]))

    events, rejected = read(_source(tmp_path / "log"))

    assert [(r.offset, r.reason) for r in rejected] == [(3, "bad_json")]
    assert events.offset[:5].tolist() == [0, 1, 2, 5, 6]


def test_from_and_until_choose_by_each_events_own_time(tmp_path):
    """Two replays that meet at a time must give every event once."""
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(_lines(200)))
    cut = START + 25_000

    whole, before, after = (
        ordered(_source(path, **options)) for options in ({}, {"until_ms": cut}, {"from_ms": cut})
    )

    assert len(before) > 0 < len(after)
    assert len(whole) == len(before) + len(after)
    assert before.ts.max() < cut <= after.ts.min()


def test_a_parquet_file_is_told_from_a_log(tmp_path):
    """Given without its mapping it would be thousands of dead letters."""
    (tmp_path / "log.ndjson").write_bytes(b"PAR1" + b"\0" * 100)

    with pytest.raises(InputCorrupt, match="is a Parquet file"):
        read(_source(tmp_path / "log.ndjson"))


def test_a_missing_file_is_an_error(tmp_path):
    """Nothing would be read, and nobody would know why."""
    with pytest.raises(InputError, match="No file is at"):
        _source(tmp_path / "none.ndjson")
