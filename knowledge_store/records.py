"""How a vector is stored: its bytes, and a check of them and of its id.

Plain tables have no checksums (docs/decisions/0013-the-knowledge-store.md), so every record brings
its own, 4 bytes at its end: multilinear hashing over 16-bit words (Lemire & Kaser, Computer
Journal 2014, "Strongly universal string hashing is fast"), which another value passes by a chance
of 2^-32.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from knowledge_store.kinds import Kind
from stream.ids import mix
from stream.prefetch import prefetch

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

CHECK: Final = 4  # bytes
_WORDS: Final = 2  # 16-bit words of a check
_AHEAD: Final = 16  # rows by which vectors are fetched ahead: they come in any order
NO_WORD: Final = 0xFFFF  # begins a record that is none: a NaN, which no vector holds


def record_bytes(kind: Kind) -> int:
    """Return the bytes of one record."""
    return kind.bytes + CHECK


def no_record(kind: Kind) -> bytes:
    """Return what stands for the record of an id that has none."""
    return b"\xff" * record_bytes(kind)


def multipliers(kind: Kind) -> U64:
    """Return the factors of the check: one for each word of a vector, and one to begin with."""
    words = kind.bytes // 2
    return np.array([int(mix(np.uint64(j))) | 1 for j in range(words + 1)], np.uint64)


def words_of(kind: Kind, vectors: npt.NDArray[Any]) -> U16:
    """Return ``vectors`` (n, W) as 16-bit words (n, words), in the kind's dtype."""
    with np.errstate(over="ignore"):  # infinite then, and told as that by `sealed`
        return np.ascontiguousarray(vectors, kind.numpy).view(np.uint16)


def sealed(kind: Kind, ids: U64, words: U16, rows: I64, factors: U64) -> tuple[U8, int]:
    """Return records (m, `record_bytes`) of ``ids`` (m,), and the first that is not finite.

    Their vectors are ``words[rows]`` (n, words), rows (m,). The first is m where all are finite.
    """
    out = np.empty((ids.size, kind.bytes // 2 + _WORDS), np.uint16)
    faulty = _seal(ids, words, rows, factors, kind.numpy.itemsize // 2, out)
    return out.view(np.uint8), int(faulty)


def unsealed(
    kind: Kind, ids: U64, records: bytes, factors: U64
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], int]:
    """Return the vectors (n, W) in ``records``, which are present (n,), and the first damaged row.

    That row is n where all are sound. Absent ones are zeros.
    """
    words = np.frombuffer(records, np.uint16).reshape(ids.size, kind.bytes // 2 + _WORDS)
    values = np.empty((ids.size, kind.bytes // 2), np.uint16)
    present = np.empty(ids.size, np.bool_)
    damaged = _unseal(np.ascontiguousarray(ids), words, factors, values, present)
    return values.view(kind.numpy), present, int(damaged)


@njit("uint32(uint64, uint16[::1], uint64[::1], int64)", cache=True, nogil=True, inline="always")
def _check(key: int, words: U16, factors: U64, n: int) -> np.uint32:
    total = mix(np.uint64(key)) * factors[n]
    for j in range(n):
        total += factors[j] * np.uint64(words[j])
    return np.uint32(total >> np.uint64(32))


@njit(
    "int64(uint64[::1], Array(uint16, 2, 'C', readonly=True), int64[::1], uint64[::1], int64,"
    " uint16[:, ::1])",
    cache=True, nogil=True,
)  # fmt: skip
def _seal(ids: U64, words: U16, rows: I64, factors: U64, words_each: int, out: U16) -> int:
    """Write the records; ``words_each``: 16-bit words of a number, the last of them the highest."""
    exponent = np.uint16(0x7C00 if words_each == 1 else 0x7F80)
    n = words.shape[1]
    faulty = ids.size
    for i in range(ids.size):
        if i + _AHEAD < ids.size:
            for j in range(0, n, 32):  # a cache line is 32 words
                prefetch(words, rows[i + _AHEAD], j)
        for j in range(n):
            out[i, j] = words[rows[i], j]
        largest = np.uint16(0)  # without a branch, so that it is compiled to vector code
        for j in range(words_each - 1, n, words_each):
            largest = max(largest, out[i, j] & exponent)
        if largest == exponent and i < faulty:
            faulty = i
        check = _check(ids[i], out[i], factors, n)
        out[i, n] = np.uint16(check & np.uint32(0xFFFF))
        out[i, n + 1] = np.uint16(check >> np.uint32(16))
    return faulty


@njit(
    "int64(uint64[::1], Array(uint16, 2, 'C', readonly=True), uint64[::1], uint16[:, ::1],"
    " boolean[::1])",
    cache=True, nogil=True,
)  # fmt: skip
def _unseal(ids: U64, words: U16, factors: U64, values: U16, present: npt.NDArray[np.bool_]) -> int:
    """Read the records; a damaged one counts as present."""
    n = values.shape[1]
    damaged = ids.size
    for i in range(ids.size):
        absent = n > 0 and words[i, 0] == NO_WORD and words[i, n - 1] == NO_WORD
        present[i] = not absent
        for j in range(n):
            values[i, j] = np.uint16(0) if absent else words[i, j]
        if not absent:
            check = _check(ids[i], values[i], factors, n)
            said = np.uint32(words[i, n]) | (np.uint32(words[i, n + 1]) << np.uint32(16))
            if check != said and i < damaged:
                damaged = i
    return damaged
