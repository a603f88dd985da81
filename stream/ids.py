"""Ids as 64-bit numbers: one hash for strings and integers, and salted mixes of them.

An id is its text: ``7`` and ``"7"`` are the same id. 0 is reserved for "no id".
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit
from xxhash import xxh3_64_intdigest

U64 = npt.NDArray[np.uint64]

_DIGITS = 18  # decimal texts of up to 18 digits fit an int64: hashed as the integer they spell


@njit("uint64(uint64)", cache=True, nogil=True, inline="always")
def mix(x: int) -> int:
    """One round of splitmix64 (Steele et al., OOPSLA 2014), a bijection of 64 bits."""
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit("uint64[:](uint64[:], uint64)", cache=True, nogil=True)
def _mix_all(values: U64, salt: int) -> U64:
    out = np.empty_like(values)
    for i in range(values.size):
        mixed = mix(values[i] ^ salt)
        out[i] = mixed if mixed != 0 else np.uint64(1)
        if values[i] == 0:
            out[i] = 0
    return out


def salt(name: str) -> int:
    """Return the 64-bit salt of a feature name."""
    return int(xxh3_64_intdigest(name.encode(), seed=0x5EED))


def salted(values: U64, name: str) -> U64:
    """Return ``values`` (n,) as the ids of the feature ``name``; 0 stays 0 ("no id").

    >>> salted(np.array([0, 7], np.uint64), "item")[0]
    np.uint64(0)
    """
    return np.asarray(_mix_all(np.ascontiguousarray(values, np.uint64), np.uint64(salt(name))))


def hash_integers(values: npt.NDArray[np.integer]) -> U64:
    """Hash integer ids (n,); equal to `hash_ids` of their decimal texts."""
    unsigned = np.ascontiguousarray(values, np.int64).view(np.uint64)
    hashed = _mix_all(unsigned ^ np.uint64(1 << 63), np.uint64(0))
    hashed[hashed == 0] = 1
    return np.asarray(hashed)


def hash_text(text: str) -> int:
    """Hash one id given as text."""
    return int(hash_ids([text])[0])


def hash_ids(ids: Sequence[str | int]) -> U64:
    """Hash string or integer ids (n,) to 64 bits, never 0.

    >>> bool(hash_ids(["7"])[0] == hash_ids([7])[0] != hash_ids(["07"])[0])
    True
    """
    raise NotImplementedError
