"""The compiled loop of `stream.join`: one pass over a block of events in canonical order.

Impressions lie in a ring by seq: [`FORGET`, `SETTLE`) are settled and remembered,
[`SETTLE`, `NEXT`) are pending. Window and memory are as long for all, so both ends move first in,
first out. Feedback that waits for its impression lies in a second ring; a chain links what waits
for the same one.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.events import IMPRESSION, OTHER_ACTION
from stream.policy import ARRIVAL, CLICK, DEADLINE, HORIZON, LATER_CLICK, NOTHING
from stream.table import FREE, find, prefetch, put, remove

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Records = Any  # numpy arrays of the types below

SHOWN: Final = np.dtype(  # an impression, pending or remembered; 32 bytes: half a cache line
    [
        ("id", np.int64),
        ("at", np.int64),
        ("label_at", np.int64),
        ("label", np.uint8),
        ("actions", np.uint8),
    ],
    align=True,
)
EARLY_FEEDBACK: Final = np.dtype(
    [("id", np.int64), ("at", np.int64), ("then", np.int64), ("action", np.uint8)], align=True
)
MATCH: Final = np.dtype(
    [("event", np.int64), ("seq", np.int64), ("action", np.uint8), ("is_label", np.uint8)],
    align=True,
)
EMITTED_ROW: Final = np.dtype(
    [
        ("seq", np.int64),
        ("label_at", np.int64),
        ("before", np.int64),
        ("label", np.uint8),
        ("actions", np.uint8),
        ("kind", np.uint8),
    ],
    align=True,
)

# Places in `limits`
WINDOW, EARLY, REMEMBER, MAX_PENDING, MAX_REMEMBERED, MAX_EARLY, LABEL_ACTIONS = range(7)
LIMITS: Final = 7

# Places in `cursor`: ends of the rings, the clock, what the last call wrote, counters
FORGET, SETTLE, NEXT, EARLY_FIRST, EARLY_NEXT, EARLY_LIVE, NOW, FORGOTTEN_AT = range(8)
IMPRESSIONS, DUPLICATES, DUPLICATE_FEEDBACK, MATCHES, LATE, ORPHANS, EARLIES = range(8, 15)
FORCED, TOO_LATES, OTHER_ACTIONS = range(15, 18)
MATCHED, EMITTED = range(18, 20)
CURSORS: Final = 20
COUNTERS: Final = {
    "impressions": IMPRESSIONS,
    "duplicates": DUPLICATES,
    "duplicate_feedback": DUPLICATE_FEEDBACK,
    "matched": MATCHES,
    "late": LATE,
    "orphans": ORPHANS,
    "early": EARLIES,
    "forced": FORCED,
    "too_late": TOO_LATES,
    "other_actions": OTHER_ACTIONS,
}
NAMED_CURSORS: Final = {
    "forget": FORGET,
    "settle": SETTLE,
    "next": NEXT,
    "early_first": EARLY_FIRST,
    "early_next": EARLY_NEXT,
    "early_live": EARLY_LIVE,
    "now": NOW,
    "forgotten_at": FORGOTTEN_AT,
    **COUNTERS,
}

ACCEPTED, TOO_LATE = 1, 2  # fates; 0: all others

_GONE: Final = OTHER_ACTION  # action of an early feedback that found its impression
_AHEAD: Final = 8  # events: the time a cache line takes to come from memory
_FAR: Final = (1 << 62) + 1  # after every time that the clock may be set to


@njit(cache=True, nogil=True, inline="always")
def _emit(
    code: int, seq: int, before: int, shown: Records, cursor: I64, emitted: Records
) -> Records:
    """Write the example that ``code`` stands for; return the rows, grown where they were full."""
    if code == NOTHING:
        return emitted
    k = cursor[EMITTED]
    if k == emitted.size:
        larger = np.empty(2 * k, emitted.dtype)
        larger[:k] = emitted
        emitted = larger
    row = shown[seq & (shown.size - 1)]
    emitted[k].seq = seq
    emitted[k].label = code & 1
    emitted[k].label_at = row.label_at if code & 1 else -1
    emitted[k].actions = row.actions
    emitted[k].kind = code >> 1
    emitted[k].before = before
    cursor[EMITTED] = k + 1
    return emitted


@njit(cache=True, nogil=True, inline="always")
def _forget(
    shown: Records, by_id: I64, cursor: I64, codes: I64, emitted: Records, before: int
) -> Records:
    seq = cursor[FORGET]
    row = shown[seq & (shown.size - 1)]
    ahead = seq + _AHEAD
    if ahead < cursor[NEXT]:
        prefetch(by_id, shown[ahead & (shown.size - 1)].id)
    emitted = _emit(codes[HORIZON + row.label], seq, before, shown, cursor, emitted)
    remove(by_id, row.id)
    cursor[FORGOTTEN_AT] = row.at  # ascends, as seqs do
    cursor[FORGET] = seq + 1
    return emitted


@njit(cache=True, nogil=True, inline="always")
def _settle(
    shown: Records,
    by_id: I64,
    cursor: I64,
    limits: I64,
    codes: I64,
    emitted: Records,
    before: int,
) -> Records:
    seq = cursor[SETTLE]
    label = shown[seq & (shown.size - 1)].label
    emitted = _emit(codes[DEADLINE + label], seq, before, shown, cursor, emitted)
    cursor[SETTLE] = seq + 1
    if cursor[SETTLE] - cursor[FORGET] > limits[MAX_REMEMBERED]:
        emitted = _forget(shown, by_id, cursor, codes, emitted, before)
    return emitted


@njit(cache=True, nogil=True)
def _drop_early(early: Records, early_by_id: I64, cursor: I64) -> None:
    """Drop the oldest early feedback, and any behind it that are gone already."""
    row = early[cursor[EARLY_FIRST] & (early.size - 1)]
    if row.action != _GONE:  # the oldest of its chain, as chains are in order
        if row.then == FREE:
            remove(early_by_id, row.id)
        else:
            put(early_by_id, row.id, row.then)
        cursor[ORPHANS] += 1
        cursor[EARLY_LIVE] -= 1
    cursor[EARLY_FIRST] += 1


@njit(cache=True, nogil=True)
def expire(
    now: int,
    horizon: bool,
    shown: Records,
    by_id: I64,
    early: Records,
    early_by_id: I64,
    cursor: I64,
    limits: I64,
    codes: I64,
    emitted: Records,
    before: int,
) -> Records:
    """Settle, forget (if ``horizon``) and orphan, in order of time, all that is due at ``now``."""
    while cursor[SETTLE] < cursor[NEXT] or cursor[FORGET] < cursor[SETTLE]:
        deadline = _FAR
        if cursor[SETTLE] < cursor[NEXT]:
            deadline = shown[cursor[SETTLE] & (shown.size - 1)].at + limits[WINDOW]
        end = _FAR
        if horizon and cursor[FORGET] < cursor[SETTLE]:
            end = shown[cursor[FORGET] & (shown.size - 1)].at + limits[WINDOW] + limits[REMEMBER]
        if min(deadline, end) > now:
            break
        if deadline <= end:
            emitted = _settle(shown, by_id, cursor, limits, codes, emitted, before)
        else:
            emitted = _forget(shown, by_id, cursor, codes, emitted, before)
    while cursor[EARLY_FIRST] < cursor[EARLY_NEXT]:
        row = early[cursor[EARLY_FIRST] & (early.size - 1)]
        if row.action != _GONE and row.at + limits[EARLY] > now:
            break
        _drop_early(early, early_by_id, cursor)
    return emitted


@njit(cache=True, nogil=True)
def _match(
    seq: int,
    action: int,
    i: int,
    at: int,
    shown: Records,
    cursor: I64,
    limits: I64,
    codes: I64,
    matched: Records,
    emitted: Records,
) -> Records:
    """Bring a feedback to the impression ``seq``, at event ``i``."""
    row = shown[seq & (shown.size - 1)]
    bit = 1 << action
    if row.actions & bit:
        cursor[DUPLICATE_FEEDBACK] += 1
        return emitted
    row.actions |= bit
    is_label = row.label == 0 and limits[LABEL_ACTIONS] & bit != 0
    if is_label:
        row.label = 1
        row.label_at = at
    if seq < cursor[SETTLE]:
        cursor[LATE] += 1
        return (
            _emit(codes[LATER_CLICK], seq, i + 1, shown, cursor, emitted) if is_label else emitted
        )
    k = cursor[MATCHED]
    matched[k].event = i
    matched[k].seq = seq
    matched[k].action = action
    matched[k].is_label = is_label
    cursor[MATCHED] = k + 1
    cursor[MATCHES] += 1
    return _emit(codes[CLICK], seq, i + 1, shown, cursor, emitted) if is_label else emitted


@njit(cache=True, nogil=True)
def _wait(
    key: int, action: int, at: int, early: Records, early_by_id: I64, cursor: I64, limits: I64
) -> None:
    """Let a feedback without an impression wait for it."""
    last = FREE
    other = find(early_by_id, key)
    cursor[EARLIES] += 1
    while other != FREE:  # at most one of each action
        row = early[other & (early.size - 1)]
        if row.action != action:
            last = other
        else:  # the newer one replaces it: it may wait for longer
            row.action = _GONE
            cursor[EARLIES] -= 1
            cursor[EARLY_LIVE] -= 1
            cursor[DUPLICATE_FEEDBACK] += 1
            if last != FREE:
                early[last & (early.size - 1)].then = row.then
            elif row.then != FREE:
                put(early_by_id, key, row.then)
            else:
                remove(early_by_id, key)
        other = row.then
    if cursor[EARLY_NEXT] - cursor[EARLY_FIRST] >= limits[MAX_EARLY]:
        if last == cursor[EARLY_FIRST]:
            last = FREE  # its chain goes with it
        _drop_early(early, early_by_id, cursor)
    e = cursor[EARLY_NEXT]
    row = early[e & (early.size - 1)]
    row.id = key
    row.at = at
    row.action = action
    row.then = FREE
    if last == FREE:
        put(early_by_id, key, e)
    else:
        early[last & (early.size - 1)].then = e
    cursor[EARLY_NEXT] = e + 1
    cursor[EARLY_LIVE] += 1


@njit(cache=True, nogil=True)
def feed(
    kind: U8,
    ts: I64,
    at: I64,
    impression: I64,
    action: U8,
    shown: Records,
    by_id: I64,
    early: Records,
    early_by_id: I64,
    cursor: I64,
    limits: I64,
    codes: I64,
    matched: Records,
    emitted: Records,
) -> tuple[U8, Records]:
    """Take a block of events; return the fate of each and the examples emitted.

    ``matched`` has room for every feedback of the block and every one that waits; the rings and
    tables have room for every event of the block, up to their bounds.
    """
    fate = np.zeros(at.size, np.uint8)
    memory = max(limits[WINDOW] + limits[REMEMBER], 1)  # what is older may have been forgotten
    for i in range(at.size):
        now = at[i]
        key = impression[i]
        if i + _AHEAD < at.size:
            prefetch(by_id, impression[i + _AHEAD])
        emitted = expire(
            now, True, shown, by_id, early, early_by_id, cursor, limits, codes, emitted, i
        )
        seq = find(by_id, key)
        if kind[i] != IMPRESSION:
            if action[i] == OTHER_ACTION:
                cursor[OTHER_ACTIONS] += 1
            elif seq == FREE:
                _wait(key, action[i], now, early, early_by_id, cursor, limits)
            else:
                emitted = _match(
                    seq, action[i], i, now, shown, cursor, limits, codes, matched, emitted
                )
        elif seq != FREE:
            cursor[DUPLICATES] += 1
        elif ts[i] <= max(cursor[FORGOTTEN_AT], now - memory):
            cursor[TOO_LATES] += 1
            fate[i] = TOO_LATE
        else:
            if cursor[NEXT] - cursor[SETTLE] >= limits[MAX_PENDING]:
                cursor[FORCED] += 1
                emitted = _settle(shown, by_id, cursor, limits, codes, emitted, i)
            fate[i] = ACCEPTED
            cursor[IMPRESSIONS] += 1
            seq = cursor[NEXT]
            row = shown[seq & (shown.size - 1)]
            row.id = key
            row.at = now
            row.label_at = -1
            row.label = 0
            row.actions = 0
            put(by_id, key, seq)
            cursor[NEXT] = seq + 1
            emitted = _emit(codes[ARRIVAL], seq, i + 1, shown, cursor, emitted)
            e = find(early_by_id, key) if cursor[EARLY_LIVE] > 0 else FREE
            if e != FREE:
                remove(early_by_id, key)
            while e != FREE:
                waiting = early[e & (early.size - 1)]
                emitted = _match(
                    seq, waiting.action, i, now, shown, cursor, limits, codes, matched, emitted
                )
                waiting.action = _GONE
                cursor[EARLY_LIVE] -= 1
                e = waiting.then
    if at.size:
        cursor[NOW] = at[-1]
    return fate, emitted


@njit(cache=True, nogil=True)
def index_shown(shown: Records, by_id: I64, first: int, end: int) -> None:
    """Enter the impressions ``first … end`` into their table."""
    for seq in range(first, end):
        put(by_id, shown[seq & (shown.size - 1)].id, seq)


@njit(cache=True, nogil=True)
def index_early(early: Records, early_by_id: I64, first: int, end: int) -> None:
    """Enter the early feedback ``first … end`` into its table: each id's oldest."""
    for e in range(first, end):
        row = early[e & (early.size - 1)]
        if row.action != _GONE and find(early_by_id, row.id) == FREE:
            put(early_by_id, row.id, e)
