import shutil

import numpy as np
import pytest

from knowledge_store.errors import FutureKnowledge, GenerationCorrupt, UnknownKind
from knowledge_store.kinds import Kind
from knowledge_store.reader import GenerationReader
from knowledge_store.store import KnowledgeStore
from stream.ids import hash_integers

ITEM, USER = Kind("item", 4), Kind("user", 3, "float32")
IDS = hash_integers(np.arange(300))
UNTIL_MS = 1_000_000


def rows(kind):
    """Return vectors (n, W) of `IDS`."""
    return (np.arange(IDS.size)[:, None] + np.arange(kind.width)).astype(kind.dtype)


@pytest.fixture(scope="module")
def generation(tmp_path_factory):
    """Return the folder of a generation of two kinds, which no test changes."""
    return built(tmp_path_factory.mktemp("knowledge"))


def built(folder):
    """Build a generation in a store of its own; return its folder."""
    store = KnowledgeStore(folder / "store", create=True)
    with store.build({kind.name: kind for kind in (ITEM, USER)}) as builder:
        builder.put("item", IDS, rows(ITEM))
        builder.put("user", IDS[:100], rows(USER)[:100])
        manifest = builder.commit(trained_until_ms=UNTIL_MS)
    return store.path(manifest.name)


@pytest.mark.parametrize("cache_bytes", [0, 1000, 1 << 20])
def test_each_kind_gives_its_own_vectors(generation, cache_bytes):
    """With and without room for a cache, the first time and again."""
    with GenerationReader(generation, cache_bytes=cache_bytes) as reader:
        for _ in range(2):
            items = reader.get_many("item", IDS, UNTIL_MS)
            users = reader.get_many("user", IDS, UNTIL_MS)

            assert items.present.all()
            assert (rows(ITEM) == items.values).all()
            assert np.float16 == items.values.dtype
            assert (np.arange(300) < 100).tolist() == users.present.tolist()
            assert (rows(USER)[:100] == users.values[:100]).all()
            assert not users.values[100:].any()
            assert np.float32 == users.values.dtype


def test_no_ids_have_no_vectors(generation):
    """A batch without impressions is a batch."""
    with GenerationReader(generation) as reader:
        found = reader.get_many("item", np.empty(0, np.uint64), np.empty(0, np.int64))

    assert ((0, 4), (0,)) == (found.values.shape, found.present.shape)


@pytest.mark.parametrize("at_ms", [UNTIL_MS, UNTIL_MS + 1])
def test_knowledge_serves_from_the_time_it_was_trained_until(generation, at_ms):
    """It has learned from nothing at or after that time."""
    with GenerationReader(generation) as reader:
        assert reader.get_many("item", IDS[:1], at_ms).present.all()


def test_one_look_up_of_the_past_among_many_is_refused(generation):
    """An example of time t never sees what was learned after t: the API sees to it."""
    at_ms = np.full(IDS.size, UNTIL_MS + 5, np.int64)
    at_ms[77] = UNTIL_MS - 1
    with (
        GenerationReader(generation) as reader,
        pytest.raises(FutureKnowledge, match=f"g-00000001.*{UNTIL_MS}.*{UNTIL_MS - 1}"),
    ):
        reader.get_many("item", IDS, at_ms)


def test_a_kind_that_is_not_there_is_refused_with_those_that_are(generation):
    """A misspelt kind is not one of which nothing is known."""
    with (
        GenerationReader(generation) as reader,
        pytest.raises(UnknownKind, match=r"'items'.*item, user"),
    ):
        reader.get_many("items", IDS, UNTIL_MS)


def test_all_kinds_share_the_bound_of_memory(generation):
    """The bound is that of the reader, by the size of each table."""
    with GenerationReader(generation, cache_bytes=4000) as reader:
        caches = reader._caches.values()

        assert sum(c._keys.nbytes + c._vectors.nbytes + c._spare.nbytes for c in caches) <= 4000
        assert all(c._limit for c in caches)


def test_a_generation_deleted_while_it_is_open_serves_on(tmp_path):
    """All of its kinds, those not asked for yet too."""
    folder = built(tmp_path)
    with GenerationReader(folder) as reader:
        shutil.rmtree(folder)

        assert reader.get_many("item", IDS, UNTIL_MS).present.all()
        assert 100 == reader.get_many("user", IDS, UNTIL_MS).present.sum()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.999])
def test_one_wrong_byte_is_found_at_opening(tmp_path, at):
    """In a key, an index or a vector: RocksDB would believe it, or break down over it."""
    folder = built(tmp_path)
    path = next((folder / "item").glob("*.sst"))
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    with pytest.raises(GenerationCorrupt, match=f"item/{path.name}"):
        GenerationReader(folder)


def test_what_a_refused_opening_had_opened_is_closed_and_the_folder_unchanged(tmp_path):
    """A retry after the file is back finds the generation as it was."""
    folder = built(tmp_path)
    path = next((folder / "user").glob("*.sst"))
    aside = path.rename(tmp_path / "aside")
    before = sorted(folder.rglob("*"))
    with pytest.raises(GenerationCorrupt, match=path.name):
        GenerationReader(folder)

    assert before == sorted(folder.rglob("*"))
    aside.rename(path)
    with GenerationReader(folder) as reader:
        assert 100 == reader.get_many("user", IDS, UNTIL_MS).present.sum()
