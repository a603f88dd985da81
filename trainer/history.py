"""Users' most recent clicks, as of impression time."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.state import State
from trainer.generations import AHEAD, Generations, claim, fetch_index, fetch_row, find
from trainer.timeline import Timeline

I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]

_FIELDS = 3  # words of a row before its clicks: user, impressions, clicks


@njit(cache=True, nogil=True)
def _observe(
    index: Any, rows: Any, sizes: Any,  # the table, changed
    at: Any, show: Any, click: Any, carried: int,  # the timeline
    show_user: Any, click_user: Any, click_item: Any,
    length: int, recent: Any, last: Any, activity: Any,  # written
) -> None:  # fmt: skip  # by topic
    ring = rows.shape[2] - _FIELDS
    T = at.size
    read, shown, clicked = carried, 0, 0
    for t in range(T):
        while read < show.size and show[read] == t:
            user = show_user[read]
            if read + 2 * AHEAD < show.size:
                fetch_index(index, show_user[read + 2 * AHEAD])
                fetch_row(index, rows, sizes[0], show_user[read + AHEAD])
            i = read - carried
            read += 1
            g = sizes[0]
            row = np.int64(-1)
            if user != 0:
                row = find(index, rows, g, user)
                if row < 0:
                    g = 1 - g
                    row = find(index, rows, g, user)
            kept = 0
            if row >= 0:
                activity[i] = min(rows[g, row, 1], np.uint64(0x7FFFFFFF))
                clicks = np.int64(rows[g, row, 2])
                kept = min(clicks, ring)
                place = clicks % ring
                for j in range(min(kept, length)):
                    place = place - 1 if place > 0 else ring - 1
                    recent[i, j] = rows[g, row, _FIELDS + place]
                if kept > 0:
                    last[i] = rows[g, row, _FIELDS + (clicks - 1) % ring]
            else:
                activity[i] = 0
            for j in range(min(kept, length), length):
                recent[i, j] = 0
            if kept == 0:
                last[i] = 0
        if t == T - 1:
            break
        while shown < show.size and show[shown] == t:
            if show_user[shown] != 0:
                row = claim(index, rows, sizes, show_user[shown])
                rows[sizes[0], row, 1] += np.uint64(1)
            shown += 1
        while clicked < click.size and click[clicked] == t:
            if click_user[clicked] != 0 and click_item[clicked] != 0:
                row = claim(index, rows, sizes, click_user[clicked])
                g = sizes[0]
                place = np.int64(rows[g, row, 2]) % ring
                rows[g, row, _FIELDS + place] = click_item[clicked]
                rows[g, row, 2] += np.uint64(1)
            clicked += 1


class ClickHistory:
    """For every user the most recent clicked items, and the number of impressions.

    Memory: that of `Generations`, 2 × ``max_users`` rows of 3 + ``length`` words.
    """

    def __init__(self, length: int, *, max_users: int) -> None:
        self._length = length
        # one is kept in any case: the last click is a part of keys
        self._table = Generations(limit=max_users, width=_FIELDS + max(length, 1))

    def observe(
        self, timeline: Timeline, show_user: U64, click_user: U64, click_item: U64, recent: U64
    ) -> tuple[U64, I32]:
        """Write each impression's history into ``recent`` (m, L' ≥ L), then count shows and clicks.

        ``show_user`` is (S,), ``click_user`` and ``click_item`` (C,), of the timeline. The first L
        columns are filled, most recent first, 0 where there are fewer. Returns the last click (m,),
        0 where there is none, and the number of the user's earlier impressions (m,).
        """
        m = show_user.size - timeline.carried
        last = np.empty(m, np.uint64)
        activity = np.empty(m, np.int32)
        table = self._table
        table.reserve(show_user.size + click_user.size)
        _observe(
            table.index, table.rows, table.sizes,
            timeline.at, timeline.show, timeline.click, timeline.carried,
            show_user, click_user, click_item,
            self._length, recent, last, activity,
        )  # fmt: skip
        return last, activity

    def __len__(self) -> int:
        return len(self._table)

    def state(self) -> State:
        """Return a copy of all users' clicks."""
        return self._table.state()

    def restore(self, state: State) -> None:
        """Continue as the one that gave ``state``."""
        self._table.restore(state)
