from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keepstream.config import Config, ConfigError, from_tables
from keepstream.reading import event_schema, feature_schema
from keepstream.wiring import build_ingest
from replay.simulate import TOPICS
from stream.encode import encode_event
from stream.listsource import ListSource
from stream.position import Partition
from trainer.ingest import SCORE_ROWS
from trainer.items import LearnItem, ScoreItem

SLATE = 10


def _log(requests: int) -> dict[Partition, list[bytes]]:
    """Return requests of ten items, one a second, the third of each clicked after five."""
    shown, clicked = [], []
    for r in range(requests):
        ts = 1_700_000_000_000 + 1000 * r
        for k in range(SLATE):
            features = {"tags": [f"t{k % 7}", f"t{r % 5}"], "seen": [f"i{(k + 1) % 40}"]}
            shown.append(
                encode_event(
                    {
                        "impression_id": f"{r}.{k}",
                        "request_id": r,
                        "user_id": r % 50,
                        "item_id": f"i{(r + k) % 40}",
                        "ts": ts,
                        "scene": "s",
                        "features": features,
                    }
                )
            )
        clicked.append(
            encode_event(
                {
                    "impression_id": f"{r}.3",
                    "user_id": r % 50,
                    "ts": ts + 5000,
                    "action": "click",
                }
            )
        )
    impressions, feedback = (Partition(topic, 0) for topic in TOPICS)
    return {impressions: [b"\n".join(shown)], feedback: [b"\n".join(clicked)]}


def _items(config: Config, requests: int, scratch: Path) -> list[object]:
    source = ListSource(event_schema(config), _log(requests))
    ingest = build_ingest(config, source.partitions, scratch)
    items: list[object] = []
    for block in source:
        items += ingest.feed(block)
    return [*items, *ingest.finish()]


def test_a_list_with_ids_of_its_own_is_embedded(tmp_path: Path) -> None:
    """No other field brings those ids to the id map: they must be admitted for themselves."""
    lists = {"tags": 2, "seen": {"length": 1, "like": "item"}}
    config = from_tables(
        {"features": {"ids": ["item"], "history": 0, "statistics": [], "lists": lists}}
    )

    learned = [i for i in _items(config, 300, tmp_path) if isinstance(i, LearnItem)]

    last = learned[-1].batch.sequences
    assert [2, 1] == [n for _, n in feature_schema(config).sequences]
    assert (last > 0).all(axis=0).tolist() == [True, True, True]


def test_what_is_served_is_relative_to_whole_requests(tmp_path: Path) -> None:
    """However many impressions are scored at once, a request is among them whole or not."""
    config = from_tables(
        {
            "order": {"lateness_s": 0},
            "join": {"window_s": 86_400},  # nothing settles: scored in the largest pieces
            "features": {"ids": ["item"], "history": 0, "request_relative": True},
            "train": {"as_served": True, "batch_size": 64},
        }
    )

    scored = [i for i in _items(config, 1000, tmp_path) if isinstance(i, ScoreItem)]

    sizes = [len(i.batch) for i in scored]
    assert 1000 * SLATE == sum(sizes)
    assert max(sizes) > SCORE_ROWS - SLATE
    seen = [set(i.batch.request.tolist()) for i in scored]
    assert all(not a & b for a, b in pairwise(seen))


def test_other_actions_are_with_the_examples_where_they_are_asked_for(tmp_path: Path) -> None:
    """A model of several tasks learns them beside the label; no other run carries the column."""
    log, clicked = _log(100), Partition(TOPICS[1], 0)
    did = {"impression_id": "7.5", "user_id": 7, "ts": 1_700_000_007_900, "action": "buy"}
    lines = log[clicked][0].splitlines()
    log[clicked] = [b"\n".join([*lines[:8], encode_event(did), *lines[8:]])]
    tables = {"join": {"window_s": 30}, "features": {"ids": ["item"], "history": 0}}

    batches = {}
    for tasks in ((), ("buy", "click")):
        config = from_tables(
            {**tables, "train": {"tasks": list(tasks)}, "rehearsal": {"batches": 1}}
        )
        source = ListSource(event_schema(config), log)
        ingest = build_ingest(config, source.partitions, tmp_path)
        items = [item for block in source for item in ingest.feed(block)] + [*ingest.finish()]
        batches[tasks] = [i.batch for i in items if isinstance(i, LearnItem)]

    assert all(batch.actions is None for batch in batches[()])
    learned = batches["buy", "click"]
    assert [len(b) for b in learned] == [len(b.actions) for b in learned if b.actions is not None]
    fresh = np.concatenate([b.actions[: b.fresh] for b in learned if b.actions is not None])
    labels = np.concatenate([b.label[: b.fresh] for b in learned])
    assert np.array_equal(labels, fresh & 1)  # the label's action is the first
    assert [75] == np.flatnonzero(fresh & 2).tolist()


def test_served_scores_come_in_the_order_of_the_impressions(tmp_path: Path) -> None:
    """Each impression is scored once, before the batch that holds it is learned."""
    config = from_tables(
        {
            "join": {"window_s": 30},
            "features": {"ids": ["item"], "history": 0},
            "train": {"as_served": True, "batch_size": 100},
        }
    )

    scored = 0
    for item in _items(config, 400, tmp_path):
        if isinstance(item, ScoreItem):
            assert scored == item.first_seq
            scored += len(item.batch)
        elif isinstance(item, LearnItem):
            assert item.examples["seq"].max() < scored
    assert 400 * SLATE == scored


def test_the_features_of_a_row_know_nothing_of_its_own_request(tmp_path: Path) -> None:
    """All rows of a first request are alike in what was counted before: nothing."""
    config = from_tables({"features": {"ids": ["item"], "hour_of_day": False}})

    items = [i for i in _items(config, 60, tmp_path) if isinstance(i, LearnItem)]

    first = items[0].batch.numbers[:SLATE]
    assert np.array_equal(np.zeros_like(first), first)


@pytest.mark.parametrize(
    "tables",
    [
        {"features": {"request_relative": True}, "train": {"positive_at": "click"}},
        {"join": {"window_s": 3600}, "train": {"positive_at": "click"}},
    ],
)
def test_settings_that_would_leak_or_split_requests_are_refused(tables: dict) -> None:  # type: ignore[type-arg]  # any TOML
    """A click learned without the rest of its request gives itself away."""
    with pytest.raises(ConfigError, match="positive_at"):
        from_tables(tables)
