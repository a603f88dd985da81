"""What workers make of a log, by the plain way: order and join over the whole log of each."""

import json
from collections.abc import Sequence

import numpy as np

from stream.events import EventColumns, EventSchema
from stream.example_columns import ExampleColumns
from stream.examples import Progress
from stream.join import JoinConfig, Joined, LabelJoin
from stream.order import EventTimeOrder, OrderConfig
from stream.policy import Wait
from stream.position import Partition, Position
from stream.source import Block
from stream.state import flatten, unflatten


def labelled(
    events: EventColumns, number: int, inputs: int, order: OrderConfig, join: JoinConfig,
    schema: EventSchema,
) -> ExampleColumns:  # fmt: skip
    """Return the examples of one worker's ``inputs``, in settling order, two a record."""
    partitions = tuple(Partition(f"t{i}", number) for i in range(inputs))
    ordering = EventTimeOrder(order, schema, partitions)
    labelling = LabelJoin(join, Wait(), schema)
    parts = [ordering.feed(Block(events, Position())).events, ordering.finish().events]
    events = EventColumns.concat(parts)
    joined, rest = labelling.feed(events), labelling.drain()
    shown = events.take(joined.accepted)
    n = len(shown)
    place = {
        name: np.full(n, -1, getattr(events, name).dtype) for name in ("partition", "offset", "row")
    }
    for name, column in place.items():
        click = joined.matched_event[joined.matched_is_label]
        column[joined.matched_seq[joined.matched_is_label]] = getattr(events, name)[click]
    settled = {
        name: np.concatenate([getattr(joined.settled, name), getattr(rest.settled, name)])
        for name in ("label", "label_at", "kind", "actions")
    }
    return ExampleColumns(
        **{
            **shown.columns(),
            "partition": np.full(n, number, np.int16),
            "offset": np.arange(n) // 2,
            "row": (np.arange(n) % 2).astype(np.int32),
        },
        label=settled["label"],
        label_at=settled["label_at"],
        label_kind=settled["kind"],
        actions=settled["actions"],
        **{f"origin_{name}": getattr(shown, name) for name in place},
        **{f"click_{name}": column for name, column in place.items()},
        example=np.zeros(n, np.uint64),
    )


def progress(complete_to: int | None) -> Progress:
    """Return what a worker says that knows only up to when its examples are complete."""
    return Progress(resume={}, settled={}, complete_to=complete_to, read={})


def story(events: EventColumns, joined: Joined) -> list[tuple[str, int, int]]:
    """Return what happened, in order: (what, seq, at) of every example shown and clicked."""
    happened = [
        (int(i), 0, ("shown", joined.first_seq + k, int(events.at[i])))
        for k, i in enumerate(joined.accepted.tolist())
    ]
    happened += [
        (i, 1, ("clicked", seq, int(events.at[i])))
        for i, seq, is_label in zip(
            joined.matched_event.tolist(),
            joined.matched_seq.tolist(),
            joined.matched_is_label.tolist(),
            strict=True,
        )
        if is_label
    ]
    return [what for _, _, what in sorted(happened, key=lambda x: x[:2])]


def reborn(state: dict) -> dict:
    """Return a state as it comes back from a checkpoint."""
    arrays, rest = flatten(state)
    return unflatten(arrays, json.loads(json.dumps(rest)))


def pieces(n: int, cuts: Sequence[int], again: int) -> list[slice]:
    """Return slices that cover ``n`` rows in order; each also repeats ``again`` rows before it."""
    ends = sorted({min(c, n) for c in cuts} | {n})
    starts = [0, *ends[:-1]]
    return [slice(max(0, a - again), b) for a, b in zip(starts, ends, strict=True)]
