"""All feedback of a table, found before replay begins: a click comes long after its row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from replay.columns import I64
from replay.errors import InputUnsorted, MappingError
from replay.files import ParquetFiles, SortedRows, Table
from replay.mapping import ParquetMapping
from replay.rows import Clicked, RowReader
from stream.events import EventSchema

_BLOCK = 65_536  # rows a step: a few MB of the columns that feedback needs


@dataclass(frozen=True)
class Scan:
    """What one pass over the columns that feedback needs finds. 28 bytes a click."""

    clicked: Clicked  # in the order of feedback time, then of the rows
    first: int  # the first row at or after ``from_ms``
    until: int  # the row after the last before ``until_ms``


def scan(
    table: Table,
    files: ParquetFiles,
    mapping: ParquetMapping,
    reader: RowReader,
    schema: EventSchema,
    from_ms: int | None,
    until_ms: int | None,
) -> Scan:
    """Find the feedback of ``table``, and the rows of the times asked for.

    A row that is no impression of ``schema`` has no feedback: its dead letter tells of both.
    Raises `InputUnsorted` where a row is earlier than one before it, `MappingError` where none has
    a time.
    """
    found: list[Clicked] = []
    latest, first, until, dated = -1, table.size, 0, 0
    for rows in table.rows(reader.click_columns(schema), 0, _BLOCK):
        ts, good = reader.times(rows)
        # rows without a time have no say in order and bounds: they go with those before them
        steps = np.maximum.accumulate(np.where(good, ts, latest))
        steps = np.maximum(steps, latest)
        early = np.flatnonzero(good & (ts < steps))
        if early.size:
            raise InputUnsorted(
                f"{files.where} is not in the order of {mapping.ts!r}: row "
                f"{rows.numbers[early[0]]} is earlier than one before it. Sort it, or replay with "
                "sort = true, which holds its columns in memory."
            )
        latest = int(steps[-1])
        if from_ms is None:
            first = 0
        elif first == table.size and latest >= from_ms:
            first = rows.first + int(np.searchsorted(steps, from_ms))
        if until_ms is None or steps[-1] < until_ms:
            until = rows.first + len(steps)
        elif steps[0] < until_ms:
            until = rows.first + int(np.searchsorted(steps, until_ms))
        dated += int(good.sum())
        found.append(reader.clicked(rows, schema)[1])
    if dated == 0:
        raise MappingError(
            f"No row of {files.where} has a time between 2001-09-09 and 2100 in {mapping.ts!r}: "
            "map another column, state its ts_unit, or move old times with ts_shift_s."
        )
    return Scan(_by_time(found), first, max(first, until))


def time_order(files: ParquetFiles, mapping: ParquetMapping, reader: RowReader) -> SortedRows:
    """Return ``files`` in the order of time, equal times in the order of the rows.

    Holds 8 bytes a row, and while it is read the columns asked for. Rows without a time come first.
    """
    times: list[I64] = []
    for rows in files.rows([mapping.ts], 0, _BLOCK):
        ts, good = reader.times(rows)
        times.append(np.where(good, ts, -1))
    return SortedRows(files, np.argsort(np.concatenate(times), kind="stable"))


def _by_time(found: Sequence[Clicked]) -> Clicked:
    at_ms = np.concatenate([c.at_ms for c in found])
    impression = np.concatenate([c.impression for c in found])
    user = np.concatenate([c.user for c in found])
    order = np.argsort(at_ms, kind="stable")
    value = np.concatenate([c.value for c in found])
    return Clicked(at_ms[order], impression[order], user[order], value[order])
