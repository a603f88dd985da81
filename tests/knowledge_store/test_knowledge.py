import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_store.errors import (
    FutureKnowledge,
    GenerationCorrupt,
    GenerationGone,
    KindsDiffer,
    NoGeneration,
    UnknownKind,
)
from knowledge_store.kinds import Kind
from knowledge_store.knowledge import Knowledge
from knowledge_store.schedule import Schedule
from knowledge_store.store import KnowledgeStore
from tests.knowledge_store.stores import ITEMS, KINDS, STRANGER, build, damage, names, vectors
from tests.knowledge_store.test_store import rewrite, switch


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Return a store of four generations that have learned until 10, 20, 30 and 40 ms."""
    store = KnowledgeStore(tmp_path_factory.mktemp("four"), create=True)
    for n in (1, 2, 3, 4):
        build(store, 10 * n)
    yield store
    store.check()


def plan(*switches):
    """Return a schedule of (from_ms, number)."""
    return Schedule(switch(*each) for each in switches)


EACH = plan((10, 1), (20, 2), (30, 3), (40, 4))
LOOK_UPS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 52)), max_size=30)


@given(st.lists(st.tuples(LOOK_UPS, st.integers(0, 4)), max_size=4))
def test_each_look_up_is_answered_by_what_was_in_force_then(four, calls):
    """In whatever order times are asked for, backfills included, and what was opened ahead."""
    ids = np.concatenate([ITEMS, STRANGER, np.zeros(2, np.uint64)])
    with Knowledge(four, EACH, cache_bytes=1 << 16) as knowledge:
        for call, ahead in calls:
            if ahead:
                knowledge.prepare(f"g-{ahead:08d}")
            at = np.array([t for t, _ in call], np.int64)
            asked = ids[np.array([i for _, i in call], np.intp)]
            number = np.minimum(at // 10, 4)
            known = (number > 0) & (np.array([i for _, i in call]) < ITEMS.size)

            found = knowledge.look_up("item", asked, at)

            assert known.tolist() == found.present.tolist()
            assert np.array_equal(np.where(known, number, 0), found.values[:, 0])
            expected = np.where(known[:, None], vectors(asked, 0)[:, 1:], 0)
            assert np.array_equal(expected, found.values[:, 1:])
            assert len(knowledge.open_generations) <= 2
            knowledge.prepare("g-00000001")
            assert len(knowledge.open_generations) <= 2


def test_one_time_serves_for_many_ids(four):
    """A request is of one moment."""
    with Knowledge(four, EACH) as knowledge:
        found = knowledge.look_up("user", ITEMS, 25)

    assert found.present.all()
    assert (np.float32, (50, 2)) == (found.values.dtype, found.values.shape)
    assert {2.0} == set(found.values[:, 0].tolist())


def test_a_generation_is_open_as_long_as_a_switch_needs_it(four):
    """Two caches take twice the memory; opening one again takes a second."""
    with Knowledge(four, EACH) as knowledge:
        for at, expected in (
            ([11, 12], [1]),
            ([18, 21], [1, 2]),
            ([19, 22], [1, 2]),
            ([23, 24], [1, 2]),  # the call before still needed both
            ([25, 26], [2]),
            ([5, 6], [2]),  # nothing is in force: nothing is said about what comes
            ([11, 22, 33, 44], [3, 4]),
        ):
            knowledge.look_up("item", ITEMS[: len(at)], np.array(at))
            assert [f"g-{n:08d}" for n in expected] == knowledge.open_generations


def test_before_the_first_switch_nothing_is_known(four):
    """And that is no error: a scene is older than its knowledge."""
    for schedule in (EACH, Schedule()):
        with Knowledge(four, schedule) as knowledge:
            found = knowledge.look_up("item", ITEMS, 9)

            assert (np.float16, (50, 4)) == (found.values.dtype, found.values.shape)
            assert not found.values.any()
            assert not found.present.any()
            assert 0 == knowledge.look_up("item", ITEMS[:0], np.empty(0, np.int64)).values.size


def test_a_generation_that_has_learned_from_the_time_is_refused(four):
    """The planted leak: whoever writes switches past the store's own checks is stopped here."""
    leak = plan((10, 1), (15, 4))
    with Knowledge(four, leak) as knowledge:
        assert knowledge.look_up("item", ITEMS, 14).present.all()
        for at in (np.array([12, 39]), 39):
            with pytest.raises(FutureKnowledge, match="g-00000004 has learned until 40"):
                knowledge.look_up("item", ITEMS[:2], at)
        assert knowledge.look_up("item", ITEMS, 40).present.all()


def test_the_stores_own_switches_are_followed_until_told_of_others(store):
    """A trainer decides when it takes up a new one: its journal says so, not the store."""
    build(store, 10)
    store.activate("g-00000001", 10)
    with Knowledge(store) as knowledge:
        build(store, 20)
        store.activate("g-00000002", 20)
        assert 1 == knowledge.look_up("item", ITEMS, 30).values[0, 0]

        knowledge.follow(store.schedule())

        assert 2 == knowledge.look_up("item", ITEMS, 30).values[0, 0]
        assert 1 == knowledge.look_up("item", ITEMS, 19).values[0, 0]


def test_a_deleted_generation_serves_who_has_it_open_and_is_named_to_others(store):
    """Old ones are pruned while trainers run; a replay of their time must know why it fails."""
    for n in (1, 2, 3):
        build(store, 10 * n)
        store.activate(f"g-{n:08d}", 10 * n)
    schedule = store.schedule()
    with Knowledge(store, schedule, cache_bytes=0) as trainer, Knowledge(store, schedule) as other:
        trainer.look_up("item", ITEMS[:1], 10)
        store.prune(1)
        assert ["g-00000003"] == names(store.root)

        assert np.array_equal(vectors(ITEMS, 1), trainer.look_up("item", ITEMS, 11).values)
        with pytest.raises(GenerationGone, match=r"g-00000001, in force from 10 ms.*--keep"):
            other.look_up("item", ITEMS, 11)
        assert other.look_up("item", ITEMS, 30).present.all()
    shutil.rmtree(store.path("g-00000003"))
    with pytest.raises(GenerationGone, match="g-00000003"):
        Knowledge(store)
    rewrite(store.root)


def test_a_damaged_generation_is_no_missing_one(store):
    """The next move is another."""
    build(store, 10)
    store.activate("g-00000001", 10)
    with Knowledge(store) as knowledge:
        damage(next(store.path("g-00000001").rglob("*.sst")))
        with pytest.raises(GenerationCorrupt, match="roll"):
            knowledge.look_up("item", ITEMS, 10)


def test_other_kinds_and_none_are_refused(store):
    """A model has as many inputs as its vectors have numbers."""
    with pytest.raises(NoGeneration, match="there is no generation yet"):
        Knowledge(store)
    build(store, 10, kinds={"item": Kind("item", 8)})
    build(store, 20)
    with Knowledge(store, plan((10, 1), (20, 2))) as knowledge:
        assert KINDS == knowledge.kinds
        with pytest.raises(UnknownKind, match="'scene'"):
            knowledge.look_up("scene", ITEMS, 20)
        with pytest.raises(KindsDiffer, match=r"g-00000001 has the kinds item \(8 float16\)"):
            knowledge.look_up("item", ITEMS, 10)
        assert knowledge.look_up("item", ITEMS, 20).present.all()
