"""XXH3 of a short text, compiled: the ids of a block are hashed without Python per id.

Source: XXH3_64bits, seed 0, of xxHash 0.8 (`doc/xxhash_spec.md` of Cyan4973/xxHash), for inputs of
1 to 128 bytes; longer ones are left to the `xxhash` package, with which it agrees.
"""

import numpy as np
import numpy.typing as npt
from numba import njit, types

U8 = npt.NDArray[np.uint8]

LONGEST = 128  # bytes
BYTES = types.Array(types.uint8, 1, "C", readonly=True)  # the compiled functions take either kind

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    np.uint64,
)  # words of the default secret: only 8-byte steps of it are read

_P64_1 = np.uint64(0x9E3779B185EBCA87)
_P64_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P64_3 = np.uint64(0x165667B19E3779F9)
_AVALANCHE = np.uint64(0x165667919E3779F9)
_RRMXMX = np.uint64(0x9FB21C651E98DF25)
_LOW = np.uint64(0xFFFFFFFF)


@njit(types.uint64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def _read4(data: U8, at: int) -> np.uint64:
    place = np.uint64(at)
    word = np.uint64(0)
    for k in range(4):
        word |= np.uint64(data[place + np.uint64(k)]) << np.uint64(8 * k)
    return word


@njit(types.uint64(BYTES, types.int64), cache=True, nogil=True, _nrt=False)
def read8(data: U8, at: int) -> np.uint64:
    """Return 8 bytes as a number, the first of them lowest."""
    place = np.uint64(at)  # an index without a sign needs no check for one
    word = np.uint64(0)
    for k in range(8):  # a fixed count: compiled to one load
        word |= np.uint64(data[place + np.uint64(k)]) << np.uint64(8 * k)
    return word


@njit(types.uint64(types.uint64, types.uint64), cache=True, nogil=True, _nrt=False)
def _fold(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return the low half of a 64 × 64 bit product, xor its high half."""
    half = np.uint64(32)
    a_low, a_high = a & _LOW, a >> half
    b_low, b_high = b & _LOW, b >> half
    low = a_low * b_low
    cross = a_high * b_low + (low >> half)
    other = a_low * b_high + (cross & _LOW)
    high = a_high * b_high + (cross >> half) + (other >> half)
    return (a * b) ^ high


@njit(types.uint64(BYTES, types.int64, types.int64), cache=True, nogil=True, _nrt=False)
def _mix16(data: U8, at: int, secret: int) -> np.uint64:
    low, high = read8(data, at) ^ _SECRET[secret], read8(data, at + 8) ^ _SECRET[secret + 1]
    return np.uint64(_fold(low, high))


@njit(types.uint64(types.uint64), cache=True, nogil=True, _nrt=False)
def _avalanche(h: np.uint64) -> np.uint64:
    h ^= h >> np.uint64(37)
    h *= _AVALANCHE
    return h ^ (h >> np.uint64(32))


@njit(types.uint64(BYTES, types.int64, types.int64), cache=True, nogil=True, _nrt=False)
def xxh3(data: U8, at: int, n: int) -> np.uint64:
    """Hash ``data[at : at + n]``; 1 to `LONGEST` bytes."""
    size = np.uint64(n)
    if n > 16:
        acc = size * _P64_1
        if n > 96:
            acc += _mix16(data, at + 48, 12) + _mix16(data, at + n - 64, 14)
        if n > 64:
            acc += _mix16(data, at + 32, 8) + _mix16(data, at + n - 48, 10)
        if n > 32:
            acc += _mix16(data, at + 16, 4) + _mix16(data, at + n - 32, 6)
        return np.uint64(_avalanche(acc + _mix16(data, at, 0) + _mix16(data, at + n - 16, 2)))
    if n > 8:
        low = read8(data, at) ^ _SECRET[3] ^ _SECRET[4]
        high = read8(data, at + n - 8) ^ _SECRET[5] ^ _SECRET[6]
        swapped = np.uint64(0)
        for k in range(8):
            swapped = (swapped << np.uint64(8)) | ((low >> np.uint64(8 * k)) & np.uint64(255))
        return np.uint64(_avalanche(size + swapped + high + _fold(low, high)))
    if n >= 4:
        head, tail = _read4(data, at), _read4(data, at + n - 4)
        h = (tail + (head << np.uint64(32))) ^ _SECRET[1] ^ _SECRET[2]
        h ^= ((h << np.uint64(49)) | (h >> np.uint64(15))) ^ (
            (h << np.uint64(24)) | (h >> np.uint64(40))
        )
        h *= _RRMXMX
        h ^= (h >> np.uint64(35)) + size
        h *= _RRMXMX
        return np.uint64(h ^ (h >> np.uint64(28)))
    first, middle, last = data[at], data[at + (n >> 1)], data[at + n - 1]
    h = (
        (np.uint64(first) << np.uint64(16))
        | (np.uint64(middle) << np.uint64(24))
        | np.uint64(last)
        | (size << np.uint64(8))
    )
    h ^= (_SECRET[0] & _LOW) ^ (_SECRET[0] >> np.uint64(32))
    h ^= h >> np.uint64(33)
    h *= _P64_2
    h ^= h >> np.uint64(29)
    h *= _P64_3
    return np.uint64(h ^ (h >> np.uint64(32)))
