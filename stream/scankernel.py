"""The compiled loop of `stream.scan`: the lines of some messages into columns.

Compiled without numba's reference counts (``_nrt``): every call with arrays would count each up and
down, which was half the time. So nothing is allocated here.

What it has written of a line that turns out not to be plain means nothing.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit, types

from stream.events import FEEDBACK, OTHER_ACTION
from stream.scantokens import (
    byte_at,
    colon,
    integer,
    key,
    line_end,
    literal,
    number,
    skip,
    some_id,
    space,
    text_end,
)
from stream.xxh3 import BYTES, read8

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

FIELDS: Final = (
    "impression_id", "user_id", "ts", "item_id", "scene", "request_id", "position", "action",
    "value", "features",
)  # fmt: skip
_IMPRESSION, _USER, _TS, _ITEM, _SCENE, _REQUEST, _POSITION, _ACTION, _VALUE, _FEATURES = range(10)
_REQUIRED: Final = 0b111  # the first three
OF_EVENT, OF_FEATURES, OF_ACTIONS = range(3)  # what a name is looked up as

# Places in `cursor`: the next byte, its message, its row there, the scenes told
AT, MESSAGE, ROW, TOLD = range(4)
# Places in `limits`
EARLIEST, LATEST, LINE_BYTES, PARTITION, IDS, NUMBERS, ACTIONS, SCAN = range(8)
LIMITS: Final = 8

_EIGHT, _ALL = np.uint64(8), np.uint64(0xFFFFFFFFFFFFFFFF)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)

_I64, _U64 = types.int64[::1], types.uint64[::1]
_NAMES = (_U64, _I64, BYTES, _I64)  # heads, bounds, text, slots
_FEATURE_COLUMNS = (types.uint64[:, ::1], types.float32[:, ::1], types.uint64[:, ::1])


@njit(types.int64(BYTES), cache=True, nogil=True, _nrt=False)
def count_lines(data: U8) -> int:
    """Return the number of newlines."""
    count = 0
    for byte in data:
        count += byte == 10
    return count


@njit(
    types.int64(types.uint64, types.int64, types.int64, types.int64),
    cache=True,
    nogil=True,
    _nrt=False,
)
def slot_of(head: np.uint64, length: int, kind: int, slots: int) -> int:
    """Return where to look first for a name, among ``slots``, a power of two."""
    mixed = (head + np.uint64(4 * length + kind) * _SPREAD) * _SPREAD
    return int(np.int64(mixed >> np.uint64(32))) & (slots - 1)


@njit(types.uint64(BYTES, types.int64, types.int64), cache=True, nogil=True, _nrt=False)
def head_of(data: U8, at: int, length: int) -> np.uint64:
    """Return the first 8 bytes of a name, those past its end as 0."""
    if length == 0:
        return np.uint64(0)
    word = np.uint64(read8(data, at))
    return word & (_ALL >> (_EIGHT * np.uint64(8 - length))) if length < 8 else word


@njit(
    types.int64(BYTES, types.int64, types.int64, types.int64, *_NAMES),
    cache=True,
    nogil=True,
    _nrt=False,
)
def _find(
    data: U8, at: int, length: int, kind: int, heads: U64, bounds: I64, text: U8, slots: I64
) -> int:
    """Return which name of the ``kind`` it is, -1 if none; a slot holds ``4 × name + kind``."""
    head = np.uint64(head_of(data, at, length))
    slot = slot_of(head, length, kind, slots.size)
    while slots[slot] >= 0:
        name = slots[slot] >> 2
        first = bounds[name]
        same = heads[name] == head and bounds[name + 1] - first == length
        if same and slots[slot] & 3 == kind:
            k = 8
            while k < length and text[first + k] == byte_at(data, at + k):
                k += 1
            if k >= length:
                return int(name)
        slot = (slot + 1) & (slots.size - 1)
    return -1


@njit(types.boolean(_U64, types.uint64), cache=True, nogil=True, _nrt=False)
def _is_known(known: U64, scene: np.uint64) -> bool:
    low, high = 0, known.size
    while low < high:
        middle = (low + high) >> 1
        if known[middle] < scene:
            low = middle + 1
        else:
            high = middle
    return low < known.size and known[low] == scene


@njit(
    types.int64(BYTES, types.int64, types.int64, _I64, _I64, _I64, *_NAMES, *_FEATURE_COLUMNS),
    cache=True,
    nogil=True,
    _nrt=False,
)
def _features(
    data: U8, at: int, i: int, limits: I64, list_starts: I64, stamps: I64,
    heads: U64, bounds: I64, text: U8, slots: I64, ids: U64, numbers: Any, lists: U64,
) -> int:  # fmt: skip
    """Read the features, which begin at ``at``, into row ``i``; return where they end, or -1."""
    first_number, first_list = limits[IDS], limits[IDS] + limits[NUMBERS]
    if byte_at(data, at) != 123:
        return -1
    at = space(data, at + 1)
    if byte_at(data, at) == 125:
        return at + 1
    while True:
        if byte_at(data, at) != 34:
            return -1
        start = at + 1
        end = text_end(data, start)
        if end < 0:
            return -1
        at = colon(data, end + 1)
        if at < 0:
            return -1
        name = _find(data, start, end - start, OF_FEATURES, heads, bounds, text, slots)
        if name < 0:
            at = skip(data, at)
        else:
            feature = name - len(FIELDS)
            if stamps[feature] == i:
                return -1
            stamps[feature] = i
            if feature < first_number:
                at, hashed = some_id(data, at)
                ids[i, feature] = hashed
            elif feature < first_list:
                at, value = number(data, at)
                numbers[i, feature - first_number] = value
            elif byte_at(data, at) == 110:
                at = literal(data, at)
            elif byte_at(data, at) != 91:
                return -1
            else:
                column = list_starts[feature - first_list]
                stop = list_starts[feature - first_list + 1]
                at = space(data, at + 1)
                if byte_at(data, at) == 93:
                    at += 1
                else:
                    while True:
                        at, hashed = some_id(data, at)
                        if at < 0:
                            return -1
                        if column < stop:
                            lists[i, column] = hashed
                            column += 1
                        at = space(data, at)
                        if byte_at(data, at) != 44:
                            break
                        at = space(data, at + 1)
                    if byte_at(data, at) != 93:
                        return -1
                    at += 1
        if at < 0:
            return -1
        at = space(data, at)
        if byte_at(data, at) == 125:
            return at + 1
        if byte_at(data, at) != 44:
            return -1
        at = space(data, at + 1)


_EVENT_COLUMNS = (
    *(types.uint8[::1], _I64, _I64, _U64, _U64, _U64, _U64, _U64),
    *(types.int32[::1], types.uint8[::1], types.float32[::1]),
)


@njit(
    types.int64(
        *(BYTES, types.int64, types.int64, _I64, _I64, _I64, _I64, *_NAMES),
        *(*_EVENT_COLUMNS, *_FEATURE_COLUMNS),
    ),
    cache=True,
    nogil=True,
    _nrt=False,
)
def _event(
    data: U8, at: int, i: int, limits: I64, list_starts: I64, stamps: I64, scene_text: I64,
    heads: U64, bounds: I64, text: U8, slots: I64,
    kind: U8, ts: I64, placed: I64, impression: U64, user: U64, item: U64, request: U64,
    scene: U64, position: I32, action: U8, value: Any, ids: U64, numbers: Any, lists: U64,
) -> int:  # fmt: skip
    """Read the line that begins at ``at`` into row ``i``; return where it ends, or -1."""
    at = space(data, at)
    if byte_at(data, at) != 123:
        return -1
    at = space(data, at + 1)
    seen = 0
    is_feedback = False
    hashed = np.uint64(0)
    amount = np.float32(np.nan)
    while True:
        if byte_at(data, at) != 34:
            return -1
        start = at + 1
        end = text_end(data, start)
        if end < 0:
            return -1
        at = colon(data, end + 1)
        if at < 0:
            return -1
        field = _find(data, start, end - start, OF_EVENT, heads, bounds, text, slots)
        if field < 0:
            at = skip(data, at)
        else:
            if seen >> field & 1:
                return -1
            seen |= 1 << field
            if field <= _ITEM and field != _TS:
                at, hashed = key(data, at)
                if field == _ITEM:
                    item[i] = hashed
                elif hashed == 0:
                    return -1
                elif field == _IMPRESSION:
                    impression[i] = hashed
                else:
                    user[i] = hashed
            elif field == _TS:
                at, whole = integer(data, at)
                if whole < limits[EARLIEST] or whole >= limits[LATEST]:
                    return -1
                ts[i] = whole
            elif field == _FEATURES:
                if byte_at(data, at) == 110:
                    at = literal(data, at)
                else:
                    at = _features(
                        data, at, i, limits, list_starts, stamps, heads, bounds, text, slots,
                        ids, numbers, lists,
                    )  # fmt: skip
            elif field == _VALUE:
                at, amount = number(data, at)
            elif byte_at(data, at) == 110:
                at = literal(data, at)
            elif field == _POSITION:
                at, whole = integer(data, at)
                if whole < -1 or whole >= 2**31:
                    return -1
                position[i] = whole
            elif field == _ACTION:
                if byte_at(data, at) != 34:
                    return -1
                start = at + 1
                at = text_end(data, start) + 1
                if at == 0:
                    return -1
                is_feedback = True
                code = _find(data, start, at - 1 - start, OF_ACTIONS, heads, bounds, text, slots)
                action[i] = code - limits[ACTIONS] if code >= 0 else OTHER_ACTION
            elif field == _REQUEST:
                at, hashed = key(data, at)
                request[i] = hashed
            else:
                scene_text[0] = at
                at, hashed = key(data, at)
                scene[i] = hashed
                scene_text[1] = at
        if at < 0:
            return -1
        at = space(data, at)
        if byte_at(data, at) == 125:
            break
        if byte_at(data, at) != 44:
            return -1
        at = space(data, at + 1)
    at = space(data, at + 1)
    if byte_at(data, at) != 10 or seen & _REQUIRED != _REQUIRED:
        return -1
    placed[i] = ts[i]
    if request[i] == 0:
        request[i] = impression[i]
    if is_feedback:
        kind[i] = FEEDBACK
        value[i] = amount
        item[i] = 0
        ids[i] = 0
        numbers[i] = np.nan
        lists[i] = 0
    elif item[i] == 0:
        return -1
    return at


@njit(
    types.void(
        *(BYTES, _I64, _I64, _I64, _I64, _I64, *_NAMES, _U64),
        *(*_EVENT_COLUMNS, *_FEATURE_COLUMNS),
        *(types.int16[::1], _I64, types.int32[::1]),
        *(types.boolean[::1], types.int64[:, ::1], types.int64[:, ::1], _I64, _I64),
    ),
    cache=True,
    nogil=True,
    _nrt=False,
)
def scan_lines(
    data: U8, message_ends: I64, offsets: I64, cursor: I64, limits: I64, list_starts: I64,
    heads: U64, bounds: I64, text: U8, slots: I64, known: U64,
    kind: U8, ts: I64, at: I64, impression: U64, user: U64, item: U64, request: U64, scene: U64,
    position: I32, action: U8, value: Any, ids: U64, numbers: Any, lists: U64,
    partition: Any, offset: I64, row: I32, plain: Any, lines: I64, told: I64,
    stamps: I64, scene_text: I64,
) -> None:  # fmt: skip
    """Read the next n lines of ``data`` into columns (n,), blank before, and move ``cursor``.

    ``plain`` (n,) marks those read; ``lines`` (n, 2) are where each begins and ends; ``told``
    (n, 3) begins with the lines whose scene is not among the ``known``, and where its text is.
    """
    here, message, in_message, scenes = cursor[AT], cursor[MESSAGE], cursor[ROW], 0
    for i in range(plain.size):
        while here >= message_ends[message]:
            message += 1
            in_message = 0
        partition[i] = limits[PARTITION]
        offset[i] = offsets[message]
        row[i] = in_message
        end = -1
        if limits[SCAN]:
            end = _event(
                data, here, i, limits, list_starts, stamps, scene_text, heads, bounds, text, slots,
                kind, ts, at, impression, user, item, request, scene, position, action, value,
                ids, numbers, lists,
            )  # fmt: skip
        plain[i] = 0 <= end <= here + limits[LINE_BYTES]
        if not plain[i]:
            end = line_end(data, here)
        elif scene[i] != 0 and told.size > 0 and not _is_known(known, scene[i]):
            told[scenes] = i, scene_text[0], scene_text[1]
            scenes += 1
        lines[i] = here, end
        here = end + 1
        in_message += 1
    cursor[AT], cursor[MESSAGE], cursor[ROW], cursor[TOLD] = here, message, in_message, scenes
