"""What a feed writes down of its switches, and how it goes on by that."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowledge_store.errors import (
    FutureKnowledge,
    GenerationGone,
    KnowledgeError,
)
from knowledge_store.store import KnowledgeStore
from tests.trainer.feeds import (
    ITEM_ONLY,
    SECONDS,
    activate,
    another,
    feed_of,
    files_of_at_most,
    given_to,
    of_item,
    shown,
)
from tests.trainer.knowledge import add, store_in
from tests.trainer.parts import START_MS
from trainer.knowledge_feed import OtherGeneration
from trainer.knowledge_journal import (
    JournalDamaged,
    KnowledgeJournal,
    OtherJournal,
    Taken,
    read_journal,
)

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
    assert ["g-00000001"] == feed._knowledge.open_generations  # nor held open
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
