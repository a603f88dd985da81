import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.state import flatten, unflatten
from trainer.idmap import IdMap, IdMapConfig

NO_BOUND = 1 << 20


class Reference:
    """The same map as plain dicts; none of its bounds on candidates."""

    def __init__(self, config):
        self.config = config
        self.tick_ms = None
        if config.expire_after_s is not None:
            self.tick_ms = -int(-config.expire_after_s * 1000 // 64)  # rounded up
        self.row, self.used, self.seen = {}, {}, {}  # used: id → tick, in order of use
        self.spare, self.next, self.now, self.refused = [], 1, 0, 0

    def admit(self, ids, at_ms):
        """Return rows, fresh (row, id) and evicted (row, id)."""
        evicted = []
        if self.tick_ms:
            self.now = max(self.now, at_ms // self.tick_ms)
            while self.used and self.now - next(iter(self.used.values())) > 64:
                gone = next(iter(self.used))
                del self.used[gone]
                self.spare.append(self.row.pop(gone))
                evicted.append((self.spare[-1], gone))
        rows, fresh = [], []
        for i in ids:
            if i and i not in self.row:
                self.seen[i] = self.seen.get(i, 0) + 1
                if self.seen[i] >= self.config.admit_after:
                    if self.spare:
                        self.row[i] = self.spare.pop()
                    elif self.next < self.config.max_rows:
                        self.row[i] = self.next
                        self.next += 1
                    else:
                        self.refused += 1
                if i in self.row:
                    self.seen[i] = 0
                    fresh.append((self.row[i], i))
            if i in self.row and self.used.get(i) != self.now:
                self.used.pop(i, None)
                self.used[i] = self.now
            rows.append(self.row.get(i, 0))
        return rows, fresh, evicted


configs = st.builds(
    IdMapConfig,
    max_rows=st.integers(2, 12),
    admit_after=st.integers(1, 3),
    expire_after_s=st.sampled_from([None, 0.064, 6.4]),
    max_candidates=st.just(100),
)
batches = st.lists(
    st.tuples(st.lists(st.integers(0, 15), max_size=12), st.integers(0, 3000)), max_size=20
)


def admit(ids, batch, at_ms):
    """Return what `Reference.admit` does."""
    got = ids.admit(np.array(batch, np.uint64), at_ms)
    return (
        got.rows.tolist(),
        list(zip(got.fresh_rows.tolist(), got.fresh_ids.tolist(), strict=True)),
        list(zip(got.evicted_rows.tolist(), got.evicted_ids.tolist(), strict=True)),
    )


@settings(deadline=None, max_examples=200)
@given(configs, batches)
def test_rows_are_those_of_a_plain_dict(config, work):
    """Admission, expiry, reuse and refusal, by the definition."""
    ids, reference = IdMap(config), Reference(config)
    now = 0
    for batch, later in work:
        now += later

        assert reference.admit(batch, now) == admit(ids, batch, now)
        assert len(reference.row) == len(ids)
        assert reference.next == ids.next_row
        assert reference.refused == ids.refused
        every = np.arange(16, dtype=np.uint64)
        assert [reference.row.get(i, 0) for i in range(16)] == ids.rows(every).tolist()


@settings(deadline=None, max_examples=60)
@given(configs, batches, st.integers(0, 20))
def test_a_restart_changes_nothing(config, work, cut):
    """Rows, evictions and the state itself are the same after state → restore, at any batch."""
    ids = IdMap(config)
    for i, (batch, _) in enumerate(work[:cut]):
        ids.admit(np.array(batch, np.uint64), 700 * i)
    resumed = IdMap(config)
    resumed.restore(unflatten(*flatten(ids.state())))

    for i, (batch, _) in enumerate(work[cut:], cut):
        assert admit(ids, batch, 700 * i) == admit(resumed, batch, 700 * i)
    (left, rest), (right, same) = flatten(ids.state()), flatten(resumed.state())
    assert rest == same
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_many_ids_keep_a_row_each():
    """Growing from nothing, no two ids ever share a row, and none changes its own."""
    ids = IdMap(IdMapConfig(max_rows=NO_BOUND))
    rng = np.random.default_rng(0)
    seen = rng.integers(1, 2**63, (200, 1000)).astype(np.uint64)
    first = [ids.admit(batch.reshape(10, 100), 0).rows.ravel() for batch in seen]

    rows = np.concatenate(first)
    assert np.unique(seen).size == np.unique(rows).size == len(ids) == rows.max()
    np.testing.assert_array_equal(rows, ids.rows(seen.ravel()))


def test_looking_up_changes_nothing():
    """Scoring must not admit, count or keep alive."""
    ids = IdMap(IdMapConfig(admit_after=2, expire_after_s=64.0))
    some = np.arange(10, dtype=np.uint64).reshape(2, 5)
    ids.admit(some, 0)
    before = flatten(ids.state())
    rows = ids.rows(some + np.uint64(5))

    assert rows.shape == (2, 5)
    assert before[1] == flatten(ids.state())[1]
    for name, column in flatten(ids.state())[0].items():
        np.testing.assert_array_equal(before[0][name], column)


def test_read_only_and_strided_ids_are_read():
    """Columns may be views of a file or of a wider array."""
    ids = IdMap()
    table = np.arange(1, 13, dtype=np.uint64).reshape(3, 4)
    table.flags.writeable = False

    np.testing.assert_array_equal(ids.admit(table[:, 1], 0).rows, ids.rows(table[:, 1]))


def test_endless_new_ids_stay_within_the_bound():
    """With expiry, new ids find rows for ever; no array outgrows its bound."""
    config = IdMapConfig(max_rows=3000, admit_after=2, expire_after_s=64.0, max_candidates=500)
    ids = IdMap(config)
    for step in range(400):
        ids.admit(np.repeat(np.arange(1, 101) + 100 * step, 2).astype(np.uint64), 10_000 * step)

    assert (ids.refused, len(ids)) == (0, 100 * 7)
    assert all(a.shape[0] <= 3000 for a in flatten(ids.state())[0].values())


def test_a_flood_of_rare_ids_does_not_wash_out_what_recurs():
    """What recurs within `max_candidates` other ids is admitted all the same."""
    ids = IdMap(IdMapConfig(admit_after=3, max_candidates=100))
    for step in range(3):
        ids.admit(np.arange(1, 91).astype(np.uint64) + np.uint64(1000 * step), 0)
        ids.admit(np.array([7_000_000], np.uint64), 0)

    assert len(ids) == 1 and ids.rows(np.array([7_000_000], np.uint64))[0] == 1


def test_a_state_that_does_not_fit_is_refused():
    """Rows beyond the bound would be lost without a word."""
    ids = IdMap()
    ids.admit(np.arange(1, 100, dtype=np.uint64), 0)
    with pytest.raises(ValueError, match="resume with the configuration"):
        IdMap(IdMapConfig(max_rows=50)).restore(ids.state())
    with pytest.raises(ValueError, match="resume with the configuration"):
        IdMap(IdMapConfig(expire_after_s=60.0)).restore(ids.state())


@pytest.mark.parametrize(
    "wrong", [{"max_rows": 1}, {"admit_after": 0}, {"expire_after_s": 0.0}, {"max_candidates": 0}]
)
def test_impossible_settings_are_refused(wrong):
    """A map that holds nothing would train nothing."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IdMapConfig(**wrong)
