"""Kafka's record batches (message format 2), unpacked a batch at a time, without Python a message.

The format: https://kafka.apache.org/documentation/#recordbatch. What `Batches` gives is what any
client gives at ``read_committed``, except that a batch that cannot be read stops nothing: it comes
out as a `BadBatch`.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import crc32c
import numpy as np
import numpy.typing as npt
from numba import njit, types

from stream.kafka_codecs import NotCompressed, UnknownCompression, decompress
from stream.xxh3 import BYTES

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

HEAD_BYTES: Final = 61  # of a batch, before its records
_LEAST_BYTES: Final = 7  # of a record
_CRC_FROM: Final = 21  # the checksum is taken from here to the end
_CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20

# the columns of heads: int64 each
_START, _END, _BASE, _EPOCH, _MAGIC, _CRC, _ATTRIBUTES, _LAST = range(8)
_FIRST_MS, _MAX_MS, _PRODUCER, _COUNT = range(8, 12)
_HEAD_COLUMNS: Final = 12

# the columns of records: int64 each; a key or value from -1 to -1 is null
OFFSET, AT_MS, KEY, KEY_END, VALUE, VALUE_END, HEADERS, RECORD_END = range(8)


class Record(NamedTuple):
    """One message, whole."""

    offset: int
    at_ms: int  # as its producer or its broker says; -1: unknown
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Unpacked(NamedTuple):
    """The messages (n,) of a batch, from where reading began."""

    data: bytes
    table: I64  # (n, 8) offsets, times, and where in ``data`` keys, values and headers lie

    def offsets(self) -> I64:
        """Return the offsets (n,)."""
        return self.table[:, OFFSET]

    def sizes(self) -> I64:
        """Return the bytes of the messages (n,): keys, values and headers."""
        ends = self.table[:, [KEY_END, VALUE_END, RECORD_END]]
        sizes: I64 = (ends - self.table[:, [KEY, VALUE, HEADERS]]).sum(axis=1)
        return sizes

    def nulls(self, some: slice) -> npt.NDArray[np.intp]:
        """Return which of some messages have no value, from 0."""
        return np.flatnonzero(self.table[some, VALUE] < 0)

    def values(self, some: slice) -> list[bytes | None]:
        """Return the values of some messages; None for one without."""
        data, table = self.data, self.table[some]
        starts, ends = table[:, VALUE].tolist(), table[:, VALUE_END].tolist()
        pairs = zip(starts, ends, strict=True)
        if min(starts, default=0) >= 0:
            return [data[a:b] for a, b in pairs]
        return [data[a:b] if a >= 0 else None for a, b in pairs]

    def records(self, some: slice) -> list[Record]:
        """Return some messages, whole."""
        return [_record(self.data, row) for row in self.table[some].tolist()]


class BadBatch(NamedTuple):
    """A batch that cannot be read."""

    first: int  # its first offset
    next: int  # the first offset behind it
    reason: str  # one of `stream.deadletters.REASONS`
    detail: str
    raw: bytes  # the batch as it came


class Batches:
    """The batches of one fetch, from an offset on.

    ``aborted`` names transactions by producer and first offset: their messages are left out, as are
    control batches. A batch that is cut off at the end is not part of the fetch.
    """

    def __init__(
        self, data: bytes, start: int, aborted: Iterable[tuple[int, int]] = (), check: bool = True
    ) -> None:
        self._data = data
        self._heads = _heads(np.frombuffer(data, np.uint8))
        self._next = 0
        self._check = check
        self._aborted = deque(sorted(aborted, key=lambda transaction: transaction[1]))
        self._aborting: set[int] = set()  # producers inside a transaction that was aborted
        self.start = self._from = start
        last = self._heads[-1] if len(self._heads) else None
        self.bytes = 0 if last is None else int(last[_END])
        self.end = start if last is None else max(start, int(last[_BASE] + max(last[_LAST], 0)) + 1)
        self.epoch = -1 if last is None else int(last[_EPOCH])  # of the last batch's leader

    def __len__(self) -> int:
        return len(self._heads) - self._next  # batches not yet taken

    @property
    def empty(self) -> bool:
        """Whether all has been taken."""
        return len(self) == 0

    def take(self) -> Unpacked | BadBatch | None:
        """Return the next batch that holds messages, or cannot be read; None after the last."""
        while self._next < len(self._heads):
            head = self._heads[self._next].tolist()
            self._next += 1
            start, end = self._from, head[_BASE] + max(head[_LAST], 0) + 1
            following = int(self._heads[self._next, _BASE]) if len(self) else end
            if end <= start and head[_BASE] < following <= start:
                continue  # of a fetch that begins before it has to
            found = self._unpack(head, start, following)
            if isinstance(found, BadBatch):
                # the next batch knows better than a damaged one where that ends
                self._from = following if following > start else start + 1
                return found._replace(first=start, next=self._from)
            self._from = end
            if found is not None and len(found.table):
                return found
        return None

    def _unpack(self, head: list[int], start: int, following: int) -> Unpacked | BadBatch | None:
        data = self._data
        if head[_MAGIC] != 2:
            return self._bad(head, "corrupt_batch", f"message format {head[_MAGIC]} is not read")
        begin, end = head[_START], head[_END]
        view = memoryview(data)[begin:end]
        if self._check and crc32c.crc32c(view[_CRC_FROM:]) != head[_CRC]:
            return self._bad(head, "corrupt_batch", "the checksum does not fit")
        base, end_offset = head[_BASE], head[_BASE] + head[_LAST] + 1
        overlaps = base < start != self.start  # the batch before it
        if overlaps or end_offset <= start or start < following < end_offset:
            return self._bad(head, "corrupt_batch", "its offsets do not fit its place")
        attributes, producer = head[_ATTRIBUTES], head[_PRODUCER]
        if producer >= 0 and self._is_aborted(head, attributes, producer):
            return None
        if attributes & _CONTROL:
            return None
        codec = attributes & _CODEC
        at = begin + HEAD_BYTES
        if codec:
            try:
                data = decompress(codec, view[HEAD_BYTES:])
                at, end = 0, len(data)
            except UnknownCompression as error:
                return self._bad(head, "unknown_compression", str(error))
            except NotCompressed as error:
                return self._bad(head, "corrupt_batch", str(error))
        table = np.empty((min(max(head[_COUNT], 0), (end - at) // _LEAST_BYTES), 8), np.int64)
        fits = len(table) == head[_COUNT] and _records(
            np.frombuffer(data, np.uint8), at, end, base, head[_LAST], head[_FIRST_MS], table
        )
        if not fits:
            return self._bad(head, "corrupt_batch", "its records do not fit together")
        if attributes & _LOG_APPEND_TIME:
            table[:, AT_MS] = head[_MAX_MS]
        if base < start:
            table = table[table[:, OFFSET] >= start]
        return Unpacked(data, table)

    def _is_aborted(self, head: list[int], attributes: int, producer: int) -> bool:
        """Whether a batch belongs to an aborted transaction, or ends one."""
        while self._aborted and self._aborted[0][1] <= head[_BASE] + head[_LAST]:
            self._aborting.add(self._aborted.popleft()[0])
        if not attributes & _TRANSACTIONAL:
            return False
        if attributes & _CONTROL:
            if self._is_abort(head):
                self._aborting.discard(producer)
            return True
        return producer in self._aborting

    def _is_abort(self, head: list[int]) -> bool:
        """Whether a control batch says that its transaction was aborted (key: version, type)."""
        table = np.empty((1, 8), np.int64)
        data = np.frombuffer(self._data, np.uint8)
        at, end = head[_START] + HEAD_BYTES, head[_END]
        if not _records(data, at, end, head[_BASE], head[_LAST], 0, table):
            return False
        key = self._data[table[0, KEY] : table[0, KEY_END]]
        return len(key) >= 4 and key[2:4] == b"\0\0"

    def _bad(self, head: list[int], reason: str, detail: str) -> BadBatch:
        raw = self._data[head[_START] : head[_END]]
        return BadBatch(0, 0, reason, detail, raw)  # `take` knows where


def _record(data: bytes, row: list[int]) -> Record:
    offset, at_ms, key, key_end, value, value_end, at, _ = row
    count, at = _varint(data, at)
    headers = []
    for _ in range(count):
        size, at = _varint(data, at)
        name, at = data[at : at + size].decode(errors="replace"), at + size
        size, at = _varint(data, at)
        headers.append((name, data[at : at + size] if size >= 0 else None))
        at += max(size, 0)
    return Record(
        offset,
        at_ms,
        data[key:key_end] if key >= 0 else None,
        data[value:value_end] if value >= 0 else None,
        tuple(headers),
    )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at


@njit(types.int64(BYTES, types.int64, types.int64), cache=True, nogil=True, inline="always")
def _big(data: U8, at: int, size: int) -> int:
    """Return the big-endian signed integer of ``size`` bytes."""
    value = np.int64(data[at])
    if value > 127:
        value -= 256
    for k in range(1, size):
        value = (value << 8) | np.int64(data[at + k])
    return int(value)


@njit(types.int64[:, ::1](BYTES), cache=True, nogil=True)
def _heads(data: U8) -> I64:
    """Return the heads of the whole batches of a fetch (b, 12)."""
    heads = np.empty((data.size // HEAD_BYTES + 1, _HEAD_COLUMNS), np.int64)
    n = at = 0
    while at + HEAD_BYTES <= data.size:
        size = 12 + _big(data, at + 8, 4)
        if size < HEAD_BYTES or at + size > data.size:
            break
        head = heads[n]
        head[_START], head[_END] = at, at + size
        head[_BASE], head[_EPOCH] = _big(data, at, 8), _big(data, at + 12, 4)
        head[_MAGIC] = data[at + 16]
        head[_CRC] = _big(data, at + 17, 4) & 0xFFFFFFFF
        head[_ATTRIBUTES], head[_LAST] = _big(data, at + 21, 2), _big(data, at + 23, 4)
        head[_FIRST_MS], head[_MAX_MS] = _big(data, at + 27, 8), _big(data, at + 35, 8)
        head[_PRODUCER], head[_COUNT] = _big(data, at + 43, 8), _big(data, at + 57, 4)
        at += size
        n += 1
    return heads[:n]


@njit(types.boolean(BYTES, types.int64, types.int64, types.int64[::1]), cache=True, nogil=True)
def _zigzag(data: U8, at: int, end: int, out: I64) -> bool:
    """Read a signed varint before ``end``: its value, and where it ends; False: there is none."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < 70:
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < 128:
            sign = np.int64(value & np.uint64(1))
            out[0] = np.int64(value >> np.uint64(1)) ^ -sign
            out[1] = at
            return True
        shift += np.uint64(7)
    return False


@njit(
    types.boolean(
        BYTES, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64[:, ::1]
    ),
    cache=True,
    nogil=True,
)
def _records(data: U8, at: int, end: int, base: int, last: int, first_ms: int, table: I64) -> bool:
    """Find the records of a batch between ``at`` and ``end``; False where they are none.

    Every read is inside the batch, offsets ascend, each part ends where the next begins.
    """
    part = np.zeros(2, np.int64)
    before = np.int64(-1)
    for k in range(len(table)):
        row = table[k]
        if not _zigzag(data, at, end, part):
            return False
        if part[0] < _LEAST_BYTES - 1 or part[0] > end - part[1]:
            return False
        record_end = part[1] + part[0]
        if not _zigzag(data, part[1] + 1, record_end, part):  # behind its attributes
            return False
        row[AT_MS] = first_ms + part[0]
        if not _zigzag(data, part[1], record_end, part):
            return False
        if part[0] <= before or part[0] > last:
            return False
        before = part[0]
        row[OFFSET] = base + before
        for column in (KEY, VALUE):
            if not _zigzag(data, part[1], record_end, part):
                return False
            size, begin = part[0], part[1]
            if size < -1 or size > record_end - begin:
                return False
            row[column], row[column + 1] = (begin, begin + size) if size >= 0 else (-1, -1)
            part[1] = begin + max(size, 0)
        row[HEADERS] = part[1]
        if not _zigzag(data, part[1], record_end, part):
            return False
        count, i = part[0], part[1]
        if count < 0 or count > record_end - i:
            return False
        for k2 in range(2 * count):
            if not _zigzag(data, i, record_end, part):
                return False
            size = part[0]
            if size < -(k2 % 2) or size > record_end - part[1]:  # only a value may be null
                return False
            i = part[1] + max(size, 0)
        if i != record_end:
            return False
        row[RECORD_END] = at = record_end
    return at == end
