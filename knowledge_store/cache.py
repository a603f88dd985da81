"""The vectors that are asked for most, in memory, by compiled look-ups."""

import mmap
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from knowledge_store import cachekernel as kernel
from knowledge_store.kinds import Kind
from stream.table import capacity_for

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Fetch = Callable[[U64], tuple[Array, Bools]]  # ids (m,), rising → vectors (m, W), present (m,)

CACHE_BYTES: Final = 512 << 20  # for all kinds: 3.5 million vectors of 64 float16
_WAYS_A_ROW: Final = 1.25  # sets fill unevenly, and absent ids take ways without rows
_WAYS: Final = 8192  # besides, where memory is left: small tables are asked for absent ids too
_LARGE: Final = 4 << 20  # bytes from which large pages pay
_FIRST_SETS: Final = 1024  # 128 KB, in the processor's own cache; doubled as they fill
_WAY_BYTES: Final = kernel.SET_BYTES // kernel.WAYS


class HotCache:
    """A bounded cache of one kind's vectors, and of which ids have none.

    Memory: at most ``max_bytes``, taken as it fills, and while its sets are doubled a twentieth
    more; no cache where it is 0. One thread at a time.
    """

    def __init__(self, kind: Kind, max_bytes: int = CACHE_BYTES, most: int | None = None) -> None:
        """Make room for what ``max_bytes`` allow, or for ``most`` vectors, if these take less."""
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}. Set it to 0 (no cache) or more.")
        self.kind = kind
        self.asked = 0  # look-ups
        self.missed = 0  # distinct ids that were fetched
        a_row = kind.bytes + 4  # and its place among the spare ones
        limit = int(max_bytes / (a_row + _WAYS_A_ROW * _WAY_BYTES))
        limit = limit if most is None else min(limit, most)
        ways = min(limit * _WAYS_A_ROW + _WAYS, (max_bytes - limit * a_row) / _WAY_BYTES)
        sets = int(ways / kernel.WAYS)
        self._limit = limit if sets else 0
        self._keeps = sets > 0
        self._doublings = max(0, (sets // _FIRST_SETS).bit_length() - 1)
        self._set_up(max(sets >> self._doublings, 1))
        self._vectors = _pages((self._limit, kind.bytes // 2), np.uint16)
        self._spare = np.empty(self._limit, np.int32)
        self._counts = np.zeros(kernel.COUNTS, np.int64)

    def _set_up(self, sets: int) -> None:
        table = _pages((sets, kernel.SET_BYTES // 8), np.uint64)
        self._keys, self._rows, self._ranks = table, table.view(np.int32), table.view(np.uint8)

    def _reserve(self, more: int) -> None:
        """Double the sets, as far as the bound allows, until half of their ways hold all ids."""
        used = int(self._counts[kernel.USED]) + more
        while self._doublings and 2 * used > kernel.WAYS * len(self._keys):
            before = self._keys, self._rows, self._ranks
            self._doublings -= 1
            self._set_up(2 * len(self._keys))
            kernel.split(*before, self._keys, self._rows, self._ranks)

    def __len__(self) -> int:
        """Vectors that it holds."""
        return int(self._counts[kernel.NEXT] - self._counts[kernel.SPARE])

    def get(self, ids: U64, fetch: Fetch) -> tuple[Array, Bools]:
        """Return the vectors (n, W) of ``ids`` (n,), and which are present (n,); absent are zeros.

        ``fetch`` is given the ids that are not known: at once, each once, in their order; never 0.
        """
        ids = np.ascontiguousarray(ids, np.uint64)
        n = ids.size
        self.asked += n
        values = np.empty((n, self.kind.bytes // 2), np.uint16)
        present = np.empty(n, np.bool_)
        missed_at = np.empty(n, np.int64)
        missed = np.empty(n, np.uint64)
        seen = np.full(capacity_for(2 * n), -1, np.int32)
        count = kernel.look_up(
            self._keys, self._rows, self._ranks, self._vectors, ids,
            values, present, missed_at, missed, seen,
        )  # fmt: skip  # by topic
        if count:
            self.missed += count
            order = np.argsort(missed[:count])  # RocksDB is a tenth faster in the order of keys
            place = np.empty(count, np.int64)
            place[order] = np.arange(count)
            missed = missed[order]
            found, there = fetch(missed)
            words = np.ascontiguousarray(found, self.kind.numpy).view(np.uint16)
            kernel.fill(missed_at, place, words, there, values, present)
            if self._keeps:
                self._reserve(count)
                kernel.keep(
                    self._keys, self._rows, self._ranks, self._vectors, self._spare, self._counts,
                    missed, words, there,
                )  # fmt: skip
        return values.view(self.kind.numpy), present


def _pages(shape: tuple[int, int], dtype: type[np.generic]) -> Array:
    """Return zeros in large pages, where the system has them: look-ups go all over the array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)
