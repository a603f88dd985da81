"""Features relative to the request they were shown in."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit


@njit(cache=True, nogil=True)
def _relative(numbers: Any, group: Any, groups: int) -> Any:
    mean = np.zeros((groups, numbers.shape[1]))
    size = np.zeros(groups, np.int64)
    for i in range(group.size):
        size[group[i]] += 1
        for d in range(numbers.shape[1]):
            mean[group[i], d] += numbers[i, d]
    for g in range(groups):
        for d in range(numbers.shape[1]):
            mean[g, d] /= size[g]
    out = np.empty(numbers.shape, np.float32)
    for i in range(group.size):
        for d in range(numbers.shape[1]):
            out[i, d] = numbers[i, d] - mean[group[i], d]
    return out


def relative_to_request(
    numbers: npt.NDArray[np.float32], request: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float32]:
    """Return ``numbers`` (B, D) less their mean over the rows of the same ``request`` (B,).

    It tells how an item stands among those shown with it. Requests must be whole in the batch; and
    a server needs the whole slate before it can score.

    >>> relative_to_request(np.float32([[1], [3], [5]]), np.uint64([7, 7, 8])).ravel().tolist()
    [-1.0, 1.0, 0.0]
    """
    known, group = np.unique(request, return_inverse=True)
    relative = _relative(np.ascontiguousarray(numbers, np.float32), group, known.size)
    return np.asarray(relative)
