import numpy as np
import pytest

from knowledge_store.errors import (
    KnowledgeError,
    NoGeneration,
    UnknownKind,
)
from knowledge_store.kinds import Kind, pair_ids
from knowledge_store.store import KnowledgeStore
from tests.trainer.feeds import (
    SECONDS,
    activate,
    damage,
    feed_of,
    found_in,
    given_to,
    of_item,
    shown,
)
from tests.trainer.knowledge import CLUSTERS, KINDS, add, store_in, vectors
from tests.trainer.parts import START_MS
from trainer.knowledge_config import KnowledgeConfig
from trainer.knowledge_feed import KnowledgeFeed, NoIds
from trainer.knowledge_journal import (
    read_journal,
)
from trainer.knowledge_rows import KnowledgeRows, refitted


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


@pytest.mark.parametrize(("seconds", "opened"), [([31], [2]), ([29, 41], [3, 2])])
def test_a_switch_reads_a_generation_through_once(four, monkeypatch, seconds, opened):
    """Every byte of it is compared with its manifest then: a second a gigabyte."""
    names, reader = [], KnowledgeStore.reader

    def counted(store, name, *options, **more):
        names.append(name)
        return reader(store, name, *options, **more)

    activate(four, 1, 0)
    feed = feed_of(four, live=True)
    given_to(feed, shown([1, 2]))
    monkeypatch.setattr(KnowledgeStore, "reader", counted)
    activate(four, 2, 30)
    if 3 in opened:
        activate(four, 3, 40)

    given_to(feed, shown(seconds))

    assert sorted(f"g-{number:08d}" for number in opened) == sorted(set(names))
    assert names.count(f"g-{max(opened):08d}") == 1


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
