import shutil
import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from knowledge_store.errors import (
    FutureKnowledge,
    GenerationCorrupt,
    NoStore,
    NoSuchGeneration,
    NothingToRollBack,
    StoreInconsistent,
    SwitchesCorrupt,
    SwitchOutOfOrder,
)
from knowledge_store.kinds import Kind
from knowledge_store.manifest import Manifest
from knowledge_store.schedule import Switch
from knowledge_store.store import KnowledgeStore
from tests.knowledge_store.stores import ITEMS, KINDS, build, damage, names

TINY = {"item": Kind("item", 1)}


def switch(from_ms, number):
    """Return a switch to a generation by its number."""
    return Switch(from_ms=from_ms, generation=f"g-{number:08d}")


def rewrite(root, *switches):
    """Write CURRENT as a careless person would."""
    said = [{"from_ms": s.from_ms, "generation": s.generation} for s in switches]
    (root / "CURRENT").write_bytes(orjson.dumps({"format": 1, "switches": said}))


class AsIfInMemory(RuleBasedStateMachine):
    """A store does what a list of generations and a list of switches would."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = KnowledgeStore(self.root, create=True)
        self.until: dict[int, int] = {}  # of each generation there is, by number
        self.switches: list[Switch] = []
        self.built = 0

    def teardown(self):
        """Remove the store."""
        shutil.rmtree(self.root)

    @rule(step=st.integers(0, 3), linked=st.booleans())
    def build(self, step, linked):
        """Build a generation, over the newest or from nothing."""
        newest = max(self.until, default=0)
        base = f"g-{newest:08d}" if linked and newest else None
        until = self.until.get(newest, 0) + step
        self.built += 1
        assert (
            f"g-{self.built:08d}"
            == build(self.store, until, ids=ITEMS[:3], base=base, kinds=TINY).name
        )
        self.until[self.built] = until

    @precondition(lambda self: self.until)
    @rule(data=st.data(), after=st.integers(-2, 4))
    def activate(self, data, after):
        """Put one in force, or be refused."""
        number = data.draw(st.sampled_from(sorted(self.until)))
        last = self.switches[-1] if self.switches else None
        new = switch((last.from_ms if last else 0) + after, number)
        if new.from_ms < self.until[number]:
            with pytest.raises(FutureKnowledge):
                self.store.activate(new.generation, new.from_ms)
        elif last and new.from_ms < last.from_ms:
            with pytest.raises(SwitchOutOfOrder):
                self.store.activate(new.generation, new.from_ms)
        elif last and new.generation == last.generation:
            assert last == self.store.activate(new.generation, new.from_ms)
        else:
            assert new == self.store.activate(new.generation, new.from_ms)
            if last and last.from_ms == new.from_ms:
                self.switches.pop()
            self.switches.append(new)

    @rule(after=st.sampled_from([None, 0, 1, 3]))
    def roll_back(self, after):
        """Go back to what was in force before."""
        last = self.switches[-1] if self.switches else None
        others = [s for s in self.switches if s.generation != last.generation]
        from_ms = None if after is None or last is None else last.from_ms + after
        if not others:
            with pytest.raises(NothingToRollBack):
                self.store.rollback(from_ms)
        elif after:
            expected = Switch(from_ms=from_ms, generation=others[-1].generation)
            assert expected == self.store.rollback(from_ms)
            self.switches.append(expected)
        else:
            assert others[-1] == self.store.rollback(from_ms)
            del self.switches[self.switches.index(others[-1]) + 1 :]

    @rule(keep=st.integers(1, 3))
    def prune(self, keep):
        """Delete old ones, and the history that needs them."""
        kept = set(sorted(self.until)[-keep:])
        used = sorted({int(s.generation[2:]) for s in self.switches})
        kept |= set(used[-keep:])
        if self.switches:
            kept.add(int(self.switches[-1].generation[2:]))
        gone = sorted(self.until.keys() - kept)
        assert [f"g-{n:08d}" for n in gone] == self.store.prune(keep)
        for i in reversed(range(len(self.switches))):
            if int(self.switches[i].generation[2:]) in gone:
                del self.switches[: i + 1]
                break
        self.until = {n: until for n, until in self.until.items() if n in kept}

    @invariant()
    def agrees(self):
        """All there is, and nothing besides."""
        other = KnowledgeStore(self.root)
        other.check()
        found = {m.number: m.trained_until_ms for m in other.generations()}
        assert sorted(self.until.items()) == list(found.items())
        assert tuple(self.switches) == other.switches()
        assert [f"g-{n:08d}" for n in sorted(self.until)] == names(self.root)


TestAsIfInMemory = AsIfInMemory.TestCase
TestAsIfInMemory.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)


@pytest.fixture
def three(store):
    """Return a store of three generations, in force from 10, 20 and 30 ms on."""
    for n in (1, 2, 3):
        build(store, 10 * n, kinds=TINY)
        store.activate(f"g-{n:08d}", 10 * n)
    return store


def test_a_store_is_made_only_when_told(tmp_path):
    """A name spelt wrong must not look like an empty store."""
    with pytest.raises(NoStore, match="there is no knowledge store"):
        KnowledgeStore(tmp_path / "typo")
    assert KnowledgeStore(tmp_path / "new", create=True).current() is None
    assert () == KnowledgeStore(tmp_path / "new").switches()


@pytest.mark.parametrize("name", ["g-00000004", "g-1", "", "..", "../generations/g-00000001"])
def test_a_generation_that_is_not_there_is_named_with_those_that_are(three, name):
    """Names come from people and journals; none leads out of the folder."""
    with pytest.raises(NoSuchGeneration, match="g-00000001, g-00000002, g-00000003"):
        three.path(name)


def test_knowledge_of_the_future_is_never_in_force(three):
    """The leak would show as a gain."""
    build(three, 50, kinds=TINY)

    with pytest.raises(FutureKnowledge, match="has learned until 50"):
        three.activate("g-00000004", 49)
    assert switch(50, 4) == three.activate("g-00000004", 50)


def test_one_that_is_in_force_stays_so_from_when_it_was(three):
    """A schedule that runs twice adds no switch: a rollback would go nowhere."""
    assert switch(30, 3) == three.activate("g-00000003", 45)
    assert 3 == len(three.switches())


def test_a_switch_before_the_last_is_refused(three):
    """What was in force then has been learned with."""
    with pytest.raises(SwitchOutOfOrder, match="rollback"):
        three.activate("g-00000001", 29)
    assert switch(30, 1) == three.activate("g-00000001", 30)
    assert (switch(10, 1), switch(20, 2), switch(30, 1)) == three.switches()


def test_a_rollback_takes_the_last_switch_back_or_makes_another(three):
    """The first as if it had never been; the second where trainers have learned with it."""
    assert switch(35, 2) == three.rollback(35)
    assert (switch(10, 1), switch(20, 2), switch(30, 3), switch(35, 2)) == three.switches()
    assert switch(30, 3) == three.rollback()
    assert switch(20, 2) == three.rollback()
    assert switch(10, 1) == three.rollback()
    with pytest.raises(NothingToRollBack):
        three.rollback()
    assert (switch(10, 1),) == three.switches()


def test_a_damaged_generation_is_not_gone_back_to(three):
    """One fault is enough."""
    damage(next(three.path("g-00000002").rglob("*.sst")))

    with pytest.raises(GenerationCorrupt, match="does not match its digest"):
        three.rollback()
    assert switch(30, 3) == three.current()


def test_history_that_lost_a_generation_ends_there(three):
    """A time must not be given to a generation that was not in force then."""
    build(three, 40, kinds=TINY)
    three.activate("g-00000001", 40)  # 1, 2, 3, 1

    assert ["g-00000002"] == three.prune(1)
    assert (switch(30, 3), switch(40, 1)) == three.switches()
    assert ["g-00000001", "g-00000003", "g-00000004"] == names(three.root)


def test_held_generations_leave_one_to_go_back_to(three):
    """After a night of generations that the guard has held, that is when one is needed."""
    for until in (40, 50, 60):
        build(three, until, kinds=TINY)

    assert ["g-00000001", "g-00000004"] == three.prune(2)
    assert [f"g-{n:08d}" for n in (2, 3, 5, 6)] == names(three.root)
    assert switch(20, 2) == three.rollback()


def test_what_is_damaged_counts_for_nothing_when_old_ones_go(three):
    """Else a store would be left with the damaged one alone."""
    (three.path("g-00000003") / "manifest.json").unlink()

    assert ["g-00000001"] == three.prune(1)
    assert ["g-00000002"] == [m.name for m in three.generations()]
    with pytest.raises(StoreInconsistent, match=r"manifest\.json is missing.*CURRENT names"):
        three.check()
    shutil.rmtree(three.path("g-00000003"))
    rewrite(three.root, switch(20, 2))


def test_what_a_crash_left_is_cleared_by_the_next_build(three):
    """It may be gigabytes, and nobody reads it."""
    for left in (".building-g-00000004", ".deleting-g-00000001"):
        shutil.copytree(three.path("g-00000003"), three.root / "generations" / left)
    three.check()

    build(three, 40, kinds=TINY)

    assert [f"g-{n:08d}" for n in (1, 2, 3, 4)] == names(three.root)


def test_switches_that_cannot_be_read_are_not_taken_for_none(three):
    """A trainer would go on without knowledge, and nobody would know why."""
    path = three.root / "CURRENT"
    sound = path.read_bytes()
    for damaged in (sound[:-9], b"[]", b'{"format":2,"switches":[]}', b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(SwitchesCorrupt, match="is damaged"):
            KnowledgeStore(three.root)
    rewrite(three.root, switch(20, 2), switch(10, 1))
    with pytest.raises(SwitchesCorrupt, match="g-00000001 cannot be in force from 10"):
        three.current()
    path.write_bytes(sound)


def test_the_check_finds_what_does_not_fit(three):
    """Every store test ends with it: it must be able to fail."""
    sound = (three.root / "CURRENT").read_bytes()
    for switches, fact in (
        ([switch(10, 1), switch(20, 7)], "CURRENT names g-00000007"),
        ([switch(9, 1)], "g-00000001 is in force from 9"),
    ):
        rewrite(three.root, *switches)
        with pytest.raises(StoreInconsistent, match=fact):
            three.check()
    (three.root / "CURRENT").write_bytes(sound)
    file = next(three.path("g-00000002").rglob("CURRENT"))
    file.rename(three.root / "aside")
    with pytest.raises(StoreInconsistent, match="item/CURRENT is missing"):
        three.check()
    assert ["g-00000002"] == list(three.verify())
    (three.root / "aside").rename(file)


def test_a_flipped_byte_is_found_in_every_file(three):
    """`verify` names the generation and the file."""
    path = three.path("g-00000002")
    for name in Manifest.read(path).files:
        damage(path / name, at=0)
        (fault,) = three.verify().values()
        assert f"{path}: {name} does not match its digest" in str(fault)
        assert {} == three.verify("g-00000001")
        damage(path / name, at=0)
    assert {} == three.verify()


def test_a_reader_that_is_killed_while_it_opens_does_no_harm(store):
    """RocksDB's binding writes a file of its settings anew whenever a table is opened."""
    manifest = build(store, 10)
    for kind in KINDS:
        (store.path(manifest.name) / kind / "rocksdict-config.json").write_bytes(b"")

    assert not store.verify()
    with store.reader(manifest.name) as reader:
        assert reader.get_many("item", ITEMS, 10).present.all()
