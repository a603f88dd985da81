import os
import time
from itertools import pairwise

import numpy as np
import pytest

from keepstream.wiring import build_ingest
from stream.deadletters import DeadLetterFile
from tests.trainer.parts import (
    CLICKED,
    SHOWN,
    START_MS,
    clicked,
    config,
    equal,
    log,
    shown,
    source,
)
from trainer.ahead import Ahead
from trainer.entities import seen_entities
from trainer.items import Barrier, LearnItem
from trainer.view import View, ViewTimes

KEEP = config(model={"model": "keep"})
MINUTE = 60_000
FIRST = (START_MS // MINUTE + 1) * MINUTE  # the first multiple of a minute after the log begins


def ingest_of(settings, scratch, every_s):
    """Return what lies between a log and the learner, with views."""
    return build_ingest(settings, tuple(sorted((SHOWN, CLICKED))), scratch, view_every_s=every_s)


def sparse(seed, impressions=150):
    """Return a log with pauses of all lengths, in which impressions settle and views fall due."""
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.choice([0.5, 3, 20, 70], impressions, p=[0.6, 0.2, 0.15, 0.05]))
    wait = rng.uniform(1, 70, impressions)
    return {
        SHOWN: [shown(i, at[i]) for i in range(impressions)],
        CLICKED: [
            clicked(i, at[i] + wait[i]) for i in np.argsort(at + wait).tolist() if i % 5 == 2
        ],
    }


def items_of(ingest, blocks):
    """Return all items of a log."""
    return [*(item for block in blocks for item in ingest.feed(block)), *ingest.finish()]


def learned_before(items):
    """Return the views, each with the digest of the examples learned before it."""
    found, digest = [], ""
    for item in items:
        if isinstance(item, View):
            found.append((item, digest))
        elif isinstance(item, LearnItem):
            digest = item.examples_digest
    return found


def same_views(a, b):
    """Whether views and what was learned before them are equal, bit for bit."""
    return len(a) == len(b) and all(
        x.at_ms == y.at_ms
        and before == earlier
        and all(equal(getattr(x, n), getattr(y, n)) for n in ("features", "ids", "entities"))
        for (x, before), (y, earlier) in zip(a, b, strict=True)
    )


def test_a_view_comes_at_every_multiple_of_the_interval(tmp_path):
    """A week that is replayed gives a generation every ten minutes, no more and no fewer."""
    ingest = ingest_of(KEEP, tmp_path, 60)

    views = [view for view, _ in learned_before(items_of(ingest, source(KEEP, log(400))))]

    assert [FIRST + n * MINUTE for n in range(len(views))] == [view.at_ms for view in views]
    assert START_MS + 400_000 - views[-1].at_ms < MINUTE


@pytest.mark.parametrize("block_events", [1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_decide_neither_when_a_view_comes_nor_what_it_holds(tmp_path, block_events, seed):
    """Live events come a few at a time, old ones by the thousand: a replay must extract the same.

    Clicks come from another partition, and late; what has settled by then is learned by then.
    """
    settings = config(model={"model": "keep"}, train={"batch_size": 4})
    messages = sparse(seed)
    whole = items_of(ingest_of(settings, tmp_path, 60), source(settings, messages))

    blocks = source(settings, messages, block_events=block_events)
    parts = items_of(ingest_of(settings, tmp_path, 60), blocks)

    assert len(learned_before(whole)) >= 4
    assert same_views(learned_before(whole), learned_before(parts))


def test_one_view_waits_for_the_learner_however_many_are_due(tmp_path):
    """Each is a copy of all statistics and ids: a learner that is behind must not get eight."""
    ingest, messages = ingest_of(KEEP, tmp_path, 1), log(40)
    made, view = [], ingest.view
    ingest.view = lambda at_ms: made.append(at_ms) or view(at_ms)
    ahead = Ahead(
        source(KEEP, messages),
        ingest,
        letters=DeadLetterFile(tmp_path / "letters"),
        clock=lambda: 0.0,
        barrier_every_s=None,
        drain=True,
    )
    handled, ahead_by = 0, []
    with ahead:
        for item in ahead:
            if isinstance(item, View):
                until = time.monotonic() + 0.03  # for a thread that does not wait, it is plenty
                while len(made) < handled + 4 and time.monotonic() < until:
                    os.sched_yield()
                ahead_by.append(len(made) - handled)
                handled += 1

    assert handled == len(made) > 10
    assert max(ahead_by) == 2  # the one at hand, and the next


def test_views_change_nothing_that_is_learned(tmp_path):
    """A run that is extracted from is the run that it would be."""

    def learned(every_s):
        items = items_of(ingest_of(KEEP, tmp_path, every_s), source(KEEP, log(300)))
        return [item.examples_digest for item in items if isinstance(item, LearnItem)]

    expected = learned(None)

    assert len(expected) > 10
    assert expected == learned(7)


def test_a_view_holds_everything_before_its_moment_and_nothing_else(tmp_path):
    """Its moment is `trained_until`: one event too many would be the future in a replay."""
    ingest = ingest_of(KEEP, tmp_path, 60)
    for view, _ in learned_before(items_of(ingest, source(KEEP, log(300)))):
        items = seen_entities(view.entities["items"])
        at = np.concatenate([view.features["open_shows"]["at"], view.features["open_clicks"]["at"]])

        assert (view.at_ms - START_MS - 1) // 1000 + 1 == items.seen.sum()  # one a second
        assert view.at_ms - 1000 <= items.last_ms.max() < view.at_ms
        assert at.max() < view.at_ms


def test_a_pause_of_the_stream_is_no_occasion(tmp_path):
    """Hours of silence must not be hundreds of generations that say the same."""
    night = 5 * 3600
    messages = {SHOWN: [shown(i, i if i < 90 else night + i) for i in range(180)], CLICKED: []}

    views = learned_before(items_of(ingest_of(KEEP, tmp_path, 60), source(KEEP, messages)))

    times = [(view.at_ms - FIRST) // MINUTE for view, _ in views]
    assert [0, 1] == times[:2]
    assert all(later - earlier in (1, night // 60) for earlier, later in pairwise(times))
    assert len(times) <= 5


def test_a_restart_gives_the_views_that_were_to_come(tmp_path):
    """A run that is killed must neither miss a generation nor make one twice."""
    blocks = [*source(KEEP, sparse(5), block_events=1)]
    undisturbed = learned_before(items_of(ingest_of(KEEP, tmp_path, 60), blocks))
    for half in range(1, len(blocks), 7):
        before = ingest_of(KEEP, tmp_path, 60)
        early = [item for block in blocks[:half] for item in before.feed(block)]
        resumed = ingest_of(KEEP, tmp_path, 60)
        resumed.restore(before.state())
        late = items_of(resumed, blocks[half:])

        actual = learned_before(early) + learned_before(late)
        assert [view.at_ms for view, _ in undisturbed] == [view.at_ms for view, _ in actual]
        assert equal(undisturbed[-1][0].features, actual[-1][0].features)
        assert equal(undisturbed[-1][0].entities, actual[-1][0].entities)


def test_another_interval_takes_over_at_its_next_multiple():
    """What an earlier interval had due is no multiple of the new one."""
    times = ViewTimes(60)
    assert (1, None) == times.stretch(np.array([5_000]), 0)
    hourly, never = ViewTimes(3600), ViewTimes(None)
    hourly.restore(times.state())
    never.restore(times.state())

    assert hourly.passed(3_599_999) is None
    assert 3_600_000 == hourly.passed(3_600_000)
    assert hourly.passed(7_200_000) is None  # nothing has come since
    assert never.passed(10**12) is None
    with pytest.raises(ValueError, match="more than 0 seconds"):
        ViewTimes(0)


def test_the_last_view_comes_before_the_last_barrier(tmp_path):
    """A refresh of a log that has ended extracts what was learned of it, also what was drained."""

    def items(messages, **options):
        letters = DeadLetterFile(tmp_path / "letters.ndjson")
        given = {"clock": lambda: 0.0, "barrier_every_s": None, "drain": True, **options}
        over = source(KEEP, messages)
        with Ahead(over, ingest_of(KEEP, tmp_path, None), letters=letters, **given) as ahead:
            return [*ahead]

    *_, learned, view, barrier = items(log(100), view_last=True)

    assert isinstance(barrier, Barrier)
    assert isinstance(learned, LearnItem)
    assert isinstance(view, View)
    assert START_MS + 99_000 < view.at_ms <= START_MS + 120_000
    assert view.newest_ms < view.at_ms
    assert not any(isinstance(item, View) for item in items(log(100)))
    assert not any(isinstance(item, View) for item in items({}, view_last=True))


def test_a_run_without_an_extractor_keeps_nothing_for_one(tmp_path):
    """Its checkpoints are, byte for byte, what they were."""
    ingest = ingest_of(config(), tmp_path, None)
    items_of(ingest, source(config(), log(50)))

    assert not {"entities", "views"} & ingest.state().keys()
    assert {} == ingest.view_now().entities
