"""What it costs to turn messages into labelled examples: `python -m benchmarks.join`.

One core. `events_per_s` counts from NDJSON bytes to settled examples: decoding, order, join. Then
the cost of order and join alone, on columns, as the log grows from 10⁵ to 10⁷ events: the state
fills up to an hour of impressions on the way, and the cost should not.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from benchmarks.machine import median, pin, report, rounded
from stream.decode import Decoder
from stream.encode import encode_event, pack
from stream.events import FEEDBACK, EventColumns, EventSchema
from stream.ids import hash_integers
from stream.join import JoinConfig, LabelJoin
from stream.order import EventTimeOrder, OrderConfig
from stream.policy import Wait
from stream.position import Partition, Position
from stream.source import Block

I64 = npt.NDArray[np.int64]
Messages = tuple[list[bytes], list[bytes]]  # of feedback and of impressions

SCHEMA = EventSchema(ids=("category", "device"), numbers=("age_h",))
PARTITIONS = (Partition("feedback", 0), Partition("impressions", 0))
PER_SECOND = 250  # impressions: a site of some size; an hour of them is what the join remembers
CLICKED = 10  # every tenth impression
LONGEST_DELAY = 300_000  # ms from an impression to its click
DISORDER = 2_000  # ms: how much events of one partition overtake each other
BEGIN = 1_700_000_000_000
BLOCK = 16_384  # events, of both partitions


def draw(k: I64, salt: int, below: int) -> I64:
    """Return for every impression ``k`` a number below ``below``, always the same one."""
    return (hash_integers(k * 8 + salt) % np.uint64(below)).astype(np.int64)


def window(first: int, end: int) -> tuple[I64, I64, I64, I64]:
    """Return impressions ``first`` … ``end``, their times, and the clicks read in that time."""
    shown = np.arange(first, end)
    begin, until = first * 1000 // PER_SECOND, end * 1000 // PER_SECOND
    older = np.arange(max(0, first - (LONGEST_DELAY + DISORDER) * PER_SECOND // 1000), end)
    older = older[draw(older, 0, CLICKED) == 0]
    delay = draw(older, 1, LONGEST_DELAY - DISORDER) * draw(older, 2, 1000) // 1000
    read = older * 1000 // PER_SECOND + delay + DISORDER
    clicked, read = older[now := (begin <= read) & (read < until)], read[now]
    turn = np.argsort(read, kind="stable")
    clicked, read = clicked[turn], read[turn]
    shown_at = BEGIN + shown * 1000 // PER_SECOND - draw(shown, 3, DISORDER)
    return shown, shown_at, clicked, BEGIN + read - draw(clicked, 4, DISORDER)


def blocks_of_columns(events: int) -> Iterator[Block]:
    """Yield a log of ``events`` events (about) as a source does."""
    impressions = events * CLICKED // (CLICKED + 1)
    step = BLOCK * CLICKED // (CLICKED + 1)
    for first in range(0, impressions, step):
        shown, shown_at, clicked, clicked_at = window(first, min(first + step, impressions))
        n = shown.size
        columns = EventColumns.empty(SCHEMA, n + clicked.size)
        columns.ts[:n], columns.ts[n:] = shown_at, clicked_at
        columns.impression[:] = hash_integers(np.concatenate([shown, clicked]))
        columns.kind[n:] = FEEDBACK
        columns.action[n:] = 0
        columns.partition[:n] = 1
        columns.offset[:n], columns.offset[n:] = shown, clicked
        yield Block(columns, Position())


def messages(events: int, per_message: int) -> list[Messages]:
    """Return the same log as NDJSON: for every block the messages of feedback and impressions."""
    impressions = events * CLICKED // (CLICKED + 1)
    step = BLOCK * CLICKED // (CLICKED + 1)
    log = []
    for first in range(0, impressions, step):
        clicks, shows = lines_of(*window(first, min(first + step, impressions)))
        log.append(([*pack(clicks, per_message)], [*pack(shows, per_message)]))
    return log


def lines_of(
    shown: I64, shown_at: I64, clicked: I64, clicked_at: I64
) -> tuple[list[bytes], list[bytes]]:
    """Return the clicks and the impressions as lines of JSON."""
    clicks = [
        encode_event(
            {
                "impression_id": f"imp-{k}",
                "user_id": f"user-{k % 50_021}",
                "ts": ts,
                "action": "click",
            }
        )
        for k, ts in zip(clicked.tolist(), clicked_at.tolist(), strict=True)
    ]
    shows = [
        encode_event(
            {
                "impression_id": f"imp-{k}",
                "user_id": f"user-{k % 50_021}",
                "item_id": k % 7_919,
                "ts": ts,
                "scene": "front_page" if k % 3 else "article_page",
                "request_id": f"req-{k // 10}",
                "position": k % 10,
                "features": {"category": k % 23, "device": k % 3, "age_h": k % 480 / 10},
            }
        )
        for k, ts in zip(shown.tolist(), shown_at.tolist(), strict=True)
    ]
    return clicks, shows


class Pipeline:
    """Order and join, with the time that each takes."""

    def __init__(self) -> None:
        self.order = EventTimeOrder(OrderConfig(), SCHEMA, PARTITIONS)
        self.join = LabelJoin(JoinConfig(), Wait(), SCHEMA)
        self.seconds = {"decode": 0.0, "order": 0.0, "join": 0.0}
        self.events = 0
        self.settled = 0

    def feed(self, block: Block) -> None:
        """Let a block through."""
        self.events += len(block.events)
        begin = time.process_time()
        self._join(self.order.feed(block).events, begin)

    def finish(self) -> None:
        """Settle everything: the log has ended."""
        begin = time.process_time()
        self._join(self.order.finish().events, begin)
        begin = time.process_time()
        self.settled += len(self.join.drain().settled)
        self.seconds["join"] += time.process_time() - begin
        counts = self.join.counts()
        assert self.settled == counts["impressions"] == self.events - counts["matched"]

    def _join(self, events: EventColumns, begin: float) -> None:
        ordered = time.process_time()
        joined = self.join.feed(events)
        expired = self.join.advance(self.order.watermark)
        self.seconds["order"] += ordered - begin
        self.seconds["join"] += time.process_time() - ordered
        self.settled += len(joined.settled) + len(expired.settled)

    def us_per_event(self) -> float:
        """Return the cost so far of an event in order and join."""
        return 1e6 * (self.seconds["order"] + self.seconds["join"]) / self.events


def from_bytes(log: list[Messages]) -> Pipeline:
    """Let a log of messages through: decode, order, join."""
    pipeline, decoder, offset = Pipeline(), Decoder(SCHEMA), 0
    for parts in log:
        begin = time.process_time()
        decoded = []
        for p, values in enumerate(parts):
            offsets = np.arange(offset, offset + len(values))
            decoded.append(decoder.decode(values, offsets, p, PARTITIONS[p]).events)
        block = Block(EventColumns.concat(decoded), Position())
        pipeline.seconds["decode"] += time.process_time() - begin
        offset += max(map(len, parts))
        pipeline.feed(block)
    pipeline.finish()
    return pipeline


def cost_of_columns(events: int) -> float:
    """Return the microseconds of an event in order and join over a log of ``events`` events."""
    pipeline = Pipeline()
    for block in blocks_of_columns(events):
        pipeline.feed(block)
    pipeline.finish()
    return pipeline.us_per_event()


def main() -> None:
    """Run it; the last line is JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=300_000, help="of the log of messages")
    arguments.add_argument("--per-message", type=int, default=1, help="events a message")
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--short", action="store_true", help="no log of 10⁷ events")
    given = arguments.parse_args()
    pin()
    cost_of_columns(2 * BLOCK)  # compile

    log = messages(given.events, given.per_message)
    runs = [from_bytes(log) for _ in range(given.repeat)]
    runs.sort(key=lambda run: sum(run.seconds.values()))
    middle = runs[len(runs) // 2]
    us = {name: 1e6 * s / middle.events for name, s in middle.seconds.items()}
    print(f"{middle.events:,} events, {middle.settled:,} examples, {us}", file=sys.stderr)

    flatness = {}
    for events in (10**5, 10**6, 10**7)[: 2 if given.short else 3]:
        repeat = given.repeat if events < 10**7 else 1  # ten times the second, in itself
        flatness[events] = median(repeat, partial(cost_of_columns, events))
        print(f"{events:>12,} events: {flatness[events]:.3f} us an event", file=sys.stderr)
    report(
        "join",
        events_per_s=round(1e6 / sum(us.values())),
        us_per_event={name: rounded(value) for name, value in us.items()},
        flatness={str(n): rounded(value) for n, value in flatness.items()},
        per_message=given.per_message,
        repeat=given.repeat,
    )


if __name__ == "__main__":
    main()
