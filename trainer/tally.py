"""Sums and score histograms of a stream: over all, by slice, and by span of event time.

Shapes: B rows, A arms, C cells (over all and slices), W spans kept, K bins, 4 sums
(examples, clicks, log loss, probability). Rows are added one after another in float64, so how
the stream was cut into updates makes no difference to the last bit.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.state import State
from trainer.auc import F32, F64, I64, U8, histogram_pairs, logit_bin

I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]

BINS: Final = 1 << 14  # over ± 16 logits: a bin is 0.002 logits, 0.2 % of a small probability
SPAN_BINS: Final = 1 << 12  # a span lives in many copies and is shorter: 0.008 logits
SUMS: Final = 4
EXAMPLES, CLICKS, LOGLOSS, PROBABILITY = range(SUMS)
_CLIP: Final = 1e-7  # the least float32 below 1 is 1 − 6e-8: log loss stays finite on both sides


class Scored(NamedTuple):
    """Rows with what every tally needs of them; a bin of −1 says that the arm lacks the row."""

    p: F32  # (B, A)
    label: U8  # (B,)
    logloss: F64  # (B, A)
    bins: I32  # (B, A), of BINS


@njit(cache=True, nogil=True)
def _score(p: F32, label: U8, logloss: F64, bins: I32) -> int:
    for i in range(p.shape[0]):
        for a in range(p.shape[1]):
            x = float(p[i, a])
            if np.isnan(x):
                bins[i, a] = -1
                continue
            if x < 0.0 or x > 1.0:
                return int(i * p.shape[1] + a)
            x = min(max(x, _CLIP), 1.0 - _CLIP)
            yes, no = math.log(x), math.log1p(-x)
            logloss[i, a] = -yes if label[i] else -no
            bins[i, a] = logit_bin(yes - no, BINS)
    return -1


def score(p: F32, label: U8) -> tuple[Scored, int]:
    """Score rows; return also the flat index of the first value that is no probability, or −1."""
    logloss, bins = np.zeros(p.shape), np.empty(p.shape, np.int32)
    wrong = int(_score(p, label, logloss, bins))
    return Scored(p, label, logloss, bins), wrong


@njit(cache=True, nogil=True)
def _add_cells(
    p: F32, label: U8, logloss: F64, bins: I32, cells: I32, sums: F64, hist: I64
) -> None:
    for i in range(p.shape[0]):
        y = np.int64(label[i])
        for k in range(cells.shape[1]):
            c = cells[i, k]
            for a in range(p.shape[1]):
                if bins[i, a] >= 0:
                    sums[c, a, EXAMPLES] += 1.0
                    sums[c, a, CLICKS] += y
                    sums[c, a, LOGLOSS] += logloss[i, a]
                    sums[c, a, PROBABILITY] += np.float64(p[i, a])
                    hist[c, a, y, bins[i, a]] += 1


class Cells:
    """Sums and histograms over all rows and over slices, for good. Memory: C × A × 256 KiB.

    Attributes:
        sums: (C, A, 4).
        hist: (C, A, 2, BINS), rows by label.
        requests: (C, A, 2), the sum and number of per-request AUCs.
        users: (C, A, 2), impressions-weighted AUC of users, and the weight.

    """

    def __init__(self, cells: int, arms: int) -> None:
        self.sums = np.zeros((cells, arms, SUMS))
        self.hist = np.zeros((cells, arms, 2, BINS), np.int64)  # untouched pages cost nothing
        self.requests = np.zeros((cells, arms, 2))
        self.users = np.zeros((cells, arms, 2))

    def add(self, rows: Scored, cells: I32) -> None:
        """Add each row to each of its cells (B, any)."""
        _add_cells(*rows, cells, self.sums, self.hist)

    def auc_pairs(self, cell: int, arm: int) -> tuple[float, float, float]:
        """Return `histogram_pairs` of a cell."""
        won, pairs, shared = histogram_pairs(self.hist[cell, arm])
        return float(won), float(pairs), float(shared)

    def state(self) -> State:
        """Return the tally; histograms as their filled bins."""
        return {
            "sums": self.sums.copy(),
            "requests": self.requests.copy(),
            "users": self.users.copy(),
            **_sparse(self.hist[self.sums[:, :, EXAMPLES].any(axis=1)], "hist"),
        }

    def restore(self, state: State) -> None:
        """Take up a tally where `state` left it."""
        self.sums = state["sums"].copy()
        self.requests, self.users = state["requests"].copy(), state["users"].copy()
        used = self.sums[:, :, EXAMPLES].any(axis=1)
        self.hist[:] = 0
        self.hist[used] = _dense(state, "hist", (int(used.sum()), *self.hist.shape[1:]))


@njit(cache=True, nogil=True)
def _add_spans(
    p: F32,
    label: U8,
    logloss: F64,
    bins: I32,
    span: I64,
    ids: I64,
    sums: F64,
    pairs: F64,
    requests: F64,
    users: F64,
    open_ids: I64,
    hist: I64,
    late: I64,
) -> None:
    kept, slots, arms = ids.size, open_ids.size, p.shape[1]
    for i in range(p.shape[0]):
        s = span[i]
        w, h = s % kept, s % slots
        if ids[w] < s:  # a new span takes the place of the oldest
            ids[w] = s
            for a in range(arms):  # loops, here and below: slices compile for seconds
                for k in range(SUMS):
                    sums[w, a, k] = 0.0
                for k in range(2):
                    pairs[w, a, k], requests[w, a, k], users[w, a, k] = 0.0, 0.0, 0.0
        if open_ids[h] < s:
            old = open_ids[h]
            for a in range(arms):
                if old >= 0 and ids[old % kept] == old:
                    won, n, _ = histogram_pairs(hist[h, a])
                    pairs[old % kept, a, 0] += won
                    pairs[old % kept, a, 1] += n
                for b in range(SPAN_BINS):
                    hist[h, a, 0, b], hist[h, a, 1, b] = 0, 0
            open_ids[h] = s
        if ids[w] != s or open_ids[h] != s:
            late[0] += 1
        y = np.int64(label[i])
        for a in range(arms):
            if bins[i, a] < 0:
                continue
            if ids[w] == s:
                sums[w, a, EXAMPLES] += 1.0
                sums[w, a, CLICKS] += y
                sums[w, a, LOGLOSS] += logloss[i, a]
                sums[w, a, PROBABILITY] += np.float64(p[i, a])
            if open_ids[h] == s:
                hist[h, a, y, bins[i, a] * SPAN_BINS // BINS] += 1


class Spans:
    """Sums by equal spans of event time: the newest ``kept``; a few have their histograms open.

    A row of a span whose histogram has been closed counts in all figures but the span's AUC, and
    in ``late``. Memory: ``slots`` × A × 64 KiB, and ``kept`` × A × 88 bytes.

    Attributes:
        ids: (W,), the span's number in its place ``number % W``, −1 where none.
        sums: (W, A, 4).
        pairs: (W, A, 2), twice the pairs won and the pairs, of closed histograms.
        requests, users: (W, A, 2), as in `Cells`.

    """

    def __init__(self, span_ms: int, kept: int, slots: int, arms: int) -> None:
        self.span_ms = span_ms
        self.ids = np.full(kept, -1, np.int64)
        self.sums = np.zeros((kept, arms, SUMS))
        self.pairs = np.zeros((kept, arms, 2))
        self.requests = np.zeros((kept, arms, 2))
        self.users = np.zeros((kept, arms, 2))
        self.open_ids = np.full(slots, -1, np.int64)
        self.hist = np.zeros((slots, arms, 2, SPAN_BINS), np.int64)
        self.late = np.zeros(1, np.int64)

    def number(self, at: I64, first_at: int) -> I64:
        """Return the span each time (B,) lies in; what lies before the first event is in span 0."""
        return np.maximum((at - first_at) // self.span_ms, 0)

    def add(self, rows: Scored, span: I64) -> None:
        """Add each row to its span (B,)."""
        _add_spans(
            *rows, span, self.ids, self.sums, self.pairs, self.requests, self.users,
            self.open_ids, self.hist, self.late,
        )  # fmt: skip

    def places(self) -> list[int]:
        """Return the places of the spans kept, oldest first."""
        used = np.flatnonzero(self.ids >= 0)
        return [int(w) for w in used[np.argsort(self.ids[used])]]

    def auc_pairs(self, place: int, arm: int) -> tuple[float, float]:
        """Return twice the pairs won and the pairs of a span, open or closed."""
        won, pairs = (float(x) for x in self.pairs[place, arm])
        slot = int(self.ids[place]) % self.open_ids.size
        if self.open_ids[slot] == self.ids[place]:
            more, of, _ = histogram_pairs(self.hist[slot, arm])
            won, pairs = won + float(more), pairs + float(of)
        return won, pairs

    def state(self) -> State:
        """Return the spans; histograms as their filled bins."""
        fields = ("ids", "sums", "pairs", "requests", "users", "open_ids", "late")
        used = self.ids >= 0
        rows = ("ids", "sums", "pairs", "requests", "users")
        return {
            "kept": int(self.ids.size),
            "places": np.flatnonzero(used),
            **{
                f: (getattr(self, f)[used] if f in rows else getattr(self, f).copy())
                for f in fields
            },
            **_sparse(self.hist, "hist"),
        }

    def restore(self, state: State) -> None:
        """Take up the spans where `state` left them."""
        self.ids[:] = -1
        for f in ("ids", "sums", "pairs", "requests", "users"):
            column = getattr(self, f)
            if f != "ids":
                column[:] = 0
            column[state["places"]] = state[f]
        self.open_ids, self.late = state["open_ids"].copy(), state["late"].copy()
        self.hist[:] = _dense(state, "hist", self.hist.shape)


def _sparse(hist: I64, name: str) -> State:
    at = np.flatnonzero(hist)
    return {f"{name}_at": at, f"{name}_count": hist.reshape(-1)[at]}


def _dense(state: State, name: str, shape: tuple[int, ...]) -> I64:
    hist = np.zeros(shape, np.int64)
    hist.reshape(-1)[state[f"{name}_at"]] = state[f"{name}_count"]
    return hist
