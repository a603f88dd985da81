"""The join of examples that come with their labels: it only finds the impression of each click."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.events import IMPRESSION, EventColumns
from stream.example_columns import ExampleColumns
from stream.join import Joined, Settled
from stream.state import State
from stream.table import FREE, capacity_for, find, new_table, put, remove

I64 = npt.NDArray[np.int64]

# Places in `cursor`
_NEXT, _FIRST, _END, _LIVE, _MATCHED, _EARLY = range(6)
_COUNTERS: Final = {"impressions": _NEXT, "matched": _MATCHED, "early": _EARLY}
_GONE: Final = -1  # the seq of one whose click has had its turn


class ExampleJoin:
    """Takes the place of `LabelJoin`: every example is accepted, and settles at once.

    Its click comes later, at its own time, so that features count it when it happened and not
    when the label was read; until then the row of its impression is needed (`first_pending`).
    Memory: some 100 bytes for each click that waits in the `ExampleOrder`, whose bound it is.
    """

    def __init__(self) -> None:
        self._cursor = np.zeros(6, np.int64)
        self._waiting = np.zeros((16, 2), np.int64)  # (seq, example) by seq: their click is to come
        self._by_example = new_table(16)

    @property
    def next_seq(self) -> int:
        """The seq of the next impression."""
        return int(self._cursor[_NEXT])

    @property
    def first_pending(self) -> int:
        """Every seq below it is of no further use: its row may be released."""
        first = int(self._cursor[_FIRST])
        return int(self._waiting[first, 0]) if first < self._cursor[_END] else self.next_seq

    def counts(self) -> dict[str, int]:
        """Return counts since the beginning, named as `LabelJoin.counts` names them."""
        counts = {name: int(self._cursor[i]) for name, i in _COUNTERS.items()}
        # Clicks after the window, and duplicates, are counted by who labelled the examples.
        return {**counts, "duplicates": 0, "late": 0, "pending": 0, "waiting": self._live}

    @property
    def _live(self) -> int:
        return int(self._cursor[_LIVE])

    def feed(self, events: EventColumns) -> Joined:
        """Take the next examples and clicks, in canonical order."""
        assert isinstance(events, ExampleColumns), "an ExampleOrder gives examples"
        n = len(events)
        first_seq = self.next_seq
        is_impression = events.kind == IMPRESSION
        early = events.early & is_impression
        clicked = (events.label == 1) & is_impression & ~early
        self._make_room(int(np.count_nonzero(clicked)))
        matched = np.empty((n, 2), np.int64)
        m = _feed(
            is_impression,
            clicked,
            early,
            events.example.view(np.int64),
            self._waiting,
            self._by_example,
            self._cursor,
            matched,
        )
        accepted = np.flatnonzero(is_impression)
        return Joined(
            accepted=accepted,
            first_seq=first_seq,
            matched_event=matched[:m, 0].copy(),
            matched_seq=matched[:m, 1].copy(),
            matched_action=np.zeros(m, np.uint8),
            matched_is_label=np.ones(m, np.bool_),
            refused=np.zeros(0, np.int64),
            settled=Settled(
                seq=np.arange(first_seq, first_seq + accepted.size),
                label=events.label[accepted],
                label_at=events.label_at[accepted],
                actions=events.actions[accepted],
                kind=events.label_kind[accepted],
                before=accepted + 1,
            ),
        )

    def advance(self, at_ms: int) -> Joined:
        """Let time pass: nothing waits for it."""
        return self._nothing()

    def drain(self) -> Joined:
        """Settle what is pending: nothing is."""
        return self._nothing()

    def _nothing(self) -> Joined:
        none, no = np.zeros(0, np.int64), np.zeros(0, np.uint8)
        return Joined(
            accepted=none,
            first_seq=self.next_seq,
            matched_event=none,
            matched_seq=none,
            matched_action=no,
            matched_is_label=no.astype(np.bool_),
            refused=none,
            settled=Settled(seq=none, label=no, label_at=none, actions=no, kind=no, before=none),
        )

    def _make_room(self, clicked: int) -> None:
        """Leave out what is gone, and grow, where ``clicked`` more would not fit."""
        end = int(self._cursor[_END])
        if end + clicked <= len(self._waiting):
            return
        self._hold(self._waiting[:end][self._waiting[:end, 0] != _GONE], clicked)

    def _hold(self, waiting: I64, more: int) -> None:
        capacity = capacity_for(2 * (len(waiting) + more + 8))  # half free: seldom filled again
        self._waiting = np.zeros((capacity, 2), np.int64)
        self._waiting[: len(waiting)] = waiting
        self._by_example = new_table(capacity)
        _index(self._waiting, len(waiting), self._by_example)
        self._cursor[_FIRST], self._cursor[_END] = 0, len(waiting)

    def state(self) -> State:
        """Return a copy of what waits for its click, and the counters."""
        waiting = self._waiting[: self._cursor[_END]]
        waiting = waiting[waiting[:, 0] != _GONE]
        return {
            "seq": waiting[:, 0].copy(),
            "example": waiting[:, 1].copy(),
            "counts": {name: int(self._cursor[i]) for name, i in _COUNTERS.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self._cursor[:] = 0
        for name, i in _COUNTERS.items():
            self._cursor[i] = state["counts"][name]
        self._hold(np.stack([state["seq"], state["example"]], axis=1), 0)
        self._cursor[_LIVE] = len(state["seq"])


@njit(cache=True, nogil=True)
def _feed(
    is_impression: Any,
    clicked: Any,
    early: Any,
    example: I64,
    waiting: I64,
    by_example: I64,
    cursor: I64,
    matched: I64,
) -> int:
    """Give impressions their seq and clicks their impression; return how many matched."""
    m = 0
    for i in range(is_impression.size):
        if is_impression[i]:
            seq = cursor[_NEXT]
            cursor[_NEXT] += 1
            if early[i]:
                matched[m, 0], matched[m, 1] = i, seq
                m += 1
                cursor[_EARLY] += 1
            elif clicked[i]:
                end = cursor[_END]
                waiting[end, 0], waiting[end, 1] = seq, example[i]
                put(by_example, example[i], end)
                cursor[_END] = end + 1
                cursor[_LIVE] += 1
            continue
        k = find(by_example, example[i])
        assert k != FREE, "a click comes after its example"
        matched[m, 0], matched[m, 1] = i, waiting[k, 0]
        m += 1
        waiting[k, 0] = _GONE
        remove(by_example, example[i])
        cursor[_LIVE] -= 1
        while cursor[_FIRST] < cursor[_END] and waiting[cursor[_FIRST], 0] == _GONE:
            cursor[_FIRST] += 1
    cursor[_MATCHED] += m
    return m


@njit(cache=True, nogil=True)
def _index(waiting: I64, n: int, by_example: I64) -> None:
    for k in range(n):
        put(by_example, waiting[k, 1], k)
