"""Area under the ROC curve: exact within a group of rows, by histogram over a stream.

AUC is the share of (clicked, not clicked) pairs in which the clicked one scores higher; ties count
half (Hanley & McNeil, Radiology 1982). Everything here counts pairs twice (a win 2, a tie 1), so
that the counts are integers and the order of the rows makes no difference to the last bit.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

LOGIT_LIMIT: Final = (
    16.0  # scores beyond ± this share the outermost bins: p < 1.2e-7 or > 1 − 1.2e-7
)
_PAIRWISE: Final = 48  # up to this many rows comparing all pairs is faster than sorting

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


@njit(cache=True, nogil=True)
def logit_bin(logit: float, bins: int) -> int:
    """Return the bin of ``logit`` among ``bins`` equal ones over ± LOGIT_LIMIT."""
    place = int((logit + LOGIT_LIMIT) * (bins / (2.0 * LOGIT_LIMIT)))
    return min(max(place, 0), bins - 1)


@njit(cache=True, nogil=True)
def histogram_pairs(hist: I64) -> tuple[float, float, float]:
    """Count the pairs of a histogram (2, bins): row 0 not clicked, row 1 clicked.

    Returns:
        Twice the pairs won (ties half), the pairs, and the pairs that share a bin. The exact AUC is
        at most ``shared / pairs / 2`` away, and typically a hundredth of that.

    """
    below, won, shared, clicked = 0, 0.0, 0.0, 0
    for b in range(hist.shape[1]):
        negative, positive = hist[0, b], hist[1, b]
        if negative or positive:
            won += float(positive) * float(2 * below + negative)
            shared += float(positive) * float(negative)
            below += negative
            clicked += positive
    return won, float(clicked) * float(below), shared


@njit(cache=True, nogil=True)
def ascending(keys: npt.NDArray[np.generic], order: I64) -> None:
    """Sort the indices ``order`` in place by their keys, none of them NaN (heap sort).

    NumPy's sorts give the same, but take seconds to compile, and longer than this for few rows.
    """
    n = order.size
    for step in range(n // 2 + n - 1 if n > 1 else 0):
        if step < n // 2:
            root, end = n // 2 - 1 - step, n  # first make it a heap,
        else:
            root, end = 0, n - 1 - (step - n // 2)  # then take its greatest, one by one
            order[0], order[end] = order[end], order[0]
        while True:
            child = 2 * root + 1
            if child >= end:
                break
            if child + 1 < end and keys[order[child]] < keys[order[child + 1]]:
                child += 1
            if keys[order[root]] >= keys[order[child]]:
                break
            order[root], order[child] = order[child], order[root]
            root = child


@njit("UniTuple(int64, 2)(float32[::1], uint8[::1], int64)", cache=True, nogil=True)
def group_pairs(p: F32, label: U8, n: int) -> tuple[int, int]:
    """Return twice the pairs won and the pairs among the first ``n`` rows; NaN is absent."""
    if n <= _PAIRWISE:
        won, pairs = 0, 0
        for i in range(n):
            if label[i] == 0 or np.isnan(p[i]):
                continue
            for j in range(n):
                if label[j] == 0 and not np.isnan(p[j]):
                    pairs += 1
                    if p[i] > p[j]:
                        won += 2
                    elif p[i] == p[j]:
                        won += 1
        return won, pairs
    present = 0
    order = np.empty(n, np.int64)
    for i in range(n):
        if not np.isnan(p[i]):
            order[present] = i
            present += 1
    order = order[:present]
    ascending(p, order)
    below, clicked, won, i = 0, 0, 0, 0
    while i < present:
        j, positive = i, 0
        while j < present and p[order[j]] == p[order[i]]:
            positive += label[order[j]]
            j += 1
        negative = j - i - positive
        won += positive * (2 * below + negative)
        below += negative
        clicked += positive
        i = j
    return won, clicked * below


def auc(p: npt.ArrayLike, label: npt.ArrayLike) -> float | None:
    """Return the exact AUC of scores (n,) and labels 0/1 (n,); None where one class is missing.

    >>> auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    0.875
    """
    scores, labels = np.ascontiguousarray(p, np.float32), np.ascontiguousarray(label, np.uint8)
    won, pairs = group_pairs(scores, labels, scores.size)
    return won / (2 * pairs) if pairs else None
