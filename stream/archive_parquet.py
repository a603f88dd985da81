"""The Parquet files of an archive: written whole, read by partition."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stream.archive import GROUP_ROWS, HOUR_MS, ArchiveDamaged, ArchiveFile, Run
from stream.archive_buffer import Held
from stream.archive_lines import Lines
from stream.position import Partition

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

_SCHEMA: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of its message
        pa.field("row", pa.int32(), nullable=False),  # its line in the message
        pa.field("ts", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("scene", pa.dictionary(pa.int32(), pa.string())),  # null: none
        pa.field("line", pa.string(), nullable=False),  # JSON, as it came
    ]
)
_SCENES: Final = 100  # counted by name in a commit; a site has some dozen
_OTHERS: Final = "(others)"
_ENCODING: Final = dict.fromkeys(("partition", "offset", "row", "ts"), "DELTA_BINARY_PACKED")


def write_part(
    root: Path,
    held: Held,
    number: int,
    partitions: Sequence[Partition],
    names: Mapping[int, str],
    written: list[Path],
) -> ArchiveFile:
    """Write events (n,) of one topic and hour, by partition, beside the file's own name; sync it.

    ``names`` are those of scenes, by hash. The path goes into ``written`` before it is there.
    """
    partition, offset = held["partition"], held["offset"]
    starts = [0, *(np.flatnonzero(np.diff(partition)) + 1).tolist(), len(held)]
    scenes, place, counts = np.unique(held["scene"], return_inverse=True, return_counts=True)
    told = [names.get(h, f"{h:016x}") if h else "" for h in scenes.tolist()]
    per_scene: Counter[str] = Counter()
    for name, count in zip(told, counts.tolist(), strict=True):
        per_scene[name] += count
    most = dict(per_scene.most_common(_SCENES))
    if others := len(held) - sum(most.values()):
        most[_OTHERS] = others
    ts = held["ts"]
    runs = [
        Run(partitions[partition[a]].number, b - a, int(offset[a]), int(offset[b - 1]))
        for a, b in pairwise(starts)
    ]
    file = ArchiveFile(
        topic=partitions[partition[0]].topic,
        hour_ms=int(ts[0]) // HOUR_MS * HOUR_MS,
        number=number,
        rows=len(held),
        bytes=0,
        first_ms=int(ts.min()),
        last_ms=int(ts.max()),
        runs=tuple(runs),
        scenes=most,
    )
    path = root / f"{file.path}.writing"
    path.parent.mkdir(parents=True, exist_ok=True)
    written.append(path)
    dictionary, nameless = pa.array(told, pa.string()), held["scene"] == 0
    numbers = np.array([p.number for p in partitions], np.int32)[partition]
    with pq.ParquetWriter(
        path,
        _SCHEMA,
        compression="zstd",
        use_dictionary=["scene"],
        column_encoding=_ENCODING,
        write_page_checksum=True,
    ) as writer:
        for a, b in pairwise(starts):
            for at in range(a, b, GROUP_ROWS):
                some = slice(at, min(at + GROUP_ROWS, b))
                columns = [
                    pa.array(numbers[some]),
                    pa.array(offset[some]),
                    pa.array(held["row"][some]),
                    pa.array(ts[some]).cast(_SCHEMA.field("ts").type),
                    pa.DictionaryArray.from_arrays(
                        pa.array(place[some].astype(np.int32), mask=nameless[some]), dictionary
                    ),
                    _texts(held.line[some]),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))
    with path.open("rb") as written_file:
        os.fsync(written_file.fileno())
    return replace(file, bytes=path.stat().st_size)


def read_run(root: Path, file: ArchiveFile, partition: int) -> tuple[I64, I32, Lines]:
    """Return the offsets (n,), rows (n,) and lines (n) of one partition, in the order of its log.

    Raises `ArchiveDamaged`, and `FileNotFoundError`.
    """
    first = groups = 0
    for run in file.runs:
        if run.partition == partition:
            groups = run.groups
            break
        first += run.groups
    path = root / file.path
    chosen = list(range(first, first + groups))
    try:
        if path.stat().st_size != file.bytes:
            raise ArchiveDamaged(_damaged(path, "it has another size than when it was written"))
        with pq.ParquetFile(path, page_checksum_verification=True) as opened:
            table = opened.read_row_groups(
                chosen, columns=["offset", "row", "line"], use_threads=False
            )
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise ArchiveDamaged(_damaged(path, " ".join(str(error).split())[:200])) from error
    lines = [_lines(chunk) for chunk in table.column("line").chunks]
    return (
        np.array(table.column("offset").to_numpy(), np.int64),
        np.array(table.column("row").to_numpy(), np.int32),
        joined(lines),
    )


def joined(lines: Sequence[Lines]) -> Lines:
    """Return lines one after another, over one piece of memory."""
    if len(lines) == 1:
        return lines[0]
    if not lines:
        nothing = np.zeros(0, np.int64)
        return Lines(np.zeros(0, np.uint8), nothing, nothing)
    places = np.cumsum([0, *(part.data.size for part in lines)]).tolist()
    return Lines(
        np.concatenate([part.data for part in lines]),
        np.concatenate([part.starts + at for part, at in zip(lines, places, strict=False)]),
        np.concatenate([part.ends + at for part, at in zip(lines, places, strict=False)]),
    )


def _texts(lines: Lines) -> Any:  # a pyarrow.StringArray
    data = np.empty(lines.size, np.uint8)
    lines.copy_to(data)
    bounds = np.append(0, np.cumsum(lines.ends - lines.starts)).astype(np.int32)
    return pa.StringArray.from_buffers(len(lines), pa.py_buffer(bounds), pa.py_buffer(data))


def _lines(array: Any) -> Lines:  # a pyarrow.StringArray
    _, bounds, data = array.buffers()
    places = np.frombuffer(bounds, np.int32)[array.offset :][: len(array) + 1].astype(np.int64)
    return Lines(np.frombuffer(data or b"", np.uint8), places[:-1], places[1:])


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged: {why}. Restore it from a copy, or read around its hour with --until "
        "and --from."
    )
