"""One partition number as a worker sees it: its inputs, its join, what is to be written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from stream.events import EventColumns, EventSchema
from stream.examples import ExampleBlock
from stream.partition_join import PartitionJoin
from stream.position import Partition
from stream.source import Block, Rejected

RECORD_S: Final = 0.15  # between records of a partition: what it adds to a trainer's delay, at most
ALIVE_S: Final = 20.0  # between records that only say so: readers wait three times as long
RECORD_ROWS: Final = 4_096  # or as many examples: their columns are some 0.5 MB
_LONGEST_S: Final = 1.0  # of silence, at once: more is a broker's or our own, and not the topic's


class Unit:
    """The p-th partition of every input topic, joined, and the examples that come of it."""

    def __init__(
        self,
        join: PartitionJoin,
        inputs: tuple[Partition, ...],
        names: Mapping[int, str],
        now: float,
    ) -> None:
        self.inputs = inputs
        self.position = join.position  # of the inputs: what is read next
        self.caught_up = False  # was at the end of all its inputs once
        self.written = 0  # examples
        self._join = join
        self._names = dict(names)  # of scenes, that others of the worker have met
        self._silent_since = now
        self._recorded_at = now

    def feed(self, block: Block, now: float) -> None:
        """Take the next events of the inputs; ``block`` counts partitions as `inputs` does."""
        if self._names:
            block, self._names = replace(block, names={**self._names, **block.names}), {}
        self._join.feed(block)
        self.position = self._join.position
        if len(block.idle) == len(self.inputs):
            self.caught_up = True
            if not len(block.events):
                silence = min(now - self._silent_since, _LONGEST_S)
                self._join.tick(round(1000 * silence))
        self._silent_since = now

    def take_due(self, now: float) -> list[ExampleBlock]:
        """Return the examples to write now: many, or those for which enough time has passed."""
        if now - self._recorded_at < RECORD_S:
            return self._taken(self._join.take(at_least=RECORD_ROWS), now)
        return self.take(now)

    def take(self, now: float) -> list[ExampleBlock]:
        """Return all examples that are there."""
        alive = now - self._recorded_at >= ALIVE_S
        return self._taken(self._join.take(alive=alive), now)

    def take_refused(self) -> Sequence[Rejected]:
        """Return what was refused since the last time."""
        return self._join.take_refused()

    def counts(self) -> Mapping[str, Any]:
        """Return the join's counts."""
        return self._join.counts()

    def _taken(self, blocks: list[ExampleBlock], now: float) -> list[ExampleBlock]:
        if blocks:
            self._recorded_at = now
            self.written += sum(map(len, blocks))
        return blocks


class Split:
    """Cuts the blocks of one source into blocks of its units."""

    def __init__(
        self, partitions: Sequence[Partition], units: Mapping[int, Unit], schema: EventSchema
    ) -> None:
        self._nothing = EventColumns.empty(schema)
        self._numbers = np.array([p.number for p in partitions], np.int64)
        self._local = np.array([units[p.number].inputs.index(p) for p in partitions], np.int16)
        self._of = {
            number: frozenset(np.flatnonzero(self._numbers == number).tolist()) for number in units
        }

    def __call__(self, block: Block) -> Iterator[tuple[int, Block]]:
        """Yield the number of each unit that the block says something about, and its share.

        That is its events and what was refused of it, or that all its inputs are at their end, or
        names of scenes, which are for everyone.
        """
        numbers = self._numbers[block.events.partition]
        one = len(numbers) > 0 and bool((numbers == numbers[0]).all())  # as sources mostly cut them
        came = set(numbers[:1].tolist() if one else np.unique(numbers).tolist())
        refused: dict[int, list[Rejected]] = {}
        for letter in block.rejected:
            refused.setdefault(letter.partition.number, []).append(letter)
        for number, mine in self._of.items():
            has = number in came or number in refused
            if not has and not block.names and not mine <= block.idle:
                continue
            events = self._nothing
            if number in came:
                events = block.events
                if len(came) > 1:
                    events = events.take(numbers == number)
                events = replace(events, partition=self._local[events.partition])
            yield (
                number,
                replace(
                    block,
                    events=events,
                    rejected=tuple(refused.get(number, ())),
                    idle=frozenset(self._local[sorted(mine & block.idle)].tolist()),
                    ended=frozenset(self._local[sorted(mine & block.ended)].tolist()),
                ),
            )
