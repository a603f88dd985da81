"""Per-request AUC of a stream, exact: rows of a request may arrive together or apart.

A request stays open for ``hold`` of stream time after its first row, then its AUC is counted. What
comes for it later counts as a request of its own. Shapes: B rows, A arms, G open requests, R rows.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.ids import mix
from stream.state import State
from trainer.auc import F32, F64, I64, U8, group_pairs
from trainer.tally import I32, U64, Cells, Spans

_FIRST, _OPEN, _ROWS, _FREE, _CLOCK, _FORCED = range(6)  # places in `_Table.meta`
_META: Final = 6
_NONE: Final = -1

Sink = tuple[F64, I64, F64, I64, F64]  # requests of cells; ids and requests of windows, and of days


@njit(cache=True, nogil=True)
def _find(key: int, keys: U64, table: I32) -> int:
    """Return the place of ``key`` in the table, or the empty place where it belongs."""
    mask = table.size - 1
    at = np.int64(mix(key) & np.uint64(mask))
    while table[at] != _NONE and keys[table[at]] != key:
        at = (at + 1) & mask
    return int(at)


@njit(cache=True, nogil=True)
def _remove(key: int, keys: U64, table: I32) -> None:
    """Remove ``key`` and shift what stood behind it back (Knuth 6.4 R): no tombstones."""
    mask = table.size - 1
    hole = _find(key, keys, table)
    at = hole
    while True:
        at = (at + 1) & mask
        if table[at] == _NONE:
            break
        home = np.int64(mix(keys[table[at]]) & np.uint64(mask))
        if (at - home) & mask >= (at - hole) & mask:
            table[hole] = table[at]
            hole = at
    table[hole] = _NONE


@njit(cache=True, nogil=True)
def _count(
    g: int,
    head: I32,
    rows: I32,
    place: I64,
    row_p: F32,
    row_label: U8,
    row_next: I32,
    sink: Sink,
) -> None:
    """Add the AUC of request ``g`` to the cells, the window and the day of its first row."""
    cells, window_ids, windows, day_ids, days = sink
    n = rows[g]
    p, label = np.empty(n, np.float32), np.empty(n, np.uint8)
    for a in range(row_p.shape[1]):
        r = head[g]
        for i in range(n):
            p[i], label[i] = row_p[r, a], row_label[r]
            r = row_next[r]
        won, pairs = group_pairs(p, label, n)
        if pairs == 0:
            continue
        value = won / (2.0 * pairs)
        for k in range(place.shape[1] - 2):
            cells[place[g, k], a, 0] += value
            cells[place[g, k], a, 1] += 1.0
        w = place[g, place.shape[1] - 2] % window_ids.size
        if window_ids[w] == place[g, place.shape[1] - 2]:
            windows[w, a, 0] += value
            windows[w, a, 1] += 1.0
        d = place[g, place.shape[1] - 1] % day_ids.size
        if day_ids[d] == place[g, place.shape[1] - 1]:
            days[d, a, 0] += value
            days[d, a, 1] += 1.0


@njit(cache=True, nogil=True)
def _count_all(
    meta: I64,
    head: I32,
    rows: I32,
    place: I64,
    row_p: F32,
    row_label: U8,
    row_next: I32,
    sink: Sink,
) -> None:
    for k in range(meta[_OPEN]):
        g = (meta[_FIRST] + k) % head.size
        _count(g, head, rows, place, row_p, row_label, row_next, sink)


@njit(cache=True, nogil=True)
def _feed(
    request: U64,
    at: I64,
    p: F32,
    label: U8,
    row_place: I64,
    hold: int,
    meta: I64,
    table: I32,
    keys: U64,
    deadline: I64,
    head: I32,
    rows: I32,
    place: I64,
    row_p: F32,
    row_label: U8,
    row_next: I32,
    sink: Sink,
) -> None:
    for i in range(request.size):
        meta[_CLOCK] = max(meta[_CLOCK], at[i])
        while meta[_OPEN]:
            g = meta[_FIRST]
            full = meta[_ROWS] == row_next.size or meta[_OPEN] == keys.size
            if deadline[g] >= meta[_CLOCK] and not full:
                break
            if deadline[g] >= meta[_CLOCK]:
                meta[_FORCED] += 1
            _count(g, head, rows, place, row_p, row_label, row_next, sink)
            _remove(keys[g], keys, table)
            last = head[g]
            while row_next[last] != _NONE:
                last = row_next[last]
            row_next[last] = meta[_FREE]
            meta[_FREE] = head[g]
            meta[_ROWS] -= rows[g]
            meta[_OPEN] -= 1
            meta[_FIRST] = (g + 1) % keys.size
        t = _find(request[i], keys, table)
        if table[t] == _NONE:
            g = (meta[_FIRST] + meta[_OPEN]) % keys.size
            meta[_OPEN] += 1
            table[t] = g
            keys[g] = request[i]
            deadline[g] = meta[_CLOCK] + hold
            head[g] = _NONE
            rows[g] = 0
            for k in range(place.shape[1]):  # loops, here and below: slices compile for seconds
                place[g, k] = row_place[i, k]
        g = table[t]
        r = meta[_FREE]
        meta[_FREE] = row_next[r]
        meta[_ROWS] += 1
        for a in range(p.shape[1]):
            row_p[r, a] = p[i, a]
        row_label[r] = label[i]
        row_next[r] = head[g]
        head[g] = r
        rows[g] += 1


class RequestAuc:
    """Requests that are open. Memory: ``max_rows`` × (4 A + 45) bytes; past it the oldest end.

    Requests closed before their time are counted in `forced`: where their rows come together, as
    they do unless positives are learned at their click, that changes no figure.
    """

    def __init__(self, hold_ms: int, max_rows: int, arms: int, places: int) -> None:
        self.hold_ms, self.arms, self.places, self.max_rows = hold_ms, arms, places, max_rows
        self._clear()

    def _clear(self) -> None:
        n, half = self.max_rows, max(self.max_rows // 2, 1)  # a request of one row decides nothing
        self.meta = np.zeros(_META, np.int64)
        self.meta[_CLOCK] = np.iinfo(np.int64).min // 2
        self.table = np.full(1 << (2 * half - 1).bit_length(), _NONE, np.int32)
        self.keys = np.zeros(half, np.uint64)
        self.deadline = np.zeros(half, np.int64)
        self.head, self.rows = np.zeros(half, np.int32), np.zeros(half, np.int32)
        self.place = np.zeros((half, self.places), np.int64)
        self.row_p = np.zeros((n, self.arms), np.float32)
        self.row_label = np.zeros(n, np.uint8)
        self.row_next = np.append(np.arange(1, n, dtype=np.int32), np.int32(_NONE))

    @property
    def forced(self) -> int:
        """Requests closed before their time, for want of room."""
        return int(self.meta[_FORCED])

    def add(
        self, request: U64, at: I64, p: F32, label: U8, place: I64, cells: Cells, windows: Spans,
        days: Spans,
    ) -> None:  # fmt: skip
        """Take rows (B,) and their place (B, cells… window, day); count the requests that end."""
        _feed(
            request, at, p, label, place, self.hold_ms, self.meta, self.table, self.keys,
            self.deadline, self.head, self.rows, self.place, self.row_p, self.row_label,
            self.row_next, _sink(cells.requests, windows, windows.requests, days, days.requests),
        )  # fmt: skip

    def counted(self, cells: Cells, windows: Spans, days: Spans) -> tuple[F64, F64, F64]:
        """Return the sums of cells, windows and days as if all open requests ended now."""
        out = cells.requests.copy(), windows.requests.copy(), days.requests.copy()
        _count_all(
            self.meta, self.head, self.rows, self.place, self.row_p, self.row_label, self.row_next,
            _sink(out[0], windows, out[1], days, out[2]),
        )  # fmt: skip
        return out

    def state(self) -> State:
        """Return the open requests, oldest first, and their rows."""
        meta = self.meta
        order = (meta[_FIRST] + np.arange(meta[_OPEN])) % self.keys.size
        rows = self.rows[order]
        index = np.empty(int(rows.sum()), np.int64)
        at = 0
        for g, n in zip(order.tolist(), rows.tolist(), strict=True):  # rare: once a checkpoint
            r = int(self.head[g])
            for k in range(n):
                index[at + k] = r
                r = int(self.row_next[r])
            at += n
        return {
            "clock": int(meta[_CLOCK]),
            "forced": int(meta[_FORCED]),
            "keys": self.keys[order],
            "deadline": self.deadline[order],
            "rows": rows,
            "place": self.place[order],
            "row_p": self.row_p[index],
            "row_label": self.row_label[index],
        }

    def restore(self, state: State) -> None:
        """Take up the requests where `state` left them."""
        self._clear()
        n, rows = state["keys"].size, int(state["rows"].sum())
        self.meta[_CLOCK], self.meta[_FORCED] = state["clock"], state["forced"]
        self.meta[_OPEN], self.meta[_ROWS] = n, rows
        self.meta[_FREE] = rows if rows < self.max_rows else _NONE
        self.keys[:n], self.deadline[:n] = state["keys"], state["deadline"]
        self.rows[:n], self.place[:n] = state["rows"], state["place"]
        ends = np.cumsum(state["rows"])
        self.head[:n] = ends - state["rows"]
        self.row_p[:rows], self.row_label[:rows] = state["row_p"], state["row_label"]
        self.row_next[ends - 1] = _NONE
        for g in range(n):
            self.table[_find(self.keys[g], self.keys, self.table)] = g


def _sink(
    cells: F64, windows: Spans, window_sums: F64, days: Spans, day_sums: F64
) -> tuple[npt.NDArray[np.generic], ...]:
    return cells, windows.ids, window_sums, days.ids, day_sums
