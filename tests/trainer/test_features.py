from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import EventColumns
from stream.ids import hash_ids, hash_integers, salted
from stream.pending import PendingRows
from stream.state import flatten, unflatten
from tests.trainer.feature_reference import HOUR, START, Log, expected, random_log
from trainer.features import FeatureConfig, Features
from trainer.schema import FeatureSchema

RICH = FeatureSchema.from_table(
    {
        "ids": ["item", "user", "scene", "device"],
        "crosses": [["scene", "device"], ["last_click", "item"]],
        "numbers": ["price"],
        "lists": {"tags": 3, "seen": {"length": 2, "like": "item"}},
        "history": 3,
        "oracle": "true_ctr",
        "statistics": [
            {"key": ["item"], "half_lives_h": [0.5, 12]},
            {"key": ["user", "item"], "half_lives_h": [3], "age": False},
            {"key": ["last_click", "item"]},
            {"key": ["device", "scene"], "half_lives_h": []},
        ],
    }
)
PLAIN = FeatureSchema(history=0, hour_of_day=False, prior_ctr=0.1, prior_shown=4.0)
BARE = FeatureSchema(ids=("item",), history=0, statistics=())
HELD = FeatureSchema.from_table(  # beside one that is not; by the second, the hour and the day
    {
        "statistics": [
            {"key": ["item"], "half_lives_h": [0.01, 12], "held_s": 3.5},
            {"key": ["user"], "half_lives_h": [0.5], "held_s": 3600},
            {"key": ["user", "item"], "held_s": 86_400, "age": False},
            {"key": ["item", "scene"]},
        ],
    }
)
PLACED = FeatureSchema.from_table(  # counted in some scenes, and read in all of them
    {
        "statistics": [
            {"key": ["item"], "half_lives_h": [0.5, 12], "scenes": ["1"]},
            {"key": ["item"], "half_lives_h": [0.5, 12], "scenes": ["2", "0"], "held_s": 60},
            {"key": ["user", "item"], "scenes": ["none such"]},
            {"key": ["item"], "half_lives_h": [0.5, 12]},
        ],
    }
)
SCHEMAS = [RICH, PLAIN, BARE, HELD, PLACED]
seeds = st.integers(0, 2**32)


def observe(features, log, cuts=()):
    """Return the rows of a log that came in blocks."""
    pending = PendingRows(features.columns(), chunk_rows=16)
    for low, high in pairwise([0, *sorted(cuts), len(log.events)]):
        events, joined = log.cut(low, high)
        pending.append(features.observe(events, joined, pending))
    return pending.take(np.arange(pending.next))


def assert_same(a, b):
    """Assert that two dicts of arrays are equal to the bit."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@settings(deadline=None, max_examples=60)
@given(seeds, st.sampled_from(SCHEMAS))
def test_rows_are_those_of_the_plain_definition(seed, schema):
    """Statistics, history, activity and age are what docs/architecture.md says, as of `at`."""
    log = random_log(seed, schema)

    rows = observe(Features(schema), log)

    want = expected(log, schema)
    n = schema.statistic_columns
    assert rows["numbers"][:, n].shape == (len(want), n.stop - n.start)
    np.testing.assert_allclose(
        rows["numbers"][:, n], np.array([w["numbers"] for w in want]), atol=2e-5, rtol=1e-5
    )
    width = schema.history
    history = [w["history"] + [0] * (width - len(w["history"])) for w in want]
    assert history == rows["sequences"][:, :width].tolist()
    assert [w["activity"] for w in want] == rows["user_activity"].tolist()
    np.testing.assert_allclose(
        rows["item_age_h"], [w["item_age_h"] for w in want], atol=1e-4, rtol=1e-5
    )


@settings(deadline=None, max_examples=60)
@given(seeds, st.sampled_from(SCHEMAS), st.sets(st.integers(0, 60), max_size=8))
def test_cuts_change_no_bit(seed, schema, cuts):
    """Blocks come as the log was polled, even in the middle of a moment; rows must not show it."""
    log = random_log(seed, schema)
    small = FeatureConfig(max_keys=3, max_users=2)  # so that evictions happen as well

    assert_same(
        observe(Features(schema, small), log),
        observe(Features(schema, small), log, cuts),
    )


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(SCHEMAS), st.integers(0, 60))
def test_a_restart_changes_no_bit(seed, schema, cut):
    """What a checkpoint holds is all there is, also of a moment that has not ended."""
    log = random_log(seed, schema)
    small = FeatureConfig(max_keys=4, max_users=2)
    first, rest = log.cut(0, cut), log.cut(cut, len(log.events))
    before = Features(schema, small)
    pending = PendingRows(before.columns())
    pending.append(before.observe(*first, pending))
    resumed = Features(schema, small)
    resumed.restore(unflatten(*flatten(before.state())))

    assert_same(before.observe(*rest, pending), resumed.observe(*rest, pending))
    left, right = flatten(before.state()), flatten(resumed.state())
    assert left[1] == right[1]
    assert_same(left[0], right[0])


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(0, 60))
def test_a_hold_that_is_lifted_reads_what_it_would_be_without(seed, cut):
    """A vector is made as of its own moment, wherever that lies between two multiples."""
    log = random_log(seed, HELD)
    free = replace(HELD, statistics=tuple(replace(s, held_s=None) for s in HELD.statistics))
    rows = []
    for schema in (HELD, free):
        features = Features(schema)
        pending = PendingRows(features.columns())
        pending.append(features.observe(*log.cut(0, cut), pending))
        if schema is HELD:
            lifted = Features(schema)
            lifted.restore(features.state())
            lifted.lift()
            features = lifted
        rows.append(features.observe(*log.cut(cut, len(log.events)), pending)["numbers"])

    np.testing.assert_allclose(*rows, rtol=1e-5, atol=1e-6)


def two_moments(schema, later_ms, clicked=True):
    """Two impressions of one item to one user in one request, its click, and one shown later."""
    events = EventColumns.empty(schema.event_schema(), 4)
    events.kind[2] = 1
    events.at[:] = START + np.array([0, 0, later_ms, later_ms])
    events.ts[:] = events.at
    events.user[:], events.item[:] = hash_ids(["u"])[0], hash_ids(["i"])[0]
    events.item[2] = 0
    return Log(events, [0, 1, 3], [(2, 0, clicked)])


def test_a_row_never_sees_its_own_request():
    """Scored together means known together: a slate must not tell how long it is."""
    rows = observe(Features(PLAIN), two_moments(PLAIN, HOUR))

    assert rows["user_activity"].tolist() == [0, 0, 2]
    np.testing.assert_array_equal(rows["numbers"][0], rows["numbers"][1])
    assert not rows["numbers"][:2].any()


def test_a_click_of_the_same_moment_is_not_seen():
    """At equal times nobody can say what came first: reads go first."""
    shown_only = observe(Features(RICH), two_moments(RICH, HOUR, clicked=False))
    clicked = observe(Features(RICH), two_moments(RICH, HOUR))

    assert_same(shown_only, clicked)


def test_ids_share_embeddings_only_where_they_are_meant_to():
    """An item is one id in the history, in a list like "item" and as shown; the rest is salted."""
    events = EventColumns.empty(RICH.event_schema(), 3)
    item = hash_ids(["i"])[0]
    events.kind[1] = 1
    events.at[:] = START + np.arange(3)
    events.user[:], events.item[:], events.scene[:] = item, item, item
    events.ids[:], events.lists[:] = item, item
    rows = observe(Features(RICH), Log(events, [0, 2], [(1, 0, True)]))
    ids, sequences = rows["ids"][1], rows["sequences"][1]

    assert len(set(ids.tolist())) == 6  # item, user, scene, device and two crosses
    assert ids[0] == sequences[0] == sequences[6] == salted(np.array([item]), "item")[0]
    assert sequences[1] == 0 and sequences[3] not in ids  # history is padded; tags are their own
    assert rows["ids"][0, 5] == 0 and ids[5] != 0  # no last click yet: no cross of it


def test_numbers_of_the_event_come_first_and_the_oracle_apart():
    """The true CTR is for reports: a model that reads it proves nothing."""
    events = EventColumns.empty(RICH.event_schema(), 2)
    events.at[:] = START + np.arange(2)
    events.ts[:] = 1_700_006_400_000 + 6 * HOUR  # a Wednesday (2023-11-15), 06:00 UTC
    events.numbers[:] = [[7, 0.5], [np.nan, 0.25]]
    rows = observe(Features(RICH), Log(events, [0, 1], []))

    np.testing.assert_allclose(rows["numbers"][:, :4], [[7, 1, 0, 0], [np.nan, 1, 0, 0]], atol=1e-6)
    assert rows["oracle"].tolist() == [0.5, 0.25]
    assert RICH.row_numbers[:4] == ("price", "hour_sin", "hour_cos", "weekend")


def test_rows_have_the_columns_they_promise():
    """Waiting rows are laid out before the first event comes."""
    features = Features(RICH)
    for log in (random_log(1, RICH), random_log(1, RICH, n=0)):
        rows = observe(features, log)
        promised = features.columns()

        assert promised.keys() == rows.keys()
        for name, (dtype, width) in promised.items():
            assert np.dtype(dtype) == rows[name].dtype, name
            assert (() if width is None else (width,)) == rows[name].shape[1:], name


def test_memory_is_bounded():
    """New users and items for ever must not fill the machine."""
    features = Features(PLAIN, FeatureConfig(max_keys=50, max_users=20))
    events = EventColumns.empty(PLAIN.event_schema(), 2000)
    events.at[:] = START + np.arange(2000)
    for name in ("user", "item", "scene"):
        getattr(events, name)[:] = hash_ids([f"{name}{i}" for i in range(2000)])
    observe(features, Log(events, list(range(2000)), []), cuts=range(0, 2000, 100))
    arrays, _ = flatten(features.state())

    assert all(a.shape[0] <= 50 for a in arrays.values())
    assert sum(len(a) for name, a in arrays.items() if name.startswith("items/table")) <= 2 * 50


def test_a_state_of_other_features_is_refused():
    """Columns that mean something else would be read without a word."""
    with pytest.raises(ValueError, match="resume with the"):
        Features(PLAIN).restore(Features(RICH).state())


def imagined(schema, at_ms, n, seed=0):
    """Return ``n`` impressions of one moment, of users and items as random logs have them."""
    rng = np.random.default_rng(seed)
    events = EventColumns.empty(schema.event_schema(), n)
    events.at[:] = events.ts[:] = at_ms
    for name, most in (("user", 4), ("item", 5), ("scene", 3)):
        getattr(events, name)[:] = hash_integers(rng.integers(0, most, n))
    events.ids[:] = rng.integers(0, 4, events.ids.shape)
    return events


def split_at(log, at_ms):
    """Return how many events of a log lie before a moment."""
    return int(np.searchsorted(log.events.at, at_ms))


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(SCHEMAS), st.integers(0, 60))
def test_a_peek_shows_what_an_impression_would_get(seed, schema, cut):
    """An extractor reads the statistics of everybody as a trainer would read them at that moment.

    ``numbers`` of the plain impressions, observed in place of peeked at, are the reference.
    """
    log = random_log(seed, schema)
    moment = int(log.events.at[cut - 1]) + 1 if cut else START
    first = log.cut(0, cut)
    events = imagined(schema, moment, 7)
    shown = Log(events, list(range(7)), [])
    peeked, observed = Features(schema), Features(schema)
    pending = PendingRows(observed.columns())
    peeked.observe(*first, pending)
    pending.append(observed.observe(*first, pending))

    assert_same(observed.observe(*shown.cut(0, 7), pending), peeked.peek(events))


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from(SCHEMAS), st.integers(0, 60), st.integers(1, 3))
def test_a_peek_changes_no_later_row(seed, schema, cut, times):
    """Whoever looks must leave no trace: neither counts nor the order of evictions."""
    log = random_log(seed, schema)
    cut = split_at(log, int(log.events.at[min(cut, 59)]))  # to the end of a moment
    moment = int(log.events.at[cut])  # the first that comes after
    small = FeatureConfig(max_keys=3, max_users=2)
    expected_rows = observe(Features(schema, small), log)
    features = Features(schema, small)
    pending = PendingRows(features.columns())
    pending.append(features.observe(*log.cut(0, cut), pending))

    for seed_of_peek in range(times):
        features.peek(imagined(schema, moment, 9, seed_of_peek))

    pending.append(features.observe(*log.cut(cut, len(log.events)), pending))
    assert_same(expected_rows, pending.take(np.arange(pending.next)))


def test_a_peek_at_what_has_been_is_refused():
    """Its rows would hold what happened after them."""
    features = Features(PLAIN)
    assert features.last_ms is None
    observe(features, two_moments(PLAIN, HOUR))

    assert START + HOUR == features.last_ms
    with pytest.raises(ValueError, match="Peek at a later moment"):
        features.peek(imagined(PLAIN, START + HOUR, 1))
    two = imagined(PLAIN, START + 2 * HOUR, 2)
    two.at[1] += 1
    with pytest.raises(ValueError, match="at one moment"):
        features.peek(two)
