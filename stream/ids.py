"""Ids as 64-bit numbers: one hash for strings and integers, and salted mixes of them.

An id is its text: ``7`` and ``"7"`` are the same id, ``"07"`` is another. 0 is reserved for "no
id", which the empty text is. Texts that spell an integer of up to 18 digits are hashed as that
integer (splitmix64), all others by XXH3; so columns of integers never have to be printed.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit, types
from xxhash import xxh3_64_intdigest

from stream.xxh3 import BYTES, LONGEST, xxh3

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

DIGITS: Final = 18  # the longest decimal texts that all fit an int64
_EDGE: Final = 10**DIGITS


class NotAnId(ValueError):
    """A value has no text that could name something."""

    def __init__(self, value: object) -> None:
        super().__init__(
            f"{value!r} is not an id: give text, an integer, or a number without a fraction."
        )


@njit("uint64(uint64)", cache=True, nogil=True, inline="always")
def mix(x: np.uint64) -> np.uint64:
    """One round of splitmix64 (Steele et al., OOPSLA 2014), a bijection of 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
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


@njit("uint64(int64)", cache=True, nogil=True, _nrt=False)
def hash_integer(value: np.int64) -> np.uint64:
    """Hash an integer of up to `DIGITS` digits; never 0."""
    mixed = np.uint64(mix(np.uint64(value) ^ np.uint64(1 << 63)))
    return mixed if mixed != 0 else np.uint64(1)


@njit("void(int64[::1], uint64[::1])", cache=True, nogil=True)
def _hash_integers(values: I64, out: U64) -> None:
    for i in range(out.size):
        out[i] = hash_integer(values[i])


@njit(types.boolean(BYTES, types.int64, types.int64), cache=True, nogil=True, _nrt=False)
def _spells_integer(data: npt.NDArray[np.uint8], at: int, n: int) -> bool:
    """Whether the text is how an integer of up to `DIGITS` digits is printed."""
    if n > 0 and data[at] == 45:  # "-", which 0 does not have
        at, n = at + 1, n - 1
        if n > 0 and data[at] == 48:
            return False
    if n == 0 or n > DIGITS or (data[at] == 48 and n > 1):
        return False
    digits = 0
    while digits < n and data[at + digits] >= 48 and data[at + digits] <= 57:
        digits += 1
    return digits == n


@njit(types.uint64(BYTES, types.int64, types.int64), cache=True, nogil=True, _nrt=False)
def hash_slice(data: npt.NDArray[np.uint8], at: int, n: int) -> np.uint64:
    """Hash the text ``data[at : at + n]`` of at most `LONGEST` bytes; 0 where it is empty."""
    if n == 0:
        return np.uint64(0)
    if _spells_integer(data, at, n):
        negative = data[at] == 45
        value = np.int64(0)
        for k in range(1 if negative else 0, n):
            value = value * 10 + (np.int64(data[at + k]) - 48)
        return np.uint64(hash_integer(-value if negative else value))
    hashed = xxh3(data, at, n)
    return np.uint64(hashed if hashed != 0 else np.uint64(1))


@njit(types.int64(BYTES, types.int64[::1], types.uint64[::1]), cache=True, nogil=True)
def _hash_texts(data: npt.NDArray[np.uint8], bounds: I64, out: U64) -> int:
    """Hash the texts ``data[bounds[i] : bounds[i + 1]]`` into ``out`` (n,), 0 where empty.

    Those longer than `LONGEST` bytes are left at 0 to the caller, and counted.
    """
    left = 0
    for i in range(out.size):
        at, n = bounds[i], bounds[i + 1] - bounds[i]
        if n > LONGEST:
            out[i] = 0
            left += 1
        else:
            out[i] = hash_slice(data, at, n)
    return left


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
    """Hash integer ids (n,) of any width; equal to `hash_ids` of their decimal texts, never 0.

    Integers of more than 18 digits are printed and hashed one by one: some 0.3 µs each.
    """
    values = np.asarray(values)
    out = np.empty(values.size, np.uint64)
    _hash_integers(np.ascontiguousarray(values, np.int64), out)
    if values.dtype.itemsize == 8:
        far = values >= _EDGE
        if values.dtype.kind == "i":
            far |= values <= -_EDGE
        if far.any():
            out[far] = _hash_joined([str(value) for value in values[far].tolist()])
    return out


def hash_text(text: str) -> int:
    """Hash one id given as text; 0 where it is empty."""
    return int(hash_ids([text])[0])


def hash_utf8(data: npt.NDArray[np.uint8], bounds: I64) -> U64:
    """Hash the texts ``data[bounds[i] : bounds[i + 1]]`` (bounds (n + 1,)), 0 where empty."""
    out = np.empty(len(bounds) - 1, np.uint64)
    if _hash_texts(data, bounds, out):
        for i in np.flatnonzero((out == 0) & (np.diff(bounds) > 0)).tolist():
            out[i] = xxh3_64_intdigest(data[bounds[i] : bounds[i + 1]].tobytes()) or 1
    return out


def hash_ids(ids: Sequence[object]) -> U64:
    """Hash ids (n,) given as text or numbers to 64 bits; 0 only for no id: ``""`` and None.

    Lists of text only or of integers only are fast; in mixed ones a number is its integer's text
    and a truth value is ``"true"`` or ``"false"``. Raises `NotAnId` for anything else.

    >>> bool(hash_ids(["7"])[0] == hash_ids([7])[0] != hash_ids(["07"])[0])
    True
    """
    try:
        return _hash_joined(ids)  # type: ignore[arg-type]  # join refuses what is not text
    except TypeError:
        if set(map(type, ids)) == {int}:
            try:
                return hash_integers(np.fromiter(ids, np.int64, len(ids)))
            except OverflowError:
                pass
        return _hash_joined([i if type(i) is str else id_text(i) for i in ids])


def id_text(value: object) -> str:
    """Return the text of an id; ``""`` for None. Raises `NotAnId`.

    >>> id_text(7.0), id_text(True)
    ('7', 'true')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    raise NotAnId(value)


def _hash_joined(texts: Sequence[str]) -> U64:
    n = len(texts)
    joined = "".join(texts)
    bounds = np.zeros(n + 1, np.int64)
    if joined.isascii():
        data = joined.encode()
        lengths = map(len, texts)
    else:  # half a surrogate pair is no text, but an id all the same
        encoded = [text.encode(errors="surrogatepass") for text in texts]
        data = b"".join(encoded)
        lengths = map(len, encoded)
    np.cumsum(np.fromiter(lengths, np.int64, n), out=bounds[1:])
    return hash_utf8(np.frombuffer(data, np.uint8), bounds)
