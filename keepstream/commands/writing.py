"""What `replay --into` and `simulate --into` share: the file log that they write."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from keepstream.commands.command import UsageError
from stream.filelog import (
    SEGMENT_HEAD_BYTES,
    create_topic,
    folder_of,
    partitions_of,
    segment_path,
    segments_of,
    topics_of,
)
from stream.position import Partition


def add_append(parser: argparse.ArgumentParser) -> None:
    """Add --append."""
    parser.add_argument(
        "--append",
        action="store_true",
        help="with --into: go on behind what the log holds, which is refused otherwise",
    )


def open_log(root: Path, topics: Sequence[str], partitions: int, *, append: bool) -> None:
    """Create the topics of a log where they are missing.

    Raises `UsageError` where one holds records, unless these are to be appended to.
    """
    for topic in () if append else sorted(set(topics) & set(topics_of(root))):
        if any(_has_records(root, partition) for partition in partitions_of(root, topic)):
            raise UsageError(
                f"--into {root}: the topic {topic} holds records already, and every reader would "
                "take the new ones for their continuation. Name a new log, or say --append."
            )
    for topic in topics:
        create_topic(root, topic, partitions)


def _has_records(root: Path, partition: Partition) -> bool:
    folder = folder_of(root, partition)
    return any(
        first > 0 or segment_path(folder, first).stat().st_size > SEGMENT_HEAD_BYTES
        for first in segments_of(folder)
    )
