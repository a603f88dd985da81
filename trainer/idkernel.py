"""The loops of `trainer.idmap`. Ids are 64-bit hashes viewed as int64; 0 is "no id"."""

from typing import Any, Final

import numpy as np
from numba import njit

from stream.table import FREE, find, prefetch, put, remove
from trainer.generations import claim

COUNTS: Final = 6  # the entries of `counts`:
NEXT: Final = 0  # rows ever given, row 0 included
SPARE: Final = 1  # rows given back and not given again
NOW: Final = 2  # the time, in ticks
FRESH: Final = 3  # rows given in this call
GONE: Final = 4  # rows given back in this call
REFUSED: Final = 5  # occurrences of ids that were due a row when there was none

TICKS: Final = 64  # of the time after which ids expire
_AHEAD: Final = 12  # searches whose slots are on their way from memory


@njit(cache=True, nogil=True)
def look_up(slots: Any, ids: Any, rows: Any) -> None:
    """Write the row of each id, 0 where it has none."""
    n = ids.size
    for i in range(min(_AHEAD, n)):
        prefetch(slots, ids[i])
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(slots, ids[i + _AHEAD])
        rows[i] = max(find(slots, ids[i]), 0) if ids[i] != 0 else 0


@njit(cache=True, nogil=True)
def _unlink(links: Any, row: int) -> None:
    before, after = links[row, 0], links[row, 1]
    links[before, 1] = after
    links[after, 0] = before


@njit(cache=True, nogil=True)
def _link_newest(links: Any, row: int) -> None:
    """Put ``row`` at the new end of the list by last use; row 0 holds its two ends."""
    newest = links[0, 0]
    links[row, 0] = newest
    links[row, 1] = 0
    links[newest, 1] = row
    links[0, 0] = row


@njit(cache=True, nogil=True)
def _expire(
    slots: Any, by_row: Any, links: Any, ticks: Any, spare: Any, counts: Any, gone: Any, ids: Any
) -> None:
    while counts[GONE] < gone.size:
        row = links[0, 1]
        if row == 0 or counts[NOW] - ticks[row] <= TICKS:
            return
        _unlink(links, row)
        remove(slots, by_row[row])
        gone[counts[GONE]] = row
        ids[counts[GONE]] = by_row[row]
        by_row[row] = 0
        spare[counts[SPARE]] = row
        counts[SPARE] += 1
        counts[GONE] += 1


@njit(cache=True, nogil=True)
def admit(
    slots: Any, by_row: Any, links: Any, ticks: Any, spare: Any, counts: Any,  # the map, changed
    seen: Any, candidates: Any, sizes: Any,  # `Generations`: id, occurrences; changed
    max_rows: int, admit_after: int, expiring: bool,
    ids: Any, rows: Any, fresh: Any, gone: Any, gone_ids: Any,  # rows and what follows: written
) -> None:  # fmt: skip  # by topic
    """Free rows of expired ids, as many as ``gone`` has room for; then use each of ``ids``."""
    if expiring:
        _expire(slots, by_row, links, ticks, spare, counts, gone, gone_ids)
    n = ids.size
    now = counts[NOW]
    for i in range(min(_AHEAD, n)):
        prefetch(slots, ids[i])
    for i in range(n):
        if i + _AHEAD < n:
            prefetch(slots, ids[i + _AHEAD])
        key = ids[i]
        if key == 0:
            rows[i] = 0
            continue
        row = find(slots, key)
        if row != FREE:
            rows[i] = row
            if expiring and ticks[row] != now:
                ticks[row] = now
                _unlink(links, row)
                _link_newest(links, row)
            continue
        rows[i] = 0
        if admit_after > 1:
            c = claim(seen, candidates, sizes, np.uint64(key))
            times = candidates[sizes[0], c, 1] + np.uint64(1)
            candidates[sizes[0], c, 1] = times
            if times < np.uint64(admit_after):
                continue
        if counts[SPARE] > 0:
            counts[SPARE] -= 1
            row = np.int64(spare[counts[SPARE]])
        elif counts[NEXT] < max_rows:
            row = counts[NEXT]
            counts[NEXT] += 1
        else:
            counts[REFUSED] += 1
            continue
        if admit_after > 1:
            candidates[sizes[0], c, 1] = 0  # to get a row again, it must be seen as often again
        put(slots, key, row)
        by_row[row] = key
        if expiring:
            ticks[row] = now
            _link_newest(links, row)
        rows[i] = row
        fresh[counts[FRESH]] = row
        counts[FRESH] += 1


@njit(cache=True, nogil=True)
def put_all(slots: Any, by_row: Any, rows: int) -> None:
    """Put the ids of rows 1 … ``rows`` − 1 into ``slots``."""
    for row in range(1, rows):
        if by_row[row] != 0:
            put(slots, by_row[row], row)


@njit(cache=True, nogil=True)
def link_all(links: Any, order: Any) -> None:
    """Put rows, the one unused for longest first, into an empty list by last use."""
    for row in order:
        _link_newest(links, row)


@njit(cache=True, nogil=True)
def in_order_of_use(links: Any, order: Any) -> None:
    """Write the rows, the one unused for longest first."""
    row = links[0, 1]
    for i in range(order.size):
        order[i] = row
        row = links[row, 1]
