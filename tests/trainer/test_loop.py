import numpy as np

from tests.trainer.parts import config, equal, ingest_of, log, source, training_of
from trainer.items import Barrier, LearnItem, ScoreItem
from trainer.loop import train

SETTINGS = config(train={"batch_size": 16, "as_served": True})


def items_of(scratch, count=300):
    """Return all items of a log."""
    ingest = ingest_of(SETTINGS, scratch)
    items = [x for block in source(SETTINGS, log(count)) for x in ingest.feed(block)]
    return ingest, [*items, *ingest.finish()]


def ignore(*_):
    """Take anything."""


def test_the_loop_learns_shows_and_tells_how_the_log_ended(tmp_path):
    """One screen of code, and what it does is countable."""
    ingest, items = items_of(tmp_path)
    training = training_of(SETTINGS, tmp_path)
    shown = []

    assert not train(items, training, ignore, lambda t: shown.append(t.batches))
    assert train([ingest.barrier(ended=True)], training, ignore, ignore)

    batches = [i for i in items if isinstance(i, LearnItem)]
    assert [*range(1, len(batches) + 1)] == shown
    assert 300 == training.metrics.examples
    assert batches[-1].examples_digest == training.examples_digest
    assert len(batches) == training.learner.steps
    assert batches[-1].examples["at"].max() == training.at_ms


def test_only_a_barrier_behind_which_something_happened_is_saved(tmp_path):
    """A checkpoint of what is on disk already would push out an older one."""
    ingest = ingest_of(SETTINGS, tmp_path)
    training = training_of(SETTINGS, tmp_path)
    barriers = [ingest.barrier(changed=c) for c in (True, False, True)]
    saved = []

    train(barriers, training, lambda barrier, state, batches: saved.append(barrier), ignore)

    assert [barriers[0], barriers[2]] == saved


def test_served_scores_are_of_the_moment_and_wait_for_their_labels(tmp_path):
    """Scored when shown, measured when settled: between the two lie the batches learned since."""
    training = training_of(SETTINGS, tmp_path)
    said = {}
    for item in items_of(tmp_path)[1]:
        if isinstance(item, ScoreItem):
            p = training.learner.score(item.batch)
            said |= dict(zip(range(item.first_seq, item.first_seq + len(p)), p, strict=True))
        else:
            waiting = training.served.take(item.examples["seq"])["p"]
            np.testing.assert_array_equal([said[s] for s in item.examples["seq"].tolist()], waiting)
        train([item], training, ignore, ignore)

    assert 0 == len(training.served)
    figures = training.metrics.summary({})
    assert 300 == figures["examples_as_served"]
    assert figures["logloss_as_served"] != figures["logloss"]


def test_a_resumed_training_goes_on_where_it_was(tmp_path):
    """Stopped between any two items: the same weights, figures and served scores."""
    items = items_of(tmp_path)[1]
    whole, part = training_of(SETTINGS, tmp_path), training_of(SETTINGS, tmp_path)
    train(items, whole, ignore, ignore)
    for number, item in enumerate(items):
        if number in (0, 2, 5, 9):
            state, part = part.state(), training_of(SETTINGS, tmp_path)
            part.restore(state)
            assert equal(state, part.state())
        assert not isinstance(item, Barrier)
        train([item], part, ignore, ignore)

    assert equal(whole.state(), part.state())
    assert whole.learner.weights_digest() == part.learner.weights_digest()
    assert whole.metrics.summary({}) == part.metrics.summary({})
