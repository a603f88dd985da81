import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from replay.simulate import Chaos, Simulation, write
from replay.world import World, WorldConfig
from stream.ids import hash_text
from trainer.metrics import MetricsConfig, Prequential

CONFIG = WorldConfig(impressions=20_000, users=500, items=200)


def log_of(config=CONFIG, **options):
    """Return what is written, by partition, and the counts."""
    log = defaultdict(list)
    written = write(World(config), lambda p, value: log[p].append(value), **options)
    return log, written


def lines_of(log):
    """Return the lines of each partition."""
    return {p: b"".join(parts).splitlines() for p, parts in log.items()}


def events_of(log):
    """Return the lines that are JSON objects of the contract, by topic."""
    events = defaultdict(list)
    for partition, lines in lines_of(log).items():
        events[partition.topic] += [json.loads(line) for line in lines]
    return events


def columns(config):
    """Return the impressions of a world as columns."""
    blocks = [b.impressions for b in World(config).blocks()]
    return {
        name: np.concatenate([getattr(b, name) for b in blocks])
        for name in ("at_ms", "request", "position", "user", "item", "scene", "p", "clicked")
    }


def test_same_seed_same_bytes():
    """A demo, a test and a bug report about a world must speak of the same world."""
    first, second = log_of(), log_of()

    assert first == second
    assert first != log_of(replace(CONFIG, seed=1))


@pytest.mark.parametrize(("partitions", "per_message"), [(1, 7), (3, 1), (3, 500)])
def test_the_cut_into_messages_changes_no_event(partitions, per_message):
    """How many events a message carries is a matter of the broker, not of the world."""
    whole = lines_of(log_of()[0])
    log, written = log_of(partitions=partitions, per_message=per_message)
    parts = lines_of(log)

    for topic in ("impressions", "feedback"):
        expected = next(lines for p, lines in whole.items() if p.topic == topic)
        actual = [line for p, lines in parts.items() if p.topic == topic for line in lines]
        assert Counter(expected) == Counter(actual)
    assert max(v.count(b"\n") for parts in log.values() for v in parts) <= per_message
    assert sum(map(len, log.values())) == written.messages


def test_events_keep_the_contract():
    """The simulator speaks what any platform's log speaks: the event contract, nothing else."""
    log, written = log_of(partitions=3)
    events = events_of(log)
    shown = {e["impression_id"]: e for e in events["impressions"]}

    assert len(shown) == len(events["impressions"]) == written.impressions == 20_000
    for e in events["impressions"]:
        assert {"impression_id", "request_id", "user_id", "item_id", "ts", "scene", "position",
                "features"} == e.keys()  # fmt: skip
        assert 0 < e["features"]["true_ctr"] < 1
    for click in events["feedback"]:
        assert click["action"] == "click"
        assert click["user_id"] == shown[click["impression_id"]]["user_id"]
        assert click["ts"] > shown[click["impression_id"]]["ts"]
    for partition, lines in lines_of(log).items():
        parsed = [json.loads(line) for line in lines]
        assert [e["ts"] for e in parsed] == sorted(e["ts"] for e in parsed)
        assert {hash_text(e["user_id"]) % 3 for e in parsed} == {partition.number}


def test_a_slate_shows_each_item_once_in_its_order():
    """Metrics rank the items of a request against each other: twice the same would tie."""
    c = columns(CONFIG)
    starts = np.flatnonzero(np.diff(c["request"], prepend=-1))
    sizes = np.diff(np.append(starts, c["request"].size))

    assert (c["position"] == np.concatenate([np.arange(n) for n in sizes])).all()
    assert np.unique(c["request"] * 1_000_000 + c["item"]).size == c["request"].size
    assert (sizes[:-1].min(), sizes.max()) == CONFIG.slate


def test_clicks_follow_their_probability():
    """The oracle is only as good as this: in every band of p, the share clicked is p."""
    c = columns(replace(CONFIG, impressions=100_000))
    for low, high in [(0, 0.03), (0.03, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 1)]:
        band = (c["p"] > low) & (c["p"] <= high)
        p, n = c["p"][band], int(band.sum())
        error = np.sqrt((p * (1 - p)).sum()) / n

        assert n > 500
        assert abs(c["clicked"][band].mean() - p.mean()) < 4 * error


def test_the_oracle_equals_the_metrics_of_the_true_probability():
    """The best reachable figures stand beside the model's: both must be measured alike."""
    c = columns(CONFIG)
    metrics = Prequential(MetricsConfig(arms=("oracle",)))
    metrics.update(
        {"oracle": c["p"].astype(np.float32)},
        c["clicked"].astype(np.float32),
        at_ms=c["at_ms"],
        **{k: c[k].astype(np.uint64) for k in ("request", "user", "scene")},
    )
    expected, actual = World(CONFIG).oracle(), metrics.summary()

    for name in ("examples", "clicks"):
        assert expected[name] == actual[name]
    for name in ("logloss", "normalized_entropy", "auc", "auc_request"):
        assert expected[name] == pytest.approx(actual[name], abs=1e-5)


def test_there_is_something_to_learn():
    """A model that climbs from the base rate toward the oracle needs a way to go."""
    oracle = World(replace(CONFIG, impressions=100_000)).oracle()

    assert oracle["normalized_entropy"] < 0.85
    assert oracle["auc_request"] > 0.75
    assert 0.08 < oracle["clicks"] / oracle["examples"] < 0.15


def test_items_are_born_and_fade():
    """A day later other items are shown: what a model knew of the old ones is worth nothing."""
    c = columns(replace(CONFIG, new_items_per_s=0.02))
    half = c["item"].size // 2
    before, after = set(c["item"][:half].tolist()), c["item"][half:]

    assert np.mean([i not in before for i in after.tolist()]) > 0.3


def test_endless_growth_brings_new_users_and_items():
    """Tests of memory need a stream that never stops naming new things."""
    config = WorldConfig(
        impressions=None, requests_per_s=100, new_users_per_s=50, new_items_per_s=20
    )
    blocks = list(islice(World(config).blocks(), 20))
    first, last = blocks[0].impressions, blocks[-1].impressions
    seconds = (blocks[-1].until_ms - config.start_ms) / 1000

    assert last.user.max() - first.user.max() == pytest.approx(50 * seconds, rel=0.1)
    assert last.item.max() - first.item.max() == pytest.approx(20 * seconds, rel=0.1)


def test_an_endless_world_has_no_final_figures():
    """It would run for ever: say so at once."""
    with pytest.raises(ValueError, match="set impressions"):
        World(WorldConfig(impressions=None)).oracle()


def test_chaos_adds_but_never_takes():
    """What goes wrong is counted, and the good events are all still there."""
    clean = log_of()[0]
    chaos = Chaos(duplicates=0.02, late=0.03, malformed=0.05)
    log, written = log_of(chaos=chaos, per_message=50)
    for partition, lines in lines_of(log).items():
        good = lines_of(clean)[partition]
        extra = Counter(lines) - Counter(good)

        assert Counter(good) - Counter(lines) == Counter()
        assert sum(n for line, n in extra.items() if line in set(good)) > 0
    total = sum(map(len, lines_of(log).values()))
    assert total == written.impressions + written.feedback + written.duplicates + written.malformed
    assert min(written.duplicates, written.late, written.malformed) > 300


def test_late_events_come_late_by_what_was_asked():
    """A test of lateness must know how late late is."""
    late = Chaos(late=0.05, late_by_s=300.0)
    log, written = log_of(chaos=late)
    behind = 0
    for lines in lines_of(log).values():
        clock = 0
        for line in lines:
            ts = json.loads(line)["ts"]
            assert clock - ts <= 300_000
            behind += clock - ts > 60_000
            clock = max(clock, ts)

    assert 0.8 * written.late < behind <= written.late


def test_messages_come_in_order_of_time():
    """A player that paces them by their time must never have to go back."""
    simulation = Simulation(World(CONFIG), partitions=2, per_message=20, chaos=Chaos(late=0.01))
    times = [m.at_ms for m in simulation]

    assert times == sorted(times)
    assert simulation.written.until_ms == times[-1]


@pytest.mark.parametrize(
    "wrong",
    [{"scene_shares": (1.0,)}, {"slate": (9, 5)}, {"slate": (5, 400)}, {"requests_per_s": 0.0}],
)
def test_an_impossible_world_is_refused(wrong):
    """A division by zero in the middle of a run explains nothing."""
    with pytest.raises(ValueError):  # each says another thing
        replace(CONFIG, **wrong)
