"""What the columns of a table look like in its first rows: kinds, distinct values, nulls."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from replay.columns import is_list, is_number, is_text, numbers_of, plain
from replay.files import ParquetFiles

Kind = Literal["id", "integer", "real", "truth", "text", "time", "list", "other"]

SAMPLE: Final = 50_000  # rows that are looked at: enough to see what is rare, read in a moment
_LONG_TEXT: Final = 64  # bytes on average from which a text is prose and not a name


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One column, as far as the sample shows it."""

    name: str
    type: str
    kind: Kind
    distinct: int
    nulls: float  # share of rows
    low: float = np.nan  # of numbers; times in epoch ms
    high: float = np.nan
    prose: bool = False  # text too long to be a name

    @property
    def is_constant(self) -> bool:
        """Whether all rows say the same."""
        return self.distinct <= 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The first rows of a table."""

    path: Path
    rows: int  # of the whole table
    table: Any  # a pyarrow.Table of at most `SAMPLE` rows
    profiles: dict[str, Profile]  # by column, in the file's order
    bounds: dict[str, tuple[float, float]]  # of the whole file, where its footer says so

    @property
    def size(self) -> int:
        """The rows looked at."""
        return int(self.table.num_rows)

    def codes(self, column: str) -> npt.NDArray[np.int64]:
        """Return a number (n,) per row that is equal where the column's values are."""
        coded = _array(self.table, column).dictionary_encode("encode")
        return np.asarray(coded.indices.to_numpy(), np.int64)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Return the column's numbers (n,), NaN where absent."""
        return numbers_of(_array(self.table, column))

    def milliseconds(self, column: str) -> npt.NDArray[np.float64]:
        """Return the column's times (n,) in epoch ms, NaN where absent."""
        times = _array(self.table, column).cast(pa.timestamp("us")).cast(pa.int64())
        return numbers_of(times) / 1000

    def valid(self, column: str) -> npt.NDArray[np.bool_]:
        """Return where the column has a value (n,)."""
        return np.asarray(_array(self.table, column).is_valid().to_numpy(zero_copy_only=False))


def take_sample(path: str | Path) -> Sample:
    """Read the first rows of a Parquet file and describe its columns. Raises `InputError`."""
    files = ParquetFiles(path)
    names = files.schema.names
    batches: list[Any] = []
    taken = 0
    for rows in files.rows(names, 0, SAMPLE):
        batches.append(rows.batch.slice(0, SAMPLE - taken))
        taken += batches[-1].num_rows
        if taken >= SAMPLE:
            break
    table = pa.Table.from_batches(batches)
    return Sample(
        path=files.paths[0],
        rows=files.size,
        table=table,
        profiles={name: _profile(table, name) for name in names},
        bounds={name: found for name in names if (found := files.bounds(name)) is not None},
    )


def _array(table: Any, column: str) -> Any:  # a pyarrow.Table
    combined = table.column(column).combine_chunks()
    return plain(combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined)


def _profile(table: Any, name: str) -> Profile:  # a pyarrow.Table
    array = _array(table, name)
    kind = _kind(array)
    values = array if kind != "list" else array.flatten()
    low = high = np.nan
    if kind in ("integer", "real", "truth") and array.null_count < len(array):
        numbers = numbers_of(array)
        low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    if kind == "time" and array.null_count < len(array):
        bounds = pc.min_max(array.cast(pa.timestamp("ms")).cast(pa.int64())).as_py()
        low, high = float(bounds["min"]), float(bounds["max"])
    prose = kind == "text" and (pc.mean(pc.binary_length(array)).as_py() or 0) > _LONG_TEXT
    return Profile(
        name=name,
        type=str(array.type),
        kind=kind,
        distinct=0 if kind == "other" else len(values.drop_null().unique()),
        nulls=array.null_count / max(1, len(array)),
        low=low,
        high=high,
        prose=prose,
    )


def _kind(array: Any) -> Kind:  # a pyarrow array
    types, kind = pa.types, array.type
    if types.is_boolean(kind):
        return "truth"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "time"
    if is_text(kind):
        return "text"
    if is_list(kind):
        return "list" if is_text(kind.value_type) or is_number(kind.value_type) else "other"
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind):
        whole = pc.all(pc.equal(array, pc.floor(array))).as_py()
        return "integer" if whole and array.null_count else "real"
    return "real" if is_number(kind) and not types.is_null(kind) else "other"
