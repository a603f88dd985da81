"""Events of an old log as the lines of a new one: their own ids, their own times.

What each generator yields is in the order of time within impressions and within feedback.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from replay.clicks import scan, time_order
from replay.columns import is_list, numbers_of, plain, texts_of
from replay.files import ParquetFiles, Rows, SortedRows, expand
from replay.lines import LineReader
from replay.mapping import ParquetMapping
from replay.ndjson import partitions_of as file_partitions
from replay.rows import RowReader
from stream.archive_source import ArchiveLog, Catalog
from stream.blocks import PartitionLog
from stream.decode import MAX_LINE_BYTES, Decoder
from stream.encode import encode_event
from stream.events import FEEDBACK, EventSchema
from stream.filelog import folder_of, partitions_of
from stream.filelog_source import PartitionReader
from stream.position import Offset, Partition
from stream.source import Rejected

_NOTHING: Final = (
    EventSchema()
)  # features are passed on as they are, and judged where they are read
_ROWS: Final = 8_192  # a step: some MB of dicts
_LINES: Final = 1_024

Topic = Literal["impressions", "feedback"]


@dataclass(frozen=True, slots=True)
class LogLine:
    """An event as it is to be written."""

    topic: Topic
    ts: int  # epoch ms
    user: int  # the hash of its user's id
    line: bytes  # JSON, without its newline


def parquet_lines(
    paths: str | Path | Iterable[str | Path],
    mapping: ParquetMapping,
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
    sort: bool = False,
) -> Iterator[LogLine | Rejected]:
    """Yield the impressions of a table and their feedback, merged by time.

    An impression carries the columns of ``[input.features]``. Holds some rows, and the feedback
    that is still to come. Feedback earlier than its impression comes right after it.
    """
    files = ParquetFiles(paths)
    reader = RowReader(mapping, files)
    table: ParquetFiles | SortedRows = time_order(files, mapping, reader) if sort else files
    bounds = scan(table, files, mapping, reader, _NOTHING, from_ms, until_ms)
    waiting: list[tuple[int, int, LogLine]] = []
    number = count()
    # the feedback of earlier rows may fall into the time asked for
    for rows in table.rows(_columns(mapping), 0, _ROWS):
        if until_ms is not None and rows.first >= bounds.until:
            break
        events, rejected, _ = reader.impressions(rows, _NOTHING, 0)
        for letter in rejected:
            if bounds.first <= letter.offset < bounds.until:
                yield letter
        clicks = _click_lines(mapping, reader, rows)
        places = (events.offset - rows.first).tolist()
        lines = _row_lines(mapping, rows, events.ts, places)
        for place, ts, user, line in zip(
            places, events.ts.tolist(), events.user.tolist(), lines, strict=True
        ):
            while waiting and waiting[0][0] < ts:
                yield heapq.heappop(waiting)[2]
            if bounds.first <= rows.first + place < bounds.until:
                yield LogLine("impressions", ts, user, line)
            click = clicks.get(place)
            if click is not None and _within(click.ts, from_ms, until_ms):
                heapq.heappush(waiting, (click.ts, next(number), click))
    while waiting:
        yield heapq.heappop(waiting)[2]


def ndjson_lines(
    paths: str | Path | Iterable[str | Path],
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[LogLine | Rejected]:
    """Yield the lines of files of events, files merged by time, each file in its own order."""
    logs = []
    with ExitStack() as opened:
        for i, (partition, path) in enumerate(sorted(file_partitions(expand(paths)).items())):
            reader = LineReader(path, partition, 0, max_line_bytes)
            opened.callback(reader.close)
            logs.append(_Clock(i, partition, max_line_bytes).lines(reader))
        yield from _merged(logs, from_ms, until_ms)


def log_lines(
    root: Path,
    topics: Sequence[str],
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> Iterator[LogLine | Rejected]:
    """Yield the events of a file log, partitions merged by time, each in its own order."""
    partitions = sorted(p for topic in set(topics) for p in partitions_of(root, topic))
    readers = (PartitionReader(folder_of(root, p), p, None) for p in partitions)
    yield from _merged(_clocked(partitions, readers), from_ms, until_ms)


def archive_lines(
    root: Path,
    topics: Sequence[str],
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> Iterator[LogLine | Rejected]:
    """Yield the events of an archive, as `log_lines` does those of the log it was made of."""
    catalog = Catalog(root)
    partitions = catalog.partitions(topics)
    logs = (ArchiveLog(catalog, p, Offset(0), from_ms, until_ms) for p in partitions)
    yield from _merged(_clocked(partitions, logs), from_ms, until_ms)


# (clock, log, number, event): what logs are merged by
_Clocked = tuple[int, int, int, LogLine | Rejected]


def _clocked(
    partitions: Iterable[Partition], logs: Iterable[PartitionLog]
) -> Iterator[Iterator[_Clocked]]:
    for i, (partition, log) in enumerate(zip(partitions, logs, strict=True)):
        yield _Clock(i, partition, MAX_LINE_BYTES).lines(log)


def _merged(
    logs: Iterable[Iterator[_Clocked]], from_ms: int | None, until_ms: int | None
) -> Iterator[LogLine | Rejected]:
    for _, _, _, line in heapq.merge(*logs):
        if isinstance(line, Rejected) or _within(line.ts, from_ms, until_ms):
            yield line


class _Clock:
    """Reads one log, and says when in time each of its events has its turn."""

    def __init__(self, index: int, partition: Partition, max_line_bytes: int) -> None:
        self._decoder = Decoder(_NOTHING, max_line_bytes)
        self._index, self._partition = index, partition
        self._now = -1
        self._number = 0

    def lines(self, log: PartitionLog) -> Iterator[_Clocked]:
        """Yield the events of ``log`` in its order, and what is none."""
        while (fetched := log.fetch(_LINES)) is not None:
            messages, offsets = fetched.messages, fetched.offsets
            events, letters, _ = self._decoder.decode(
                messages, offsets, self._index, self._partition
            )
            held = {o: m.split(b"\n") for o, m in zip(offsets.tolist(), messages, strict=True)}
            columns = (events.kind, events.ts, events.user, events.offset, events.row)
            for kind, ts, user, offset, row in zip(*(c.tolist() for c in columns), strict=True):
                topic: Topic = "feedback" if kind == FEEDBACK else "impressions"
                self._now = max(self._now, ts)
                yield self._turn(LogLine(topic, ts, user, held[offset][row].strip()))
            for letter in (*letters, *fetched.rejected):
                yield self._turn(letter)

    def _turn(self, line: LogLine | Rejected) -> _Clocked:
        self._number += 1
        return self._now, self._index, self._number, line


def _columns(mapping: ParquetMapping) -> list[str]:
    names = [mapping.item_id, *mapping.feedback_columns, *mapping.features.values()]
    names += [c for c in (mapping.request_id, mapping.scene, mapping.position) if c is not None]
    return list(dict.fromkeys(names))


def _click_lines(mapping: ParquetMapping, reader: RowReader, rows: Rows) -> dict[int, LogLine]:
    index, clicked = reader.clicked(rows, _NOTHING)
    chosen = Rows(rows.first, rows.numbers[index], rows.batch.take(pa.array(index)))
    fields: dict[str, list[Any]] = {
        "impression_id": _impression_ids(mapping, chosen),
        "user_id": _ids(chosen.batch.column(mapping.user_id)),
        "ts": clicked.at_ms.tolist(),
        "action": [mapping.action] * len(index),
    }
    if mapping.value is not None:
        fields["value"] = clicked.value.tolist()  # NaN is written as null
    found: dict[int, LogLine] = {}
    for place, ts, user, *values in zip(
        index.tolist(), fields["ts"], clicked.user.tolist(), *fields.values(), strict=True
    ):
        line = encode_event(dict(zip(fields, values, strict=True)))
        found[place] = LogLine("feedback", ts, user, line)
    return found


def _row_lines(
    mapping: ParquetMapping,
    rows: Rows,
    ts: Any,
    places: list[int],  # ts: int64 (n,)
) -> Iterator[bytes]:
    """Yield the impressions of the rows at ``places`` as JSON."""
    chosen = Rows(rows.first, rows.numbers[places], rows.batch.take(pa.array(places, pa.int64())))
    batch = chosen.batch
    fields: dict[str, list[Any]] = {
        "impression_id": _impression_ids(mapping, chosen),
        "user_id": _ids(batch.column(mapping.user_id)),
        "item_id": _ids(batch.column(mapping.item_id)),
        "ts": ts.tolist(),
    }
    for name, column in (("request_id", mapping.request_id), ("scene", mapping.scene)):
        if column is not None:
            fields[name] = _ids(batch.column(column))
    if mapping.position is not None:
        places_shown = numbers_of(batch.column(mapping.position)).tolist()
        fields["position"] = [int(p) if 0 <= p < 2**31 else None for p in places_shown]
    features = {name: _values(batch.column(column)) for name, column in mapping.features.items()}
    for i in range(len(places)):
        event = {name: values[i] for name, values in fields.items() if values[i] is not None}
        known = {name: values[i] for name, values in features.items() if values[i] is not None}
        if known:
            event["features"] = known
        yield encode_event(event)


def _impression_ids(mapping: ParquetMapping, rows: Rows) -> list[Any]:
    columns = [rows.batch.column(c) for c in mapping.impression_id]
    if not columns:
        return list(rows.numbers.tolist())
    if len(columns) == 1:
        return _ids(columns[0])
    texts = [texts_of(c).to_pylist() for c in columns]
    return [":".join(parts) if None not in parts else None for parts in zip(*texts, strict=True)]


def _ids(array: Any) -> list[Any]:  # a pyarrow array
    array = plain(array)
    whole = pa.types.is_integer(array.type)
    return list(array.to_pylist() if whole else texts_of(array).to_pylist())


def _values(array: Any) -> list[Any]:  # a pyarrow array
    array = plain(array)
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if is_list(array.type) or not pa.types.is_floating(array.type):
        return list(array.to_pylist())
    return [v if np.isfinite(v) else None for v in numbers_of(array).tolist()]


def _within(ts: int, from_ms: int | None, until_ms: int | None) -> bool:
    return (from_ms is None or ts >= from_ms) and (until_ms is None or ts < until_ms)
