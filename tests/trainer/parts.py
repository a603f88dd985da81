"""The parts of a small run, built as the command line builds them, and events for them."""

import numpy as np

from keepstream.config import from_tables
from keepstream.reading import event_schema
from keepstream.wiring import build_ingest, build_training
from stream.blocks import BLOCK_EVENTS
from stream.encode import encode_event
from stream.listsource import ListSource
from stream.position import Partition, Position

SHOWN, CLICKED = Partition("impressions", 0), Partition("feedback", 0)
START_MS = 1_700_000_000_000
SMALL = {
    "order": {"lateness_s": 10, "idle_s": 30},
    "join": {"window_s": 60, "early_s": 30, "remember_s": 60},
    "features": {"history": 3, "statistics": [{"key": ["item"], "half_lives_h": [1]}]},
    "model": {"model": "mlp", "hidden": [8], "embedding_width": 4},
    "train": {"batch_size": 16},
    "ids": {"max_rows": 500},
}


def config(**tables):
    """Return the configuration of a small run, with ``tables`` changed."""
    return from_tables({k: {**SMALL.get(k, {}), **tables.get(k, {})} for k in {**SMALL, **tables}})


def shown(number, at_s, **fields):
    """Return an impression's line; five make a request."""
    ids = {"impression_id": f"i{number}", "user_id": number % 7, "item_id": number % 11}
    asked = {"request_id": f"r{number // 5}", "scene": "home", "ts": START_MS + round(1000 * at_s)}
    return encode_event({**ids, **asked, **fields})


def clicked(number, at_s):
    """Return the line of a click on an impression."""
    ts = START_MS + round(1000 * at_s)
    return encode_event(
        {"impression_id": f"i{number}", "user_id": number % 7, "ts": ts, "action": "click"}
    )


def log(impressions, first=0):
    """Return a log: an impression a second, every fifth clicked 20 s later."""
    numbers = range(first, first + impressions)
    return {
        SHOWN: [shown(i, i) for i in numbers],
        CLICKED: [clicked(i, i + 20) for i in numbers if i % 5 == 2],
    }


def source(settings, messages, position=None, block_events=BLOCK_EVENTS):
    """Return a finite source over ``messages``."""
    schema = event_schema(settings)
    return ListSource(schema, messages, position=position or Position(), block_events=block_events)


def ingest_of(settings, scratch):
    """Return what lies between such a log and the learner."""
    return build_ingest(settings, tuple(sorted((SHOWN, CLICKED))), scratch)


def training_of(settings, scratch, trace=None):
    """Return the model with its metrics."""
    return build_training(settings, trace, scratch)


def equal(a, b) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b)
