"""A digest of examples: equal for equal examples in equal order, however they were cut."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.ids import mix, salt
from stream.state import State

U64 = npt.NDArray[np.uint64]

_MULTIPLIERS: Final = (0xD1342543DE82EF95, 0xAF251AF3B0F025B5)  # full-period LCG multipliers:
# Steele & Vigna, "Computationally easy, spectrally good multipliers", 2021, table 6


class OtherColumns(ValueError):
    """An update with columns other than the first one's."""

    def __init__(self, columns: list[str], first: list[str]) -> None:
        super().__init__(
            f"The columns {columns} are not those of the first update, {first}. "
            "A digest is of one kind of examples: use a second one for the others."
        )


class ExamplesDigest:
    """Two polynomials over the examples' 64-bit hashes, and two sums that no order changes.

    Bits count: 0.0 differs from -0.0, and the same number as float32 or int64 is not the same.
    It guards against error, not malice. State: 32 bytes and a count.
    """

    def __init__(self) -> None:
        self.count = 0
        self._folds = np.zeros(4, np.uint64)  # two ordered, two not
        self._columns: list[str] = []

    def update(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take the next examples: columns (n,) or (n, width) of numbers."""
        described = [f"{k}:{columns[k].dtype.str}:{columns[k].shape[1:]}" for k in sorted(columns)]
        if self._columns and described != self._columns:
            raise OtherColumns(described, self._columns)
        self._columns = described
        hashes = example_hashes(columns)
        _fold(hashes, self._folds)
        self.count += hashes.size

    def hexdigest(self) -> str:
        """Return 32 hexadecimal digits for the examples in their order."""
        return self._digits(self._folds[:2])

    def set_hexdigest(self) -> str:
        """Return 32 hexadecimal digits for the examples in any order."""
        return self._digits(self._folds[2:])

    def _digits(self, folds: U64) -> str:
        return "".join(f"{mix(np.uint64(f) ^ np.uint64(self.count)):016x}" for f in folds)

    def state(self) -> State:
        """Return a copy of the digest so far."""
        return {"count": self.count, "folds": self._folds.copy(), "columns": [*self._columns]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self.count = int(state["count"])
        self._folds = np.array(state["folds"], np.uint64)
        self._columns = [*state["columns"]]


def example_hashes(columns: Mapping[str, npt.NDArray[Any]]) -> U64:
    """Return a 64-bit hash of every example (n,), of its columns in the order of their names."""
    sizes = {len(column) for column in columns.values()}
    assert len(sizes) <= 1, "columns of examples are equally long"
    hashes = np.zeros(sizes.pop() if sizes else 0, np.uint64)
    for name in sorted(columns):
        column = columns[name]
        width = math.prod(column.shape[1:])
        bits = _bits(column).reshape(len(column), width)
        _absorb(bits, np.uint64(salt(name)), hashes)
    return hashes


def _bits(column: npt.NDArray[Any]) -> U64:
    """Return the bits of each number as a uint64."""
    unsigned = np.dtype(f"u{column.dtype.itemsize}")
    return np.ascontiguousarray(column).view(unsigned).astype(np.uint64)


@njit("void(uint64[:, ::1], uint64, uint64[::1])", cache=True, nogil=True)
def _absorb(values: U64, key: np.uint64, hashes: U64) -> None:
    for i in range(hashes.size):
        h = hashes[i] ^ key
        for k in range(values.shape[1]):
            h = mix(h ^ mix(values[i, k]))
        hashes[i] = h


@njit("void(uint64[::1], uint64[::1])", cache=True, nogil=True)
def _fold(hashes: U64, folds: U64) -> None:
    for h in hashes:
        folds[0] = folds[0] * np.uint64(_MULTIPLIERS[0]) + h
        folds[1] = folds[1] * np.uint64(_MULTIPLIERS[1]) + mix(h)
        folds[2] += h
        folds[3] += mix(h)
