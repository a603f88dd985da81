import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.idmap import zipf
from knowledge_store import cachekernel
from knowledge_store.cache import HotCache
from knowledge_store.kinds import Kind

KIND = Kind("item", 6)


class Source:
    """Where vectors come from, in a test: every third id has none. It notes what it is asked."""

    def __init__(self, kind=KIND):
        self.kind = kind
        self.asked = []

    def truth(self, ids):
        """Return vectors (n, W) and presence (n,) of ``ids``."""
        present = (ids % 3 != 0) & (ids != 0)
        values = (ids[:, None] % 1021 + np.arange(self.kind.width)) * present[:, None]
        return values.astype(self.kind.dtype), present

    def fetch(self, ids):
        """Return the same, noting the ids."""
        self.asked.append(ids.copy())
        return self.truth(ids)


def numbers(*ids):
    """Return ids as an array."""
    return np.array(ids, np.uint64)


@given(
    st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=25),
    st.integers(0, 3000),
    st.sampled_from([KIND, Kind("item", 1), Kind("item", 3, "float32"), Kind("item", 70)]),
)
def test_it_answers_as_its_source_whatever_it_holds(batches, max_bytes, kind):
    """A cache changes how fast vectors come, never which."""
    source = Source(kind)
    cache = HotCache(kind, max_bytes)
    for batch in batches:
        ids = numbers(*batch)
        values, present = cache.get(ids, source.fetch)
        expected, there = source.truth(ids)

        assert expected.tolist() == values.tolist()
        assert there.tolist() == present.tolist()
    for asked in source.asked:
        assert np.unique(asked).size == asked.size
        assert 0 not in asked


@given(st.integers(0, 100_000), st.sampled_from([KIND, Kind("item", 64), Kind("item", 4000)]))
def test_its_arrays_keep_to_the_bound(max_bytes, kind):
    """What is configured is what it takes, at most; one empty set is there in any case."""
    cache = HotCache(kind, max_bytes)
    arrays = [cache._keys, cache._vectors, cache._spare]

    assert sum(a.nbytes for a in arrays) <= max(max_bytes, cachekernel.SET_BYTES)


def test_it_never_holds_more_vectors_than_it_has_room_for():
    """Absent ids give rows back and take them, and no row is given twice."""
    cache, source = HotCache(KIND, 3000), Source()
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(1, 400, 50).astype(np.uint64)
        cache.get(ids, source.fetch)

        held = cache._rows[:, cachekernel._ROWS : cachekernel._ROWS + cachekernel.WAYS]
        held = held[(cache._keys[:, : cachekernel.WAYS] != 0) & (held >= 0)]
        assert len(cache) == held.size == np.unique(held).size <= cache._limit
    assert len(cache) > 0.8 * cache._limit


def test_what_it_holds_is_not_fetched_again():
    """Neither a vector nor the knowledge that there is none."""
    cache, source = HotCache(KIND), Source()
    ids = np.arange(1, 1001, dtype=np.uint64)
    cache.get(ids, source.fetch)
    cache.get(ids[::-1], source.fetch)

    assert [1000] == [asked.size for asked in source.asked]
    assert (2000, 1000) == (cache.asked, cache.missed)


def test_it_grows_with_what_it_holds_and_loses_little():
    """Sets double: what was held is held, but for the few that their eight ways do not take."""
    cache, source = HotCache(KIND, 4 << 20), Source()
    ids = np.random.default_rng(0).permutation(np.arange(1, 60_001, dtype=np.uint64))
    first = len(cache._keys)
    for part in np.array_split(ids, 40):
        cache.get(part, source.fetch)
    assert len(cache._keys) > 4 * first
    missed = cache.missed
    values, present = cache.get(ids, source.fetch)

    assert cache.missed - missed < 0.03 * ids.size
    assert source.truth(ids)[0].tolist() == values.tolist()
    assert source.truth(ids)[1].tolist() == present.tolist()
    assert cache._keys.nbytes + cache._vectors.nbytes + cache._spare.nbytes <= 4 << 20


def test_each_missed_id_is_fetched_once_and_all_of_them_together():
    """A busy item is in a batch a hundred times; RocksDB is asked for it once."""
    source = Source()
    HotCache(KIND).get(numbers(5, 7, 5, 5, 0, 7, 5), source.fetch)

    assert [[5, 7]] == [asked.tolist() for asked in source.asked]


def test_without_memory_it_holds_nothing():
    """0 bytes switch it off."""
    cache, source = HotCache(KIND, 0), Source()
    for _ in range(2):
        cache.get(numbers(5), source.fetch)

    assert [[5], [5]] == [asked.tolist() for asked in source.asked]


def test_a_small_table_takes_little_memory():
    """The bound is for all there could be; three vectors need no 256 MB."""
    cache = HotCache(KIND, most=3)

    assert cache._vectors.nbytes + cache._keys.nbytes < 200_000


def test_negative_memory_is_refused():
    """The message says what switches the cache off."""
    with pytest.raises(ValueError, match="0 \\(no cache\\)"):
        HotCache(KIND, -1)


def test_ids_asked_for_once_do_not_drive_out_the_hot_ones():
    """A day's one-time visitors outnumber the regulars; these are what memory is for."""
    cache, source = HotCache(KIND, 40_000), Source()
    hot = np.arange(1, 1500, 3, dtype=np.uint64)
    assert cache._limit > 2 * hot.size
    for _ in range(8):
        cache.get(hot, source.fetch)
    for i in range(20):
        cache.get(np.arange(10**6 + i * 500, 10**6 + (i + 1) * 500, dtype=np.uint64), source.fetch)
        cache.get(hot, source.fetch)
    missed = cache.missed
    cache.get(hot, source.fetch)

    assert cache.missed - missed < 0.05 * hot.size


def test_what_has_been_hot_makes_room_for_what_is():
    """News of yesterday were asked for a thousand times, and are not any more."""
    cache, source = HotCache(KIND, 40_000), Source()
    old = np.arange(1, 6000, 3, dtype=np.uint64)
    for _ in range(20):
        cache.get(old, source.fetch)
    new = np.arange(10**6, 10**6 + 900, dtype=np.uint64)
    for _ in range(60):
        cache.get(new, source.fetch)
    missed = cache.missed
    cache.get(new, source.fetch)

    assert cache.missed - missed < 0.1 * new.size


def test_it_misses_little_more_than_the_best_choice_of_ids_would():
    """Drawn by a zipf law, the best is to hold the most frequent for ever."""
    kind, n, size = Kind("item", 2, "float32"), 40_000, 4096
    cache = HotCache(kind, 400_000)
    rng = np.random.default_rng(0)
    draws = (zipf(rng, 200 * size, n) + 1).astype(np.uint64).reshape(-1, size)

    def fetch(ids):
        return np.zeros((ids.size, 2), np.float32), np.ones(ids.size, np.bool_)

    for batch in draws[:150]:
        cache.get(batch, fetch)
    missed = cache.missed
    for batch in draws[150:]:
        cache.get(batch, fetch)
    weight = np.arange(1, n + 1, dtype=np.float64) ** -1.05
    rest = weight[cache._limit :] / weight.sum()
    best = (1 - (1 - rest) ** size).sum()  # distinct ids of a batch that are not held

    assert (cache.missed - missed) / 50 < 1.45 * best
