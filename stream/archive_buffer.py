"""Events that wait for their commit, in columns."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.archive_lines import Lines, RawEvents
from stream.position import Partition, Position
from stream.source import Block, Rejected

_COLUMNS: Final = ("partition", "offset", "row", "ts", "scene")
_FIRST_BYTES: Final = 1 << 20

Column = npt.NDArray[Any]


class Held(dict[str, Column]):
    """Columns (n,) by name, and the lines of the events."""

    line: Lines

    def __init__(self, columns: dict[str, Column], line: Lines) -> None:
        super().__init__(columns)
        self.line = line

    def __len__(self) -> int:
        return self["ts"].size

    @classmethod
    def none(cls) -> "Held":
        """Return no events."""
        nothing = np.zeros(0, np.int64)
        return cls(dict.fromkeys(_COLUMNS, nothing), Lines(np.zeros(0, np.uint8), nothing, nothing))

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "Held":
        """Return the events at ``index``."""
        return Held({name: self[name][index] for name in _COLUMNS}, self.line[index])


class Buffer:
    """Holds events and letters, in the order in which they came.

    Memory: 30 bytes an event and its line; the room of the lines is kept for the next commit.
    """

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self._partitions = partitions
        self._data = np.empty(_FIRST_BYTES, np.uint8)
        self._used = 0
        self._columns: dict[str, list[Column]] = {}
        self._lengths: list[Column] = []
        self._letters: list[Rejected] = []
        self._clear()

    def __len__(self) -> int:
        """How many events and letters there are."""
        return self._events + len(self._letters)

    @property
    def size(self) -> int:
        """The bytes of the lines, and of what letters hold."""
        return self._used + self._letter_bytes

    def add(self, block: Block) -> None:
        """Take the events and letters of a block whose events are `RawEvents`."""
        self._letters += block.rejected
        self._letter_bytes += sum(len(letter.raw) for letter in block.rejected)
        if len(block.events):
            events = block.events
            assert isinstance(events, RawEvents), "read with a RawDecoder"
            self._add(Held({name: getattr(events, name) for name in _COLUMNS}, events.line))

    def take(self, position: Position) -> tuple[Held, list[Rejected]]:
        """Take out what came from whole messages before ``position``; the rest stays.

        What was taken is good until the next `add`.
        """
        held = self._held()
        messages = [position.of(p).message for p in self._partitions]
        whole = held["offset"] < np.array(messages, np.int64)[held["partition"]]
        done = [x for x in self._letters if x.offset < position.of(x.partition).message]
        left = [x for x in self._letters if x.offset >= position.of(x.partition).message]
        rest = None if whole.all() else held.take(~whole)
        if rest is not None:
            held, rest.line = held.take(whole), _copied(rest.line)
        self._clear()
        if rest is not None:
            self._data = np.empty(_FIRST_BYTES, np.uint8)  # the other one is what was taken
            self._add(rest)
        self._letters = left
        self._letter_bytes = sum(len(letter.raw) for letter in left)
        return held, done

    def _clear(self) -> None:
        self._used = self._events = self._letter_bytes = 0
        self._columns = {name: [] for name in _COLUMNS}
        self._lengths, self._letters = [], []

    def _add(self, held: Held) -> None:
        size = held.line.size
        if self._used + size > self._data.size:
            room = np.empty(max(self._used + size, 2 * self._data.size), np.uint8)
            room[: self._used] = self._data[: self._used]
            self._data = room
        held.line.copy_to(self._data[self._used : self._used + size])
        self._used += size
        self._events += len(held)
        self._lengths.append(held.line.ends - held.line.starts)
        for name in _COLUMNS:
            self._columns[name].append(held[name])

    def _held(self) -> Held:
        if not self._events:
            return Held.none()
        ends = np.cumsum(np.concatenate(self._lengths))
        starts = np.append(0, ends[:-1])
        columns = {name: np.concatenate(self._columns[name]) for name in _COLUMNS}
        return Held(columns, Lines(self._data, starts, ends))


def _copied(line: Lines) -> Lines:
    data = np.empty(line.size, np.uint8)
    line.copy_to(data)
    ends = np.cumsum(line.ends - line.starts)
    return Lines(data, np.append(0, ends[:-1]), ends)
