"""Several ids as one: the keys of statistics, and crosses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.ids import mix, salt

U64 = npt.NDArray[np.uint64]


@njit(cache=True, nogil=True)
def _fold(folded: Any, part: Any) -> None:
    for i in range(folded.size):
        if part[i] == 0:
            folded[i] = 0
        elif folded[i] != 0:
            mixed = mix(folded[i] ^ part[i])
            folded[i] = mixed if mixed != 0 else np.uint64(1)


def combined(parts: Sequence[U64], name: str) -> U64:
    """Return one id (n,) for the ``parts``, each (n,); 0 where any part is absent (0).

    The salt ``name`` and the order of the parts are part of the id.
    """
    folded = np.full(parts[0].size, salt(name) or 1, np.uint64)
    for part in parts:
        _fold(folded, part)
    return folded
