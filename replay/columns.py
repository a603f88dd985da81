"""Arrow columns as the arrays of an event, to the bit as JSON with the same values would give them.

n rows. Where a value is absent: id 0, time 0 with a mask, number NaN, position -1.
"""

from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replay.errors import MappingError
from replay.mapping import TimeUnit
from stream.decode import LATEST_MS
from stream.ids import U64, hash_ids, hash_integers, hash_utf8

Mask = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]

_FIRST_GUESS_MS: Final = 315_532_800_000  # 1980: the units of earlier times would overlap
_PER_MS: Final = {"s": 0.001, "ms": 1, "us": 1_000, "ns": 1_000_000}
_INT64_EDGE: Final = 2.0**63


def is_text(kind: Any) -> bool:  # a pyarrow.DataType: pyarrow has no types
    """Whether a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: Any) -> bool:  # a pyarrow.DataType
    """Whether a column holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_number(kind: Any) -> bool:  # a pyarrow.DataType
    """Whether a column holds numbers; truth values count, as 0 and 1."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def is_time(kind: Any) -> bool:  # a pyarrow.DataType
    """Whether a column can be a time: a timestamp, a date, text, or a number."""
    types = pa.types
    return bool(
        types.is_timestamp(kind)
        or types.is_date(kind)
        or is_text(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
    )


def is_id(kind: Any) -> bool:  # a pyarrow.DataType
    """Whether a column can be ids: text, integers, truth values, floats without a fraction."""
    return is_text(kind) or (is_number(kind) and not pa.types.is_decimal(kind))


def plain(array: Any) -> Any:  # pyarrow arrays
    """Return a column without dictionary encoding or views."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def ids_of(array: Any) -> tuple[U64, Mask]:  # a pyarrow array
    """Return ids (n,), 0 where absent, and a mask (n,) of values that are no ids."""
    array = plain(array)
    no_id = np.zeros(len(array), bool)
    absent = array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.uint64), no_id
    if is_text(array.type):
        hashed = hash_texts(array)
    elif pa.types.is_boolean(array.type):
        truth = array.fill_null(False).to_numpy(zero_copy_only=False)
        hashed = hash_ids(["false", "true"])[truth.astype(np.intp)]
    elif pa.types.is_integer(array.type):
        hashed = hash_integers(np.array(array.fill_null(0).to_numpy()))  # a copy: Arrow lends it
    else:
        values = array.fill_null(np.nan).to_numpy().astype(np.float64)
        absent |= np.isnan(values)
        no_id = ~absent & (values != np.floor(values)) | np.isinf(values)
        usual = ~(absent | no_id) & (np.abs(values) < _INT64_EDGE)
        hashed = hash_integers(np.where(usual, values, 0).astype(np.int64))
        for i in np.flatnonzero(~(absent | no_id | usual)):  # integers past 64 bits: rare, by text
            hashed[i] = hash_ids([str(int(values[i]))])[0]
    hashed = hashed.astype(np.uint64)
    hashed[absent | no_id] = 0
    return hashed, no_id


def hash_texts(array: Any) -> U64:  # a pyarrow array
    """Hash text (n,) where it lies; what null gives is left open."""
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return hash_utf8(np.frombuffer(data or b"", np.uint8), np.array(bounds))


def texts_of(array: Any) -> Any:  # pyarrow arrays
    """Return ids as text (n,), null where absent or no id: what `ids_of` hashes."""
    array = plain(array)
    if not pa.types.is_floating(array.type):
        return array.cast(pa.large_string())
    fits = pc.and_(pc.equal(array, pc.floor(array)), pc.less(pc.abs(array), _INT64_EDGE))
    whole = pc.if_else(pc.fill_null(fits, False), array, None)
    return whole.cast(pa.int64()).cast(pa.large_string())


def joined_texts(arrays: list[Any]) -> Any:  # pyarrow arrays
    """Return one text id per row of several columns, joined by ``:``; null where one is."""
    separator = pa.scalar(":", pa.large_string())
    return pc.binary_join_element_wise(*[texts_of(a) for a in arrays], separator)


def numbers_of(array: Any) -> npt.NDArray[np.float64]:  # a pyarrow array
    """Return numbers (n,), NaN where absent or infinite (which JSON cannot say)."""
    array = plain(array).cast(pa.float64())
    values = array.fill_null(np.nan).to_numpy(zero_copy_only=False).astype(np.float64)
    values[np.isinf(values)] = np.nan
    return cast("npt.NDArray[np.float64]", values)


def times_of(array: Any, unit: TimeUnit) -> tuple[I64, Mask]:  # a pyarrow array
    """Return times (n,) in epoch ms, rounded down, and a mask (n,) of those that are there.

    ``unit`` is that of plain numbers. Times without a zone are UTC.
    """
    array = plain(array)
    if is_text(array.type):
        array = array.cast(pa.timestamp("ms", tz="UTC" if _zoned(array) else None))
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(array.type):
        unit = cast(TimeUnit, array.type.unit)
        array = array.cast(pa.int64())
    there = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.fill_null(0).to_numpy()
    if pa.types.is_floating(array.type):
        there = there & np.isfinite(values)
        milliseconds = np.where(there, values, 0).astype(np.float64) / _PER_MS[unit]
        there = there & (np.abs(milliseconds) < 2.0**62)
        return np.floor(np.where(there, milliseconds, 0)).astype(np.int64), there
    if unit == "s":
        there = there & (np.abs(values.astype(np.float64)) < 2.0**52)
        return np.where(there, values, 0).astype(np.int64) * 1000, there
    return values.astype(np.int64) // int(_PER_MS[unit]), there


def _zoned(array: Any) -> bool:  # a pyarrow array
    """Whether times given as text name a zone."""
    texts = [t for t in array.slice(0, 100).to_pylist() if t]
    return any(t.endswith("Z") or "+" in t[10:] or "-" in t[10:] for t in texts)


def guess_unit(values: npt.NDArray[np.float64], column: str) -> TimeUnit:
    """Return the unit in which ``values`` lie between 1980 and 2100.

    Raises `MappingError` where there is none.
    """
    middle = float(np.median(values))
    units: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
    for unit in units:
        if _FIRST_GUESS_MS <= middle / _PER_MS[unit] < LATEST_MS:
            return unit
    raise MappingError(
        f"The column {column!r} is no time between 1980 and 2100 in s, ms, us or ns (its median is "
        f"{middle:g}): name another column, or its unit with ts_unit."
    )
