"""The tokens of JSON in a line, compiled: texts, numbers, ids, and values that nobody asked for.

Every function is given where a token begins and returns where it ends, or -1 where it is not plain
(`stream.scan`). None reads a length: each stops at the newline that ends the line, and at most 8
bytes behind it are read.
"""

import numpy as np
import numpy.typing as npt
from numba import njit, types

from stream.ids import hash_integer, hash_slice
from stream.xxh3 import BYTES, LONGEST, read8

U8 = npt.NDArray[np.uint8]

_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_QUOTES = np.uint64(0x2222222222222222)
_SLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)
_BLANKS = np.uint64(0x2020202020202020)
_PLACES = np.uint64(0x0001020304050607)
_ONE, _SEVEN, _TOP = np.uint64(1), np.uint64(7), np.uint64(56)

_MOST = 10**17  # one more digit still fits an int64
_FURTHEST = 60  # decimal exponent; past it numbers are rare
_POWERS = np.array([float(f"1e{k}") for k in range(_FURTHEST + 1)])  # each rounded correctly
_LOWER, _UPPER = 1 - 2.0**-49, 1 + 2.0**-49
_FLOAT32 = float(np.finfo(np.float32).max)
_DEEPEST = 32  # levels of a value that is skipped


@njit(types.uint8(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def byte_at(data: U8, at: int) -> np.uint8:
    """Return ``data[at]``; an index without a sign needs no check for one."""
    return np.uint8(data[np.uint64(at)])


@njit(types.int64(types.uint64), cache=True, nogil=True, _nrt=False)
def _first(found: np.uint64) -> int:
    """Return which byte is the first whose high bit is set; some is."""
    lowest = found & (~found + _ONE)
    return int(np.int64(((lowest >> _SEVEN) * _PLACES) >> _TOP))


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def line_end(data: U8, at: int) -> int:
    """Return where the next newline is."""
    while True:
        word = read8(data, at) ^ _NEWLINES
        found = (word - _ONES) & ~word & _HIGHS
        if found != 0:
            return int(at + _first(found))
        at += 8


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def space(data: U8, at: int) -> int:
    """Return where the next byte is that is no white space."""
    while byte_at(data, at) == 32 or byte_at(data, at) == 9 or byte_at(data, at) == 13:
        at += 1
    return at


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def _utf8(data: U8, at: int) -> int:
    """Return the length of the character of several bytes at ``at``, 0 where there is none.

    Source: table 3-7 of the Unicode Standard, well-formed byte sequences.
    """
    first, second = byte_at(data, at), byte_at(data, at + 1)
    if first < 0xC2 or first > 0xF4 or second < 0x80 or second > 0xBF:
        return 0
    if first < 0xE0:
        return 2
    third = byte_at(data, at + 2)
    if third < 0x80 or third > 0xBF:
        return 0
    if first < 0xF0:
        if (first == 0xE0 and second < 0xA0) or (first == 0xED and second > 0x9F):
            return 0
        return 3
    fourth = byte_at(data, at + 3)
    if fourth < 0x80 or fourth > 0xBF:
        return 0
    if (first == 0xF0 and second < 0x90) or (first == 0xF4 and second > 0x8F):
        return 0
    return 4


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def text_end(data: U8, at: int) -> int:
    """Return where the quote is that closes the text whose first byte is at ``at``.

    A text is plain without escapes and control characters, in UTF-8.
    """
    while True:
        word = read8(data, at)
        quote, slash = word ^ _QUOTES, word ^ _SLASHES
        odd = ((quote - _ONES) & ~quote) | ((slash - _ONES) & ~slash) | ((word - _BLANKS) & ~word)
        odd = (odd | word) & _HIGHS  # its lowest bit is exact, those above it may not be
        if odd == 0:
            at += 8
            continue
        at += _first(odd)
        if byte_at(data, at) == 34:
            return at
        if byte_at(data, at) < 128:
            return -1
        length = _utf8(data, at)
        if length == 0:
            return -1
        at += length


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def literal(data: U8, at: int) -> int:
    """Return where null, true or false ends."""
    if byte_at(data, at) == 110:
        whole = (
            byte_at(data, at + 1) == 117
            and byte_at(data, at + 2) == 108
            and byte_at(data, at + 3) == 108
        )
        return at + 4 if whole else -1
    if byte_at(data, at) == 116:
        whole = (
            byte_at(data, at + 1) == 114
            and byte_at(data, at + 2) == 117
            and byte_at(data, at + 3) == 101
        )
        return at + 4 if whole else -1
    if byte_at(data, at) == 102 and byte_at(data, at + 1) == 97 and byte_at(data, at + 2) == 108:
        return at + 5 if byte_at(data, at + 3) == 115 and byte_at(data, at + 4) == 101 else -1
    return -1


@njit(types.UniTuple(types.int64, 3)(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def _decimal(data: U8, at: int) -> tuple[int, int, int]:
    """Return where a number ends, its digits as an integer below 10^18, and its exponent of ten.

    The exponent is 1 where neither point nor exponent is written: it is an integer, then.
    """
    nothing = 0
    negative = byte_at(data, at) == 45
    if negative:
        at += 1
    start, digits = at, nothing
    while byte_at(data, at) >= 48 and byte_at(data, at) <= 57:
        if digits >= _MOST:
            return -1, nothing, nothing
        digits = digits * 10 + (int(np.int64(byte_at(data, at))) - 48)
        at += 1
    if at == start or (byte_at(data, start) == 48 and at > start + 1):
        return -1, nothing, nothing
    exponent = _FURTHEST + 1
    if byte_at(data, at) == 46:
        at += 1
        start = at
        while byte_at(data, at) >= 48 and byte_at(data, at) <= 57:
            if digits >= _MOST:
                return -1, nothing, nothing
            digits = digits * 10 + (int(np.int64(byte_at(data, at))) - 48)
            at += 1
        if at == start:
            return -1, nothing, nothing
        exponent = start - at
    if byte_at(data, at) == 101 or byte_at(data, at) == 69:
        if exponent > _FURTHEST:
            exponent = nothing
        at += 1
        down = byte_at(data, at) == 45
        if down or byte_at(data, at) == 43:
            at += 1
        start, written = at, nothing
        while byte_at(data, at) >= 48 and byte_at(data, at) <= 57 and written <= 1000:
            written = written * 10 + (int(np.int64(byte_at(data, at))) - 48)
            at += 1
        if at == start or written > 1000:
            return -1, nothing, nothing
        exponent += -written if down else written
        if exponent > _FURTHEST:
            return -1, nothing, nothing
    if exponent < -_FURTHEST or (negative and digits == 0):  # -0 is left to the judge
        return -1, nothing, nothing
    return at, -digits if negative else digits, exponent


@njit(types.UniTuple(types.int64, 2)(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def integer(data: U8, at: int) -> tuple[int, int]:
    """Return where an integer of up to 18 digits ends, and the integer."""
    end, value, exponent = _decimal(data, at)
    return (end if exponent > _FURTHEST else -1), value


@njit(
    types.Tuple((types.int64, types.float32))(BYTES, types.int64),
    cache=True,
    nogil=True,
    _nrt=False,
)
def number(data: U8, at: int) -> tuple[int, np.float32]:
    """Return where a number, a truth value or null (NaN) ends, and it as a float32.

    The digits, the power of ten and their product are each rounded once, so the product is within
    2^-51 of the number; where all within 2^-49 of it become the same float32, so does the number,
    and so does the float64 that is nearest to it. Elsewhere, which is rare, it is not plain.
    """
    if byte_at(data, at) == 110 or byte_at(data, at) == 116 or byte_at(data, at) == 102:
        end = literal(data, at)
        if byte_at(data, at) == 110:
            return end, np.float32(np.nan)
        return end, np.float32(1.0 if byte_at(data, at) == 116 else 0.0)
    end, digits, exponent = _decimal(data, at)
    if end < 0:
        return -1, np.float32(0.0)
    value = np.float64(digits)
    if exponent < 0:
        value /= _POWERS[-exponent]
    elif exponent <= _FURTHEST:
        value *= _POWERS[exponent]
    low, high = np.float32(value * _LOWER), np.float32(value * _UPPER)
    if low != high or abs(value) * _UPPER > _FLOAT32:
        return -1, np.float32(0.0)
    return end, low


@njit(
    types.Tuple((types.int64, types.uint64))(BYTES, types.int64), cache=True, nogil=True, _nrt=False
)
def key(data: U8, at: int) -> tuple[int, np.uint64]:
    """Return where the id at ``at`` ends, which is text or an integer, and its hash."""
    if byte_at(data, at) != 34:
        end, value = integer(data, at)
        return end, np.uint64(hash_integer(value))
    end = text_end(data, at + 1)
    length = end - at - 1
    if end < 0 or length > LONGEST:
        return -1, np.uint64(0)
    return end + 1, np.uint64(hash_slice(data, at + 1, length))


@njit(
    types.Tuple((types.int64, types.uint64))(BYTES, types.int64), cache=True, nogil=True, _nrt=False
)
def some_id(data: U8, at: int) -> tuple[int, np.uint64]:
    """Return where the id at ``at`` ends, which may be a truth value or null (0), and its hash."""
    if byte_at(data, at) == 110 or byte_at(data, at) == 116 or byte_at(data, at) == 102:
        end = literal(data, at)
        if end < 0 or byte_at(data, at) == 110:
            return end, np.uint64(0)
        return end, np.uint64(hash_slice(data, at, end - at))
    end, hashed = key(data, at)
    return end, np.uint64(hashed)


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def colon(data: U8, at: int) -> int:
    """Return where the value begins whose name ended before ``at``."""
    at = space(data, at)
    return space(data, at + 1) if byte_at(data, at) == 58 else -1


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def _name(data: U8, at: int) -> int:
    """Return where the value begins whose name begins at ``at``."""
    if byte_at(data, at) != 34:
        return -1
    end = text_end(data, at + 1)
    return colon(data, end + 1) if end >= 0 else -1


@njit(types.int64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def skip(data: U8, at: int) -> int:
    """Return where the value at ``at`` ends, whatever it is: all of it is checked."""
    depth = 0
    objects = np.uint64(0)  # a bit for each level, the innermost lowest: whether it is an object
    while True:
        byte = byte_at(data, at)
        if byte == 123 or byte == 91:
            depth += 1
            if depth > _DEEPEST:
                return -1
            objects = (objects << _ONE) | np.uint64(byte == 123)
            at = space(data, at + 1)
            if byte_at(data, at) != byte + 2:  # not closed at once
                if byte == 123:
                    at = _name(data, at)
                    if at < 0:
                        return -1
                continue
            at += 1
            depth -= 1
            objects >>= _ONE
        elif byte == 34:
            at = text_end(data, at + 1) + 1
            if at == 0:
                return -1
        elif byte == 110 or byte == 116 or byte == 102:
            at = literal(data, at)
        else:
            at, _, _ = _decimal(data, at)
        while True:  # a value has ended at ``at``
            if at < 0 or depth == 0:
                return at
            at = space(data, at)
            inside_object = objects & _ONE
            if byte_at(data, at) == 44:
                at = space(data, at + 1)
                if inside_object:
                    at = _name(data, at)
                    if at < 0:
                        return -1
                break
            if byte_at(data, at) != (125 if inside_object else 93):
                return -1
            at += 1
            depth -= 1
            objects >>= _ONE
