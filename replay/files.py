"""Parquet files as one long table, read from any row on without holding it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from replay.errors import InputCorrupt, InputError, MappingError, nearest

_MAGIC: Final = b"PAR1"


@dataclass(frozen=True)
class Rows:
    """Some rows of a table, in reading order."""

    first: int  # the place of the first in reading order
    numbers: npt.NDArray[np.int64]  # (n,) each one's row number in the files
    batch: Any  # a pyarrow.RecordBatch


class Table(Protocol):
    """Rows in the order in which they are to be read."""

    @property
    def size(self) -> int:
        """How many rows there are."""
        ...

    def rows(self, columns: Sequence[str], first: int, block: int) -> Iterator[Rows]:
        """Yield at most ``block`` rows at a time, from the row ``first`` on."""
        ...


def expand(paths: str | Path | Iterable[str | Path]) -> tuple[Path, ...]:
    """Return the files that ``paths`` name: files, or patterns such as ``logs/*.parquet``.

    Raises `InputError` for a name that stands for no file.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files: list[Path] = []
    for path in given:
        found = [Path(path)] if Path(path).exists() else _matching(Path(path))
        if not found:
            folder = Path(path).parent
            there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
            raise InputError(f"No file is at {path}. {_beside(Path(path).name, there)}")
        for file in found:
            if file.is_dir():
                raise InputError(f"{file} is a folder: name the files in it, as in {file}/*.")
            files.append(file)
    if not files:
        raise InputError("No input file was named: give at least one.")
    return tuple(files)


def _matching(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor)
    inside = pattern.relative_to(root) if pattern.anchor else pattern
    return sorted(root.glob(str(inside))) if inside.parts else []


def _beside(name: str, there: list[str]) -> str:
    return nearest(name, there) if len(there) <= 20 else f"{len(there)} other files are there."


class ParquetFiles:
    """Parquet files, one after another, as one table. Holds their footers and one batch of rows."""

    def __init__(self, paths: str | Path | Iterable[str | Path]) -> None:
        self.paths = expand(paths)
        self.schema: Any = None  # a pyarrow.Schema: that of the first file
        self._first: list[int] = []  # each file's first row
        self.size = 0
        for path in self.paths:
            with _opened(path) as file:
                if self.schema is None:
                    self.schema = file.schema_arrow
                else:
                    self._check_same_columns(path, file.schema_arrow)
                self._first.append(self.size)
                self.size += file.metadata.num_rows
        if self.size == 0:
            raise InputError(f"{self.where} holds no rows: there is nothing to replay.")

    @property
    def where(self) -> str:
        """The files, for a message."""
        more = f" (and {len(self.paths) - 1} more)" if len(self.paths) > 1 else ""
        return f"{self.paths[0]}{more}"

    def kind(self, column: str) -> Any:
        """Return the pyarrow type of ``column``, of its values where it is dictionary-encoded."""
        kind = self.schema.field(column).type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def bounds(self, column: str) -> tuple[float, float] | None:
        """Return the least and the greatest value of numbers or times (epoch ms) in the footers.

        None where a footer does not say.
        """
        found: list[float] = []
        for path in self.paths:
            with _opened(path) as file:
                index = file.schema_arrow.names.index(column)
                for group in range(file.num_row_groups):
                    stats = _statistics(file, group, index)
                    if stats is None:
                        return None
                    found += [_number(stats.min), _number(stats.max)]
        return (min(found), max(found)) if found and np.isfinite(found).all() else None

    def rows(self, columns: Sequence[str], first: int, block: int) -> Iterator[Rows]:
        """Yield at most ``block`` rows at a time, from the row ``first`` on.

        Raises `InputCorrupt` where a file's pages are damaged.
        """
        for path, start in zip(self.paths, self._first, strict=True):
            with _opened(path) as file:
                at = start
                groups: list[int] = []
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if groups or at + rows > first:
                        groups.append(group)
                    else:
                        at += rows
                for batch in _batches(path, file, groups, columns, block):
                    if at + batch.num_rows > first:
                        skip = max(first - at, 0)
                        left = batch.slice(skip)
                        numbers = np.arange(at + skip, at + batch.num_rows, dtype=np.int64)
                        yield Rows(at + skip, numbers, left)
                    at += batch.num_rows

    def _check_same_columns(self, path: Path, schema: Any) -> None:  # a pyarrow.Schema
        missing = sorted(set(self.schema.names) - set(schema.names))
        if missing:
            raise MappingError(
                f"{path} has no column {missing[0]!r}, which {self.paths[0]} has: replay files of "
                "one kind together."
            )


class SortedRows:
    """A table read in the order of one column. Holds the columns it is asked for in memory."""

    def __init__(self, table: ParquetFiles, order: npt.NDArray[np.int64]) -> None:
        self._table, self._order = table, order
        self.size = table.size

    def rows(self, columns: Sequence[str], first: int, block: int) -> Iterator[Rows]:
        """Yield at most ``block`` rows at a time, from the place ``first`` in the order on."""
        batches = [rows.batch for rows in self._table.rows(columns, 0, 1 << 20)]
        held = pa.Table.from_batches(batches).combine_chunks()
        for start in range(first, self.size, block):
            numbers = self._order[start : start + block]
            batch = held.take(pa.array(numbers)).combine_chunks().to_batches()[0]
            yield Rows(start, numbers, batch)


def _opened(path: Path) -> Any:  # a pyarrow.parquet.ParquetFile
    size = path.stat().st_size
    if size == 0:
        raise InputCorrupt(f"{path} is empty (0 bytes): write or copy it again.")
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, size - 4))
        tail = file.read(4)
    if head != _MAGIC:
        raise InputCorrupt(f"{path} is not a Parquet file: it does not begin with PAR1.")
    if tail != _MAGIC:
        raise InputCorrupt(f"{path} is cut off: its footer is missing. Copy it again.")
    try:
        return pq.ParquetFile(path, buffer_size=1 << 20)
    except (OSError, pa.ArrowException) as error:
        raise InputCorrupt(f"{path} cannot be read: {_line(error)}. Copy it again.") from error


def _batches(
    path: Path,
    file: Any,
    groups: list[int],
    columns: Sequence[str],
    block: int,  # file: a ParquetFile
) -> Iterator[Any]:
    if not groups:
        return
    batches = file.iter_batches(block, row_groups=groups, columns=list(columns), use_threads=False)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as error:
            raise InputCorrupt(
                f"{path} is damaged inside: {_line(error)}. Copy it again."
            ) from error
        if batch is None:
            return
        yield batch


def _statistics(file: Any, group: int, index: int) -> Any:  # of a pyarrow.parquet.ParquetFile
    metadata = file.metadata
    if metadata.num_columns != len(file.schema_arrow.names):
        return None  # nested columns: leaves and names do not go together
    stats = metadata.row_group(group).column(index).statistics
    return stats if stats is not None and stats.has_min_max else None


def _number(value: Any) -> float:  # what a footer holds
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp() * 1000
    return float(value) if isinstance(value, int | float) else float("nan")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200]
