"""Opens whatever `--input` names: Parquet files, NDJSON files, a file log or an archive."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepstream.config import Config, ConfigError
from keepstream.fingerprint import fingerprint
from keepstream.reading import OpenSource
from replay.mapping import ParquetMapping
from replay.ndjson import NdjsonSource
from replay.parquet import ParquetSource
from replay.relog import LogLine, archive_lines, log_lines, ndjson_lines, parquet_lines
from stream.archive import is_archive
from stream.archive_source import ArchiveSource
from stream.events import EventSchema
from stream.filelog_source import FileLogSource
from stream.position import Partition, Position
from stream.source import Block, Rejected, Source

_NDJSON = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz", ".ndjson.zst", ".jsonl.zst")
_YEAR_10000_MS = 253_402_300_800_000  # as far as an ISO time goes: more is a slip
_FOLDERS = {"log": "file log", "archive": "archive"}


def kind_of(paths: Sequence[Path]) -> str:
    """Return "parquet", "ndjson", "log" or "archive": what the inputs are.

    >>> kind_of([Path("a.jsonl.zst"), Path("b.ndjson")])
    'ndjson'
    """
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise ConfigError(
            f"--input mixes {' and '.join(sorted(kinds))}: replay one kind at a time, or write the "
            "others into a log first (`keepstream replay --into LOG`)."
        )
    return kinds.pop()


def _kind(path: Path) -> str:
    if path.is_dir():
        return "archive" if is_archive(path) else "log"
    if path.name.endswith(_NDJSON):
        return "ndjson"
    if path.suffix in (".parquet", ".pq"):
        return "parquet"
    raise ConfigError(
        f"{path}: not a kind of input that is known. Expected .parquet, {', '.join(_NDJSON)}, "
        "or the folder of a file log or an archive."
    )


def opener(
    config: Config,
    paths: Sequence[Path],
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
    follow: bool = False,
) -> OpenSource:
    """Return the function that opens ``paths`` at a position."""
    _check_exist(paths)
    kind = kind_of(paths)

    def open_source(schema: EventSchema, position: Position) -> Source:
        if kind == "parquet":
            return ParquetSource(
                paths,
                mapping_of(config),
                schema,
                position=position,
                from_ms=from_ms,
                until_ms=until_ms,
                block_events=config.log.block_events,
                sort=_sorted(config),
            )
        if kind == "ndjson":
            return NdjsonSource(
                paths,
                schema,
                position=position,
                from_ms=from_ms,
                until_ms=until_ms,
                block_events=config.log.block_events,
            )
        if len(paths) > 1:
            raise ConfigError(f"--input: one {_FOLDERS[kind]} at a time.")
        source = ArchiveSource if kind == "archive" else FileLogSource
        return source(
            paths[0],
            config.log.topics,
            schema,
            position=position,
            follow=follow,
            from_ms=from_ms,
            until_ms=until_ms,
            block_events=config.log.block_events,
        )

    return open_source


def reads_of(
    config: Config,
    paths: Sequence[Path],
    *,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> dict[str, Any]:
    """Return what a run that reads ``paths`` may go on with only if it is the same."""
    _check_exist(paths)
    reads = fingerprint(kind_of(paths), paths, config.log.topics)
    return {**reads, "from": from_ms, "until": until_ms}


def lines_of(
    config: Config, paths: Sequence[Path], *, from_ms: int | None, until_ms: int | None
) -> Iterator[LogLine | Rejected]:
    """Yield the events of ``paths`` as the lines of a new log."""
    _check_exist(paths)
    match kind_of(paths):
        case "parquet":
            return parquet_lines(
                paths,
                mapping_of(config),
                from_ms=from_ms,
                until_ms=until_ms,
                sort=_sorted(config),
            )
        case "ndjson":
            return ndjson_lines(paths, from_ms=from_ms, until_ms=until_ms)
        case "archive":
            return archive_lines(paths[0], config.log.topics, from_ms=from_ms, until_ms=until_ms)
        case _:
            return log_lines(paths[0], config.log.topics, from_ms=from_ms, until_ms=until_ms)


def _check_exist(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"{path}: there is no such file or folder. Check --input, --log or log.root."
            )


def _sorted(config: Config) -> bool:
    sort = config.input.get("sort", False)
    if not isinstance(sort, bool):
        raise ConfigError(f"[input] sort = {sort!r}: it is true or false.")
    return sort


class Bounded:
    """A source that ends the first time it is silent and ``over()`` says that this was the end.

    ``on_close`` is called when it is closed, from whatever thread: it wakes what waits. A partition
    of ``examples`` is idle only where its worker is gone, but each of their messages says
    something: a block that says nothing is silence.
    """

    def __init__(
        self,
        source: Source,
        over: Callable[[], bool] = lambda: False,
        on_close: Callable[[], None] = lambda: None,
        *,
        examples: bool = False,
    ) -> None:
        self._examples = examples
        self._source = source
        self._over = over
        self._on_close = on_close

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions of the source."""
        return self._source.partitions

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        return self._source.schema

    @property
    def grown(self) -> bool:
        """Whether the source has ended because its topics have got new partitions."""
        return bool(getattr(self._source, "grown", False))

    def __iter__(self) -> Iterator[Block]:
        over = False
        for block in self._source:
            if over and self._is_silent(block):
                if self._examples:
                    yield block  # who is idle in it holds the others back no longer
                return  # it was over before this look at the log, which found nothing more
            over = self._over()
            yield block

    def _is_silent(self, block: Block) -> bool:
        if len(block.events):
            return False
        if self._examples:
            return not (block.rejected or block.progress)
        return len(block.idle) == len(self.partitions)

    def close(self) -> None:
        """Wake what waits, and close the source."""
        self._on_close()
        self._source.close()


def mapping_of(config: Config) -> ParquetMapping:
    """Return the column mapping of a configuration."""
    if not config.input:
        raise ConfigError(
            "[input] is missing: a Parquet file needs to be told its columns. "
            "`keepstream init --from FILE.parquet` writes the table with its guesses."
        )
    return ParquetMapping.from_table(dict(config.input))


def time_ms(text: str) -> int:
    """Return epoch milliseconds of an ISO time (UTC where it names no zone) or of a number.

    >>> time_ms("2023-05-18T07:00")
    1684393200000
    """
    if text.isdecimal():
        if int(text) >= _YEAR_10000_MS:
            raise ValueError(f"{text} ms lie after the year 9999")
        return int(text)
    when = datetime.fromisoformat(text)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
