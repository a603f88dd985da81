import numpy as np
import pytest

from stream.position import Partition
from tests.trainer.parts import (
    CLICKED,
    SHOWN,
    clicked,
    config,
    equal,
    ingest_of,
    log,
    shown,
    source,
)
from trainer.growth import OtherPartitions
from trainer.items import LearnItem, ScoreItem

SETTINGS = config()


def items_of(settings, messages, scratch, block_events=16_384):
    """Return the ingest that has gone through a whole log, and its items."""
    ingest = ingest_of(settings, scratch)
    items = [
        x for b in source(settings, messages, block_events=block_events) for x in ingest.feed(b)
    ]
    return ingest, [*items, *ingest.finish()]


def test_every_impression_is_learned_once_with_its_label(tmp_path):
    """The whole point: 100 shown, every fifth clicked within the window."""
    ingest, items = items_of(SETTINGS, log(100), tmp_path)

    labels = np.concatenate([i.examples["label"] for i in items if isinstance(i, LearnItem)])
    assert 100 == len(labels) == ingest.counts().impressions
    assert 20 == labels.sum()
    assert 0 == ingest.counts().pending


@pytest.mark.parametrize("block_events", [3, 40, 16_384])
def test_as_served_means_by_the_model_that_had_learned_what_was_full_by_then(
    tmp_path, block_events
):
    """A server has the batches that were complete when the item was shown: no more, no fewer.

    Impression i is shown at second i and settles at i + 60. Batches hold 15, whole requests of 5; a
    batch closes when a 17th example is there: at 76 s, then every 15 s, before what is shown then.
    """
    settings = config(train={"batch_size": 16, "as_served": True})
    learned, before = 0, {}
    for item in items_of(settings, log(300), tmp_path, block_events)[1]:
        if isinstance(item, ScoreItem):
            for seq in range(item.first_seq, item.first_seq + len(item.batch)):
                assert seq not in before
                before[seq] = learned
        else:
            learned += 1

    expected = {s: sum(76 + 15 * k <= s for k in range(30)) for s in range(300)}
    assert expected == before


def test_an_impression_that_came_too_late_is_a_dead_letter(tmp_path):
    """Nobody can know whether it was learned: it is refused, with its place and its reason."""
    messages = log(400)
    messages[SHOWN].insert(380, shown(10, 10))

    ingest, _ = items_of(SETTINGS, messages, tmp_path)

    (letter,) = ingest.take_refused()
    assert ("too_late", SHOWN, 380, 0) == (
        letter.reason,
        letter.partition,
        letter.offset,
        letter.row,
    )
    assert "remember_s" in letter.detail
    assert 1 == ingest.counts().rejected
    assert [] == ingest.take_refused()


def test_what_is_rehearsed_is_learned_again_and_counted_nowhere(tmp_path):
    """Digest, metrics and counts are of fresh examples; the rest follows behind them."""
    settings = config(rehearsal={"batches": 2, "keep": 5})
    _, plain = items_of(SETTINGS, log(200), tmp_path)
    _, again = items_of(settings, log(200), tmp_path)

    assert [x.examples_digest for x in plain] == [x.examples_digest for x in again]
    for a, b in zip(plain, again, strict=True):
        assert a.batch.fresh == b.batch.fresh == len(a.batch)
        np.testing.assert_array_equal(a.batch.label, b.batch.label[: b.batch.fresh])
    assert all(len(x.batch) > x.batch.fresh for x in again[1:])


def test_a_resumed_ingest_goes_on_where_it_was(tmp_path):
    """Stopped after any block, put into new parts, it gives the same items and the same state."""
    settings = config(train={"batch_size": 16, "as_served": True})
    blocks = [*source(settings, log(300), block_events=23)]
    whole = ingest_of(settings, tmp_path)
    part = ingest_of(settings, tmp_path)
    for number, block in enumerate(blocks):
        if number in (0, 3, 11):
            state, part = part.state(), ingest_of(settings, tmp_path)
            part.restore(state)
            assert equal(state, {**part.state(), "order": state["order"]})
        expected, actual = [*whole.feed(block)], [*part.feed(block)]
        assert [type(i) for i in expected] == [type(i) for i in actual]
        for a, b in zip(expected, actual, strict=True):
            assert equal(vars(a.batch), vars(b.batch))

    assert equal(whole.state(), part.state())


def test_a_state_of_other_partitions_is_refused(tmp_path):
    """Clocks and held events are kept by partition: they would be taken for another's."""
    ingest = ingest_of(SETTINGS, tmp_path)
    state = ingest.state()
    state["partitions"].append(str(Partition("purchases", 0)))

    with pytest.raises(OtherPartitions, match="purchases/0"):
        ingest.restore(state)


def test_a_log_that_had_ended_and_grew_waits_for_all_its_partitions_again(tmp_path):
    """One that is read first must not run away with the time: the clicks would find nothing."""
    first, _ = items_of(SETTINGS, log(200), tmp_path)
    grown = {p: log(200)[p] + more for p, more in log(400, 200).items()}
    second = ingest_of(SETTINGS, tmp_path)
    second.restore(first.state())
    items = [i for b in source(SETTINGS, grown, first.position) for i in second.feed(b)]

    assert items
    assert 0 == second.counts().join["orphans"]
    assert 120 == second.counts().join["matched"]


def test_counts_tell_what_became_of_events(tmp_path):
    """They are what a person looks at first when a figure is odd."""
    messages = log(100)
    messages[SHOWN] += [b"{", shown(99, 99)]  # no event, and one that is there already
    messages[CLICKED] += [clicked(97, 118), clicked(5_000, 119)]  # again, and for nothing

    counts = items_of(SETTINGS, messages, tmp_path)[0].counts()

    assert (123, 1, 100) == (counts.events, counts.rejected, counts.impressions)
    assert (1, 1) == (counts.join["duplicates"], counts.join["duplicate_feedback"])
