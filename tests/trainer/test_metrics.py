import json
from collections import defaultdict
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.auc import auc
from trainer.metrics import MetricsConfig, MetricsError, Prequential

HOUR = 3_600_000
DAY = 24 * HOUR
START = 1_700_000_123_456
SCENES = {11: "front", 22: "article"}
SMALL = MetricsConfig(
    request_hold_s=600.0,
    max_open_rows=4096,
    max_user_rows=4096,
    max_windows=128,
    max_days=8,
    max_scenes=4,
)


def rows(seed, n, *, span_ms=3 * DAY, jitter_ms=0):
    """Return ``n`` random rows in time order, give or take ``jitter_ms``."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, span_ms, n // 4 + 1)).repeat(4)[:n]
    at[1:] = np.maximum(at[1:] - rng.integers(0, jitter_ms + 1, n - 1), 0)
    p = (rng.integers(1, 20, n) / 20).astype(np.float32)  # coarse: ties, and a bin for each value
    served = rng.integers(0, 41, n) / 40
    served = np.where(rng.random(n) < 0.2, np.nan, served).astype(np.float32)
    return {
        "model": p,
        "as_served": served,
        "label": (rng.random(n) < 0.7 * p + 0.1).astype(np.float32),
        "at_ms": START + at,
        "request": (np.arange(n) // 4 + 1).astype(np.uint64),
        "user": rng.integers(1, max(n // 10, 2), n).astype(np.uint64),
        "scene": rng.choice([11, 22], n).astype(np.uint64),
        "user_activity": np.where(rng.random(n) < 0.1, np.nan, rng.integers(0, 2000, n)),
        "item_age_h": rng.exponential(30, n),
    }


def feed(metrics, columns, cuts=()):
    """Update ``metrics`` with the rows, cut at ``cuts``."""
    n = columns["label"].size
    for start, end in zip([0, *cuts], [*cuts, n], strict=True):
        part = {k: v[start:end] for k, v in columns.items()}
        arms = {k: part.pop(k) for k in ("model", "as_served", "oracle") if k in part}
        metrics.update(arms, part.pop("label"), **part)
    return metrics


def brute_auc(p, y):
    """AUC by its definition, pair by pair."""
    pairs = [(a, b) for a, la in zip(p, y, strict=True) if la for b in p[y == 0]]
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
    return won / len(pairs) if pairs else None


def mean_by(group, p, y, *, weighted):
    """Mean AUC of groups with both classes, weighted by rows or not."""
    parts = defaultdict(list)
    for k, g in enumerate(group):
        parts[g].append(k)
    total = weight = 0.0
    for index in parts.values():
        value = brute_auc(p[index], y[index])
        if value is not None:
            w = len(index) if weighted else 1
            total, weight = total + w * value, weight + w
    return total / weight if weight else None


def approx(value, rel=1e-9):
    """None stays None: a figure without a value."""
    return value if value is None else pytest.approx(value, rel=rel)


def check_figures(p, y, found, suffix=""):
    """Compare figures with their definitions, in plain numpy."""
    p64 = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    loss = -np.mean(np.where(y == 1, np.log(p64), np.log(1 - p64)))
    base = y.mean()
    assert (len(p), int(y.sum())) == (found["examples" + suffix], found["clicks" + suffix])
    assert approx(loss) == found["logloss" + suffix]
    if 0 < base < 1:
        entropy = -(base * log(base) + (1 - base) * log(1 - base))
        assert approx(loss / entropy, 1e-6) == found["normalized_entropy" + suffix]
        assert approx(p.astype(np.float64).sum() / y.sum()) == found["calibration" + suffix]
    assert approx(brute_auc(p, y)) == found["auc" + suffix]


@given(seed=st.integers(0, 10**6), n=st.integers(1, 120))
@settings(max_examples=25, deadline=None)
def test_every_figure_equals_its_definition(seed, n):
    """The metrics decide between models: each must be what its textbook says, in every slice."""
    r = rows(seed, n)
    found = feed(Prequential(SMALL), r).summary(SCENES)
    y, day = r["label"], (r["at_ms"] - r["at_ms"][0]) // DAY
    hour = (r["at_ms"] - r["at_ms"][0]) // HOUR
    for arm, suffix in (("model", ""), ("as_served", "_as_served")):
        has = ~np.isnan(r[arm])
        if not has.any():
            continue
        p, labels = r[arm][has], y[has]
        check_figures(p, labels, found, suffix)
        request = mean_by(r["request"][has], p, labels, weighted=False)
        assert approx(request) == found["auc_request" + suffix]
        user_day = list(zip(r["user"][has].tolist(), day[has].tolist(), strict=True))
        assert approx(mean_by(user_day, p, labels, weighted=True)) == found["auc_user" + suffix]
        for scene, name in SCENES.items():
            if (part := r["scene"][has] == scene).any():
                check_figures(p[part], labels[part], found["by_scene"][name], suffix)
        for number in np.unique(day[has]):
            part = day[has] == number
            of_day = next(d for d in found["by_day"] if d["number"] == number)
            check_figures(p[part], labels[part], of_day, suffix)
            users = mean_by(r["user"][has][part], p[part], labels[part], weighted=True)
            assert approx(users) == of_day["auc_user" + suffix]
        for number in np.unique(hour[has]):
            part = hour[has] == number
            of_hour = next(w for w in found["windows"] if w["number"] == number)
            assert int(part.sum()) == of_hour["examples" + suffix]
            assert approx(brute_auc(p[part], labels[part])) == of_hour["auc" + suffix]


@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 300), max_size=6).map(sorted),
    stop=st.integers(0, 300),
)
@settings(max_examples=25, deadline=None)
def test_the_cut_and_a_restart_change_no_bit(seed, cuts, stop):
    """Replay equals live: figures must not depend on batch sizes, nor on when a run was resumed."""
    r = rows(seed, 300, jitter_ms=1_800_000)
    config = MetricsConfig(
        request_hold_s=300.0,  # shorter than the jitter: requests split, days end early
        max_open_rows=16,
        max_user_rows=64,
        max_windows=8,
        max_days=2,
        max_scenes=1,
    )
    whole = feed(Prequential(config), r)
    first = feed(Prequential(config), {k: v[:stop] for k, v in r.items()})
    second = Prequential(config)
    second.restore(first.state())
    feed(second, {k: v[stop:] for k, v in r.items()})

    assert whole.summary() == feed(Prequential(config), r, cuts).summary()
    assert whole.summary() == second.summary()
    assert whole.glance() == second.glance()


def test_a_summary_changes_nothing():
    """Progress looks at the figures all the time; looking must not end what is open."""
    r = rows(3, 200)
    plain, looked = feed(Prequential(SMALL), r), Prequential(SMALL)
    for k in range(0, 200, 10):
        feed(looked, {name: v[k : k + 10] for name, v in r.items()})
        looked.summary()
        looked.glance()

    assert plain.summary() == looked.summary()


def test_rows_of_a_request_are_ranked_together_though_they_arrive_apart():
    """With positives learned at their click, a slate's click settles minutes before the rest."""
    metrics = Prequential(SMALL)
    same = {"user": 1, "scene": 11}
    for p, y, minute, request in [(0.9, 1, 0, 7), (0.2, 1, 1, 8), (0.5, 0, 9, 7), (0.6, 0, 9, 8)]:
        metrics.update(
            {"model": np.array([p], np.float32)},
            np.array([y], np.float32),
            at_ms=np.array([START + minute * 60_000]),
            request=np.array([request], np.uint64),
            **{k: np.array([v], np.uint64) for k, v in same.items()},
        )

    assert metrics.summary()["auc_request"] == 0.5
    assert metrics.summary()["requests"] == 2


def test_a_row_after_the_hold_is_a_request_of_its_own():
    """Memory is bounded: a request that waited its time is counted with the rows it has."""
    r = rows(1, 4)
    r["at_ms"] = START + np.array([0, 0, 0, 601_000])
    r["label"] = np.array([1, 1, 1, 0], np.float32)

    assert feed(Prequential(SMALL), r).summary()["auc_request"] is None


def test_past_its_rows_the_oldest_request_ends_early():
    """The bound holds whatever the traffic, and what it costs is shown."""
    r = rows(5, 400, span_ms=1000)
    few = MetricsConfig(max_open_rows=12, max_user_rows=4096)
    found = feed(Prequential(few), r).summary()

    assert found["requests_cut_short"] > 90
    assert feed(Prequential(SMALL), r).summary()["auc_request"] == approx(found["auc_request"])


def test_a_crowded_day_samples_users_whole():
    """A user's AUC needs all of the user's rows: users are left out, never rows."""
    r = rows(6, 2000, span_ms=DAY // 2)
    few = MetricsConfig(max_user_rows=650)
    found = feed(Prequential(few), r).summary()
    full = feed(Prequential(SMALL), r).summary()["auc_user"]

    assert found["user_share"] == 0.25
    assert abs(found["auc_user"] - full) < 0.1


def test_the_newest_windows_are_kept():
    """A stream has no end; its curve has a length."""
    r = rows(7, 2000, span_ms=100 * HOUR)
    found = feed(Prequential(MetricsConfig(max_windows=10)), r).summary()["windows"]

    assert [w["number"] for w in found] == list(range(found[-1]["number"] - 9, 100))


def test_auc_of_close_scores_stays_within_its_stated_bound():
    """A histogram is an approximation; the summary says how bad it can be in this stream."""
    rng = np.random.default_rng(0)
    n = 4000
    r = rows(8, n)
    r["model"] = (0.1 + 1e-3 * rng.random(n)).astype(np.float32)
    found = feed(Prequential(SMALL), r).summary()

    assert found["auc_error_bound"] > 0.01
    assert abs(auc(r["model"], r["label"]) - found["auc"]) <= found["auc_error_bound"]


@pytest.mark.parametrize("n", [3, 30, 48, 49, 200])
def test_auc_of_a_group_is_exact(n):
    """Small groups are counted pair by pair, large ones sorted: the same number."""
    rng = np.random.default_rng(n)
    p, y = (rng.integers(0, 9, n) / 9).astype(np.float32), rng.integers(0, 2, n)
    y[:2] = 0, 1

    assert approx(brute_auc(p, y)) == auc(p, y)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("model", 1.5, "predicts 1.5 in row 2"),
        ("model", -0.1, "Pass probabilities, not logits"),
        ("label", 0.5, "label 0.5 is neither 0 nor 1"),
        ("label", np.nan, "label nan is neither"),
    ],
)
def test_what_is_no_probability_is_refused_and_counts_nowhere(column, value, says):
    """A metric of logits or of unsettled labels would look like a number all the same."""
    metrics = Prequential(SMALL)
    r = rows(2, 5)
    r[column][2] = value
    with pytest.raises(MetricsError, match=says):
        feed(metrics, r)

    assert metrics.summary()["examples"] == 0


def test_an_unknown_arm_is_refused_by_name():
    """A typing error must not make a figure disappear."""
    with pytest.raises(MetricsError, match="no arm is called 'modle'"):
        Prequential(SMALL).update({"modle": np.zeros(0, np.float32)}, np.zeros(0), **{
            k: np.zeros(0, np.uint64) for k in ("at_ms", "request", "user", "scene")
        })  # fmt: skip


def test_columns_of_unequal_length_are_refused_by_name():
    """Compiled loops check no bounds: a short column would read foreign memory."""
    r = rows(2, 5)
    r["user"] = r["user"][:3]
    with pytest.raises(MetricsError, match="'user' has 3 rows, the labels have 5"):
        feed(Prequential(SMALL), r)


def test_a_diverged_model_shows_in_the_counts():
    """NaN predictions are missing rows, and missing rows are counted."""
    r = rows(2, 8)
    r["model"][:] = np.nan
    found = feed(Prequential(SMALL), r).summary()

    assert (found["examples"], found["unscored"], found["logloss"]) == (8, 8, None)


def test_the_summary_of_nothing_is_json():
    """A run that is stopped before its first batch still prints its result."""
    assert json.loads(json.dumps(Prequential(SMALL).summary()))["examples"] == 0
