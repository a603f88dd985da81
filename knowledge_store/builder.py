"""Builds a generation aside and reveals it whole.

Shapes: n vectors of a block, W width of a kind.
"""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import orjson

from knowledge_store.errors import (
    BaseTrainedLater,
    GenerationCorrupt,
    KindsDiffer,
    NoSuchGeneration,
    UnknownKind,
    WrongVectors,
    named,
    refusals_named,
)
from knowledge_store.kinds import Kind
from knowledge_store.layout import (
    building,
    folders_of,
    generations_folder,
    name_of,
    next_number,
    staging_of,
    sweep,
)
from knowledge_store.manifest import Manifest, described, sync_folder, write_synced
from knowledge_store.tables import Table, amend_table, write_table

U64 = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.floating[Any]]

_PROVED: Final = 1_024  # vectors of each kind that are read back before a generation is revealed


class GenerationBuilder:
    """The next generation of a store, while it is made; nobody sees it before `commit`.

    Memory: what was put, in the kinds' own dtypes, and at `commit` once more the largest kind.
    With a ``base`` only what is put is written: the rest is that of the base, by hard links.
    """

    def __init__(self, root: Path, kinds: Mapping[str, Kind], base: str | None = None) -> None:
        assert all(name == kind.name for name, kind in kinds.items()), "kinds go by their names"
        self._root = root
        self._kinds = dict(kinds)
        self._base_name = base
        self._base: tuple[Path, Manifest] | None = None
        self._put: dict[str, list[tuple[U64, Vectors]]] = {name: [] for name in kinds}
        self._beside: dict[str, bytes] = {}
        self._open = ExitStack()
        self._number = 0

    @property
    def name(self) -> str:
        """The name that the generation will have."""
        return name_of(self._number)

    def __enter__(self) -> Self:
        """Take the lock of builds. Raises `StoreBusy`, `KindsDiffer`, and for a base `verify`'s."""
        with ExitStack() as stack:
            descriptor = stack.enter_context(building(self._root))
            with refusals_named(self._root):
                sweep(self._root)
                if self._base_name is not None:
                    self._base = self._sound_base(self._base_name)
                self._number = next_number(self._root, descriptor)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up what was not committed, and the lock."""
        with self._open:
            self._put = {}
            shutil.rmtree(self._staging, ignore_errors=True)  # what fills a disk leaves it again

    def put(self, kind: str, ids: U64, vectors: Vectors) -> None:
        """Take vectors (n, W) of ids (n,), in any order; of a repeated id the last one counts.

        Raises `UnknownKind`, and `WrongVectors` for another shape; `commit` does so for id 0
        ("no id") and for what is not a finite number in the kind's dtype.
        """
        if kind not in self._kinds:
            raise UnknownKind(kind, self.name, list(self._kinds))
        expected = self._kinds[kind]
        if ids.dtype != np.uint64 or ids.ndim != 1 or vectors.shape != (ids.size, expected.width):
            raise WrongVectors(
                f"kind {kind}: vectors {vectors.shape} for ids {ids.dtype} {ids.shape}. Give "
                f"uint64 (n,), as events have, and a row of {expected.width} numbers for each."
            )
        with np.errstate(over="ignore"):  # what is not finite is found when the table is written
            stored = vectors.astype(expected.numpy, order="C", copy=True)
        self._put[kind].append((ids.copy(), stored))

    def attach(self, name: str, data: bytes) -> None:
        """Lay a file of the extractor's own beside the tables: what its next generation needs.

        It is one of the manifest's files, and no other generation's.
        """
        assert "." in name and "/" not in name, "a file, and no kind's folder"
        self._beside[name] = data

    def commit(self, *, trained_until_ms: int, about: Mapping[str, Any] | None = None) -> Manifest:
        """Reveal the generation: 1 tables, 2 sync, 3 manifest, 4 rename, 5 sync the parent.

        ``trained_until_ms``: event time; nothing at or after it has been learned from. ``about``:
        JSON of the extractor. Raises `BaseTrainedLater`, and what a full disk raises.
        """
        if self._base is not None and trained_until_ms < self._base[1].trained_until_ms:
            raise BaseTrainedLater(
                self._base[1].name, self._base[1].trained_until_ms, trained_until_ms
            )
        assert self._put.keys() == self._kinds.keys(), "a generation is committed once, inside with"
        said = orjson.loads(orjson.dumps(about or {}, option=orjson.OPT_SERIALIZE_NUMPY))
        try:
            return self._reveal(int(trained_until_ms), said)
        except OSError as error:
            raise named(self._staging, error) from error

    def _reveal(self, trained_until_ms: int, about: dict[str, Any]) -> Manifest:
        staging = self._staging
        staging.mkdir()
        counts, changed = {}, {}
        for name, kind in self._kinds.items():
            counts[name], changed[name] = self._write(staging, kind)  # 1
        for name, data in self._beside.items():
            write_synced(staging / name, data)
        manifest = Manifest(
            name=self.name,
            number=self._number,
            trained_until_ms=trained_until_ms,
            kinds=self._kinds,
            counts=counts,
            base=self._base_name,
            changed=changed,
            about=about,
            files=described(staging, self._base),  # 2
        ).write(staging)  # 3: its presence means "complete"
        sync_folder(staging)
        parent = generations_folder(self._root)
        staging.rename(parent / self.name)  # 4
        sync_folder(parent)  # 5
        return manifest

    @property
    def _staging(self) -> Path:
        return staging_of(self._root, self.name)

    def _sound_base(self, name: str) -> tuple[Path, Manifest]:
        path = generations_folder(self._root) / name
        if not path.is_dir():
            raise NoSuchGeneration(name, self._root, [p.name for p in folders_of(self._root)])
        manifest = Manifest.read(path)
        if fault := manifest.fault(path, deep=False):
            raise GenerationCorrupt(path, fault)
        if manifest.kinds != self._kinds:
            raise KindsDiffer(name, manifest.kinds.values(), self._kinds.values())
        return path, manifest

    def _write(self, staging: Path, kind: Kind) -> tuple[int, int]:
        """Write the table of a kind; return how many vectors it has, and how many were put."""
        ids, vectors = _last_of_each(kind, self._put.pop(kind.name))
        folder = staging / kind.name
        if self._base is None:
            count = write_table(folder, kind, ids, vectors)
        else:
            base, manifest = self._base
            new = amend_table(base / kind.name, folder, kind, ids, vectors)
            count = manifest.counts[kind.name] + new
        _prove(folder, kind, ids, vectors)
        return count, ids.size


def _last_of_each(kind: Kind, blocks: list[tuple[U64, Vectors]]) -> tuple[U64, Vectors]:
    """Return the distinct ids, and the last vector put for each."""
    if not blocks:
        return np.empty(0, np.uint64), np.empty((0, kind.width), kind.numpy)
    ids = np.concatenate([ids for ids, _ in blocks])
    distinct, back = np.unique(ids[::-1], return_index=True)
    if len(blocks) == 1 and distinct.size == ids.size:
        return blocks[0]
    rows = ids.size - 1 - back
    vectors = np.empty((distinct.size, kind.width), kind.numpy)
    end = ids.size
    while blocks:  # from the last, letting go of each
        block = blocks.pop()[1]
        start = end - len(block)
        mine = (rows >= start) & (rows < end)
        vectors[mine] = block[rows[mine] - start]
        end = start
    return distinct, vectors


def _prove(folder: Path, kind: Kind, ids: U64, vectors: Vectors) -> None:
    """Read some of what was written, as a reader will."""
    sample = np.linspace(0, ids.size - 1, min(_PROVED, ids.size)).astype(np.intp)
    with closing(Table(folder, kind)) as table:
        values, present = table.get(ids[sample])
    if not (present.all() and np.array_equal(values, vectors[sample])):
        raise GenerationCorrupt(folder, "the table does not give back what was written")
