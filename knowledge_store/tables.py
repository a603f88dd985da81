"""One kind's table of vectors in RocksDB: written once, amended into another, read by anybody.

A table is a folder that never changes once it is written. Plain tables read through the page cache
(docs/decisions/0013-the-knowledge-store.md): at the bottom the vectors as they were written last as
a whole, sorted by key; over them, newest first, what each amendment changed.
"""

import os
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from rocksdict import (
    AccessType,
    BottommostLevelCompaction,
    CompactOptions,
    DBCompressionType,
    Options,
    PlainTableFactoryOptions,
    Rdict,
    SliceTransform,
    WriteBatch,
    WriteOptions,
)

from knowledge_store.errors import (
    TableCorrupt,
    TableMissing,
    TableUnreadable,
    WrongVectors,
    refusals_named,
)
from knowledge_store.kinds import Kind, ids_of, keys_of
from knowledge_store.order import rising
from knowledge_store.records import multipliers, no_record, record_bytes, sealed, unsealed, words_of

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]
Order = npt.NDArray[np.int64]

AMENDMENTS: Final = 8  # a table of more is written anew: a look-up takes up to 1.6 times as long
SHARE: Final = 0.5  # … or where they are together more than this of what they amend
_BLOCK: Final = 16_384  # rows a batch of writing
_BUFFER: Final = 32 << 20  # bytes of rows in memory that become a file, while as many are written
_FILES: Final = 64  # about as many files at most: of a larger table, larger ones
_ONE_FILE: Final = 256 << 20  # bytes of an amendment in memory, to be one file if it fits in them
_IN_MEMORY: Final = 64  # bytes of a row beside its record
_FILE: Final = 1 << 30  # bytes; a plain table can be 2^31 at most
_COPIED: Final = ("CURRENT", "IDENTITY", "MANIFEST-*", "OPTIONS-*")  # all but the tables: small
_LEFT: Final = ("LOG*", "LOCK", "*.log")  # which no reader needs
_SETTINGS: Final = "rocksdict-config.json"
_NO_INDEX: Final = "full_scan_mode=true"  # among the options of a table that is being written
_NO_LOG: Final = os.devnull + "/none"  # a reader writes no log into a folder of others


def write_table(folder: Path, kind: Kind, ids: U64, vectors: Array) -> int:
    """Write ``vectors`` (n, W), those of ``ids`` (n,), as a new table; return n.

    Memory, beside the arguments: 25 bytes a row, and 64 MB or a 32nd of the table. Raises
    `WrongVectors` where an id is 0 or comes twice, or a number is not finite; `StoreFull`,
    `TableUnreadable`.
    """
    order = _sorted(kind, ids, vectors)
    with refusals_named(folder):
        folder.mkdir(parents=True)
        buffer = max(_BUFFER, ids.size * (record_bytes(kind) + _IN_MEMORY) // _FILES)
        db = Rdict(str(folder), table_options(log=True, buffer=buffer, index=False))
        try:
            _write(db, kind, ids, vectors, order, settle=True)
        finally:
            db.close()
        del db  # else its lock stays
        _indexed_from_now(folder)
        _finish(folder)
    return int(ids.size)


def amend_table(base: Path, folder: Path, kind: Kind, ids: U64, vectors: Array) -> int:
    """Make a table of that in ``base`` with ``vectors`` (n, W) of ``ids`` (n,) put over it.

    Returns how many of the ids are not in the base. The base's files are linked, not copied, until
    the amendments are too many or too large; then all is written anew. Memory: at most 512 MB.
    Raises as `write_table` does, and `TableMissing`, `TableCorrupt` of the base.
    """
    order = _sorted(kind, ids, vectors)
    _present(base)
    with refusals_named(folder):
        folder.mkdir(parents=True)
        for path in base.glob("*.sst"):
            _link(path, folder / path.name)
        for pattern in _COPIED:
            for path in base.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        whole = ids.size * (record_bytes(kind) + 2 * _IN_MEMORY)
        db = Rdict(str(folder), table_options(log=True))
        try:
            # rocksdict opens a table that exists as it was made, whatever the options say
            db.set_options({"write_buffer_size": str(min(max(_BUFFER, whole), _ONE_FILE))})
            new = 0
            for start in range(0, ids.size, _BLOCK):
                new += _found(db, ids[start : start + _BLOCK]).count(None)
            _write(db, kind, ids, vectors, order, settle=False)
            over = [file["size"] for file in db.live_files() if file["level"] == 0]
            under = sum(file["size"] for file in db.live_files() if file["level"] != 0)
            if len(over) > AMENDMENTS or sum(over) > SHARE * under:
                db.compact_range(None, None)
        finally:
            db.close()
        del db
        _finish(folder)
    return new


class Table:
    """A table open for reading, in any number of processes; used by one thread at a time.

    Memory: some 8 bytes a row, and the page cache, which all processes share.
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        """Open the table in ``folder``. Raises `TableMissing`, `TableCorrupt`, `TableUnreadable`.

        Opening reads every key: 0.1 s a million.
        """
        self.folder = folder
        self.kind = kind
        self._factors = multipliers(kind)
        self._none = no_record(kind)
        _present(folder)
        with refusals_named(folder):
            self._db: Rdict | None = _open_for_reading(folder)

    def get(self, ids: U64) -> tuple[Array, Bools]:
        """Return the vectors (n, W) of ``ids`` (n,), and which are present (n,).

        Absent ones are zeros. Each distinct id is asked once. Raises `TableCorrupt`.
        """
        distinct, place = np.unique(ids, return_inverse=True)
        values, present = self.get_distinct(distinct)
        return values[place], present[place]

    def get_distinct(self, ids: U64) -> tuple[Array, Bools]:
        """Return what `get` does where no id comes twice; in their order they are found faster."""
        with refusals_named(self.folder):
            records = _found(self._open, ids, self._none)
        return self._unsealed(ids, records)

    def scan(self, block: int = 65_536) -> Iterator[tuple[U64, Array]]:
        """Yield all ids (n,) and vectors (n, W), in the order of the ids, ``block`` at a time.

        Raises `TableCorrupt`.
        """
        with refusals_named(self.folder):
            rows = self._open.items()
        while True:
            keys: list[bytes] = []
            records: list[bytes] = []
            with refusals_named(self.folder):
                for key, record in rows:
                    keys.append(cast("bytes", key))
                    records.append(record)
                    if len(keys) == block:
                        break
            if not keys:
                return
            ids = ids_of(keys)
            yield ids, self._unsealed(ids, records)[0]

    def close(self) -> None:
        """Release the table; twice does no harm."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def _open(self) -> Rdict:
        if self._db is None:
            raise ValueError(f"{self.folder}: this table has been closed")
        return self._db

    def _unsealed(self, ids: U64, records: list[bytes]) -> tuple[Array, Bools]:
        joined = b"".join(records)
        if len(joined) != ids.size * record_bytes(self.kind):
            raise TableCorrupt(self.folder, f"a record is not that of {self.kind}")
        values, present, damaged = unsealed(self.kind, ids, joined, self._factors)
        if damaged < ids.size:
            raise TableCorrupt(
                self.folder, f"the vector of id {int(ids[damaged])} does not match its check"
            )
        return values, present


def _open_for_reading(folder: Path) -> Rdict:
    """Open a table without leaving a trace in its folder, which may be on a read-only disk.

    rocksdict writes its settings anew whenever it opens a table, also for reading: so it is given a
    folder of links, which is not needed any more once all files are open.
    """
    with TemporaryDirectory(prefix="keepstream-table-") as aside:
        for path in folder.iterdir():
            place = Path(aside) / path.name
            if path.name == _SETTINGS:
                shutil.copyfile(path, place)
            else:
                place.symlink_to(path.resolve())
        return Rdict(aside, table_options(), access_type=AccessType.read_only())


def _found(db: Rdict, ids: U64, default: bytes | None = None) -> list[Any]:
    """Return the records of ``ids`` (n,), ``default`` for those without.

    As a list, which costs 7 % more than one by one, and lets go of the interpreter meanwhile: a
    learner beside does not wait.
    """
    return cast("list[Any]", db.get(cast("list[Any]", keys_of(ids)), default))


def table_options(*, log: bool = False, buffer: int = _BUFFER, index: bool = True) -> Options:
    """Return how tables are opened: for reading, or with a ``log`` in their folder for writing.

    Without an ``index`` of keys in memory a look-up ends the process: see `_indexed_from_now`.
    """
    plain = PlainTableFactoryOptions()
    plain.user_key_length = 8
    plain.bloom_bits_per_key = 10
    plain.hash_table_ratio = 0.75
    plain.index_sparseness = 16
    plain.full_scan_mode = not index  # type: ignore[attr-defined]  # which its stub forgets
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_plain_table_factory(plain)
    options.set_prefix_extractor(SliceTransform.create_noop())  # the whole key is hashed
    options.set_allow_mmap_reads(True)
    options.set_compression_type(DBCompressionType.none())
    options.set_disable_auto_compactions(True)
    options.set_write_buffer_size(buffer)
    options.set_allow_concurrent_memtable_write(False)  # one thread writes, a little faster
    options.set_target_file_size_base(_FILE)
    options.set_skip_stats_update_on_db_open(True)
    if not log:
        options.set_db_log_dir(_NO_LOG)
    return options


def _sorted(kind: Kind, ids: U64, vectors: Array) -> Order | None:
    """Return the order (n,) of ``ids`` by key, None where they are in it; raise `WrongVectors`."""
    if ids.dtype != np.uint64 or ids.ndim != 1:
        raise WrongVectors(f"ids are {ids.dtype} {ids.shape}. Give uint64 (n,), as events have.")
    if vectors.shape != (ids.size, kind.width):
        raise WrongVectors(
            f"vectors are {vectors.shape}, not {(ids.size, kind.width)}, as {kind.name} needs."
        )
    if (ids == 0).any():
        raise WrongVectors("id 0 stands for no id. Leave out the rows that have it.")
    if (ids[1:] > ids[:-1]).all():
        return None
    order, found = rising(ids)
    same = found[1:] == found[:-1]
    if same.any():
        twice = int(found[np.flatnonzero(same)[0]])
        raise WrongVectors(f"id {twice} comes twice. Give each its last vector alone.")
    return order


def _write(
    db: Rdict, kind: Kind, ids: U64, vectors: Array, order: Order | None, *, settle: bool
) -> None:
    """Write the rows in their ``order`` and flush; ``settle``: move them to the bottom."""
    unlogged = WriteOptions()
    unlogged.disable_wal = True  # type: ignore[assignment,method-assign]  # a property, in truth
    factors = multipliers(kind)
    as_stored = vectors.dtype == kind.numpy and vectors.flags.c_contiguous
    words = words_of(kind, vectors if as_stored else vectors[:0])
    for start in range(0, ids.size, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, ids.size))
        if order is not None:
            rows = order[start : start + _BLOCK]
        mine = ids[rows]
        if as_stored:
            records, faulty = sealed(kind, mine, words, rows, factors)
        else:
            some = words_of(kind, vectors[rows])
            records, faulty = sealed(kind, mine, some, np.arange(rows.size), factors)
        if faulty < mine.size:
            raise WrongVectors(
                f"the vector of id {int(mine[faulty])} is not finite as {kind.dtype}. Leave it "
                "out, or scale it."
            )
        batch = WriteBatch(raw_mode=True)
        values = records.view(f"V{record_bytes(kind)}").ravel().tolist()
        deque(map(batch.put, keys_of(mine), values), maxlen=0)
        db.write(batch, unlogged)
    db.flush()
    if settle:
        downwards = CompactOptions()  # nothing overlaps: files are moved, not written again
        downwards.set_bottommost_level_compaction(BottommostLevelCompaction.skip())
        db.compact_range(None, None, downwards)


def _present(folder: Path) -> None:
    """Raise `TableMissing` where there is no table: RocksDB would make a folder of nothing."""
    if not (folder / "CURRENT").is_file():
        raise TableMissing(folder, "it has no CURRENT")


def _link(path: Path, to: Path) -> None:
    try:
        to.hardlink_to(path)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, to)


def _indexed_from_now(folder: Path) -> None:
    """Let a table that was written without an index have one for whoever opens it.

    RocksDB opens each file that it has written to look whether it can; with an index, which it has
    no use for, a fifth of the writing is that. And a table is opened as its options say, for ever.
    """
    options = [path for path in folder.glob("OPTIONS-*") if _NO_INDEX in path.read_text()]
    if not options:  # else whoever looks up ends
        raise TableUnreadable(folder, f"its options do not say {_NO_INDEX}")
    for path in options:
        path.write_text(path.read_text().replace(_NO_INDEX, "full_scan_mode=false"))


def _finish(folder: Path) -> None:
    for pattern in _LEFT:
        for path in folder.glob(pattern):
            path.unlink()
    for path in folder.glob("*.sst"):
        path.chmod(0o444)  # shared with other generations: nobody is to write into it
