"""A log in files, with the semantics of Kafka's partitions: its layout, and what can be wrong.

``<root>/<topic>/topic.json``: how many partitions. ``<root>/<topic>/<partition>/<offset>.log``: a
segment, named by its first offset in 20 digits: 16 bytes of head, then frames (`stream.frames`).
The oldest segments may be deleted at any time; that is the retention. Only the last one grows.

A place where no frame lies and behind which no whole one follows, in the last segment, is a torn
tail: what a crash left of an append. The writer cuts it off, a reader takes it for not there yet.
Anywhere else it is damage: a reader puts a `Rejected` in its place and goes on at the next segment,
the writer refuses (`LogDamaged`) until `skip_damage` lets it begin a new segment.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stream.ids import hash_ids
from stream.position import Partition

MAGIC: Final = b"KSLOG\0"
FORMAT: Final = 1
SEGMENT_HEAD_BYTES: Final = 16  # magic, format: u16, first offset: u64

_TOPIC_FILE: Final = "topic.json"
_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,248}")  # Kafka's, never hidden
_SEGMENT_NAME: Final = re.compile(r"(\d{20})\.log")


class LogError(Exception):
    """A file log cannot be used as asked; the message says what to do next."""


class NoSuchTopic(LogError):
    """A topic, or a partition of it, is not in the log."""


class OffsetOutOfRange(LogError):
    """A position lies before what is kept, or behind what was written."""


class LogDamaged(LogError):
    """A segment holds what no writer wrote."""


class LogLocked(LogError):
    """Another writer has the partition."""


class RecordTooLarge(LogError):
    """A value is longer than a frame takes."""


def create_topic(root: Path, topic: str, partitions: int) -> None:
    """Create a topic, unless it is there with as many partitions. Raises `LogError`."""
    if not _TOPIC_NAME.fullmatch(topic):
        raise LogError(f"{topic!r} cannot name a topic: use letters, digits, '.', '_' and '-'.")
    if partitions < 1:
        raise LogError(f"The topic {topic} needs at least one partition, not {partitions}.")
    folder = root / topic
    if (folder / _TOPIC_FILE).exists():
        there = partitions_of(root, topic)
        if len(there) != partitions:
            raise LogError(
                f"{folder} has {len(there)} partitions, not {partitions}: their number is fixed, "
                "for a user's events must stay together. Take another topic."
            )
        return
    for number in range(partitions):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
    staged = folder / f"{_TOPIC_FILE}.{os.getpid()}"
    with staged.open("w") as file:
        json.dump({"format": FORMAT, "partitions": partitions}, file)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(folder / _TOPIC_FILE)  # its presence means "complete"
    sync_folder(folder)
    sync_folder(root)


def topics_of(root: Path) -> tuple[str, ...]:
    """Return the topics in a log, sorted; none where there is no log."""
    return tuple(sorted(path.parent.name for path in root.glob(f"*/{_TOPIC_FILE}")))


def partitions_of(root: Path, topic: str) -> tuple[Partition, ...]:
    """Return the partitions of a topic, sorted. Raises `NoSuchTopic`, `LogError`."""
    path = root / topic / _TOPIC_FILE
    if not path.exists():
        there = ", ".join(topics_of(root)) or "none"
        raise NoSuchTopic(
            f"{root} has no topic {topic!r}; there are: {there}. Name one of these, or write to it "
            "first."
        )
    try:
        content = json.loads(path.read_bytes())
        kind, count = int(content["format"]), int(content["partitions"])
    except (ValueError, KeyError, TypeError) as error:
        raise LogDamaged(f"{path} is not a topic's description: restore it from a copy.") from error
    if kind > FORMAT:
        raise LogError(f"{path} is of format {kind}, and this program reads {FORMAT}: update it.")
    return tuple(Partition(topic, number) for number in range(count))


def folder_of(root: Path, partition: Partition) -> Path:
    """Return the folder of a partition."""
    return root / partition.topic / str(partition.number)


def segments_of(folder: Path) -> list[int]:
    """Return the first offsets of a partition's segments, in order."""
    names = (_SEGMENT_NAME.fullmatch(entry.name) for entry in os.scandir(folder))
    return sorted(int(name[1]) for name in names if name)


def segment_path(folder: Path, first: int) -> Path:
    """Return the file of the segment that begins at the offset ``first``."""
    return folder / f"{first:020d}.log"


def segment_head(first: int) -> bytes:
    """Return the first bytes of a segment."""
    return MAGIC + FORMAT.to_bytes(2, "little") + first.to_bytes(8, "little")


def check_format(path: Path, head: bytes) -> None:
    """Raise `LogError` where a segment's ``head`` is of a later format than this one."""
    kind = int.from_bytes(head[len(MAGIC) : len(MAGIC) + 2], "little")
    if head.startswith(MAGIC) and kind > FORMAT:
        raise LogError(f"{path} is of format {kind}, and this program reads {FORMAT}: update it.")


def partition_for(user_id: str | int, partitions: int) -> int:
    """Return the partition that a user's events go to: the same for impressions and feedback."""
    return partitions_for([user_id], partitions)[0]


def partitions_for(user_ids: Sequence[str | int], partitions: int) -> list[int]:
    """Return the partition of each user (n,); ``"7"`` and 7 are the same user.

    >>> partitions_for(["7", 7], 4) == [partition_for(7, 4)] * 2
    True
    """
    found: list[int] = (hash_ids(user_ids) % partitions).tolist()
    return found


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
