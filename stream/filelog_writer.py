"""Appends to a file log: one writer a partition, and what is appended survives its process."""

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from stream.filelog import (
    SEGMENT_HEAD_BYTES,
    LogDamaged,
    LogLocked,
    NoSuchTopic,
    RecordTooLarge,
    check_format,
    folder_of,
    partitions_of,
    segment_head,
    segment_path,
    segments_of,
    sync_folder,
)
from stream.frames import BROKEN, HEAD_BYTES, MAX_VALUE_BYTES, find, frame, scan
from stream.position import Partition


@dataclass(frozen=True, kw_only=True)
class LogWriterConfig:
    """When the log reaches the disk, and how long its files get.

    Whatever has been appended is with the operating system: a killed process loses none of it.
    What a power failure takes is decided by ``fsync``.
    """

    fsync: Literal["never", "interval", "always"] = "interval"  # never: up to the system's 30 s
    interval_bytes: int = 8 << 20  # synced after so many, and on close: < 0.1 s of a fast stream
    segment_bytes: int = 64 << 20  # a reader opens at any offset in 0.1 s; retention goes by these


class FileLogWriter:
    """Appends values to partitions, each opened by its first append and held until `close`.

    An append is one write: a reader sees it whole or, torn by a crash, not at all, and what a
    crash tore is cut off when the partition is opened next. Memory: nothing beyond an append.
    """

    def __init__(self, root: Path, config: LogWriterConfig | None = None) -> None:
        self._root = Path(root)
        self._config = config or LogWriterConfig()
        self._open: dict[Partition, _Tail] = {}

    def __enter__(self) -> "FileLogWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, partition: Partition, value: bytes) -> int:
        """Append a message value; return its offset."""
        return self.append_many(partition, [value])

    def append_many(self, partition: Partition, values: Sequence[bytes]) -> int:
        """Append values in one write; return the offset of the first.

        Raises `NoSuchTopic`, `LogLocked`, `LogDamaged`, `RecordTooLarge`, or `OSError`, after which
        nothing of ``values`` is in the log.
        """
        longest = max(map(len, values), default=0)
        if longest > MAX_VALUE_BYTES:
            raise RecordTooLarge(
                f"A value of {longest:,} bytes for {partition}: a record takes "
                f"{MAX_VALUE_BYTES:,}. Put fewer events into a message."
            )
        return self._tail(partition).append(values)

    def next_offset(self, partition: Partition) -> int:
        """Return the offset that the next append will have."""
        return self._tail(partition).next

    def sync(self) -> None:
        """Return when all that was appended is on the disk."""
        for tail in self._open.values():
            tail.sync()

    def close(self) -> None:
        """Sync, unless told never to, and let go of the partitions; idempotent."""
        while self._open:
            self._open.popitem()[1].close()

    def _tail(self, partition: Partition) -> "_Tail":
        tail = self._open.get(partition)
        if tail is None:
            there = partitions_of(self._root, partition.topic)
            if partition not in there:
                raise NoSuchTopic(
                    f"{partition} is not in {self._root}: {partition.topic} has {len(there)} "
                    f"partitions, 0 to {len(there) - 1}."
                )
            tail = self._open[partition] = _Tail(folder_of(self._root, partition), self._config)
        return tail


def skip_damage(root: Path, partition: Partition) -> int:
    """Let a damaged partition go on in a new segment; return its first offset.

    What lies behind the damage is lost to readers, which tell so by a dead letter. Offsets jump: no
    record that can have been there shares one with those to come.
    """
    folder = folder_of(root, partition)
    with _locked(folder):
        first = segments_of(folder)[-1]
        path = segment_path(folder, first)
        data = np.fromfile(path, np.uint8)
        found = scan(data, SEGMENT_HEAD_BYTES, SEGMENT_HEAD_BYTES, data.size)
        following = first + found.starts.size + (data.size - found.end) // HEAD_BYTES + 1
        with segment_path(folder, following).open("xb") as file:
            file.write(segment_head(following))
            os.fsync(file.fileno())
        sync_folder(folder)
    return following


class _Tail:
    """The growing end of one partition."""

    def __init__(self, folder: Path, config: LogWriterConfig) -> None:
        self._folder, self._config = folder, config
        self._unsynced = 0
        self._file = -1
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(_locked(folder))
        try:
            segments = segments_of(folder)
            if segments:
                self._reopen(segments[-1])
            else:
                self._begin(0)
        except BaseException:
            self._lock.close()
            raise

    def append(self, values: Sequence[bytes]) -> int:
        first = self.next
        if self._size >= self._config.segment_bytes:
            self._roll()
        data = frame(values, self._size)
        try:
            _write(self._file, data)
        except BaseException:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(data)
        self.next += len(values)
        self._unsynced += len(data)
        every = self._config.fsync
        if every == "always" or (
            every == "interval" and self._unsynced >= self._config.interval_bytes
        ):
            self.sync()
        return first

    def sync(self) -> None:
        if self._unsynced:
            os.fdatasync(self._file)
            self._unsynced = 0

    def close(self) -> None:
        try:
            if self._config.fsync != "never":
                self.sync()
        finally:
            os.close(self._file)
            self._lock.close()

    def _roll(self) -> None:
        if self._config.fsync != "never":
            self.sync()
        full = self._file
        self._begin(self.next)
        os.close(full)

    def _begin(self, first: int) -> None:
        path = segment_path(self._folder, first)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            _write(file, segment_head(first))
            if self._config.fsync != "never":
                os.fdatasync(file)
                sync_folder(self._folder)
        except BaseException:
            os.close(file)
            raise
        self._file, self._size, self._unsynced = file, SEGMENT_HEAD_BYTES, 0
        self.next = first

    def _reopen(self, first: int) -> None:
        """Check the last segment from its start, and cut off what a crash tore."""
        path = segment_path(self._folder, first)
        data = np.fromfile(path, np.uint8)
        if data.size < SEGMENT_HEAD_BYTES:  # the crash came before its head
            self._begin(first)
            return
        head = data[:SEGMENT_HEAD_BYTES].tobytes()
        check_format(path, head)
        if head != segment_head(first):
            raise LogDamaged(
                f"{path} does not begin as the segment of offset {first} does: restore it from a "
                "copy, or move it away."
            )
        found = scan(data, SEGMENT_HEAD_BYTES, SEGMENT_HEAD_BYTES, data.size)
        if found.status == BROKEN:
            again = find(data, found.end + 1, found.end + 1)
            if again >= 0:
                offset = first + found.starts.size
                raise LogDamaged(
                    f"{path} is damaged at byte {found.end:,} (offset {offset}): "
                    f"whole records follow at byte {again:,}. Restore it from a copy, or begin a "
                    "new segment, which loses what lies behind the damage: "
                    + _skipping(self._folder)
                )
        self._file = os.open(path, os.O_WRONLY)
        os.ftruncate(self._file, found.end)
        os.lseek(self._file, found.end, os.SEEK_SET)
        os.fsync(self._file)  # what readers have seen must not vanish later
        self.next, self._size = first + found.starts.size, found.end


def _skipping(folder: Path) -> str:
    """Return the command line that calls `skip_damage` for the partition in ``folder``."""
    topic, number = folder.parent.name, int(folder.name)
    root = str(folder.parent.parent.resolve())
    call = f"skip_damage(Path({root!r}), Partition({topic!r}, {number}))"
    imports = "from pathlib import Path; from stream.position import Partition"
    code = f"{imports}; from stream.filelog_writer import skip_damage; {call}"
    return f"python -c {shlex.quote(code)}"


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of when the process dies
        except BlockingIOError as error:
            raise LogLocked(
                f"{folder} has a writer already, and takes one at a time: stop that process, or "
                "write to another partition."
            ) from error
        yield
    finally:
        os.close(handle)
