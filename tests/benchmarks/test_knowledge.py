"""What the figures of the knowledge benchmarks are computed by."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.knowledge.scores import interval, request_auc
from benchmarks.knowledge.world import SPARSE, world_of, write_world
from benchmarks.knowledge_sim import share
from benchmarks.knowledge_switch import BINS, curve, jumps

SWITCHES = np.array([10_000, 20_000])
AT = np.arange(0, 30_000, 10)


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


def test_a_jump_is_what_is_lost_at_a_switch_and_no_trend():
    """A loss of 3 for a while after each switch, upon a level that is there all the time."""
    after = (AT - SWITCHES[:, None] >= 0) & (AT - SWITCHES[:, None] < 2_000)
    excess = 0.5 + 3.0 * after.any(axis=0)

    assert [3.0, 3.0] == jumps(AT, excess, SWITCHES, 1_000).tolist()
    assert [1.5, 1.5] == jumps(AT, excess, SWITCHES, 4_000).tolist()
    assert [0.0, 0.0] == jumps(AT, np.full(AT.size, 0.5), SWITCHES, 1_000).tolist()


def test_a_curve_has_the_loss_by_the_time_since_the_nearest_switch():
    """The switch lies between its two middle bins."""
    excess = (AT >= 10_000).astype(float) * (AT < 12_400) + (AT >= 20_000) * (AT < 22_400)
    found = curve(AT, excess, SWITCHES, 9_600)

    half = BINS // 2
    means = np.array(found["sum"]) / found["count"]
    assert [0.0] * half + [1.0] * (half // 2) + [0.0] * (half // 2) == means.tolist()


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
