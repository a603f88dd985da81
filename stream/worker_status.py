"""What a worker tells of itself: lines for a person, figures for the web view."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from stream.examples import ExampleBlock, Progress
from stream.position import Partition, Position
from stream.source import Block, Rejected
from stream.worker_units import Unit

_SAY_S: Final = 5.0  # between two lines about recovery: short ones are told when they are over
_RATE_S: Final = 5.0  # over so long events a second are counted


class WorkerStatus:
    """Counts and tells. The thread of the work writes it, that of the web view reads it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.state = "waiting for partitions"
        self._letters: Counter[str] = Counter()
        self._events = self._examples = 0
        self._complete_to: dict[int, int] = {}
        self._rate = 0.0  # events a second
        self._counted = (time.monotonic(), 0)  # since when, and how many events by then
        self._began = time.monotonic()  # with the partitions it has
        self._told = self._began
        self._recover: dict[Partition, tuple[int, int]] = {}  # offsets: from, to

    def assigned(self, numbers: frozenset[int], before: frozenset[int]) -> None:
        """Tell which partitions it has."""
        self._began = self._told = time.monotonic()
        self._recover = {p: v for p, v in self._recover.items() if p.number in numbers}
        self.state = "following" if numbers else "waiting for partitions"
        came, went = _numbers(numbers - before), _numbers(before - numbers)
        changes = [*([f"new: {came}"] if came else []), *([f"given up: {went}"] if went else [])]
        said = _numbers(numbers) or "none; there are more workers than partitions"
        self._say(f"partitions assigned: {said}" + (f" ({'; '.join(changes)})" if before else ""))

    def resumed(self, number: int, position: Position, progress: Progress | None) -> None:
        """Tell where a partition's join goes on."""
        if progress is None:
            self._say(f"partition {number}: no examples yet, begins at the beginning")
            return
        places = ", ".join(f"{p}@{o.message}" for p, o in sorted(position.offsets.items()))
        again = 0
        for partition, offset in progress.read.items():
            start = position.of(partition).message
            again += max(0, offset.message - start)
            if offset.message > start:
                self._recover[partition] = (start, offset.message)
        self._say(f"partition {number}: goes on from {places}, reads {again:,} messages again")
        if self._recover:
            self.state = "recovering"

    def read(self, block: Block, units: Mapping[int, Unit], now: float) -> None:
        """Count what was read, and tell how far recovery is."""
        self._events += len(block.events)
        since, events = self._counted
        if now - since >= _RATE_S:
            self._rate = (self._events - events) / (now - since)
            self._counted = (now, self._events)
        if self.state == "caught up":
            return
        if self._recover:
            self._recovering(block.position, now)
        elif all(unit.caught_up for unit in units.values()):
            self.state = "caught up"
            self._say(f"caught up with the topics after {now - self._began:.1f} s")

    def _recovering(self, position: Position, now: float) -> None:
        done = wanted = 0
        for partition, (start, end) in self._recover.items():
            wanted += end - start
            done += min(position.of(partition).message, end) - start
        if done == wanted:
            self._recover = {}
            self.state = "following"
            self._say(f"recovered after {now - self._began:.1f} s: writes on")
        elif now - self._told >= _SAY_S:
            self._told = now
            self._say(f"recovering: {done / wanted:.0%}")

    def wrote(self, number: int, block: ExampleBlock) -> None:
        """Count what was written."""
        self._examples += len(block)
        if (complete_to := block.progress.complete_to) is not None:
            self._complete_to[number] = complete_to

    def refused(self, letters: Iterable[Rejected]) -> None:
        """Count dead letters."""
        self._letters.update(letter.reason for letter in letters)

    def as_json(self, units: Mapping[int, Unit], ends: Mapping[Partition, int]) -> dict[str, Any]:
        """Return the figures, JSON-ready."""
        partitions = {}
        for number, unit in units.items():
            inputs = {}
            for partition, offset in unit.position.offsets.items():
                end = ends.get(partition)
                lag = None if end is None else max(0, end - offset.message)
                inputs[str(partition)] = {"next": offset.message, "lag": lag}
            partitions[str(number)] = {
                "inputs": inputs,
                "examples": unit.written,
                "complete_to_ms": self._complete_to.get(number),
                **unit.counts(),
            }
        return {
            "state": self.state,
            "events": self._events,
            "events_per_s": round(self._rate, 1),
            "examples": self._examples,
            "dead_letters": dict(sorted(dict(self._letters).items())),  # a copy: it is written to
            "partitions": partitions,
        }


def _numbers(numbers: Sequence[int] | frozenset[int]) -> str:
    """Return partition numbers as a person writes them.

    >>> _numbers([4, 0, 1, 2, 7])
    '0-2, 4, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
