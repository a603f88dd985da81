from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.join import EventsOutOfOrder, JoinConfig, Joined, LabelJoin, UnknownLabelAction
from stream.policy import CORRECTION, EARLY_POSITIVE, Emission, Emissions, Wait
from stream.state import flatten, unflatten
from tests.stream.join_reference import (
    OTHER,
    SCHEMA,
    Event,
    Example,
    ReferenceJoin,
    columns,
    cut,
    feedback,
    shown,
    waited,
)

WINDOW, EARLY, REMEMBER = 10, 6, 20
CONFIG = JoinConfig(window_s=0.010, early_s=0.006, remember_s=0.020)
FAKE_NEGATIVE = Emissions(
    arrival=Emission(0), click=Emission(1, CORRECTION), later_click=Emission(1, CORRECTION)
)
REAL_NEGATIVES = Emissions(
    deadline_negative=Emission(0),
    deadline_positive=Emission(1),
    later_click=Emission(1, CORRECTION),
    horizon_negative=Emission(0, CORRECTION),
    horizon_positive=Emission(1, CORRECTION),
)


class Row:
    """A policy that is nothing but its row of the table."""

    def __init__(self, emissions: Emissions) -> None:
        self.emissions = emissions


def join(config: JoinConfig = CONFIG, emissions: Emissions | None = None) -> LabelJoin:
    """Return a join; policy `wait` where nothing else is said."""
    return LabelJoin(config, Row(emissions) if emissions else Wait(), SCHEMA)


class Results:
    """What several calls of a join returned, as if it had been one."""

    def __init__(self) -> None:
        self.accepted: list[int] = []
        self.matched: list[tuple[int, int, int, bool]] = []
        self.refused: list[int] = []
        self.examples: list[Example] = []
        self.seqs: list[int] = []

    def add(self, joined: Joined, first_event: int) -> None:
        """Add what a call returned whose first event was ``first_event`` of all."""
        self.accepted += (joined.accepted + first_event).tolist()
        self.seqs += range(joined.first_seq, joined.first_seq + joined.accepted.size)
        self.refused += (joined.refused + first_event).tolist()
        self.matched += zip(
            (joined.matched_event + first_event).tolist(),
            joined.matched_seq.tolist(),
            joined.matched_action.tolist(),
            joined.matched_is_label.tolist(),
            strict=True,
        )
        s = joined.settled
        self.examples += [
            Example(*row)
            for row in zip(
                s.seq.tolist(),
                s.label.tolist(),
                s.label_at.tolist(),
                s.actions.tolist(),
                s.kind.tolist(),
                (s.before + first_event).tolist(),
                strict=True,
            )
        ]


def run(
    make: Callable[[], LabelJoin],
    events: Sequence[Event],
    cuts: Sequence[int] = (),
    *,
    restart: int = -1,
) -> tuple[LabelJoin, Results]:
    """Feed ``events`` cut at ``cuts``, letting time pass between; drain; restart before a block."""
    using, results, first = make(), Results(), 0
    for i, block in enumerate(cut(columns(events), cuts)):
        if i == restart:
            state = unflatten(*flatten(using.state()))
            using.drain()  # a state is a copy: what goes on here cannot reach it
            using = make()
            using.restore(state)
        results.add(using.feed(block), first)
        first += len(block)
        if cuts and first < len(events):
            results.add(using.advance(events[first].ts), first)
    results.add(using.drain(), first)
    return using, results


def later(steps: Sequence[tuple[int, int, int, int]]) -> list[Event]:
    """Return events of (ms after the one before, kind, id, action), in canonical order."""
    at = accumulate((step[0] for step in steps), initial=0)
    events = [
        Event(kind, t, name, action if kind else OTHER)
        for t, (_, kind, name, action) in zip([*at][1:], steps, strict=True)
    ]
    return sorted(events, key=lambda e: (e.ts, e.kind))


steps = st.tuples(
    st.sampled_from([0, 0, 1, 1, 2, 5, 12, 25]),
    st.sampled_from([0, 1]),
    st.integers(1, 6),
    st.sampled_from([0, 0, 1, OTHER]),
)
logs = st.lists(steps, max_size=60).map(later)
policies = st.sampled_from(
    [Wait().emissions, Wait("click").emissions, FAKE_NEGATIVE, REAL_NEGATIVES]
)
bounds = st.fixed_dictionaries(
    {
        "max_pending": st.sampled_from([1, 2, 3, 1_000]),
        "max_remembered": st.sampled_from([0, 1, 3, 1_000]),
        "max_early": st.sampled_from([1, 2, 1_000]),
    }
)
examples = settings(deadline=None, max_examples=300)  # the first example may compile


@examples
@given(logs)
def test_an_impression_becomes_one_example_with_the_label_of_its_window(log):
    """The definition of the label, in ten lines: a click within the window, and nothing else."""
    generous = JoinConfig(window_s=0.010, early_s=0.006, remember_s=1_000)
    _, results = run(lambda: join(generous), log)

    assert waited(log, WINDOW, EARLY) == results.examples


@examples
@given(logs, policies, bounds, st.data())
def test_it_does_what_the_reference_does_with_every_bound_and_policy(log, emissions, bounds, data):
    """Duplicates, late, early and orphan feedback, forced settling: all that happens, in order."""
    reference = ReferenceJoin(WINDOW, EARLY, REMEMBER, emissions=emissions, **bounds)
    config = JoinConfig(window_s=0.010, early_s=0.006, remember_s=0.020, **bounds)
    cuts = data.draw(st.lists(st.integers(0, 60), max_size=6))
    restart = data.draw(st.integers(-1, len(cuts)))
    reference.run(log)
    using, results = run(lambda: join(config, emissions), log, cuts, restart=restart)

    assert reference.examples == results.examples
    assert reference.accepted == results.accepted
    assert [*range(len(reference.accepted))] == results.seqs
    assert reference.matched == results.matched
    assert reference.refused == results.refused
    assert reference.counts == {k: v for k, v in using.counts().items() if v}


@examples
@given(logs, st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_rows_are_kept_until_their_example_has_left(log, cuts):
    """What `first_pending` lets go is gone: no later result may name it."""
    for emissions in (Wait().emissions, Wait("click").emissions, REAL_NEGATIVES):
        using, released = join(emissions=emissions), 0
        for block in cut(columns(log), cuts):
            joined = using.feed(block)
            named = [*joined.settled.seq.tolist(), *joined.matched_seq.tolist()]

            assert released <= min(named, default=released)
            released = using.first_pending
        using.drain()
        assert using.next_seq == using.first_pending


@given(logs)
@settings(deadline=None)
def test_every_impression_has_one_fate(log):
    """Nothing vanishes: accepted, duplicate or refused; matched, late, orphaned or a duplicate."""
    using, results = run(join, log)
    c = using.counts()

    shows = sum(event.kind == 0 for event in log)
    assert shows == c["impressions"] + c["duplicates"] + c["too_late"]
    assert c["impressions"] == len(results.examples)
    assert len(log) - shows == (
        c["matched"] + c["late"] + c["orphans"] + c["duplicate_feedback"] + c["other_actions"]
    )
    assert (0, 0) == (c["pending"], c["waiting"])


def settled(joined: Joined) -> list[tuple[int, int]]:
    """Return (seq, label) of what settled."""
    return [*zip(joined.settled.seq.tolist(), joined.settled.label.tolist(), strict=True)]


def test_a_click_after_the_window_does_not_rewrite_history():
    """The example was already learned as a negative: a late click is counted, not corrected."""
    using = join()
    first = using.feed(columns([shown(1, 0), shown(2, WINDOW)]))  # 1 settles before 2 is shown

    assert [(0, 0)] == settled(first)
    assert [1] == first.settled.before.tolist()
    assert [] == settled(using.feed(columns([feedback(1, WINDOW + 1)])))
    assert 1 == using.counts()["late"]


def test_a_positive_settles_at_its_click_where_configured():
    """Fresher positives; at the deadline nothing more goes out, and only one example was."""
    using = LabelJoin(CONFIG, Wait("click"), SCHEMA)
    first = using.feed(columns([shown(1, 0), feedback(1, 3), feedback(1, 4, action=1)]))

    assert [(0, 1)] == settled(first)
    assert [2] == first.settled.before.tolist()
    assert [EARLY_POSITIVE] == first.settled.kind.tolist()
    assert [0, 1] == first.matched_action.tolist()
    assert [] == settled(using.advance(WINDOW))


def test_early_feedback_meets_its_impression_when_that_comes():
    """The topics may lag each other; the label becomes known with the impression."""
    using = join()
    using.feed(columns([feedback(1, 0)]))
    joined = using.feed(columns([shown(2, 1), shown(1, 5)]))

    assert [1] == joined.matched_event.tolist()
    assert [1] == joined.matched_seq.tolist()
    drained = using.drain().settled
    assert ([0, 1], [-1, 5]) == (drained.label.tolist(), drained.label_at.tolist())


def test_early_feedback_that_comes_twice_waits_from_the_second_time_on():
    """It is within `early_s` of its impression: that there was an older one must not cost it."""
    using = join()
    using.feed(columns([feedback(1, 0), feedback(1, EARLY - 1), shown(1, EARLY)]))

    assert [1] == using.drain().settled.label.tolist()
    assert (1, 0) == (using.counts()["duplicate_feedback"], using.counts()["orphans"])


def test_early_feedback_survives_the_drop_of_its_elder():
    """With no room for two actions of one impression, the newer one stays, and is found."""
    using = join(JoinConfig(max_early=1))
    using.feed(columns([feedback(1, 0), feedback(1, 0, action=1), shown(1, 1)]))

    assert [2] == using.drain().settled.actions.tolist()
    assert 1 == using.counts()["orphans"]


def test_early_feedback_that_was_replaced_stays_so_across_a_restart():
    """The table is built anew from what waits; what no longer waits must not hide the rest."""
    first, second = join(), join()
    first.feed(columns([feedback(2, 0), feedback(1, 0), feedback(1, 1)]))
    second.restore(first.state())
    second.feed(columns([shown(1, 2)]))

    assert [1] == second.drain().settled.label.tolist()


def test_an_impression_that_may_have_been_learned_and_forgotten_is_refused():
    """To learn it again would count it twice; to drop it silently would lose it."""
    using = join()
    using.feed(columns([shown(1, 0), shown(2, WINDOW + REMEMBER)]))
    again = columns([shown(1, 0), shown(3, 2)])
    again.at[:] = WINDOW + REMEMBER + 1
    joined = using.feed(again)

    assert ([1], [0]) == (joined.accepted.tolist(), joined.refused.tolist())
    assert 1 == using.counts()["too_late"]


def test_what_is_too_late_does_not_depend_on_what_was_there():
    """A join that begins in the middle of a log must refuse what the one before it refused."""
    using = join()
    late = columns([shown(1, 0), shown(2, 1), shown(3, 2)])
    late.at[:] = WINDOW + REMEMBER + 1

    assert [0, 1] == using.feed(late).refused.tolist()


def test_the_oldest_settle_early_when_too_many_wait():
    """Memory is bounded: past the bound an example settles as it stands, and is counted."""
    bounded = JoinConfig(window_s=0.010, early_s=0.006, remember_s=0.020, max_pending=2)
    using = join(bounded)
    joined = using.feed(columns([shown(1, 0), feedback(1, 1), shown(2, 1), shown(3, 1)]))

    assert [(0, 1)] == settled(joined)
    assert [3] == joined.settled.before.tolist()
    assert (1, 2) == (using.counts()["forced"], using.counts()["pending"])


def test_a_drained_join_goes_on_where_it_was():
    """A log that ended may be continued: what it showed is still known."""
    using = join()
    using.feed(columns([shown(1, 0)]))
    using.drain()
    joined = using.feed(columns([shown(1, 1), shown(2, 1), feedback(1, 2)]))

    assert ([1], 1) == (joined.accepted.tolist(), joined.first_seq)
    assert (1, 1) == (using.counts()["duplicates"], using.counts()["late"])


def test_tables_grow_with_what_they_hold_and_not_beyond_their_bound():
    """Ten thousand impressions of a second live in small tables again and again."""
    config = JoinConfig(
        window_s=0.010, early_s=0.006, remember_s=0.020, max_pending=300, max_remembered=700
    )
    using = join(config)
    for start in range(0, 10_000, 500):
        using.feed(columns([shown(start + i + 1, start // 50 + i // 50) for i in range(500)]))

    assert 10_000 == using.counts()["impressions"]
    assert 1024 == using._shown.size
    assert 2048 == len(using._by_id)


def test_many_ids_are_all_found():
    """Chains of collisions survive growth and removal: every click finds its impression."""
    rng = np.random.default_rng(7)
    config = JoinConfig(window_s=1.0, remember_s=0.5)
    using = join(config)
    n = 20_000
    events = columns([])
    blank = type(events).empty(SCHEMA, 2 * n)
    ids = rng.integers(1, 1 << 63, n).astype(np.uint64) << np.uint64(20)  # low bits all equal
    blank.impression[:n], blank.impression[n:] = ids, ids[::-1]
    blank.kind[n:], blank.action[n:] = 1, 0
    blank.ts[:] = blank.at[:] = np.arange(2 * n) // 50
    joined = using.feed(blank)

    assert n == using.counts()["matched"]
    assert [*range(n - 1, -1, -1)] == joined.matched_seq.tolist()
    using.advance(10_000)
    assert 0 == int(np.count_nonzero(using._by_id[:, 1] >= 0))


def test_events_out_of_order_are_refused():
    """The join's rings rely on order: a mistake of ours must not become wrong labels."""
    using = join()
    using.feed(columns([shown(1, 5)]))

    with pytest.raises(EventsOutOfOrder, match="Event 0 of the block lies at 4, after one at 5"):
        using.feed(columns([shown(2, 4)]))
    with pytest.raises(EventsOutOfOrder, match="Event 1 of the block lies at 6, after one at 7"):
        using.feed(columns([shown(2, 7), shown(3, 6)]))


def test_an_unknown_label_action_is_refused():
    """All examples would be negatives, and nothing would say why."""
    with pytest.raises(UnknownLabelAction, match="'like' is none of the schema's actions"):
        LabelJoin(JoinConfig(label_actions=("like",)), Wait(), SCHEMA)
