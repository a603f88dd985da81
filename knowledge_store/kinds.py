"""Kinds of knowledge vectors, and the keys they are stored under."""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.ids import mix

U64 = npt.NDArray[np.uint64]

DTYPES: Final = ("float16", "float32")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_MOST: Final = 4096  # numbers a vector; more is a mistake
_PAIR: Final = 0x9E3779B97F4A7C15  # makes (a, b) another pair than (b, a)


@dataclass(frozen=True)
class Kind:
    """One kind of knowledge: ``width`` numbers of ``dtype`` for each id that has them.

    Known by name: "user", "item", "interaction" (user × category, by `pair_ids`) and "cluster"
    (item → the number of its cluster, where a log has no categories). Others are free.
    """

    name: str
    width: int
    dtype: Literal["float16", "float32"] = "float16"  # half the room; 3 digits are plenty

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} cannot name a kind: begin with a letter a … z and go on with "
                "a … z, 0 … 9 and _."
            )
        if not 1 <= self.width <= _MOST:
            raise ValueError(f"kind {self.name}: width is {self.width}. Give 1 … {_MOST:,}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"kind {self.name}: dtype is {self.dtype!r}. Give {DTYPES}.")

    @property
    def numpy(self) -> "np.dtype[Any]":
        """The numpy type of its vectors."""
        return np.dtype(self.dtype)

    @property
    def bytes(self) -> int:
        """Bytes of one vector."""
        return self.width * self.numpy.itemsize


def keys_of(ids: U64) -> list[bytes]:
    r"""Return the keys of ``ids`` (n,): 8 bytes each, big-endian, so that they sort as the ids do.

    >>> keys_of(np.array([258], np.uint64))
    [b'\x00\x00\x00\x00\x00\x00\x01\x02']
    """
    # V8, not S8, which strips zeros at the end
    return cast("list[bytes]", np.ascontiguousarray(ids, ">u8").view("V8").tolist())


def ids_of(keys: list[bytes]) -> U64:
    """Return the ids (n,) that have ``keys``: `keys_of` backwards."""
    return np.frombuffer(b"".join(keys), ">u8").astype(np.uint64)


def pair_ids(users: U64, categories: U64) -> U64:
    """Return one id for each pair of ids (n,): 0 where either is 0, and never 0 otherwise.

    Both are ids as events hold them. Where the category is the number of a cluster it is given as
    number + 1. The order matters: (a, b) and (b, a) have different ids.
    """
    users, categories = np.broadcast_arrays(users, categories)
    return np.asarray(
        _pairs(np.ascontiguousarray(users, np.uint64), np.ascontiguousarray(categories, np.uint64))
    )


@njit("uint64[::1](uint64[::1], uint64[::1])", cache=True, nogil=True)
def _pairs(users: U64, categories: U64) -> U64:
    out = np.zeros(users.size, np.uint64)
    for i in range(users.size):
        if users[i] != 0 and categories[i] != 0:
            pair = mix(mix(users[i]) ^ (categories[i] + np.uint64(_PAIR)))
            out[i] = pair if pair != 0 else np.uint64(1)
    return out
