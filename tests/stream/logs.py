"""Small file logs of one partition, to be written, read and broken."""

import numpy as np

from stream.encode import encode_event
from stream.filelog import SEGMENT_HEAD_BYTES, create_topic
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.frames import HEAD_BYTES, scan
from stream.position import Offset, Partition, Position
from tests.stream.source_contract import SCHEMA, START_MS

HERE = Partition("impressions", 0)
SMALL = LogWriterConfig(fsync="never", segment_bytes=2000)  # some ten events a segment


def event(i):
    """Return an impression; its user is its number."""
    return {"impression_id": f"i{i}", "user_id": i, "item_id": 1, "ts": START_MS + 1000 * i}


def write(root, count, first=0, config=SMALL):
    """Append ``count`` events, a record each."""
    create_topic(root, HERE.topic, 1)
    with FileLogWriter(root, config) as writer:
        for i in range(first, first + count):
            writer.append(HERE, encode_event(event(i)))


def read(root, position=None, **options):
    """Return the offsets read, and the letters, of a finite source."""
    source = FileLogSource(root, [HERE.topic], SCHEMA, position=position, **options)
    blocks = list(source)
    letters = [r for b in blocks for r in b.rejected]
    return [int(o) for b in blocks for o in b.events.offset], letters


def at(message, row=0):
    """Return the position of a message of the one partition."""
    return Position({HERE: Offset(message, row)})


def files(root):
    """Return the segments, in order."""
    return sorted((root / "impressions" / "0").glob("*.log"))


def damage(path, *, record, place):
    """Flip a bit of the given byte of the given record."""
    raw = bytearray(path.read_bytes())
    found = scan(np.frombuffer(bytes(raw), np.uint8), SEGMENT_HEAD_BYTES, SEGMENT_HEAD_BYTES, 1000)
    raw[int(found.starts[record]) - HEAD_BYTES + place] ^= 4
    path.write_bytes(bytes(raw))
