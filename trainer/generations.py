"""A bounded table of rows by 64-bit key, as compiled functions: two generations, no pauses.

New keys go to the young generation. When it is full, the old one is dropped and the young one
becomes the old; a key of the old generation that is updated moves to the young. So what has been
updated within the last `limit` different keys is always kept, at most 2 × `limit` rows exist, and
which ones depends on the sequence of updates only.

A row is `width` words of 64 bits, the first of which is its key (never 0). `rows` is (2, capacity,
width); `index` (2, slots) holds the upper half of the key and row + 1, 0 where empty; `sizes` is
[which generation is young, rows of generation 0, rows of generation 1].
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.prefetch import prefetch
from stream.state import State

AHEAD: Final = 12  # look-ups whose rows are on their way from memory: some hundred nanoseconds

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_UPPER = np.uint64(0xFFFFFFFF00000000)
_LOWER = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)


@njit(cache=True, nogil=True)
def fetch_index(index: Any, key: Any) -> None:
    """Have the place of ``key`` in the index brought to the cache, for `fetch_row` later on."""
    slot = np.int64(key & np.uint64(index.shape[1] - 1))
    prefetch(index, 0, slot)
    prefetch(index, 1, slot)


@njit(cache=True, nogil=True)
def fetch_row(index: Any, rows: Any, generation: int, key: Any) -> None:
    """Have the row of ``key``, if it is young, brought to the cache, for `find` later on."""
    slot = key & np.uint64(index.shape[1] - 1)
    held = index[generation, slot]
    if held & _UPPER == key & _UPPER and held != 0:  # the first place is right most of the time
        prefetch(rows, generation, np.int64(held & _LOWER) - 1)


@njit(cache=True, nogil=True)
def find(index: Any, rows: Any, generation: int, key: Any) -> int:
    """Return the row of ``key`` in a generation, or -1."""
    mask = np.uint64(index.shape[1] - 1)
    upper = key & _UPPER
    slot = key & mask
    while True:
        held = index[generation, slot]
        if held == 0:
            return -1
        if held & _UPPER == upper:
            row = np.int64(held & _LOWER) - 1
            if rows[generation, row, 0] == key:
                return int(row)
        slot = (slot + _ONE) & mask


@njit(cache=True, nogil=True)
def insert(index: Any, generation: int, key: Any, row: int) -> None:
    """Note that ``key``, which the generation does not have, is at ``row``."""
    mask = np.uint64(index.shape[1] - 1)
    slot = key & mask
    while index[generation, slot] != 0:
        slot = (slot + _ONE) & mask
    index[generation, slot] = (key & _UPPER) | np.uint64(row + 1)


@njit(cache=True, nogil=True)
def claim(index: Any, rows: Any, sizes: Any, key: Any) -> int:
    """Return the row of ``key`` in the young generation: found, moved from the old one, or blank.

    Where the young generation is full, the generations change places first (`sizes[0]`).
    """
    young = sizes[0]
    row: int = find(index, rows, young, key)
    if row >= 0:
        return row
    moved = find(index, rows, 1 - young, key)
    source = 1 - young
    if sizes[1 + young] == rows.shape[1]:
        young = 1 - young
        sizes[0] = young
        sizes[1 + young] = 0
        index[young] = 0
    row = sizes[1 + young]
    sizes[1 + young] = row + 1
    if moved >= 0:
        rows[young, row] = rows[source, moved]
    else:
        rows[young, row] = 0
        rows[young, row, 0] = key
    insert(index, young, key, row)
    return row


@njit(cache=True, nogil=True)
def _index_all(index: Any, rows: Any, generation: int, size: int) -> None:
    for row in range(size):
        insert(index, generation, rows[generation, row, 0], row)


@dataclass(kw_only=True)
class Generations:
    """The arrays of one such table, which grow by doubling up to ``limit`` rows a generation.

    Memory at the bound: 2 × limit × (8 × width + 16 to 32) bytes.
    """

    limit: int
    width: int
    rows: U64 = field(init=False)
    index: U64 = field(init=False)
    sizes: I64 = field(init=False)

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"a table of {self.limit} rows holds nothing: give it at least 1")
        self._allocate(min(self.limit, 1024))

    def __len__(self) -> int:
        """Rows in both generations; a key moved to the young one is counted in both."""
        return int(self.sizes[1] + self.sizes[2])

    def reserve(self, more: int) -> None:
        """Make room for ``more`` updates, as far as the bound allows; call before `claim`."""
        young = int(self.sizes[0])
        need = min(int(self.sizes[1 + young]) + more, self.limit)
        capacity = self.rows.shape[1]
        if need > capacity:
            while capacity < need:
                capacity *= 2
            self._resize(min(capacity, self.limit))

    def state(self) -> State:
        """Return the rows of both generations, in order of arrival."""
        return {
            "young": int(self.sizes[0]),
            "rows_0": self.rows[0, : self.sizes[1]].copy(),
            "rows_1": self.rows[1, : self.sizes[2]].copy(),
        }

    def restore(self, state: State) -> None:
        """Continue as the table that gave ``state``; where keys lie in the index may differ."""
        kept = (state["rows_0"], state["rows_1"])
        most = max(len(kept[0]), len(kept[1]), min(self.limit, 1024))
        if most > self.limit or kept[0].shape[1] != self.width or kept[1].shape[1] != self.width:
            raise ValueError(
                f"a state of {most} rows × {kept[0].shape[1]} does not fit a table of "
                f"{self.limit} × {self.width}: resume with the configuration it was made with"
            )
        self._allocate(most)
        self.sizes[0] = state["young"]
        for generation, rows in enumerate(kept):
            self.sizes[1 + generation] = len(rows)
            self.rows[generation, : len(rows)] = rows
            _index_all(self.index, self.rows, generation, len(rows))

    def _allocate(self, capacity: int) -> None:
        self.rows = np.zeros((2, capacity, self.width), np.uint64)
        self.index = np.zeros((2, 1 << (2 * capacity - 1).bit_length()), np.uint64)
        self.sizes = np.zeros(3, np.int64)

    def _resize(self, capacity: int) -> None:
        rows, sizes = self.rows, self.sizes
        self._allocate(capacity)
        self.sizes = sizes
        for generation in (0, 1):
            size = int(sizes[1 + generation])
            self.rows[generation, :size] = rows[generation, :size]
            _index_all(self.index, self.rows, generation, size)
