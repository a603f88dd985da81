"""Tells one input from another, so that a run goes on only with the one it has begun to read."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from replay.files import expand
from replay.lines import LineReader
from replay.ndjson import partitions_of as file_partitions
from stream.archive import describe
from stream.decode import MAX_LINE_BYTES
from stream.filelog import folder_of, partitions_of
from stream.filelog_source import PartitionReader
from stream.position import Partition

_HEAD_BYTES = 64 << 10  # of a table: its first rows, compressed


def fingerprint(kind: str, paths: Sequence[Path], topics: Sequence[str]) -> dict[str, Any]:
    """Return what tells an input from others of its ``kind``, wherever it lies.

    A place in a table is a row: ``files`` are [name, bytes, digest of the first 64 KiB] each. Logs
    and files of lines may grow, and their partitions are in the checkpoint: ``first`` is by
    partition [offset, digest] of the first record, where there is one. An archive is as its log.
    """
    match kind:
        case "parquet":
            return {"files": [_file(path) for path in expand(paths)]}
        case "ndjson":
            files = file_partitions(expand(paths))
            found = {str(p): _first_line(p, files[p]) for p in sorted(files)}
        case "archive":  # places in it are those of its log
            return _of_topics(describe(paths[0]), topics)
        case _:
            partitions = sorted(p for topic in topics for p in partitions_of(paths[0], topic))
            found = {
                str(p): _first(PartitionReader(folder_of(paths[0], p), p, None)) for p in partitions
            }
    return {"first": {partition: record for partition, record in found.items() if record}}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return in what two fingerprints are of different inputs; None where they may be of one.

    >>> difference({"files": [["a", 1, "x"]]}, {"files": [["b", 1, "x"]]})
    'it was a, and is b'
    >>> difference({"first": {}}, {"kafka": "id of the cluster", "topics": {}})
    'it was a log in files, and is Kafka'
    """
    if _kind(before) != _kind(now):
        return f"it was {_kind(before)}, and is {_kind(now)}"
    if (change := _other_topic(before, now)) is not None:
        return change
    for old, new in zip_longest(before.get("files", ()), now.get("files", ())):
        if old is None or new is None or old[0] != new[0]:
            return f"it was {_name(old)}, and is {_name(new)}"
        if old != new:
            return f"{new[0]} is not what it was: {old[1]:,} bytes then, {new[1]:,} now"
    if ("history" in before) != ("history" in now):
        return "one begins with a history, the other does not"
    if "history" in now and (found := difference(before["history"], now["history"])):
        return f"its history: {found}"
    for key in ("from", "until", "handover"):
        if before.get(key) != now.get(key):
            return f"--{key} was {_time(before.get(key))}, and is {_time(now.get(key))}"
    for partition, (offset, digest) in now.get("first", {}).items():
        old_offset, old_digest = before.get("first", {}).get(partition, (offset, digest))
        if offset == old_offset and digest != old_digest:  # a later one: retention
            return f"{partition} begins with another record"
    return None


def merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the newest fingerprint of one input: what was not there before, is now."""
    result = {**before, **now}
    if "first" in result:
        result["first"] = {**before.get("first", {}), **now.get("first", {})}
    if "history" in result:
        result["history"] = merged(before.get("history", {}), result["history"])
    return result


def _of_topics(reads: Mapping[str, Any], topics: Sequence[str]) -> dict[str, Any]:
    """Return what tells the log of an archive from others, as far as ``topics`` are read of it."""
    found = dict(reads)
    if "topics" in found:
        found["topics"] = {name: i for name, i in found["topics"].items() if name in topics}
    if "first" in found:
        first = found["first"].items()
        found["first"] = {p: record for p, record in first if p.rpartition("/")[0] in topics}
    return found


def _file(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.name, path.stat().st_size, xxh3_128_hexdigest(file.read(_HEAD_BYTES))]


def _first_line(partition: Partition, path: Path) -> list[Any] | None:
    if not path.is_file():
        return None  # what comes through a pipe can be read but once
    reader = LineReader(path, partition, 0, MAX_LINE_BYTES)
    try:
        return _first(reader)
    finally:
        reader.close()


def _first(reader: LineReader | PartitionReader) -> list[Any] | None:
    fetched = reader.fetch(1)
    if fetched is None or not len(fetched.messages):
        return None
    return [int(fetched.offsets[0]), xxh3_128_hexdigest(fetched.messages[0])]


def _kind(reads: Mapping[str, Any]) -> str:
    if "kafka" in reads:
        return "Kafka"
    return "tables" if "files" in reads else "a log in files"


def _other_topic(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    old, new = before.get("topics", {}), now.get("topics", {})
    if sorted(old) != sorted(new):
        return f"it was {', '.join(sorted(old))}, and is {', '.join(sorted(new))}"
    if before.get("kafka") != now.get("kafka"):
        return f"the cluster was {before['kafka']}, and is {now['kafka']}"
    for name in sorted(new):
        if old[name] != new[name]:
            return (
                f"the topic {name} was deleted and created again: its id was {old[name]}, and is "
                f"{new[name]}"
            )
    return None


def _name(file: Sequence[Any] | None) -> str:
    return "no more" if file is None else str(file[0])


def _time(at_ms: int | None) -> str:
    return "not given" if at_ms is None else str(at_ms)
