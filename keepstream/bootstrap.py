"""`train --bootstrap`: learns a history, then goes on with what is live, where the history ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from keepstream.config import Config, ConfigError
from keepstream.fingerprint import difference
from keepstream.inputs import opener, reads_of
from keepstream.reading import OpenSource, Say
from stream.decode import Decoder
from stream.events import EventSchema
from stream.filelog import folder_of, partitions_of, segments_of
from stream.filelog_source import PartitionReader
from stream.handover import (
    HandOver,
    history_over,
    history_position,
    live_position,
    newest_impression,
)
from stream.kafka_batches import Record
from stream.kafka_peek import peek
from stream.kafka_topics import Topics
from stream.position import Offset, Partition, Position
from stream.reach import HandOverGap, Reach, check_reach, handover_ms, said
from stream.source import Source

HISTORY: Final = "history"  # in what a run reads: which history it began with, and its end
_CLOCKS_MS: Final = 600_000  # by so much a producer's clock may be behind its events'


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a history is followed by."""

    name: str  # for people
    partitions: Callable[[], tuple[Partition, ...]]  # those it has now
    reach: Callable[[], Mapping[Partition, Reach]]  # how far back each of them goes
    begin: Callable[[int], Position]  # before all messages with events from a time on
    open: Callable[[int], OpenSource]  # opens it, without events before a time
    skip_gap: bool = False  # go on where what lay between was deleted
    otherwise: str = ""  # how that can be asked for


class Bootstrap:
    """Opens a history and what is live as one source, wherever a run has got to.

    Where they meet is decided once, and kept in what the run ``reads``.
    """

    def __init__(
        self,
        config: Config,
        paths: Sequence[Path],
        live: Live,
        *,
        at_ms: int | None,
        before: Mapping[str, Any] | None,
        say: Say,
    ) -> None:
        """Prepare to read ``paths`` up to ``at_ms``; None: up to their end.

        ``before`` is what `reads` returned when the run was begun. A history that is over needs no
        ``paths`` any more.
        """
        self._config = config
        self._paths = paths
        self._live = live
        self._say = say
        self._lateness = round(config.order.lateness_s * 1000)
        there = before is None or (paths and all(path.exists() for path in paths))
        history = {**(reads_of(config, paths) if there else before or {}), "handover": None}
        if at_ms is None and before is not None:
            same = difference({**before, "handover": None}, history) is None
            at_ms = before["handover"] if same else None
        self._until = self._found() if at_ms is None else at_ms
        self._history = {**history, "handover": self._until}

    def reads(self) -> dict[str, Any]:
        """Return what a run that has begun with this history may go on only with."""
        return {HISTORY: self._history}

    def open(self, schema: EventSchema, position: Position) -> Source:
        """Open it at a position. Raises `HandOverGap` where the run has not begun."""
        history = None
        if not history_over(position):
            if not self._paths:
                raise ConfigError(
                    "This run is still learning its history: name it again with --bootstrap."
                )
            past = opener(self._config, self._paths, until_ms=self._until)
            history = past(schema, history_position(position))
        if not live_position(position).offsets and not history_over(position):
            self._check(self._live.reach())
            begin = self._live.begin(self._until).offsets
            position = Position({**begin, **position.offsets})
            self._say(f"{said(self._until)}: up to here the history, then {self._live.name}.")
        return HandOver(
            schema,
            history,
            self._live.partitions(),
            lambda where: self._live.open(self._until)(schema, where),
            position=position,
        )

    def _check(self, reach: Mapping[Partition, Reach]) -> None:
        try:
            check_reach(reach, self._until, self._lateness, self._live.otherwise)
        except HandOverGap as gap:
            if not self._live.skip_gap:
                raise
            self._say(f'{gap} The gap is accepted: kafka.lost is "skip".')

    def _found(self) -> int:
        self._say("Looking for the end of the history.")
        bare = EventSchema(actions=self._config.join.label_actions)  # times are all that is wanted
        source = opener(self._config, self._paths)(bare, Position())
        newest = newest_impression(source, self._config.order)
        if newest is None:
            raise ConfigError(
                f"--bootstrap {' '.join(map(str, self._paths))}: there is no impression in it. "
                "Name another history, or leave it out."
            )
        return handover_ms(self._live.reach(), newest, self._lateness)


def file_log(config: Config, root: Path, open_from: Callable[[int], OpenSource]) -> Live:
    """Return a file log as what is live."""

    def partitions() -> tuple[Partition, ...]:
        return tuple(sorted(p for t in config.log.topics for p in partitions_of(root, t)))

    return Live(
        name=str(root),
        partitions=partitions,
        reach=lambda: {p: _reach(root, p) for p in partitions()},
        begin=lambda _: Position(),  # with its oldest segment
        open=open_from,
    )


def topics(config: Config, open_from: Callable[[int], OpenSource]) -> Live:
    """Return topics of Kafka as what is live."""
    kafka = config.kafka

    def partitions() -> tuple[Partition, ...]:
        with Topics(kafka) as asked:
            return _partitions(asked)

    def _partitions(asked: Topics) -> tuple[Partition, ...]:
        found = asked.describe(config.log.topics)
        return tuple(sorted(Partition(n, k) for n, t in found.items() for k in range(t.partitions)))

    def reach() -> dict[Partition, Reach]:
        with Topics(kafka) as asked:
            here = _partitions(asked)
            oldest, ends = asked.beginnings(here), asked.ends(here)
        found = peek(kafka, {p: offset for p, offset in oldest.items() if offset < ends[p]})
        return {p: Reach(first=oldest[p], oldest_ms=_time(p, found.get(p))) for p in here}

    def begin(at_ms: int) -> Position:
        with Topics(kafka) as asked:
            offsets = asked.offsets_at(_partitions(asked), at_ms - _CLOCKS_MS)
        return Position({p: Offset(offset) for p, offset in offsets.items()})

    return Live(
        name="Kafka",
        partitions=partitions,
        reach=reach,
        begin=begin,
        open=open_from,
        skip_gap=kafka.lost == "skip",
        otherwise=', or accept the gap with kafka.lost = "skip"',
    )


def _time(partition: Partition, record: Record | None) -> int | None:
    """Return the time of a message: of its newest event, or as its producer gave it."""
    if record is None:
        return None
    newest = _newest_event(partition, [record.value] if record.value else [])
    return newest if newest is not None else max(record.at_ms, 0)


def _newest_event(partition: Partition, messages: Sequence[bytes]) -> int | None:
    offsets = np.arange(len(messages), dtype=np.int64)
    ts = Decoder(EventSchema()).decode(messages, offsets, 0, partition).events.ts
    return int(ts.max()) if ts.size else None


def _reach(root: Path, partition: Partition) -> Reach:
    folder = folder_of(root, partition)
    first = next(iter(segments_of(folder)), 0)
    fetched = PartitionReader(folder, partition, None).fetch(1)
    messages = fetched.messages if fetched else ()
    return Reach(first=first, oldest_ms=_newest_event(partition, messages))
