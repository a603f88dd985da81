"""The items and users of a stream: how often and when last they were seen, and their own fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.state import State
from trainer.generations import Generations, claim

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_FIELDS: Final = 3  # words of a row before its fields: id, impressions, last seen (ms)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenEntities:
    """n entities, by ascending id."""

    ids: U64  # (n,)
    seen: I64  # (n,) impressions
    last_ms: I64  # (n,) event time of the last one
    fields: U64  # (n, F), as events hold them; 0 where never given

    def __len__(self) -> int:
        return self.ids.size

    def take(self, index: npt.NDArray[Any]) -> "SeenEntities":
        """Return those at ``index`` (positions or a mask)."""
        return SeenEntities(
            ids=self.ids[index],
            seen=self.seen[index],
            last_ms=self.last_ms[index],
            fields=self.fields[index],
        )


@njit(cache=True, nogil=True)
def _observe(
    index: Any, rows: Any, sizes: Any, ids: Any, at: Any, fields: Any, columns: Any
) -> None:
    for i in range(ids.size):
        if ids[i] == 0:
            continue
        row = claim(index, rows, sizes, ids[i])
        g = sizes[0]
        rows[g, row, 1] += np.uint64(1)
        rows[g, row, 2] = np.uint64(max(at[i], 0))
        for f in range(columns.size):
            value = fields[i, columns[f]]
            if value != 0:  # an event that leaves it out does not take it away
                rows[g, row, _FIELDS + f] = value


class Seen:
    """All entities of one side. Memory: that of `Generations`, 2 × ``most`` rows of 3 + F words."""

    def __init__(self, columns: Sequence[int], *, most: int) -> None:
        """Keep the columns of `EventColumns.ids` that belong to the entity."""
        self._columns = np.array(columns, np.int64)
        self._table = Generations(limit=most, width=_FIELDS + len(self._columns))

    def observe(self, ids: U64, at: I64, fields: U64) -> None:
        """Count impressions of ``ids`` (n,) at ``at`` (n,), whose events have ``fields`` (n, ·)."""
        table = self._table
        table.reserve(ids.size)
        _observe(table.index, table.rows, table.sizes, ids, at, fields, self._columns)

    def state(self) -> State:
        """Return a copy of all rows."""
        return self._table.state()

    def restore(self, state: State) -> None:
        """Continue as the one that gave ``state``."""
        self._table.restore(state)


class Entities:
    """The items and the users of accepted impressions: whom an extractor takes vectors of."""

    def __init__(
        self,
        *,
        item_columns: Sequence[int],
        user_columns: Sequence[int],
        max_items: int,
        max_users: int,
    ) -> None:
        self._items = Seen(item_columns, most=max_items)
        self._users = Seen(user_columns, most=max_users)

    def observe(self, items: U64, users: U64, at: I64, fields: U64) -> None:
        """Count n impressions; ``fields`` (n, ·) are all ids of their events."""
        self._items.observe(items, at, fields)
        self._users.observe(users, at, fields)

    def state(self) -> State:
        """Return a copy of everything."""
        return {"items": self._items.state(), "users": self._users.state()}

    def restore(self, state: State) -> None:
        """Continue as the one that gave ``state``."""
        self._items.restore(state["items"])
        self._users.restore(state["users"])


def seen_entities(state: State) -> SeenEntities:
    """Return what one side of an `Entities.state` holds.

    A row of the old generation that was moved to the young one is behind: the young one counts.
    """
    young, old = int(state["young"]), 1 - int(state["young"])
    rows = np.concatenate([state[f"rows_{young}"], state[f"rows_{old}"]])
    ids, first = np.unique(rows[:, 0], return_index=True)  # the first of each id: the young one's
    rows = rows[first]
    return SeenEntities(
        ids=ids.astype(np.uint64),
        seen=rows[:, 1].astype(np.int64),
        last_ms=rows[:, 2].astype(np.int64),
        fields=rows[:, _FIELDS:],
    )
