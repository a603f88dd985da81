"""Exactly once, of what may be written twice: which examples of a partition are new.

Workers write again what they may not have written (docs/decisions/0011). An example is known by the
place of its impression, its origin; up to a place that the workers tell, every origin has been
written.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.examples import Progress
from stream.position import Offset
from stream.state import State
from stream.table import FREE, find, grown, new_table, put

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


class Delivered:
    """The examples of one partition that have been let through.

    Memory: at most 150 bytes for each example above what has settled, twice for a moment: those
    that came out of order in the workers, and those of a step of their marks.
    """

    def __init__(self) -> None:
        self._inputs: list[_Input] = []

    def fresh(
        self, origin_partition: npt.NDArray[np.int16], origin_offset: I64, origin_row: I32
    ) -> npt.NDArray[np.bool_]:
        """Return which examples (n,) are let through: each origin the first time."""
        fresh = np.zeros(origin_offset.size, np.bool_)
        for index in np.unique(origin_partition).tolist():
            here = np.flatnonzero(origin_partition == index)
            fresh[here] = self._input(index).fresh(origin_offset[here], origin_row[here])
        return fresh

    def advance(self, progress: Progress) -> None:
        """Take note of what the record says that the last examples came in."""
        for index, (_, settled) in enumerate(sorted(progress.settled.items())):
            self._input(index).advance(settled)

    def state(self) -> State:
        """Return, by input, up to where all is known, and what is beyond."""
        return {str(index): one.state() for index, one in enumerate(self._inputs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self._inputs = []
        for index in range(len(state)):
            self._input(index).restore(state[str(index)])

    def _input(self, index: int) -> "_Input":
        while len(self._inputs) <= index:
            self._inputs.append(_Input())
        return self._inputs[index]


class _Input:
    """Those whose impressions came in one input partition."""

    def __init__(self) -> None:
        self._settled = Offset(0)  # all before it has been let through, or never will be
        self._offset = np.zeros(0, np.int64)  # let through; some have settled since
        self._row = np.zeros(0, np.int32)
        self._size = 0
        self._table = new_table(16)  # a mix of offset and row → its place in these

    def fresh(self, offset: I64, row: I32) -> npt.NDArray[np.bool_]:
        if self._size + offset.size > self._offset.size:
            self._make_room(offset.size)
        fresh = np.zeros(offset.size, np.bool_)
        self._size = _let_through(
            offset, row, *self._settled, self._table, self._offset, self._row, self._size, fresh
        )
        return fresh

    def advance(self, settled: Offset) -> None:
        self._settled = max(self._settled, settled)

    def state(self) -> State:
        offset, row = self._known()
        message, at = self._settled
        return {"settled": message, "settled_row": at, "offset": offset, "row": row}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._settled = Offset(int(state["settled"]), int(state["settled_row"]))
        self.fresh(np.array(state["offset"], np.int64), np.array(state["row"], np.int32))

    def _known(self) -> tuple[I64, I32]:
        """Return what was let through and has not settled, in the order of the input."""
        offset, row = self._offset[: self._size], self._row[: self._size]
        message, at = self._settled
        kept = np.flatnonzero((offset > message) | ((offset == message) & (row >= at)))
        kept = kept[np.lexsort((row[kept], offset[kept]))]
        return offset[kept], row[kept]

    def _make_room(self, more: int) -> None:
        """Leave out what has settled, then double: each is copied a bounded number of times."""
        offset, row = self._known()
        room = 2 * (offset.size + more)
        self._offset, self._row = np.zeros(room, np.int64), np.zeros(room, np.int32)
        self._table, self._size = grown(new_table(16), room), 0
        self.fresh(offset, row)


@njit(cache=True, nogil=True)
def _let_through(
    offset: I64,
    row: I32,
    settled: int,
    settled_row: int,
    table: I64,
    known_offset: I64,
    known_row: I32,
    size: int,
    fresh: npt.NDArray[np.bool_],
) -> int:
    for i in range(offset.size):
        if offset[i] < settled or (offset[i] == settled and row[i] < settled_row):
            continue
        key = (offset[i] << 24) ^ row[i]
        k = find(table, key)
        while k != FREE and (known_offset[k] != offset[i] or known_row[k] != row[i]):
            key += 1  # of another: a message had 2^24 lines
            k = find(table, key)
        if k == FREE:
            put(table, key, size)
            known_offset[size] = offset[i]
            known_row[size] = row[i]
            size += 1
            fresh[i] = True
    return size
