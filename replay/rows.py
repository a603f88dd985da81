"""Rows of a table as the impressions and the feedback of the stream, a column at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from replay.columns import (
    I64,
    Mask,
    guess_unit,
    hash_texts,
    ids_of,
    is_id,
    is_list,
    is_number,
    is_time,
    joined_texts,
    numbers_of,
    plain,
    times_of,
)
from replay.errors import MappingError
from replay.files import ParquetFiles, Rows
from replay.mapping import ParquetMapping, TimeUnit
from stream.decode import EARLIEST_MS, LATEST_MS
from stream.events import FEEDBACK, IMPRESSION, OTHER_ACTION, EventColumns, EventSchema
from stream.ids import U64, hash_integers
from stream.position import Partition
from stream.source import Rejected

CLICKS: Final = Partition("feedback", 0)
SHOWN: Final = Partition("impressions", 0)
_FLOAT32: Final = float(np.finfo(np.float32).max)
_RAW: Final = 4096  # bytes of a bad row that are kept


@dataclass(frozen=True)
class Clicked:
    """Clicked rows and their feedback (n of them), in the order of the rows."""

    at_ms: I64  # when the feedback comes
    impression: U64
    user: U64
    value: npt.NDArray[np.float32]  # NaN where absent


class RowReader:
    """Reads rows as a mapping says. Holds nothing but the mapping and the table's footers.

    Raises `MappingError` where a column cannot be what the mapping makes of it.
    """

    def __init__(self, mapping: ParquetMapping, table: ParquetFiles) -> None:
        mapping.check_columns(table.schema.names, table.where)
        self._mapping, self._table = mapping, table
        for role, column in mapping.roles.items():
            _check_kind(role, column, table.kind(column))
        self.time_unit = _unit(table, mapping.ts, mapping.ts_unit)
        self.feedback_unit: TimeUnit = "ms"
        if mapping.label and mapping.delay.column and mapping.delay.column_is == "time":
            self.feedback_unit = _unit(table, mapping.delay.column, mapping.ts_unit)

    def times(self, rows: Rows) -> tuple[I64, Mask]:
        """Return impression times (n,) in epoch ms and a mask of those that can be one."""
        ts, there = times_of(rows.batch.column(self._mapping.ts), self.time_unit)
        ts += 1000 * self._mapping.ts_shift_s
        return ts, there & (ts >= EARLIEST_MS) & (ts < LATEST_MS)

    def labels(self, rows: Rows) -> Mask:
        """Return whether each row (n,) is a click."""
        mapping = self._mapping
        if mapping.label is None:
            return np.zeros(len(rows.numbers), bool)
        values = numbers_of(rows.batch.column(mapping.label))
        at_least = mapping.label_at_least
        return values > 0 if at_least is None else values >= at_least

    def click_columns(self, schema: EventSchema) -> tuple[str, ...]:
        """Return the columns that `clicked` reads, each once."""
        judged = (column for column, _ in self._checks(schema))
        return tuple(dict.fromkeys([*self._mapping.feedback_columns, *judged]))

    def clicked(self, rows: Rows, schema: EventSchema) -> tuple[I64, Clicked]:
        """Return which rows are clicked, and their feedback.

        Those that are no impressions, or whose feedback time is not good, are left out.
        """
        index = np.flatnonzero(self.labels(rows))
        batch = rows.batch.take(pa.array(index))
        chosen = Rows(rows.first, rows.numbers[index], batch)
        ts, good = self.times(chosen)
        impression, ok = self._impression_ids(chosen)
        user, no_id = ids_of(batch.column(self._mapping.user_id))
        at_ms, in_time = self._feedback_times(chosen, ts, impression)
        good = good & ok & (user != 0) & ~no_id & in_time
        for column, faulty in self._checks(schema):
            good = good & ~faulty(batch.column(column))
        value = np.full(len(index), np.nan, np.float32)
        if self._mapping.value is not None:
            value = _float32(numbers_of(batch.column(self._mapping.value)))
        return index[good], Clicked(at_ms[good], impression[good], user[good], value[good])

    def impressions(
        self, rows: Rows, schema: EventSchema, partition: int
    ) -> tuple[EventColumns, list[Rejected], dict[int, str]]:
        """Return the impressions of ``rows``, the rows that are none, and the scenes' names.

        An impression's offset is its row's place in reading order, its ``partition`` an index.
        """
        mapping, batch, n = self._mapping, rows.batch, len(rows.numbers)
        faults = _Faults(rows)
        ts, good = self.times(rows)
        faults.add(_absent(batch, mapping.ts), "missing_field", f"{mapping.ts} is null")
        faults.add(~good, "bad_time", f"{mapping.ts} is not between 2001 and 2100")
        impression, ok = self._impression_ids(rows)
        for column in mapping.impression_id:
            faults.add(_absent(batch, column), "missing_field", f"{column} is null")
        faults.add(~ok, "wrong_type", f"{' and '.join(mapping.impression_id)}: not an id")
        user = faults.ids(mapping.user_id, required=True)
        item = faults.ids(mapping.item_id, required=True)
        request = impression
        if mapping.request_id is not None:
            named = faults.ids(mapping.request_id)
            request = np.where(named == 0, impression, named)
        events = replace(
            EventColumns.empty(schema, n),
            kind=np.full(n, IMPRESSION, np.uint8),
            ts=ts,
            at=ts,
            impression=impression,
            user=user,
            item=item,
            request=request,
            partition=np.full(n, partition, np.int16),
            offset=rows.first + np.arange(n, dtype=np.int64),
        )
        names: dict[int, str] = {}
        if mapping.scene is not None:
            events.scene[:] = faults.ids(mapping.scene)
            names = _scene_names(events.scene, batch.column(mapping.scene))
        if mapping.position is not None:
            events.position[:] = _positions(batch.column(mapping.position))
        self._fill_features(events, schema, batch, faults)
        bad = faults.bad
        if mapping.label is not None:  # such a row stays an impression, without its feedback
            in_time = self._feedback_times(rows, ts, impression)[1]
            faults.add(
                self.labels(rows) & ~in_time & ~bad, "bad_time", "clicked, but its time is missing"
            )
        return (events.take(~bad) if bad.any() else events), faults.rejected(), names

    def _fill_features(
        self, events: EventColumns, schema: EventSchema, batch: Any, faults: "_Faults"
    ) -> None:
        features = self._mapping.features
        for i, name in enumerate(schema.ids):
            events.ids[:, i] = faults.ids(features[name])
        for i, name in enumerate(schema.numbers):
            values = numbers_of(batch.column(features[name]))
            large = np.abs(values) > _FLOAT32
            faults.add(large, "wrong_type", f"{features[name]} is larger than 32 bits hold")
            events.numbers[:, i] = np.where(large, np.nan, values)
        start = 0
        for name, width in schema.lists:
            lists, no_ids = _lists(batch.column(features[name]), width)
            faults.add(no_ids, "wrong_type", f"{features[name]} holds a number with a fraction")
            events.lists[:, start : start + width] = lists
            start += width

    def _checks(self, schema: EventSchema) -> list[tuple[str, Callable[[Any], Mask]]]:
        """Return what else may make a row no impression, as `impressions` judges it.

        Left out are columns whose kind admits no fault: clicks are found in a pass of their own,
        which would have to read them.
        """
        mapping, kind = self._mapping, self._table.kind
        ids = [mapping.request_id, mapping.scene, *(mapping.features[n] for n in schema.ids)]
        numbers = [mapping.features[n] for n in schema.numbers]
        lists = [(mapping.features[n], width) for n, width in schema.lists]
        checks: list[tuple[str, Callable[[Any], Mask]]] = [(mapping.item_id, _no_item)]
        checks += [(c, _no_id) for c in ids if c is not None and pa.types.is_floating(kind(c))]
        checks += [(c, _too_large) for c in numbers if not _fits_float32(kind(c))]
        for column, width in lists:
            if pa.types.is_floating(kind(column).value_type):
                checks.append((column, partial(_no_id_within, width=width)))
        return checks

    def _impression_ids(self, rows: Rows) -> tuple[U64, Mask]:
        """Return impression ids (n,) and a mask of those that are there and are ids."""
        columns = [rows.batch.column(c) for c in self._mapping.impression_id]
        if not columns:
            return hash_integers(rows.numbers), np.ones(len(rows.numbers), bool)
        if len(columns) == 1:
            ids, no_id = ids_of(columns[0])
            return ids, (ids != 0) & ~no_id
        texts = joined_texts(columns)
        there = texts.is_valid().to_numpy(zero_copy_only=False)
        ids = hash_texts(texts)
        return np.where(there, ids, np.uint64(0)), there

    def _feedback_times(self, rows: Rows, ts: I64, impression: U64) -> tuple[I64, Mask]:
        delay = self._mapping.delay
        there = np.ones(len(ts), bool)
        values: npt.NDArray[np.float64] | I64 | None = None
        if delay.column is not None:
            column = rows.batch.column(delay.column)
            if delay.column_is == "time":
                values, there = times_of(column, self.feedback_unit)
                values += 1000 * self._mapping.ts_shift_s
            else:
                seconds = numbers_of(column)
                there = np.abs(seconds) < LATEST_MS / 1000
                values = np.where(there, seconds, 0.0)
        at_ms = delay.feedback_ms(ts, impression, values)
        return at_ms, there & (at_ms >= EARLIEST_MS) & (at_ms < LATEST_MS)


def feedback(
    schema: EventSchema, action: str, clicked: Clicked, first: int, partition: int
) -> EventColumns:
    """Return the feedback events of ``clicked`` (n,), whose offsets begin at ``first``."""
    n = len(clicked.at_ms)
    code = schema.actions.index(action) if action in schema.actions else OTHER_ACTION
    return replace(
        EventColumns.empty(schema, n),
        kind=np.full(n, FEEDBACK, np.uint8),
        ts=clicked.at_ms,
        at=clicked.at_ms,
        impression=clicked.impression,
        user=clicked.user,
        request=clicked.impression,
        value=clicked.value,
        action=np.full(n, code, np.uint8),
        partition=np.full(n, partition, np.int16),
        offset=first + np.arange(n, dtype=np.int64),
    )


class _Faults:
    """What is wrong with which rows of a batch; a row's first fault is the one that is told."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.bad: Mask = np.zeros(len(rows.numbers), bool)
        self._found: list[tuple[int, str, str]] = []

    def add(self, where: Mask, reason: str, detail: str) -> None:
        """Note rows (n,) for a reason of `stream.deadletters.REASONS`."""
        new = where & ~self.bad
        if new.any():
            self._found += [(int(i), reason, detail) for i in np.flatnonzero(new)]
            self.bad = self.bad | new

    def ids(self, column: str, required: bool = False) -> U64:
        """Return the ids of ``column`` (n,); note rows where they are none, or are not there."""
        ids, no_id = ids_of(self._rows.batch.column(column))
        self.add(no_id, "wrong_type", f"{column} is not an id: it has a fraction")
        if required:
            self.add(ids == 0, "missing_field", f"{column} is null or empty")
        return ids

    def rejected(self) -> list[Rejected]:
        """Return the rows noted, in their order."""
        return [
            Rejected(SHOWN, self._rows.first + i, 0, reason, self._told(i, detail), self._raw(i))
            for i, reason, detail in sorted(self._found)
        ]

    def _told(self, i: int, detail: str) -> str:
        return f"row {self._rows.numbers[i]}: {detail}"

    def _raw(self, i: int) -> bytes:
        row = self._rows.batch.slice(i, 1).to_pylist()[0]
        return orjson.dumps(row, default=str)[:_RAW]


def _absent(batch: Any, column: str) -> Mask:  # a pyarrow.RecordBatch
    mask: Mask = batch.column(column).is_null().to_numpy(zero_copy_only=False)
    return mask


def _float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return ``values`` (n,) in 32 bits, NaN where they are too large for them."""
    return np.where(np.abs(values) > _FLOAT32, np.nan, values).astype(np.float32)


def _scene_names(hashes: U64, column: Any) -> dict[int, str]:  # a pyarrow array
    distinct, index = np.unique(hashes, return_index=True)
    texts = [str(column[int(i)].as_py()) for i in index]
    return {int(h): t for h, t in zip(distinct, texts, strict=True) if h != 0}


def _positions(column: Any) -> npt.NDArray[np.int32]:  # a pyarrow array
    values = numbers_of(column)
    known = (values >= 0) & (values < 2**31)
    return np.where(known, values, -1).astype(np.int32)


def _lists(column: Any, width: int) -> tuple[U64, Mask]:  # a pyarrow array
    """Return the first ``width`` ids of each list, (n, width), 0 where there are fewer.

    With a mask (n,) of lists that hold, there, what is no id.
    """
    column = plain(column)
    lengths = column.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    flat, no_id = ids_of(column.flatten())
    out = np.zeros((len(lengths), width), np.uint64)
    kept = np.minimum(lengths, width)
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(lengths)), kept)
    within = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    out[rows, within] = flat[starts[rows] + within]
    return out, np.bincount(rows[no_id[starts[rows] + within]], minlength=len(lengths)) > 0


def _no_item(column: Any) -> Mask:  # a pyarrow array
    ids, no_id = ids_of(column)
    none: Mask = (ids == 0) | no_id
    return none


def _no_id(column: Any) -> Mask:  # a pyarrow array
    return ids_of(column)[1]


def _no_id_within(column: Any, width: int) -> Mask:  # a pyarrow array
    return _lists(column, width)[1]


def _too_large(column: Any) -> Mask:  # a pyarrow array
    large: Mask = np.abs(numbers_of(column)) > _FLOAT32
    return large


def _fits_float32(kind: Any) -> bool:  # a pyarrow.DataType
    return not bool(pa.types.is_float64(kind) or pa.types.is_decimal(kind))


def _unit(table: ParquetFiles, column: str, declared: TimeUnit | None) -> TimeUnit:
    """Return the unit of a time column of plain numbers, from its first rows that have one."""
    kind = table.kind(column)
    if declared is not None or not is_number(kind):
        return declared or "ms"
    for rows in table.rows([column], 0, 65_536):
        values = numbers_of(rows.batch.column(column))
        values = values[np.isfinite(values)]
        if len(values):
            return guess_unit(values, column)
    return "ms"  # null in every row


def _check_kind(role: str, column: str, kind: Any) -> None:  # a pyarrow.DataType
    key = role.split("] ")[1].split(" ")[0]
    if role.startswith("[input.features]"):
        good, needed = is_id(kind) or is_number(kind) or is_list(kind), "ids, numbers or lists"
    elif key in ("ts", "time_column"):
        good, needed = is_time(kind), "times"
    elif key in ("label", "delay_column", "value", "position"):
        good, needed = is_number(kind), "numbers"
    else:
        good, needed = is_id(kind), "ids (text or whole numbers)"
    if not good:
        raise MappingError(
            f"{role} names the column {column!r}, which holds {kind}: it needs {needed}. "
            "Name another column."
        )


def check_feature_kinds(mapping: ParquetMapping, schema: EventSchema, table: ParquetFiles) -> None:
    """Raise `MappingError` unless every feature of ``schema`` has a column of its kind."""
    kinds: Sequence[tuple[str, Any, str]] = [
        *((name, is_id, "an id: list it under numbers or lists") for name in schema.ids),
        *((name, is_number, "a number: list it under ids or lists") for name in schema.numbers),
        *((name, is_list, "a list: list it under ids or numbers") for name, _ in schema.lists),
    ]
    for name, fits, advice in kinds:
        kind = table.kind(mapping.features[name])
        if not fits(kind) or (is_list(kind) and not is_id(kind.value_type)):
            raise MappingError(
                f"The feature {name!r} is read from the column {mapping.features[name]!r}, which "
                f"holds {kind} and is not {advice}."
            )
