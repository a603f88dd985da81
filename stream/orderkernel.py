"""The compiled loop of `stream.order`: the place of every event, by its partition's clock."""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

NEVER: Final = -(1 << 62)  # the clock of a partition that has brought nothing
REFUSED, ACCEPTED, IN_DOUBT = 0, 1, 2  # verdicts


@njit(cache=True, nogil=True)
def place_events(
    partition: npt.NDArray[np.int16],
    ts: npt.NDArray[np.int64],
    gone: npt.NDArray[np.bool_],  # had their turn while in doubt: they move clocks only
    clocks: npt.NDArray[np.int64],  # (partitions,), moved on in place
    ended: npt.NDArray[np.bool_],
    limits: npt.NDArray[np.int64],  # lateness, max jump, confirmations, watermark
    at: npt.NDArray[np.int64],  # out, `ts` before
    verdict: npt.NDArray[np.uint8],  # out, `ACCEPTED` throughout before
) -> tuple[int, int, int]:
    """Place every event by its partition's clock; count late, after idle, in doubt."""
    lateness, max_jump, confirmations, watermark = limits[0], limits[1], limits[2], limits[3]
    run = np.zeros((clocks.size, confirmations), np.int64)  # first events, or a run of jumps
    length = np.zeros(clocks.size, np.int64)
    decided = np.zeros(confirmations, np.int64)  # the events whose turn it is, one or the first
    late = after_idle = 0
    for i in range(ts.size + clocks.size):  # every event, then the end of every partition
        n, start = 1, NEVER
        if i < ts.size:
            p = int(partition[i])
            decided[0] = i
            if clocks[p] == NEVER:
                run[p, length[p]] = i
                length[p] += 1
                verdict[i] = IN_DOUBT
                start = _agreed(ts, run[p], length[p], max_jump)
                if start == NEVER and length[p] < confirmations:
                    continue
        else:
            p = i - ts.size
            if clocks[p] != NEVER or not ended[p]:
                continue
        if clocks[p] == NEVER:  # the partition begins: its first events are judged together
            n = length[p]
            if start == NEVER:
                start = _commonest(ts, run[p], n)
            decided[:n] = run[p, :n]
            length[p] = 0
        for m in range(n):
            j = decided[m]
            if start != NEVER and ts[j] - start > max_jump:
                verdict[j] = REFUSED
                continue
            members = 1
            if clocks[p] != NEVER and ts[j] - clocks[p] > max_jump:
                if length[p] > 0 and abs(ts[j] - ts[run[p, 0]]) > max_jump:
                    for k in range(length[p]):  # it disagrees: a new run
                        verdict[run[p, k]] = REFUSED
                    length[p] = 0
                run[p, length[p]] = j
                length[p] += 1
                if length[p] < confirmations:
                    verdict[j] = IN_DOUBT
                    continue
                members = length[p]  # confirmed: a gap in the traffic, not a wrong clock
            else:
                for k in range(length[p]):
                    verdict[run[p, k]] = REFUSED
            for k in range(members):
                e = j if members == 1 else run[p, k]
                verdict[e] = ACCEPTED
                if not gone[e]:
                    place = ts[e]
                    if clocks[p] != NEVER and place < clocks[p] - lateness:
                        place = clocks[p] - lateness
                        late += 1
                    if place < watermark:
                        place = watermark
                        after_idle += 1
                    at[e] = place
                clocks[p] = max(clocks[p], ts[e])
            length[p] = 0

    doubted = 0
    for p in range(clocks.size):
        for k in range(length[p]):
            if ended[p]:
                verdict[run[p, k]] = REFUSED
        if not ended[p]:
            doubted += length[p]
    return late, after_idle, doubted


@njit(cache=True, nogil=True)
def _agreed(ts: npt.NDArray[np.int64], first: npt.NDArray[np.int64], n: int, max_jump: int) -> int:
    """Return the latest time that the last of ``n`` first events confirms, `NEVER` if none.

    Events of one time do not confirm each other: one request, of one clock, has many.
    """
    newest = ts[first[n - 1]]
    start = NEVER
    for k in range(n - 1):
        other = ts[first[k]]
        if other != newest and abs(other - newest) <= max_jump:
            start = max(start, newest, other)
    return start


@njit(cache=True, nogil=True)
def _commonest(ts: npt.NDArray[np.int64], first: npt.NDArray[np.int64], n: int) -> int:
    """Return the time that most of ``n`` first events have, the earliest of several."""
    start, most = NEVER, 0
    for k in range(n):
        same = 0
        for m in range(n):
            if ts[first[m]] == ts[first[k]]:
                same += 1
        if same > most or (same == most and ts[first[k]] < start):
            start, most = ts[first[k]], same
    return start
