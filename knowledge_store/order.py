"""The order of ids by key, found as plain numbers are sorted: faster than an order of places."""

from typing import Final

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_FEW: Final = 1_000  # one in so many may be out of order to be put right one by one


def rising(ids: U64) -> tuple[I64, U64]:
    """Return the order (n,) in which ``ids`` (n,) rise, and the ids (n,) in it.

    Each id's place takes the room of its last bits while they are sorted, some log2 n; the few ids
    that only these tell apart, for they are hashes, are put right afterwards.

    Memory: 25 bytes an id, 16 of them returned.

    >>> rising(np.array([30, 10, 20], np.uint64))[0]
    array([1, 2, 0])
    """
    bits = np.uint64(max(ids.size - 1, 1).bit_length())
    placed = ids >> bits << bits
    placed |= np.arange(ids.size, dtype=np.uint64)
    placed.sort()
    placed &= (np.uint64(1) << bits) - np.uint64(1)
    order: I64 = placed.view(np.int64)
    found = ids[order]
    turns = np.flatnonzero(found[1:] < found[:-1])
    if turns.size > ids.size // _FEW:
        order = np.argsort(ids)
        return order, ids[order]
    begins, done = found >> bits if turns.size else found, 0
    for turn in turns.tolist():
        if turn < done:
            continue  # in the group that was sorted last
        low, done = (int(np.searchsorted(begins, begins[turn], s)) for s in ("left", "right"))
        inner = np.argsort(found[low:done])
        order[low:done] = order[low:done][inner]
        found[low:done] = found[low:done][inner]
    return order, found
