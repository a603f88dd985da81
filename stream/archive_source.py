"""Reads an archive as the log it was made of: the same events, order, offsets and rows."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from stream.archive import ArchiveDamaged, ArchiveExpired, ArchiveFile, Commit, describe
from stream.archive_commits import Commits
from stream.archive_lines import Lines, messages_of
from stream.archive_parquet import joined, read_run
from stream.blocks import BLOCK_EVENTS, BlockRule, Fetched, read_blocks
from stream.decode import Decoder
from stream.events import EventSchema
from stream.filelog import LogError, NoSuchTopic
from stream.position import Offset, Partition, Position
from stream.source import Block

_POLL_S: Final = 0.1


class ArchiveSource:
    """Reads topics of an archive, each partition in the order of its log, from what is committed.

    Positions are those of the log. Events come with the time, place and partition that they had in
    it, so that what is made of them is the same to the bit; lines that were no events are in the
    archive's dead letters. Parquet files without events of ``from_ms`` to ``until_ms`` are not
    opened. With ``follow``, commits are read as they come.

    Memory: of each partition what one commit holds of it, and the list of files. One Parquet file
    is open at a time. Raises `ArchiveError` and `NoSuchTopic` at once, `ArchiveDamaged` and
    `ArchiveExpired` while reading too.
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
    ) -> None:
        if follow and until_ms is not None:
            raise LogError(
                "An archive that is followed has no end in time, as late events may always come: "
                "leave out until_ms, or do not follow."
            )
        self._topics = frozenset(topics)
        self._schema, self._follow = schema, follow
        self._position = position or Position()
        self._rule = BlockRule(block_events=block_events, from_ms=from_ms, until_ms=until_ms)
        self._closed = threading.Event()
        self._catalog = Catalog(root)
        self._partitions = self._catalog.partitions(topics)
        self.grown = False  # whether reading ended because the log has more partitions now
        self._catalog.check(self._position, from_ms)

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All partitions of the topics, sorted; those without events too."""
        return self._partitions

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        return self._schema

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks from the position it was opened at, until the end or `close`."""
        rule = self._rule
        logs = [
            ArchiveLog(self._catalog, p, self._position.of(p), rule.from_ms, rule.until_ms)
            for p in self._partitions
        ]
        blocks = read_blocks(
            self._partitions,
            logs,
            Decoder(self._schema),
            self._position,
            rule,
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
        if self._closed.wait(_POLL_S):
            return True
        if self._catalog.refresh():
            self.grown = self._catalog.partitions(self._topics) != self._partitions
        return self.grown


class Catalog:
    """The commits of an archive, for all partitions that are read of it."""

    def __init__(self, root: Path) -> None:
        """Look at the archive in ``root``. Raises `ArchiveError`."""
        describe(root)
        self.root = root
        self.commits = Commits(root)

    def refresh(self) -> bool:
        """Look for new commits; return whether there are."""
        return self.commits.refresh()

    def partitions(self, topics: Iterable[str]) -> tuple[Partition, ...]:
        """Return the partitions of ``topics``, sorted. Raises `NoSuchTopic`."""
        last = self.commits.last
        there = last.partitions if last else ()
        for topic in topics:
            if not any(p.topic == topic for p in there):
                names = ", ".join(sorted({p.topic for p in there})) or "none"
                raise NoSuchTopic(
                    f"The archive {self.root} has no topic {topic!r}; there are: {names}. Name one "
                    "of these in log.topics."
                )
        return tuple(sorted(p for p in there if p.topic in set(topics)))

    def check(self, position: Position, from_ms: int | None) -> None:
        """Raise `ArchiveExpired` where what ``position`` goes on with has been deleted."""
        last = self.commits.last
        if last is None or (from_ms is not None and from_ms >= (last.before_ms or 0)):
            return
        for partition, offset in position.offsets.items():
            if 0 < offset.message <= last.deleted.get(partition, -1):
                raise ArchiveExpired(
                    f"{self.root} has been read up to offset {offset.message} of {partition}, and "
                    f"events up to {last.deleted[partition]} have been deleted since, for their "
                    "age. Begin anew, or keep the archive for longer (--keep-days)."
                )


class ArchiveLog:
    """One partition of an archive (`stream.blocks.PartitionLog`)."""

    def __init__(
        self,
        catalog: Catalog,
        partition: Partition,
        start: Offset,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> None:
        self._catalog, self._partition, self._start = catalog, partition, start.message
        self._from_ms, self._until_ms = from_ms, until_ms
        self._commits: list[Commit] = []  # still to be read, the next one last
        self._known = 0  # the number of the last commit that was looked at
        self._at = 0  # the next of the events below, (n,)
        self._offsets = np.zeros(0, np.int64)
        self._rows = np.zeros(0, np.int32)
        self._lines = joined([])

    def fetch(self, most: int) -> Fetched | None:
        """Return the next messages, of at most ``most`` lines or one message; None: no more yet.

        A line that was no event is blank.
        """
        while self._at >= self._offsets.size:
            commit = self._next_commit()
            if commit is None:
                return None
            self._read(commit)
        first = self._at
        end = min(first + most, self._offsets.size)
        end = int(np.searchsorted(self._offsets, self._offsets[end - 1], side="right"))
        offsets = self._offsets[first:end]
        messages = messages_of(self._lines[first:end], offsets, self._rows[first:end])
        self._at = end
        kept = np.append(True, offsets[1:] != offsets[:-1])
        return Fetched(messages, offsets[kept], int(offsets[-1]) + 1)

    def _next_commit(self) -> Commit | None:
        if not self._commits:
            found = self._catalog.commits.after(self._known)
            if not found:
                return None
            self._known, self._commits = found[-1].number, found[::-1]
        return self._commits.pop()

    def _read(self, commit: Commit) -> None:
        """Read what a commit holds of this partition: some hours of it, put into log order."""
        self._at, self._offsets = 0, np.zeros(0, np.int64)
        self._lines = joined([])
        last = self._catalog.commits.last
        parts = [
            self._part(file)
            for file in commit.files
            if last is not None
            and last.keeps(file)
            and file.topic == self._partition.topic
            and file.overlaps(self._from_ms, self._until_ms)
            and any(r.partition == self._partition.number and r.last >= self._start
                    for r in file.runs)
        ]  # fmt: skip
        if not parts:
            return
        offsets = np.concatenate([offsets for offsets, _, _ in parts])
        rows = np.concatenate([rows for _, rows, _ in parts])
        order = np.lexsort((rows, offsets))
        order = order[offsets[order] >= self._start]
        self._offsets, self._rows = offsets[order], rows[order]
        self._lines = joined([lines for _, _, lines in parts])[order]

    def _part(self, file: ArchiveFile) -> "_Part":
        try:
            return read_run(self._catalog.root, file, self._partition.number)
        except FileNotFoundError as error:
            self._catalog.refresh()
            last = self._catalog.commits.last
            if last is not None and not last.keeps(file):
                raise ArchiveExpired(
                    f"{self._catalog.root / file.path} was deleted for its age while the archive "
                    "was read. Read from a later time on (--from), or keep it for longer "
                    "(--keep-days)."
                ) from error
            raise ArchiveDamaged(
                f"{self._catalog.root / file.path} is missing: restore it from a copy, or read "
                "around its hour with --until and --from."
            ) from error


_Part = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Lines]
