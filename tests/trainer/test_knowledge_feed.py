import resource
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowledge_store.errors import (
    FutureKnowledge,
    GenerationGone,
    KnowledgeError,
    NoGeneration,
    UnknownKind,
)
from knowledge_store.kinds import Kind, pair_ids
from knowledge_store.store import KnowledgeStore
from stream.events import EventColumns, EventSchema
from stream.ids import hash_integers
from tests.trainer.knowledge import CLUSTERS, ITEMS, KINDS, add, store_in, vectors
from tests.trainer.parts import START_MS
from trainer.knowledge_config import KnowledgeConfig
from trainer.knowledge_feed import KnowledgeFeed, NoIds, OtherGeneration
from trainer.knowledge_journal import (
    JournalDamaged,
    KnowledgeJournal,
    OtherJournal,
    Taken,
    read_journal,
)
from trainer.knowledge_rows import KnowledgeRows, refitted

ITEM_ONLY = {"item": KINDS["item"]}
SCHEMA = EventSchema(ids=("topic", "place"))
SECONDS = 60


def shown(seconds, users=None, items=None):
    """Return impressions at these seconds."""
    at = START_MS + np.rint(1000 * np.asarray(seconds, float)).astype(np.int64)
    events = EventColumns.empty(SCHEMA, at.size).with_at(at)
    events.ts[:] = at
    which = np.arange(at.size) if users is None else np.asarray(users)
    events.user[:] = hash_integers(which % 8)
    events.item[:] = hash_integers((which if items is None else np.asarray(items)) % 11)
    events.ids[:] = hash_integers(np.arange(2 * at.size) % 3).reshape(-1, 2)
    return events


def feed_of(store, *, journal=None, given=None, live=False, clock=None, tell=None, **config):
    """Return a feed of a store; a live one looks at it at every block."""
    return KnowledgeFeed(
        KnowledgeConfig(store=str(store.root), **{"watch_s": 0, **config}),
        features=SCHEMA.ids,
        journal=KnowledgeJournal(journal),
        given=given,
        live=live,
        clock=clock,
        tell=tell or (lambda line: None),
    )


def given_to(feed, events):
    """Return what a feed gives to events, all accepted: (vectors, known)."""
    columns = feed.observe(events, np.arange(len(events)))
    assert {k: (v.dtype, v.shape[1:]) for k, v in columns.items()} == {
        name: (np.dtype(kind), (width,)) for name, (kind, width) in feed.columns().items()
    }
    return columns["knowledge"], columns["known"]


def of_item(store, feed, number):
    """Return which generation's vector of item ``number`` a feed gives at a time, by second."""

    def generation_at(second):
        vectors_, known = given_to(feed, shown([second], [number]))
        return found_in(vectors_[0]) if known[0, 0] else 0

    return generation_at


def found_in(vector, number=1, generations=9):
    """Return the number of the generation that has this vector of an item."""
    for seed in range(1, generations + 1):
        if (vectors(seed, ITEMS.size, KINDS["item"])[number] == vector[:4]).all():
            return seed
    return None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a store of four generations of items, none in force, that learned until the start."""
    store = KnowledgeStore(tmp_path_factory.mktemp("built") / "knowledge", create=True)
    for _ in range(4):
        add(store, START_MS, ITEM_ONLY)
    return store


@pytest.fixture
def four(built, tmp_path):
    """Return a store with the four generations, and switches of its own."""
    return another(built, tmp_path)


def another(built, folder):
    """Return a store over the generations of ``built``, with switches of its own."""
    (folder / "store").mkdir()
    (folder / "store" / "generations").symlink_to(built.root / "generations")
    return KnowledgeStore(folder / "store")


def activate(store, number, second):
    """Put a generation in force from a second on."""
    store.activate(f"g-{number:08d}", START_MS + 1000 * second)


@contextmanager
def files_of_at_most(size):
    """Let no file grow beyond so many bytes, as a quota or a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def damage(store, generation):
    """Flip a bit in the midst of a generation's vectors of items."""
    table = max((store.path(generation) / "item").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.chmod(0o644)
    table.write_bytes(bytes(data))


def test_every_impression_gets_the_vectors_of_its_user_item_and_pair(tmp_path):
    """What a model is given is what the extractor wrote, each kind in its place."""
    store = store_in(tmp_path, START_MS)
    events = shown(range(20))

    found, known = given_to(feed_of(store), events)

    users, items = np.arange(20) % 8, np.arange(20) % 11
    assert ["interaction", "item", "user"] == [k.name for k in feed_of(store).rows.kinds]
    assert np.array_equal(np.stack([(users < 7) & (items < 9), items < 9, users < 7], 1), known)
    expected = {k: vectors(1, 99, KINDS[k]) for k in ("interaction", "item", "user")}
    for row, user, item in zip(range(20), users, items, strict=True):
        pair = expected["interaction"][3 * user + CLUSTERS[item % 9]] if known[row, 0] else 0
        assert (pair == found[row, :2]).all()
        assert ((expected["item"][item] if item < 9 else 0) == found[row, 2:6]).all()
        assert ((expected["user"][user] if user < 7 else 0) == found[row, 6:]).all()


def test_the_category_of_an_interaction_may_be_a_feature_of_the_event(tmp_path):
    """Where a log has categories they say more than clusters."""
    kinds = {"interaction": Kind("interaction", 2)}
    events = shown(range(9))
    store = KnowledgeStore(tmp_path / "knowledge", create=True)
    with store.build(kinds) as build:
        pairs = pair_ids(events.user, events.ids[:, 1])
        ids, first = np.unique(pairs, return_index=True)
        build.put("interaction", ids, np.stack([first, first], 1).astype(np.float16))
        name = build.commit(trained_until_ms=START_MS, about={}).name
    store.activate(name, START_MS)

    found, known = given_to(feed_of(store, category="place"), events)

    assert known.all()
    assert np.array_equal(first[np.searchsorted(ids, pairs)], found[:, 0])
    for category in ("", "nothing"):
        with pytest.raises(NoIds, match=r"features\.ids"):
            feed_of(store, category=category)


def test_a_kind_that_no_generation_has_is_refused_with_those_there_are(four):
    """A model is built for the kinds: a wrong name must not become zeros."""
    with pytest.raises(UnknownKind, match="item"):
        feed_of(four, kinds=("author",))


def test_a_store_without_generations_is_refused(tmp_path):
    """Nobody knows how wide its vectors will be."""
    with pytest.raises(NoGeneration):
        feed_of(KnowledgeStore(tmp_path / "empty", create=True), live=True)


def test_a_replay_sees_at_each_time_what_was_in_force_then(four):
    """A backfill with today's vectors would have seen the future."""
    for number, second in ((1, 10), (2, 20), (3, 40)):
        activate(four, number, second)
    feed = feed_of(four)

    found, known = given_to(feed, shown(range(SECONDS), np.ones(SECONDS, int)))

    generations = [found_in(v) if k else 0 for v, k in zip(found, known[:, 0], strict=True)]
    assert [0] * 10 + [1] * 10 + [2] * 20 + [3] * 20 == generations
    assert 3 == feed.in_force().switches
    assert {"item": 50} == feed.in_force().known


def test_a_replay_does_not_follow_and_a_live_run_does(four):
    """A replay is a function of what was there when it began."""
    activate(four, 1, 0)
    replay, live = (of_item(four, feed_of(four, live=way), 1) for way in (False, True))
    assert (1, 1) == (replay(1), live(1))

    activate(four, 2, 0)

    assert (1, 2) == (replay(2), live(2))
    assert 2 == of_item(four, feed_of(four, live=False, follow="current"), 1)(3)


def test_an_activation_counts_from_behind_the_last_look_up(four, tmp_path):
    """What was scored stays as it was scored, also at the very same millisecond."""
    activate(four, 1, 0)
    journal = tmp_path / "knowledge.ndjson"
    feed = feed_of(four, live=True, journal=journal)
    generation = of_item(four, feed, 1)
    assert 1 == generation(30)

    activate(four, 2, 10)

    assert [1, 2, 2] == [generation(30), generation(30.001), generation(31)]
    assert [START_MS, START_MS + 30_001] == [t.from_ms for t in read_journal(journal)[0]]


def test_an_activation_for_later_waits_for_its_time(four):
    """A trainer that is behind has not reached what the extractor has learned from."""
    activate(four, 1, 0)
    generation = of_item(four, feed_of(four, live=True), 1)
    generation(5)
    activate(four, 2, 40)
    assert [1, 1] == [generation(6), generation(39)]

    assert 2 == generation(40)


def test_an_activation_for_later_that_is_taken_back_was_never_made(four, tmp_path):
    """A wrong clock, or a slip of the pen, must not bind a run until a time that is far away."""
    activate(four, 1, 0)
    journal = tmp_path / "knowledge.ndjson"
    generation = of_item(four, feed_of(four, live=True, journal=journal), 1)
    generation(5)
    activate(four, 2, 10**9)
    assert 1 == generation(6)
    four.rollback()
    activate(four, 3, 7)

    assert [3, 3] == [generation(8), generation(9)]
    assert ["g-00000001", "g-00000003"] == [t.generation for t in read_journal(journal)[0]]


def test_an_activation_for_later_is_read_when_its_time_comes(tmp_path):
    """Reading it at every look would stop the ingest again and again; so would a week at once."""
    store, told = store_in(tmp_path, START_MS), []
    generation = of_item(store, feed_of(store, live=True, kinds=("item",), tell=told.append), 1)
    later = add(store, START_MS)
    store.activate(later, START_MS + 40_000)
    generation(5)
    damage(store, later)

    assert [1, 1] == [generation(6), generation(7)]
    assert ["Knowledge: g-00000001"] == [line[:21] for line in told]
    assert [1, 1] == [generation(40), generation(41)]
    assert ["g-00000002 is not taken up"] == [line[:26] for line in told[1:]]


@pytest.mark.parametrize("kinds", [("item",), ("interaction",)])
def test_an_impression_that_comes_late_is_not_told_what_was_learned_from_it(tmp_path, kinds):
    """The order places it at 30 s; the extractor may have had it, and its click, before 20 s."""
    store = store_in(tmp_path, START_MS, START_MS + 20_000)
    late, on_time = shown([30, 30, 30, 31], items=[1, 1, 1, 1]), shown([30, 30, 30, 31])
    late.ts[:] = START_MS + np.array([19_999, 20_000, 30_000, 31_000])

    known = given_to(feed_of(store, kinds=kinds), late)[1]

    assert [False, True, True, True] == known[:, 0].tolist()
    assert given_to(feed_of(store, kinds=kinds), on_time)[1].all()


def test_of_several_activations_meanwhile_the_last_counts(four):
    """Nobody needs a generation for one millisecond."""
    activate(four, 1, 0)
    feed = feed_of(four, live=True)
    generation = of_item(four, feed, 1)
    generation(30)
    activate(four, 2, 10)
    activate(four, 3, 20)

    assert 3 == generation(31)
    assert 2 == feed.in_force().switches


def test_a_rollback_is_followed_before_and_after_its_switch(four):
    """A generation that proves bad goes out of use as it came: in event time."""
    activate(four, 1, 0)
    generation = of_item(four, feed_of(four, live=True), 1)
    activate(four, 2, 10)
    assert [1, 2] == [generation(9), generation(11)]
    four.rollback()
    assert 1 == generation(12)
    activate(four, 3, 40)
    assert 1 == generation(20)
    four.rollback()

    assert [1, 1] == [generation(39), generation(41)]


def test_a_run_that_is_thrown_back_does_not_move_a_switch_that_it_made(four, tmp_path):
    """The activation is older than the switch: noticed again, it must not count from earlier on."""
    journal = tmp_path / "knowledge.ndjson"
    activate(four, 1, 0)
    feed = feed_of(four, live=True, journal=journal)
    of_item(four, feed, 1)(5)
    saved = feed.state()
    of_item(four, feed, 1)(30)
    activate(four, 2, 10)
    assert 2 == of_item(four, feed, 1)(31)

    again = feed_of(four, live=True, journal=journal)
    again.restore(saved)
    generation = of_item(four, again, 1)

    assert [1, 1, 1, 2] == [generation(second) for second in (6, 7, 30, 31)]
    assert 2 == len(read_journal(journal)[0])


def test_the_store_is_looked_at_every_so_often(four):
    """A look costs a file that is opened: not at every block."""
    now = [100.0]
    activate(four, 1, 0)
    generation = of_item(four, feed_of(four, live=True, watch_s=5, clock=lambda: now[0]), 1)
    generation(1)
    generation(2)
    activate(four, 2, 0)

    now[0] = 104.9
    assert 1 == generation(3)
    now[0] = 105.0
    assert 2 == generation(4)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(1, 20)),
        st.tuples(st.just("activate"), st.integers(1, 4), st.integers(0, 70)),
        st.just(("save",)),
        st.just(("crash",)),
        st.just(("rollback",)),
    ),
    max_size=14,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_a_killed_run_and_a_replay_of_its_journal_switch_at_the_same_impression(built, steps):
    """A switch is part of what was learned: neither a kill nor a replay may move it."""
    with tempfile.TemporaryDirectory() as name:
        store, journal = another(built, Path(name)), Path(name) / "knowledge.ndjson"
        events = shown(np.arange(SECONDS) // 2, np.arange(SECONDS))
        feed, found, place = feed_of(store, live=True, journal=journal), [], 0
        saved = (feed.state(), 0)
        for step, *about in [*steps, ("feed", SECONDS)]:
            if step == "feed":
                block = events.take(slice(place, place + about[0]))
                found.append((place, *given_to(feed, block)))
                place += len(block)
            elif step == "activate":
                last = store.current()
                second = max(about[1], 0 if last is None else (last.from_ms - START_MS) // 1000)
                activate(store, about[0], second)
            elif step == "rollback" and len({s.generation for s in store.switches()}) > 1:
                store.rollback()
            elif step == "save":
                saved = (feed.state(), place)
            elif step == "crash":
                feed.close()
                feed, place = feed_of(store, live=True, journal=journal), saved[1]
                feed.restore(saved[0])
        learned = np.zeros((SECONDS, 4), np.float16)
        for at, values, _ in found:
            learned[at : at + len(values)] = values

        replay = feed_of(store, given=journal) if journal.exists() else feed_of(store)
        expected = given_to(replay, events)[0] if journal.exists() else 0

        assert (expected == learned).all()
        if journal.exists():
            assert replay.in_force() == feed.in_force()
        feed.close()
        replay.close()


def test_knowledge_of_the_future_is_refused_whatever_a_journal_says(built, tmp_path):
    """A leak would look like a triumph: the API refuses it, not our care."""
    store = another(built, tmp_path)
    leak = add(KnowledgeStore(store.root), START_MS + 40_000, ITEM_ONLY)
    try:
        with pytest.raises(FutureKnowledge):
            store.activate(leak, START_MS + 39_999)
        planted = KnowledgeJournal(tmp_path / "planted.ndjson")
        planted.append([Taken.of(store.manifest(leak), START_MS)])

        feed = feed_of(store, given=planted.path)

        with pytest.raises(FutureKnowledge, match=leak):
            feed.observe(shown([39.999]), np.arange(1))
        assert given_to(feed, shown([40], [1]))[1].all()
    finally:
        shutil.rmtree(store.path(leak))


def test_a_generation_that_is_gone_is_named_when_it_is_needed(tmp_path):
    """A replay of last month needs last month's vectors, and says so."""
    store = store_in(tmp_path, START_MS, START_MS + 20_000)
    journal = tmp_path / "knowledge.ndjson"
    given_to(feed_of(store, journal=journal), shown([1, 30]))
    store.prune(keep=1)

    feed = feed_of(store, given=journal)

    assert given_to(feed, shown([30], [1]))[1].all()
    with pytest.raises(GenerationGone, match="g-00000001"):
        given_to(feed_of(store, given=journal), shown([1]))


def test_a_damaged_generation_that_lies_behind_stops_no_restart(tmp_path):
    """It is no worse than one that is gone: who looks it up is told, and nobody else."""
    store = store_in(tmp_path, START_MS, START_MS + 20_000)
    journal = tmp_path / "knowledge.ndjson"
    given_to(feed_of(store, journal=journal), shown([1, 30]))
    manifest = store.path("g-00000001") / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-9])

    assert given_to(feed_of(store, given=journal), shown([30], [1]))[1].all()
    with pytest.raises(KnowledgeError, match="g-00000001"):
        given_to(feed_of(store, given=journal), shown([1]))


def test_a_generation_of_the_same_name_with_other_vectors_is_refused(four, tmp_path):
    """The digest tells: a store that was made anew is another one."""
    activate(four, 1, 0)
    journal = tmp_path / "knowledge.ndjson"
    given_to(feed_of(four, journal=journal), shown([1]))
    (tmp_path / "anew").mkdir()
    anew = store_in(tmp_path / "anew", START_MS + 1)

    with pytest.raises(OtherGeneration, match="g-00000001"):
        feed_of(anew, journal=journal)


def test_a_journal_that_is_not_the_runs_is_refused(four, tmp_path):
    """Two stories of what was learned cannot both be true."""
    activate(four, 1, 0)
    mine, other = tmp_path / "mine.ndjson", tmp_path / "other.ndjson"
    feed = feed_of(four, journal=mine)
    given_to(feed, shown([1]))
    activate(four, 2, 5)
    KnowledgeJournal(other).append([Taken.of(four.manifest("g-00000002"), START_MS)])

    with pytest.raises(OtherJournal, match="g-00000001"):
        feed_of(four, journal=mine, given=other)
    with pytest.raises(OtherJournal, match="g-00000001"):
        feed_of(four, journal=other).restore(feed.state())


def test_a_journal_that_was_lost_begins_again_with_what_the_checkpoint_holds(four, tmp_path):
    """The state says as much as the journal did when it was taken."""
    activate(four, 1, 0)
    journal = tmp_path / "knowledge.ndjson"
    feed = feed_of(four, journal=journal)
    given_to(feed, shown([1]))
    said = journal.read_bytes()
    journal.unlink()

    feed_of(four, journal=journal).restore(feed.state())

    assert said == journal.read_bytes()


def test_a_torn_line_of_the_journal_was_never_used(four, tmp_path):
    """It is synced before a look-up: a line without its end is a crash before that."""
    journal = tmp_path / "knowledge.ndjson"
    first, second = (Taken.of(four.manifest(f"g-0000000{n}"), START_MS + n) for n in (1, 2))
    KnowledgeJournal(journal).append([first])
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"from_ms": 17')

    reopened = KnowledgeJournal(journal)
    assert (first,) == reopened.switches
    reopened.append([second])

    assert [first, second] == read_journal(journal)[0]
    journal.write_bytes(b"{}\n" + whole)
    with pytest.raises(JournalDamaged, match="line 1"):
        KnowledgeJournal(journal)


def test_a_switch_that_cannot_be_journalled_is_not_made(four, tmp_path):
    """What a restart would not know must not be learned."""
    activate(four, 1, 0)
    (tmp_path / "run").mkdir()
    journal, told = tmp_path / "run" / "knowledge.ndjson", []
    feed = feed_of(four, live=True, journal=journal, tell=told.append)
    generation = of_item(four, feed, 1)
    generation(1)
    activate(four, 2, 0)
    journal.rename(tmp_path / "aside")
    journal.mkdir()

    assert [1, 1] == [generation(2), generation(3)]
    assert 1 == sum("No new knowledge" in line for line in told)
    journal.rmdir()
    (tmp_path / "aside").rename(journal)
    assert 2 == generation(4)


def test_of_switches_that_cannot_all_be_journalled_none_is(tmp_path):
    """The first line may be whole when the disk is full: a restart would believe it."""
    lines = [Taken(from_ms=n, generation=f"g-{n}", digest="d", trained_until_ms=n, kinds=())
             for n in (1, 2, 3)]  # fmt: skip
    journal = KnowledgeJournal(tmp_path / "knowledge.ndjson")
    journal.append(lines[:1])
    size = (tmp_path / "knowledge.ndjson").stat().st_size
    with files_of_at_most(2 * size + 9), pytest.raises(OSError, match="large"):
        journal.append(lines[1:])

    assert lines[:1] == list(journal.switches) == read_journal(journal.path)[0]
    journal.append(lines[1:])
    assert lines == list(KnowledgeJournal(journal.path).switches)


def test_an_activation_with_other_kinds_is_told_of_and_the_old_one_stays(tmp_path):
    """A trainer that is days old must not die of a wrong build; the next right one is taken."""
    store = store_in(tmp_path, START_MS)
    told = []
    generation = of_item(store, feed_of(store, live=True, kinds=("item",), tell=told.append), 1)
    generation(1)
    store.activate(add(store, START_MS, {"item": Kind("item", 3)}), START_MS)
    assert [1, 1] == [generation(2), generation(3)]
    store.activate(add(store, START_MS), START_MS)

    assert [3, 3] == [generation(4), generation(5)]
    assert 1 == sum("not taken up" in line for line in told)


def test_a_damaged_activation_is_told_of_and_the_old_one_stays(tmp_path):
    """What cannot be opened must not get into the journal, where a restart would meet it."""
    store = store_in(tmp_path, START_MS)
    told = []
    feed = feed_of(store, live=True, kinds=("item",), tell=told.append)
    generation = of_item(store, feed, 1)
    generation(1)
    bad = add(store, START_MS)
    store.activate(bad, START_MS)
    damage(store, bad)

    assert [1, 1] == [generation(2), generation(3)]
    assert 1 == sum("not taken up" in line for line in told)
    assert 1 == feed.in_force().switches


def test_blocks_and_restarts_change_no_digest(four):
    """The digest of what was given tells two runs apart, and only then."""
    activate(four, 1, 0)
    activate(four, 2, 20)
    events = shown(range(SECONDS))
    whole, cut = feed_of(four), feed_of(four)
    given_to(whole, events)
    for start in range(0, SECONDS, 7):
        resumed = feed_of(four)
        resumed.restore(cut.state())
        cut = resumed
        given_to(cut, events.take(slice(start, start + 7)))

    assert whole.in_force() == cut.in_force()


def waiting(kinds, rows):
    """Return the state of an ingest with ``rows`` in every place that holds rows."""
    columns = {"seq": np.arange(rows)}
    if kinds is not None:
        carried = KnowledgeRows(kinds)
        columns |= {
            "knowledge": np.arange(rows * carried.width).reshape(rows, -1).astype(carried.dtype),
            "known": np.ones((rows, len(kinds)), np.bool_),
        }
    return {
        "pending": {"first": 0, "chunks": {"0": columns}},
        "batcher": {"held": dict(columns)},
        "rehearsal": {"step": 1, "columns": dict(columns)},
    }


def test_rows_that_wait_keep_what_they_know_of_kinds_that_stay():
    """A run that goes on with other kinds has rows from before: what they lack is unknown."""
    item, user = KINDS["item"], KINDS["user"]
    of_items = waiting([item], 3)["pending"]["chunks"]["0"]
    for before, after, known in (
        (None, [item], [[False]] * 3),
        ([item], [item, user], [[True, False]] * 3),
        ([item, user], [user], [[True]] * 3),
        ([item], [Kind("item", 5)], [[False]] * 3),
        ([item], None, None),
    ):
        state = waiting(before, 3)
        rows = [None if kinds is None else KnowledgeRows(kinds) for kinds in (before, after)]

        fitted = refitted(state, *rows)

        for columns in (
            fitted["pending"]["chunks"]["0"],
            fitted["batcher"]["held"],
            fitted["rehearsal"]["columns"],
        ):
            assert np.array_equal(np.arange(3), columns["seq"])
            assert known == (columns["known"].tolist() if after else columns.get("known"))
            if (before, after) == ([item], [item, user]):
                assert np.array_equal(of_items["knowledge"], columns["knowledge"][:, :4])
                assert not columns["knowledge"][:, 4:].any()


def test_a_store_of_wrong_settings_is_named(tmp_path):
    """The folder that is meant stands in the message."""
    with pytest.raises(KnowledgeError, match="nowhere"):
        KnowledgeFeed(KnowledgeConfig(store=str(tmp_path / "nowhere")))
