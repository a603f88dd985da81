"""Small tables of impressions, and what sources make of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream.events import EventColumns, EventSchema
from stream.order import EventTimeOrder, OrderConfig
from stream.source import Rejected, Source

START = 1_700_000_000_000

TABLE = {
    "columns": {
        "impression_id": ["slate", "item"],
        "request_id": "slate",
        "user_id": "user",
        "item_id": "item",
        "ts": "time",
        "scene": "scene",
        "position": "place",
        "label": "click",
    },
    "feedback": {"delay_s": 2},
    "features": {"device": "device", "price": "price", "tags": "tags", "premium": "premium"},
}
SCHEMA = EventSchema(ids=("device", "premium"), numbers=("price",), lists=(("tags", 2),))


def shown(n: int, seed: int = 0) -> dict[str, pa.Array]:
    """Return columns of ``n`` rows in the order of time: every kind of column, with nulls."""
    rng = np.random.default_rng(seed)
    some = rng.random(n) < 0.8
    counts = np.where(some, rng.integers(0, 4, n), -1).tolist()
    tags = [None if count < 0 else [f"t{k}" for k in range(count)] for count in counts]
    return {
        "slate": pa.array(np.arange(n) // 4, pa.uint32()),
        "item": pa.array([f"i{k}" for k in np.arange(n) % 4 + 4 * rng.integers(0, 9, n)]),
        "user": pa.array((np.arange(n) // 4) % 7, pa.int64()),
        "time": pa.array(START + np.cumsum(rng.integers(0, 900, n)), pa.timestamp("ms")),
        "scene": pa.array(np.where(rng.random(n) < 0.3, "rare", "front")).dictionary_encode(),
        "place": pa.array(np.arange(n) % 4, pa.int8()),
        "click": pa.array((rng.random(n) < 0.3).astype(np.int8)),
        "device": pa.array(rng.integers(0, 3, n).astype(float), mask=~some),
        "price": pa.array(rng.random(n).astype(np.float32), mask=~some),
        "tags": pa.array(tags, pa.list_(pa.string())),
        "premium": pa.array(rng.random(n) < 0.5, mask=~some),
    }


def write(path: Path, columns: dict[str, pa.Array], row_group: int = 50) -> Path:
    """Write a Parquet file of small row groups."""
    pq.write_table(pa.table(columns), path, row_group_size=row_group)
    return path


def read(source: Source) -> tuple[EventColumns, list[Rejected]]:
    """Return all events of a source, partition by partition, and what it rejected."""
    blocks = list(source)
    events = EventColumns.concat([b.events for b in blocks])
    events = events.take(np.argsort(events.partition, kind="stable"))
    return events, [r for b in blocks for r in b.rejected]


def ordered(source: Source) -> EventColumns:
    """Return all events of a source in canonical order."""
    order = EventTimeOrder(OrderConfig(), source.schema, source.partitions)
    parts = [order.feed(block).events for block in source]
    return EventColumns.concat([*parts, order.finish().events])


def assert_same(expected: EventColumns, actual: EventColumns, but: Sequence[str] = ()) -> None:
    """Compare all columns but those named."""
    assert len(expected) == len(actual)
    for name, column in expected.columns().items():
        if name not in but:
            np.testing.assert_array_equal(column, actual.columns()[name], err_msg=name)
