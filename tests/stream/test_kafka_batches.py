import struct

import crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record import MemoryRecords
from kafka.record.memory_records import MemoryRecordsBuilder

from stream import kafka_codecs
from stream.kafka_batches import BadBatch, Batches, Record

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ATTRIBUTES, LAST_DELTA = 21, 23  # where in a batch these begin
EVERYTHING = slice(None)


def batch(records, *, codec=0, first=0, gaps=()):
    """Return a batch of (key, value, headers), made by the stock client."""
    builder = MemoryRecordsBuilder(2, codec, 1 << 26, offset=0)
    for i, (key, value, headers) in enumerate(records):
        builder.skip(i in gaps)
        builder.append(1_700_000_000_000 + 7 * i, key, value, list(headers))
    builder.close()
    made = bytearray(builder.buffer())
    made[:8] = struct.pack(">q", first)
    return bytes(made)


def values(count, first=0):
    """Return records that have values only."""
    return [(None, b"value %d" % (first + i), ()) for i in range(count)]


def sealed(raw):
    """Return a batch with the checksum that it should have."""
    return raw[:17] + struct.pack(">I", crc32c.crc32c(raw[21:])) + raw[21:]


def stock(data):
    """Return what the stock client unpacks."""
    found = []
    records = MemoryRecords(data)
    while (one := records.next_batch()) is not None:
        found += [Record(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in one]
    return found


def drain(batches):
    """Return the records of all batches, and what could not be read."""
    records, bad = [], []
    while (found := batches.take()) is not None:
        if isinstance(found, BadBatch):
            bad.append(found)
        else:
            more = found.records(EVERYTHING)
            assert [r.offset for r in more] == found.offsets().tolist()
            assert [r.value for r in more] == found.values(EVERYTHING)
            assert [i for i, r in enumerate(more) if r.value is None] == found.nulls(
                EVERYTHING
            ).tolist()
            records += more
    assert batches.empty
    return records, bad


headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=3)
record = st.tuples(
    st.none() | st.binary(max_size=300), st.none() | st.binary(max_size=300), headers
)


@given(
    batches=st.lists(st.lists(record, min_size=1, max_size=9), max_size=4),
    codec=st.sampled_from(sorted(CODECS.values())),
    gaps=st.sets(st.integers(0, 8)),
    start=st.integers(0, 60),
    cut=st.integers(0, 60),
)
def test_it_gives_what_the_stock_client_gives(batches, codec, gaps, start, cut):
    """Two ways to unpack, one result: whatever keys, values, headers, codecs, compaction."""
    data = b"".join(batch(b, codec=codec, first=20 * i, gaps=gaps) for i, b in enumerate(batches))
    data = data[: len(data) - cut] if cut < len(data) else b""
    everything = stock(data)
    start = max([0, *(r.offset for r in everything if r.offset <= start)])

    records, bad = drain(Batches(data, start))

    assert ([r for r in everything if r.offset >= start], []) == (records, bad)


def test_what_it_leaves_to_read_is_behind_the_last_batch():
    """Compaction takes the last records of a batch too: it would be fetched for ever."""
    made = bytearray(batch(values(3)))
    made[LAST_DELTA : LAST_DELTA + 4] = struct.pack(">i", 9)
    batches = Batches(sealed(bytes(made)), 1)

    assert 10 == batches.end
    assert [1, 2] == [r.offset for r in drain(batches)[0]]


def test_a_damaged_batch_costs_itself_only():
    """A flipped bit on a disk must not end the stream, nor vanish."""
    parts = [batch(values(3, first=i), first=i) for i in (0, 3, 6)]
    parts[1] = parts[1][:-1] + bytes([parts[1][-1] ^ 4])

    records, bad = drain(Batches(b"".join(parts), 0))

    assert [0, 1, 2, 6, 7, 8] == [r.offset for r in records]
    assert [BadBatch(3, 6, "corrupt_batch", "the checksum does not fit", parts[1])] == bad


def test_unknown_compression_costs_one_batch_and_is_named():
    """Somebody else's producer may compress in a way that is not known here."""
    made = bytearray(batch(values(2)))
    made[ATTRIBUTES + 1] |= 5

    records, bad = drain(Batches(sealed(bytes(made)) + batch(values(1), first=2), 0))

    assert [2] == [r.offset for r in records]
    assert [(0, 2, "unknown_compression")] == [(b.first, b.next, b.reason) for b in bad]
    assert "compression type 5" in bad[0].detail


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "none"])
def test_what_is_not_of_its_codec_is_damage(codec):
    """The checksum fits what was written: the fault was made before."""
    made = bytearray(batch(values(2)))
    made[ATTRIBUTES + 1] |= CODECS[codec]

    _, bad = drain(Batches(sealed(bytes(made)), 0))

    assert ["corrupt_batch"] == [b.reason for b in bad]


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "none"])
def test_a_batch_that_would_fill_the_memory_is_not_read(codec, monkeypatch):
    """A megabyte of compressed zeros may hold a gigabyte."""
    data = batch([(None, bytes(100_000), ())], codec=CODECS[codec])
    monkeypatch.setattr(kafka_codecs, "MAX_BATCH_BYTES", 50_000)

    assert len(data) < 10_000
    assert ["corrupt_batch"] == [b.reason for b in drain(Batches(data, 0))[1]]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_every_codec_gives_back_what_was_compressed(codec, size):
    """From nothing to messages of megabytes."""
    value = np.random.default_rng(1).integers(0, 9, size, np.uint8).tobytes()

    records, bad = drain(Batches(batch([(None, value, ())], codec=CODECS[codec]), 0))

    assert ([value], []) == ([r.value for r in records], bad)


@given(st.data())
def test_no_damage_does_harm(data):
    """Whatever the bytes, it ends, goes on, and never gives an offset twice or one of before."""
    parts = [batch(values(4, first=i), first=i, codec=i % 5) for i in (0, 4, 8)]
    raw = bytearray(b"".join(parts))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check = data.draw(st.booleans())  # without it, records that do not fit are met

    batches = Batches(bytes(raw), 2, check=check)
    records, bad = drain(batches)

    offsets = [r.offset for r in records]
    assert sorted(set(offsets)) == offsets
    assert all(offset >= 2 for offset in offsets)
    assert all(b.first < b.next for b in bad)


@given(st.integers(0, 2), st.integers(12, 10_000), st.integers(1, 255))
def test_one_damaged_byte_costs_one_batch_at_most(which, place, flip):
    """What is lost is named to the offset, and nothing around it is."""
    parts = [batch(values(4, first=i), first=i, codec=i // 4) for i in (0, 4, 8)]
    raw = bytearray(parts[which])
    raw[12 + (place - 12) % (len(raw) - 12)] ^= flip
    parts[which] = bytes(raw)

    batches = Batches(b"".join(parts), 0)
    records, bad = drain(batches)

    lost = set(range(4 * which, 4 * which + 4)) if bad else set()
    assert set(range(12)) - lost == {r.offset for r in records}
    last = min(batches.end, bad[0].next) if bad else 0  # as far as a damaged last batch says
    assert not bad or (4 * which, 4 * which + 4) == (bad[0].first, last) or which == 2
