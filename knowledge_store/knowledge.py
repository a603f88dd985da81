"""Look-ups by event time over all generations: for each moment the one that was in force then.

Shapes: n look-ups, W width of a kind.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from knowledge_store.errors import (
    GenerationGone,
    KindsDiffer,
    KnowledgeError,
    NoGeneration,
    NoSuchGeneration,
    UnknownKind,
)
from knowledge_store.kinds import Kind
from knowledge_store.reader import CACHE_BYTES, GenerationReader, Vectors
from knowledge_store.schedule import Schedule, Switch
from knowledge_store.store import KnowledgeStore

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

OPEN: Final = 2  # generations at a time: that of before a switch and that of after


class Knowledge:
    """The readers that a schedule needs, at most two of them open at once.

    Memory: ``cache_bytes`` a reader, so twice that while both sides of a switch are asked for.
    One thread at a time.
    """

    def __init__(
        self,
        store: KnowledgeStore,
        schedule: Schedule | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Look up in ``store`` by ``schedule``, or by its own switches of this moment.

        The kinds are those of the schedule's last generation, else of the newest there is. Raises
        `NoGeneration` where there is none, `GenerationGone` where the last has been deleted.
        """
        self.store = store
        self._cache_bytes = cache_bytes
        self._readers: dict[str, GenerationReader] = {}  # by name, the last asked for last
        self._prepared: dict[str, GenerationReader] = {}  # the next one, not asked for yet
        self._used_before: set[str] = set()
        self.schedule = store.schedule() if schedule is None else schedule
        self.kinds: Mapping[str, Kind] = self._kinds_of_last()

    def follow(self, schedule: Schedule) -> None:
        """Go by another schedule from the next look-up on; readers that are open stay so."""
        self.schedule = schedule

    def prepare(self, generation: str) -> None:
        """Open a generation that a schedule is about to name, so that it is read through once.

        Raises what opening it raises, `KindsDiffer`.
        """
        if generation in self._readers or generation in self._prepared:
            return
        self._make_room()
        reader = self.store.reader(generation, self._cache_bytes)
        self._prepared[generation] = self._fitting(reader)

    def forget_prepared(self) -> None:
        """Close what was opened for a switch that is not made."""
        while self._prepared:
            self._prepared.popitem()[1].close()

    def look_up(self, kind: str, ids: U64, at_ms: int | I64) -> Vectors:
        """Return the vectors (n, W) of ids (n,), each as of its event time (n,) in ms.

        Zeros and not present where an id has none, and before the first switch. Raises
        `UnknownKind`, `GenerationGone`, `FutureKnowledge`, `KindsDiffer`.
        """
        if kind not in self.kinds:
            raise UnknownKind(kind, str(self.store.root), list(self.kinds))
        if ids.size == 0:
            return self._nothing(kind, 0)
        first, last = self.schedule.at(np.array([np.min(at_ms), np.max(at_ms)], np.int64)).tolist()
        if first == last >= 0:  # nearly always: one generation for all
            switch = self.schedule.switches[last]
            found = self._reader(switch).get_many(kind, ids, at_ms)
            self._let_go({switch.generation})
            return found
        return self._by_stretches(kind, ids, np.broadcast_to(np.asarray(at_ms), ids.shape))

    def _by_stretches(self, kind: str, ids: U64, at_ms: I64) -> Vectors:
        found = self._nothing(kind, ids.size)
        which = self.schedule.at(at_ms)
        used = set()
        for index in np.unique(which[which >= 0]).tolist():
            mine = which == index
            switch = self.schedule.switches[index]
            part = self._reader(switch).get_many(kind, ids[mine], at_ms[mine])
            found.values[mine], found.present[mine] = part.values, part.present
            used.add(switch.generation)
        self._let_go(used)
        return found

    def _nothing(self, kind: str, n: int) -> Vectors:
        vectors = np.zeros((n, self.kinds[kind].width), self.kinds[kind].numpy)
        return Vectors(vectors, np.zeros(n, np.bool_))

    @property
    def open_generations(self) -> list[str]:
        """The names of the generations that are open."""
        return [*self._readers, *self._prepared]

    def close(self) -> None:
        """Close every reader."""
        self.forget_prepared()
        while self._readers:
            self._readers.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _reader(self, switch: Switch) -> GenerationReader:
        name = switch.generation
        reader = self._readers.pop(name, None)
        if reader is None:
            reader = self._prepared.pop(name, None)
            self._make_room()
            reader = reader or self._opened(switch)
        self._readers[name] = reader
        return reader

    def _make_room(self) -> None:
        for readers in (self._readers, self._prepared):  # what comes next is closed last
            while readers and len(self.open_generations) >= OPEN:
                readers.pop(next(iter(readers))).close()

    def _opened(self, switch: Switch) -> GenerationReader:
        name = switch.generation
        try:
            reader = self.store.reader(name, self._cache_bytes)
        except NoSuchGeneration as error:
            raise GenerationGone(name, switch.from_ms, self.store.root) from error
        except (KnowledgeError, OSError) as error:
            if any(path.name == name for path in self.store.folders()):
                raise
            raise GenerationGone(name, switch.from_ms, self.store.root) from error
        return self._fitting(reader)

    def _fitting(self, reader: GenerationReader) -> GenerationReader:
        found = reader.manifest.kinds
        if found != self.kinds:
            reader.close()
            raise KindsDiffer(reader.manifest.name, found.values(), self.kinds.values())
        return reader

    def _let_go(self, used: set[str]) -> None:
        """Close what neither this look-up nor the one before it asked for."""
        if used:
            for name in self._readers.keys() - used - self._used_before:
                self._readers.pop(name).close()
            self._used_before = used

    def _kinds_of_last(self) -> Mapping[str, Kind]:
        last = self.schedule.last
        if last is not None:
            try:
                return self.store.manifest(last.generation).kinds
            except NoSuchGeneration as error:
                raise GenerationGone(last.generation, last.from_ms, self.store.root) from error
        generations = self.store.generations()
        if not generations:
            raise NoGeneration(self.store.root)
        return generations[-1].kinds
