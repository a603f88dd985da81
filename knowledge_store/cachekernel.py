"""Compiled loops of the cache of hot vectors: sets of eight ways, each with a rank of its use.

A set is 128 bytes, two cache lines that are fetched as one: eight keys (0: a free way), eight rows
of the array of vectors (`ABSENT`: the id has none), and eight ranks, 0 … `DISTANT`, of how far away
the next use seems. One set is seen as three arrays of the same memory, uint64 (S, 16), int32
(S, 32) and uint8 (S, 128).

Replacement: BRRIP with frequency priority (Jaleel et al., ISCA 2010). A newcomer's rank is distant,
each hit takes one off, and the way to go is a distant one: ids that are asked for once pass through
without driving out those that are asked for again and again. One newcomer in `AGING` begins a rank
nearer; to find a distant way, the whole set then ages by one, so that what was hot gives way.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.ids import mix
from stream.prefetch import prefetch

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

WAYS: Final = 8
SET_BYTES: Final = 128
ABSENT: Final = -1
DISTANT: Final = 7
AGING: Final = 16
_ROWS, _RANKS = 16, 96  # where they begin in a set, in int32 and in bytes
_CHUNK: Final = 64  # look-ups whose vectors are on their way at once
_AHEAD: Final = 24  # look-ups by which the sets are fetched ahead
_NOT_YET: Final = -2  # first of the numbers that stand for what is missed

NEXT, SPARE, KEPT, USED = 0, 1, 2, 3  # counts: rows ever given, given back; ids ever taken in; ways
COUNTS: Final = 4


@njit("int64(uint64, int64)", cache=True, nogil=True, inline="always")
def _set_of(key: int, sets: int) -> np.int64:
    """Return the set of ``key``, evenly over all ``sets`` (Lemire 2019: multiply, then shift)."""
    return np.int64(((mix(np.uint64(key)) >> np.uint64(32)) * np.uint64(sets)) >> np.uint64(32))


@njit(
    "int64(uint64[:, ::1], int32[:, ::1], uint8[:, ::1], uint16[:, ::1], uint64[::1],"
    " uint16[:, ::1], boolean[::1], int64[::1], uint64[::1], int32[::1])",
    cache=True, nogil=True,
)  # fmt: skip
def look_up(
    keys: U64, rows: I32, ranks: U8, vectors: U16, ids: U64,
    values: U16, present: Bools, missed_at: I64, missed: U64, seen: I32,
) -> int:  # fmt: skip
    """Copy what is known of ``ids`` (n,) to ``values`` and ``present``; return how many are missed.

    ``missed`` becomes the ids that are not known, each once; ``missed_at`` (n,) says which of these
    a look-up waits for, −1 none. ``seen``: −1 everywhere, a power of two, at least 2 n of them.
    """
    n, width, sets = ids.size, values.shape[1], keys.shape[0]
    mask = seen.size - 1
    count = 0
    found = np.empty(_CHUNK, np.int64)
    for start in range(0, n, _CHUNK):
        end = min(start + _CHUNK, n)
        for i in range(start, end):
            if i + _AHEAD < n:
                ahead = _set_of(ids[i + _AHEAD], sets)
                prefetch(keys, ahead, 0)
                prefetch(keys, ahead, 8)
            key = ids[i]
            row = np.int64(_NOT_YET)
            if key == 0:
                row = np.int64(ABSENT)
            else:
                s = _set_of(key, sets)
                for w in range(WAYS):
                    if keys[s, w] == key:
                        row = np.int64(rows[s, _ROWS + w])
                        if ranks[s, _RANKS + w] > 0:
                            ranks[s, _RANKS + w] -= np.uint8(1)
                        break
            missed_at[i] = -1
            if row >= 0:
                for j in range(0, width, 32):  # a cache line is 32 words
                    prefetch(vectors, row, j)
            elif row == _NOT_YET:
                at = np.int64(mix(key)) & mask
                while seen[at] >= 0 and missed[seen[at]] != key:
                    at = (at + 1) & mask
                if seen[at] < 0:
                    seen[at] = count
                    missed[count] = key
                    count += 1
                missed_at[i] = seen[at]
            found[i - start] = row
        for i in range(start, end):
            row = found[i - start]
            present[i] = row >= 0
            if row >= 0:
                for j in range(width):
                    values[i, j] = vectors[row, j]
            else:
                for j in range(width):
                    values[i, j] = np.uint16(0)
    return count


@njit(
    "void(int64[::1], int64[::1], uint16[:, ::1], boolean[::1], uint16[:, ::1], boolean[::1])",
    cache=True, nogil=True,
)  # fmt: skip
def fill(
    missed_at: I64, place: I64, fetched: U16, there: Bools, values: U16, present: Bools
) -> None:
    """Give what was missed to the look-ups that wait for it: the k-th is at ``place[k]`` (m,)."""
    for i in range(missed_at.size):
        if missed_at[i] >= 0:
            m = place[missed_at[i]]
            present[i] = there[m]
            for j in range(values.shape[1]):
                values[i, j] = fetched[m, j]


@njit("int64(uint64[:, ::1], int32[:, ::1], uint8[:, ::1], int64, boolean)", cache=True, nogil=True)
def _way_to_go(keys: U64, rows: I32, ranks: U8, s: int, with_row: bool) -> int:
    """Return the way of a set to be replaced, the others being that much nearer to it; or −1.

    ``with_row``: of those that have a row, else the set is full.
    """
    worst, farthest = -1, np.uint8(0)
    for w in range(WAYS):
        rank = ranks[s, _RANKS + w]
        has_row = keys[s, w] != 0 and rows[s, _ROWS + w] >= 0
        if (worst < 0 or rank > farthest) and (has_row or not with_row):
            worst, farthest = w, rank
    for w in range(WAYS):
        nearer = np.int64(ranks[s, _RANKS + w]) + DISTANT - np.int64(farthest)
        ranks[s, _RANKS + w] = DISTANT if nearer > DISTANT else nearer
    return worst


@njit(
    "void(uint64[:, ::1], int32[:, ::1], uint8[:, ::1], uint16[:, ::1], int32[::1], int64[::1],"
    " uint64[::1], uint16[:, ::1], boolean[::1])",
    cache=True, nogil=True,
)  # fmt: skip
def keep(
    keys: U64, rows: I32, ranks: U8, vectors: U16, spare: I32, counts: I64,
    ids: U64, fetched: U16, there: Bools,
) -> None:  # fmt: skip
    """Take in ``ids`` (m,), none of which is known: their vectors, or that they have none."""
    sets, limit = keys.shape[0], vectors.shape[0]
    for m in range(ids.size):
        if m + _AHEAD < ids.size:
            ahead = _set_of(ids[m + _AHEAD], sets)
            prefetch(keys, ahead, 0)
            prefetch(keys, ahead, 8)
        s = _set_of(ids[m], sets)
        room = counts[SPARE] > 0 or counts[NEXT] < limit
        way = -1
        if room or not there[m]:
            for w in range(WAYS):
                if keys[s, w] == 0:
                    way = w
                    break
        if way < 0:
            way = _way_to_go(keys, rows, ranks, s, there[m] and not room)
        if way < 0:
            continue  # no row to be had here: not kept
        row = np.int64(rows[s, _ROWS + way]) if keys[s, way] != 0 else np.int64(ABSENT)
        if there[m] and row < 0:
            if counts[SPARE] > 0:
                counts[SPARE] -= 1
                row = np.int64(spare[counts[SPARE]])
            else:
                row = counts[NEXT]
                counts[NEXT] += 1
        elif not there[m] and row >= 0:
            spare[counts[SPARE]] = row
            counts[SPARE] += 1
            row = np.int64(ABSENT)
        counts[USED] += keys[s, way] == 0
        keys[s, way] = ids[m]
        rows[s, _ROWS + way] = row
        counts[KEPT] += 1
        ranks[s, _RANKS + way] = DISTANT - (1 if counts[KEPT] % AGING == 0 else 0)
        if row >= 0:
            for j in range(vectors.shape[1]):
                vectors[row, j] = fetched[m, j]


@njit(
    "void(uint64[:, ::1], int32[:, ::1], uint8[:, ::1], uint64[:, ::1], int32[:, ::1],"
    " uint8[:, ::1])",
    cache=True, nogil=True,
)  # fmt: skip
def split(keys: U64, rows: I32, ranks: U8, more_keys: U64, more_rows: I32, more_ranks: U8) -> None:
    """Spread the sets over twice as many, which are empty: set s becomes 2 s and 2 s + 1."""
    sets = more_keys.shape[0]
    for s in range(keys.shape[0]):
        for w in range(WAYS):
            if keys[s, w] != 0:
                to = _set_of(keys[s, w], sets)
                way = 0
                while more_keys[to, way] != 0:
                    way += 1
                more_keys[to, way] = keys[s, w]
                more_rows[to, _ROWS + way] = rows[s, _ROWS + w]
                more_ranks[to, _RANKS + way] = ranks[s, _RANKS + w]
