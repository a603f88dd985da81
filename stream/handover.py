"""A history, then what is live: one source, without gap or overlap."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from stream.events import IMPRESSION, EventColumns, EventSchema
from stream.order import EventTimeOrder, OrderConfig
from stream.position import Offset, Partition, Position
from stream.source import Block, Source

HISTORY: Final = "history:"  # before the topics of a history: Kafka has no topic with a colon
OVER: Final = Offset(1 << 62)  # where a history's partition is that was read to its end


class HandOver:
    """Reads a history to its end, then goes on with what is live.

    The two are parted by event time, by whoever opens them: the history with ``until_ms`` = T, what
    is live with ``from_ms`` = T. Its partitions are those of the history, their topics renamed with
    `HISTORY`, and the live ones. While the history is read the live ones come `later` and hold
    nothing back; once it is over each holds the order back until it has brought something or is
    known to be idle, as at the beginning of any log. The result is that of one log that holds both,
    where no event below T comes more than the lateness behind one from T on.

    A position names both: a history that is over is at `OVER`, and is not opened again.
    """

    def __init__(
        self,
        schema: EventSchema,
        history: Source | None,
        live: Sequence[Partition],
        open_live: Callable[[Position], Source],
        *,
        position: Position | None = None,
    ) -> None:
        """Read from ``position`` on, at which ``history`` was opened; None where it is over.

        ``open_live`` opens the partitions ``live`` at their part of the position, once the history
        is over.
        """
        self._position = position or Position()
        past = history.partitions if history else sorted(history_position(self._position).offsets)
        self._history = history
        self._live = tuple(sorted(live))
        self._open_live = open_live
        self._schema = schema
        renamed = [_renamed(p) for p in past]
        self._partitions = tuple(sorted({*renamed, *self._live}))
        index = {p: i for i, p in enumerate(self._partitions)}
        assert len(index) == len(renamed) + len(self._live), "no live topic is named as a history"
        self._past_index = np.array([index[p] for p in renamed], np.int16)
        self._live_index = np.array([index[p] for p in self._live], np.int16)
        self._reading: Source | None = history
        self._closed = threading.Event()
        self.grown = False  # it has ended because there are other live partitions: open it anew

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those of the history and the live ones, sorted."""
        return self._partitions

    @property
    def schema(self) -> EventSchema:
        """What the events of both carry."""
        return self._schema

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks of the history, one that says that it is over, then the live ones."""
        position = self._position
        past = frozenset(self._past_index.tolist())
        live = frozenset(self._live_index.tolist())
        if self._history is not None:
            for block in self._history:
                block = _moved(block, self._past_index)
                position = _onward(position, block.position, _renamed)
                yield replace(
                    block,
                    position=position,
                    rejected=tuple(
                        replace(r, partition=_renamed(r.partition)) for r in block.rejected
                    ),
                    later=live,
                )
            if self._closed.is_set():
                return
            over = {p: OVER for p in self._partitions if is_history(p)}
            position = Position({**position.offsets, **over})
            yield Block(EventColumns.empty(self._schema), position, ended=past)
        source = self._reading = self._open_live(live_position(position))
        if self._closed.is_set():
            source.close()
            return
        if source.partitions != self._live:
            self.grown = True
            return
        for block in source:
            block = _moved(block, self._live_index)
            position = _onward(position, block.position, lambda partition: partition)
            yield replace(block, position=position, ended=block.ended | past)
        self.grown = bool(getattr(source, "grown", False))

    def close(self) -> None:
        """End the reading, also from another thread; idempotent."""
        self._closed.set()
        for source in (self._history, self._reading):
            if source is not None:
                source.close()


def is_history(partition: Partition) -> bool:
    """Whether a partition is one of a history."""
    return partition.topic.startswith(HISTORY)


def history_over(position: Position) -> bool:
    """Whether a position says that there was a history, and that it was read to its end."""
    offsets = [offset for p, offset in position.offsets.items() if is_history(p)]
    return bool(offsets) and all(offset == OVER for offset in offsets)


def history_position(position: Position) -> Position:
    """Return the part of a position that is the history's, by its own names."""
    prefix = len(HISTORY)
    return Position(
        {
            Partition(p.topic[prefix:], p.number): offset
            for p, offset in position.offsets.items()
            if is_history(p)
        }
    )


def live_position(position: Position) -> Position:
    """Return the part of a position that is not a history's."""
    return Position({p: offset for p, offset in position.offsets.items() if not is_history(p)})


def newest_impression(history: Source, config: OrderConfig) -> int | None:
    """Return the event time of a history's newest impression, ms; None where it has none.

    Impressions that the order refuses for their time do not count: one wrong clock decides nothing.
    """
    order = EventTimeOrder(config, history.schema, history.partitions)
    newest = 0
    for block in history:
        newest = max(newest, _newest_shown(order.feed(block).events))
    newest = max(newest, _newest_shown(order.finish().events))
    return newest or None


def _newest_shown(events: EventColumns) -> int:
    return int(events.ts[events.kind == IMPRESSION].max(initial=0))


def _renamed(partition: Partition) -> Partition:
    return Partition(HISTORY + partition.topic, partition.number)


def _moved(block: Block, index: np.ndarray) -> Block:
    """Return a block whose partitions have the places that ``index`` gives them."""
    events = replace(block.events, partition=index[block.events.partition])
    return replace(
        block,
        events=events,
        ended=frozenset(int(index[i]) for i in block.ended),
        idle=frozenset(int(index[i]) for i in block.idle),
    )


def _onward(position: Position, to: Position, name: Callable[[Partition], Partition]) -> Position:
    return Position({**position.offsets, **{name(p): o for p, o in to.offsets.items()}})
