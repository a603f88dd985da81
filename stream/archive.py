"""An archive: the events of all scenes as they came, by event time, in Parquet files.

``<root>/topic=T/date=YYYY-MM-DD/hour=HH/part-<commit>.parquet``: events of one hour (UTC) of their
own time, a row an event (`COLUMNS`), sorted by partition, offset and row of the log they came from;
the line of JSON is kept byte for byte. ``<root>/commits/``: what belongs to the archive. A commit
is one file that appears whole: where the log is to be read on, and the Parquet files that hold
what lies before. A Parquet file that no commit names was left by a crash: readers of the archive do
not see it, and the next writer deletes it. ``<root>/archive.json``: of which log it is.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from stream.filelog import LogError, sync_folder
from stream.position import Partition, Position
from stream.state import State

FORMAT: Final = 1
HOUR_MS: Final = 3_600_000
GROUP_ROWS: Final = 65_536  # of a Parquet row group: some 16 MB of lines
COLUMNS: Final = ("partition", "offset", "row", "ts", "scene", "line")
LETTERS: Final = "deadletters.ndjson"

_ABOUT: Final = "archive.json"


class ArchiveError(LogError):
    """An archive cannot be used as asked; the message says what to do next."""


class NotAnArchive(ArchiveError):
    """A folder holds no archive."""


class ArchiveInUse(ArchiveError):
    """Another process writes the archive."""


class ArchiveDamaged(ArchiveError):
    """A file of the archive is missing, or not as it was written."""


class ArchiveExpired(ArchiveError):
    """What is wanted of the archive has been deleted for its age."""


class Run(NamedTuple):
    """Rows of a file, one after another, that came from one partition; row groups of their own."""

    partition: int
    rows: int
    first: int  # offset
    last: int  # offset

    @property
    def groups(self) -> int:
        """How many row groups they take."""
        return -(-self.rows // GROUP_ROWS)


@dataclass(frozen=True, kw_only=True)
class ArchiveFile:
    """One Parquet file."""

    topic: str
    hour_ms: int  # where its hour begins
    number: int  # of its commit
    rows: int
    bytes: int
    first_ms: int  # the least and the greatest event time in it
    last_ms: int
    runs: tuple[Run, ...]  # in their order in the file
    scenes: Mapping[str, int]  # rows by scene, of the commonest; "" is no scene

    @property
    def path(self) -> str:
        """Where it lies in the archive."""
        when = datetime.fromtimestamp(self.hour_ms / 1000, UTC)
        folder = f"topic={self.topic}/date={when:%Y-%m-%d}/hour={when:%H}"
        return f"{folder}/part-{self.number:012d}.parquet"

    def overlaps(self, from_ms: int | None, until_ms: int | None) -> bool:
        """Return whether it may hold events of a time."""
        return (from_ms is None or self.last_ms >= from_ms) and (
            until_ms is None or self.first_ms < until_ms
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a commit holds it."""
        content = {name: getattr(self, name) for name in _FILE_FIELDS}
        return {**content, "runs": [list(run) for run in self.runs], "scenes": dict(self.scenes)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ArchiveFile":
        """Return the file that `to_json` wrote."""
        fields = {name: content[name] for name in _FILE_FIELDS}
        runs = tuple(Run(*run) for run in content["runs"])
        return cls(**fields, runs=runs, scenes=content["scenes"])


_FILE_FIELDS: Final = ("topic", "hour_ms", "number", "rows", "bytes", "first_ms", "last_ms")


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What one commit added, and where it left the archive."""

    number: int  # from 1
    position: Position  # of the log: everything before it is archived, never part of a message
    partitions: tuple[Partition, ...]  # of the log, sorted, those without events too
    letters: State  # how far the dead letters were written
    files: tuple[ArchiveFile, ...] = ()  # those it added
    events: int = 0  # archived so far, what was deleted since included
    expired: int = 0  # events so far that were older than all that is kept when they came
    before_ms: int | None = None  # hours before it are deleted
    deleted: Mapping[Partition, int] = field(default_factory=dict)  # the greatest offset of them

    def keeps(self, file: ArchiveFile) -> bool:
        """Return whether a file of this or an earlier commit is still there."""
        return self.before_ms is None or file.hour_ms >= self.before_ms

    def to_json(self) -> bytes:
        """Return it as one line."""
        return orjson.dumps(
            {
                "number": self.number,
                "position": self.position.to_json(),
                "partitions": [list(p) for p in self.partitions],
                "letters": self.letters,
                "files": [file.to_json() for file in self.files],
                "events": self.events,
                "expired": self.expired,
                "before_ms": self.before_ms,
                "deleted": [[*p, offset] for p, offset in sorted(self.deleted.items())],
            }
        )

    @classmethod
    def from_json(cls, line: bytes) -> "Commit":
        """Return the commit that `to_json` wrote. Raises KeyError, TypeError or ValueError."""
        content = orjson.loads(line)
        return cls(
            number=content["number"],
            position=Position.from_json(content["position"]),
            partitions=tuple(Partition(*p) for p in content["partitions"]),
            letters=content["letters"],
            files=tuple(map(ArchiveFile.from_json, content["files"])),
            events=content["events"],
            expired=content["expired"],
            before_ms=content["before_ms"],
            deleted={Partition(t, n): offset for t, n, offset in content["deleted"]},
        )


def is_archive(root: Path) -> bool:
    """Return whether a folder is an archive."""
    return (root / _ABOUT).is_file()


def describe(root: Path) -> dict[str, Any]:
    """Return what tells the archived log from others. Raises `ArchiveError`."""
    path = root / _ABOUT
    try:
        content = orjson.loads(path.read_bytes())
        kind, reads = int(content["format"]), dict(content["reads"])
    except FileNotFoundError as error:
        raise NotAnArchive(
            f"{root} holds no archive: name the folder that `keepstream archive --into` wrote."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveDamaged(
            f"{path} is not an archive's description: restore it from a copy."
        ) from error
    if kind > FORMAT:
        raise ArchiveError(
            f"{root} is of format {kind}, and this program reads {FORMAT}: update it."
        )
    return reads


def set_description(root: Path, reads: Mapping[str, Any]) -> None:
    """Make ``root`` an archive of the log that ``reads`` tells from others."""
    root.mkdir(parents=True, exist_ok=True)
    write_whole(root / _ABOUT, orjson.dumps({"format": FORMAT, "reads": dict(reads)}))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all: 1 write aside, 2 sync, 3 rename, 4 sync."""
    staged = path.with_name(f"{path.name}.writing")
    with staged.open("wb") as file:
        file.write(data)  # 1
        file.flush()
        os.fsync(file.fileno())  # 2
    staged.replace(path)  # 3
    sync_folder(path.parent)  # 4
