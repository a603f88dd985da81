"""The generation that a refresh aligns to, and what it left for the next one.

State: a side file of the generation, so that any process can go on from the store alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load, save

from extractor.space import Space
from knowledge_store.errors import GenerationCorrupt, KnowledgeError, refusals_named
from knowledge_store.manifest import Manifest, write_synced
from knowledge_store.reader import GenerationReader
from knowledge_store.store import KnowledgeStore
from stream.state import State, flatten, unflatten

U64 = npt.NDArray[np.uint64]

ABOUT: Final = "refresh"  # the key of a manifest's about under which a refresh speaks
FILE: Final = "extractor.safetensors"
_TRIED: Final = "tried"  # a file: the most examples that a model had learned at a refresh
_SWITCHED: Final = "refreshed"  # a file: the number of the last generation that was put in force
_REST: Final = "_rest"  # the tensor that holds what of a state is no array, as JSON
_CACHE_BYTES: Final = 1 << 20  # each vector is asked for once


class Last:
    """A generation of the store, open, with the state of the refresh that made it.

    In a ``with``. Memory: what an open generation takes.
    """

    def __init__(self, store: KnowledgeStore, manifest: Manifest) -> None:
        """Open it. Raises `GenerationCorrupt`, and what a reader raises."""
        self.manifest = manifest
        self._reader = GenerationReader(store.path(manifest.name), cache_bytes=_CACHE_BYTES)
        said = manifest.about.get(ABOUT)
        self.about: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
        self.state: State = {}  # empty where no refresh has made it
        self.space: Space | None = None
        if FILE in manifest.files:
            self.state = unpacked(self._reader)
            self.space = Space.from_state(self.state["space"])

    @classmethod
    def of(cls, store: KnowledgeStore) -> "Last | None":
        """Open the generation that the next one goes on from; None: there is none yet."""
        manifest = last_of(store)
        return None if manifest is None else cls(store, manifest)

    def stored(self, kind: str, ids: U64) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return what is stored for ids (n,), as it is, and which are present (n,)."""
        found = self._reader.get_many(kind, ids, self.manifest.trained_until_ms)
        return found.values, found.present

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.close()


def last_of(store: KnowledgeStore) -> Manifest | None:
    """Return the generation in force, else the newest that a refresh has accepted.

    That in force is what networks have learned to read: after a rollback it is an older one.
    """
    current = store.current()
    if current is not None:
        return store.manifest(current.generation)
    return next((m for m in newest_first(store) if decision_of(m) == "accept"), None)


def newest_first(store: KnowledgeStore) -> Iterator[Manifest]:
    """Yield the generations that have a readable manifest, read one by one."""
    for path in reversed(store.folders()):
        with suppress(KnowledgeError):  # `keepstream knowledge verify` names it
            yield Manifest.read(path)


def decision_of(manifest: Manifest) -> str | None:
    """Return what the guard said of a generation; None where no refresh has made it."""
    said = manifest.about.get(ABOUT)
    return said.get("decision") if isinstance(said, Mapping) else None


def note_switched(store: KnowledgeStore, manifest: Manifest) -> None:
    """Note that a generation has been put in force: whoever takes it back wants it so."""
    aside, place = store.root / f".{_SWITCHED}-new", store.root / _SWITCHED
    with refusals_named(place):
        write_synced(aside, b"%d" % manifest.number)
        aside.replace(place)


def was_switched(store: KnowledgeStore, manifest: Manifest) -> bool:
    """Return whether a generation, or a later one, has been put in force by a refresh."""
    try:
        return manifest.number <= int((store.root / _SWITCHED).read_bytes())
    except (FileNotFoundError, ValueError):
        return False


def note_tried(store: KnowledgeStore, learned: int) -> None:
    """Note how much a model had learned at a refresh, whatever became of it."""
    if learned > tried(store):
        aside, place = store.root / f".{_TRIED}-new", store.root / _TRIED
        with refusals_named(place):
            write_synced(aside, b"%d" % learned)
            aside.replace(place)


def tried(store: KnowledgeStore) -> int:
    """Return the most examples that a model had learned at any refresh; 0: it was never said."""
    try:
        return int((store.root / _TRIED).read_bytes())
    except (FileNotFoundError, ValueError):
        return 0


def packed(state: State) -> bytes:
    """Return a state as the bytes of its side file; the same state gives the same bytes."""
    arrays, rest = flatten(state)
    text = np.frombuffer(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS), np.uint8)
    whole = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    return bytes(save({**whole, _REST: text}))


def unpacked(reader: GenerationReader) -> State:
    """Return the state in an open generation's side file. Raises `GenerationCorrupt`."""
    try:
        arrays = dict(load((reader.folder / FILE).read_bytes()))
        rest = orjson.loads(arrays.pop(_REST).tobytes())
    except (SafetensorError, orjson.JSONDecodeError, KeyError) as error:
        raise GenerationCorrupt(reader.folder, f"{FILE} cannot be read: {error}") from error
    return unflatten(arrays, rest)
