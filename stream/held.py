"""Events that wait for their turn in the canonical order."""

from dataclasses import fields
from typing import Generic

import numpy as np
import numpy.typing as npt

from stream.events import Columns, EventColumns

_SMALL = 8_192  # chunks below are merged as they come, so that one-event blocks stay cheap
_SPARSE = (
    4  # a chunk with less than 1/4 of its events left is copied: bounds what the gone ones hold
)


class HeldEvents(Generic[Columns]):
    """Holds placed events and lets them go in order (`at`, kind, partition, offset, row).

    Events are added in log order within each partition. They stay in the chunks they came in and
    are copied once, when they go; memory is at most four times the events held.
    """

    def __init__(self, none: Columns, partitions: int) -> None:
        """Hold events of the class and schema of ``none``, which are no events."""
        self._none = none
        self._partitions = partitions
        self._chunks: list[tuple[Columns, npt.NDArray[np.intp]]] = []  # and the rows held

    def __len__(self) -> int:
        return sum(rows.size for _, rows in self._chunks)

    def add(self, events: Columns) -> None:
        """Hold ``events``, whose `at` is set."""
        if not len(events):
            return
        self._chunks.append((events, np.arange(len(events))))
        while len(self._chunks) > 1:
            (older, rows), (newer, newer_rows) = self._chunks[-2:]
            if newer_rows.size >= _SMALL or rows.size > newer_rows.size:
                break  # as in a binary counter: every event is merged at most 13 times
            merged = EventColumns.concat([older.take(rows), newer.take(newer_rows)])
            self._chunks[-2:] = [(merged, np.arange(len(merged)))]

    def release(self, watermark: int) -> Columns:
        """Let all events with ``at < watermark`` go, in order."""
        going, kept = [], []
        for events, rows in self._chunks:
            ready = events.at[rows] < watermark
            if not ready.any():
                kept.append((events, rows))
                continue
            going.append((events, rows[ready]))
            rest = rows[~ready]
            if 0 < rest.size * _SPARSE < len(events):
                kept.append((events.take(rest), np.arange(rest.size)))
            elif rest.size:
                kept.append((events, rest))
        self._chunks = kept
        return self._sorted(going)

    def last(self) -> int:
        """Return the greatest `at` held; at least one event is."""
        return max(int(events.at[rows].max()) for events, rows in self._chunks)

    def at_of(self, n: int) -> int:
        """Return the `at` of the ``n``-th earliest event held, from 1."""
        at = np.concatenate([events.at[rows] for events, rows in self._chunks])
        return int(np.partition(at, n - 1)[n - 1])

    def events(self) -> Columns:
        """Return a copy of the events held, in log order within each partition."""
        taken = [events.take(rows) for events, rows in self._chunks]
        return EventColumns.concat([self._none, *taken])

    def _sorted(self, parts: list[tuple[Columns, npt.NDArray[np.intp]]]) -> Columns:
        if not parts:
            return self._none
        order = self._turns(parts)
        if len(parts) == 1:
            events, rows = parts[0]
            return _gathered(events, rows[order])
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        return _scattered(parts, place)

    def _turns(self, parts: list[tuple[Columns, npt.NDArray[np.intp]]]) -> npt.NDArray[np.intp]:
        """Return the places, in ``parts`` one after another, of what goes first, second, ..."""
        at = np.concatenate([events.at[rows] for events, rows in parts])
        kind = np.concatenate([events.kind[rows] for events, rows in parts])
        partition = np.concatenate([events.partition[rows] for events, rows in parts])
        # Stable sorts keep a partition's log order, so offset and row need no key of their own.
        lane = (kind.astype(np.uint32) * np.uint32(self._partitions) + partition).astype(np.uint32)
        if self._partitions < 1 << 15:
            lane = lane.astype(np.uint16)  # 16 bits sort by radix
        by_lane = np.argsort(lane, kind="stable")
        return by_lane[np.argsort(at[by_lane], kind="stable")]


def _gathered(events: Columns, rows: npt.NDArray[np.intp]) -> Columns:
    columns = {f.name: getattr(events, f.name).take(rows, axis=0) for f in fields(events)}
    return type(events)(**columns)


def _scattered(
    parts: list[tuple[Columns, npt.NDArray[np.intp]]], place: npt.NDArray[np.intp]
) -> Columns:
    columns = {}
    kind = type(parts[0][0])
    for f in fields(kind):
        first = getattr(parts[0][0], f.name)
        column = columns[f.name] = np.empty((place.size, *first.shape[1:]), first.dtype)
        begin = 0
        for events, rows in parts:
            end = begin + rows.size
            column[place[begin:end]] = getattr(events, f.name).take(rows, axis=0)
            begin = end
    return kind(**columns)
