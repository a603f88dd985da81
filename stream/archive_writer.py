"""Writes an archive: events wait in memory, and a commit makes files of them, all or none."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stream.archive import (
    HOUR_MS,
    LETTERS,
    ArchiveError,
    ArchiveFile,
    ArchiveInUse,
    Commit,
)
from stream.archive_buffer import Buffer, Held
from stream.archive_commits import Commits
from stream.archive_parquet import write_part
from stream.deadletters import DeadLetterFile
from stream.filelog import sync_folder
from stream.position import Offset, Partition, Position
from stream.source import Block, Rejected

_DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True, kw_only=True)
class ArchiveConfig:
    """When files are written, and for how long they are kept."""

    roll_events: int = 1_000_000  # a commit: with more of them a reader must hold too much at once
    roll_bytes: int = 128 << 20  # of lines: some 15 MB of files; three times that in memory
    roll_s: float = 300.0  # 12 files an hour and topic; a reader of what is live is as late
    keep_days: float | None = None  # None: for ever

    def __post_init__(self) -> None:
        if self.roll_events < 1 or not 1 <= self.roll_bytes <= 1 << 30:
            raise ValueError("a commit takes at least 1 event and 1 byte, and at most 1 GiB")
        if not self.roll_s > 0 or (self.keep_days is not None and not self.keep_days > 0):
            raise ValueError("times must be above 0")


class ArchiveWriter:
    """Adds the events of a log to an archive, each exactly once, wherever it is killed.

    A commit: 1 write the Parquet files aside, 2 rename them, 3 write the dead letters, 4 write the
    commit, which makes all of it and the position count at once, 5 delete hours for their age. What
    a crash leaves of 1 to 3 and 5 the next writer deletes, and reads the log again from the last
    commit. One writer at a time.

    Memory: ``roll_events`` and ``roll_bytes``, one fetch of the source more, and a row group. One
    Parquet file is open at a time.
    """

    def __init__(
        self,
        root: Path,
        config: ArchiveConfig | None = None,
        *,
        clock: Callable[[], float] = lambda: 0.0,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        """Open the archive. `begin` with what is read from ``position`` on.

        ``clock`` in seconds decides when a commit is due. Of ages, the newest event is the measure,
        but no later than ``now_ms``.
        Raises `ArchiveInUse`, `ArchiveError`.
        """
        self._root, self._config = root, config or ArchiveConfig()
        self._clock, self._now_ms = clock, now_ms
        self._open = contextlib.ExitStack()
        self._open.enter_context(_locked(root))
        try:
            self._commits = Commits(root)
            last = self._commits.last
            self.position = last.position if last else Position()  # the next event to read
            self._letters = DeadLetterFile(root / LETTERS)
            self._letters.restore(last.letters if last else DeadLetterFile.NOTHING)
            self._sweep()
        except OSError as error:
            self._open.close()
            raise _refused(root, error) from error
        except BaseException:
            self._open.close()
            raise
        self._newest_ms = max((f.last_ms for f in self._commits.files()), default=0)
        self.events = last.events if last else 0  # archived, those of earlier runs included
        self.expired = last.expired if last else 0  # older than what is kept, when they came
        self.begin(last.partitions if last else ())

    def __enter__(self) -> "ArchiveWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, partitions: Sequence[Partition]) -> None:
        """Go on with a source of ``partitions`` that was opened at ``position``.

        What was added and not committed is forgotten: it is read again. Raises `ArchiveError`.
        """
        last = self._commits.last
        self._partitions = tuple(partitions)
        self._check_partitions(last)
        if self._partitions != (last.partitions if last else ()):  # readers are to know of them
            self._append(self.position, Held.none(), ())
        self._at = self.position  # the next event to take
        self._buffer = Buffer(self._partitions)
        self._names: dict[int, str] = {}  # of scenes: a source tells them anew
        self._since: float | None = None  # when the first of the buffer came

    @property
    def files(self) -> list[ArchiveFile]:
        """The Parquet files of the archive."""
        return list(self._commits.files())

    @property
    def waiting(self) -> int:
        """How many events and letters wait for the next commit."""
        return len(self._buffer)

    @property
    def letters(self) -> dict[str, int]:
        """Lines that were no events, by reason."""
        return self._letters.counts

    def add(self, block: Block) -> None:
        """Take the next events, read with a `RawDecoder`; commit where that is due.

        Raises `ArchiveError` where the disk refuses: nothing is lost, and nothing more is taken.
        """
        self._names.update(block.names)
        self._buffer.add(block)
        self._at = block.position
        if self._since is None and len(self._buffer):
            self._since = self._clock()
        config = self._config
        if (
            len(self._buffer) >= config.roll_events
            or self._buffer.size >= config.roll_bytes
            or (self._since is not None and self._clock() - self._since >= config.roll_s)
        ):
            self.commit()

    def commit(self) -> None:
        """Make everything that was added, of whole messages, part of the archive."""
        position = Position({p: Offset(o.message) for p, o in self._at.offsets.items()})
        if position == self.position:
            return
        held, letters = self._buffer.take(position)
        self._append(position, held, letters)
        self._since = self._clock() if len(self._buffer) else None

    def _append(self, position: Position, held: Held, letters: Sequence[Rejected]) -> None:
        last = self._commits.last
        number = last.number + 1 if last else 1
        before = self._before_ms(last)
        kept = held
        if before is not None and len(held):
            kept = held.take(held["ts"] >= before)
        written: list[Path] = []
        try:
            files = self._write(kept, number, written)  # 1, 2
            self._letters.extend(letters)
            self._letters.flush()  # 3
            commit = Commit(
                number=number,
                position=position,
                partitions=self._partitions,
                letters=self._letters.state(),
                files=files,
                events=self.events + len(kept),
                expired=self.expired + len(held) - len(kept),
                before_ms=before,
                deleted=self._deleted(last, before),
            )
            self._commits.append(commit)  # 4
        except OSError as error:
            if not self._commits.is_written(number):
                for path in written:
                    path.unlink(missing_ok=True)  # room, for whoever goes on
            raise _refused(self._root, error) from error
        self.position, self.events, self.expired = position, commit.events, commit.expired
        self._newest_ms = max([self._newest_ms, *(f.last_ms for f in files)])
        try:
            self._commits.merge()
            if before is not None and (last is None or last.before_ms != before):
                self._sweep()  # 5
        except OSError as error:
            raise _refused(self._root, error) from error

    def close(self) -> None:
        """Let go of the archive; what was not committed is read again. Idempotent."""
        self._open.close()

    def _write(self, held: Held, number: int, written: list[Path]) -> tuple[ArchiveFile, ...]:
        """Write events as Parquet files; the paths of those that may be there go to ``written``."""
        if not len(held):
            return ()
        topics = sorted({p.topic for p in self._partitions})
        topic_of = np.array([topics.index(p.topic) for p in self._partitions])
        hour, topic = held["ts"] // HOUR_MS, topic_of[held["partition"]]
        order = np.lexsort((held["partition"], hour, topic))  # stable: log order within each
        same = (np.diff(hour[order]) == 0) & (np.diff(topic[order]) == 0)
        files = []
        for rows in np.split(order, np.flatnonzero(~same) + 1):
            files.append(
                write_part(
                    self._root,
                    held.take(rows),
                    number,
                    self._partitions,
                    self._names,
                    written,
                )
            )  # 1
        folders = {path.parent for path in written}
        for file in files:
            path = self._root / file.path
            written.append(path)
            path.with_name(f"{path.name}.writing").replace(path)  # 2
        for folder in {*folders, *(f.parent for f in folders), *(f.parent.parent for f in folders)}:
            sync_folder(folder)
        return tuple(files)

    def _before_ms(self, last: Commit | None) -> int | None:
        """Return the hour from which on events are kept; it never goes back."""
        before = last.before_ms if last else None
        if self._config.keep_days is None or not self._newest_ms:
            return before
        newest = self._newest_ms
        if self._now_ms is not None:
            newest = min(newest, self._now_ms())
        found = (newest - round(self._config.keep_days * _DAY_MS)) // HOUR_MS * HOUR_MS
        return found if before is None else max(before, found)

    def _deleted(self, last: Commit | None, before: int | None) -> Mapping[Partition, int]:
        """Return by partition the greatest offset of what is, or is to be, deleted."""
        deleted = dict(last.deleted) if last else {}
        if before is not None and last is not None and last.before_ms != before:
            for file in self._commits.files():
                if file.hour_ms < before:
                    for run in file.runs:
                        partition = Partition(file.topic, run.partition)
                        deleted[partition] = max(deleted.get(partition, -1), run.last)
        return deleted

    def _sweep(self) -> None:
        """Delete the Parquet files that no commit names, and those whose time is over."""
        known = {file.path for file in self._commits.files()}
        for folder in sorted(self._root.glob("topic=*/date=*/hour=*")):
            there = [path for path in folder.iterdir() if path.name.startswith("part-")]
            for path in there:
                if path.relative_to(self._root).as_posix() not in known:
                    path.unlink()
            for empty in (folder, folder.parent):
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def _check_partitions(self, last: Commit | None) -> None:
        missing = [p for p in last.partitions if p not in self._partitions] if last else []
        if missing:
            raise ArchiveError(
                f"{self._root} holds the partition {missing[0]}, which this log has not: it is "
                "another log. Archive it into another folder."
            )


def _refused(root: Path, error: OSError) -> ArchiveError:
    return ArchiveError(
        f"{root}: the archive cannot be written ({error.strerror or error}). Make room, and start "
        "it again: it goes on from its last commit, and nothing is lost."
    )


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go of when the process dies
        except BlockingIOError as error:
            raise ArchiveInUse(
                f"{root} is being written by another process, and takes one at a time: stop that "
                "one, or archive into another folder."
            ) from error
        yield
    finally:
        os.close(handle)
