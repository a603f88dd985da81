"""A Parquet log as a source: impressions in the order of rows, feedback in the order of time."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from replay.clicks import scan, time_order
from replay.files import ParquetFiles, Rows, SortedRows
from replay.mapping import ParquetMapping
from replay.rows import CLICKS, SHOWN, Clicked, RowReader, check_feature_kinds, feedback
from stream.events import EventColumns, EventSchema
from stream.position import Offset, Partition, Position
from stream.source import Block, Rejected

_FEEDBACK: Final = 0  # indices into ParquetSource.partitions
_SHOWN: Final = 1
_MAX_NAMES: Final = 10_000  # scenes that are named


class ParquetSource:
    """Reads tables of one row an impression as two partitions, `impressions` and `feedback`.

    An impression's offset is its row (with ``sort``, its place in the order of time); a feedback's
    offset is its rank by feedback time, found by a pass over the few columns it needs when the
    source is opened. Holds 28 bytes a click and one batch of rows; with ``sort``, every column that
    it needs. Events with ``from_ms`` <= ts < ``until_ms`` are read.

    Raises `InputError`, in one line, where files, mapping and schema do not fit together.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        mapping: ParquetMapping,
        schema: EventSchema,
        *,
        position: Position | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        block_events: int = 16_384,
        sort: bool = False,
    ) -> None:
        self._files = ParquetFiles(paths)
        self._mapping, self._schema, self._block = mapping, schema, block_events
        self._reader = RowReader(mapping, self._files)
        mapping.check_schema(schema)
        check_feature_kinds(mapping, schema, self._files)
        self._table: ParquetFiles | SortedRows = self._files
        if sort:
            self._table = time_order(self._files, mapping, self._reader)
        found = scan(self._table, self._files, mapping, self._reader, schema, from_ms, until_ms)
        self._clicked, self._until = found.clicked, found.until
        times = found.clicked.at_ms
        here = position or Position()
        self._start = max(here.of(SHOWN).message, found.first)
        self._first_click = max(
            here.of(CLICKS).message, 0 if from_ms is None else int(np.searchsorted(times, from_ms))
        )
        self._clicks = len(times) if until_ms is None else int(np.searchsorted(times, until_ms))
        self._closed = False

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Feedback and impressions."""
        return (CLICKS, SHOWN)

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        return self._schema

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks of at most ``block_events``, the two partitions merged by time.

        Feedback goes up to the time of the last impression in its block.
        """
        chunks = self._chunks()
        row, click = self._start, self._first_click
        shown = _Shown(EventColumns.empty(self._schema), row, (), {})
        while not self._closed:
            while len(shown.events) == 0 and not shown.rejected and shown.end < self._until:
                shown = next(chunks)
            taken, clicks = self._merge(shown, click)
            now, shown = shown.split(taken)
            row, first, click = now.end, click, click + clicks
            events = [now.events] if taken else []
            if clicks:
                index = slice(first, click)
                events.append(
                    feedback(
                        self._schema, self._mapping.action, self._feedback(index), first, _FEEDBACK
                    )
                )
            # No click is due up to here: impressions need not wait for the next one, however far.
            quiet = clicks == 0 and click < self._clicks
            over = {_SHOWN: row >= self._until, _FEEDBACK: click >= self._clicks}
            yield Block(
                events=EventColumns.concat(events or [EventColumns.empty(self._schema)]),
                position=Position({CLICKS: Offset(click), SHOWN: Offset(row)}),
                rejected=now.rejected,
                ended=frozenset(partition for partition, ended in over.items() if ended),
                idle=frozenset({_FEEDBACK}) if quiet else frozenset(),
                names=now.names,
            )
            if all(over.values()):
                return

    def close(self) -> None:
        """End the iteration at its next block; idempotent."""
        self._closed = True

    def _chunks(self) -> Iterator["_Shown"]:
        named: set[int] = set()
        columns = self._mapping.columns_for(self._schema)
        for rows in self._table.rows(columns, self._start, self._block):
            if rows.first >= self._until:
                return
            kept = min(len(rows.numbers), self._until - rows.first)
            rows = Rows(rows.first, rows.numbers[:kept], rows.batch.slice(0, kept))
            events, rejected, names = self._reader.impressions(rows, self._schema, _SHOWN)
            new = {h: n for h, n in names.items() if h not in named}
            new = dict(list(new.items())[: _MAX_NAMES - len(named)])
            named |= new.keys()
            yield _Shown(events, rows.first + kept, tuple(rejected), new)

    def _merge(self, shown: "_Shown", click: int) -> tuple[int, int]:
        """Return how many impressions and how much feedback come next, at most a block in all."""
        ready = len(shown.events)
        times = self._clicked.at_ms[click : min(self._clicks, click + self._block)]
        clicks = len(times)
        if shown.end < self._until:
            until = shown.events.ts[-1] if ready else 0
            clicks = int(np.searchsorted(times, until, side="right"))
        if ready + clicks <= self._block:
            return ready, clicks
        both = np.concatenate([shown.events.ts, times[:clicks]])
        taken = int((np.argsort(both, kind="stable")[: self._block] < ready).sum())
        return taken, self._block - taken

    def _feedback(self, index: slice) -> Clicked:
        c = self._clicked
        return Clicked(c.at_ms[index], c.impression[index], c.user[index], c.value[index])


class _Shown:
    """Impressions read and not yet given out, and the row after them."""

    def __init__(
        self,
        events: EventColumns,
        end: int,
        rejected: tuple[Rejected, ...],
        names: dict[int, str],
    ) -> None:
        self.events, self.end, self.rejected, self.names = events, end, rejected, names

    def split(self, taken: int) -> tuple["_Shown", "_Shown"]:
        """Return the first ``taken`` events with all rows before the next one, and the rest."""
        if taken == len(self.events):
            return self, _Shown(self.events.take(slice(0, 0)), self.end, (), {})
        cut = int(self.events.offset[taken])
        now = tuple(r for r in self.rejected if r.offset < cut)
        later = tuple(r for r in self.rejected if r.offset >= cut)
        return (
            _Shown(self.events.take(slice(0, taken)), cut, now, self.names),
            _Shown(self.events.take(slice(taken, None)), self.end, later, {}),
        )
