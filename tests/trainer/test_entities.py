import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.parts import equal
from trainer.entities import Entities, Seen, seen_entities

events = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40
)


def observed(seen, shown, cuts=()):
    """Show entities to ``seen``, the n-th at n seconds, in blocks."""
    ids, first, second = (np.array(column, np.uint64) for column in zip(*shown, strict=True))
    at = 1000 * np.arange(ids.size, dtype=np.int64)
    fields = np.stack([first, second], 1)
    for block in np.split(np.arange(ids.size), sorted(cuts)):
        seen.observe(ids[block], at[block], fields[block])
    return seen


@given(events, st.sets(st.integers(0, 40), max_size=4))
def test_everybody_is_counted_with_the_last_moment_and_fields(shown, cuts):
    """An extractor takes the vector of a category from here, and leaves out who is long gone."""
    expected = {}
    for n, (entity, first, second) in enumerate(shown):
        if entity:
            seen, _, *old = expected.get(entity, (0, 0, 0, 0))
            expected[entity] = (seen + 1, 1000 * n, second or old[0], first or old[1])

    found = seen_entities(observed(Seen((1, 0), most=100), shown, cuts).state())

    rows = zip(found.seen, found.last_ms, *found.fields.T, strict=True)
    actual = dict(zip(found.ids.tolist(), (tuple(map(int, row)) for row in rows), strict=True))
    assert sorted(expected) == found.ids.tolist()
    assert expected == actual


@given(events)
def test_who_was_seen_lately_stays_and_memory_is_bounded(shown):
    """Two generations of two: the last two entities are always there, each of them once."""
    found = seen_entities(observed(Seen((), most=2), shown, range(1, 40)).state())
    last = list(dict.fromkeys(entity for entity, *_ in reversed(shown) if entity))

    assert set(last[:2]) <= set(found.ids.tolist()) <= set(last)
    assert len(found) == len(set(found.ids.tolist())) <= 4
    for entity, last_ms in zip(found.ids.tolist(), found.last_ms.tolist(), strict=True):
        assert max(1000 * n for n, (i, *_) in enumerate(shown) if i == entity) == last_ms


@given(events, events)
def test_a_restart_changes_nothing(before, after):
    """A checkpoint holds both sides."""

    def entities():
        return Entities(item_columns=(0,), user_columns=(), max_items=3, max_users=3)

    def observe(into, shown):
        ids, other, _ = (np.array(column, np.uint64) for column in zip(*shown, strict=True))
        into.observe(ids, other, np.arange(ids.size), other[:, None])

    one, resumed = entities(), entities()
    observe(one, before)
    resumed.restore(one.state())
    for each in (one, resumed):
        observe(each, after)

    assert equal(one.state(), resumed.state())
