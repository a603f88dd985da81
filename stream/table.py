"""A hash table for compiled loops: 64-bit key to number, open addressing with linear probing.

A table is one int64 array ``slots`` (capacity, 2) of (key, value), so that a probe costs one cache
line; capacity is a power of two, at least twice what it holds; a free slot has the value `FREE`.
Removal shifts the cluster back instead of leaving tombstones (Knuth, TAOCP 3, 6.4, algorithm R),
so a table that is added to and removed from for ever stays as fast as a fresh one.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.prefetch import prefetch as _prefetch

I64 = npt.NDArray[np.int64]

FREE: Final = -1  # values are ≥ 0
_MULTIPLIER: Final = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: Fibonacci hashing, TAOCP 3, 6.4


def new_table(entries: int) -> I64:
    """Return an empty table that can hold ``entries`` at a load of at most one half."""
    return np.full((capacity_for(2 * max(entries, 8)), 2), FREE, np.int64)


def capacity_for(n: int) -> int:
    """Return the least power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


@njit("int64(int64, int64)", cache=True, nogil=True, inline="always")
def home(key: int, mask: int) -> np.int64:
    """Return the slot where the search for ``key`` begins."""
    hashed = np.uint64(key) * np.uint64(_MULTIPLIER)
    return np.int64(hashed >> np.uint64(32)) & mask  # the high half: there all bits of the key mix


@njit("void(int64[:, ::1], int64)", cache=True, nogil=True)
def prefetch(slots: I64, key: int) -> None:
    """Bring the slot of ``key`` into the cache, for a search some hundred cycles later."""
    _prefetch(slots, home(key, slots.shape[0] - 1), 0)


@njit("int64(int64[:, ::1], int64)", cache=True, nogil=True)
def find(slots: I64, key: int) -> np.int64:
    """Return the value of ``key``, `FREE` where it has none."""
    mask = slots.shape[0] - 1
    i = home(key, mask)
    while slots[i, 1] != FREE:
        if slots[i, 0] == key:
            return np.int64(slots[i, 1])
        i = (i + 1) & mask
    return np.int64(FREE)


@njit("void(int64[:, ::1], int64, int64)", cache=True, nogil=True)
def put(slots: I64, key: int, value: int) -> None:
    """Set the value of ``key``; the caller keeps the load below one."""
    mask = slots.shape[0] - 1
    i = home(key, mask)
    while slots[i, 1] != FREE and slots[i, 0] != key:
        i = (i + 1) & mask
    slots[i, 0] = key
    slots[i, 1] = value


@njit("void(int64[:, ::1], int64)", cache=True, nogil=True)
def remove(slots: I64, key: int) -> None:
    """Remove ``key``, if it is there, and close the gap it leaves."""
    mask = slots.shape[0] - 1
    i = home(key, mask)
    while slots[i, 1] != FREE and slots[i, 0] != key:
        i = (i + 1) & mask
    if slots[i, 1] == FREE:
        return
    j = i
    while True:
        j = (j + 1) & mask
        if slots[j, 1] == FREE:
            break
        if ((j - home(slots[j, 0], mask)) & mask) >= ((j - i) & mask):  # its search passes the gap
            slots[i, 0] = slots[j, 0]
            slots[i, 1] = slots[j, 1]
            i = j
    slots[i, 1] = FREE


@njit("void(int64[:, ::1], int64[:, ::1])", cache=True, nogil=True)
def copy_into(slots: I64, larger: I64) -> None:
    """Put everything in ``slots`` into ``larger``."""
    for i in range(slots.shape[0]):
        if slots[i, 1] != FREE:
            put(larger, slots[i, 0], slots[i, 1])


def grown(slots: I64, entries: int) -> I64:
    """Return ``slots``, or a larger copy where it could not hold ``entries`` at half load."""
    if 2 * entries <= slots.shape[0]:
        return slots
    larger = new_table(entries)
    copy_into(slots, larger)
    return larger
