"""Reads a file log, to its end or following it as it grows."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from stream.blocks import BLOCK_EVENTS, BlockRule, Decodes, Fetched, read_blocks
from stream.deadletters import RAW_BYTES
from stream.decode import Decoder
from stream.events import EventSchema
from stream.filelog import (
    SEGMENT_HEAD_BYTES,
    LogError,
    OffsetOutOfRange,
    check_format,
    folder_of,
    partitions_of,
    segment_head,
    segment_path,
    segments_of,
)
from stream.frames import BROKEN, WHOLE, Scan, find, scan
from stream.position import Partition, Position
from stream.source import Block, Rejected

_READ_BYTES: Final = 4 << 20  # some 16,384 events: a read a block
_POLL_S: Final = 0.1  # how long a new event may lie unread; ten looks a second cost nothing

_NOTHING: Final = np.zeros(0, np.int64)


class FileLogSource:
    """Reads topics of a file log, each partition on its own, the one furthest behind first.

    A partition that ``position`` does not name begins with the oldest segment kept. What is damaged
    becomes a `Rejected` with the reason ``corrupt_frame``. Memory: a read of each, and one block.

    Raises `NoSuchTopic` at once, and `OffsetOutOfRange` when reading begins.
    """

    def __init__(
        self,
        root: Path,
        topics: Sequence[str],
        schema: EventSchema,
        *,
        position: Position | None = None,
        follow: bool = False,
        from_ms: int | None = None,
        until_ms: int | None = None,
        block_events: int = BLOCK_EVENTS,
        decoder: Decodes | None = None,
    ) -> None:
        """Open it. ``decoder``: of its messages, in place of the schema's."""
        if follow and until_ms is not None:
            raise LogError(
                "A log that is followed has no end in time, as late events may always come: leave "
                "out until_ms, or do not follow."
            )
        self._root = Path(root)
        self._partitions = tuple(
            sorted(p for t in dict.fromkeys(topics) for p in partitions_of(root, t))
        )
        self._schema = schema
        self._position = position or Position()
        self._follow = follow
        self._rule = BlockRule(block_events=block_events, from_ms=from_ms, until_ms=until_ms)
        self._decoder = decoder
        self._closed = threading.Event()

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All partitions of the topics, sorted."""
        return self._partitions

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        return self._schema

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks from the position it was opened at, until the end or `close`."""
        logs = [
            PartitionReader(
                folder_of(self._root, p),
                p,
                self._position.of(p).message if p in self._position.offsets else None,
            )
            for p in self._partitions
        ]
        blocks = read_blocks(
            self._partitions,
            logs,
            self._decoder or Decoder(self._schema),
            self._position,
            self._rule,
            self._wait if self._follow else None,
        )
        for block in blocks:
            yield block
            if self._closed.is_set():
                return

    def close(self) -> None:
        """End the reading, also from another thread; idempotent. No file stays open."""
        self._closed.set()

    def _wait(self) -> bool:
        return self._closed.wait(_POLL_S)


class PartitionReader:
    """Reads the records of one partition, segment after segment.

    The file is opened for each read and never held: a segment that is deleted frees its space.
    """

    def __init__(self, folder: Path, partition: Partition, start: int | None) -> None:
        self._folder, self._partition = folder, partition
        self._data = b""  # what was last read of the segment
        self._data_at = 0  # where in the file it begins
        self._at = SEGMENT_HEAD_BYTES  # where in the file the next frame begins
        self._head: bytes | None = None  # the segment's; None: not read yet
        self._damaged = False  # the rest of the segment was given up
        self._torn_size = -1  # of the file, when its end was found to be torn
        segments = segments_of(folder)
        oldest = segments[0] if segments else 0
        if start is not None and start < oldest:
            raise OffsetOutOfRange(
                f"{partition} begins at offset {oldest}, and {start} is wanted: what lay between "
                "was deleted. Go on from there with a new position, or from a copy of the log."
            )
        self._next = start if start is not None else oldest
        self._first: int | None = max((s for s in segments if s <= self._next), default=None)
        if self._first is not None:
            self._seek(self._next)
        elif self._next > 0:
            raise self._beyond(0, self._next)

    def fetch(self, most: int) -> Fetched | None:
        """Return at most ``most`` records, or what stands for damaged ones; None: no more yet."""
        if self._first is None:
            segments = segments_of(self._folder)
            if not segments:
                return None
            self._open(segments[0])
        found = self._scan(most)
        if found.starts.size == 0:
            return self._past_the_end(most)
        return self._records(found)

    def _records(self, found: Scan) -> Fetched:
        data = self._data
        first, self._next = self._next, self._next + found.starts.size
        self._at = self._data_at + found.end
        bounds = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
        messages = [data[a:b] for a, b in bounds]
        return Fetched(messages, np.arange(first, self._next, dtype=np.int64), self._next)

    def _scan(self, most: int) -> Scan:
        """Find frames in what was read, or in what is there to read by now."""
        found = self._frames(most)
        if found.starts.size == 0 and not self._damaged:
            self._read(_READ_BYTES)
            found = self._frames(most)
            if found.starts.size == 0 and found.wanted > len(self._data) == _READ_BYTES:
                self._read(found.wanted)
                found = self._frames(most)
        return found

    def _frames(self, most: int) -> Scan:
        assert self._first is not None
        if self._head not in (None, segment_head(self._first)):
            return Scan(_NOTHING, _NOTHING, 0, BROKEN, 0)
        return scan(np.frombuffer(self._data, np.uint8), self._at - self._data_at, self._at, most)

    def _past_the_end(self, most: int) -> Fetched | None:
        """Go on to the next segment, if there is one; tell of what cannot be read."""
        later = [s for s in segments_of(self._folder) if self._first is None or s > self._first]
        found = self._scan(most)  # again: the writer may have gone on before it began the next
        if found.starts.size:
            return self._records(found)
        lost = None
        if not self._damaged and (later or found.status == BROKEN):
            lost = self._judge(found, later)
        if not later:
            return lost
        self._open(later[0])
        if lost is None:
            return self.fetch(most)
        return lost._replace(next=self._next)

    def _judge(self, found: Scan, later: list[int]) -> Fetched | None:
        """Return what stands for the rest of the segment; None where nothing is wrong with it."""
        missing = later[0] - self._next if later else 0
        if found.status != WHOLE:
            if not later and not self._is_damage():
                return None
            self._damaged = True
            detail = f"damaged at byte {self._at:,} of {self._path.name}"
            if later:
                detail += f": offsets up to {later[0] - 1} are lost"
        elif missing > 0:
            detail = f"no segment holds the offsets up to {later[0] - 1}"
        else:
            return None
        letter = Rejected(
            self._partition, self._next, 0, "corrupt_frame", detail, self._data[:RAW_BYTES]
        )
        self._next += 1  # so that a run that resumes behind the letter does not write it again
        return Fetched([], _NOTHING, self._next, (letter,))

    def _is_damage(self) -> bool:
        """Whether a whole frame lies behind what is none; it is a torn tail otherwise."""
        size = self._path.stat().st_size
        if size == self._torn_size:  # nothing has been written since the last look
            return False
        self._read(size)
        if find(np.frombuffer(self._data, np.uint8), 1, self._at + 1) >= 0:
            return True
        self._torn_size = size
        return False

    def _seek(self, start: int) -> None:
        """Go to the record ``start``, from the beginning of its segment."""
        assert self._first is not None
        self._open(self._first)
        while self._next < start:
            found = self._scan(start - self._next)
            if found.starts.size == 0:
                break
            self._next += found.starts.size
            self._at = self._data_at + found.end
        if self._next < start:
            later = any(s > start for s in segments_of(self._folder))
            if not later and (found.status != BROKEN or not self._is_damage()):
                raise self._beyond(self._next, start)
            self._damaged = True  # its letter was written by the run that this one resumes
            self._next = start

    def _open(self, first: int) -> None:
        self._first = self._next = first
        self._at = self._data_at = SEGMENT_HEAD_BYTES
        self._data, self._head = b"", None
        self._damaged, self._torn_size = False, -1

    def _read(self, size: int) -> None:
        """Read ``size`` bytes from the next frame on, fewer where the file ends."""
        try:
            with self._path.open("rb", buffering=0) as file:
                if self._head is None:
                    head = file.read(SEGMENT_HEAD_BYTES)
                    if len(head) == SEGMENT_HEAD_BYTES:
                        check_format(self._path, head)
                        self._head = head
                file.seek(self._at)
                data = file.read(size)
        except FileNotFoundError as error:
            raise OffsetOutOfRange(
                f"{self._path} was deleted while it was read: reading is slower than the "
                "retention. Keep the log for longer, or begin anew."
            ) from error
        self._data, self._data_at = data, self._at

    @property
    def _path(self) -> Path:
        assert self._first is not None
        return segment_path(self._folder, self._first)

    def _beyond(self, end: int, start: int) -> OffsetOutOfRange:
        return OffsetOutOfRange(
            f"{self._partition} ends before offset {end}, and {start} is wanted: the position is "
            "of another log, or a power failure took what was not yet synced. Restore the log, or "
            "begin anew."
        )
