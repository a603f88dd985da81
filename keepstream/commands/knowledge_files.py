"""Tables of ids and vectors in files, block by block.

Shapes: n rows of a block, W width of the vectors.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from keepstream.commands.command import UsageError
from knowledge_store.kinds import pair_ids
from replay.columns import ids_of, is_id, is_list, is_number, plain
from stream.ids import NotAnId, hash_ids, hash_integers

U64 = npt.NDArray[np.uint64]
Block = tuple[U64, npt.NDArray[np.floating[Any]]]

SUFFIXES: Final = (".parquet", ".npz")
_ROWS: Final = 65_536  # of a block


def blocks(path: Path, ids: str, vectors: str, category: str | None) -> Iterator[Block]:
    """Yield ids (n,) and vectors (n, W) of a Parquet file or an .npz, in the order of its rows.

    ``ids``, ``vectors`` and ``category`` name columns or arrays; with ``category`` an id is that
    of the pair. Ids are hashed as those of events are. Raises `UsageError`.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file. Name a {' or '.join(SUFFIXES)} file.")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: give a {' or '.join(SUFFIXES)} file.")
    columns = [ids, vectors, *([category] if category else [])]
    read = _parquet if path.suffix == ".parquet" else _npz
    width, start = None, 0
    for first, rows, second in read(path, columns):
        found = pair_ids(first, second) if second is not None else first
        if (found == 0).any():
            raise UsageError(
                f"{path}: row {start + int(np.flatnonzero(found == 0)[0]):,}, from 0 on, names "
                f"nothing in {' and '.join([ids, *columns[2:]])}. Leave such rows out."
            )
        if width not in (None, rows.shape[1]):
            raise UsageError(f"{path}: {vectors} holds vectors of {width} and {rows.shape[1]}.")
        width = rows.shape[1]
        yield found, rows
        start += found.size


def fitting(path: Path, given: Iterator[Block], dtype: npt.DTypeLike) -> Iterator[Block]:
    """Yield the blocks ``given`` of ``path`` with vectors in ``dtype``.

    Raises `UsageError` at a row that is not finite in it.
    """
    start = 0
    for ids, rows in given:
        with np.errstate(over="ignore"):  # infinite then, and told as that
            stored = rows.astype(dtype, copy=False)
        faulty = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if faulty.size:
            row = int(faulty[0])
            scale = ", scale it, or give --dtype float32" if np.isfinite(rows[row]).all() else ""
            raise UsageError(
                f"{path}: row {start + row:,}, from 0 on, has a vector that is not finite as "
                f"{np.dtype(dtype)}. Leave it out{scale}."
            )
        yield ids, stored
        start += ids.size


def _parquet(path: Path, columns: list[str]) -> Iterator[tuple[U64, Any, U64 | None]]:
    try:
        with pq.ParquetFile(path) as file:
            _need(path, columns, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                given = [batch.column(batch.schema.get_field_index(name)) for name in columns]
                pair = _arrow_ids(path, columns[2], given[2]) if columns[2:] else None
                rows = _arrow_vectors(path, columns[1], given[1])
                yield _arrow_ids(path, columns[0], given[0]), rows, pair
    except pa.ArrowException as error:
        raise UsageError(f"{path} cannot be read as Parquet: {error}") from error


def _arrow_ids(path: Path, name: str, array: Any) -> U64:  # a pyarrow array
    if not is_id(plain(array).type):
        raise UsageError(f"{path}: {name} is {array.type}. Ids are text or integers.")
    return ids_of(array)[0]


def _arrow_vectors(path: Path, name: str, array: Any) -> npt.NDArray[np.floating[Any]]:
    fixed = pa.types.is_fixed_size_list(array.type)
    if not (fixed or is_list(array.type)) or not is_number(array.type.value_type):
        raise UsageError(f"{path}: {name} is {array.type}. Vectors are lists of numbers.")
    values = array.flatten().to_numpy(zero_copy_only=False)
    rows = len(array)
    if array.null_count or not rows or values.size % rows:
        raise UsageError(f"{path}: {name} is not the same number of numbers in every row.")
    width = values.size // rows
    if not fixed and (array.value_lengths().to_numpy() != width).any():
        raise UsageError(f"{path}: {name} is not the same number of numbers in every row.")
    return _floats(values.reshape(rows, width))


def _npz(path: Path, columns: list[str]) -> Iterator[tuple[U64, Any, U64 | None]]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UsageError(f"{path} holds one array, as .npy does. Save ids and vectors in one.")
        with file:
            _need(path, columns, file.files)
            given = [file[name] for name in columns]
        if not all(isinstance(array, np.ndarray) for array in given):
            raise UsageError(f"{path} is a zip file, and what is in it are no arrays.")
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        if "Object arrays" in str(error):
            raise UsageError(
                f"{path} holds Python objects, which are not read. Save ids as integers or text "
                "(dtype U), vectors as an array of numbers."
            ) from error
        fact = "it is no zip file" if "pickled" in str(error) else error
        raise UsageError(f"{path} cannot be read as .npz: {fact}.") from error
    ids, vectors = given[:2]
    rows = vectors.shape[:1]
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or ids.shape[:1] != rows:
        raise UsageError(
            f"{path}: {columns[1]} is {vectors.dtype} {vectors.shape}, {columns[0]} {ids.shape}. "
            "Give a row of numbers for each id."
        )
    if columns[2:] and given[2].shape != rows:
        raise UsageError(
            f"{path}: {columns[2]} is {given[2].shape}, {columns[0]} {ids.shape}. Give a category "
            "for each id."
        )
    for start in range(0, len(ids), _ROWS):
        part = slice(start, start + _ROWS)
        pair = _array_ids(path, columns[2], given[2][part]) if columns[2:] else None
        yield _array_ids(path, columns[0], ids[part]), _floats(vectors[part]), pair


def _floats(values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _array_ids(path: Path, name: str, array: npt.NDArray[Any]) -> U64:
    if array.ndim == 1 and array.dtype.kind in "iu":
        return hash_integers(array)
    if array.ndim == 1 and array.dtype.kind in "Uf":
        try:
            return hash_ids(array.tolist())
        except NotAnId as error:
            raise UsageError(f"{path}: {name}: {error}") from error
    raise UsageError(f"{path}: {name} is {array.dtype} {array.shape}. Ids are text or integers.")


def _need(path: Path, columns: list[str], there: list[str]) -> None:
    for name in columns:
        if name not in there:
            raise UsageError(f"{path}: there is no column {name!r}. It has {', '.join(there)}.")
