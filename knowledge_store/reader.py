"""Look-ups in one generation: by kind, ids and the time they are for.

Shapes: n look-ups, W width of a kind.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from knowledge_store.cache import CACHE_BYTES, HotCache
from knowledge_store.errors import FutureKnowledge, GenerationCorrupt, UnknownKind
from knowledge_store.manifest import Manifest
from knowledge_store.tables import Table

__all__ = ["CACHE_BYTES", "GenerationReader", "Vectors"]

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Vectors:
    """What is known of n ids of one kind."""

    values: npt.NDArray[Any]  # (n, W), in the kind's dtype; zeros where there is none
    present: npt.NDArray[np.bool_]  # (n,)


class GenerationReader:
    """A generation open for reading: any number of them in any number of processes.

    One thread at a time. Memory: ``cache_bytes`` for all kinds together, and what open tables take.
    """

    def __init__(self, folder: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        """Open the generation in ``folder``; all of it, so that it may be deleted meanwhile.

        Every byte is read and compared with the manifest, some 0.2 s a gigabyte in memory: tables
        of RocksDB that are damaged would be believed, or worse. Raises `GenerationCorrupt`,
        `NewerGeneration`, and what `Table` raises.
        """
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        if fault := self.manifest.fault(self.folder, deep=True):
            raise GenerationCorrupt(self.folder, fault)
        sizes = {
            name: kind.bytes * max(self.manifest.counts[name], 1)
            for name, kind in self.manifest.kinds.items()
        }
        self._tables: dict[str, Table] = {}
        self._caches: dict[str, HotCache] = {}
        try:
            for name, kind in self.manifest.kinds.items():
                self._tables[name] = Table(self.folder / name, kind)
                share = cache_bytes * sizes[name] // sum(sizes.values())
                self._caches[name] = HotCache(kind, share, most=self.manifest.counts[name])
        except BaseException:
            self.close()
            raise

    def get_many(self, kind: str, ids: U64, at_ms: int | I64) -> Vectors:
        """Return the vectors of ``ids`` (n,) as of their event time, one or (n,), in ms.

        Raises `FutureKnowledge` where a time is before what the generation has learned until,
        `UnknownKind`, and `TableCorrupt`.
        """
        if kind not in self._tables:
            raise UnknownKind(kind, self.manifest.name, list(self._tables))
        until = self.manifest.trained_until_ms
        if np.size(at_ms) and (earliest := int(np.min(at_ms))) < until:
            raise FutureKnowledge(self.manifest.name, earliest, until)
        return Vectors(*self._caches[kind].get(ids, self._tables[kind].get_distinct))

    def close(self) -> None:
        """Release the tables; twice does no harm."""
        for table in self._tables.values():
            table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
