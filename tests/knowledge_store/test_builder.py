import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowledge_store.errors import (
    BaseTrainedLater,
    GenerationCorrupt,
    KindsDiffer,
    NoSuchGeneration,
    StoreBusy,
    UnknownKind,
    WrongVectors,
)
from knowledge_store.kinds import Kind
from knowledge_store.store import KnowledgeStore
from stream.ids import hash_integers
from tests.knowledge_store.stores import (
    ITEM,
    ITEMS,
    KINDS,
    STRANGER,
    build,
    damage,
    names,
    vectors,
)

FEW = st.lists(st.tuples(st.integers(1, 8), st.integers(-9, 9)), max_size=6)
BLOCKS = st.lists(FEW, max_size=4)


def columns(block):
    """Return a block's ids and vectors."""
    ids = np.array([i for i, _ in block], np.uint64)
    values = np.array([[v] * ITEM.width for _, v in block], np.float64)
    return ids, values.reshape(ids.size, ITEM.width)


@settings(max_examples=15)
@given(BLOCKS, BLOCKS)
def test_the_last_vector_put_for_an_id_is_the_one_read(tmp_path_factory, first, second):
    """However it is cut into blocks, and over what the base has."""
    store = KnowledgeStore(tmp_path_factory.mktemp("store"), create=True)
    expected = {}
    base = None
    for until_ms, blocks in enumerate([first, second]):
        with store.build({"item": ITEM}, base) as builder:
            put = {}
            for block in blocks:
                builder.put("item", *columns(block))
                put |= dict(block)
            manifest = builder.commit(trained_until_ms=until_ms)
        expected |= put
        base = manifest.name
        assert len(expected) == manifest.counts["item"]
        assert len(put) == manifest.changed["item"]
    ids = np.arange(10, dtype=np.uint64)
    with store.reader(base) as reader:
        found = reader.get_many("item", ids, 5)

    assert [i in expected for i in ids.tolist()] == found.present.tolist()
    assert [float(expected.get(i, 0)) for i in ids.tolist()] == found.values[:, 3].tolist()
    assert {} == store.verify()
    store.check()


def test_a_generation_says_what_it_holds(store):
    """Trainers size their plugs by it, people judge by it."""
    about = {"auc": np.float64(0.75), "drift": {"item": 0.5}, "days": np.arange(2)}
    manifest = build(store, 1000, about=about)

    assert store.manifest("g-00000001") == manifest
    assert ("g-00000001", 1, 1000, None) == (
        manifest.name,
        manifest.number,
        manifest.trained_until_ms,
        manifest.base,
    )
    assert manifest.kinds == KINDS
    assert {"item": 50, "user": 50} == manifest.counts == manifest.changed
    assert {"auc": 0.75, "drift": {"item": 0.5}, "days": [0, 1]} == manifest.about


def test_what_was_put_may_be_changed_by_its_owner(store):
    """Extractors reuse their buffers."""
    ids, rows = ITEMS.copy(), vectors(ITEMS, 1)
    with store.build({"item": ITEM}) as builder:
        builder.put("item", ids, rows)
        ids[:], rows[:] = 1, 0
        builder.commit(trained_until_ms=0)

    with store.reader("g-00000001") as reader:
        assert np.array_equal(vectors(ITEMS, 1), reader.get_many("item", ITEMS, 0).values)


def test_only_what_changed_is_written_over_a_base(store):
    """A refresh every ten minutes must not write gigabytes; the base stays what it was."""
    many = hash_integers(np.arange(20_000))
    before = build(store, 10, ids=many, kinds={"item": ITEM})
    build(store, 20, ids=many[:10], base=before.name, kinds={"item": ITEM})
    after = build(store, 30, ids=STRANGER, base="g-00000002", kinds={"item": ITEM})

    mine, linked = store.path(after.name), store.path(before.name)
    own = [p for p in mine.rglob("*.sst") if not any(p.samefile(q) for q in linked.rglob("*.sst"))]
    assert sum(p.stat().st_size for p in own) < before.bytes / 20
    assert 20_001 == after.counts["item"]
    assert 1 == after.changed["item"]
    for name, numbers in ((before.name, [1, 1, 0]), (after.name, [2, 1, 3])):
        with store.reader(name) as reader:
            asked = np.array([many[0], many[-1], STRANGER[0]])
            assert numbers == reader.get_many("item", asked, 30).values[:, 0].tolist()
    assert store.manifest(before.name) == before
    assert {} == store.verify()


def test_a_base_that_cannot_be_one_is_refused(store):
    """Vectors of other widths, or of later times than said, would be served as if they fitted."""
    base = build(store, 100)
    for kinds in ({"item": ITEM}, {**KINDS, "item": Kind("item", 5)}):
        with pytest.raises(KindsDiffer, match=r"item \(4 float16\), user \(2 float32\)"):
            store.build(kinds, base.name).__enter__()
    with pytest.raises(NoSuchGeneration, match="g-00000001"):
        store.build(KINDS, "g-00000009").__enter__()
    with pytest.raises(BaseTrainedLater, match="has learned until 100"):
        build(store, 99, base=base.name)
    build(store, 100, base=base.name)

    assert ["g-00000001", "g-00000003"] == names(store.root)
    next(store.path("g-00000003").rglob("*.sst")).unlink()
    with pytest.raises(GenerationCorrupt, match=r"\.sst is missing"):
        build(store, 200, base="g-00000003")
    (store.path("g-00000003")).rename(store.root / "aside")


def test_a_base_whose_bytes_are_damaged_is_found_before_it_is_in_force(store):
    """A build does not read what it links; what is put in force is read whole."""
    many = hash_integers(np.arange(20_000))
    base = build(store, 1, ids=many, kinds={"item": ITEM})
    new = build(store, 2, ids=many[:3], base=base.name, kinds={"item": ITEM})
    damage(max(store.path(base.name).rglob("*.sst"), key=lambda p: p.stat().st_size))

    with pytest.raises(GenerationCorrupt, match=r"\.sst does not match its digest"):
        store.activate(new.name, 2)
    assert {base.name, new.name} == store.verify().keys()


@pytest.mark.parametrize(
    ("ids", "rows", "error", "fact"),
    [
        (ITEMS[:2], np.zeros((2, 5)), WrongVectors, r"vectors \(2, 5\) for ids"),
        (ITEMS[:2], np.zeros((3, 4)), WrongVectors, r"vectors \(3, 4\) for ids"),
        (ITEMS[:2].astype(np.int64), np.zeros((2, 4)), WrongVectors, "int64"),
        (np.zeros(1, np.uint64), np.zeros((1, 4)), WrongVectors, "id 0 stands for no id"),
        (ITEMS[:1], np.full((1, 4), np.nan), WrongVectors, "not finite as float16"),
        (ITEMS[:1], np.full((1, 4), 1e6), WrongVectors, "not finite as float16"),
    ],
)
def test_what_is_no_vector_is_refused_and_leaves_nothing(store, ids, rows, error, fact):
    """One NaN in a table would reach every model that plugs it in."""
    with pytest.raises(error, match=fact), store.build({"item": ITEM}) as builder:
        builder.put("item", ids, rows)
        builder.commit(trained_until_ms=0)

    assert [] == names(store.root)
    assert "g-00000002" == build(store, 0).name  # the lock is free


def test_a_kind_that_was_not_announced_is_refused(store):
    """Its vectors would be lost in silence."""
    with store.build({"item": ITEM}) as builder, pytest.raises(UnknownKind, match="'user'"):
        builder.put("user", ITEMS, vectors(ITEMS, 1))


def test_what_is_not_committed_was_never_there(store):
    """An extractor that fails, or thinks better of it, leaves the store as it was."""
    build(store, 1)
    with store.build(KINDS, "g-00000001") as builder:
        builder.put("item", ITEMS, vectors(ITEMS, 9))
    with pytest.raises(ZeroDivisionError), store.build(KINDS) as builder:
        builder.put("item", ITEMS, vectors(ITEMS, 9))
        raise ZeroDivisionError

    assert ["g-00000001"] == names(store.root)
    assert "g-00000004" == build(store, 2).name


def test_a_name_is_never_given_twice(store):
    """A run's journal may name a generation that was deleted: another must not answer for it."""
    build(store, 1)
    last = build(store, 2)
    store.path(last.name).rename(store.root / "aside")

    assert "g-00000003" == build(store, 3).name


def test_one_builds_at_a_time(store):
    """Two would give the same number to different vectors; switches need not wait for them."""
    name = build(store, 1).name
    with store.build(KINDS) as builder:
        with pytest.raises(StoreBusy, match="another process builds"):
            store.build(KINDS).__enter__()
        with pytest.raises(StoreBusy):
            store.prune(1)
        store.activate(name, 5)
        assert "g-00000002" == builder.commit(trained_until_ms=9).name
    assert "g-00000003" == build(store, 10).name


def test_a_generation_may_be_empty(store):
    """The first of a new site: nothing is known, and that is no error."""
    manifest = build(store, 1, ids=ITEMS[:0])
    grown = build(store, 2, base=manifest.name)

    assert {"item": 0, "user": 0} == manifest.counts
    with store.reader(manifest.name) as reader:
        assert not reader.get_many("item", ITEMS, 1).present.any()
    with store.reader(grown.name) as reader:
        assert reader.get_many("item", ITEMS, 2).present.all()
