"""Records in a file: each framed by its length, a check of its head, and a checksum of its value.

A frame is ``length: u32, head: u32, checksum: u32, value``, little-endian. The checksum is CRC-32
(IEEE 802.3, as `zlib.crc32`). ``head`` mixes the length with the frame's place in the file: so a
damaged length is not taken for a frame that is cut off, a frame is whole only where it was written,
and zeros that a crash leaves behind are no frames.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, types

from stream.ids import mix
from stream.xxh3 import BYTES

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

HEAD_BYTES: Final = 12
MAX_VALUE_BYTES: Final = 32 << 20  # a message of a thousand events takes 0.25 MB

WHOLE: Final = 0  # as many frames as were asked for, or the data end with one
CUT_OFF: Final = 1  # the data end inside a frame
BROKEN: Final = 2  # no frame lies here


def _tables() -> npt.NDArray[np.uint32]:
    """Return the tables (8, 256) of CRC-32 taken 8 bytes at a time (Kounavis & Berry, 2005)."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
        tables[0, byte] = crc
    for k in range(1, 8):
        last = tables[k - 1]
        tables[k] = (last >> np.uint32(8)) ^ tables[0][last & np.uint32(255)]
    return tables


_TABLES = _tables()


class Scan(NamedTuple):
    """Frames found one after another in some data."""

    starts: I64  # (n,) where in the data each value begins
    ends: I64  # (n,) where it ends
    end: int  # where in the data the last frame ends
    status: int  # what lies there: WHOLE, CUT_OFF or BROKEN
    wanted: int  # bytes of the frame that is cut off; 0 where even its length is


def frame(values: Sequence[bytes], at: int) -> bytes:
    """Return the frames of ``values``, to be written at byte ``at`` of a file."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    out = np.empty(int(lengths.sum()) + HEAD_BYTES * len(values), np.uint8)
    _frame(np.frombuffer(b"".join(values), np.uint8), lengths, at, out)
    return out.tobytes()


def scan(data: U8, begin: int, at: int, most: int) -> Scan:
    """Find up to ``most`` frames in ``data`` from ``begin`` on, byte ``at`` of the file."""
    starts = np.empty(min(most, (data.size - begin) // HEAD_BYTES + 1), np.int64)
    ends = np.empty_like(starts)
    n, end, status, wanted = _scan(data, begin, at, starts, ends)
    return Scan(starts[:n], ends[:n], end, status, wanted)


def find(data: U8, begin: int, at: int) -> int:
    """Return where in ``data`` the next whole frame is, from ``begin`` on; -1: there is none."""
    return int(_find(data, begin, at))


@njit(types.uint32(BYTES, types.int64, types.int64), cache=True, nogil=True)
def _crc32(data: U8, begin: int, end: int) -> np.uint32:
    crc = np.uint64(0xFFFFFFFF)
    byte = np.uint64(255)
    i = begin
    while i + 8 <= end:
        word = np.uint64(0)
        for k in range(8):
            word |= np.uint64(data[i + k]) << np.uint64(8 * k)
        word ^= crc
        crc = np.uint64(
            _TABLES[7, word & byte]
            ^ _TABLES[6, (word >> np.uint64(8)) & byte]
            ^ _TABLES[5, (word >> np.uint64(16)) & byte]
            ^ _TABLES[4, (word >> np.uint64(24)) & byte]
            ^ _TABLES[3, (word >> np.uint64(32)) & byte]
            ^ _TABLES[2, (word >> np.uint64(40)) & byte]
            ^ _TABLES[1, (word >> np.uint64(48)) & byte]
            ^ _TABLES[0, word >> np.uint64(56)]
        )
        i += 8
    while i < end:
        crc = np.uint64(_TABLES[0, (crc ^ np.uint64(data[i])) & byte]) ^ (crc >> np.uint64(8))
        i += 1
    return ~np.uint32(crc)


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True)
def _u32(data: U8, i: int) -> int:
    word = np.int64(0)
    for k in range(4):
        word |= np.int64(data[i + k]) << (8 * k)
    return int(word)


@njit(types.int64(types.int64, types.int64), cache=True, nogil=True)
def _head(at: int, length: int) -> int:
    return int(np.int64(mix(np.uint64(at ^ (length << 38))) >> np.uint64(32)))


@njit(types.void(BYTES, types.int64[::1], types.int64, types.uint8[::1]), cache=True, nogil=True)
def _frame(data: U8, lengths: I64, at: int, out: U8) -> None:
    begin = i = 0
    for length in lengths:
        words = (length, _head(at + i, length), np.int64(_crc32(data, begin, begin + length)))
        for word in words:
            for k in range(4):
                out[i + k] = (word >> (8 * k)) & 255
            i += 4
        out[i : i + length] = data[begin : begin + length]
        begin, i = begin + length, i + length


@njit(types.int64(BYTES, types.int64, types.int64), cache=True, nogil=True)
def _frame_end(data: U8, i: int, at: int) -> int:
    """Return where the frame at ``i`` ends; -1: it is cut off, -2: it is none."""
    if i + HEAD_BYTES > data.size:
        return -1
    length = _u32(data, i)
    if length > MAX_VALUE_BYTES or _u32(data, i + 4) != _head(at, length):
        return -2
    end = i + HEAD_BYTES + length
    if end > data.size:
        return -1
    checksum = np.int64(_crc32(data, i + HEAD_BYTES, end))
    return int(end) if checksum == _u32(data, i + 8) else -2


@njit(
    types.UniTuple(types.int64, 4)(
        BYTES, types.int64, types.int64, types.int64[::1], types.int64[::1]
    ),
    cache=True,
    nogil=True,
)
def _scan(data: U8, begin: int, at: int, starts: I64, ends: I64) -> tuple[int, int, int, int]:
    i, n = begin, 0
    while n < starts.size and i < data.size:
        end = _frame_end(data, i, at + i - begin)
        if end == -1:
            wanted = HEAD_BYTES + _u32(data, i) if i + HEAD_BYTES <= data.size else 0
            return n, i, CUT_OFF, wanted
        if end == -2:
            return n, i, BROKEN, 0
        starts[n], ends[n] = i + HEAD_BYTES, end
        i, n = end, n + 1
    return n, i, WHOLE, 0


@njit(types.int64(BYTES, types.int64, types.int64), cache=True, nogil=True)
def _find(data: U8, begin: int, at: int) -> int:
    for i in range(begin, data.size - HEAD_BYTES + 1):
        if _frame_end(data, i, at + i - begin) >= 0:
            return int(i)
    return -1
