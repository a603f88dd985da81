"""Per-user AUC of a stream, by day: the impressions-weighted mean of users' AUCs (GAUC).

GAUC = Σ_u n_u AUC_u / Σ_u n_u over the users with both classes (Zhou et al., KDD 2018, §5.1). A
user's AUC is taken within one day of event time, exactly; the figure over all is the same mean
over (user, day). Past ``max_rows`` a half of the users, by hash, is left out, then a quarter, …:
a day then weighs by its sampling share, so that a crowded day is not worth less than others.
"""

from typing import Final

import numpy as np
from numba import njit

from stream.ids import mix
from stream.state import State
from trainer.auc import F32, F64, I64, U8, ascending, group_pairs
from trainer.tally import U64, Cells, Spans

_ROWS, _CLOCK, _HALVINGS, _LATE, _CLOSED = range(5)  # places in `UserAuc.meta`
_META: Final = 5
_SALT: Final = np.uint64(
    0x9E6C63D0876A9A47
)  # so that the sample is not the one a partitioner takes


@njit(cache=True, nogil=True)
def _sampled(user: int, halvings: int) -> bool:
    if halvings == 0:
        return True
    return bool(mix(np.uint64(user) ^ _SALT) >> np.uint64(64 - halvings) == np.uint64(0))


@njit(cache=True, nogil=True)
def _count_day(day: int, meta: I64, user: U64, p: F32, label: U8, days: I64, out: F64) -> None:
    """Add the users' AUCs of one day, weighted, to ``out`` (A, 2)."""
    rows, found = np.empty(meta[_ROWS], np.int64), 0
    for i in range(meta[_ROWS]):
        if days[i] == day:
            rows[found] = i
            found += 1
    rows = rows[:found]
    ascending(user, rows)  # the order within a user makes no difference
    weight = 2.0 ** meta[_HALVINGS]
    scores, labels = np.empty(rows.size, np.float32), np.empty(rows.size, np.uint8)
    start = 0
    while start < rows.size:
        end = start
        while end < rows.size and user[rows[end]] == user[rows[start]]:
            end += 1
        for a in range(p.shape[1]):
            n = 0
            for k in range(start, end):
                if not np.isnan(p[rows[k], a]):
                    scores[n], labels[n] = p[rows[k], a], label[rows[k]]
                    n += 1
            won, pairs = group_pairs(scores, labels, n)
            if pairs:
                out[a, 0] += weight * n * (won / (2.0 * pairs))
                out[a, 1] += weight * n
        start = end


@njit(cache=True, nogil=True)
def _keep(after: int, meta: I64, user: U64, p: F32, label: U8, days: I64) -> None:
    """Keep the rows of days later than ``after`` whose user is in the sample."""
    n = 0
    for i in range(meta[_ROWS]):
        if days[i] > after and _sampled(user[i], meta[_HALVINGS]):
            user[n], label[n], days[n] = user[i], label[i], days[i]
            for a in range(p.shape[1]):  # loops, here and below: slices compile for seconds
                p[n, a] = p[i, a]
            n += 1
    meta[_ROWS] = n


@njit(cache=True, nogil=True)
def _settle(
    until: int,
    keep: bool,
    meta: I64,
    user: U64,
    p: F32,
    label: U8,
    days: I64,
    cells: F64,
    day_ids: I64,
    day_sums: F64,
) -> None:
    """Count the days up to ``until``, oldest first; their rows stay only if ``keep``."""
    done = np.int64(-1)
    while True:
        day = np.int64(-1)
        for i in range(meta[_ROWS]):
            if done < days[i] <= until and (day < 0 or days[i] < day):
                day = days[i]
        if day < 0:
            break
        out = np.zeros((p.shape[1], 2))
        _count_day(day, meta, user, p, label, days, out)
        d = day % day_ids.size
        for a in range(p.shape[1]):
            for k in range(2):
                cells[0, a, k] += out[a, k]
                if day_ids[d] == day:
                    day_sums[d, a, k] += out[a, k]
        done = day
    if not keep:
        _keep(until, meta, user, p, label, days)


@njit(cache=True, nogil=True)
def _feed(
    new_user: U64,
    at: I64,
    new_p: F32,
    new_label: U8,
    new_day: I64,
    first_at: int,
    span_ms: int,
    hold: int,
    meta: I64,
    user: U64,
    p: F32,
    label: U8,
    days: I64,
    cells: F64,
    day_ids: I64,
    day_sums: F64,
) -> None:
    for i in range(new_user.size):
        meta[_CLOCK] = max(meta[_CLOCK], at[i])
        over = (meta[_CLOCK] - hold - first_at) // span_ms - 1  # the last day nothing comes for
        if over > meta[_CLOSED]:
            _settle(over, False, meta, user, p, label, days, cells, day_ids, day_sums)
            meta[_CLOSED] = over
        if new_day[i] <= meta[_CLOSED]:
            meta[_LATE] += 1
            continue
        while meta[_ROWS] == user.size and meta[_HALVINGS] < 63:
            meta[_HALVINGS] += 1
            _keep(-1, meta, user, p, label, days)
        n = meta[_ROWS]
        if n < user.size and _sampled(new_user[i], meta[_HALVINGS]):
            user[n], label[n], days[n] = new_user[i], new_label[i], new_day[i]
            for a in range(p.shape[1]):
                p[n, a] = new_p[i, a]
            meta[_ROWS] = n + 1


class UserAuc:
    """The rows of the days that are open. Memory: ``max_rows`` × (4 A + 17) bytes.

    A day is counted ``hold`` of stream time after its end; what comes for it later is in `late`.
    """

    def __init__(self, hold_ms: int, max_rows: int, arms: int) -> None:
        self.hold_ms = hold_ms
        self.meta = np.zeros(_META, np.int64)
        self.meta[_CLOCK] = np.iinfo(np.int64).min // 2
        self.meta[_CLOSED] = -1
        self.user, self.days = np.zeros(max_rows, np.uint64), np.zeros(max_rows, np.int64)
        self.label, self.p = np.zeros(max_rows, np.uint8), np.zeros((max_rows, arms), np.float32)

    @property
    def late(self) -> int:
        """Rows that came after their day had been counted."""
        return int(self.meta[_LATE])

    @property
    def share(self) -> float:
        """The share of users in the sample."""
        return float(0.5 ** int(self.meta[_HALVINGS]))

    def add(
        self, user: U64, at: I64, p: F32, label: U8, day: I64, first_at: int, cells: Cells,
        days: Spans,
    ) -> None:  # fmt: skip
        """Take rows (B,); count the days that end."""
        _feed(
            user, at, p, label, day, first_at, days.span_ms, self.hold_ms, self.meta, self.user,
            self.p, self.label, self.days, cells.users, days.ids, days.users,
        )  # fmt: skip

    def counted(self, cells: Cells, days: Spans) -> tuple[F64, F64]:
        """Return the sums of cells and days as if all open days ended now."""
        out = cells.users.copy(), days.users.copy()
        _settle(
            np.iinfo(np.int64).max, True, self.meta, self.user, self.p, self.label, self.days,
            out[0], days.ids, out[1],
        )  # fmt: skip
        return out

    def state(self) -> State:
        """Return the rows of open days."""
        n = int(self.meta[_ROWS])
        rows = {k: getattr(self, k)[:n].copy() for k in ("user", "days", "label", "p")}
        return {"meta": self.meta.copy(), **rows}

    def restore(self, state: State) -> None:
        """Take up the days where `state` left them."""
        self.meta = state["meta"].copy()
        for name in ("user", "days", "label", "p"):
            getattr(self, name)[: self.meta[_ROWS]] = state[name]
