"""Exactly once, of what may be written twice: which examples of a partition are new.

Workers write again what they may not have written (docs/decisions/0011). An example is known by the
place of its impression, its origin; up to a place that the workers tell, every origin has been
written.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.examples import Progress
from stream.state import State
from stream.table import FREE, find, grown, new_table, put

I64 = npt.NDArray[np.int64]

_ROW_BITS: Final = 24  # a message of 20 MB has fewer lines
_NONE: Final = np.zeros(0, np.int64)


class Delivered:
    """The examples of one partition that have been let through.

    Memory: 40 bytes, twice for a moment, for each example above what has settled: those that
    wait for their label in the workers, and those of a step of their marks.
    """

    def __init__(self) -> None:
        self._inputs: list[_Input] = []

    def fresh(
        self,
        origin_partition: npt.NDArray[np.int16],
        origin_offset: I64,
        origin_row: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.bool_]:
        """Return which examples (n,) are let through: each origin the first time."""
        keys = origin_offset << _ROW_BITS | origin_row
        fresh = np.zeros(keys.size, np.bool_)
        for index in np.unique(origin_partition).tolist():
            here = np.flatnonzero(origin_partition == index)
            fresh[here] = self._input(index).fresh(keys[here])
        return fresh

    def advance(self, progress: Progress) -> None:
        """Take note of what the record says that the last examples came in."""
        for index, (_, offset) in enumerate(sorted(progress.settled.items())):
            self._input(index).advance(offset.message << _ROW_BITS | offset.row)

    def state(self) -> State:
        """Return, by input, up to where all is known, and what is beyond."""
        return {
            str(index): {"settled": one.settled, "known": one.known()}
            for index, one in enumerate(self._inputs)
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self._inputs = []
        for index in range(len(state)):
            one = self._input(index)
            one.settled = int(state[str(index)]["settled"])
            one.fresh(np.array(state[str(index)]["known"], np.int64))

    def _input(self, index: int) -> "_Input":
        while len(self._inputs) <= index:
            self._inputs.append(_Input())
        return self._inputs[index]


class _Input:
    """Those whose impressions came in one input partition."""

    def __init__(self) -> None:
        self.settled = 0  # every key below it has been let through, or never will be
        self._known = _NONE  # keys let through, and some that have settled since
        self._size = 0
        self._table = new_table(16)

    def fresh(self, keys: I64) -> npt.NDArray[np.bool_]:
        if self._size + keys.size > self._known.size:
            self._make_room(keys.size)
        fresh = np.zeros(keys.size, np.bool_)
        self._size = _let_through(keys, self.settled, self._table, self._known, self._size, fresh)
        return fresh

    def advance(self, settled: int) -> None:
        self.settled = max(self.settled, settled)

    def known(self) -> I64:
        known = self._known[: self._size]
        return np.sort(known[known >= self.settled])

    def _make_room(self, more: int) -> None:
        """Leave out what has settled, then double: each key is copied a bounded number of times."""
        left = self.known()
        self._known = np.zeros(2 * (left.size + more), np.int64)
        self._table = grown(new_table(16), self._known.size)
        self._size = _let_through(
            left, 0, self._table, self._known, 0, np.zeros(left.size, np.bool_)
        )


@njit(cache=True, nogil=True)
def _let_through(
    keys: I64, settled: int, table: I64, known: I64, size: int, fresh: npt.NDArray[np.bool_]
) -> int:
    for i in range(keys.size):
        if keys[i] >= settled and find(table, keys[i]) == FREE:
            put(table, keys[i], size)
            known[size] = keys[i]
            size += 1
            fresh[i] = True
    return size
