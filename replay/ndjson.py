"""Files of events, one JSON object a line, as a source: .ndjson, .jsonl, plain or compressed."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from replay.errors import InputError
from replay.files import expand
from replay.lines import LineReader
from stream.blocks import BLOCK_EVENTS, BlockRule, read_blocks
from stream.decode import MAX_LINE_BYTES, Decoder
from stream.events import EventSchema
from stream.position import Partition, Position
from stream.source import Block

_SUFFIXES: Final = frozenset({".ndjson", ".jsonl", ".json", ".log", ".gz", ".zst"})
_MAX_FILES: Final = 512  # open at once


class NdjsonSource:
    """Reads files of impressions and feedback, in any mixture; each file is one partition.

    A partition's topic is its file's name without endings; of several files of one name the number
    tells them apart. Its offsets are line numbers, from 0. A compressed file that is cut off or
    damaged ends there, with a `Rejected`. Holds one block, and of each file one piece of it.

    Raises `InputError` where a file is not there.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        schema: EventSchema,
        *,
        position: Position | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        block_events: int = BLOCK_EVENTS,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        files = expand(paths)
        if len(files) > _MAX_FILES:
            raise InputError(
                f"{len(files)} files are named, and at most {_MAX_FILES} are read at once: put "
                "consecutive ones together, as in cat 2026-11-*.ndjson > november.ndjson."
            )
        named = partitions_of(files)
        self._partitions = tuple(sorted(named))
        self._paths = [named[partition] for partition in self._partitions]
        self._schema = schema
        self._max_line_bytes = max_line_bytes
        self._position = position or Position()
        self._rule = BlockRule(block_events=block_events, from_ms=from_ms, until_ms=until_ms)
        self._closed = threading.Event()

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """One a file."""
        return self._partitions

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        return self._schema

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks of one file each, from the position it was opened at; every file ends."""
        decoder = Decoder(self._schema, self._max_line_bytes)
        with ExitStack() as opened:
            readers = []
            for partition, path in zip(self._partitions, self._paths, strict=True):
                start = self._position.of(partition).message
                readers.append(LineReader(path, partition, start, self._max_line_bytes))
                opened.callback(readers[-1].close)
            for block in read_blocks(
                self._partitions, readers, decoder, self._position, self._rule
            ):
                yield block
                if self._closed.is_set():
                    return

    def close(self) -> None:
        """End the reading after the block in hand; idempotent."""
        self._closed.set()


def partitions_of(files: Iterable[Path]) -> dict[Partition, Path]:
    """Return the partition that each file is."""
    found: dict[Partition, Path] = {}
    numbers: Counter[str] = Counter()
    for path in files:
        topic = path
        while topic.suffix in _SUFFIXES:
            topic = topic.with_suffix("")
        found[Partition(topic.name, numbers[topic.name])] = path
        numbers[topic.name] += 1
    return found
