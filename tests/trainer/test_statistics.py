import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.generations import Generations, claim, find
from trainer.statistics import ClickRate, Decay, KeyStatistics, log_in_place
from trainer.timeline import Timeline

HOUR = 3_600_000
START = 1_700_000_000_000


def count(statistics, lives, show_at, show_key, click=(), ctr=0.1, carried=0):
    """Return the columns of the impressions; ``click`` is of (at, shown at, key)."""
    clicks = np.array(click, np.int64).reshape(-1, 3)
    timeline = Timeline.of(
        np.array(show_at, np.int64), clicks[:, 0].copy(), clicks[:, 1].copy(), carried
    )
    out = np.empty((len(show_at) - carried, 3 * len(lives) + 1), np.float32)
    statistics.observe(
        timeline,
        Decay.of(timeline, lives),
        np.array(show_key, np.uint64),
        clicks[:, 2].astype(np.uint64),
        prior_shown=10.0,
        prior_ctr=np.full(len(out), ctr),
        out=out,
        column=0,
    )
    log_in_place(out, 0, out.shape[1])
    return out


@pytest.mark.parametrize("life", [1 / 3600, 0.01, 3.0, 1e4])
def test_decay_lasts_through_years_and_every_half_life(life):
    """Sums of growing weights must neither overflow nor lose what is recent."""
    statistics = KeyStatistics((life,), age=True, max_keys=10)
    rng = np.random.default_rng(0)
    steps = np.concatenate([rng.exponential(life * HOUR * 0.3, 3000), [life * HOUR * 3000, 1, 1]])
    at = START + np.cumsum(np.maximum(steps, 1)).astype(np.int64)
    shown, want, before = 0.0, [], at[0]
    for now in at:
        shown *= 2 ** -((now - before) / HOUR / life)
        want.append(np.log1p(shown))
        shown, before = shown + 1, now

    got = []
    for i in range(0, at.size, 100):  # in blocks, the last of each of which has yet to count
        carried = int(i > 0)
        block = at[i - carried : i + 100]
        got.append(count(statistics, (life,), block, np.full(block.size, 7), carried=carried))

    np.testing.assert_allclose(np.concatenate(got)[:, 0], want, atol=1e-5)


def test_a_click_counts_from_the_time_of_its_impression():
    """So the CTR is one of impressions, and a click that took hours does not exceed its showing."""
    statistics = KeyStatistics((1.0,), age=True, max_keys=10)
    show = [START, START + 4 * HOUR]
    row = count(statistics, (1.0,), show, [7, 7], [(START + 3 * HOUR, START, 7)])[1]

    left = 2.0**-4
    odds = (left + 1) / 9 / (1 / 9)
    np.testing.assert_allclose(
        [np.log1p(left), np.log1p(left), np.log(odds), np.log(5)], row, atol=1e-6
    )


def test_a_held_statistic_lasts_through_years_and_every_half_life():
    """Its counts are scaled with the others, also those that it was held at."""
    life, hold = 0.5, 4 * HOUR  # 512 half-lives pass 34 times
    held = KeyStatistics((life,), age=True, max_keys=10, held_s=hold / 1000)
    rng = np.random.default_rng(0)
    at = START + np.cumsum(rng.exponential(HOUR, 9000)).astype(np.int64)
    want = []
    for i, now in enumerate(at):
        as_of = now // hold * hold
        past = at[max(0, i - 60) : i]
        past = past[past < as_of]
        shown = (2.0 ** -((as_of - past) / HOUR / life)).sum()
        want.append([np.log1p(shown), np.log1p((as_of - at[0]) / HOUR) if at[0] < as_of else 0.0])

    got = []
    for i in range(0, at.size, 100):
        carried = int(i > 0)
        block = at[i - carried : i + 100]
        got.append(count(held, (life,), block, np.full(block.size, 7), carried=carried))

    np.testing.assert_allclose(np.concatenate(got)[:, [0, 3]], want, atol=1e-5)


@pytest.mark.parametrize("interval", range(13))
def test_what_is_held_longest_stays_as_it_was(interval):
    """256 half-lives on, and over the scaling of all counts: to the last, what it was."""
    life, hold = 0.1, 256 * HOUR // 10
    begins = (START // hold + 1 + interval) * hold
    held = KeyStatistics((life,), age=True, max_keys=10, held_s=hold / 1000)
    after = [begins + hold * share // 1000 for share in (0, 1, 100, 300, 500, 700, 900, 999)]
    at = [begins - 5_000, begins - 4_000, begins - 1_000, *after]
    rows = count(held, (life,), at, np.full(len(at), 7))[3:, :3]

    assert abs(rows[0, 0] - np.log1p(3)) < 0.05
    np.testing.assert_allclose(rows, np.repeat(rows[:1], len(rows), axis=0), atol=1e-5)


def test_an_absent_key_is_neither_read_nor_counted():
    """Users without a last click are not one big user."""
    statistics = KeyStatistics((1.0,), age=True, max_keys=10)
    rows = count(
        statistics, (1.0,), [START, START + 1, START + 2], [0, 0, 0], [(START + 1, START, 0)]
    )

    assert not rows.any()
    assert len(statistics) == 0


def test_a_key_dropped_before_its_click_stays_dropped():
    """A click alone would be a CTR of one."""
    statistics = KeyStatistics((1.0,), age=True, max_keys=1)
    at = START + np.arange(4)
    rows = count(statistics, (1.0,), at, [5, 6, 7, 5], [(START + 3, START, 5)])
    after = count(statistics, (1.0,), [START + 3, START + 4], [5, 5], carried=1)

    assert not rows[3].any()
    np.testing.assert_allclose(after[0, :2], [np.log(2), 0], atol=1e-5)


def test_the_click_rate_starts_as_a_guess_and_follows_the_stream():
    """Features of unknown keys are relative to it: no setting to get wrong."""
    rate = ClickRate()
    at = START + np.arange(5000, dtype=np.int64)
    clicks = at[::5]
    got = rate.observe(Timeline.of(at, clicks + 1, clicks, 0))

    np.testing.assert_allclose(got[0], 0.05, rtol=1e-5)
    np.testing.assert_allclose(got[-1], (1000 + 5) / (5000 + 100), rtol=2e-3)


@settings(deadline=None)
@given(st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=1, max_size=70))
def test_logarithms_are_those_of_the_textbook(values):
    """Within a millionth; that of one is zero exactly: "nothing known" must be zero."""
    numbers = np.array([values], np.float32)
    log_in_place(numbers, 0, len(values))
    one = np.ones((1, 1), np.float32)
    log_in_place(one, 0, 1)

    np.testing.assert_allclose(
        numbers[0], np.log(np.float64(np.float32(values))), atol=1e-6, rtol=2e-7
    )
    assert one[0, 0] == 0.0


class TwoDicts:
    """`Generations` in plain Python: key → count."""

    def __init__(self, limit):
        self.limit, self.young, self.old = limit, {}, {}

    def add(self, key):
        """Count ``key``."""
        if key not in self.young:
            value = self.old.get(key, 0)
            if len(self.young) == self.limit:
                self.old, self.young = self.young, {}
            self.young[key] = value
        self.young[key] += 1


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 12), max_size=80), st.integers(0, 80))
def test_two_generations_keep_what_was_used_lately(limit, keys, cut):
    """At most twice the bound, the same after a restart, and exactly what two dicts would keep."""
    table, reference = Generations(limit=limit, width=2), TwoDicts(limit)
    for i, key in enumerate(keys):
        if i == cut:
            state = table.state()
            table = Generations(limit=limit, width=2)
            table.restore(state)
        table.reserve(1)
        row = claim(table.index, table.rows, table.sizes, np.uint64(key << 40 | 7))
        table.rows[table.sizes[0], row, 1] += np.uint64(1)
        reference.add(key)

        assert len(table) <= 2 * limit
        young = int(table.sizes[0])
        for generation, kept in ((young, reference.young), (1 - young, reference.old)):
            for k in range(1, 13):
                at = find(table.index, table.rows, generation, np.uint64(k << 40 | 7))
                assert kept.get(k) == (int(table.rows[generation, at, 1]) if at >= 0 else None)


def test_tables_grow_to_their_bound_only():
    """Memory starts small and ends where the configuration says."""
    table = Generations(limit=5000, width=2)
    sizes = [table.rows.nbytes]
    for i in range(20):
        table.reserve(1000)
        for key in range(1000):
            claim(
                table.index,
                table.rows,
                table.sizes,
                np.uint64((i * 1000 + key + 1) * 0x9E3779B97F4A7C15 % 2**64),
            )
        sizes.append(table.rows.nbytes)

    assert sizes[0] < sizes[-1] == 2 * 5000 * 2 * 8
    assert len(table) <= 10_000
