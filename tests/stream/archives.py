"""Archives of small logs, to be written, read and broken."""

from pathlib import Path

import numpy as np

from stream.archive import set_description
from stream.archive_lines import RawDecoder
from stream.archive_source import ArchiveSource
from stream.archive_writer import ArchiveConfig, ArchiveWriter
from stream.events import EventColumns, EventSchema
from stream.filelog_source import FileLogSource
from stream.source import Source
from tests.stream.source_contract import SCHEMA

TOPICS = ("impressions", "feedback")
SMALL = ArchiveConfig(roll_events=7)


def archive(log: Path, root: Path, config: ArchiveConfig = SMALL, topics=TOPICS, **options):
    """Add what a file log has more than an archive to it; return the writer, closed."""
    set_description(root, {})
    blocks = options.pop("block_events", 5)
    with ArchiveWriter(root, config, **options) as writer:
        decoder = RawDecoder()
        source = FileLogSource(
            log,
            topics,
            decoder.schema,
            position=writer.position,
            decoder=decoder,
            block_events=blocks,
        )
        writer.begin(source.partitions)
        for block in source:
            writer.add(block)
        writer.commit()
    return writer


def events_of(source: Source) -> EventColumns:
    """Return all events of a finite source by partition, in log order."""
    found = EventColumns.concat(
        [EventColumns.empty(source.schema), *(block.events for block in source)]
    )
    return found.take(np.argsort(found.partition, kind="stable"))


def archived(root: Path, topics=TOPICS, schema: EventSchema = SCHEMA, **options) -> EventColumns:
    """Return the events of an archive."""
    return events_of(ArchiveSource(root, topics, schema, **options))


def logged(log: Path, topics=TOPICS, schema: EventSchema = SCHEMA, **options) -> EventColumns:
    """Return the events of a file log."""
    return events_of(FileLogSource(log, topics, schema, **options))


def parts_of(root: Path) -> set[str]:
    """Return the Parquet files of an archive, and what writers left beside them."""
    return {p.relative_to(root).as_posix() for p in root.glob("topic=*/*/*/*")}
