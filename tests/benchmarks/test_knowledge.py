"""What the figures of the knowledge benchmarks are computed by."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.knowledge.scores import interval, request_auc
from benchmarks.knowledge.stores import turned
from benchmarks.knowledge.world import SPARSE, world_of, write_world
from benchmarks.knowledge_sim import share
from benchmarks.knowledge_switch import BEFORE, BINS, curve


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans()), max_size=40),
)
def test_auc_of_a_request_is_the_share_of_its_pairs_in_the_right_order(rows):
    """Ties count half, and a request of one label says nothing."""
    request, p, label = (np.array([row[k] for row in rows]) for k in range(3))
    if not rows:
        return
    expected = {}
    for r in np.unique(request):
        clicked, other = p[(request == r) & label], p[(request == r) & ~label]
        pairs = np.sign(clicked[:, None] - other) / 2 + 0.5
        if pairs.size:
            expected[r] = pairs.mean()

    auc, first = request_auc(p, label, request)

    assert [*expected.values()] == pytest.approx(auc.tolist())
    assert [*expected] == request[first].tolist()


def test_an_interval_is_students():
    """A figure without its uncertainty says little: 3 days, mean 2, deviation 1."""
    found = interval([1.0, 2.0, 3.0])

    assert (2.0, 4.303 / np.sqrt(3)) == pytest.approx((found.mean, found.high - 2.0))
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


@pytest.mark.parametrize("closed", [0.0, 0.4, 1.0])
def test_a_share_that_is_the_same_each_day_is_certain(closed):
    """Days differ in how much there is to close, which is no doubt about the share of it."""
    gap = np.array([0.02, 0.05, 0.03])
    found = share(closed * gap, gap)

    assert (closed, closed, closed) == pytest.approx((found.low, found.mean, found.high))


def test_a_share_that_differs_by_day_is_uncertain():
    """Half in the mean, none of it on one day."""
    found = share(np.array([0.0, 0.02]), np.array([0.02, 0.02]))

    assert 0.5 == pytest.approx(found.mean)
    assert found.low < 0 < 1 < found.high


def test_a_curve_has_what_is_lost_by_the_time_since_a_switch():
    """Nothing before it; after it twice as much as later on."""
    since = np.arange(-30, 100)
    more = np.where(since < 0, 0.0, np.where(since < 50, 2.0, 1.0))
    found = curve(since, more, 96)

    half, counts = BINS // 2, np.array(found["count"])
    expected = [0.0] * BEFORE + [2.0] * half
    means = np.array(found["sum"]) / counts
    assert [4] * (BEFORE + BINS - 1) == counts[:-1].tolist()
    assert expected == means[: BEFORE + half].tolist()
    assert 1.0 == means[-1]


def test_what_is_turned_says_the_same_of_users_and_items_and_is_read_as_another():
    """Only products of users and items mean something: those must not tell a turn."""
    rng = np.random.default_rng(0)
    vectors = {
        kind: rng.normal(size=(50, width)).astype(np.float32)
        for kind, width in (("item", 8), ("item_state", 16), ("user", 8))
    }
    other = turned(vectors, rng)

    assert vectors["user"] @ vectors["item"].T == pytest.approx(
        other["user"] @ other["item"].T, abs=1e-4
    )
    for kind, each in vectors.items():
        norms = np.linalg.norm(each, axis=1) * np.linalg.norm(other[kind], axis=1)
        assert abs(np.mean((each * other[kind]).sum(axis=1) / norms)) < 0.5, kind


def test_a_world_is_written_whole_with_its_truth(tmp_path):
    """What is measured against the truth must be the events that it is the truth of."""
    world = world_of(3, 4_000, 0.5)
    write_world(world, tmp_path)
    site, scene = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("site", "scene"))

    truth = world.oracle()
    assert (truth["examples"], truth["clicks"]) == (site.num_rows, sum(site["clicked"].to_pylist()))
    p, clicked = site["p"].to_numpy(), site["clicked"].to_numpy() > 0
    assert truth["logloss"] == pytest.approx(-np.where(clicked, np.log(p), np.log1p(-p)).mean())
    assert {SPARSE} == set(scene["scene"].to_pylist())
    assert site["scene"].to_pylist().count(SPARSE) == scene.num_rows > 0
    after = (
        site["clicked_ms"].to_numpy(zero_copy_only=False)[clicked]
        - site["at_ms"].to_numpy()[clicked]
    )
    assert after.min() > 0
    assert 10_000 < np.median(after) < 40_000  # the world's clicks come after 20 s
    assert site["clicked_ms"].null_count == (~clicked).sum()
