"""A click history as events: it says what was clicked, and not what else was shown."""

from typing import Final

import numpy as np
import pyarrow as pa

SCENE: Final = "history"
_OTHERS: Final = 4  # stand for what was shown beside a click
_NEAR: Final = 1500  # clicks before and after, among which they are drawn


def with_history(events: pa.Table, history: pa.Table, *, days: float, seed: int = 0) -> pa.Table:
    """Return ``events`` after the last ``days`` of ``history``, in order of time.

    Each click becomes a request of a scene of its own, with up to four items beside it that others
    clicked at about that time: so an extractor learns tastes from it and no rate of clicks.
    """
    time = history["time"].to_numpy()
    order = np.argsort(time, kind="stable")
    order = order[time[order] >= time.max() - np.timedelta64(round(days * 86_400), "s")]
    time, n = time[order], order.size
    if not n:
        return events
    user, item = (history[name].to_numpy()[order] for name in ("user_id", "item_id"))
    rng = np.random.default_rng(seed)
    near = np.arange(n)[:, None] + rng.integers(-_NEAR, _NEAR, (n, _OTHERS))
    shown = np.concatenate([item[:, None], item[np.clip(near, 0, n - 1)]], axis=1)
    first = np.array([[True] + [False] * _OTHERS])
    order = rng.permuted(np.tile(np.arange(1 + _OTHERS), (n, 1)), axis=1)
    shown = np.take_along_axis(shown, order, axis=1)
    clicked = np.take_along_axis(np.broadcast_to(first, shown.shape), order, axis=1)
    twice = (shown[:, :, None] == shown[:, None, :]) & np.tri(1 + _OTHERS, k=-1, dtype=np.bool_)
    kept = clicked | ~(twice.any(axis=2) | (shown == item[:, None]))
    rows = np.nonzero(kept)[0]
    columns = {
        "impression_id": rows + 1,
        "impression_time": time[rows],
        "user_id": user[rows],
        "item_id": shown[kept],
        "click": clicked[kept].astype(np.int64),
    }
    made = pa.table(
        [
            pa.array([SCENE] * rows.size).cast(field.type)
            if field.name == "scenario"
            else pa.array(columns[field.name]).cast(field.type)
            if field.name in columns
            else pa.nulls(rows.size, field.type)
            for field in events.schema
        ],
        schema=events.schema,
    )
    return pa.concat_tables([made, events])
