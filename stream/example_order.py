"""One order for the examples of all partitions: the one in which a trainer's own join has them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.delivered import Delivered
from stream.events import FEEDBACK, IMPRESSION, EventSchema
from stream.example_columns import ExampleColumns
from stream.held import HeldEvents
from stream.order import NEVER, OrderConfig, Ordered
from stream.position import Partition
from stream.source import Block
from stream.state import State

Rows = npt.NDArray[np.intp]


class ExampleOrder:
    """Merges partitions of examples by `at`, each example once, each click at its own time.

    Workers say with their examples up to when they are complete; the watermark is the least of
    that over the partitions that are neither ended nor idle. Nothing waits any longer: what a
    partition's examples waited for, they waited for in the worker. Memory: the examples by which
    partitions are apart and the clicks of a window, at most ``max_held`` of both (past it the
    earliest go before their turn, counted), and `Delivered` for each partition.
    """

    late = 0  # workers place what is late
    jumps = 0  # and refuse absurd times

    def __init__(
        self, config: OrderConfig, schema: EventSchema, partitions: tuple[Partition, ...]
    ) -> None:
        n = len(partitions)
        self._max_held = config.max_held
        self._none = ExampleColumns.empty(schema)
        self._held = _HeldExamples(self._none, n)
        self._delivered = [Delivered() for _ in partitions]
        self._complete = np.full(n, NEVER, np.int64)  # nothing before it is to come
        self._idle = np.zeros(n, np.bool_)
        self._ended = np.zeros(n, np.bool_)
        self.watermark = NEVER  # every example and click before it has been let go
        self.redelivered = 0  # were here already: workers write again what they may not have
        self.after_idle = 0  # came below the watermark: their partition was idle, or others hurried
        self.hurried = 0  # let go before their turn, for want of room

    @property
    def held(self) -> int:
        """How many examples and clicks wait for their turn."""
        return len(self._held)

    def feed(self, block: Block) -> Ordered:
        """Take the next examples of the source and return those whose turn has come."""
        events = block.events
        came = np.zeros(len(self._complete), np.bool_)
        came[events.partition] = True
        self._idle = _mask(block.idle, came.size)
        self._ended = (self._ended & ~came) | _mask(block.ended, came.size)
        if len(events):
            assert isinstance(events, ExampleColumns), "its source reads examples"
            self._hold(events)
        for p, progress in block.progress.items():
            self._delivered[p].advance(progress)
            if progress.complete_to is not None:
                self._complete[p] = max(int(self._complete[p]), progress.complete_to)
        return self._let_go()

    def tick(self, elapsed_ms: int) -> Ordered:
        """Let silence pass: time is what the workers say it is."""
        del elapsed_ms
        return Ordered(self._none)

    def finish(self) -> Ordered:
        """Return every example that is left: there will be no more."""
        self._ended[:] = True
        return self._let_go()

    def _hold(self, examples: ExampleColumns) -> None:
        fresh = np.zeros(len(examples), np.bool_)
        for p in np.unique(examples.partition).tolist():
            here = np.flatnonzero(examples.partition == p)
            some = examples.take(here)
            fresh[here] = self._delivered[p].fresh(
                some.origin_partition, some.origin_offset, some.origin_row
            )
        if not fresh.all():
            self.redelivered += int((~fresh).sum())
            examples = examples.take(fresh)
        behind = int((examples.at < self.watermark).sum())
        events = examples.with_clicks()
        if behind:
            self.after_idle += behind
            events = events.with_at(np.maximum(events.at, self.watermark))
        self._held.add(events)

    def _let_go(self) -> Ordered:
        active = ~self._ended & ~self._idle
        if active.any():
            watermark = int(self._complete[active].min())
        elif not self._ended.all():
            watermark = int(self._complete[~self._ended].max())
        else:
            watermark = self._held.last_shown() + 1  # later clicks wait for the log to go on
        self.watermark = max(self.watermark, watermark)
        ready = self._held.release(self.watermark)
        if (excess := len(self._held) - self._max_held) > 0:
            self.watermark = self._held.at_of(excess) + 1
            hurried = self._held.release(self.watermark)
            self.hurried += len(hurried)
            ready = ExampleColumns.concat([ready, hurried])
        return Ordered(ready)

    def state(self) -> State:
        """Return a copy of everything, held examples included."""
        return {
            "held": {k: v.copy() for k, v in self._held.events().columns().items()},
            "delivered": {str(p): d.state() for p, d in enumerate(self._delivered)},
            "complete": self._complete.copy(),
            "idle": self._idle.copy(),
            "ended": self._ended.copy(),
            "watermark": self.watermark,
            "redelivered": self.redelivered,
            "after_idle": self.after_idle,
            "hurried": self.hurried,
        }

    def restore(
        self, state: Mapping[str, Any], places: npt.NDArray[np.int16] | None = None
    ) -> None:
        """Continue exactly where ``state`` was taken.

        Where there are more partitions now, ``places`` is where among them each of those is that
        there were then, and the examples of ``state`` name them so.
        """
        n = len(self._complete)
        here = np.arange(n) if places is None else places
        self._held = _HeldExamples(self._none, n)
        self._held.add(ExampleColumns(**{k: v.copy() for k, v in state["held"].items()}))
        self._delivered = [Delivered() for _ in range(n)]
        for before, p in enumerate(here.tolist()):
            self._delivered[p].restore(state["delivered"][str(before)])
        self._complete = np.full(n, NEVER, np.int64)
        self._idle, self._ended = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self._complete[here] = state["complete"]
        self._idle[here] = state["idle"]
        self._ended[here] = state["ended"]
        self.watermark = int(state["watermark"])
        self.redelivered = int(state["redelivered"])
        self.after_idle = int(state["after_idle"])
        self.hurried = int(state["hurried"])

    def reopen(self) -> None:
        """Forget which partitions had ended: their logs are opened anew, and may have grown."""
        self._ended[:] = False


class _HeldExamples(HeldEvents[ExampleColumns]):
    """Lets examples and clicks go in the order that their events had in the workers' input."""

    def last_shown(self) -> int:
        """Return the greatest `at` of an example held, `NEVER` where there is none."""
        shown = [e.at[rows][e.kind[rows] == IMPRESSION] for e, rows in self._chunks]
        return max((int(at.max(initial=NEVER)) for at in shown), default=NEVER)

    def _turns(self, parts: list[tuple[ExampleColumns, Rows]]) -> Rows:
        def column(name: str) -> npt.NDArray[Any]:
            return np.concatenate([getattr(e, name)[rows] for e, rows in parts])

        at, kind = column("at"), column("kind")
        first = np.arange(at.size)  # examples of a partition come in order; their clicks do not
        clicks = np.flatnonzero(kind == FEEDBACK)
        place = (column("origin_row")[clicks], column("origin_offset")[clicks])
        first[clicks] = clicks[np.lexsort(place)]
        # Topics before numbers, as partitions of impressions and feedback are sorted.
        topic = column("origin_partition").astype(np.int64)
        topics = int(topic.max(initial=0)) + 1
        lane = (kind * topics + topic) * self._partitions + column("partition")
        if 2 * topics * self._partitions < 1 << 16:
            lane = lane.astype(np.uint16)  # 16 bits sort by radix
        by_lane = first[np.argsort(lane[first], kind="stable")]
        return by_lane[np.argsort(at[by_lane], kind="stable")]


def _mask(partitions: frozenset[int], n: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(n, np.bool_)
    mask[list(partitions)] = True
    return mask
